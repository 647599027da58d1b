/* SPDX-License-Identifier: Apache-2.0 */
/* The target's VM once it is made (serve-vm-make.c): the steps of its handover, and what is said about it. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "engine/session/attended.h"
#include "engine/session/serve-vm.h"
#include "engine/vmm/qemu/migrate.h"

#define STATE_TIMEOUT_MS   20000
#define RELEASE_TIMEOUT_MS 5000

/* ---- the steps ---- */

static int begin_load(struct gw_serve_vm *vm)
{
    int sockets[2], error = 0;

    for (unsigned i = 0; !error && i < vm->vm->disk_count; i++)
        error = gw_disk_place_find(vm->steps.launched.qmp, vm->vm, i, &vm->places[i]);
    if (error)
        return error;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
        return gw_fail_errno(-errno, "no socket for the device state");
    vm->state_fds[0] = sockets[0];
    vm->state_fds[1] = sockets[1];
    return gw_vm_load_begin(vm->steps.launched.qmp, vm->state_fds[0]);
}

int gw_serve_vm_stopping(struct gw_serve *serve)
{
    struct gw_serve_vm *vm = serve->vm;
    struct gw_error kept;
    int error;

    if (vm->switchover.machine.state != GW_HANDOVER_RECEIVING || vm->switchover.machine.is_busy ||
        vm->state_fds[0] >= 0)
        return gw_fail(-EPROTO, "a guest is stopped out of turn");
    error = begin_load(vm);
    if (error != -EPIPE)
        return error;
    /* Not the source's connection, which could be told nothing. */
    gw_error_take(error, &kept);
    return gw_fail(-EIO, "the target's QEMU has ended: %.400s", kept.text);
}

static void close_state(struct gw_serve_vm *vm)
{
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(vm->state_fds); i++) {
        if (vm->state_fds[i] >= 0)
            close(vm->state_fds[i]);
        vm->state_fds[i] = -1;
    }
}

static int write_all(int fd, const char *bytes, uint32_t length)
{
    struct pollfd writable = {.fd = fd, .events = POLLOUT};

    while (length > 0) {
        ssize_t moved = send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (moved < 0 && errno == EAGAIN) {
            if (poll(&writable, 1, STATE_TIMEOUT_MS) == 0)
                return gw_fail(-ETIMEDOUT, "QEMU does not take its device state within %d s",
                               STATE_TIMEOUT_MS / 1000);
            continue;
        }
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0)
            return gw_fail_errno(-errno, "QEMU does not take its device state");
        bytes += moved;
        length -= (uint32_t)moved;
    }
    return 0;
}

/* The next frame of the state stream: written to fd. 1 at its end. */
static int take_state_frame(struct gw_serve *serve, int fd)
{
    struct gw_control_frame frame;
    int error = gw_control_receive(serve->control, STATE_TIMEOUT_MS, &frame);

    if (error)
        return error;
    if (!frame.message)
        return write_all(fd, frame.bytes, frame.length);
    error = gw_message_is(frame.message, "state-end")
                ? 1
                : gw_fail(-ECANCELED, "the source gave up during the device state");
    json_decref(frame.message);
    return error;
}

static int take_state(struct gw_serve_vm *vm)
{
    int result =
        vm->state_fds[0] < 0 ? gw_fail(-EPROTO, "device state of a guest that was not stopped") : 0;

    while (result == 0)
        result = take_state_frame(vm->serve, vm->state_fds[1]);
    if (result > 0)
        result = gw_vm_load_end(vm->steps.launched.qmp, vm->state_fds[0], STATE_TIMEOUT_MS);
    close_state(vm);
    return result;
}

/* The images become valid and get their names beside the loading of the state, which needs nothing of
 * them. */
static void *finish_images(void *argument)
{
    struct gw_serve_vm *vm = argument;
    uint64_t began = gw_clock_ns();
    int error = gw_serve_end_path(vm->serve);

    if (!error)
        error = gw_serve_finish(vm->serve);
    vm->finish_error = (struct gw_error){0};
    if (error)
        gw_error_take(error, &vm->finish_error);
    vm->finish_ns = gw_clock_ns() - began;
    return NULL;
}

static int join_images(struct gw_serve_vm *vm)
{
    if (vm->is_finishing)
        pthread_join(vm->finisher, NULL);
    vm->is_finishing = false;
    return vm->finish_error.code ? gw_error_raise(&vm->finish_error) : 0;
}

