/* SPDX-License-Identifier: Apache-2.0 */
/* Names and options of the block nodes that godwit makes. Asks nothing of QEMU. */
#include "engine/vmm/qemu/disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

void gw_disk_node_name(const struct gw_vm_disk *disk, unsigned index, char name[GW_VM_NODE_SIZE])
{
    snprintf(name, GW_VM_NODE_SIZE, "godwit-%u-%s-%.8s", index % 1000,
             disk->is_discard ? "unmap" : "ignore", disk->aio);
}

bool gw_disk_node_name_parse(const char *name, bool *is_discard, char *aio, size_t aio_size)
{
    char discard[8], mode[12];
    unsigned index;
    int end = 0;

    if (sscanf(name, "godwit-%3u-%6[a-z]-%11[a-z_]%n", &index, discard, mode, &end) != 3 ||
        name[end] != '\0' || !gw_allow_word("unmap ignore", discard) ||
        !gw_allow_word("threads native io_uring", mode))
        return false;
    *is_discard = strcmp(discard, "unmap") == 0;
    snprintf(aio, aio_size, "%s", mode);
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
