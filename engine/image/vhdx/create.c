/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New images. Layout: header section, log (1 MiB, empty), metadata (1 MiB), BAT, blocks. Until
 * finish, the place of the file type identifier has another text in it and headers, region tables
 * and metadata are not there at all, so that nothing takes the file for a VHDX.
 *
 * Order in finish: blocks and BAT durable, then metadata, region tables and headers durable, then
 * the identifier, durable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

#define LOG_LENGTH      (1ull << 20)
#define METADATA_LENGTH (1ull << 20)

static int check_options(const struct gw_image_create_options *options,
                         const struct gw_image_info *info)
{
    const char *path = options->path;

    if (!gw_is_power_of_two(info->block_size) || info->block_size < VHDX_BLOCK_SIZE_MIN ||
        info->block_size > VHDX_BLOCK_SIZE_MAX)
        return gw_fail(-EINVAL,
                       "%s: a VHDX has blocks of 1 to 256 MiB, a power of two, not of %u bytes",
                       path, info->block_size);
    if ((info->logical_sector_size != 512 && info->logical_sector_size != 4096) ||
        (info->physical_sector_size != 512 && info->physical_sector_size != 4096))
        return gw_fail(-EINVAL, "%s: a VHDX has sectors of 512 or 4096 bytes, not of %u and %u",
                       path, info->logical_sector_size, info->physical_sector_size);
    if (info->virtual_size > VHDX_VIRTUAL_SIZE_MAX)
        return gw_fail(-EFBIG, "%s: a VHDX has at most 64 TiB, the disk has %llu bytes", path,
                       (unsigned long long)info->virtual_size);
    if (info->virtual_size % info->logical_sector_size)
        return gw_fail(-EINVAL,
                       "%s: a VHDX has whole sectors of %u bytes, the disk has %llu bytes: use "
                       "format raw",
                       path, info->logical_sector_size, (unsigned long long)info->virtual_size);
    return 0;
}

static int info_from_options(const struct gw_image_create_options *options,
                             struct gw_image_info *info)
{
    info->format = GW_IMAGE_VHDX;
    info->is_fixed = options->is_fixed;
    info->virtual_size = options->virtual_size;
    info->block_size = options->block_size ? options->block_size : VHDX_BLOCK_SIZE_DEFAULT;
    info->logical_sector_size = options->logical_sector_size ? options->logical_sector_size : 512;
    info->physical_sector_size =
        options->physical_sector_size ? options->physical_sector_size : 4096;
    if (options->disk_id) {
        memcpy(info->disk_id, options->disk_id, 16);
        return 0;
    }
    return gw_vhdx_guid_new(info->disk_id);
}

static int header_new(struct gw_vhdx_header *header, const uint8_t *data_id)
{
    int rc = gw_vhdx_guid_new(header->file_guid);

    header->sequence = 1;
    header->version = VHDX_VERSION;
    header->log = (struct gw_vhdx_range){GW_VHDX_LOG_OFFSET, LOG_LENGTH};
    if (!data_id)
        return rc ? rc : gw_vhdx_guid_new(header->data_guid);
    memcpy(header->data_guid, data_id, 16);
    return rc;
}

/* Where everything goes; nothing is written. */
static int lay_out(struct gw_vhdx *vhdx)
{
    uint64_t entries = gw_vhdx_geometry(vhdx);
    uint64_t bat_length = gw_align_up(entries * VHDX_BAT_ENTRY_SIZE, VHDX_ALIGNMENT);

    vhdx->metadata_region = (struct gw_vhdx_range){GW_VHDX_METADATA_OFFSET, METADATA_LENGTH};
    vhdx->bat_region = (struct gw_vhdx_range){GW_VHDX_BAT_OFFSET, bat_length};
    vhdx->writer.next_offset = GW_VHDX_BAT_OFFSET + bat_length;
    vhdx->writer.file_end = vhdx->writer.next_offset;
    vhdx->writer.free_offsets = calloc(GW_VHDX_FREE_MAX, sizeof(uint64_t));
    if (!vhdx->writer.free_offsets)
        return gw_fail(-ENOMEM, "no memory to make %s", vhdx->base.file.path);
    return gw_vhdx_bat_init(vhdx, vhdx->file_size / VHDX_ALIGNMENT + 1);
}

/* A fixed disk: every block has its place from the start, and the space is reserved. */
int gw_vhdx_fill(struct gw_vhdx *vhdx)
{
    uint64_t block_size = vhdx->base.info.block_size;
    uint64_t first = vhdx->writer.next_offset;
    uint64_t bytes = vhdx->block_count * block_size;
    int rc = gw_image_file_resize(&vhdx->base.file, first + bytes);

    if (rc == 0)
        rc = gw_image_file_reserve(&vhdx->base.file, first, bytes);
    for (uint64_t block = 0; block < vhdx->block_count && rc == 0; block++)
        rc = gw_vhdx_bat_set(vhdx, block, (first + block * block_size) | VHDX_BLOCK_FULLY_PRESENT);
    vhdx->writer.next_offset = first + bytes;
    vhdx->writer.file_end = first + bytes;
    return rc;
}

