/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VHD images, reading only: fixed, dynamic and differencing. The disk has the footer's Current
 * Size, as Hyper-V, Azure, Xen and libvhdi take it; Virtual PC believed the geometry, which is
 * never larger, so that nothing is lost by it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhd/vhd.h"

/* Where one extent call stops looking further. */
#define BLOCKS_MAX 4096u
#define SEEKS_MAX  64u

/* What is at offset, at most length and at most to the end of its block: *place is its data's. */
static int look_up(struct gw_vhd *vhd, uint64_t offset, uint64_t length, struct gw_extent *run,
                   uint64_t *place)
{
    uint64_t block_size = vhd->base.info.block_size;
    uint64_t block, within;
    bool is_here = true;
    int rc;

    *run = (struct gw_extent){.offset = offset, .length = length, .kind = GW_EXTENT_DATA};
    if (vhd->footer.type == VHD_FIXED) {
        *place = offset;
        return 0;
    }
    block = offset / block_size;
    within = offset % block_size;
    run->length = gw_min(length, gw_vhd_block_bytes(vhd, block) - within);
    rc = gw_vhd_block_find(vhd, block, place);
    if (rc)
        return rc;
    if (*place == 0) {
        run->kind = GW_EXTENT_ABSENT;
        return 0;
    }
    /* Where there is no parent the bitmap says nothing that the bytes do not say themselves: a
     * sector that was never written has zeroes. */
    if (vhd->footer.type == VHD_DIFFERENCING)
        rc = gw_vhd_block_run(vhd, block, within, run->length, &is_here, &run->length);
    if (!is_here)
        run->kind = GW_EXTENT_ABSENT;
    *place += within;
    return rc;
}

static int run_at(struct gw_vhd *vhd, uint64_t offset, uint64_t end, struct gw_extent *out)
{
    uint64_t place = 0, run_end;
    int rc = look_up(vhd, offset, end - offset, out, &place);

    if (rc || out->kind != GW_EXTENT_DATA)
        return rc;
    if (!gw_image_file_is_data(&vhd->base.file, place, place + out->length, &run_end))
        out->kind = GW_EXTENT_ZERO;
    out->length = run_end - place;
    return 0;
}

static int vhd_extent(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out)
{
    struct gw_vhd *vhd = gw_vhd_of(image);
    struct gw_extent next;
    unsigned limit;
    int rc = run_at(vhd, offset, end, out);

    if (rc)
        return rc;
    limit = out->kind == GW_EXTENT_ABSENT ? BLOCKS_MAX : SEEKS_MAX;
    for (unsigned i = 0; i < limit; i++) {
        uint64_t run_end = out->offset + out->length;

        /* What lies behind a fault is told as far as the fault. */
        if (run_end == end || run_at(vhd, run_end, end, &next) || next.kind != out->kind)
            break;
        out->length += next.length;
    }
    return 0;
}

static int vhd_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                      struct gw_location *out)
{
    struct gw_extent run;
    uint64_t place = 0;
    int rc = look_up(gw_vhd_of(image), offset, length, &run, &place);

    if (rc)
        return rc;
    if (run.kind == GW_EXTENT_DATA)
        gw_image_location_set(image, place, run.length, out);
    else
        *out = (struct gw_location){.kind = run.kind, .length = run.length, .fd = -1};
    return 0;
}

/* A VHD is never written. */
static int vhd_zero(struct gw_image *image, uint64_t offset, uint64_t length)
{
    return -EROFS;
}

static int vhd_nothing(struct gw_image *image)
{
    return 0;
}

static bool vhd_take_appeared(struct gw_image *image, uint64_t *offset, uint64_t *length)
{
    return false;
}

static int vhd_unchanged(struct gw_image *image)
{
    return gw_image_file_unchanged(&image->file);
}

