/* SPDX-License-Identifier: Apache-2.0 */
/* The target's VM: its QEMU, its memory, and its side of the handover. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
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
#include "engine/session/offer.h"
#include "engine/session/serve.h"
#include "engine/session/switchover.h"
#include "engine/session/target-steps.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/migrate.h"
#include "engine/vmm/qemu/plan.h"
#include "engine/volume/ram.h"

#define STATE_TIMEOUT_MS   20000
#define RELEASE_TIMEOUT_MS 5000
#define DEFAULT_RAM_DIR    "/dev/shm"
#define PATH_SIZE          512u

struct gw_serve_vm {
    struct gw_serve *serve;
    struct gw_vm *vm; /* NULL for a move of an earlier session */
    struct gw_switchover switchover;
    struct gw_target_steps steps;
    bool is_begun, is_attended;
    bool was_prepared; /* the source may have been told READY */
    bool has_run_dir, has_ram_dir;
    char run_dir[PATH_SIZE], ram_dir[PATH_SIZE];
    char ram_paths[GW_VM_MEMORIES_MAX][PATH_SIZE];
    char images[GW_VM_DISKS_MAX][PATH_MAX];
    struct gw_disk_place places[GW_VM_DISKS_MAX];
    int state_fds[2]; /* QEMU's end of the device state and ours; -1: not begun */
    pthread_t finisher, populator;
    bool is_finishing, is_populating;
    struct gw_error finish_error, populate_error; /* of the threads, once joined */
    uint64_t finish_ns, populate_ns;
    json_t *offered; /* the volumes of the offer, while memory is made ready */
};

/* ---- the offer ---- */

static int take_description(struct gw_serve_vm *vm, const json_t *offer, struct gw_reasons *reasons)
{
    json_t *nets;
    int error = gw_vm_from_json(json_object_get(offer, "vm"), reasons, &vm->vm);

    if (!error)
        error = gw_message_array(offer, "nets", GW_VM_NETS_MAX, &nets);
    for (size_t i = 0; !error && i < json_array_size(nets); i++) {
        const char *from, *to;

        error = gw_message_text(json_array_get(nets, i), "from", &from);
        if (!error)
            error = gw_message_text(json_array_get(nets, i), "to", &to);
        if (!error && gw_vm_map_bridge(vm->vm, from, to) == 0)
            gw_reasons_add(reasons, "--net %s=%s: the VM has no network on a bridge '%s'", from, to,
                           from);
    }
    return error;
}

/* The volumes of the offer are those of the description: disks in order, then memories. */
static int check_volumes(const struct gw_vm *vm, const json_t *offer)
{
    json_t *list;
    int error = gw_message_array(offer, "volumes", GW_VOLUMES_MAX, &list);

    if (!error && json_array_size(list) != vm->disk_count + vm->memory_count)
        error = gw_fail(-EPROTO, "the offer has %zu volumes for %u disks and %u memories",
                        json_array_size(list), vm->disk_count, vm->memory_count);
    for (unsigned i = 0; !error && i < json_array_size(list); i++) {
        struct gw_offered_volume offered;
        bool is_disk = i < vm->disk_count;
        const char *name = is_disk ? vm->disks[i].name : vm->memories[i - vm->disk_count].id;
        uint64_t size = is_disk ? vm->disks[i].virtual_size : vm->memories[i - vm->disk_count].size;

        error = gw_offer_parse_volume(json_array_get(list, i), &offered);
        if (!error && ((offered.kind == GW_VOLUME_DISK) != is_disk ||
                       strcmp(offered.name, name) != 0 || offered.size < size))
            error = gw_fail(-EPROTO, "volume %s of the offer does not fit the VM", offered.name);
        /* Raw bytes that QEMU took for another format could name any file of this host. */
        if (!error && is_disk && strcmp(gw_offer_format(&offered), vm->disks[i].format) != 0)
            error = gw_fail(-EPROTO, "disk %s is offered as %s and described as %s", offered.name,
                            gw_offer_format(&offered), vm->disks[i].format);
    }
    return error;
}

/* A folder that is there already is another VM's, which a peer named by choosing its epoch. */
static int make_own_folder(const char *path, bool *is_made)
{
    if (mkdir(path, 0700))
        return gw_fail_errno(-errno, "cannot make the folder %s", path);
    *is_made = true;
    return 0;
}

