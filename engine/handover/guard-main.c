/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard process: keeps the undo steps, and takes them when the agent dies in the pause. It has
 * one thread and no state but its own; it reads no journal and decides nothing about the target.
 */
#include "engine/handover/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/handover/renames.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/migrate.h"
#include "engine/vmm/qemu/qmp.h"

#define CONNECT_TIMEOUT_MS                                                                         \
    10000u /* of one try: QEMU takes its next client once the last one has gone */
#define CONNECT_INTERVAL_MS 20
#define AGAIN_INTERVAL_MS   1000 /* between two tries: an agent that is back takes over meanwhile */

enum phase { UNARMED, ARMED, STOPPED, COMMITTING };

struct guard {
    int fd, log_fd;
    enum phase phase;
    pid_t vmm_pid;
    int vmm_fd; /* of that process; -1: any may answer, or it cannot be watched, or it is gone */
    bool is_vmm_gone;
    bool is_quiet; /* an undo that is tried again says nothing until it is done */
    bool is_guest_paused;
    char *qmp_path;
    json_t *steps[GW_GUARD_STEPS_MAX];
    unsigned step_count;
    bool is_ended;
};

__attribute__((format(printf, 2, 3))) static void note(struct guard *guard, const char *format, ...)
{
    char line[1024], when[32];
    const time_t now = time(NULL);
    struct tm broken_down;
    va_list args;
    int length;

    if (guard->is_quiet)
        return;
    gmtime_r(&now, &broken_down);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &broken_down);
    length = snprintf(line, sizeof(line), "%s guard %d: ", when, (int)getpid());
    va_start(args, format);
    vsnprintf(line + length, sizeof(line) - (size_t)length - 1, format, args);
    va_end(args);
    strcat(line, "\n");
    /* A log that is full must not keep the guest paused. */
    if (guard->log_fd >= 0 && write(guard->log_fd, line, strlen(line)) < 0)
        return;
}

/* A guest of a process that has ended waits for nobody. */
static bool has_vmm_ended(const struct guard *guard)
{
    struct pollfd end = {.fd = guard->vmm_fd, .events = POLLIN};

    return guard->is_vmm_gone || (guard->vmm_fd >= 0 && poll(&end, 1, 0) > 0);
}

/* The same QEMU as was armed, or NULL with the reason in the log. */
static struct gw_qmp *reach_vmm(struct guard *guard)
{
    const struct timespec interval = {.tv_nsec = CONNECT_INTERVAL_MS * 1000000L};
    const uint64_t deadline_ns = gw_clock_ns() + CONNECT_TIMEOUT_MS * GW_NS_PER_MS;
    struct gw_qmp *qmp = NULL;

    while (gw_qmp_open(guard->qmp_path, &qmp) != 0) {
        if ((guard->vmm_pid > 0 && has_vmm_ended(guard)) || gw_clock_ns() >= deadline_ns) {
            note(guard, "cannot reach QEMU: %s", gw_error_message());
            return NULL;
        }
        nanosleep(&interval, NULL);
    }
    if (guard->vmm_pid > 0 && gw_qmp_pid(qmp) != guard->vmm_pid) {
        note(guard, "QEMU %d has ended and %d listens in its place: left alone",
             (int)guard->vmm_pid, (int)gw_qmp_pid(qmp));
        gw_qmp_close(qmp);
        return NULL;
    }
    return qmp;
}

/* Right in every state in between; a disk that was never swapped is none to be swapped back. */
static bool undo_disks(struct guard *guard, struct gw_qmp *qmp, const json_t *commands)
{
    note(guard, "  the disks back on their images");
    if (gw_disk_undo_run(qmp, commands) == 0)
        return true;
    note(guard, "  %s", gw_error_message());
    return false;
}

static bool undo_rename(struct guard *guard, const json_t *pair)
{
    const char *from = json_string_value(json_object_get(pair, "from"));
    const char *to = json_string_value(json_object_get(pair, "to"));

    note(guard, "  %s back to %s", from, to);
    if (gw_rename_file(from, to) == 0)
        return true;
    note(guard, "  %s", gw_error_message());
    return false;
}

/* The steps, the last one first, and then `cont`. Names are put back in any case: before COMMITTED
 * the images are the source's. May be done again: each step is idempotent. */
