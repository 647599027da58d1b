/* SPDX-License-Identifier: Apache-2.0 */
/* What the VM is, what the target is told of it, and its volumes on this side. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "engine/handover/renames.h"
#include "engine/session/move.h"
#include "engine/session/offer.h"
#include "engine/session/process.h"
#include "engine/session/storage.h"
#include "engine/vmm/qemu/plan.h"

/* Can it be read, beside QEMU or through it? */
static void check_format(struct gw_move *move, const struct gw_vm_disk *disk)
{
    enum gw_image_format format;
    struct gw_nbd_image image;

    if (gw_nbd_format_is_known(disk->format)) {
        /* What QEMU itself tells of a qcow2 is told already, and better. */
        if (move->reasons.count == 0 && gw_nbd_image_check(disk->path, disk->format, &image))
            gw_reasons_add(&move->reasons, "disk %s: %s", disk->name, gw_error_message());
        return;
    }
    if (gw_image_format_parse(disk->format, &format) || format == GW_IMAGE_PROBE) {
        gw_reasons_add(
            &move->reasons,
            "disk %s is a %s image: a disk in use must be raw, VHDX, qcow2, VDI or VMDK; "
            "convert it with qemu-img first",
            disk->name, disk->format);
    }
}

static void check_disks(struct gw_move *move)
{
    for (unsigned i = 0; i < move->vm->disk_count; i++)
        check_format(move, &move->vm->disks[i]);
    for (unsigned i = 0; i < move->request->disk_count; i++)
        if (!gw_vm_find_disk(move->vm, move->request->disks[i].from))
            gw_reasons_add(&move->reasons, "--disk %s=...: the VM has no disk of that name",
                           move->request->disks[i].from);
    for (unsigned i = 0; i < move->vm->disk_count; i++)
        if (gw_disk_swap_prepare(&move->vm->disks[i], i, &move->swaps[i]))
            gw_reasons_add(&move->reasons, "%s", gw_error_message());
    move->swap_count = move->vm->disk_count;
}

static void check_mappers(struct gw_move *move)
{
    for (unsigned i = 0; i < move->vm->memory_count; i++) {
        struct gw_mapper mappers[64];
        int fd, count;

        if (gw_vm_memory_open(&move->vm->memories[i], O_RDONLY, &fd)) {
            gw_reasons_add(&move->reasons, "%s", gw_error_message());
            continue;
        }
        count = gw_mappers_find(fd, mappers, (int)GW_ARRAY_LENGTH(mappers));
        if (count < 0)
            gw_reasons_add(&move->reasons, "%s", gw_error_message());
        close(fd);
    }
}

int gw_move_describe(struct gw_move *move)
{
    int error = gw_qmp_open(move->request->qmp_path, &move->qmp);

    /* First, so that nothing which happens from here on is missed. */
    if (!error)
        error = gw_vm_watch_open(move->qmp, true, &move->watch);
    if (!error)
        error = gw_source_steps_hold(move->qmp, &move->steps.pid_fd);
    move->steps.qmp = move->qmp;
    if (!error)
        error = gw_move_load_older(move);
    if (!error)
        error = gw_vm_describe(move->qmp, &move->reasons, &move->vm);
    if (error)
        return error;
    move->watch.is_running = move->vm->is_running;
    move->is_told_paused = !move->vm->is_running;
    check_disks(move);
    check_mappers(move);
    error = gw_plan_source(move->qmp, move->vm, &move->reasons);
    if (error)
        return error;
    if (move->reasons.count > 0)
        return gw_reasons_fail(&move->reasons, -EPERM);
    return gw_vm_read_settings(move->qmp, &move->settings);
}

/* ---- the offer ---- */

static const char *wanted_path(const struct gw_move *move, const struct gw_vm_disk *disk)
{
    for (unsigned i = 0; i < move->request->disk_count; i++)
        if (gw_vm_find_disk(move->vm, move->request->disks[i].from) == disk)
            return move->request->disks[i].to;
    return NULL;
}

