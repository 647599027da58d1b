/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of the source's handover. Which comes when is the state machine's. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "engine/handover/renames.h"
#include "engine/session/move.h"

#define STATE_TIMEOUT_MS 10000
#define END_TIMEOUT_MS   10000
#define STATE_PIECE      (256u << 10)

/* ---- from the journal's detail ---- */

static json_t *images_of(const struct gw_source_steps *steps)
{
    return json_object_get(steps->detail, "images");
}

/* Tells the guard how a step is undone before it is taken. */
static int announce(struct gw_source_steps *steps, json_t *undo, unsigned *step)
{
    int error = !undo          ? gw_fail(-ENOMEM, "no memory for an undo")
                : steps->guard ? gw_guard_announce(steps->guard, undo, step)
                               : 0;

    json_decref(undo);
    return error;
}

int gw_source_steps_rename(struct gw_source_steps *steps)
{
    const json_t *image;
    size_t index;

    json_array_foreach(images_of(steps), index, image)
    {
        const char *path = json_string_value(image);
        char aside[4096];
        unsigned step = 0;
        int error;

        if (gw_rename_is_device(path))
            continue;
        error = gw_rename_name(path, steps->epoch, aside, sizeof(aside));
        if (!error)
            error = announce(steps, json_pack("{s:{s:s,s:s}}", "rename", "from", aside, "to", path),
                             &step);
        if (!error)
            error = gw_rename_file(path, aside);
        if (!error && steps->guard)
            error = gw_guard_done(steps->guard, step);
        if (error)
            return error;
    }
    return 0;
}

int gw_source_steps_rename_back(struct gw_source_steps *steps)
{
    const json_t *image;
    size_t index;

    json_array_foreach(images_of(steps), index, image)
    {
        const char *path = json_string_value(image);
        char aside[4096];
        int error = gw_rename_name(path, steps->epoch, aside, sizeof(aside));

        if (!error && !gw_rename_is_device(path))
            error = gw_rename_file(aside, path);
        if (error)
            return error;
    }
    return 0;
}

static int delete_images(struct gw_source_steps *steps)
{
    const json_t *image;
    size_t index;

    if (!json_is_true(json_object_get(steps->detail, "delete")))
        return 0;
    json_array_foreach(images_of(steps), index, image)
    {
        char aside[4096];

        if (gw_rename_is_device(json_string_value(image)))
            continue;
        if (gw_rename_name(json_string_value(image), steps->epoch, aside, sizeof(aside)) ||
            unlink(aside))
            gw_log(GW_LOG_WARNING, "%s could not be deleted", json_string_value(image));
    }
    return 0;
}

int gw_source_steps_hold(struct gw_qmp *qmp, int *pid_fd)
{
    char state[32];
    int fd = pidfd_open(gw_qmp_pid(qmp), 0), error;

    if (fd < 0)
        return gw_fail(-ESRCH, "the VM's QEMU is gone");
    /* It answers after its descriptor was taken: the number had not passed to another. */
    error = gw_vm_status(qmp, state, sizeof(state));
    if (error) {
        close(fd);
        return error;
    }
    *pid_fd = fd;
    return 0;
}

bool gw_source_steps_is_gone(const struct gw_source_steps *steps)
{
    struct pollfd fd = {.fd = steps->pid_fd, .events = POLLIN};

    return !steps->qmp || poll(&fd, 1, 0) > 0;
}

/* Asks QEMU to end; kills it when it does not. */
static int end_vmm(struct gw_source_steps *steps)
{
    pid_t pid = (pid_t)json_integer_value(json_object_get(steps->detail, "pid"));
    struct pollfd fd = {.fd = steps->pid_fd, .events = POLLIN};
    int error = 0;

    if (!steps->qmp)
        return 0; /* it is gone already */
    /* An answer need not come any more. */
    gw_qmp_execute(steps->qmp, "quit", NULL, NULL);
    if (poll(&fd, 1, END_TIMEOUT_MS) <= 0)
        pidfd_send_signal(fd.fd, SIGKILL, NULL, 0);
    if (poll(&fd, 1, END_TIMEOUT_MS) <= 0)
        error = gw_fail(-ETIMEDOUT, "QEMU (pid %d) does not end", (int)pid);
    return error;
}

