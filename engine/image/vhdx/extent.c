/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From offsets of the virtual disk to runs of one kind and to places in the file. Holes within a
 * block's place in the file (a block is up to 256 MiB, and often only partly written) are known
 * zeroes.
 */
#include <assert.h>

#include "common/checked.h"
#include "engine/image/vhdx/vhdx.h"

/* Where one extent call stops looking further: blocks without data, and seeks in those with data.
 */
#define BLOCKS_MAX 4096u
#define SEEKS_MAX  64u

static enum gw_extent_kind kind_of(uint64_t entry)
{
    switch (entry & VHDX_BAT_STATE_MASK) {
    case VHDX_BLOCK_FULLY_PRESENT:
        return GW_EXTENT_DATA;
    case VHDX_BLOCK_ZERO:
        return GW_EXTENT_ZERO;
    default:
        return GW_EXTENT_ABSENT;
    }
}

/* The run at offset that lies within one block. */
static int run_in_block(struct gw_vhdx *vhdx, uint64_t offset, struct gw_extent *out)
{
    uint64_t block_size = vhdx->base.info.block_size;
    uint64_t block = offset / block_size;
    uint64_t within = offset % block_size;
    uint64_t bytes = gw_vhdx_block_bytes(vhdx, block);
    uint64_t entry, place, run_end;
    int rc = gw_vhdx_bat_lookup(vhdx, block, &entry);

    if (rc)
        return rc;
    *out = (struct gw_extent){.offset = offset, .length = bytes - within, .kind = kind_of(entry)};
    if (out->kind != GW_EXTENT_DATA)
        return 0;
    place = gw_vhdx_entry_offset(entry);
    if (!gw_image_file_is_data(&vhdx->base.file, place + within, place + bytes, &run_end))
        out->kind = GW_EXTENT_ZERO;
    out->length = run_end - (place + within);
    return 0;
}

/* Adds the blocks that follow and are without data in the same way, under one locking. What lies
 * behind a fault is told as far as the fault: it is met when its turn comes. */
static void extend_without_data(struct gw_vhdx *vhdx, struct gw_extent *run)
{
    uint64_t block = (run->offset + run->length) / vhdx->base.info.block_size;
    uint64_t entry;

    pthread_mutex_lock(&vhdx->bat.lock);
    for (uint32_t i = 0; i < BLOCKS_MAX && block < vhdx->block_count; i++, block++) {
        if (gw_vhdx_bat_get(vhdx, block, &entry) || kind_of(entry) != run->kind)
            break;
        run->length += gw_vhdx_block_bytes(vhdx, block);
    }
    pthread_mutex_unlock(&vhdx->bat.lock);
}

int gw_vhdx_extent(struct gw_image *image, uint64_t offset, struct gw_extent *out)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    struct gw_extent run, next;
    int rc = run_in_block(vhdx, offset, &run);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < SEEKS_MAX; i++) {
        uint64_t end = run.offset + run.length;

        if (run.kind != GW_EXTENT_DATA && end % image->info.block_size == 0)
            extend_without_data(vhdx, &run);
        end = run.offset + run.length;
        if (end == image->info.virtual_size || run_in_block(vhdx, end, &next) ||
            next.kind != run.kind)
            break;
        run.length += next.length;
    }
    *out = run;
    return 0;
}

int gw_vhdx_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                   struct gw_location *out)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    uint64_t block_size = image->info.block_size;
    uint64_t block = offset / block_size;
    uint64_t piece = gw_min(length, block_size - offset % block_size);
    uint64_t entry, place;
    int rc;

    if (image->is_writable) {
        rc = gw_vhdx_allocate(vhdx, block, &place);
        if (rc == 0)
            gw_image_location_set(image, place + offset % block_size, piece, out);
        return rc;
    }
    rc = gw_vhdx_bat_lookup(vhdx, block, &entry);
    if (rc)
        return rc;
    if (gw_vhdx_is_present(entry))
        gw_image_location_set(image, gw_vhdx_entry_offset(entry) + offset % block_size, piece, out);
    else
        *out = (struct gw_location){.kind = kind_of(entry), .length = piece, .fd = -1};
    return 0;
}
