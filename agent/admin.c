/* SPDX-License-Identifier: Apache-2.0 */
/* The admin socket: who may connect, and the threads. What is answered is in admin-requests.c. */
#include "agent/admin.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/admin-requests.h"
#include "agent/client.h"
#include "agent/lines.h"
#include "agent/paths.h"
#include "common/log.h"

struct connection {
    struct gw_admin *admin;
    struct connection *next;
    int fd;
};

struct gw_admin {
    struct gw_admin_options options;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int fd, stop_fd;
    pthread_t thread;
    pthread_mutex_t lock; /* protects first and connection_count; leaf */
    pthread_cond_t changed;
    struct connection *first;
    unsigned connection_count;
};

static void answer_error(int fd, int code, const char *text)
{
    json_t *answer = json_pack("{s:b, s:s, s:i}", "ok", 0, "error", text, "exit_code", code);

    gw_lines_write(fd, answer, GW_ADMIN_WRITE_MS);
    json_decref(answer);
}

static bool may_ask(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

static void remove_connection(struct connection *connection)
{
    struct gw_admin *admin = connection->admin;

    pthread_mutex_lock(&admin->lock);
    for (struct connection **link = &admin->first; *link; link = &(*link)->next)
        if (*link == connection) {
            *link = connection->next;
            break;
        }
    admin->connection_count--;
    close(connection->fd);
    pthread_cond_broadcast(&admin->changed);
    pthread_mutex_unlock(&admin->lock);
    free(connection);
}

static void *connection_thread(void *argument)
{
    struct connection *connection = argument;
    struct gw_admin *admin = connection->admin;
    struct gw_lines lines;
    json_t *request;
    int error = gw_lines_init(&lines, connection->fd);

    while (!error) {
        error = gw_lines_read(&lines, GW_ADMIN_IDLE_MS, &request);
        if (error == -EBADMSG || error == -EMSGSIZE)
            answer_error(connection->fd, GW_EXIT_USAGE, gw_error_message());
        if (error)
            break;
        error = gw_admin_answer(&admin->options, connection->fd, request);
        json_decref(request);
    }
    gw_lines_free(&lines);
    remove_connection(connection);
    return NULL;
}

static bool add_connection(struct gw_admin *admin, struct connection *connection)
{
    bool has_room;

    pthread_mutex_lock(&admin->lock);
    has_room = admin->connection_count < GW_ADMIN_CONNECTIONS_MAX;
    if (has_room) {
        connection->next = admin->first;
        admin->first = connection;
        admin->connection_count++;
    }
    pthread_mutex_unlock(&admin->lock);
    return has_room;
}

static void begin_connection(struct gw_admin *admin, int fd)
{
    struct connection *connection;
    pthread_attr_t attributes;
    pthread_t thread;
    int error;

    if (!may_ask(fd)) {
        answer_error(fd, GW_EXIT_FAILED, "only root and the agent's own user may ask");
        close(fd);
        return;
    }
    connection = calloc(1, sizeof(*connection));
    if (connection)
        *connection = (struct connection){.admin = admin, .fd = fd};
    if (!connection || !add_connection(admin, connection)) {
        answer_error(fd, GW_EXIT_FAILED, "too many commands are connected");
        free(connection);
        close(fd);
        return;
    }
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attributes, connection_thread, connection);
    pthread_attr_destroy(&attributes);
    if (error)
        remove_connection(connection);
}

