/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swaps images and null-co nodes under the devices of a stopped guest. Everything that brings a
 * disk back is worked out beforehand, as QMP commands that any process can run later.
 */
#include "engine/vmm/qemu/disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/vmm/qemu/describe.h"
#include "engine/vmm/qemu/migrate.h"

#define SWAP_CALLS 5u /* add, set, two that go, and the look */

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name)) ?: "";
}

/* QEMU makes names that begin with "#" itself and takes none from outside. */
static bool is_own_name(const char *node)
{
    return node[0] != '\0' && node[0] != '#';
}

int gw_disk_swap_prepare(const struct gw_vm_disk *disk, unsigned index, struct gw_disk_swap *out)
{
    struct gw_disk_swap swap = {0};
    struct gw_disk_image image = {.path = disk->path, .format = disk->format};
    int ret;

    if (disk->path[0] != '/' || disk->node[0] == '\0' || disk->qom_path[0] == '\0')
        return gw_fail(-ENOTSUP,
                       "disk %s: its image cannot be taken out of QEMU and brought back: what "
                       "it consists of is not known",
                       disk->name);
    memcpy(swap.name, disk->name, sizeof(swap.name));
    memcpy(swap.qom_path, disk->qom_path, sizeof(swap.qom_path));
    memcpy(swap.node, disk->node, sizeof(swap.node));
    memcpy(swap.file_node, disk->file_node, sizeof(swap.file_node));
    gw_disk_hold_name(index, swap.hold);
    if (is_own_name(disk->node))
        memcpy(swap.restored, disk->node, sizeof(swap.restored));
    else
        gw_disk_node_name(disk, index, swap.restored);
    image.is_block_device = strcmp(disk->file_driver, "host_device") == 0;
    image.node = swap.restored;
    image.file_node = is_own_name(disk->file_node) ? disk->file_node : NULL;
    ret = gw_disk_node_options(disk, &image, &swap.restore_options);
    if (ret < 0)
        return ret;
    swap.hold_options = gw_disk_hold_options(disk, swap.hold);
    if (!swap.hold_options) {
        gw_disk_swap_free(&swap);
        return gw_fail(-ENOMEM, "disk %s: no memory", disk->name);
    }
    *out = swap;
    return 0;
}

void gw_disk_swap_free(struct gw_disk_swap *swap)
{
    json_decref(swap->hold_options);
    json_decref(swap->restore_options);
    *swap = (struct gw_disk_swap){0};
}

static json_t *set_drive(const char *qom_path, const char *node)
{
    return json_pack("{s:s, s:s, s:s}", "path", qom_path, "property", "drive", "value", node);
}

int gw_disk_swap_undo(const struct gw_disk_swap *swap, json_t *commands)
{
    json_t *restore = json_deep_copy(swap->restore_options);

    /* The node of the file may be left behind alone, and would stand in the way of its new one. */
    if ((is_own_name(swap->file_node) &&
         json_array_append_new(
             commands, gw_qmp_command("blockdev-del",
                                      json_pack("{s:s}", "node-name", swap->file_node))) < 0) ||
        json_array_append_new(commands, gw_qmp_command("blockdev-add", restore)) < 0 ||
        json_array_append_new(
            commands, gw_qmp_command("qom-set", set_drive(swap->qom_path, swap->restored))) < 0 ||
        json_array_append_new(
            commands, gw_qmp_command("blockdev-del", json_pack("{s:s}", "node-name", swap->hold))) <
            0)
        return gw_fail(-ENOMEM, "disk %s: no memory for the undo list", swap->name);
    return 0;
}

static bool has_node(const json_t *nodes, const char *name)
{
    json_t *node;
    size_t index;

    json_array_foreach(nodes, index, node)
    {
        if (*name && strcmp(text_of(node, "node-name"), name) == 0)
            return true;
    }
    return false;
}

/* Deletes a node that belongs to the monitor. One that went with its device is no error. */
static void delete_node(struct gw_qmp *qmp, const char *name)
{
    if (is_own_name(name))
        gw_qmp_execute(qmp, "blockdev-del", json_pack("{s:s}", "node-name", name), NULL);
}

