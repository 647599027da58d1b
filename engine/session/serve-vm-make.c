/* SPDX-License-Identifier: Apache-2.0 */
/* The VM that an offer asks for: its description checked, its folders, memory and QEMU made, and the first
 * record of its handover. What follows is serve-vm.c's. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/json.h"
#include "engine/session/attended.h"
#include "engine/session/offer.h"
#include "engine/session/parts.h"
#include "engine/session/process.h"
#include "engine/session/serve-vm.h"
#include "engine/vmm/qemu/plan.h"
#include "engine/volume/ram.h"

#define DEFAULT_RAM_DIR "/dev/shm"

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
        return gw_fail_write(-errno, "cannot make the folder %s", path);
    *is_made = true;
    return 0;
}

static int make_folders(struct gw_serve_vm *vm)
{
    const struct gw_environment *environment = vm->serve->environment;
    const char *ram = environment->ram_dir ? environment->ram_dir : DEFAULT_RAM_DIR;
    char parent[GW_SERVE_PATH_SIZE];
    int error = 0;

    snprintf(parent, sizeof(parent), "%s/vm", environment->state_dir);
    if (mkdir(parent, 0700) && errno != EEXIST)
        error = gw_fail_write(-errno, "cannot make the folder %s", parent);
    /* UNIX sockets go in there: their paths are short. */
    if (snprintf(vm->run_dir, GW_SERVE_PATH_SIZE, "%s/%.*s", parent, GW_VM_FOLDER_DIGITS,
                 vm->serve->epoch) > 80)
        error = gw_fail(-ENAMETOOLONG,
                        "the state folder %s has too long a name for sockets: start "
                        "the agent with a shorter --state",
                        environment->state_dir);
    snprintf(vm->ram_dir, GW_SERVE_PATH_SIZE, "%s/godwit-%s", ram, vm->serve->epoch);
    if (!error)
        error = gw_serve_note_vm(
            vm->serve, json_pack("{s:s,s:s}", "run_dir", vm->run_dir, "ram_dir", vm->ram_dir));
    if (!error)
        error = make_own_folder(vm->run_dir, &vm->has_run_dir);
    if (!error)
        error = make_own_folder(vm->ram_dir, &vm->has_ram_dir);
    return error ? error : gw_serve_note_vm(vm->serve, json_pack("{s:b}", "made", 1));
}

/* The pages are set aside already; this gives them to our mapping before they are written, which costs
 * less, beside the start of QEMU and the first bytes of the disks. */
static void *populate(void *argument)
{
    struct gw_serve_vm *vm = argument;
    unsigned first = vm->vm->disk_count;
    uint64_t started = gw_clock_ns();
    int error = 0;

    for (unsigned i = 0; !error && i < vm->vm->memory_count; i++)
        if (!gw_vm_memory_is_plugged(vm->vm, &vm->vm->memories[i]))
            error = gw_offer_populate(json_array_get(vm->offered, first + i),
                                      vm->serve->volumes[first + i]);
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

int gw_serve_vm_join_memories(struct gw_serve_vm *vm)
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
        unsigned flags = gw_vm_memory_is_plugged(vm->vm, memory) ? GW_RAM_SPARSE : 0;

        if (!is_adopted)
            snprintf(vm->ram_paths[i], GW_SERVE_PATH_SIZE, "%.400s/%s", vm->ram_dir, memory->id);
        if (is_adopted)
            flags |= GW_RAM_FOREIGN;
        error = gw_ram_target_make(memory->id, vm->ram_paths[i], memory->size, flags, volume);
    }
    return error ? error : start_populating(vm, offer);
}

/* So that a restarted agent ends it: it may have as much memory as the VM, and no monitor yet. */
static int note_launched(pid_t pid, void *context)
{
    struct gw_serve_vm *vm = context;
    char process[GW_PROCESS_TEXT_MAX];
    int error = gw_process_identify(pid, process, sizeof(process));

    return error ? error
                 : gw_serve_note_vm(vm->serve,
                                    json_pack("{s:i,s:s}", "pid", (int)pid, "process", process));
}

