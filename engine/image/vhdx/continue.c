/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New images that are gone on with after a crash. Of the file only the block allocation table is
 * believed, and only as far as it makes sense; everything else is laid out as it was by create.c,
 * which writes headers and metadata in finish alone.
 *
 * The table in the file may be older or newer than the blocks: a block that it names may have
 * other bytes than were written (the caller compares them), and a place that it does not name may
 * have some: those are given back, so that a block that gets the place reads as zeroes where
 * nothing is written.
 */
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

/* Where blocks begin: lay_out put next_offset there. */
static uint64_t first_place(const struct gw_vhdx *vhdx)
{
    return vhdx->bat_region.offset + vhdx->bat_region.length;
}

/* Either nothing has declared the file valid, or finish had got so far; then it is taken back. */
static int take_back_identifier(struct gw_vhdx *vhdx)
{
    char bytes[sizeof(GW_IMAGE_UNFINISHED) - 1];
    int rc = gw_image_file_read(&vhdx->base.file, 0, bytes, sizeof(bytes));

    if (rc || memcmp(bytes, GW_IMAGE_UNFINISHED, sizeof(bytes)) == 0)
        return rc;
    if (memcmp(bytes, "vhdxfile", 8) != 0)
        return gw_fail(-EUCLEAN, "%s is not an unfinished image", vhdx->base.file.path);
    rc = gw_image_file_write(&vhdx->base.file, 0, GW_IMAGE_UNFINISHED, sizeof(bytes));
    return rc ? rc : gw_image_file_sync(&vhdx->base.file);
}

/* Places were given one behind the other. */
static int take_block(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry)
{
    uint64_t place = gw_vhdx_entry_offset(entry), block_size = vhdx->base.info.block_size;

    if (place < first_place(vhdx) || (place - first_place(vhdx)) % block_size)
        return gw_fail(-EUCLEAN, "%s: block %llu of the unfinished image lies at byte %llu",
                       vhdx->base.file.path, (unsigned long long)block, (unsigned long long)place);
    vhdx->writer.next_offset = gw_max(vhdx->writer.next_offset, place + block_size);
    return 0;
}

/* Places that no block has, below the last one that some block has. */
static int give_back(struct gw_vhdx *vhdx)
{
    uint64_t block_size = vhdx->base.info.block_size;
    struct gw_vhdx_writer *writer = &vhdx->writer;
    int rc = 0;

    for (uint64_t place = first_place(vhdx); rc == 0 && place < writer->next_offset;
         place += block_size) {
        if (gw_bitmap_test(&vhdx->bat.used, place / VHDX_ALIGNMENT))
            continue;
        rc = gw_image_file_zero(&vhdx->base.file, place, block_size, false);
        if (rc == 0 && writer->free_count < GW_VHDX_FREE_MAX)
            writer->free_offsets[writer->free_count++] = place;
    }
    return rc;
}

int gw_vhdx_continue(struct gw_vhdx *vhdx)
{
    int rc = take_back_identifier(vhdx);

    if (rc == 0 && vhdx->base.info.is_fixed)
        return gw_vhdx_fill(vhdx); /* the table is the same whatever was written */
    if (rc == 0)
        rc = gw_vhdx_bat_take_up(vhdx, take_block);
    if (rc == 0)
        rc = give_back(vhdx);
    /* What lies behind the last block was not in the table, or is in advance. */
    if (rc == 0)
        rc = gw_image_file_resize(&vhdx->base.file, vhdx->writer.next_offset);
    vhdx->writer.file_end = vhdx->writer.next_offset;
    return rc;
}