static bool undo_all(struct guard *guard)
{
    struct gw_qmp *qmp = reach_vmm(guard);
    bool is_good = qmp != NULL;

    for (unsigned step = guard->step_count; step-- > 0;) {
        const json_t *undo = guard->steps[step], *pair = json_object_get(undo, "rename");

        note(guard, "undoing step %u", step);
        if (pair != NULL)
            is_good = undo_rename(guard, pair) && is_good;
        else
            is_good =
                qmp != NULL && undo_disks(guard, qmp, json_object_get(undo, "disks")) && is_good;
    }
    if (!is_good) {
        note(guard, "not everything could be undone: the guest is not continued");
    } else if (!guard->is_guest_paused && gw_vm_let_go(qmp) != 0) {
        note(guard, "%s", gw_error_message());
        is_good = false;
    }
    guard->is_quiet = guard->is_quiet && !is_good;
    if (is_good)
        note(guard, guard->is_guest_paused ? "the guest stays paused, as its owner had it"
                                           : "the guest goes on");
    gw_qmp_close(qmp);
    return is_good;
}

/* Lets an agent that is back have the log, and with it the undo. False when one has taken it. */
static bool offer_log(struct guard *guard)
{
    const struct timespec interval = {.tv_sec = AGAIN_INTERVAL_MS / 1000,
                                      .tv_nsec = AGAIN_INTERVAL_MS % 1000 * 1000000L};
    struct stat status;

    flock(guard->log_fd, LOCK_UN);
    nanosleep(&interval, NULL);
    return flock(guard->log_fd, LOCK_EX) == 0 && fstat(guard->log_fd, &status) == 0 &&
           status.st_nlink > 0;
}

/* The guest stands still until it is done: again as long as its QEMU lives and no agent is back. */
static bool undo_until_done(struct guard *guard)
{
    while (!undo_all(guard)) {
        if (guard->vmm_fd < 0 || has_vmm_ended(guard))
            return false;
        if (!guard->is_quiet)
            note(guard, "it is tried again until it is done or QEMU has ended");
        guard->is_quiet = true;
        if (!offer_log(guard))
            return false;
    }
    return true;
}

static void forget_steps(struct guard *guard)
{
    while (guard->step_count > 0)
        json_decref(guard->steps[--guard->step_count]);
}

static const char *arm(struct guard *guard, const json_t *message)
{
    const char *log_path = json_string_value(json_object_get(message, "log"));
    const char *qmp_path = json_string_value(json_object_get(message, "qmp"));

    if (guard->phase != UNARMED || qmp_path == NULL || log_path == NULL)
        return "armed twice, or with nothing";
    guard->log_fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (guard->log_fd < 0)
        return "cannot open its log";
    if (flock(guard->log_fd, LOCK_EX | LOCK_NB) != 0)
        return "another guard holds its log";
    guard->qmp_path = strdup(qmp_path);
    if (guard->qmp_path == NULL)
        return "out of memory";
    guard->vmm_pid = (pid_t)json_integer_value(json_object_get(message, "pid"));
    guard->vmm_fd = guard->vmm_pid > 0 ? pidfd_open(guard->vmm_pid, 0) : -1;
    guard->is_vmm_gone = guard->vmm_pid > 0 && guard->vmm_fd < 0 && errno == ESRCH;
    guard->is_guest_paused = json_is_true(json_object_get(message, "is_guest_paused"));
    guard->phase = ARMED;
    note(guard, "armed for QEMU %d at %s", (int)guard->vmm_pid, qmp_path);
    return NULL;
}

static bool is_undo(const json_t *undo)
{
    const json_t *pair = json_object_get(undo, "rename");

    if (pair != NULL)
        return json_is_string(json_object_get(pair, "from")) &&
               json_is_string(json_object_get(pair, "to"));
    return json_is_array(json_object_get(undo, "disks"));
}

static const char *add_step(struct guard *guard, const json_t *message)
{
    json_t *undo = json_object_get(message, "undo");

    if (guard->phase != STOPPED)
        return "a step outside of the pause";
    if (guard->step_count == GW_GUARD_STEPS_MAX)
        return "more steps than fit";
    if (!is_undo(undo))
        return "a step without an undo";
    guard->steps[guard->step_count++] = json_incref(undo);
    return NULL;
}