static int check_vmm(struct gw_source_steps *steps)
{
    char state[32];
    int error = gw_vm_status(steps->qmp, state, sizeof(state));

    if (error)
        return error;
    if (strcmp(state, "running") == 0)
        return gw_fail(-EBUSY, "somebody continued the VM in the middle of the handover");
    return 0;
}

int gw_source_steps_act(struct gw_source_steps *steps, enum gw_handover_action action)
{
    switch (action) {
    case GW_ACT_RENAME_IMAGES:
        return gw_source_steps_rename(steps);
    case GW_ACT_RENAME_BACK:
        return gw_source_steps_rename_back(steps);
    case GW_ACT_DELETE_IMAGES:
        return delete_images(steps);
    case GW_ACT_END_VMM:
        return end_vmm(steps);
    case GW_ACT_TELL_GUARD_RESUMED:
        if (steps->guard && gw_guard_resumed(steps->guard))
            gw_log(GW_LOG_WARNING, "the guard is lost: %s", gw_error_message());
        return 0;
    default:
        break;
    }
    if (!steps->qmp)
        return gw_fail(-ESRCH, "the VM's QEMU is gone");
    switch (action) {
    case GW_ACT_SWAP_BACK:
        return gw_disk_undo_run(steps->qmp, json_object_get(steps->detail, "undo"));
    case GW_ACT_CLEAN_SOURCE:
        if (gw_disk_tracker_clean(steps->qmp, steps->keeps))
            gw_log(GW_LOG_WARNING, "cleaning the source's QEMU: %s", gw_error_message());
        if (gw_vm_restore_settings(steps->qmp, json_object_get(steps->detail, "settings")))
            gw_log(GW_LOG_WARNING, "setting the source's QEMU back: %s", gw_error_message());
        if (!steps->keeps)
            gw_partial_forget(steps->environment, steps->epoch, GW_SIDE_SOURCE);
        return 0;
    case GW_ACT_CHECK_VMM:
        return check_vmm(steps);
    case GW_ACT_CONT:
        if (json_is_true(json_object_get(steps->detail, "paused")))
            return check_vmm(steps);
        return gw_vm_cont(steps->qmp);
    default:
        return gw_fail(-EINVAL, "%s is no step of a recovery", gw_handover_action_name(action));
    }
}

/* ---- of a live move ---- */

int gw_move_stop(struct gw_move *move)
{
    bool was_running;
    int error;

    if (move->is_stopped || !move->vm->is_running)
        return 0;
    error = gw_guard_stopped(move->guard);
    if (error)
        return error;
    was_running = true;
    error = gw_vm_stop(move->qmp, &was_running);
    /* A stop that failed may have stopped the guest all the same, or may yet. */
    move->is_stopped = was_running;
    if (error || was_running)
        return error;
    return gw_fail(-EBUSY, "somebody paused the VM during the move");
}

int gw_move_cont(struct gw_move *move)
{
    int error;

    if (!move->is_stopped || !move->vm->is_running)
        return 0;
    error = gw_vm_cont(move->qmp);
    if (error)
        return error;
    move->is_stopped = false;
    return gw_guard_resumed(move->guard);
}

/* Last of an undo that has no CONT of its own: the guard is not told of a guest that runs while a
 * barrier or the throttle has it stopped. */
static int let_go(struct gw_move *move)
{
    if (move->is_stopped && move->vm->is_running &&
        move->switchover.machine.state == GW_HANDOVER_UNDOING) {
        int error = gw_vm_cont(move->qmp);

        if (error)
            return error;
        move->is_stopped = false;
    }
    return gw_source_steps_act(&move->steps, GW_ACT_TELL_GUARD_RESUMED);
}

static int stop_guest(struct gw_move *move)
{
    bool was_running;

    move->stopped_ns = gw_clock_ns();
    if (move->is_stopped) /* by the throttle, just now */
        return 0;
    move->is_stopped = true;
    return gw_vm_stop(move->qmp, &was_running);
}