static uint64_t vhd_entry(const struct gw_image *image, uint64_t offset, uint64_t *end)
{
    const struct gw_vhd *vhd = gw_vhd_of((struct gw_image *)image);
    uint64_t block_size = image->info.block_size, block;

    *end = image->info.virtual_size;
    if (vhd->footer.type == VHD_FIXED)
        return offset;
    block = offset / block_size;
    *end = block * block_size + gw_vhd_block_bytes(vhd, block);
    return gw_vhd_entry_place(vhd, block);
}

static void vhd_free(struct gw_vhd *vhd)
{
    for (unsigned i = 0; i < GW_VHD_PAGES_MAX; i++)
        free(vhd->pages[i].bytes);
    for (unsigned i = 0; i < GW_VHD_BITMAPS; i++)
        free(vhd->bitmaps[i].bytes);
    if (vhd->has_lock)
        pthread_mutex_destroy(&vhd->lock);
    gw_parent_link_free(vhd->base.link);
    free(vhd);
}

static void vhd_close(struct gw_image *image)
{
    vhd_free(gw_vhd_of(image));
}

static const struct gw_image_ops vhd_ops = {
    .extent = vhd_extent,
    .locate = vhd_locate,
    .zero = vhd_zero,
    .refresh = vhd_nothing,
    .take_appeared = vhd_take_appeared,
    .sync = vhd_nothing,
    .finish = vhd_nothing,
    .unchanged = vhd_unchanged,
    .survey = gw_vhd_survey,
    .entry = vhd_entry,
    .relocate = gw_vhd_relocate,
    .close = vhd_close,
};

static int read_tables(struct gw_vhd *vhd)
{
    struct gw_image_info *info = &vhd->base.info;
    int rc = gw_vhd_footer_read(vhd);

    if (rc)
        return rc;
    info->is_fixed = vhd->footer.type == VHD_FIXED;
    info->is_differencing = vhd->footer.type == VHD_DIFFERENCING;
    info->is_sectored = !info->is_fixed;
    info->virtual_size = vhd->footer.current_size;
    info->logical_sector_size = VHD_SECTOR;
    info->physical_sector_size = VHD_SECTOR;
    info->memory_max = GW_VHD_PAGE * GW_VHD_PAGES_MAX;
    memcpy(info->data_id, vhd->footer.id, 16);
    rc = gw_vhd_header_read(vhd);
    if (rc == 0 && !info->is_fixed)
        info->memory_max = gw_min(vhd->block_count * VHD_BAT_ENTRY_SIZE, info->memory_max) +
                           GW_VHD_BITMAPS * (uint64_t)vhd->bitmap_size + (1u << 20);
    return rc;
}

int gw_vhd_open(struct gw_image_file *file, bool is_in_use, struct gw_image **out)
{
    struct gw_vhd *vhd;
    int rc;

    if (is_in_use)
        return gw_fail(-ENOTSUP, "%s: a VHD that a running VM uses is read through its hypervisor",
                       file->path);
    vhd = calloc(1, sizeof(*vhd));
    if (!vhd)
        return gw_fail(-ENOMEM, "no memory to open %s", file->path);
    vhd->base.ops = &vhd_ops;
    vhd->base.file = *file;
    vhd->base.info.format = GW_IMAGE_VHD;
    vhd->has_lock = pthread_mutex_init(&vhd->lock, NULL) == 0;
    rc = vhd->has_lock ? read_tables(vhd) : gw_fail(-ENOMEM, "no memory to open %s", file->path);
    if (rc) {
        vhd_free(vhd);
        return rc;
    }
    /* Blocks begin at any sector; the data of a fixed disk begins with the file. */
    if (!vhd->base.info.is_fixed)
        gw_image_file_use_buffered(&vhd->base.file);
    gw_image_info_from_file(&vhd->base);
    *out = &vhd->base;
    return 0;
}

int gw_vhd_create(const struct gw_image_create_options *options, struct gw_image **out)
{
    return gw_fail(-ENOTSUP,
                   "%s: godwit reads VHD images and writes VHDX or raw ones: choose "
                   "format vhdx or raw",
                   options->path);
}
