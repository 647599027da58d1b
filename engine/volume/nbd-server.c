/* SPDX-License-Identifier: Apache-2.0 */
/* Starts, follows and ends qemu-img and qemu-nbd. */
#include "engine/volume/nbd-server.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"

#define START_TIMEOUT_MS 15000
#define NOT_STARTED      127 /* exit status, as a shell's */

/* In the child: only calls that are safe after a fork of a process with threads. */
static void become(const char *const *words, int null_fd, int log_fd, pid_t parent)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != parent)
        _exit(126);
    if (dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
        _exit(126);
    syscall(SYS_close_range, 3u, ~0u, 0u);
    execvp(words[0], (char *const *)words);
    dprintf(2, "%s\n", errno == ENOENT ? "it is not installed (package qemu-utils)" : "exec");
    _exit(NOT_STARTED);
}

static void close_child(struct gw_tool *child)
{
    close(child->pid_fd);
    close(child->log_fd);
    *child = (struct gw_tool){.pid = -1, .pid_fd = -1, .log_fd = -1};
}

static int start_child(const char *const *words, struct gw_tool *out)
{
    struct gw_tool child = {.pid = -1, .pid_fd = -1};
    pid_t parent = getpid();
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), error = 0;

    child.log_fd = memfd_create("godwit-log", MFD_CLOEXEC);
    if (null_fd < 0 || child.log_fd < 0)
        error = gw_fail_errno(-errno, "starting %s", words[0]);
    if (!error) {
        child.pid = fork();
        if (child.pid == 0)
            become(words, null_fd, child.log_fd, parent);
        if (child.pid > 0)
            child.pid_fd = pidfd_open(child.pid, 0);
        if (child.pid < 0 || child.pid_fd < 0)
            error = gw_fail_errno(-errno, "starting %s", words[0]);
    }
    if (null_fd >= 0)
        close(null_fd);
    if (error) {
        if (child.pid > 0) {
            kill(child.pid, SIGKILL);
            waitpid(child.pid, NULL, 0);
        }
        if (child.log_fd >= 0)
            close(child.log_fd);
        return error;
    }
    *out = child;
    return 0;
}

/* The last line that the tool wrote. */
static void last_line(const struct gw_tool *child, char *out, size_t size)
{
    char text[1024];
    off_t end = lseek(child->log_fd, 0, SEEK_END);
    off_t from = end > (off_t)sizeof(text) - 1 ? end - (off_t)sizeof(text) + 1 : 0;
    ssize_t length = pread(child->log_fd, text, sizeof(text) - 1, from);
    const char *line;

    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r'))
        length--;
    text[gw_max(length, 0)] = '\0';
    line = strrchr(text, '\n');
    snprintf(out, size, "%.299s", length <= 0 ? "it says nothing" : line ? line + 1 : text);
}

/* Waits for its end and reaps it. status: exit code, or 128 + signal. */
static int wait_child(struct gw_tool *child, struct gw_nbd_wait *wait, int *status)
{
    struct pollfd process = {.fd = child->pid_fd, .events = POLLIN};
    int raw = 0;

    while (poll(&process, 1, GW_NBD_WAIT_MS) <= 0) {
        int error = gw_nbd_wait_on(wait);

        if (error)
            return error;
    }
    if (waitpid(child->pid, &raw, 0) < 0)
        return gw_fail_errno(-errno, "%s: waiting for %s", wait->name, wait->what);
    child->pid = -1;
    *status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
    return 0;
}

static void kill_child(struct gw_tool *child)
{
    if (child->pid > 0) {
        kill(child->pid, SIGKILL); /* not reaped yet: the number is still its own */
        waitpid(child->pid, NULL, 0);
    }
    if (child->pid_fd >= 0)
        close_child(child);
}

int gw_tool_run(const char *const *words, struct gw_nbd_wait *wait, int *status)
{
    struct gw_tool child;
    char line[300];
    int error = start_child(words, &child);

    if (error)
        return error;
    error = wait_child(&child, wait, status);
    if (!error) {
        last_line(&child, line, sizeof(line));
        if (*status == NOT_STARTED)
            error = gw_fail(-ENOENT, "%s: %s", words[0], line);
        else if (*status != 0) /* the caller's, who knows what the status means */
            gw_fail(-EIO, "%s %s: %s", words[0], words[1], line);
    }
    kill_child(&child);
    return error;
}

