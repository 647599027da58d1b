/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of a new image: given a place in the file when they are first written, given back when
 * they are zeroed whole. The bytes themselves are the caller's business.
 */
#include <errno.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

/* The file is made longer by this much at once (all of it a hole), so that writes that follow do
 * not each change its size, which would make O_DIRECT writes wait for one another. Cut off in
 * finish. */
#define GROWTH (256ull << 20)

/* With the lock held. */
static int find_place(struct gw_vhdx *vhdx, uint64_t *out)
{
    struct gw_vhdx_writer *writer = &vhdx->writer;
    uint64_t end = writer->next_offset + vhdx->base.info.block_size;
    int rc;

    if (writer->free_count > 0) {
        *out = writer->free_offsets[--writer->free_count];
        return 0;
    }
    if (end > writer->file_end) {
        uint64_t wanted = gw_max(end, writer->file_end + GROWTH);

        rc = gw_image_file_resize(&vhdx->base.file, wanted);
        if (rc == -EFBIG) {
            wanted = end;
            rc = gw_image_file_resize(&vhdx->base.file, wanted);
        }
        if (rc)
            return rc;
        writer->file_end = wanted;
    }
    *out = writer->next_offset;
    writer->next_offset = end;
    return 0;
}

int gw_vhdx_allocate(struct gw_vhdx *vhdx, uint64_t block, uint64_t *file_offset)
{
    uint64_t entry, place;
    int rc;

    pthread_mutex_lock(&vhdx->bat.lock);
    rc = gw_vhdx_bat_get(vhdx, block, &entry);
    if (rc == 0 && !gw_vhdx_is_present(entry)) {
        rc = find_place(vhdx, &place);
        if (rc == 0) {
            entry = place | VHDX_BLOCK_FULLY_PRESENT;
            rc = gw_vhdx_bat_set(vhdx, block, entry);
        }
    }
    pthread_mutex_unlock(&vhdx->bat.lock);
    if (rc == 0)
        *file_offset = gw_vhdx_entry_offset(entry);
    return rc;
}

/* Takes a whole block's place away, if there is room to remember it. */
static int release(struct gw_vhdx *vhdx, uint64_t block, bool *is_released)
{
    int rc = 0;

    pthread_mutex_lock(&vhdx->bat.lock);
    *is_released = vhdx->writer.free_count < GW_VHDX_FREE_MAX;
    if (*is_released)
        rc = gw_vhdx_bat_set(vhdx, block, VHDX_BLOCK_ZERO);
    pthread_mutex_unlock(&vhdx->bat.lock);
    return rc;
}

static void remember_free(struct gw_vhdx *vhdx, uint64_t place)
{
    pthread_mutex_lock(&vhdx->bat.lock);
    /* Another thread may have filled the list meanwhile; then the place stays an unused hole. */
    if (vhdx->writer.free_count < GW_VHDX_FREE_MAX)
        vhdx->writer.free_offsets[vhdx->writer.free_count++] = place;
    pthread_mutex_unlock(&vhdx->bat.lock);
}

static int zero_in_block(struct gw_vhdx *vhdx, uint64_t block, uint64_t within, uint64_t length)
{
    bool keeps_space = vhdx->base.info.is_fixed;
    bool is_whole = length == gw_vhdx_block_bytes(vhdx, block);
    bool is_released = false;
    uint64_t entry, place;
    int rc = gw_vhdx_bat_lookup(vhdx, block, &entry);

    if (rc || !gw_vhdx_is_present(entry))
        return rc;
    place = gw_vhdx_entry_offset(entry);
    if (is_whole && !keeps_space)
        rc = release(vhdx, block, &is_released);
    /* The place will be another block's: clear what lies behind the end of the disk, too. */
    if (is_released)
        length = vhdx->base.info.block_size;
    if (rc == 0)
        rc = gw_image_file_zero(&vhdx->base.file, place + within, length, keeps_space);
    if (rc == 0 && is_released)
        remember_free(vhdx, place);
    return rc;
}

int gw_vhdx_zero(struct gw_image *image, uint64_t offset, uint64_t length)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    uint64_t block_size = image->info.block_size;
    uint64_t end = offset + length;
    int rc = 0;

    while (offset < end && rc == 0) {
        uint64_t block = offset / block_size;
        uint64_t next = gw_vhdx_bat_skip(vhdx, block);
        uint64_t piece = gw_min(end - offset, block_size - offset % block_size);

        if (next > block) {
            offset = next * block_size;
            continue;
        }
        rc = zero_in_block(vhdx, block, offset % block_size, piece);
        offset += piece;
    }
    return rc;
}