/* What the new image is to be: of a format that QEMU reads for us its size on disk counts. */
static void offer_image(const struct gw_move *move, unsigned index, struct gw_offered_volume *out)
{
    const struct gw_vm_disk *disk = &move->vm->disks[index];
    const struct gw_image_info *info;
    struct stat status;

    if (gw_nbd_format_is_known(disk->format)) {
        memcpy(out->foreign, disk->format, sizeof(out->foreign));
        out->block_size = disk->cluster_size;
        out->data_bytes = stat(disk->path, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
        out->data_bytes = gw_min(out->data_bytes, out->size);
        return;
    }
    info = gw_disk_source_info(move->volumes[index]);
    out->data_bytes = gw_min(info->file_size, out->size);
    out->format = info->format;
    out->is_fixed = info->is_fixed;
    out->block_size = info->block_size;
    out->logical_sector_size = info->logical_sector_size;
    out->physical_sector_size = info->physical_sector_size;
    out->has_disk_id = info->format == GW_IMAGE_VHDX;
    memcpy(out->disk_id, info->disk_id, sizeof(out->disk_id));
}

static int offer_disk(const struct gw_move *move, unsigned index, json_t **out)
{
    const struct gw_vm_disk *disk = &move->vm->disks[index];
    const char *path = wanted_path(move, disk);
    const char *folder = move->request->target_storage;
    struct gw_offered_volume offered = {
        .kind = GW_VOLUME_DISK,
        .size = move->volumes[index]->size,
    };

    offer_image(move, index, &offered);
    snprintf(offered.name, sizeof(offered.name), "%s", disk->name);
    snprintf(offered.file_name, sizeof(offered.file_name), "%s", disk->file_name);
    if (path)
        snprintf(offered.target, sizeof(offered.target), "%s", path);
    else if (folder)
        snprintf(offered.target, sizeof(offered.target), "%s/", folder);
    /* A running VM has no other identity: what its disk holds is compared. */
    snprintf(offered.source, sizeof(offered.source), "disk %s of the VM %s", disk->name,
             move->vm->name);
    *out = gw_offer_volume(&offered);
    return 0;
}

static json_t *offer_volumes(const struct gw_move *move)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < move->volume_count; i++) {
        struct gw_offered_volume offered = {.kind = GW_VOLUME_RAM, .size = move->volumes[i]->size};
        json_t *item;

        if (move->volumes[i]->kind == GW_VOLUME_DISK) {
            offer_disk(move, i, &item);
        } else {
            snprintf(offered.name, sizeof(offered.name), "%s", move->volumes[i]->name);
            item = gw_offer_volume(&offered);
            json_object_set_new(item, "filled", gw_offer_filled(move->volumes[i]));
        }
        json_array_append_new(list, item);
    }
    return list;
}

static json_t *offer_nets(const struct gw_move *move)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < move->request->net_count; i++)
        json_array_append_new(list, json_pack("{s:s,s:s}", "from", move->request->nets[i].from,
                                              "to", move->request->nets[i].to));
    return list;
}

/* An image in a file loses its name at the handover; a device cannot. */
static void warn_of_devices(const struct gw_move *move, json_t *volumes)
{
    json_t *item;
    size_t index;

    json_array_foreach(volumes, index, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        const char *other = json_string_value(json_object_get(item, "warning"));
        const struct gw_vm_disk *disk = name ? gw_vm_find_disk(move->vm, name) : NULL;

        if (disk && gw_rename_is_device(disk->path))
            json_object_set_new(
                item, "warning",
                json_sprintf("disk %s: %s is a device and keeps its name: see to it "
                             "that nothing on this host starts the VM again%s%s",
                             disk->name, disk->path, other ? "; " : "", other ? other : ""));
    }
}

int gw_move_offer(struct gw_move *move)
{
    json_t *vm, *cpu, *offer, *reply;
    int error = gw_plan_cpu(move->qmp, move->vm, &cpu);

    if (error)
        return error;
    error = gw_vm_to_json(move->vm, &vm);
    if (error) {
        json_decref(cpu);
        return error;
    }
    offer = json_pack("{s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:b}", "type", "offer", "kind", "move", "epoch",
                      move->source->epoch, "vm", vm, "cpu", cpu, "volumes", offer_volumes(move),
                      "nets", offer_nets(move), "paused", !move->vm->is_running);
    gw_move_offer_partial(move, offer);
    json_object_set_new(offer, "reconnect_s", json_integer(move->source->reconnect_s));
    error = gw_source_exchange(move->source, offer, "accepted", &reply);
    if (error)
        return error;
    json_object_set(move->out->detail, "volumes", json_object_get(reply, "volumes"));
    warn_of_devices(move, json_object_get(reply, "volumes"));
    gw_offer_note_warnings(json_object_get(reply, "volumes"), move->progress);
    json_object_set(move->out->detail, "target", json_object_get(reply, "target"));
    /* What is kept changes hands last: had the channels failed then, the note of neither attempt would stay. The target
     * knows the earlier one's name still. */
    error = gw_source_open_channels(move->source, reply);
    if (!error)
        error = gw_move_take_kept(move, reply);
    json_decref(reply);
    return error;
}

/* ---- volumes ---- */

static int collect_disk(void *context, struct gw_bitmap *dirty)
{
    return gw_disk_tracker_collect(context, dirty);
}

