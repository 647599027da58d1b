/* SPDX-License-Identifier: Apache-2.0 */
/* Looks for what a disk counts in sectors: GPT (UEFI 5.3.2) and the signature of a boot sector. */
#include "engine/session/content.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/memory.h"
#include "engine/volume/location.h"

#define READ_MAX (64u << 10)
#define HEAD     8192u

static int read_piece(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                      uint8_t *into, uint64_t *got)
{
    struct gw_location from;
    int error = volume->ops->locate(volume, offset, length, &from);

    if (error)
        return error;
    from.length = gw_min(from.length, length);
    *got = from.length;
    if (from.kind != GW_EXTENT_DATA) {
        memset(into, 0, from.length);
        return 0;
    }
    if (from.where == GW_IN_MEMORY) {
        memcpy(into, from.memory, from.length);
        return 0;
    }
    return from.where == GW_BY_CALL ? volume->ops->read(volume, offset, into, from.length)
                                    : gw_location_read(&from, into);
}

int gw_content_read(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    uint64_t done = 0, got;
    void *buffer;
    int error;

    if (length > READ_MAX)
        return gw_fail(-EINVAL, "a look into %s is too long", volume->name);
    error = gw_memory_new(READ_MAX + GW_LOCATION_ALIGNMENT, &buffer);
    while (!error && done < length) {
        error = read_piece(volume, offset + done, length - done, buffer, &got);
        if (error)
            break;
        memcpy((uint8_t *)into + done, buffer, got);
        done += got;
    }
    if (buffer)
        gw_memory_free(buffer, READ_MAX + GW_LOCATION_ALIGNMENT);
    return error;
}

static bool has_gpt_at(const uint8_t *head, uint32_t offset)
{
    return memcmp(head + offset, "EFI PART", 8) == 0;
}

int gw_content_allows_sectors(struct gw_source_volume *volume, uint32_t from, uint32_t to)
{
    uint32_t other = to == 512 ? 4096 : 512;
    uint8_t head[HEAD] = {0};
    int error;

    if (from == to)
        return 0;
    error = gw_content_read(volume, 0, head, gw_min(HEAD, volume->size));
    if (error)
        return error;
    if (has_gpt_at(head, to))
        return 0;
    if (has_gpt_at(head, other))
        return gw_fail(-EINVAL,
                       "its partition table (GPT) counts in sectors of %u bytes: with sectors of "
                       "%u nobody would find its partitions",
                       other, to);
    /* A plain file does not say for which sectors its boot sector was made: the caller knows. */
    if (from && head[510] == 0x55 && head[511] == 0xaa)
        return gw_fail(-EINVAL,
                       "it has a partition table or boot sector that counts in sectors of %u "
                       "bytes: they cannot become %u",
                       from, to);
    return 0;
}
