/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a replayed log changed, kept in memory over the file: whole 4 KiB sectors, sorted by their
 * place. The file itself is never written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

/* The first patch at offset or behind it. */
static uint32_t find(const struct gw_vhdx_overlay *overlay, uint64_t offset)
{
    uint32_t low = 0, high = overlay->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (overlay->patches[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int insert(struct gw_vhdx *vhdx, uint32_t at, uint64_t offset)
{
    struct gw_vhdx_overlay *overlay = &vhdx->overlay;

    if (!overlay->patches)
        overlay->patches = calloc(GW_VHDX_PUTS_MAX, sizeof(*overlay->patches));
    if (!overlay->patches)
        return gw_fail(-ENOMEM, "no memory for the log of %s", vhdx->base.file.path);
    memmove(overlay->patches + at + 1, overlay->patches + at,
            (overlay->count - at) * sizeof(*overlay->patches));
    overlay->patches[at] = (struct gw_vhdx_patch){.offset = offset};
    overlay->count++;
    return 0;
}

static int set_bytes(struct gw_vhdx *vhdx, struct gw_vhdx_patch *patch, const uint8_t *bytes)
{
    struct gw_vhdx_overlay *overlay = &vhdx->overlay;

    if (!patch->bytes) {
        if (overlay->data_count == GW_VHDX_OVERLAY_MAX)
            return gw_fail(-ENOTSUP,
                           "%s: the log changes more than %u sectors, too many to replay in "
                           "memory; " GW_VHDX_LOG_WAY_OUT,
                           vhdx->base.file.path, GW_VHDX_OVERLAY_MAX);
        patch->bytes = malloc(VHDX_LOG_SECTOR);
        if (!patch->bytes)
            return gw_fail(-ENOMEM, "no memory for the log of %s", vhdx->base.file.path);
        overlay->data_count++;
    }
    memcpy(patch->bytes, bytes, VHDX_LOG_SECTOR);
    return 0;
}

int gw_vhdx_overlay_put(struct gw_vhdx *vhdx, uint64_t offset, const uint8_t *bytes)
{
    struct gw_vhdx_overlay *overlay = &vhdx->overlay;
    uint32_t at = find(overlay, offset);
    int rc = 0;

    if (overlay->put_count++ == GW_VHDX_PUTS_MAX)
        return gw_fail(-ENOTSUP,
                       "%s: the log has too many changes to replay in memory; " GW_VHDX_LOG_WAY_OUT,
                       vhdx->base.file.path);
    if (at == overlay->count || overlay->patches[at].offset != offset)
        rc = insert(vhdx, at, offset);
    if (rc == 0 && bytes)
        return set_bytes(vhdx, &overlay->patches[at], bytes);
    if (rc == 0 && overlay->patches[at].bytes) {
        free(overlay->patches[at].bytes);
        overlay->patches[at].bytes = NULL;
        overlay->data_count--;
    }
    return rc;
}

bool gw_vhdx_overlay_touches(const struct gw_vhdx *vhdx, uint64_t offset, uint64_t length)
{
    const struct gw_vhdx_overlay *overlay = &vhdx->overlay;
    uint32_t at = find(overlay, gw_align_down(offset, VHDX_LOG_SECTOR));

    return at < overlay->count && overlay->patches[at].offset < offset + length;
}

int gw_vhdx_overlay_check(const struct gw_vhdx *vhdx)
{
    for (uint32_t i = 0; i < vhdx->overlay.count; i++) {
        uint64_t offset = vhdx->overlay.patches[i].offset;

        if (offset >= VHDX_ALIGNMENT)
            return 0;
        if (offset < VHDX_REGION_1_OFFSET ||
            offset >= VHDX_REGION_2_OFFSET + VHDX_REGION_TABLE_SIZE)
            return gw_fail(
                -ENOTSUP,
                "%s: the log changes byte %llu, outside of the tables; " GW_VHDX_LOG_WAY_OUT,
                vhdx->base.file.path, (unsigned long long)offset);
    }
    return 0;
}

void gw_vhdx_overlay_free(struct gw_vhdx_overlay *overlay)
{
    for (uint32_t i = 0; i < overlay->count; i++)
        free(overlay->patches[i].bytes);
    free(overlay->patches);
    *overlay = (struct gw_vhdx_overlay){0};
}

/* Lays the part of one replayed sector that falls into [offset, offset + length) over it. */
static void patch_apply(const struct gw_vhdx_patch *patch, uint64_t offset, uint8_t *into,
                        size_t length)
{
    uint64_t begin = gw_max(patch->offset, offset);
    uint64_t end = gw_min(patch->offset + VHDX_LOG_SECTOR, offset + length);

    if (begin >= end)
        return;
    if (patch->bytes)
        memcpy(into + (begin - offset), patch->bytes + (begin - patch->offset),
               (size_t)(end - begin));
    else
        memset(into + (begin - offset), 0, (size_t)(end - begin));
}

int gw_vhdx_read(const struct gw_vhdx *vhdx, uint64_t offset, void *into, size_t length)
{
    const struct gw_vhdx_overlay *overlay = &vhdx->overlay;
    uint64_t size = vhdx->base.file.size;
    size_t in_file = length;
    int rc;

    /* The log made the file longer: what it did not fill is zeroes. */
    if (!vhdx->base.is_in_use && gw_range_fits(offset, length, vhdx->file_size))
        in_file = offset < size ? (size_t)gw_min(length, size - offset) : 0;
    rc = in_file ? gw_image_file_read(&vhdx->base.file, offset, into, in_file) : 0;
    if (rc)
        return rc;
    memset((uint8_t *)into + in_file, 0, length - in_file);
    for (uint32_t i = find(overlay, gw_align_down(offset, VHDX_LOG_SECTOR));
         i < overlay->count && overlay->patches[i].offset < offset + length; i++)
        patch_apply(&overlay->patches[i], offset, into, length);
    return 0;
}