static int make_folders(struct gw_serve_vm *vm)
{
    const struct gw_environment *environment = vm->serve->environment;
    const char *ram = environment->ram_dir ? environment->ram_dir : DEFAULT_RAM_DIR;
    char parent[PATH_SIZE];
    int error = 0;

    snprintf(parent, sizeof(parent), "%s/vm", environment->state_dir);
    if (mkdir(parent, 0700) && errno != EEXIST)
        error = gw_fail_errno(-errno, "cannot make the folder %s", parent);
    /* UNIX sockets go in there: their paths are short. */
    if (snprintf(vm->run_dir, PATH_SIZE, "%s/%.12s", parent, vm->serve->epoch) > 80)
        error = gw_fail(-ENAMETOOLONG,
                        "the state folder %s has too long a name for sockets: start "
                        "the agent with a shorter --state",
                        environment->state_dir);
    snprintf(vm->ram_dir, PATH_SIZE, "%s/godwit-%s", ram, vm->serve->epoch);
    if (!error)
        error = make_own_folder(vm->run_dir, &vm->has_run_dir);
    return error ? error : make_own_folder(vm->ram_dir, &vm->has_ram_dir);
}

/* The pages are set aside already; this gives them to our mapping before they are written, which costs
 * less, beside the start of QEMU and the first bytes of the disks. */
static void *populate(void *argument)
{
    struct gw_serve_vm *vm = argument;
    unsigned first = vm->vm->disk_count;
    uint64_t started = gw_clock_ns();
    int error = 0;

    for (unsigned i = first; !error && i < first + vm->vm->memory_count; i++)
        error = gw_offer_populate(json_array_get(vm->offered, i), vm->serve->volumes[i]);
    if (error)
        gw_error_take(error, &vm->populate_error);
    vm->populate_ns = gw_clock_ns() - started;
    return NULL;
}

static int start_populating(struct gw_serve_vm *vm, const json_t *offer)
{
    int error;

    vm->offered = json_incref(json_object_get(offer, "volumes"));
    error = -pthread_create(&vm->populator, NULL, populate, vm);
    if (error)
        return gw_fail_errno(error, "no thread for the memory");
    vm->is_populating = true;
    return 0;
}

/* The memory is ready, and nobody but the peer is in it any more. */
static int join_memories(struct gw_serve_vm *vm)
{
    if (vm->is_populating) {
        pthread_join(vm->populator, NULL);
        json_object_set_new(vm->serve->outcome->detail, "allocate_s",
                            json_real((double)vm->populate_ns / 1e9));
    }
    vm->is_populating = false;
    json_decref(vm->offered);
    vm->offered = NULL;
    return vm->populate_error.code ? gw_error_raise(&vm->populate_error) : 0;
}

/* The QEMU that already waits has its RAM files; ours are made where this host puts them. */
static int make_memories(struct gw_serve_vm *vm, const json_t *offer)
{
    struct gw_serve *serve = vm->serve;
    bool is_adopted = serve->environment->to_qmp != NULL;
    int error = 0;

    for (unsigned i = 0; !error && i < vm->vm->memory_count; i++) {
        const struct gw_vm_memory *memory = &vm->vm->memories[i];
        struct gw_target_volume **volume = &serve->volumes[vm->vm->disk_count + i];

        if (!is_adopted)
            snprintf(vm->ram_paths[i], PATH_SIZE, "%.400s/%s", vm->ram_dir, memory->id);
        error = is_adopted
                    ? gw_ram_target_open(memory->id, vm->ram_paths[i], memory->size, volume)
                    : gw_ram_target_create(memory->id, vm->ram_paths[i], memory->size, volume);
    }
    return error ? error : start_populating(vm, offer);
}

static int start_vmm(struct gw_serve_vm *vm)
{
    const struct gw_environment *environment = vm->serve->environment;
    const char *paths[GW_VM_MEMORIES_MAX];
    struct gw_launch_options options = {.run_dir = vm->run_dir, .ram_paths = paths};

    for (unsigned i = 0; i < vm->vm->memory_count; i++)
        paths[i] = vm->ram_paths[i];
    if (environment->launch_hook)
        return gw_vm_launch_hook(environment->launch_hook, vm->vm, &options, &vm->steps.launched);
    return gw_vm_launch(vm->vm, &options, &vm->steps.launched);
}

/* Memory, then the QEMU that maps it; or the other way round when the QEMU is there already. */
static int make_vmm(struct gw_serve_vm *vm, const json_t *offer, struct gw_reasons *reasons)
{
    const char *waiting = vm->serve->environment->to_qmp;
    int error = 0;

    if (waiting)
        error = gw_vm_adopt(waiting, vm->vm, vm->ram_paths, reasons, &vm->steps.launched);
    if (!error)
        error = make_memories(vm, offer);
    return error || waiting ? error : start_vmm(vm);
}

