/* SPDX-License-Identifier: Apache-2.0 */
/* Finds agents and talks to them. */
#include "agent/client.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/lines.h"
#include "agent/paths.h"
#include "common/error.h"

#define ASK_TIMEOUT_MS 15000

struct gw_client {
    struct gw_lines lines;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

int gw_client_open(const char *socket_path, struct gw_client **out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct gw_client *client;
    int fd, error;

    if (strlen(socket_path) >= sizeof(address.sun_path))
        return gw_fail(-ENAMETOOLONG, "admin socket %s: more than %zu characters", socket_path,
                       sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, socket_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return gw_fail_errno(-errno, "admin socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        error = gw_fail_errno(-errno, "no agent answers on %s", socket_path);
        close(fd);
        return error;
    }
    client = calloc(1, sizeof(*client));
    if (!client || gw_lines_init(&client->lines, fd) != 0) {
        free(client);
        close(fd);
        return gw_fail(-ENOMEM, "out of memory");
    }
    strcpy(client->path, socket_path);
    *out = client;
    return 0;
}

void gw_client_close(struct gw_client *client)
{
    if (!client)
        return;
    close(client->lines.fd);
    gw_lines_free(&client->lines);
    free(client);
}

/* The listening process's namespace tells whether its network is ours. */
static bool is_foreign(const struct gw_client *client)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    ino_t theirs;

    if (getsockopt(client->lines.fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0)
        return true;
    theirs = gw_network_namespace(peer.pid);
    return !theirs || theirs != gw_network_namespace(getpid());
}

bool gw_client_is_foreign(const char *socket_path)
{
    struct gw_client *client;
    bool answer;

    if (gw_client_open(socket_path, &client) != 0)
        return false;
    answer = is_foreign(client);
    gw_client_close(client);
    return answer;
}

static int open_chosen(const char *path, bool needs_network, struct gw_client **out)
{
    struct gw_client *client;
    int error = gw_client_open(path, &client);

    if (error)
        return error;
    if (needs_network && is_foreign(client)) {
        gw_client_close(client);
        return gw_fail(
            -EXDEV, "the agent on %s is in another network namespace: run the command there", path);
    }
    *out = client;
    return 0;
}

int gw_client_find(const char *chosen_path, bool needs_network, struct gw_client **out)
{
    const char *environment = getenv("GODWIT_SOCKET");
    char path[PATH_MAX];

    if (!chosen_path && environment && *environment)
        chosen_path = environment;
    if (chosen_path)
        return open_chosen(chosen_path, needs_network, out);
    for (unsigned which = 0; which < 2; which++) {
        struct gw_client *client;
        int error = gw_path_socket(which, path, sizeof(path));

        if (!error)
            error = gw_client_open(path, &client);
        if (error == -EACCES)
            return error;
        if (error)
            continue;
        if (!is_foreign(client)) {
            *out = client;
            return 0;
        }
        gw_client_close(client);
    }
    gw_path_socket(0, path, sizeof(path));
    return gw_fail(-ENOENT, "no agent of this host answers on %s: start one with godwit agent",
                   path);
}

const char *gw_client_path(const struct gw_client *client)
{
    return client->path;
}

int gw_client_fd(const struct gw_client *client)
{
    return client->lines.fd;
}

bool gw_client_has_line(const struct gw_client *client)
{
    const struct gw_lines *lines = &client->lines;

    return memchr(lines->buffer + lines->start, '\n', lines->filled - lines->start) != NULL;
}

int gw_client_send(struct gw_client *client, const json_t *request)
{
    return gw_lines_write(client->lines.fd, request, ASK_TIMEOUT_MS);
}

int gw_client_receive(struct gw_client *client, int timeout_ms, json_t **out)
{
    return gw_lines_read(&client->lines, timeout_ms, out);
}

int gw_client_ask(struct gw_client *client, const json_t *request, json_t **out)
{
    /* An agent that refuses the whole connection says why before it closes it: read that in any
     * case. */
    int error = gw_client_send(client, request);
    int answer = gw_client_receive(client, ASK_TIMEOUT_MS, out);

    return answer == 0 ? 0 : error ? error : answer;
}

static int visit(const char *home, const char *name,
                 int (*each)(struct gw_client *client, void *context), void *context)
{
    char folder[PATH_MAX], path[PATH_MAX];
    struct gw_client *client;
    int answer = 0;

    if (gw_path_join(home, name, folder, sizeof(folder)) != 0 ||
        gw_path_join(folder, GW_SOCKET_NAME, path, sizeof(path)) != 0 ||
        gw_client_open(path, &client) != 0)
        return 0;
    if (!is_foreign(client))
        answer = each(client, context);
    gw_client_close(client);
    return answer;
}

int gw_client_each_private(int (*each)(struct gw_client *client, void *context), void *context)
{
    char home[PATH_MAX];
    struct dirent *entry;
    int answer = gw_path_state_home(home, sizeof(home));
    DIR *folder;

    if (answer)
        return answer;
    folder = opendir(home);
    if (!folder)
        return errno == ENOENT ? 0 : gw_fail_errno(-errno, "folder %s", home);
    while (!answer && (entry = readdir(folder)))
        if (strncmp(entry->d_name, GW_PRIVATE_PREFIX, strlen(GW_PRIVATE_PREFIX)) == 0)
            answer = visit(home, entry->d_name, each, context);
    closedir(folder);
    return answer;
}