static int check_stopped(struct gw_qmp *qmp)
{
    char state[32];
    int ret = gw_vm_status(qmp, state, sizeof(state));

    if (ret == 0 && strcmp(state, "running") == 0)
        return gw_fail(-EBUSY, "the VM runs; its disks are swapped only while it is stopped");
    return ret;
}

/* The commands of one swap: the new node, under the device, and the old ones gone. A node that went
 * with its device is no error; whether it is gone is looked at afterwards. */
static unsigned add_swap(struct gw_qmp_call *calls, json_t *add, json_t *set, const char *node,
                         const char *file_node)
{
    unsigned count = 0;

    calls[count++] = (struct gw_qmp_call){.command = "blockdev-add", .arguments = add};
    calls[count++] = (struct gw_qmp_call){.command = "qom-set", .arguments = set};
    if (is_own_name(node))
        calls[count++] = (struct gw_qmp_call){.command = "blockdev-del",
                                              .arguments = json_pack("{s:s}", "node-name", node),
                                              .may_fail = true};
    if (is_own_name(file_node))
        calls[count++] =
            (struct gw_qmp_call){.command = "blockdev-del",
                                 .arguments = json_pack("{s:s}", "node-name", file_node),
                                 .may_fail = true};
    return count;
}

/* One round trip for the swap, and the look at what is left. Each command needs the one before it:
 * no node goes that a device still has. */
static int run_swap(struct gw_qmp *qmp, struct gw_qmp_call *calls, unsigned count, const char *disk,
                    const char *node, const char *file_node)
{
    int ret;

    calls[count] = (struct gw_qmp_call){.command = "query-named-block-nodes",
                                        .arguments = json_pack("{s:b}", "flat", 1)};
    ret = gw_qmp_execute_batch(qmp, calls, count + 1);
    if (ret == 0 &&
        (has_node(calls[count].result, node) || has_node(calls[count].result, file_node)))
        ret = gw_fail(-EBUSY, "disk %s: QEMU still holds the node %s (a block job, an export?)",
                      disk, has_node(calls[count].result, node) ? node : file_node);
    gw_qmp_batch_free(calls, count + 1);
    return ret;
}

int gw_disk_swap_out(struct gw_qmp *qmp, const struct gw_disk_swap *swap)
{
    struct gw_qmp_call calls[SWAP_CALLS];
    unsigned count;
    int ret = check_stopped(qmp);

    if (ret < 0)
        return ret;
    count = add_swap(calls, json_incref(swap->hold_options), set_drive(swap->qom_path, swap->hold),
                     swap->node, swap->file_node);
    return run_swap(qmp, calls, count, swap->name, swap->node, swap->file_node);
}

/* Calls each with every device that has a node. Stops when it returns not 0, and returns that. */
static int each_attached(struct gw_qmp *qmp,
                         int (*each)(const char *qdev, const char *node, void *context),
                         void *context)
{
    json_t *blocks, *entry;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-block", NULL, &blocks);

    if (ret < 0)
        return ret;
    json_array_foreach(blocks, index, entry)
    {
        const char *node = text_of(json_object_get(entry, "inserted"), "node-name");
        const char *qdev = text_of(entry, "qdev");

        if (*node && *qdev)
            ret = each(qdev, node, context);
        if (ret)
            break;
    }
    json_decref(blocks);
    return ret;
}

static int refuse_hold(const char *qdev, const char *node, void *context)
{
    if (strncmp(node, GW_HOLD_PREFIX, strlen(GW_HOLD_PREFIX)) == 0)
        return gw_fail(-EIO,
                       "the disk of %s could not be brought back (%s); the guest must stay stopped",
                       qdev, (const char *)context);
    return 0;
}

struct search {
    const char *node;
    char *path;
    size_t size;
    char found[GW_VM_NODE_SIZE];
};

/* The device whose property "drive" names the node, from query-block's "qdev". */
static void device_path(const char *qdev, char *path, size_t size)
{
    static const char inner[] = "/virtio-backend";
    size_t length;

    snprintf(path, size, "%s%s", qdev[0] == '/' ? "" : "/machine/peripheral/", qdev);
    length = strlen(path);
    if (length > strlen(inner) && strcmp(path + length - strlen(inner), inner) == 0)
        path[length - strlen(inner)] = '\0';
}

static int compare_node(const char *qdev, const char *node, void *context)
{
    struct search *search = context;

    if (strcmp(node, search->node) != 0)
        return 0;
    device_path(qdev, search->path, search->size);
    return 1;
}

