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

/* Of a block without data here. In a differencing image only what is not present is the parent's;
 * what was unmapped, or is undefined, reads as zeroes whatever the parent has. */
static enum gw_extent_kind kind_without_data(const struct gw_vhdx *vhdx, uint64_t entry)
{
    uint64_t state = entry & VHDX_BAT_STATE_MASK;

    if (state == VHDX_BLOCK_ZERO)
        return GW_EXTENT_ZERO;
    return vhdx->base.info.is_differencing && state != VHDX_BLOCK_NOT_PRESENT ? GW_EXTENT_ZERO
                                                                              : GW_EXTENT_ABSENT;
}

static bool has_data(uint64_t entry)
{
    return gw_vhdx_is_present(entry) || gw_vhdx_is_partly_present(entry);
}

/* What is at within in a block: *run bytes of one kind, and for DATA where they lie. */
static int look_up(struct gw_vhdx *vhdx, uint64_t block, struct gw_vhdx_range within,
                   struct gw_extent *run, uint64_t *place)
{
    bool is_here = true;
    uint64_t entry;
    int rc = gw_vhdx_bat_lookup(vhdx, block, &entry);

    run->length = within.length;
    if (rc)
        return rc;
    if (!has_data(entry)) {
        run->kind = kind_without_data(vhdx, entry);
        return 0;
    }
    if (gw_vhdx_is_partly_present(entry))
        rc = gw_vhdx_bitmap_run(vhdx, block, within, &is_here, &run->length);
    run->kind = is_here ? GW_EXTENT_DATA : GW_EXTENT_ABSENT;
    *place = gw_vhdx_entry_offset(entry) + within.offset;
    return rc;
}

/* The run at offset that lies within one block, told as far as end. */
static int run_in_block(struct gw_vhdx *vhdx, uint64_t offset, uint64_t end, struct gw_extent *out)
{
    uint64_t block_size = vhdx->base.info.block_size;
    uint64_t block = offset / block_size;
    uint64_t within = offset % block_size;
    uint64_t length = gw_min(gw_vhdx_block_bytes(vhdx, block) - within, end - offset);
    uint64_t place = 0, run_end;
    int rc;

    *out = (struct gw_extent){.offset = offset};
    rc = look_up(vhdx, block, (struct gw_vhdx_range){within, length}, out, &place);
    if (rc || out->kind != GW_EXTENT_DATA)
        return rc;
    if (!gw_image_file_is_data(&vhdx->base.file, place, place + out->length, &run_end))
        out->kind = GW_EXTENT_ZERO;
    out->length = run_end - place;
    return 0;
}

/* Adds the blocks that follow and are without data in the same way, under one locking. What lies
 * behind a fault is told as far as the fault: it is met when its turn comes. */
static void extend_without_data(struct gw_vhdx *vhdx, uint64_t end, struct gw_extent *run)
{
    uint64_t block_size = vhdx->base.info.block_size;
    uint64_t block = (run->offset + run->length) / block_size;
    uint64_t entry, next;

    pthread_mutex_lock(&vhdx->bat.lock);
    for (uint32_t i = 0; i < BLOCKS_MAX && block * block_size < end; i++, block = next) {
        if (gw_vhdx_bat_get(vhdx, block, &entry) || has_data(entry) ||
            kind_without_data(vhdx, entry) != run->kind)
            break;
        next = gw_max(gw_vhdx_bat_skip_hole(vhdx, block), block + 1);
        run->length = gw_min(next * block_size, end) - run->offset;
    }
    pthread_mutex_unlock(&vhdx->bat.lock);
}

int gw_vhdx_extent(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    struct gw_extent run, next;
    int rc = run_in_block(vhdx, offset, end, &run);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < SEEKS_MAX; i++) {
        uint64_t run_end = run.offset + run.length;

        if (run.kind != GW_EXTENT_DATA && run_end < end && run_end % image->info.block_size == 0)
            extend_without_data(vhdx, end, &run);
        run_end = run.offset + run.length;
        if (run_end == end || run_in_block(vhdx, run_end, end, &next) || next.kind != run.kind)
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
    struct gw_extent run = {.offset = offset};
    uint64_t place = 0;
    int rc;

    if (image->is_writable) {
        rc = gw_vhdx_allocate(vhdx, block, &place);
        if (rc == 0)
            gw_image_location_set(image, place + offset % block_size, piece, out);
        return rc;
    }
    rc = look_up(vhdx, block, (struct gw_vhdx_range){offset % block_size, piece}, &run, &place);
    if (rc)
        return rc;
    /* Behind the end of a file that the log made longer. */
    if (run.kind == GW_EXTENT_DATA && place >= image->file.size && !image->is_in_use &&
        !image->is_made)
        run.kind = GW_EXTENT_ZERO;
    if (run.kind == GW_EXTENT_DATA)
        gw_image_location_set(image, place, run.length, out);
    else
        *out = (struct gw_location){.kind = run.kind, .length = run.length, .fd = -1};
    return 0;
}