/* A stop has QEMU write out what it knows of its images. A guest that is stopped wrote nothing
 * since. */
static int settle(void *context)
{
    struct gw_move *move = context;
    int error;

    if (move->watch.is_held)
        return 0;
    error = gw_move_stop(move);
    return error ? error : gw_move_cont(move);
}

/* An image that only QEMU reads: through QEMU's own server, or, where that would abort (see
 * gw_disk_export_open), through a qemu-nbd beside it. */
static int open_foreign(struct gw_move *move, unsigned index)
{
    const struct gw_vm_disk *disk = &move->vm->disks[index];
    struct gw_disk_export *made = &move->exports[index];
    struct gw_nbd_source_options options = {.name = disk->name,
                                            .socket = made->socket,
                                            .export = made->id,
                                            .size = disk->virtual_size,
                                            .dirty = &move->dirty[index]};
    int error = 0;

    if (disk->is_on_iothread) {
        snprintf(move->read_paths[index], PATH_MAX, "%s", disk->path);
        options.path = move->read_paths[index];
        options.format = disk->format;
        options.settle = settle;
        options.settle_context = move;
    } else {
        error = gw_disk_export_open(move->qmp, disk, index, move->socket_dir, made);
    }
    return error ? error : gw_nbd_source_open(&options, &move->volumes[move->volume_count++]);
}

static int open_disk(struct gw_move *move, unsigned index)
{
    const struct gw_vm_disk *disk = &move->vm->disks[index];
    struct gw_disk_source_options options = {
        .name = disk->name, .path = disk->path, .dirty = &move->dirty[index]};
    /* The bitmap first, then the allocation: what is written in between is in both. */
    int error = gw_move_open_tracker(move, index);

    if (error)
        return error;
    move->dirty[index] =
        (struct gw_disk_dirty){.collect = collect_disk, .context = move->trackers[index]};
    if (gw_nbd_format_is_known(disk->format))
        return open_foreign(move, index);
    error = gw_image_format_parse(disk->format, &options.format);
    if (error)
        return error;
    return gw_disk_source_open(&options, &move->volumes[move->volume_count++]);
}

static int open_memory(struct gw_move *move, const struct gw_vm_memory *memory)
{
    struct gw_ram_source_options options = {.name = memory->id,
                                            .size = memory->size,
                                            .vmm_pid = move->vm->pid,
                                            .sees_holes = move->request->verify};
    int error;

    options.is_one_of_several = move->vm->memory_count > 1;
    error = gw_vm_memory_open(memory, O_RDONLY, &options.fd);

    if (!error && move->request->tracker)
        error = gw_tracker_kind_parse(move->request->tracker, &options.tracker);
    if (!error)
        error = gw_ram_source_open(&options, &move->volumes[move->volume_count]);
    if (error)
        return error;
    move->volumes[move->volume_count++]->is_punched = gw_plan_punches_memory(move->vm, memory);
    return 0;
}

/* Files, which lose their names, and devices, which cannot. */
static int list_disks(const struct gw_move *move, json_t *images, json_t *devices)
{
    for (unsigned i = 0; i < move->vm->disk_count; i++) {
        const char *path = move->vm->disks[i].path;

        if (json_array_append_new(gw_rename_is_device(path) ? devices : images, json_string(path)))
            return gw_fail(-EILSEQ, "%s: no memory for this path, or it is not UTF-8 text", path);
    }
    return 0;
}

/* All that an undo has: what is missing in it would be missing when the agent is gone. */
static int make_detail(struct gw_move *move, json_t **out)
{
    json_t *images = json_array(), *devices = json_array(), *undo = json_array();
    json_t *ram = json_array();
    char peer[GW_ADDRESS_TEXT_MAX], qmp[PATH_MAX], log[PATH_MAX], process[GW_PROCESS_TEXT_MAX];
    int error = gw_process_identify(move->vm->pid, process, sizeof(process));

    if (!error)
        error = list_disks(move, images, devices);
    for (unsigned i = 0; !error && i < move->swap_count; i++)
        error = gw_disk_swap_undo(&move->swaps[i], undo);
    for (unsigned i = 0; !error && i < move->vm->memory_count; i++)
        if (gw_source_steps_own_memory(&move->vm->memories[i]) &&
            json_array_append_new(ram, json_string(move->vm->memories[i].path)))
            error = gw_fail(-ENOMEM, "no memory for a path");
    if (error) {
        json_decref(images);
        json_decref(devices);
        json_decref(undo);
        json_decref(ram);
        return error;
    }
    gw_address_format(&move->request->peer, peer, sizeof(peer));
    if (!realpath(move->request->qmp_path, qmp))
        snprintf(qmp, sizeof(qmp), "%s", move->request->qmp_path);
    snprintf(log, sizeof(log), "%s/guard-%s.log", move->environment->state_dir,
             move->source->epoch);
    *out = json_pack("{s:s,s:s,s:i,s:s,s:s,s:o,s:o,s:o,s:o,s:b,s:b,s:b,s:s,s:O}", "peer", peer,
                     "qmp", qmp, "pid", (int)move->vm->pid, "process", process, "vm",
                     move->vm->name, "images", images, "devices", devices, "undo", undo, "ram", ram,
                     "paused", !move->vm->is_running, "held", 0, "delete",
                     move->request->delete_source, "log", log, "settings", move->settings);
    return *out ? 0 : gw_fail(-EILSEQ, "no memory for the undo, or a name is not UTF-8 text");
}

