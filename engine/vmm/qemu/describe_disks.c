/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks as QEMU has them now: which node each device reads and writes, which file lies beneath it,
 * and with which options. The command line only adds what QMP does not tell (aio and discard).
 */
#include "engine/vmm/qemu/describe.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/allow.h"
#include "engine/vmm/qemu/disks.h"

struct context {
    const struct gw_line *line;
    const json_t *nodes; /* query-named-block-nodes */
    struct gw_vm *vm;
    struct gw_reasons *refused;
};

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name)) ?: "";
}

static const json_t *find_node(const json_t *nodes, const char *name)
{
    json_t *node;
    size_t index;

    json_array_foreach(nodes, index, node)
    {
        if (*name && strcmp(text_of(node, "node-name"), name) == 0)
            return node;
    }
    return NULL;
}

static bool is_protocol(const char *driver)
{
    return gw_allow_word("file host_device", driver);
}

/* The protocol node that has that file open, other than except. */
static const json_t *find_file_node(const struct context *context, const char *file,
                                    const char *except)
{
    json_t *node;
    size_t index;

    json_array_foreach(context->nodes, index, node)
    {
        if (is_protocol(text_of(node, "drv")) && strcmp(text_of(node, "file"), file) == 0 &&
            strcmp(text_of(node, "node-name"), except) != 0)
            return node;
    }
    return NULL;
}

/* Where query-block's "qdev" points: the device whose property "drive" names the node. */
static void device_path(const char *qdev, char *path, size_t size)
{
    static const char inner[] = "/virtio-backend";
    size_t length;

    if (qdev[0] == '/')
        snprintf(path, size, "%s", qdev);
    else
        snprintf(path, size, "/machine/peripheral/%s", qdev);
    length = strlen(path);
    if (length > strlen(inner) && strcmp(path + length - strlen(inner), inner) == 0)
        path[length - strlen(inner)] = '\0';
}

static bool find_device(const struct gw_vm *vm, const char *path, uint32_t *index)
{
    char other[160];

    for (unsigned i = 0; i < vm->device_count; i++) {
        gw_vm_device_path(vm, i, other, sizeof(other));
        if (strcmp(other, path) == 0) {
            *index = i;
            return true;
        }
    }
    return false;
}

/* Drives that the machine made a disk for are found by the name that QEMU gives them. */
static const struct gw_line_drive *find_ide_drive(const struct context *context, const char *name)
{
    unsigned per_bus = strncmp(context->vm->machine, "pc-q35", 6) == 0 ? 1 : 2;

    for (unsigned i = 0; i < context->line->drive_count; i++) {
        const struct gw_line_drive *drive = &context->line->drives[i];
        char automatic[32];

        if (!drive->is_ide)
            continue;
        snprintf(automatic, sizeof(automatic), "ide%u-%s%u", drive->unit / per_bus,
                 drive->is_cdrom ? "cd" : "hd", drive->unit % per_bus);
        if (strcmp(drive->id[0] ? drive->id : automatic, name) == 0)
            return drive;
    }
    return NULL;
}

/* Does QEMU have that very file open? Guards against another mount namespace and replaced files. */
static bool has_open(pid_t pid, const struct stat *status)
{
    char folder[64], path[400];
    struct dirent *entry;
    struct stat other;
    bool is_open = false;
    DIR *descriptors;

    snprintf(folder, sizeof(folder), "/proc/%d/fd", (int)pid);
    descriptors = opendir(folder);
    if (!descriptors)
        return false;
    while (!is_open && (entry = readdir(descriptors))) {
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        is_open = entry->d_name[0] != '.' && stat(path, &other) == 0 &&
                  other.st_dev == status->st_dev && other.st_ino == status->st_ino;
    }
    closedir(descriptors);
    return is_open;
}

static void set_path(const struct context *context, struct gw_vm_disk *disk, const char *file)
{
    char folder[512] = "", link[64];
    struct stat status;
    const char *name;
    ssize_t length;

    if (file[0] != '/') {
        snprintf(link, sizeof(link), "/proc/%d/cwd", (int)context->vm->pid);
        length = readlink(link, folder, sizeof(folder) - 2);
        folder[length > 0 ? length : 0] = '\0';
        strcat(folder, "/");
    }
    if (strlen(folder) + strlen(file) >= sizeof(disk->path)) {
        gw_reasons_add(context->refused, "disk %s: its path is too long", disk->name);
        return;
    }
    snprintf(disk->path, sizeof(disk->path), "%s%s", folder, file);
    name = strrchr(disk->path, '/') + 1;
    snprintf(disk->file_name, sizeof(disk->file_name), "%s", name);
    if (stat(disk->path, &status) < 0)
        gw_reasons_add(context->refused, "disk %s: %s: %s", disk->name, disk->path,
                       strerror(errno));
    else if (!has_open(context->vm->pid, &status))
        gw_reasons_add(context->refused,
                       "disk %s: %s is not the file that QEMU has open; it was "
                       "replaced, or QEMU sees other mounts",
                       disk->name, disk->path);
}

