/* SPDX-License-Identifier: Apache-2.0 */
/* Names and options of the block nodes that godwit makes. Asks nothing of QEMU. */
#include "engine/vmm/qemu/disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

#define NAME_ROOM 20u /* of a disk's name within a node's */

void gw_disk_node_name(const struct gw_vm_disk *disk, unsigned index, char name[GW_VM_NODE_SIZE])
{
    char short_name[NAME_ROOM + 1];

    if (strlen(disk->name) <= NAME_ROOM)
        memcpy(short_name, disk->name, strlen(disk->name) + 1);
    else
        snprintf(short_name, sizeof(short_name), "%u", index % 1000);
    snprintf(name, GW_VM_NODE_SIZE, "godwit-%c%c-%s", disk->is_discard ? 'u' : 'i',
             strcmp(disk->aio, "native") == 0     ? 'n'
             : strcmp(disk->aio, "io_uring") == 0 ? 'r'
                                                  : 't',
             short_name);
}

bool gw_disk_node_name_parse(const char *name, struct gw_vm_disk *disk)
{
    static const char prefix[] = "godwit-";
    const char *codes = name + strlen(prefix), *aio;

    if (strncmp(name, prefix, strlen(prefix)) != 0 || strlen(codes) < 4 || codes[2] != '-' ||
        !strchr("ui", codes[0]) || !strchr("tnr", codes[1]))
        return false;
    aio = codes[1] == 't' ? "threads" : codes[1] == 'n' ? "native" : "io_uring";
    disk->is_discard = codes[0] == 'u';
    memset(disk->aio, 0, sizeof(disk->aio));
    memcpy(disk->aio, aio, strlen(aio));
    /* A number stands for a name that was too long. */
    if (gw_id_is_valid(codes + 3))
        snprintf(disk->name, sizeof(disk->name), "%s", codes + 3);
    return true;
}

void gw_disk_hold_name(unsigned index, char name[GW_VM_NODE_SIZE])
{
    snprintf(name, GW_VM_NODE_SIZE, GW_HOLD_PREFIX "%u", index % 1000);
}

json_t *gw_disk_hold_options(const struct gw_vm_disk *disk, const char *node)
{
    return json_pack("{s:s, s:s, s:I, s:b, s:b}", "driver", "null-co", "node-name", node, "size",
                     (json_int_t)disk->virtual_size, "read-zeroes", 1, "read-only",
                     (int)disk->is_read_only);
}

int gw_disk_node_options(const struct gw_vm_disk *disk, const struct gw_disk_image *image,
                         json_t **out)
{
    const char *discard = disk->is_discard ? "unmap" : "ignore";
    json_t *file, *node;

    file = json_pack("{s:s, s:s, s:s, s:s, s:b, s:{s:b, s:b}}", "driver",
                     image->is_block_device ? "host_device" : "file", "filename", image->path,
                     "aio", disk->aio, "discard", discard, "read-only", (int)disk->is_read_only,
                     "cache", "direct", (int)disk->is_direct, "no-flush", (int)disk->is_no_flush);
    if (file && image->file_node)
        json_object_set_new(file, "node-name", json_string(image->file_node));
    node =
        json_pack("{s:s, s:s, s:s, s:b, s:s, s:{s:b, s:b}, s:o}", "driver", image->format,
                  "node-name", image->node, "discard", discard, "read-only",
                  (int)disk->is_read_only, "detect-zeroes", disk->detect_zeroes, "cache", "direct",
                  (int)disk->is_direct, "no-flush", (int)disk->is_no_flush, "file", file);
    if (!node)
        return gw_fail(-EINVAL,
                       "disk %s: its node cannot be described (no memory, or a path that is not "
                       "UTF-8: %s)",
                       disk->name, image->path);
    *out = node;
    return 0;
}

uint64_t gw_disk_granules(uint64_t size)
{
    return size / GW_DISK_GRANULE + (size % GW_DISK_GRANULE != 0);
}