static json_t *make_detail(struct gw_serve_vm *vm, bool is_paused)
{
    json_t *images = json_array(), *parts = json_array(), *ram = json_array();
    json_t *files = json_array();

    for (unsigned i = 0; i < vm->vm->disk_count; i++) {
        char part[PATH_MAX + 64];

        snprintf(part, sizeof(part), "%s.godwit-%s.part", vm->images[i], vm->serve->epoch);
        json_array_append_new(images, json_string(vm->images[i]));
        json_array_append_new(parts, json_string(part));
        json_array_append_new(files, gw_target_steps_identity(part));
    }
    for (unsigned i = 0; vm->steps.launched.is_owned && i < vm->vm->memory_count; i++)
        json_array_append_new(ram, json_string(vm->ram_paths[i]));
    return json_pack("{s:s,s:i,s:s,s:s,s:o,s:o,s:o,s:o,s:b,s:b,s:s}", "qmp",
                     vm->steps.launched.qmp_path, "pid", (int)vm->steps.launched.pid, "run_dir",
                     vm->run_dir, "ram_dir", vm->ram_dir, "images", images, "files", files, "parts",
                     parts, "ram", ram, "paused", is_paused, "owned", vm->steps.launched.is_owned,
                     "vm", vm->vm->name);
}

static int act(void *context, enum gw_handover_action action);

static int begin(struct gw_serve_vm *vm, bool is_paused)
{
    struct gw_switchover *switchover = &vm->switchover;
    struct gw_serve *serve = vm->serve;

    vm->steps.epoch = serve->epoch;
    vm->steps.detail = make_detail(vm, is_paused);
    switchover->side = GW_SIDE_TARGET;
    switchover->journal = serve->environment->journal;
    switchover->progress = serve->progress;
    switchover->control = serve->control;
    switchover->detail = vm->steps.detail;
    switchover->act = act;
    switchover->context = vm;
    switchover->machine.is_guest_paused = is_paused;
    memcpy(switchover->epoch, serve->epoch, sizeof(switchover->epoch));
    vm->is_begun = true;
    return gw_switchover_begin(switchover, gw_control_peer(serve->control)->instance_id);
}

/* The sockets of the VM on this host, for whoever asked for the move. */
static json_t *describe_target(const struct gw_serve_vm *vm)
{
    json_t *chardevs = json_object();
    char path[PATH_SIZE];

    for (unsigned i = 0; i < vm->vm->chardev_count; i++) {
        if (vm->vm->chardevs[i].kind != GW_VM_CHARDEV_SOCKET)
            continue;
        snprintf(path, sizeof(path), "%.300s/%s.sock", vm->run_dir, vm->vm->chardevs[i].id);
        json_object_set_new(chardevs, vm->vm->chardevs[i].id, json_string(path));
    }
    return json_pack("{s:s,s:s,s:i,s:o}", "qmp", vm->steps.launched.qmp_path, "run_dir",
                     vm->run_dir, "pid", (int)vm->steps.launched.pid, "chardevs", chardevs);
}

static int make_ready(struct gw_serve_vm *vm, const json_t *offer, json_t *reply,
                      struct gw_reasons *reasons)
{
    struct gw_serve *serve = vm->serve;
    json_t *names = json_object_get(reply, "volumes");
    bool is_paused;
    int error = take_description(vm, offer, reasons);

    if (!error)
        error = check_volumes(vm->vm, offer);
    if (!error)
        error = gw_message_bool(offer, "paused", &is_paused);
    if (!error && !serve->environment->to_qmp)
        error = gw_plan_target(vm->vm, NULL, json_object_get(offer, "cpu"), reasons);
    if (!error)
        error = gw_reasons_fail(reasons, -EPERM);
    if (!error)
        error = gw_serve_make_volumes(serve, offer, names);
    for (unsigned i = 0; !error && i < vm->vm->disk_count; i++)
        snprintf(vm->images[i], PATH_MAX, "%s", serve->paths[i]);
    if (!error)
        error = make_folders(vm);
    if (!error)
        error = gw_serve_note_vm(serve, vm->run_dir, vm->ram_dir);
    if (!error)
        error = make_vmm(vm, offer, reasons);
    if (!error)
        error = begin(vm, is_paused);
    if (!error && vm->switchover.machine.state != GW_HANDOVER_RECEIVING)
        error = gw_error_raise(&vm->switchover.cause);
    if (!error)
        json_object_set_new(reply, "target", describe_target(vm));
    return error;
}

/* The epoch is the source's choice; one that the journal knows is another move's, whose record must
 * not be replaced. */
static int check_epoch(const struct gw_serve *serve)
{
    struct gw_journal_entry entry;
    int error = gw_journal_find(serve->environment->journal, serve->epoch, GW_SIDE_TARGET, &entry);

    if (error)
        return error == -ENOENT ? 0 : error;
    gw_journal_entry_free(&entry);
    return gw_fail(-EEXIST, "a move with the id %s was here already: try again", serve->epoch);
}

