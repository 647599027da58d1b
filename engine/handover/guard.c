/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's side of the guard: starts the process and speaks to it, one JSON packet and one
 * answer at a time. What the guard does with it is in guard-main.c.
 */
#include "engine/handover/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

#define START_TIMEOUT_MS   30000 /* a process has to start; nobody stands still for it */
#define TIMEOUT_MS_DEFAULT 5000
#define UNDO_TIMEOUT_MS    60000
#define END_TIMEOUT_MS     1000
#define POLL_INTERVAL_MS   10
#define LOG_LINES_MAX      200u

extern char **environ;

struct gw_guard {
    int fd;
    int timeout_ms;
    pid_t pid;
    bool is_lost;
};

static int lose(struct gw_guard *guard, int error, const char *what)
{
    guard->is_lost = true;
    return gw_fail(error, "guard: %s", what);
}

static int read_answer(struct gw_guard *guard, int timeout_ms, json_t **out)
{
    const uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    struct pollfd poller = {.fd = guard->fd, .events = POLLIN};
    char text[1024];
    ssize_t length;
    int ready;

    do
        ready = poll(&poller, 1, gw_clock_left_ms(deadline_ns));
    while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return lose(guard, -ETIMEDOUT, "does not answer");
    length = recv(guard->fd, text, sizeof(text), 0);
    if (length <= 0)
        return lose(guard, -EPIPE, "has ended");
    *out = json_loadb(text, (size_t)length, 0, NULL);
    if (*out == NULL)
        return lose(guard, -EPROTO, "answers nonsense");
    return 0;
}