static int start_images(struct gw_serve_vm *vm)
{
    int error = gw_serve_vm_join_memories(vm);

    if (error)
        return error;
    error = -pthread_create(&vm->finisher, NULL, finish_images, vm);
    if (error)
        return gw_fail_errno(error, "no thread for the images");
    vm->is_finishing = true;
    /* Loading changes the RAM that is to be compared. */
    return gw_serve_is_verified(vm->serve) ? join_images(vm) : 0;
}

static int load_state(struct gw_serve_vm *vm)
{
    int error = take_state(vm), images;
    struct gw_error kept;

    if (error)
        gw_error_take(error, &kept);
    images = join_images(vm);
    vm->switchover.action_ns[GW_ACT_RENAME_FINAL] = vm->finish_ns;
    /* Without its images the source gives up too, and only they say why. */
    return images ? images : error ? gw_error_raise(&kept) : 0;
}

static int swap_in(struct gw_serve_vm *vm)
{
    for (unsigned i = 0; i < vm->vm->disk_count; i++) {
        const struct gw_vm_disk *disk = &vm->vm->disks[i];
        char node[GW_VM_NODE_SIZE];
        struct stat info;
        struct gw_disk_image image = {
            .path = vm->images[i],
            .format = disk->format,
            .is_block_device = stat(vm->images[i], &info) == 0 && S_ISBLK(info.st_mode),
            .node = node,
        };
        int error;

        gw_disk_node_name(disk, i, node);
        error = gw_disk_swap_in(vm->steps.launched.qmp, disk, &vm->places[i], &image);
        if (error)
            return error;
    }
    return 0;
}

/* Those that this attempt was to go on with are the earlier one's until it is accepted. */
static bool keeps_parts(struct gw_serve_vm *vm)
{
    vm->steps.keeps_parts |= gw_serve_gives_back(vm->serve);
    return vm->steps.keeps_parts;
}

int gw_serve_vm_act(void *context, enum gw_handover_action action)
{
    struct gw_serve_vm *vm = context;

    switch (action) {
    case GW_ACT_SYNC_IMAGES:
        /* Finishing makes everything durable before the names change; a sync of its own here would
         * only lengthen the pause. */
        return 0;
    case GW_ACT_RENAME_FINAL:
        return start_images(vm);
    case GW_ACT_LOAD_STATE:
        return load_state(vm);
    case GW_ACT_SWAP_IN:
        return swap_in(vm);
    case GW_ACT_DISCARD:
        gw_serve_free_path(vm->serve);
        gw_serve_drop_volumes(vm->serve, keeps_parts(vm));
        return gw_target_steps_act(&vm->steps, action);
    default:
        return gw_target_steps_act(&vm->steps, action);
    }
}

/* ---- messages ---- */

/* The journal's entry, for the very source that it is about: another peer is told nothing, and does
 * not keep that source waiting. */
static int find_own(const struct gw_serve *serve, const char *epoch, struct gw_journal_entry *out)
{
    const struct gw_peer *peer = gw_control_peer(serve->control);
    int error = gw_journal_find(serve->environment->journal, epoch, GW_SIDE_TARGET, out);

    if (error || memcmp(out->peer_instance, peer->instance_id, sizeof(out->peer_instance)) == 0)
        return error;
    gw_journal_entry_free(out);
    return gw_fail(-EACCES, "move %.40s is not one of this host's agent", epoch);
}

/* A source that asks about a move has no use any more for the session that waits for it. */
static int take_up(struct gw_serve *serve, const char *epoch)
{
    const struct gw_environment *environment = serve->environment;
    uint64_t deadline = gw_clock_ns() + RELEASE_TIMEOUT_MS * GW_NS_PER_MS;
    int error = gw_attend(environment->attended, epoch, GW_SIDE_TARGET);

    if (error != -EBUSY || !environment->rejoins ||
        !gw_rejoins_release(environment->rejoins, epoch, gw_control_peer(serve->control)))
        return error;
    while (error == -EBUSY && gw_clock_ns() < deadline) {
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000000l}, NULL);
        error = gw_attend(environment->attended, epoch, GW_SIDE_TARGET);
    }
    return error;
}