static int open_guard(struct gw_move *move)
{
    struct gw_guard_options options = {
        .vmm_pid = move->vm->pid,
        .is_guest_paused = !move->vm->is_running,
        .timeout_ms = (int)gw_min(gw_move_patience_ms(move), GW_SLOW_REPLY_TIMEOUT_MS)};
    int error = make_detail(move, &move->steps.detail);

    if (error)
        return error;
    move->steps.epoch = move->source->epoch;
    options.qmp_path = json_string_value(json_object_get(move->steps.detail, "qmp"));
    options.log_path = json_string_value(json_object_get(move->steps.detail, "log"));
    return gw_guard_start(&options, &move->guard);
}

static int make_socket_dir(struct gw_move *move)
{
    char path[GW_PARTIAL_SOCKETS_MAX];

    gw_partial_sockets(move->source->epoch, path);
    if (mkdir(path, 0700))
        return gw_fail_write(-errno, "no folder for QEMU's socket: %s", path);
    memcpy(move->socket_dir, path, sizeof(path));
    return 0;
}

int gw_move_open_volumes(struct gw_move *move)
{
    /* The note before anything is made or changed, the guard before the guest is ever stopped (opening a
     * disk may do that). */
    int error = gw_move_begin_partial(move);

    if (!error)
        error = make_socket_dir(move);
    if (!error)
        error = gw_vm_prepare_source(move->qmp);
    if (!error)
        error = open_guard(move);
    move->steps.guard = move->guard;
    for (unsigned i = 0; !error && i < move->vm->disk_count; i++)
        error = open_disk(move, i);
    for (unsigned i = 0; !error && i < move->vm->memory_count; i++)
        error = open_memory(move, &move->vm->memories[i]);
    for (unsigned i = 0; !error && i < move->volume_count; i++)
        gw_sender_add_volume(move->source->sender, (uint16_t)i, move->volumes[i]);
    return error;
}

/* Once begun, the state machine undoes. Before, a guest stands still only while a disk is opened. */
static void let_go_early(struct gw_move *move)
{
    if (!move->is_begun && move->watch.is_held && gw_vm_let_go(move->qmp))
        gw_log(GW_LOG_ERROR, "%s stands still and could not be continued (cont in its monitor): %s",
               move->vm->name, gw_error_message());
}

void gw_move_close(struct gw_move *move)
{
    let_go_early(move);
    if (!move->is_begun && move->settings)
        gw_vm_restore_settings(move->qmp, move->settings);
    gw_precopy_free(move->precopy);
    gw_source_close(move->source);
    for (unsigned i = 0; i < move->volume_count; i++)
        if (move->volumes[i])
            move->volumes[i]->ops->close(move->volumes[i]);
    for (unsigned i = 0; move->vm && i < move->vm->disk_count; i++)
        gw_disk_export_close(&move->exports[i]);
    for (unsigned i = 0; move->vm && i < move->vm->disk_count; i++)
        gw_disk_tracker_close(move->trackers[i]);
    for (unsigned i = 0; i < move->swap_count; i++)
        gw_disk_swap_free(&move->swaps[i]);
    gw_guard_stop(move->guard);
    if (move->steps.detail &&
        (!move->is_begun || gw_handover_is_ended(move->switchover.machine.state)))
        gw_guard_close_log(json_string_value(json_object_get(move->steps.detail, "log")));
    /* A QEMU that has ended leaves its socket behind. */
    if (move->socket_dir[0])
        gw_folder_remove(move->socket_dir);
    gw_vm_free(move->vm);
    gw_vm_watch_close(&move->watch);
    gw_qmp_close(move->qmp);
    gw_move_close_partial(move);
    if (move->steps.pid_fd >= 0)
        close(move->steps.pid_fd);
    gw_reasons_free(&move->reasons);
    json_decref(move->steps.detail);
    json_decref(move->settings);
}