/* message is taken over; *out, the answer, is the caller's on success. */
static int ask(struct gw_guard *guard, json_t *message, int timeout_ms, json_t **out)
{
    char *text = json_dumps(message, JSON_COMPACT);
    json_t *answer = NULL;
    const char *cause;
    int error;

    json_decref(message);
    if (text == NULL)
        return gw_fail(-ENOMEM, "guard: out of memory");
    if (guard->is_lost)
        error = gw_fail(-EPIPE, "guard: is lost");
    else if (strlen(text) > GW_GUARD_MESSAGE_MAX)
        error = gw_fail(-EMSGSIZE, "guard: an undo is longer than %u bytes", GW_GUARD_MESSAGE_MAX);
    else if (send(guard->fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        error = lose(guard, -EPIPE, "has ended");
    else
        error = read_answer(guard, timeout_ms, &answer);
    free(text);
    if (error != 0)
        return error;
    cause = json_string_value(json_object_get(answer, "error"));
    if (cause != NULL)
        error = gw_fail(-EREMOTEIO, "guard: %s", cause);
    if (error != 0)
        json_decref(answer);
    else
        *out = answer;
    return error;
}

static int tell(struct gw_guard *guard, json_t *message, int timeout_ms)
{
    json_t *answer = NULL;
    const int error = ask(guard, message, timeout_ms, &answer);

    json_decref(answer);
    return error;
}

static int spawn(const struct gw_guard_options *options, int fd, pid_t *pid)
{
    const char *program = options->program != NULL ? options->program : "/proc/self/exe";
    const char *subcommand = options->subcommand != NULL ? options->subcommand : "guard";
    char *const arguments[] = {(char *)"godwit", (char *)subcommand, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    int error;

    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    error = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
    if (error == 0)
        error = posix_spawnattr_setsigmask(&attributes, &none);
    if (error == 0)
        error = posix_spawn_file_actions_adddup2(&actions, fd, GW_GUARD_FD);
    /* No copy of any other descriptor: the agent's end of the socket must close with the agent. */
    if (error == 0)
        error = posix_spawn_file_actions_addclosefrom_np(&actions, GW_GUARD_FD + 1);
    if (error == 0)
        error = posix_spawn(pid, program, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error == 0 ? 0 : gw_fail_errno(-error, "guard: cannot start %s", program);
}

int gw_guard_start(const struct gw_guard_options *options, struct gw_guard **out)
{
    struct gw_guard *guard = calloc(1, sizeof(*guard));
    int pair[2], error;

    if (guard == NULL)
        return gw_fail(-ENOMEM, "guard: out of memory");
    guard->fd = -1;
    guard->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : TIMEOUT_MS_DEFAULT;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        error = gw_fail_errno(-errno, "guard: cannot make its socket");
        goto err;
    }
    guard->fd = pair[0];
    error = spawn(options, pair[1], &guard->pid);
    close(pair[1]);
    if (error != 0)
        goto err;
    error = tell(guard,
                 json_pack("{s:s, s:s, s:I, s:b, s:s}", "message", "arm", "qmp", options->qmp_path,
                           "pid", (json_int_t)options->vmm_pid, "is_guest_paused",
                           (int)options->is_guest_paused, "log", options->log_path),
                 START_TIMEOUT_MS);
    if (error != 0)
        goto err;
    *out = guard;
    return 0;
err:
    gw_guard_stop(guard);
    return error;
}

void gw_guard_stop(struct gw_guard *guard)
{
    const struct timespec interval = {.tv_nsec = POLL_INTERVAL_MS * 1000000L};
    char message[512];

    if (guard == NULL)
        return;
    if (guard->pid > 0) {
        /* The caller's message is the one to keep. */
        strncpy(message, gw_error_message(), sizeof(message) - 1);
        message[sizeof(message) - 1] = '\0';
        if (!guard->is_lost)
            tell(guard, json_pack("{s:s}", "message", "end"), guard->timeout_ms);
        for (int waited_ms = 0; waitpid(guard->pid, NULL, WNOHANG) == 0;
             waited_ms += POLL_INTERVAL_MS) {
            if (waited_ms >= END_TIMEOUT_MS)
                kill(guard->pid, SIGKILL);
            nanosleep(&interval, NULL);
        }
        gw_fail(0, "%s", message);
    }
    if (guard->fd >= 0)
        close(guard->fd);
    free(guard);
}

int gw_guard_fd(const struct gw_guard *guard)
{
    return guard->fd;
}

pid_t gw_guard_pid(const struct gw_guard *guard)
{
    return guard->pid;
}

int gw_guard_stopped(struct gw_guard *guard)
{
    return tell(guard, json_pack("{s:s}", "message", "stopped"), guard->timeout_ms);
}

int gw_guard_committing(struct gw_guard *guard)
{
    return tell(guard, json_pack("{s:s}", "message", "committing"), guard->timeout_ms);
}

int gw_guard_resumed(struct gw_guard *guard)
{
    return tell(guard, json_pack("{s:s}", "message", "resumed"), guard->timeout_ms);
}

int gw_guard_owner(struct gw_guard *guard, bool is_guest_paused)
{
    return tell(
        guard, json_pack("{s:s, s:b}", "message", "owner", "is_guest_paused", (int)is_guest_paused),
        guard->timeout_ms);
}

int gw_guard_announce(struct gw_guard *guard, const json_t *undo, unsigned *step)
{
    json_t *answer = NULL, *copy = json_deep_copy(undo);
    char *text;
    int error = 0;

    if (copy == NULL)
        return gw_fail(-ENOMEM, "guard: out of memory");
    text = json_dumps(copy, JSON_COMPACT);
    if (text == NULL || strlen(text) + 64 > GW_GUARD_MESSAGE_MAX)
        error = gw_fail(-EMSGSIZE, "guard: an undo is longer than %u bytes", GW_GUARD_MESSAGE_MAX);
    free(text);
    if (error != 0) {
        json_decref(copy);
        return error;
    }
    error = ask(guard, json_pack("{s:s, s:o}", "message", "step", "undo", copy), guard->timeout_ms,
                &answer);
    if (error != 0)
        return error;
    *step = (unsigned)json_integer_value(json_object_get(answer, "step"));
    json_decref(answer);
    return 0;
}

int gw_guard_done(struct gw_guard *guard, unsigned step)
{
    return tell(guard, json_pack("{s:s, s:i}", "message", "done", "step", (int)step),
                guard->timeout_ms);
}

int gw_guard_undo(struct gw_guard *guard)
{
    return tell(guard, json_pack("{s:s}", "message", "undo"), UNDO_TIMEOUT_MS);
}

/* Locked by the caller: no guard acts on it any more. *fd is -1 when there is none. */
static int lock_log(const char *log_path, int timeout_ms, int *fd)
{
    const struct timespec interval = {.tv_nsec = POLL_INTERVAL_MS * 1000000L};
    const uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    int error = 0;

    *fd = open(log_path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return errno == ENOENT ? 0 : gw_fail_errno(-errno, "guard: cannot open %s", log_path);
    while (!error && flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            error = gw_fail_errno(-errno, "guard: cannot lock %s", log_path);
        else if (gw_clock_ns() >= deadline_ns)
            error =
                gw_fail(-ETIMEDOUT, "guard: an earlier guard is still at work, see %s", log_path);
        else
            nanosleep(&interval, NULL);
    }
    if (error)
        close(*fd);
    return error;
}

/* Into this process's log; then its own goes. */
static int take_log(const char *log_path)
{
    FILE *log = fopen(log_path, "re");
    char line[512];

    if (log == NULL)
        return errno == ENOENT ? 0 : gw_fail_errno(-errno, "guard: cannot open %s", log_path);
    for (unsigned i = 0; i < LOG_LINES_MAX && fgets(line, sizeof(line), log) != NULL; i++) {
        line[strcspn(line, "\n")] = '\0';
        gw_log(GW_LOG_INFO, "%s", line);
    }
    fclose(log);
    return unlink(log_path) == 0 || errno == ENOENT
               ? 0
               : gw_fail_errno(-errno, "guard: cannot remove %s", log_path);
}

int gw_guard_take_over(const char *log_path, int timeout_ms)
{
    int fd, error = lock_log(log_path, timeout_ms, &fd);

    if (error != 0 || fd < 0)
        return error;
    error = take_log(log_path);
    close(fd);
    return error;
}

void gw_guard_close_log(const char *log_path)
{
    take_log(log_path);
}