static int copy_last(struct gw_move *move)
{
    int error = gw_precopy_last_round(move->precopy, &move->last_bytes);

    if (error || !move->request->verify)
        return error;
    return gw_source_send_digests(move->source, move->volumes, move->volume_count);
}

static int swap_disks(struct gw_move *move)
{
    unsigned step = 0;
    int error = 0;

    /* An export holds the node that is to go; the last byte was read through it. */
    for (unsigned i = 0; !error && i < move->swap_count; i++)
        error = gw_disk_export_close(&move->exports[i]);
    if (!error)
        error = announce(&move->steps,
                         json_pack("{s:O}", "disks", json_object_get(move->steps.detail, "undo")),
                         &step);
    for (unsigned i = 0; !error && i < move->swap_count; i++)
        error = gw_disk_swap_out(move->qmp, &move->swaps[i]);
    return error ? error : gw_guard_done(move->guard, step);
}

struct save {
    struct gw_qmp *qmp;
    int fd;
    struct gw_state_result result;
    struct gw_error error;
};

static void *save_state(void *argument)
{
    struct save *save = argument;
    int error = gw_vm_save_state(save->qmp, save->fd, STATE_TIMEOUT_MS, &save->result);

    if (error)
        gw_error_take(error, &save->error);
    /* The reader sees the end once QEMU's copy is closed too. */
    close(save->fd);
    return NULL;
}

/* QEMU writes its device state into a socket; it goes on to the target piece by piece. */
static int pump_state(struct gw_move *move, int fd)
{
    char *piece = malloc(STATE_PIECE);
    ssize_t got = 0;
    int error = piece ? 0 : gw_fail(-ENOMEM, "no memory for the device state");

    while (!error && (got = read(fd, piece, STATE_PIECE)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        error = got < 0 ? gw_fail_errno(-errno, "reading the device state")
                        : gw_control_send_bytes(move->source->control, piece, (uint32_t)got);
        move->state_bytes += got > 0 ? (uint64_t)got : 0;
    }
    free(piece);
    return error;
}

static int send_state(struct gw_move *move)
{
    struct save save = {.qmp = move->qmp};
    pthread_t thread;
    int sockets[2], error;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
        return gw_fail_errno(-errno, "no socket for the device state");
    save.fd = sockets[0];
    move->state_bytes = 0;
    error = -pthread_create(&thread, NULL, save_state, &save);
    if (error) {
        close(sockets[0]);
        close(sockets[1]);
        return gw_fail_errno(error, "no thread for the device state");
    }
    error = pump_state(move, sockets[1]);
    /* When the link broke, QEMU's write fails and its migration with it. */
    close(sockets[1]);
    pthread_join(thread, NULL);
    if (!error && save.error.code)
        error = gw_error_raise(&save.error);
    if (!error)
        error = gw_message_send(
            move->source->control,
            json_pack("{s:s,s:I}", "type", "state-end", "bytes", (json_int_t)move->state_bytes));
    return error;
}

int gw_move_act(void *context, enum gw_handover_action action)
{
    struct gw_move *move = context;

    switch (action) {
    case GW_ACT_TELL_GUARD_STOPPED:
        return gw_guard_stopped(move->guard);
    case GW_ACT_STOP_GUEST:
        return stop_guest(move);
    case GW_ACT_CONT: {
        int error = gw_source_steps_act(&move->steps, action);

        move->is_stopped = move->is_stopped && error;
        return error;
    }
    case GW_ACT_TELL_GUARD_RESUMED:
        return let_go(move);
    case GW_ACT_COPY_LAST:
        return copy_last(move);
    case GW_ACT_SWAP_DISKS:
        return swap_disks(move);
    case GW_ACT_SEND_STATE:
        return send_state(move);
    case GW_ACT_TELL_GUARD_COMMITTING:
        /* From here on a request to cancel comes too late. */
        move->source->is_cancel_ignored = true;
        return gw_guard_committing(move->guard);
    default:
        return gw_source_steps_act(&move->steps, action);
    }
}