/* A question about a move of an earlier session: the journal answers. */
static int reopen(struct gw_serve *serve, const char *epoch, bool is_given_up)
{
    struct gw_target_steps steps = {.launched = {.pid_fd = -1}};
    struct gw_journal_entry entry;
    struct gw_serve_vm *vm = NULL;
    int error;

    if (!serve->environment->journal || !serve->environment->attended)
        return gw_fail(-ENOTSUP, "this agent has no state folder and knows no moves");
    error = take_up(serve, epoch);
    if (error)
        return error;
    error = find_own(serve, epoch, &entry);
    if (!error) {
        /* What cannot be looked at now is left as it is. */
        steps.detail = entry.detail;
        error = gw_target_steps_reconnect(&steps, entry.state);
        vm = error ? NULL : calloc(1, sizeof(*vm));
        if (!vm) {
            gw_vm_leave(&steps.launched);
            gw_journal_entry_free(&entry);
        }
    }
    if (!vm) {
        gw_unattend(serve->environment->attended, epoch, GW_SIDE_TARGET);
        return error ? error : gw_fail(-ENOMEM, "no memory for a VM");
    }
    serve->vm = vm;
    vm->serve = serve;
    vm->state_fds[0] = vm->state_fds[1] = -1;
    vm->is_attended = true;
    vm->is_begun = true;
    vm->was_prepared = true;
    snprintf(serve->epoch, sizeof(serve->epoch), "%s", epoch);
    vm->steps = steps;
    vm->steps.epoch = serve->epoch;
    json_incref(vm->steps.detail);
    vm->steps.keeps_parts = vm->switchover.keeps =
        !is_given_up && gw_partial_is_kept(serve->environment, epoch, GW_SIDE_TARGET);
    vm->switchover.side = GW_SIDE_TARGET;
    vm->switchover.journal = serve->environment->journal;
    vm->switchover.progress = serve->progress;
    vm->switchover.control = serve->control;
    vm->switchover.detail = vm->steps.detail;
    vm->switchover.act = gw_serve_vm_act;
    vm->switchover.context = vm;
    vm->switchover.machine.is_guest_paused =
        json_is_true(json_object_get(vm->steps.detail, "paused"));
    memcpy(vm->switchover.epoch, serve->epoch, sizeof(vm->switchover.epoch));
    error = gw_switchover_restart(&vm->switchover, &entry);
    gw_journal_entry_free(&entry);
    if (!error)
        error = gw_switchover_event(&vm->switchover, GW_EVENT_LINK_UP);
    if (!error && !vm->steps.launched.qmp)
        gw_switchover_event(&vm->switchover, GW_EVENT_VMM_GONE);
    return error;
}

/* The source gave up for good: no later attempt will go on from what an earlier session left. */
static bool is_given_up(const json_t *message)
{
    return !json_is_true(json_object_get(message, "keep")) &&
           strcmp(json_string_value(json_object_get(message, "message")) ?: "",
                  gw_handover_event_name(GW_EVENT_ABORT)) == 0;
}

int gw_serve_vm_message(struct gw_serve *serve, const json_t *message)
{
    const char *epoch;
    int error = gw_message_text(message, "epoch", &epoch);

    if (error)
        return error;
    if (!serve->vm && serve->is_offered)
        return gw_fail(-EPROTO, "a handover in the session of a copy");
    if (!serve->vm) {
        error = reopen(serve, epoch, is_given_up(message));
        if (error == -ENOENT && is_given_up(message))
            gw_serve_drop_earlier(serve, epoch,
                                  json_is_true(json_object_get(message, GW_TAKES_FINISHED)));
        if (error == -ENOENT)
            return gw_message_send(serve->control,
                                   json_pack("{s:s,s:s,s:s}", "type", "handover", "message",
                                             gw_handover_event_name(GW_EVENT_UNKNOWN), "epoch",
                                             epoch));
        if (error)
            return error;
    }
    if (!serve->vm->vm && is_given_up(message))
        gw_serve_drop_note(serve, epoch, true);
    error = gw_switchover_hear(&serve->vm->switchover, gw_control_peer(serve->control)->instance_id,
                               message);
    serve->is_finished = serve->vm->switchover.machine.state == GW_HANDOVER_RUNNING;
    serve->vm->was_prepared |= serve->vm->switchover.machine.state == GW_HANDOVER_PREPARED;
    return error;
}