static void *accept_thread(void *argument)
{
    struct gw_admin *admin = argument;
    struct pollfd items[2] = {
        {.fd = admin->fd, .events = POLLIN},
        {.fd = admin->stop_fd, .events = POLLIN},
    };

    for (;;) {
        int fd;

        if (poll(items, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (items[1].revents)
            return NULL;
        fd = accept4(admin->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            begin_connection(admin, fd);
        else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            nanosleep(&(struct timespec){.tv_nsec = 100000000l}, NULL); /* no descriptors left */
    }
}

/* Makes the folder of the socket. One that exists is left as it is. */
static int make_parent(const char *path)
{
    char folder[PATH_MAX];
    char *slash;

    snprintf(folder, sizeof(folder), "%s", path);
    slash = strrchr(folder, '/');
    if (!slash || slash == folder)
        return 0;
    *slash = '\0';
    return gw_path_make_folder(folder);
}

/* -EADDRINUSE when someone answers on the path; a socket that nobody answers on is removed. */
static int clear_stale(const char *path)
{
    struct gw_client *client;
    struct stat status;
    int error;

    if (lstat(path, &status) != 0)
        return errno == ENOENT ? 0 : gw_fail_errno(-errno, "admin socket %s", path);
    if (!S_ISSOCK(status.st_mode))
        return gw_fail(-EEXIST, "admin socket %s: something that is no socket has that name", path);
    error = gw_client_open(path, &client);
    if (!error) {
        gw_client_close(client);
        return gw_fail(-EADDRINUSE, "another agent answers on %s: stop it, or give --socket PATH",
                       path);
    }
    if (error != -ECONNREFUSED && error != -ENOENT)
        return error;
    if (unlink(path) != 0 && errno != ENOENT)
        return gw_fail_errno(-errno, "admin socket %s", path);
    return 0;
}

/* Two agents that start at once must not both find a stale socket and remove each other's new one.
 */
static int lock_path(const char *path, int *out)
{
    char name[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];
    int fd;

    snprintf(name, sizeof(name), "%s.lock", path);
    fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return gw_fail_errno(-errno, "admin socket %s", name);
    if (flock(fd, LOCK_EX) != 0) {
        close(fd);
        return gw_fail_errno(-errno, "admin socket %s", name);
    }
    *out = fd;
    return 0;
}

static int bind_socket(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strcpy(address.sun_path, path);
    /* The mode that the socket's file will have: unix(7) applies it at bind. */
    if (fchmod(fd, 0600) != 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(fd, (int)GW_ADMIN_CONNECTIONS_MAX) != 0)
        return gw_fail_errno(-errno, "admin socket %s", path);
    return 0;
}

static int open_socket(struct gw_admin *admin, const char *path)
{
    int lock, error;

    if (strlen(path) >= sizeof(admin->path))
        return gw_fail(-ENAMETOOLONG, "admin socket %s: more than %zu characters", path,
                       sizeof(admin->path) - 1);
    error = make_parent(path);
    if (!error)
        error = lock_path(path, &lock);
    if (error)
        return error;
    error = clear_stale(path);
    if (!error) {
        admin->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        error =
            admin->fd < 0 ? gw_fail_errno(-errno, "admin socket") : bind_socket(admin->fd, path);
    }
    if (!error)
        strcpy(admin->path, path);
    else if (admin->fd >= 0)
        close(admin->fd);
    close(lock);
    return error;
}

/* The usual place, or the second one when an agent of another network namespace has the first. */
static int open_usual(struct gw_admin *admin)
{
    char path[PATH_MAX];
    int error = gw_path_socket(0, path, sizeof(path));

    if (error)
        return error;
    error = open_socket(admin, path);
    if (error != -EADDRINUSE || !gw_client_is_foreign(path))
        return error;
    error = gw_path_socket(1, path, sizeof(path));
    return error ? error : open_socket(admin, path);
}

int gw_admin_start(const struct gw_admin_options *options, struct gw_admin **out)
{
    struct gw_admin *admin = calloc(1, sizeof(*admin));
    int error;

    if (!admin)
        return gw_fail(-ENOMEM, "out of memory");
    admin->options = *options;
    admin->fd = -1;
    pthread_mutex_init(&admin->lock, NULL);
    pthread_cond_init(&admin->changed, NULL);
    admin->stop_fd = eventfd(0, EFD_CLOEXEC);
    error = options->socket_path ? open_socket(admin, options->socket_path) : open_usual(admin);
    if (!error) {
        error = pthread_create(&admin->thread, NULL, accept_thread, admin);
        if (error) {
            error = gw_fail_errno(-error, "thread for the admin socket");
            unlink(admin->path);
            close(admin->fd);
        }
    }
    if (error) {
        close(admin->stop_fd);
        free(admin);
        return error;
    }
    *out = admin;
    return 0;
}

const char *gw_admin_path(const struct gw_admin *admin)
{
    return admin->path;
}

unsigned gw_admin_connections(struct gw_admin *admin)
{
    unsigned count;

    pthread_mutex_lock(&admin->lock);
    count = admin->connection_count;
    pthread_mutex_unlock(&admin->lock);
    return count;
}

void gw_admin_stop(struct gw_admin *admin)
{
    uint64_t one = 1;

    if (!admin)
        return;
    if (write(admin->stop_fd, &one, sizeof(one)) != sizeof(one))
        gw_log(GW_LOG_ERROR, "admin socket: cannot wake its thread");
    pthread_join(admin->thread, NULL);
    unlink(admin->path);
    close(admin->fd);
    close(admin->stop_fd);
    pthread_mutex_lock(&admin->lock);
    for (struct connection *connection = admin->first; connection; connection = connection->next)
        shutdown(connection->fd, SHUT_RDWR);
    while (admin->first)
        pthread_cond_wait(&admin->changed, &admin->lock);
    pthread_mutex_unlock(&admin->lock);
    pthread_cond_destroy(&admin->changed);
    pthread_mutex_destroy(&admin->lock);
    free(admin);
}