static bool on_iothread(const struct gw_vm *vm, const struct gw_vm_disk *disk)
{
    const struct gw_vm_item *device;
    const char *bus;

    if (disk->is_machine_ide)
        return false;
    device = &vm->devices[disk->device_index];
    if (gw_vm_property_get(&device->properties, "iothread"))
        return true;
    bus = gw_vm_property_get(&device->properties, "bus");
    for (unsigned i = 0; i < vm->device_count; i++) {
        const struct gw_vm_item *parent = &vm->devices[i];
        size_t length = strlen(parent->id);

        if (strcmp(parent->kind, "virtio-scsi-pci") == 0 &&
            gw_vm_property_get(&parent->properties, "iothread") &&
            strncmp(device->kind, "scsi-", 5) == 0 &&
            (!bus || length == 0 || (strncmp(bus, parent->id, length) == 0 && bus[length] == '.')))
            return true;
    }
    return false;
}

/* aio and discard: from the command line, or from the name of a node that godwit made itself. */
static void set_hidden_options(const struct context *context, struct gw_vm_disk *disk,
                               const char *drive_name)
{
    const struct gw_line_drive *drive = gw_line_find_drive(context->line, drive_name);
    const struct gw_line_drive *node = gw_line_find_drive(context->line, disk->node);

    snprintf(disk->aio, sizeof(disk->aio), "threads");
    if (gw_disk_node_name_parse(disk->node, disk))
        return;
    if (disk->is_machine_ide)
        drive = find_ide_drive(context, drive_name);
    if (!drive)
        drive = node;
    if (drive) {
        disk->is_discard = drive->is_discard;
        if (drive->aio[0])
            memcpy(disk->aio, drive->aio, sizeof(disk->aio));
    }
    /* -blockdev in two parts: aio belongs to the node of the file. */
    if (node && node->child[0] && gw_line_find_drive(context->line, node->child)) {
        const struct gw_line_drive *child = gw_line_find_drive(context->line, node->child);

        if (child->aio[0])
            memcpy(disk->aio, child->aio, sizeof(disk->aio));
    }
}

static void set_nodes(const struct context *context, struct gw_vm_disk *disk,
                      const json_t *inserted)
{
    const char *file = text_of(inserted, "file"), *driver = text_of(inserted, "drv");
    const json_t *cache = json_object_get(inserted, "cache");
    const json_t *node;

    snprintf(disk->node, sizeof(disk->node), "%s", text_of(inserted, "node-name"));
    snprintf(disk->format, sizeof(disk->format), "%s", is_protocol(driver) ? "raw" : driver);
    node = is_protocol(driver) ? find_node(context->nodes, disk->node)
                               : find_file_node(context, file, disk->node);
    if (!node || strncmp(file, "json:", 5) == 0) {
        gw_reasons_add(
            context->refused,
            "disk %s: what lies beneath it (%s, %.100s) is neither a file nor a block device "
            "of this host",
            disk->name, driver, file);
        return;
    }
    cache = json_object_get(node, "cache") ?: cache;
    disk->is_direct = json_is_true(json_object_get(cache, "direct"));
    disk->is_no_flush = json_is_true(json_object_get(cache, "no-flush"));
    snprintf(disk->file_driver, sizeof(disk->file_driver), "%s", text_of(node, "drv"));
    if (!is_protocol(driver))
        snprintf(disk->file_node, sizeof(disk->file_node), "%s", text_of(node, "node-name"));
    set_path(context, disk, file);
}

static unsigned count_persistent(const json_t *bitmaps)
{
    unsigned count = 0;
    json_t *bitmap;
    size_t index;

    json_array_foreach((json_t *)bitmaps, index, bitmap)
    {
        count += json_is_true(json_object_get(bitmap, "persistent"));
    }
    return count;
}

/* What an image holds besides the disk's bytes does not arrive with them. */
static void refuse_extras(const struct context *context, const struct gw_vm_disk *disk,
                          const json_t *inserted)
{
    const json_t *image = json_object_get(inserted, "image");
    const json_t *specific = json_object_get(json_object_get(image, "format-specific"), "data");
    size_t snapshots = json_array_size(json_object_get(image, "snapshots"));
    unsigned bitmaps = count_persistent(json_object_get(inserted, "dirty-bitmaps"));

    if (snapshots > 0)
        gw_reasons_add(context->refused,
                       "disk %s: the %zu snapshots within its image (the first is \"%.64s\") would "
                       "be lost; delete them with qemu-img snapshot -d or QMP first",
                       disk->name, snapshots,
                       text_of(json_array_get(json_object_get(image, "snapshots"), 0), "name"));
    if (bitmaps > 0)
        gw_reasons_add(context->refused,
                       "disk %s: the %u persistent bitmaps within its image (of backups?) would be "
                       "lost; remove them with block-dirty-bitmap-remove first",
                       disk->name, bitmaps);
    if (json_object_get(specific, "data-file"))
        gw_reasons_add(context->refused,
                       "disk %s: its data lies in a file beside the image (%.200s); convert it to "
                       "a single image first",
                       disk->name, text_of(specific, "data-file"));
    if (json_is_true(json_object_get(specific, "corrupt")))
        gw_reasons_add(context->refused,
                       "disk %s: its image is marked corrupt; repair it with qemu-img check -r all",
                       disk->name);
}