int gw_serve_vm_owner(struct gw_serve *serve, const json_t *message)
{
    struct gw_serve_vm *vm = serve->vm;
    bool is_paused;
    int error = gw_message_bool(message, "paused", &is_paused);

    if (error)
        return error;
    if (vm->switchover.machine.state != GW_HANDOVER_RECEIVING || vm->switchover.machine.is_busy)
        return gw_fail(-EPROTO, "the guest's owner is named too late");
    vm->switchover.machine.is_guest_paused = is_paused;
    return json_object_set_new(vm->steps.detail, "paused", json_boolean(is_paused))
               ? gw_fail(-ENOMEM, "no memory for the guest's owner")
               : 0;
}

int gw_serve_vm_bytes(struct gw_serve *serve, const void *bytes, uint32_t length)
{
    return gw_fail(-EPROTO, "device state before the handover");
}

bool gw_serve_vm_may_wait(const struct gw_serve *serve)
{
    const struct gw_serve_vm *vm = serve->vm;

    return vm->is_begun && vm->vm && vm->switchover.machine.state == GW_HANDOVER_RECEIVING;
}

void gw_serve_vm_set_control(struct gw_serve *serve, struct gw_control *control)
{
    serve->vm->switchover.control = control;
}

/* What an offer that failed leaves, when no record of the journal will clean it. */
static void clean_unbegun(struct gw_serve_vm *vm)
{
    gw_vm_end(&vm->steps.launched);
    gw_serve_drop_volumes(vm->serve, keeps_parts(vm));
    vm->steps.epoch = vm->serve->epoch;
    if (!vm->steps.detail)
        vm->steps.detail = json_pack("{s:s,s:s}", "run_dir", vm->has_run_dir ? vm->run_dir : "",
                                     "ram_dir", vm->has_ram_dir ? vm->ram_dir : "");
    gw_target_steps_act(&vm->steps, GW_ACT_DISCARD);
}

static void report(struct gw_serve_vm *vm)
{
    json_t *detail = vm->serve->outcome->detail;

    json_object_set_new(detail, "state",
                        json_string(gw_handover_state_name(vm->switchover.machine.state)));
    json_object_set_new(detail, "steps_ms", gw_switchover_times(&vm->switchover));
    if (vm->switchover.cause.code)
        json_object_set_new(detail, "cause", json_string(vm->switchover.cause.text));
    json_object_set(detail, "vm", json_object_get(vm->steps.detail, "vm"));
    json_object_set(detail, "qmp", json_object_get(vm->steps.detail, "qmp"));
}

void gw_serve_vm_end(struct gw_serve *serve, struct gw_error *why)
{
    struct gw_serve_vm *vm = serve->vm;
    struct gw_switchover *switchover = &vm->switchover;

    /* A source that still hears is told that nothing will run here, and need not ask. */
    if (!gw_serve_is_heard(serve))
        switchover->control = NULL;
    serve->keeps_parts = vm->is_begun && switchover->machine.state == GW_HANDOVER_RECEIVING &&
                         gw_serve_keeps(serve, why->code);
    vm->steps.keeps_parts = switchover->keeps = serve->keeps_parts;
    /* It came first: what ended the conversation only followed. */
    if (vm->is_begun && switchover->cause.code)
        *why = switchover->cause;
    gw_serve_vm_join_memories(vm);
    close_state(vm);
    if (!vm->is_begun) {
        clean_unbegun(vm);
    } else {
        /* Nobody will finish what is not prepared; what is prepared waits for its source. */
        gw_switchover_event(switchover, switchover->machine.state == GW_HANDOVER_PREPARED
                                            ? GW_EVENT_LINK_LOST
                                            : GW_EVENT_CANCEL);
        serve->is_finished |= switchover->machine.state == GW_HANDOVER_PREPARED;
        if (switchover->machine.state == GW_HANDOVER_ABORTING && !vm->was_prepared)
            clean_unbegun(vm); /* the journal takes no records */
        report(vm);
        serve->ended_in = switchover->machine.state;
        if (!vm->vm && gw_handover_is_ended(switchover->machine.state))
            gw_serve_drop_note(serve, serve->epoch, false);
    }
    /* What was to go went with DISCARD. Every other state, a lost owner's too, may need its images.
     */
    gw_serve_drop_volumes(serve, true);
    gw_vm_leave(&vm->steps.launched);
    /* Until its note says how it ended. */
    serve->is_attended = vm->is_attended;
    json_decref(vm->steps.detail);
    json_decref(switchover->peer_times);
    gw_vm_free(vm->vm);
    free(vm);
    serve->vm = NULL;
}