/* ---- qemu-nbd ---- */

static bool can_be_direct(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* What qemu-nbd's own options do not say: that an image may be in use, and that nothing lies beneath it,
 * whatever it says itself by the time that it is opened. */
static char *describe(const struct gw_nbd_server_options *options)
{
    json_t *node = json_pack("{s:s, s:b, s:n, s:{s:s, s:s}}", "driver", options->format,
                             "force-share", (int)options->is_shared, "backing", "file", "driver",
                             "file", "filename", options->path);
    char *text = node ? json_dumps(node, JSON_COMPACT) : NULL, *out = NULL;

    json_decref(node);
    if (text && asprintf(&out, "json:%s", text) < 0)
        out = NULL;
    free(text);
    return out;
}

static int launch(const struct gw_nbd_server_options *options, const char *socket,
                  struct gw_tool *child)
{
    char socket_option[128], shared[16];
    char *node = describe(options);
    const char *words[10];
    unsigned count = 0;
    int error;

    if (!node)
        return gw_fail(-ENOMEM, "%s: no memory for qemu-nbd", options->name);
    snprintf(socket_option, sizeof(socket_option), "--socket=%s", socket);
    snprintf(shared, sizeof(shared), "--shared=%u", GW_NBD_CONNECTIONS);
    words[count++] = "qemu-nbd";
    words[count++] = socket_option;
    words[count++] = shared;
    words[count++] = "--discard=unmap";
    words[count++] = can_be_direct(options->path) ? "--cache=none" : "--cache=writeback";
    if (options->is_read_only)
        words[count++] = "--read-only";
    words[count++] = "--";
    words[count++] = node;
    words[count] = NULL;
    error = start_child(words, child);
    free(node);
    return error;
}

/* What failed is the server's word where it gave one: "permission denied" says more than a refused
 * connection. */
static int explain(const struct gw_nbd_server_options *options, const struct gw_tool *child,
                   int error)
{
    char line[300];

    if (child->pid_fd < 0 || lseek(child->log_fd, 0, SEEK_END) <= 0)
        return error;
    last_line(child, line, sizeof(line));
    return gw_fail(error, "%s: qemu-nbd does not serve %s: %s", options->name, options->path, line);
}

int gw_nbd_server_start(const struct gw_nbd_server_options *options, struct gw_nbd_server *out)
{
    struct gw_nbd_server server = {.tool = {.pid = -1, .pid_fd = -1, .log_fd = -1}};
    char folder[] = "/tmp/godwit-nbd-XXXXXX", socket[64];
    struct gw_nbd_client_options client = {
        .name = options->name,
        .socket = socket,
        .export = "",
        .has_allocation = true,
        .start_ms = START_TIMEOUT_MS,
    };
    int error;

    if (!mkdtemp(folder))
        return gw_fail_errno(-errno, "%s: no folder for a socket", options->name);
    snprintf(socket, sizeof(socket), "%s/nbd", folder);
    error = launch(options, socket, &server.tool);
    client.pid_fd = server.tool.pid_fd;
    if (!error)
        error = gw_nbd_client_open(&client, &server.client);
    /* Every connection is made: the name has served, and nobody has to clean up after a crash. */
    unlink(socket);
    rmdir(folder);
    if (error) {
        error = explain(options, &server.tool, error);
        kill_child(&server.tool);
        return error;
    }
    *out = server;
    return 0;
}

int gw_nbd_server_finish(struct gw_nbd_server *server, struct gw_nbd_wait *wait)
{
    char line[300];
    int status, error;

    wait->what = "qemu-nbd to close the image";
    gw_nbd_client_close(server->client);
    server->client = NULL;
    error = wait_child(&server->tool, wait, &status);
    if (!error && status != 0) {
        last_line(&server->tool, line, sizeof(line));
        error = gw_fail(-EIO, "%s: qemu-nbd ended with status %d: %s", wait->name, status, line);
    }
    gw_nbd_server_kill(server);
    return error;
}

void gw_nbd_server_kill(struct gw_nbd_server *server)
{
    gw_nbd_client_close(server->client);
    server->client = NULL;
    kill_child(&server->tool);
}