int gw_serve_vm_offer(struct gw_serve *serve, const json_t *offer, json_t *reply)
{
    struct gw_serve_vm *vm = calloc(1, sizeof(*vm));
    struct gw_reasons reasons = {0};
    json_t *list;
    int error;

    if (!vm)
        return gw_fail(-ENOMEM, "no memory for a VM");
    vm->serve = serve;
    vm->state_fds[0] = vm->state_fds[1] = -1;
    vm->steps.launched.pid_fd = -1;
    serve->vm = vm;
    if (!serve->environment->journal || !serve->environment->attended)
        return gw_fail(-ENOTSUP, "this agent has no state folder and receives no VMs");
    error = gw_attend(serve->environment->attended, serve->epoch, GW_SIDE_TARGET);
    vm->is_attended = !error;
    if (!error)
        error = check_epoch(serve);
    if (!error)
        error = make_ready(vm, offer, reply, &reasons);
    if (error) {
        if (reasons.count == 0)
            gw_reasons_add(&reasons, "%s", gw_error_message());
        gw_fail(error, "%s", reasons.lines[0]);
        list = gw_reasons_json(&reasons);
        error = gw_message_send_blocked(serve->control, error, list);
        json_decref(list);
        serve->is_told = true;
    }
    gw_reasons_free(&reasons);
    return error;
}

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
    int error = join_memories(vm);

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

static int do_step(struct gw_serve_vm *vm, enum gw_handover_action action)
{
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
        gw_serve_drop_volumes(vm->serve, vm->serve->keeps_parts);
        return gw_target_steps_act(&vm->steps, action);
    default:
        return gw_target_steps_act(&vm->steps, action);
    }
}

static int act(void *context, enum gw_handover_action action)
{
    struct gw_serve_vm *vm = context;
    int error = do_step(vm, action);

    /* The words go to the source before the machine says what follows. */
    if (error && vm->switchover.control && !vm->switchover.cause.code)
        gw_message_send_error(vm->switchover.control, error);
    return error;
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
static int reopen(struct gw_serve *serve, const char *epoch)
{
    struct gw_journal_entry entry;
    struct gw_serve_vm *vm;
    int error;

    if (!serve->environment->journal || !serve->environment->attended)
        return gw_fail(-ENOTSUP, "this agent has no state folder and knows no moves");
    error = take_up(serve, epoch);
    if (error)
        return error;
    error = find_own(serve, epoch, &entry);
    vm = error ? NULL : calloc(1, sizeof(*vm));
    if (!error && !vm)
        gw_journal_entry_free(&entry);
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
    vm->steps.epoch = serve->epoch;
    vm->steps.detail = json_incref(entry.detail);
    gw_target_steps_reconnect(&vm->steps);
    vm->switchover.side = GW_SIDE_TARGET;
    vm->switchover.journal = serve->environment->journal;
    vm->switchover.progress = serve->progress;
    vm->switchover.control = serve->control;
    vm->switchover.detail = vm->steps.detail;
    vm->switchover.act = act;
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

/* The note of an earlier session: one that promises nothing goes with the end of the move. */
static void drop_note(struct gw_serve *serve, const char *epoch, bool is_kept)
{
    struct gw_partial partial = {.detail = NULL};

    if (gw_partial_read(serve->environment, epoch, GW_SIDE_TARGET, &partial) == 0 &&
        partial.is_kept == is_kept) {
        if (is_kept)
            gw_partial_drop(serve->environment, &partial);
        else
            gw_partial_forget(serve->environment, epoch, GW_SIDE_TARGET);
    }
    gw_partial_free(&partial);
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
        error = reopen(serve, epoch);
        if (error == -ENOENT && is_given_up(message))
            gw_serve_drop_copy(serve, epoch);
        if (error == -ENOENT)
            return gw_message_send(serve->control,
                                   json_pack("{s:s,s:s,s:s}", "type", "handover", "message",
                                             gw_handover_event_name(GW_EVENT_UNKNOWN), "epoch",
                                             epoch));
        if (error)
            return error;
    }
    if (!serve->vm->vm && is_given_up(message))
        drop_note(serve, epoch, true);
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
    gw_serve_drop_volumes(vm->serve, false);
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
                         serve->can_keep && serve->partial.is_kept && gw_partial_is_loss(why->code);
    vm->steps.keeps_parts = serve->keeps_parts;
    /* It came first: what ended the conversation only followed. */
    if (vm->is_begun && switchover->cause.code)
        *why = switchover->cause;
    join_memories(vm);
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
            drop_note(serve, serve->epoch, false);
    }
    /* What was to go went with DISCARD. Every other state, a lost owner's too, may need its images.
     */
    gw_serve_drop_volumes(serve, true);
    gw_vm_leave(&vm->steps.launched);
    if (vm->is_attended)
        gw_unattend(serve->environment->attended, serve->epoch, GW_SIDE_TARGET);
    json_decref(vm->steps.detail);
    json_decref(switchover->peer_times);
    gw_vm_free(vm->vm);
    free(vm);
    serve->vm = NULL;
}