/* NULL when the message was understood, or what is wrong with it. */
static const char *take(struct guard *guard, const json_t *message, const char *name)
{
    if (strcmp(name, "arm") == 0)
        return arm(guard, message);
    if (strcmp(name, "end") == 0) {
        guard->is_ended = true;
        return NULL;
    }
    if (guard->phase == UNARMED)
        return "not armed";
    if (strcmp(name, "step") == 0)
        return add_step(guard, message);
    if (strcmp(name, "done") == 0) {
        note(guard, "step %d taken", (int)json_integer_value(json_object_get(message, "step")));
        return NULL;
    }
    if (strcmp(name, "stopped") == 0) {
        if (guard->phase == COMMITTING)
            return "stopped after committing";
        guard->phase = STOPPED;
    } else if (strcmp(name, "committing") == 0) {
        if (guard->phase != STOPPED)
            return "committing without stopped";
        guard->phase = COMMITTING;
    } else if (strcmp(name, "owner") == 0) {
        guard->is_guest_paused = json_is_true(json_object_get(message, "is_guest_paused"));
    } else if (strcmp(name, "resumed") == 0) {
        guard->phase = ARMED;
        forget_steps(guard);
    } else if (strcmp(name, "undo") == 0) {
        guard->is_ended = true;
        return guard->phase == COMMITTING ? "committing: nothing is undone"
               : undo_all(guard)          ? NULL
                                          : "not everything could be undone, see its log";
    } else {
        return "an unknown message";
    }
    note(guard, "%s", name);
    return NULL;
}

static void answer(struct guard *guard, const char *error, bool has_step)
{
    json_t *reply = error != NULL ? json_pack("{s:s}", "error", error)
                    : has_step    ? json_pack("{s:i}", "step", (int)guard->step_count - 1)
                                  : json_pack("{}");
    char *text = json_dumps(reply, JSON_COMPACT);

    /* An agent that died meanwhile is seen at the next receive. */
    if (text != NULL && send(guard->fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        note(guard, "the agent does not hear: %s", strerror(errno));
    free(text);
    json_decref(reply);
}

static void serve(struct guard *guard)
{
    char *text = malloc(GW_GUARD_MESSAGE_MAX + 1);
    const char *name, *error;
    json_t *message;
    ssize_t length;

    while (text != NULL && !guard->is_ended) {
        length = recv(guard->fd, text, GW_GUARD_MESSAGE_MAX, 0);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            break;
        message = json_loadb(text, (size_t)length, 0, NULL);
        name = json_string_value(json_object_get(message, "message"));
        error = name == NULL ? "nonsense" : take(guard, message, name);
        if (error != NULL)
            note(guard, "%s: %s", name != NULL ? name : "?", error);
        answer(guard, error, name != NULL && strcmp(name, "step") == 0);
        json_decref(message);
    }
    free(text);
}

static void stand_alone(void)
{
    const int deaf[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGQUIT};
    const int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (unsigned i = 0; i < sizeof(deaf) / sizeof(deaf[0]); i++)
        signal(deaf[i], SIG_IGN);
    /* The agent's terminal and pipes are not held open by its guard. */
    for (int fd = 0; nowhere >= 0 && fd <= 2; fd++)
        dup2(nowhere, fd);
    if (chdir("/") != 0)
        return;
}

int gw_guard_main(int fd)
{
    struct guard guard = {.fd = fd, .log_fd = -1, .vmm_fd = -1};
    bool is_good = true;

    stand_alone();
    serve(&guard);
    if (!guard.is_ended && guard.phase == STOPPED) {
        note(&guard, "the agent died in the pause");
        is_good = undo_until_done(&guard);
    } else if (!guard.is_ended && guard.phase == COMMITTING) {
        note(&guard, "the agent died while or after it committed: the journal decides");
    }
    forget_steps(&guard);
    free(guard.qmp_path);
    if (guard.vmm_fd >= 0)
        close(guard.vmm_fd);
    if (guard.log_fd >= 0)
        close(guard.log_fd);
    close(fd);
    return is_good ? EXIT_SUCCESS : EXIT_FAILURE;
}
