/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a VHDX: identifier, headers, log, region tables, metadata, in the order in which each one
 * can be trusted. What lies in the blocks, and making new files, is not here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

/* How long an image in use may have an unfinished log before it is taken for one that nobody is at
 * work on: QEMU holds it for two flushes of its disk. */
#define LOG_WAITS   2000
#define LOG_WAIT_NS 1000000

/* Beside QEMU a header may be read while it is written; the other one is sound then, unless both
 * are rewritten between our two reads. */
#define HEADER_READS 100

static int header_read_in_use(const struct gw_image_file *file, struct gw_vhdx_header *out)
{
    const struct timespec pause = {.tv_nsec = LOG_WAIT_NS};
    int rc = gw_vhdx_header_read(file, out);

    for (int i = 1; rc == -EUCLEAN && i < HEADER_READS; i++) {
        nanosleep(&pause, NULL);
        rc = gw_vhdx_header_read(file, out);
    }
    return rc;
}

/* An image in use whose log is not empty: either QEMU is adding a block this moment, and the log is
 * soon empty or the headers have moved on; or nobody is, and the log is what a crash left. */
static int wait_for_log(struct gw_vhdx *vhdx)
{
    const struct timespec pause = {.tv_nsec = LOG_WAIT_NS};
    uint64_t sequence = vhdx->header.sequence;
    int rc = 0;

    for (int i = 0; i < LOG_WAITS && rc == 0; i++) {
        if (!gw_vhdx_has_log(&vhdx->header) || vhdx->header.sequence != sequence)
            return 0;
        nanosleep(&pause, NULL);
        rc = header_read_in_use(&vhdx->base.file, &vhdx->header);
    }
    if (rc)
        return rc;
    return gw_fail(
        -EBUSY,
        "%s: the log is not empty and nobody is at work on it: no running QEMU writes this "
        "image; copy it as one at rest",
        vhdx->base.file.path);
}

static int read_log(struct gw_vhdx *vhdx)
{
    if (!gw_vhdx_has_log(&vhdx->header))
        return 0;
    return vhdx->base.is_in_use ? wait_for_log(vhdx) : gw_vhdx_log_replay(vhdx);
}

/* A bit for each MiB that the file has or, in use, may come to have: every block once, and as much
 * again for what it had before. */
static uint64_t file_mib_max(const struct gw_vhdx *vhdx)
{
    uint64_t mib = vhdx->file_size / VHDX_ALIGNMENT + 1;

    if (vhdx->base.is_in_use)
        mib += vhdx->base.info.virtual_size / VHDX_ALIGNMENT +
               vhdx->base.info.block_size / VHDX_ALIGNMENT + 1;
    return mib;
}

struct step {
    int (*run)(struct gw_vhdx *vhdx);
    const uint64_t *at; /* the place of what it reads, for those who gather faults; NULL: 0 */
};

static int read_identifier(struct gw_vhdx *vhdx)
{
    return gw_vhdx_identifier_check(&vhdx->base.file);
}

static int read_header(struct gw_vhdx *vhdx)
{
    return header_read_in_use(&vhdx->base.file, &vhdx->header);
}

static int check_overlay(struct gw_vhdx *vhdx)
{
    return gw_vhdx_overlay_check(vhdx);
}

static int init_bat(struct gw_vhdx *vhdx)
{
    return gw_vhdx_bat_init(vhdx, file_mib_max(vhdx));
}

/* In the order in which each one can be trusted. */
static int read_tables(struct gw_vhdx *vhdx)
{
    static const uint64_t headers = VHDX_HEADER_1_OFFSET, regions = VHDX_REGION_1_OFFSET;
    const struct step steps[] = {
        {read_identifier, NULL},
        {read_header, &headers},
        {read_log, &vhdx->header.log.offset},
        {gw_vhdx_regions_read, &regions},
        {check_overlay, &vhdx->header.log.offset},
        {gw_vhdx_metadata_read, &vhdx->metadata_region.offset},
        {init_bat, &vhdx->bat_region.offset},
        {gw_vhdx_bat_check_small, &vhdx->bat_region.offset},
    };
    struct gw_faults *faults = vhdx->base.file.faults;
    int rc = 0;

    for (size_t i = 0; i < GW_ARRAY_LENGTH(steps) && rc == 0; i++) {
        rc = steps[i].run(vhdx);
        if (rc && faults)
            gw_faults_add(faults, steps[i].at ? *steps[i].at : 0, false, gw_error_message());
    }
    return rc;
}

int gw_vhdx_open(struct gw_image_file *file, bool is_in_use, struct gw_image **out)
{
    struct gw_vhdx *vhdx = calloc(1, sizeof(*vhdx));
    int rc;

    if (!vhdx)
        return gw_fail(-ENOMEM, "no memory to open %s", file->path);
    vhdx->base.ops = &gw_vhdx_ops;
    vhdx->base.file = *file;
    vhdx->base.is_in_use = is_in_use;
    vhdx->base.info.format = GW_IMAGE_VHDX;
    vhdx->file_size = file->size;
    gw_image_info_from_file(&vhdx->base);
    rc = read_tables(vhdx);
    if (rc) {
        gw_vhdx_free(vhdx);
        return rc;
    }
    *out = &vhdx->base;
    return 0;
}

void gw_vhdx_free(struct gw_vhdx *vhdx)
{
    if (!vhdx)
        return;
    gw_vhdx_bat_free(&vhdx->bat);
    gw_parent_link_free(vhdx->base.link);
    gw_vhdx_overlay_free(&vhdx->overlay);
    free(vhdx->writer.free_offsets);
    free(vhdx->ranges);
    free(vhdx);
}

static void vhdx_close(struct gw_image *image)
{
    gw_vhdx_free(gw_vhdx_of(image));
}

static int vhdx_refresh(struct gw_image *image)
{
    return gw_vhdx_bat_refresh(gw_vhdx_of(image));
}

static bool vhdx_take_appeared(struct gw_image *image, uint64_t *offset, uint64_t *length)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    uint64_t first, count;
    bool any;

    pthread_mutex_lock(&vhdx->bat.lock);
    any = gw_bitmap_next_run(&vhdx->bat.appeared, 0, &first, &count);
    if (any)
        gw_bitmap_clear_range(&vhdx->bat.appeared, first, count);
    pthread_mutex_unlock(&vhdx->bat.lock);
    if (!any)
        return false;
    *offset = first * image->info.block_size;
    *length = gw_min(count * image->info.block_size, image->info.virtual_size - *offset);
    return true;
}

static int vhdx_unchanged(struct gw_image *image)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    struct gw_vhdx_header now;
    int rc = gw_image_file_unchanged(&image->file);

    if (rc)
        return rc;
    rc = gw_vhdx_header_read(&image->file, &now);
    if (rc)
        return rc;
    if (now.sequence != vhdx->header.sequence)
        return gw_fail(-ESTALE, "%s was opened for writing by another program during the copy",
                       image->file.path);
    return 0;
}

const struct gw_image_ops gw_vhdx_ops = {
    .extent = gw_vhdx_extent,
    .locate = gw_vhdx_locate,
    .zero = gw_vhdx_zero,
    .refresh = vhdx_refresh,
    .take_appeared = vhdx_take_appeared,
    .sync = gw_vhdx_sync,
    .finish = gw_vhdx_finish,
    .unchanged = vhdx_unchanged,
    .survey = gw_vhdx_survey,
    .entry = gw_vhdx_entry,
    .relocate = gw_vhdx_relocate,
    .close = vhdx_close,
};