int gw_disk_find_device(struct gw_qmp *qmp, const char *node, char *path, size_t size)
{
    struct search search = {.node = node, .path = path, .size = size};
    int ret = each_attached(qmp, compare_node, &search);

    if (ret == 0)
        return gw_fail(-ENOENT, "no device of QEMU uses the node %s", node);
    return ret < 0 ? ret : 0;
}

struct attached {
    const char *qom_path, *node;
};

static int compare_device(const char *qdev, const char *node, void *context)
{
    const struct attached *attached = context;
    char path[256];

    device_path(qdev, path, sizeof(path));
    return strcmp(path, attached->qom_path) == 0 && strcmp(node, attached->node) == 0;
}

/* QEMU 7.2 aborts when a device is given the node that it has. */
static int is_idle(struct gw_qmp *qmp, const json_t *command)
{
    const json_t *arguments = json_object_get(command, "arguments");
    struct attached attached = {text_of(arguments, "path"), text_of(arguments, "value")};

    if (strcmp(text_of(command, "execute"), "qom-set") != 0)
        return 0;
    return each_attached(qmp, compare_device, &attached);
}

int gw_disk_undo_run(struct gw_qmp *qmp, const json_t *commands)
{
    char last_error[GW_ERROR_TEXT_MAX] = "no command failed";
    json_t *command;
    size_t index;
    int ret = check_stopped(qmp);

    /* Somebody (the guard, or nobody ever stopped it) lets it run: there is nothing to undo, unless it
     * runs on nothing. */
    if (ret == -EBUSY)
        return each_attached(qmp, refuse_hold, last_error);
    if (ret < 0)
        return ret;
    json_array_foreach(commands, index, command)
    {
        ret = is_idle(qmp, command);
        if (ret == 0)
            ret = gw_qmp_execute_object(qmp, command, NULL);
        if (ret == -EPIPE || ret == -ETIMEDOUT)
            return ret;
        if (ret < 0 && strcmp(text_of(command, "execute"), "blockdev-del") != 0)
            snprintf(last_error, sizeof(last_error), "%.400s", gw_error_message());
    }
    return each_attached(qmp, refuse_hold, last_error);
}

static int take_node(const char *qdev, const char *node, void *context)
{
    struct search *search = context;
    char path[256];

    device_path(qdev, path, sizeof(path));
    if (strcmp(path, search->path) != 0)
        return 0;
    snprintf(search->found, sizeof(search->found), "%s", node);
    return 1;
}

int gw_disk_place_find(struct gw_qmp *qmp, const struct gw_vm *vm, unsigned index,
                       struct gw_disk_place *out)
{
    const struct gw_vm_disk *disk = &vm->disks[index];
    struct search search = {.path = out->path, .size = sizeof(out->path)};
    int ret;

    if (disk->is_machine_ide) {
        gw_disk_hold_name(index, out->node);
        return gw_disk_find_device(qmp, out->node, out->path, sizeof(out->path));
    }
    gw_vm_device_path(vm, disk->device_index, out->path, sizeof(out->path));
    ret = each_attached(qmp, take_node, &search);
    if (ret == 0)
        return gw_fail(-ENOENT, "disk %s: the target's QEMU has no disk at %s", disk->name,
                       out->path);
    memcpy(out->node, search.found, sizeof(out->node));
    return ret < 0 ? ret : 0;
}

int gw_disk_swap_in(struct gw_qmp *qmp, const struct gw_vm_disk *disk,
                    const struct gw_disk_place *place, const struct gw_disk_image *image)
{
    struct gw_qmp_call calls[SWAP_CALLS];
    struct gw_error kept;
    json_t *options;
    int ret = check_stopped(qmp);

    if (ret == 0)
        ret = gw_disk_node_options(disk, image, &options);
    if (ret < 0)
        return ret;
    ret = run_swap(qmp, calls,
                   add_swap(calls, options, set_drive(place->path, image->node), place->node, ""),
                   disk->name, place->node, "");
    if (ret < 0) {
        /* A node that did not come under the device holds its file for nothing. */
        gw_error_take(ret, &kept);
        delete_node(qmp, image->node);
        return gw_error_raise(&kept);
    }
    return 0;
}