static int start_vmm(struct gw_serve_vm *vm)
{
    const struct gw_environment *environment = vm->serve->environment;
    const char *paths[GW_VM_MEMORIES_MAX];
    struct gw_launch_options options = {
        .run_dir = vm->run_dir, .ram_paths = paths, .note = note_launched, .note_context = vm};

    for (unsigned i = 0; i < vm->vm->memory_count; i++)
        paths[i] = vm->ram_paths[i];
    if (environment->launch_hook)
        return gw_vm_launch_hook(environment->launch_hook, vm->vm, &options, &vm->steps.launched);
    return gw_vm_launch(vm->vm, &options, &vm->steps.launched);
}

/* A virtio-mem device has discarded its memory when it was made, and will discard what its guest has not
 * plugged when its state is loaded. Nothing is written to it until this host has answered the offer. */
static int set_memories_aside(struct gw_serve_vm *vm, const json_t *offer)
{
    const json_t *offered = json_object_get(offer, "volumes");
    unsigned first = vm->vm->disk_count;
    int error = 0;

    for (unsigned i = 0; !error && i < vm->vm->memory_count; i++)
        if (gw_vm_memory_is_plugged(vm->vm, &vm->vm->memories[i]))
            error = gw_offer_set_aside(json_array_get(offered, first + i),
                                       vm->serve->volumes[first + i]);
    return error;
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
    if (!error && !waiting)
        error = start_vmm(vm);
    return error ? error : set_memories_aside(vm, offer);
}

static int make_detail(struct gw_serve_vm *vm, bool is_paused)
{
    json_t *images = json_array(), *parts = json_array(), *ram = json_array();
    unsigned failures = gw_json_failures();
    json_t *files = json_array(), *folders = json_array();

    for (unsigned i = 0; i < vm->vm->disk_count; i++) {
        char part[PATH_MAX + 64];

        snprintf(part, sizeof(part), "%s.godwit-%s.part", vm->images[i],
                 gw_serve_part_epoch(vm->serve, i));
        json_array_append_new(images, json_string(vm->images[i]));
        json_array_append_new(parts, json_string(part));
        json_array_append_new(files, gw_part_identity(part));
        json_array_append_new(folders, gw_part_folder(part));
    }
    for (unsigned i = 0; vm->steps.launched.is_owned && i < vm->vm->memory_count; i++)
        json_array_append_new(ram, json_string(vm->ram_paths[i]));
    vm->steps.detail = json_pack(
        "{s:s,s:i,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:b,s:b,s:s}", "qmp", vm->steps.launched.qmp_path,
        "pid", (int)vm->steps.launched.pid, "run_dir", vm->run_dir, "ram_dir", vm->ram_dir,
        "images", images, "files", files, "folders", folders, "parts", parts, "ram", ram, "paused",
        is_paused, "owned", vm->steps.launched.is_owned, "vm", vm->vm->name);
    return vm->steps.detail && gw_json_failures() == failures
               ? 0
               : gw_fail(-ENOMEM, "no memory for what a restart needs");
}

/* So that it can be ended when its monitor does not answer. */
static int note_process(struct gw_serve_vm *vm)
{
    char process[GW_PROCESS_TEXT_MAX];
    int error = gw_process_identify(vm->steps.launched.pid, process, sizeof(process));

    if (!error && json_object_set_new(vm->steps.detail, "process", json_string(process)))
        error = gw_fail(-ENOMEM, "no memory for what a restart needs");
    return error;
}

static int begin(struct gw_serve_vm *vm, bool is_paused)
{
    struct gw_switchover *switchover = &vm->switchover;
    struct gw_serve *serve = vm->serve;
    int error = make_detail(vm, is_paused);

    if (!error)
        error = note_process(vm);
    vm->steps.epoch = serve->epoch;
    if (error)
        return error;
    switchover->side = GW_SIDE_TARGET;
    switchover->journal = serve->environment->journal;
    switchover->progress = serve->progress;
    switchover->control = serve->control;
    switchover->detail = vm->steps.detail;
    switchover->act = gw_serve_vm_act;
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
    char path[GW_SERVE_PATH_SIZE];

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
        error = gw_message_send_blocked(serve->control, error, list,
                                        serve->wants_resume && serve->is_older_gone);
        json_decref(list);
        serve->is_told = true;
    }
    gw_reasons_free(&reasons);
    return error;
}
