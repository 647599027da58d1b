/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sector bitmap blocks: MS-VHDX 2.4 and 2.5.1.2. Which sectors of a block that is partly here are
 * in this file, and which are the parent's. Pages of them are read when they are needed, as the
 * log left them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

static_assert(VHDX_BITMAP_SIZE * 8ull == VHDX_CHUNK_SECTORS, "one bit for each sector of a chunk");

/* The page at a place in the file; lock held. */
static int load_page(struct gw_vhdx *vhdx, uint64_t offset, const uint8_t **out)
{
    struct gw_vhdx_bitmap_slot *slot =
        &vhdx->bat.bitmaps[offset / GW_VHDX_BITMAP_PAGE % GW_VHDX_BITMAP_CACHE];
    int rc;

    if (slot->offset != offset) {
        slot->offset = 0;
        if (!slot->bytes)
            slot->bytes = malloc(GW_VHDX_BITMAP_PAGE);
        if (!slot->bytes)
            return gw_fail(-ENOMEM, "no memory to read %s", vhdx->base.file.path);
        rc = gw_vhdx_read(vhdx, offset, slot->bytes, GW_VHDX_BITMAP_PAGE);
        if (rc)
            return rc;
        slot->offset = offset;
    }
    *out = slot->bytes;
    return 0;
}

/* How many bits from first on, at most count, equal the first one. */
static uint64_t run_of_bits(const uint8_t *bytes, uint64_t first, uint64_t count)
{
    bool value = bytes[first / 8] >> first % 8 & 1;
    uint8_t whole = value ? 0xff : 0;
    uint64_t at = first, end = first + count;

    while (at < end) {
        if (at % 8 == 0 && end - at >= 8 && bytes[at / 8] == whole)
            at += 8;
        else if ((bytes[at / 8] >> at % 8 & 1) == value)
            at++;
        else
            break;
    }
    return at - first;
}

static int find_bitmap(struct gw_vhdx *vhdx, uint64_t block, uint64_t *offset)
{
    uint64_t entry;
    int rc = gw_vhdx_bat_get_bitmap(vhdx, block, &entry);

    if (rc)
        return rc;
    if ((entry & VHDX_BAT_STATE_MASK) != VHDX_BITMAP_STATE_PRESENT)
        return gw_fail(-EUCLEAN,
                       "%s: block %llu of the disk is partly in the parent, and no sector bitmap "
                       "says which part: restore the image from a backup",
                       vhdx->base.file.path, (unsigned long long)block);
    *offset = gw_vhdx_entry_offset(entry);
    return 0;
}

/* Counts on over pages as long as the sectors are alike. Sectors are of the chunk. */
static int count_run(struct gw_vhdx *vhdx, uint64_t bitmap, uint64_t sector, uint64_t sectors,
                     bool *is_here, uint64_t *run)
{
    const uint64_t page_sectors = GW_VHDX_BITMAP_PAGE * 8ull;

    *run = 0;
    while (*run < sectors) {
        uint64_t at = sector + *run;
        uint64_t within = at % page_sectors;
        uint64_t count = gw_min(sectors - *run, page_sectors - within), alike;
        const uint8_t *bytes;
        bool value;
        int rc = load_page(vhdx, bitmap + at / page_sectors * GW_VHDX_BITMAP_PAGE, &bytes);

        if (rc)
            return rc;
        value = bytes[within / 8] >> within % 8 & 1;
        if (*run == 0)
            *is_here = value;
        else if (value != *is_here)
            return 0;
        alike = run_of_bits(bytes, within, count);
        *run += alike;
        if (alike < count)
            return 0;
    }
    return 0;
}

int gw_vhdx_bitmap_run(struct gw_vhdx *vhdx, uint64_t block, struct gw_vhdx_range within,
                       bool *is_here, uint64_t *run)
{
    uint64_t sector_size = vhdx->base.info.logical_sector_size;
    uint64_t sector = block % vhdx->chunk_ratio * (vhdx->base.info.block_size / sector_size) +
                      within.offset / sector_size;
    uint64_t sectors =
        (within.offset % sector_size + within.length + sector_size - 1) / sector_size;
    uint64_t bitmap;
    int rc;

    pthread_mutex_lock(&vhdx->bat.lock);
    rc = find_bitmap(vhdx, block, &bitmap);
    if (rc == 0)
        rc = count_run(vhdx, bitmap, sector, sectors, is_here, run);
    pthread_mutex_unlock(&vhdx->bat.lock);
    if (rc == 0)
        *run = gw_min(*run * sector_size - within.offset % sector_size, within.length);
    return rc;
}

void gw_vhdx_bitmap_free(struct gw_vhdx_bat *bat)
{
    for (unsigned i = 0; i < GW_VHDX_BITMAP_CACHE; i++)
        free(bat->bitmaps[i].bytes);
}
