/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of the source's handover. Which comes when is the state machine's. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "engine/handover/renames.h"
#include "engine/session/fence.h"
#include "engine/session/move.h"
#include "engine/session/process.h"

#define END_TIMEOUT_MS      10000
#define EPOCH_DIGITS        (2 * GW_ID_SIZE)
#define STATE_PIECE         (256u << 10)
#define COMPARE_INTERVAL_NS (1 * GW_NS_PER_S)
#define HELD_LIMIT_NS       (1 * GW_NS_PER_S) /* no record for each of many stops */

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

int gw_source_steps_fence(const struct gw_source_steps *steps, bool is_in_use)
{
    const json_t *device;
    size_t index;
    int error = 0;

    json_array_foreach(json_object_get(steps->detail, "devices"), index, device)
    {
        if (!error)
            error = gw_fence_put(steps->environment->fences, json_string_value(device),
                                 steps->epoch, is_in_use);
    }
    return error;
}

int gw_source_steps_rename(struct gw_source_steps *steps)
{
    const json_t *image;
    size_t index;
    int error = gw_source_steps_fence(steps, true);

    if (error)
        return error;
    json_array_foreach(images_of(steps), index, image)
    {
        const char *path = json_string_value(image);
        char aside[4096];
        unsigned step = 0;

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

    gw_fence_remove(steps->environment->fences, steps->epoch);
    json_array_foreach(images_of(steps), index, image)
    {
        const char *path = json_string_value(image);
        char aside[4096];
        int error = gw_rename_name(path, steps->epoch, aside, sizeof(aside));

        if (!error)
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
        int error = gw_rename_name(json_string_value(image), steps->epoch, aside, sizeof(aside));

        if (!error && unlink(aside) && errno != ENOENT)
            error = gw_fail_errno(-errno, "%s", aside);
        /* Behind the record nobody looks any more, and a power cut would bring it back. */
        if (!error)
            error = gw_rename_sync(aside);
        if (error)
            gw_log(GW_LOG_WARNING, "%s could not be deleted: %s", json_string_value(image),
                   gw_error_message());
    }
    return 0;
}

/* What an earlier move had made here for the VM, and it was as large as the VM. Its name says whose it is, and
 * gw_source_steps_own_memory, who made it. */
static void remove_memory(const struct gw_source_steps *steps)
{
    const json_t *path;
    size_t index;

    json_array_foreach(json_object_get(steps->detail, "ram"), index, path)
    {
        const char *file = json_string_value(path);
        char folder[PATH_MAX];
        char *end;

        if (unlink(file) && errno != ENOENT)
            gw_log(GW_LOG_WARNING, "%s could not be removed: %s", file, strerror(errno));
        snprintf(folder, sizeof(folder), "%s", file);
        end = strrchr(folder, '/');
        if (!end)
            continue;
        *end = '\0';
        rmdir(folder); /* the last of several files */
    }
}

bool gw_source_steps_own_memory(const struct gw_vm_memory *memory)
{
    static const char prefix[] = "godwit-";
    char folder[sizeof(memory->path)];
    struct stat file, parent;
    const char *name;
    char *end;

    snprintf(folder, sizeof(folder), "%s", memory->path);
    end = strrchr(folder, '/');
    if (!end || lstat(memory->path, &file) || file.st_dev != memory->device ||
        file.st_ino != memory->inode)
        return false;
    *end = '\0';
    name = strrchr(folder, '/');
    if (!name || strncmp(name + 1, prefix, strlen(prefix)) != 0)
        return false;
    name += 1 + strlen(prefix);
    return strlen(name) == EPOCH_DIGITS && strspn(name, "0123456789abcdef") == EPOCH_DIGITS &&
           lstat(folder, &parent) == 0 && S_ISDIR(parent.st_mode) && parent.st_uid == geteuid();
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
    return steps->pid_fd < 0 || gw_process_has_ended(steps->pid_fd);
}

static int not_reached(const struct gw_source_steps *steps)
{
    if (gw_source_steps_is_gone(steps))
        return gw_fail(-ESRCH, "the VM's QEMU is gone");
    return gw_fail(
        -EIO, "QEMU (pid %d) is there and its monitor %s does not answer: end its other client",
        (int)json_integer_value(json_object_get(steps->detail, "pid")),
        json_string_value(json_object_get(steps->detail, "qmp")));
}

/* Asks QEMU to end; kills it when it does not, or cannot be asked. */
static int end_vmm(struct gw_source_steps *steps)
{
    pid_t pid = (pid_t)json_integer_value(json_object_get(steps->detail, "pid"));
    struct pollfd fd = {.fd = steps->pid_fd, .events = POLLIN};

    if (gw_source_steps_is_gone(steps)) {
        gw_fence_expire(steps->environment->fences, steps->epoch, GW_FENCE_AFTER_S);
        remove_memory(steps);
        return 0;
    }
    /* An answer need not come any more. */
    if (steps->qmp)
        gw_qmp_execute(steps->qmp, "quit", NULL, NULL);
    if (!steps->qmp || poll(&fd, 1, END_TIMEOUT_MS) <= 0)
        pidfd_send_signal(fd.fd, SIGKILL, NULL, 0);
    if (poll(&fd, 1, END_TIMEOUT_MS) <= 0)
        return gw_fail(-ETIMEDOUT, "QEMU (pid %d) does not end", (int)pid);
    gw_fence_expire(steps->environment->fences, steps->epoch, GW_FENCE_AFTER_S);
    remove_memory(steps);
    return 0;
}

static int check_vmm(const struct gw_source_steps *steps)
{
    char state[32];
    int error = gw_vm_status(steps->qmp, state, sizeof(state));

    /* Its disks are looked at before this: one that runs, runs on its own. */
    return error;
}

/* What QEMU refuses it would refuse again; what it did not answer is to be done again. */
static int note_cleaning(int error)
{
    if (error)
        gw_log(GW_LOG_WARNING, "cleaning the source's QEMU: %s", gw_error_message());
    return error == -EPIPE || error == -ETIMEDOUT ? error : 0;
}

static int clean_source(const struct gw_source_steps *steps)
{
    int error = note_cleaning(gw_partial_clean_vmm(steps->qmp, steps->epoch));

    if (!error)
        error = note_cleaning(
            gw_vm_restore_settings(steps->qmp, json_object_get(steps->detail, "settings")));
    if (!error && !steps->keeps)
        gw_partial_forget(steps->environment, steps->epoch, GW_SIDE_SOURCE);
    return error;
}

/* What godwit did not stop is not continued by it: its owner, or the guest itself, had a reason. */
static int let_go(const struct gw_source_steps *steps)
{
    if (json_is_true(json_object_get(steps->detail, "paused")) ||
        json_is_false(json_object_get(steps->detail, "held")))
        return check_vmm(steps);
    return gw_vm_let_go(steps->qmp);
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
        return not_reached(steps);
    switch (action) {
    case GW_ACT_SWAP_BACK:
        return gw_disk_undo_run(steps->qmp, json_object_get(steps->detail, "undo"));
    case GW_ACT_CLEAN_SOURCE:
        return clean_source(steps);
    case GW_ACT_CHECK_VMM:
        return check_vmm(steps);
    case GW_ACT_CONT:
        return let_go(steps);
    default:
        return gw_fail(-EINVAL, "%s is no step of a recovery", gw_handover_action_name(action));
    }
}

/* ---- of a live move ---- */

/* A restart continues the guest only where the record says that it may be held: that is durable before the
 * guest is stopped, and it is taken back some time after. The first record has what was before it. */
static int note_held(struct gw_move *move, bool is_held)
{
    if (json_is_true(json_object_get(move->steps.detail, "held")) == is_held)
        return 0;
    json_object_set_new(move->steps.detail, "held", json_boolean(is_held));
    return move->is_begun ? gw_switchover_record(&move->switchover, GW_HANDOVER_COPYING) : 0;
}

int gw_move_stop(struct gw_move *move)
{
    int error;

    if (move->watch.is_held || !move->watch.is_running)
        return 0;
    error = note_held(move, true);
    if (!error)
        error = gw_guard_stopped(move->guard);
    if (!error)
        error = gw_vm_watch_stop(&move->watch, false);
    /* Its owner was faster: it is not for the guard to continue it. */
    return error || move->watch.is_held ? error : gw_guard_resumed(move->guard);
}

int gw_move_cont(struct gw_move *move)
{
    int error;

    if (!move->watch.is_held)
        return 0;
    error = gw_vm_watch_cont(&move->watch);
    move->let_go_ns = gw_clock_ns();
    return error ? error : gw_guard_resumed(move->guard);
}

int gw_move_look(struct gw_move *move)
{
    uint64_t now = gw_clock_ns();
    int error = gw_vm_watch_look(&move->watch);

    /* A guest that its owner paused is not stopped by the throttle either. */
    if (!error && !move->watch.is_held &&
        (!move->watch.is_running ||
         (!move->throttle_percent && now - move->let_go_ns >= HELD_LIMIT_NS)))
        error = note_held(move, false);
    /* No event tells that a disk has grown or that a device was plugged in. */
    if (error || now - move->compared_ns < COMPARE_INTERVAL_NS)
        return error;
    move->compared_ns = now;
    return gw_vm_watch_compare(&move->watch);
}

int gw_move_settle_owner(struct gw_move *move)
{
    bool is_paused = !move->watch.is_running;
    int error;

    if (is_paused == move->is_told_paused)
        return 0;
    move->switchover.machine.is_guest_paused = is_paused;
    json_object_set_new(move->steps.detail, "paused", json_boolean(is_paused));
    error = gw_guard_owner(move->guard, is_paused);
    if (!error)
        error = gw_source_tell(move->source,
                               json_pack("{s:s,s:b}", "type", "owner", "paused", is_paused));
    move->is_told_paused = is_paused;
    return error;
}

/* Last of an undo that has no CONT of its own: the guard is not told of a guest that runs while a
 * barrier or the throttle has it stopped. */
static int let_go_last(struct gw_move *move)
{
    if (move->watch.is_held && move->switchover.machine.state == GW_HANDOVER_UNDOING) {
        int error = gw_vm_let_go(move->qmp);

        if (error)
            return error;
        move->watch.is_held = false;
    }
    return gw_source_steps_act(&move->steps, GW_ACT_TELL_GUARD_RESUMED);
}

static int stop_guest(struct gw_move *move)
{
    bool was_paused = move->is_told_paused;
    int error;

    move->stopped_ns = gw_clock_ns();
    if (move->watch.is_held) { /* by the throttle, just now */
        move->watch.is_last = true;
        error = gw_vm_watch_compare(&move->watch);
    } else {
        error = gw_vm_watch_stop(&move->watch, true);
    }
    if (!error)
        error = gw_move_settle_owner(move);
    /* The target's QEMU gets ready for the device state meanwhile. */
    if (!error)
        error = gw_message_send_type(move->source->control, "stopping");
    /* Its owner paused it at the last moment: a restart must not continue it. */
    if (!error && was_paused != move->is_told_paused)
        error = gw_switchover_record(&move->switchover, GW_HANDOVER_COPYING);
    return error;
}

/* The images get other names while the guest still runs: the sync of their folder is no part of the
 * pause. The guard undoes the last step first, so it is told of the disks before: they come back by
 * the names that the images had. */
static int rename_images(struct gw_move *move)
{
    int error = announce(&move->steps,
                         json_pack("{s:O}", "disks", json_object_get(move->steps.detail, "undo")),
                         &move->swap_step);

    if (!error)
        error = gw_source_steps_rename(&move->steps);
    for (unsigned i = 0; !error && i < move->vm->disk_count; i++)
        if (move->read_paths[i][0])
            error = gw_rename_name(move->vm->disks[i].path, move->steps.epoch, move->read_paths[i],
                                   sizeof(move->read_paths[i]));
    move->is_renamed = !error;
    return error;
}

/* The last pages, while QEMU's part goes on beside; then the last extents, once their map is known. */
static int copy_rest(struct gw_move *move)
{
    uint64_t began = gw_clock_ns(), middle;
    int error;

    for (unsigned i = 0; i < move->volume_count; i++)
        if (move->volumes[i]->kind == GW_VOLUME_RAM)
            gw_tracker_hasten(gw_ram_source_tracker(move->volumes[i]));
    error = gw_precopy_last_collect(move->precopy, GW_VOLUME_RAM);
    move->last_bytes = 0;
    if (!error)
        error = gw_precopy_last_send(move->precopy, GW_VOLUME_RAM, &move->last_bytes);
    middle = gw_clock_ns();
    move->pages_ns = middle - began;
    if (!error)
        error = gw_parting_await(&move->parting, GW_PARTING_MAPS);
    if (!error)
        error = gw_precopy_last_send(move->precopy, GW_VOLUME_DISK, &move->last_bytes);
    move->extents_ns = gw_clock_ns() - middle;
    if (!error && move->request->verify)
        error = gw_source_send_digests(move->source, move->volumes, move->volume_count);
    return error;
}

/* Nothing of QEMU's part is under way any more. */
static void end_parting(struct gw_move *move)
{
    if (move->parting.fd >= 0) {
        /* A write of QEMU's that nobody reads ends with an error, and its migration with it. */
        close(move->parting.fd);
        move->parting.fd = -1;
    }
    gw_parting_join(&move->parting, true);
}

static int copy_last(struct gw_move *move)
{
    struct gw_parting *parting = &move->parting;
    struct gw_error kept;
    int error;

    parting->qmp = move->qmp;
    parting->precopy = move->precopy;
    parting->swaps = move->swaps;
    parting->exports = move->exports;
    parting->disk_count = move->swap_count;
    parting->needs_disks = move->request->verify;
    for (unsigned i = 0; i < move->swap_count; i++)
        parting->needs_disks |= gw_nbd_format_is_known(move->vm->disks[i].format);
    move->is_swapped = true;
    error = gw_parting_start(parting);
    if (error)
        return error;
    error = copy_rest(move);
    if (!error) {
        gw_parting_copied(parting);
        return 0;
    }
    gw_error_take(error, &kept);
    end_parting(move);
    return gw_error_raise(&kept);
}

/* Somebody continued the guest while its disks were away: what it wrote since then is nowhere. It is
 * stopped before they come back, and stays so until its owner has decided. */
static int stop_astray(struct gw_move *move)
{
    struct gw_error *end = &move->watch.end;
    bool was_running;
    size_t length;
    int error;

    if (!move->is_swapped)
        return 0;
    /* The answer comes behind every event of before. */
    error = gw_vm_watch_still(&move->watch);
    if (!move->watch.was_continued)
        return error == -EPIPE ? error : 0;
    error = gw_vm_stop(move->qmp, &was_running);
    if (error)
        return error;
    length = strlen(end->text);
    snprintf(end->text + length, sizeof(end->text) - length,
             "; it ran without its disks and is paused again: reset it");
    move->switchover.machine.is_guest_paused = true;
    move->watch.is_held = false;
    json_object_set_new(move->steps.detail, "paused", json_true());
    return 0;
}

static int swap_back(struct gw_move *move)
{
    int error = stop_astray(move);

    if (!error)
        error = gw_source_steps_act(&move->steps, GW_ACT_SWAP_BACK);
    move->is_swapped = move->is_swapped && error;
    return error;
}

/* They are on their way since the last copy began. */
static int swap_disks(struct gw_move *move)
{
    struct gw_error kept;
    int error = gw_parting_await(&move->parting, GW_PARTING_SWAP);

    if (!error)
        return gw_guard_done(move->guard, move->swap_step);
    gw_error_take(error, &kept);
    end_parting(move);
    return gw_error_raise(&kept);
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
        if (!error && move->state_bytes > GW_STATE_MAX)
            error = gw_fail(-EFBIG,
                            "QEMU put guest RAM into its stream (%llu MiB): its memory is not a "
                            "shared file that it can leave out",
                            (unsigned long long)(move->state_bytes >> 20));
    }
    free(piece);
    return error;
}