static void set_common(const struct context *context, struct gw_vm_disk *disk,
                       const json_t *inserted)
{
    const json_t *image = json_object_get(inserted, "image");

    disk->virtual_size = (uint64_t)json_integer_value(json_object_get(image, "virtual-size"));
    disk->is_read_only = json_is_true(json_object_get(inserted, "ro"));
    snprintf(disk->detect_zeroes, sizeof(disk->detect_zeroes), "%.7s",
             text_of(inserted, "detect_zeroes"));
    if (json_integer_value(json_object_get(inserted, "backing_file_depth")) > 0)
        gw_reasons_add(context->refused,
                       "disk %s: a chain of images is not moved; flatten it first", disk->name);
    if (json_is_true(json_object_get(inserted, "encrypted")))
        gw_reasons_add(context->refused,
                       "disk %s: encrypted images are not moved yet; decrypt it with qemu-img "
                       "convert first",
                       disk->name);
    refuse_extras(context, disk, inserted);
    disk->cluster_size = (uint32_t)json_integer_value(json_object_get(image, "cluster-size"));
    set_nodes(context, disk, inserted);
}

/* Ids may hold "#" (QEMU's own) or be missing; people and the peer need one that is well formed. */
static void set_name(const struct gw_vm *vm, struct gw_vm_disk *disk, const char *drive,
                     const char *node)
{
    if (gw_id_is_valid(drive))
        snprintf(disk->name, sizeof(disk->name), "%s", drive);
    else if (gw_id_is_valid(disk->device))
        memcpy(disk->name, disk->device, sizeof(disk->name));
    else if (gw_id_is_valid(node))
        snprintf(disk->name, sizeof(disk->name), "%s", node);
    else
        snprintf(disk->name, sizeof(disk->name), "disk%u", (unsigned)(disk - vm->disks));
}

static int describe_one(const struct context *context, const json_t *entry)
{
    const json_t *inserted = json_object_get(entry, "inserted");
    const char *drive_name = text_of(entry, "device");
    const struct gw_line_drive *ide;
    const struct gw_device_model *model = NULL;
    struct gw_vm *vm = context->vm;
    struct gw_vm_disk *disk = &vm->disks[vm->disk_count];
    char path[256];

    if (!inserted || !text_of(entry, "qdev")[0])
        return 0; /* an empty drive, or one that no device uses */
    device_path(text_of(entry, "qdev"), path, sizeof(path));
    ide = find_ide_drive(context, drive_name);
    if (vm->disk_count == GW_VM_DISKS_MAX)
        return gw_fail(-E2BIG, "more than %u disks", GW_VM_DISKS_MAX);
    memset(disk, 0, sizeof(*disk));
    if (find_device(vm, path, &disk->device_index)) {
        model = gw_allow_device(vm->devices[disk->device_index].kind);
        memcpy(disk->device, vm->devices[disk->device_index].id, sizeof(disk->device));
    } else if (ide) {
        disk->is_machine_ide = true;
        disk->unit = ide->unit;
    } else if (strncmp(path, "/machine/peripheral", 19) != 0) {
        gw_reasons_add(context->refused,
                       "drive %s (%s) has a medium in a drive that is not moved; eject "
                       "it",
                       drive_name, path);
        return 0;
    } else {
        return 0; /* hot-plugged or unknown: refused as a device already */
    }
    if ((model && (model->classes & GW_DEVICE_CDROM)) || (ide && ide->is_cdrom)) {
        gw_reasons_add(context->refused,
                       "CD-ROM %s has a medium in it (%.200s); eject it before the move",
                       drive_name[0] ? drive_name : disk->device, text_of(inserted, "file"));
        return 0;
    }
    vm->disk_count++;
    snprintf(disk->qom_path, sizeof(disk->qom_path), "%s", path);
    set_name(vm, disk, drive_name, text_of(inserted, "node-name"));
    set_common(context, disk, inserted);
    set_hidden_options(context, disk, drive_name);
    disk->is_on_iothread = on_iothread(vm, disk);
    return 0;
}

int gw_describe_disks(struct gw_qmp *qmp, const struct gw_line *line, struct gw_vm *vm,
                      struct gw_reasons *refused)
{
    struct context context = {.line = line, .vm = vm, .refused = refused};
    json_t *blocks = NULL, *nodes = NULL, *entry;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-block", NULL, &blocks);

    if (ret == 0)
        ret = gw_qmp_execute(qmp, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes);
    context.nodes = nodes;
    if (ret == 0) {
        json_array_foreach(blocks, index, entry)
        {
            ret = describe_one(&context, entry);
            if (ret < 0)
                break;
        }
    }
    json_decref(blocks);
    json_decref(nodes);
    return ret;
}