static int start(struct gw_vhdx *vhdx, const struct gw_image_create_options *options)
{
    int rc = info_from_options(options, &vhdx->base.info);

    if (rc == 0)
        rc = check_options(options, &vhdx->base.info);
    if (rc == 0)
        rc = header_new(&vhdx->header, options->data_id);
    vhdx->file_size = vhdx->base.file.size;
    if (rc == 0)
        rc = lay_out(vhdx);
    if (rc == 0 && options->is_continued)
        return gw_vhdx_continue(vhdx);
    if (rc == 0)
        rc = gw_image_file_resize(&vhdx->base.file, vhdx->writer.file_end);
    if (rc == 0)
        rc = gw_image_file_write(&vhdx->base.file, 0, GW_IMAGE_UNFINISHED,
                                 sizeof(GW_IMAGE_UNFINISHED) - 1);
    if (rc == 0 && options->is_fixed)
        rc = gw_vhdx_fill(vhdx);
    if (rc == 0)
        rc = gw_image_file_is_new(&vhdx->base.file,
                                  vhdx->writer.file_end +
                                      vhdx->block_count * vhdx->base.info.block_size);
    return rc;
}

int gw_vhdx_create(const struct gw_image_create_options *options, struct gw_image **out)
{
    struct gw_vhdx *vhdx = calloc(1, sizeof(*vhdx));
    struct gw_image_file file;
    int rc;

    if (!vhdx)
        return gw_fail(-ENOMEM, "no memory to make %s", options->path);
    rc =
        gw_image_file_open(options->path, options->is_continued ? GW_FILE_CONTINUE : GW_FILE_CREATE,
                           options->is_direct, &file);
    if (rc) {
        free(vhdx);
        return rc;
    }
    vhdx->base.ops = &gw_vhdx_ops;
    vhdx->base.file = file;
    vhdx->base.is_writable = true;
    vhdx->base.is_made = true;
    vhdx->base.is_renamed = options->is_renamed;
    gw_image_info_from_file(&vhdx->base);
    rc = start(vhdx, options);
    if (rc) {
        if (!options->is_continued)
            unlink(options->path);
        file = vhdx->base.file;
        gw_vhdx_free(vhdx);
        gw_image_file_close(&file);
        return rc;
    }
    *out = &vhdx->base;
    return 0;
}

/* One flush for data and table: until the identifier is there nobody reads the table, so that the
 * order of these two is nobody's concern. */
int gw_vhdx_sync(struct gw_image *image)
{
    int rc = gw_vhdx_bat_flush(gw_vhdx_of(image));

    return rc ? rc : gw_image_file_sync(&image->file);
}

static int write_metadata(struct gw_vhdx *vhdx, uint8_t *bytes)
{
    memset(bytes, 0, GW_VHDX_METADATA_BYTES);
    gw_vhdx_metadata_encode(vhdx, bytes);
    return gw_image_file_write(&vhdx->base.file, vhdx->metadata_region.offset, bytes,
                               GW_VHDX_METADATA_BYTES);
}

static int write_regions(struct gw_vhdx *vhdx, uint8_t *bytes)
{
    int rc;

    gw_vhdx_regions_encode(vhdx, bytes);
    rc = gw_image_file_write(&vhdx->base.file, VHDX_REGION_1_OFFSET, bytes, VHDX_REGION_TABLE_SIZE);
    if (rc)
        return rc;
    return gw_image_file_write(&vhdx->base.file, VHDX_REGION_2_OFFSET, bytes,
                               VHDX_REGION_TABLE_SIZE);
}

static int write_headers(struct gw_vhdx *vhdx, uint8_t *bytes)
{
    int rc;

    gw_vhdx_header_encode(&vhdx->header, bytes);
    rc = gw_image_file_write(&vhdx->base.file, VHDX_HEADER_1_OFFSET, bytes, VHDX_HEADER_SIZE);
    if (rc)
        return rc;
    vhdx->header.sequence++;
    gw_vhdx_header_encode(&vhdx->header, bytes);
    return gw_image_file_write(&vhdx->base.file, VHDX_HEADER_2_OFFSET, bytes, VHDX_HEADER_SIZE);
}

static int write_identifier(struct gw_vhdx *vhdx, uint8_t *bytes)
{
    memset(bytes, 0, VHDX_IDENTIFIER_SIZE);
    gw_vhdx_identifier_encode(bytes);
    return gw_image_file_write(&vhdx->base.file, 0, bytes, VHDX_IDENTIFIER_SIZE);
}

int gw_vhdx_finish(struct gw_image *image)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    uint8_t *bytes = malloc(GW_VHDX_METADATA_BYTES);
    int rc;

    static_assert(GW_VHDX_METADATA_BYTES >= VHDX_REGION_TABLE_SIZE &&
                      GW_VHDX_METADATA_BYTES >= VHDX_IDENTIFIER_SIZE,
                  "one buffer for every structure");
    if (!bytes)
        return gw_fail(-ENOMEM, "no memory to finish %s", image->file.path);
    rc = gw_image_file_resize(&image->file, vhdx->writer.next_offset);
    vhdx->writer.file_end = vhdx->writer.next_offset;
    if (rc == 0)
        rc = gw_vhdx_bat_flush(vhdx);
    if (rc == 0)
        rc = write_metadata(vhdx, bytes);
    if (rc == 0)
        rc = write_regions(vhdx, bytes);
    if (rc == 0)
        rc = write_headers(vhdx, bytes);
    if (rc == 0)
        rc = gw_image_file_sync(&image->file);
    if (rc == 0)
        rc = write_identifier(vhdx, bytes);
    if (rc == 0)
        rc = gw_image_file_sync(&image->file);
    if (rc == 0 && !image->is_renamed)
        rc = gw_image_file_sync_folder(&image->file);
    if (rc == 0)
        image->info.file_size = vhdx->writer.next_offset;
    free(bytes);
    return rc;
}