static int send_state(struct gw_move *move)
{
    struct gw_error kept;
    int error;

    move->state_bytes = 0;
    error = pump_state(move, move->parting.fd);
    if (!error)
        error = gw_parting_await(&move->parting, GW_PARTING_STATE);
    if (error)
        gw_error_take(error, &kept);
    end_parting(move);
    if (error)
        return gw_error_raise(&kept);
    error =
        gw_message_send(move->source->control, json_pack("{s:s,s:I}", "type", "state-end", "bytes",
                                                         (json_int_t)move->state_bytes));
    /* The target is busy with it: time to look at every process of this host. */
    for (unsigned i = 0; !error && i < move->volume_count; i++)
        if (move->volumes[i]->kind == GW_VOLUME_RAM)
            error = gw_tracker_check(gw_ram_source_tracker(move->volumes[i]));
    return error;
}

int gw_move_act(void *context, enum gw_handover_action action)
{
    struct gw_move *move = context;

    switch (action) {
    case GW_ACT_RENAME_BACK:
        /* First of every undo: a handover that was given up between two steps. */
        end_parting(move);
        move->is_renamed = false;
        return gw_source_steps_act(&move->steps, action);
    case GW_ACT_TELL_GUARD_STOPPED:
        return gw_guard_stopped(move->guard);
    case GW_ACT_STOP_GUEST:
        return stop_guest(move);
    case GW_ACT_CONT: {
        int error = gw_source_steps_act(&move->steps, action);

        move->watch.is_held = move->watch.is_held && error;
        return error;
    }
    case GW_ACT_SWAP_BACK:
        return swap_back(move);
    case GW_ACT_CHECK_VMM:
        /* Given back to its owner, who had it paused, it may do what the owner wants. */
        if (move->switchover.machine.state == GW_HANDOVER_UNDOING)
            return gw_source_steps_act(&move->steps, action);
        return gw_vm_watch_still(&move->watch);
    case GW_ACT_TELL_GUARD_RESUMED:
        return let_go_last(move);
    case GW_ACT_COPY_LAST:
        return copy_last(move);
    case GW_ACT_SWAP_DISKS:
        return swap_disks(move);
    case GW_ACT_SEND_STATE:
        return send_state(move);
    case GW_ACT_RENAME_IMAGES:
        return move->is_renamed ? 0 : rename_images(move);
    case GW_ACT_TELL_GUARD_COMMITTING:
        /* From here on a request to cancel comes too late. */
        move->source->is_cancel_ignored = true;
        return gw_guard_committing(move->guard);
    default:
        return gw_source_steps_act(&move->steps, action);
    }
}
