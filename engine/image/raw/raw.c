/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw: the file is the disk. Regular files, whose holes are absent extents, and block devices. A
 * raw disk has no mark that makes it valid: whoever makes one gives it its final name when it is
 * done.
 */
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/format.h"

struct raw {
    struct gw_image base;
    bool is_fixed;
};

static struct raw *raw_of(struct gw_image *image)
{
    return gw_container_of(image, struct raw, base);
}

static int raw_extent(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out)
{
    uint64_t run_end;
    bool is_data = gw_image_file_is_data(&image->file, offset, end, &run_end);

    *out = (struct gw_extent){.offset = offset,
                              .length = run_end - offset,
                              .kind = is_data ? GW_EXTENT_DATA : GW_EXTENT_ABSENT};
    return 0;
}

static int raw_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                      struct gw_location *out)
{
    gw_image_location_set(image, offset, length, out);
    return 0;
}

static int raw_zero(struct gw_image *image, uint64_t offset, uint64_t length)
{
    return gw_image_file_zero(&image->file, offset, length, raw_of(image)->is_fixed);
}

static int raw_refresh(struct gw_image *image)
{
    return 0; /* No tables. */
}

static bool raw_take_appeared(struct gw_image *image, uint64_t *offset, uint64_t *length)
{
    return false;
}

static int raw_sync(struct gw_image *image)
{
    return gw_image_file_sync(&image->file);
}

static int raw_finish(struct gw_image *image)
{
    int rc = 0;

    if (image->file.is_block_device)
        return gw_image_file_sync(&image->file);
    /* The last write may have been rounded up to what O_DIRECT asks for. */
    rc = gw_image_file_resize(&image->file, image->info.virtual_size);
    if (rc == 0)
        rc = gw_image_file_sync(&image->file);
    if (rc == 0 && !image->is_renamed)
        rc = gw_image_file_sync_folder(&image->file);
    if (rc == 0)
        image->info.file_size = image->info.virtual_size;
    return rc;
}

static int raw_unchanged(struct gw_image *image)
{
    return gw_image_file_unchanged(&image->file);
}

/* There is nothing in it but the disk. */
static void raw_survey(struct gw_image *image, json_t *report)
{
}

/* Where the disk's bytes are says nothing. */
static uint64_t raw_entry(const struct gw_image *image, uint64_t offset, uint64_t *end)
{
    *end = image->info.virtual_size;
    return offset;
}

/* It has no parent. */
static int raw_relocate(struct gw_image *image, const char *name, struct gw_patches *patches)
{
    return -EINVAL;
}

static void raw_close(struct gw_image *image)
{
    free(raw_of(image));
}

static const struct gw_image_ops raw_ops = {
    .extent = raw_extent,
    .locate = raw_locate,
    .zero = raw_zero,
    .refresh = raw_refresh,
    .take_appeared = raw_take_appeared,
    .sync = raw_sync,
    .finish = raw_finish,
    .unchanged = raw_unchanged,
    .survey = raw_survey,
    .entry = raw_entry,
    .relocate = raw_relocate,
    .close = raw_close,
};

static struct raw *raw_new(const struct gw_image_file *file, uint64_t virtual_size)
{
    struct raw *raw = calloc(1, sizeof(*raw));
    int sector = 512;
    unsigned physical = 512;

    if (!raw)
        return NULL;
    raw->base.ops = &raw_ops;
    raw->base.file = *file;
    gw_image_info_from_file(&raw->base);
    if (file->is_block_device) {
        if (ioctl(file->table_fd, BLKSSZGET, &sector) || sector <= 0)
            sector = 512;
        if (ioctl(file->table_fd, BLKPBSZGET, &physical) || physical == 0)
            physical = (unsigned)sector;
    }
    raw->base.info.format = GW_IMAGE_RAW;
    raw->base.info.virtual_size = virtual_size;
    raw->base.info.logical_sector_size = (uint32_t)sector;
    raw->base.info.physical_sector_size = physical;
    return raw;
}

int gw_raw_open(struct gw_image_file *file, bool is_in_use, struct gw_image **out)
{
    struct raw *raw;

    if (file->size == 0)
        return gw_fail(-EUCLEAN, "%s is empty: there is no disk in it", file->path);
    raw = raw_new(file, file->size);
    if (!raw)
        return gw_fail(-ENOMEM, "no memory to open %s", file->path);
    raw->base.is_in_use = is_in_use;
    *out = &raw->base;
    return 0;
}

static int prepare_device(const struct gw_image_file *file,
                          const struct gw_image_create_options *options)
{
    if (file->size < options->virtual_size)
        return gw_fail(-ENOSPC, "%s has %llu bytes, the disk needs %llu", file->path,
                       (unsigned long long)file->size, (unsigned long long)options->virtual_size);
    return 0;
}

static int prepare_file(const struct gw_image_file *file,
                        const struct gw_image_create_options *options)
{
    int rc = gw_image_file_resize(file, options->virtual_size);

    if (rc == 0 && options->is_fixed)
        rc = gw_image_file_reserve(file, 0, options->virtual_size);
    return rc;
}

/* A device is what it was, gone on with or not. */
static enum gw_image_file_mode mode_of(const struct gw_image_create_options *options)
{
    struct stat status;

    if (stat(options->path, &status) != 0)
        return GW_FILE_CREATE;
    return options->is_continued && S_ISREG(status.st_mode) ? GW_FILE_CONTINUE
                                                            : GW_FILE_WRITE_DEVICE;
}

int gw_raw_create(const struct gw_image_create_options *options, struct gw_image **out)
{
    enum gw_image_file_mode mode = mode_of(options);
    struct gw_image_file file;
    struct raw *raw = NULL;
    int rc = gw_image_file_open(options->path, mode, options->is_direct, &file);

    if (rc)
        return rc;
    rc = file.is_block_device ? prepare_device(&file, options) : prepare_file(&file, options);
    if (rc == 0 && mode == GW_FILE_CREATE)
        rc = gw_image_file_is_new(&file, options->virtual_size);
    if (rc == 0) {
        raw = raw_new(&file, options->virtual_size);
        if (!raw)
            rc = gw_fail(-ENOMEM, "no memory to make %s", options->path);
    }
    if (rc) {
        if (!file.is_block_device && !options->is_continued)
            unlink(options->path);
        gw_image_file_close(&file);
        return rc;
    }
    raw->is_fixed = options->is_fixed;
    raw->base.is_made = true;
    raw->base.is_renamed = options->is_renamed;
    raw->base.is_writable = true;
    raw->base.info.is_fixed = options->is_fixed;
    *out = &raw->base;
    return 0;
}
