/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of dynamic and differencing disks: block size, place of the BAT, and what a
 * differencing disk says about its parent. Where the parent lies is engine/image/parent.h's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/text.h"
#include "engine/image/vhd/vhd.h"

static int header_load(const struct gw_vhd *vhd, uint8_t *header)
{
    const struct gw_image_file *file = &vhd->base.file;
    uint64_t offset = vhd->footer.header_offset;
    int rc;

    if (offset % VHD_SECTOR || !gw_range_fits(offset, VHD_HEADER_SIZE, file->size))
        return gw_fail(-EUCLEAN, "%s: the header cannot lie at byte %llu", file->path,
                       (unsigned long long)offset);
    rc = gw_image_file_read(file, offset, header, VHD_HEADER_SIZE);
    if (rc)
        return rc;
    if (memcmp(header, VHD_HEADER_COOKIE, 8) != 0 ||
        gw_get_be32(header + VHD_HEADER_CHECKSUM) !=
            gw_vhd_checksum(header, VHD_HEADER_SIZE, VHD_HEADER_CHECKSUM))
        return gw_fail(-EUCLEAN,
                       "%s: the header at byte %llu is damaged: restore the image from a "
                       "backup",
                       file->path, (unsigned long long)offset);
    if (gw_get_be32(header + VHD_HEADER_VERSION) >> 16 != VHD_VERSION_MAJOR)
        return gw_fail(-ENOTSUP, "%s: header version %#x is not supported", file->path,
                       gw_get_be32(header + VHD_HEADER_VERSION));
    return 0;
}

static int table_check(struct gw_vhd *vhd, uint32_t entries)
{
    const char *path = vhd->base.file.path;
    uint32_t block_size = vhd->base.info.block_size;

    if (!gw_is_power_of_two(block_size) || block_size < VHD_BLOCK_SIZE_MIN ||
        block_size > VHD_BLOCK_SIZE_MAX)
        return gw_fail(-EUCLEAN,
                       "%s: blocks of %u bytes are not allowed (a power of two, 4 KiB to 256 MiB)",
                       path, block_size);
    vhd->block_count = (vhd->footer.current_size + block_size - 1) / block_size;
    vhd->bitmap_size = (uint32_t)gw_align_up(block_size / VHD_SECTOR / 8, VHD_SECTOR);
    if (entries < vhd->block_count)
        return gw_fail(-EUCLEAN,
                       "%s: the block allocation table has %u entries, the disk needs %llu", path,
                       entries, (unsigned long long)vhd->block_count);
    if (vhd->table_offset % VHD_SECTOR ||
        !gw_range_fits(vhd->table_offset, vhd->block_count * VHD_BAT_ENTRY_SIZE,
                       vhd->base.file.size))
        return gw_fail(-EUCLEAN,
                       "%s is truncated or damaged: its block allocation table cannot lie at byte "
                       "%llu",
                       path, (unsigned long long)vhd->table_offset);
    return 0;
}

/* Adds a path that lies at offset; text that makes no sense is passed over: another path may do. */
static int add_text(struct gw_vhd *vhd, const struct gw_parent_path *kind, uint64_t offset,
                    uint32_t length)
{
    const struct gw_image_file *file = &vhd->base.file;
    uint8_t *bytes;
    char *text;
    int rc;

    if (length == 0 || length > VHD_LOCATOR_LENGTH_MAX ||
        !gw_range_fits(offset, length, file->size))
        return gw_fail(-EUCLEAN, "%s: a parent locator cannot have %u bytes at byte %llu",
                       file->path, length, (unsigned long long)offset);
    bytes = malloc(length);
    if (!bytes)
        return gw_fail(-ENOMEM, "no memory to open %s", file->path);
    rc = gw_image_file_read(file, offset, bytes, length);
    if (rc == 0) {
        rc = gw_text_from_utf16(bytes, length, false, &text);
        if (rc == -ENOMEM)
            rc = gw_fail(-ENOMEM, "no memory to open %s", file->path);
        else if (rc)
            rc = gw_fail(-EUCLEAN, "%s: the parent locator at byte %llu is no UTF-16", file->path,
                         (unsigned long long)offset);
        else
            rc = gw_parent_link_add(vhd->base.link, kind->kind, kind->label, text);
    }
    free(bytes);
    return rc;
}

static int add_locators(struct gw_vhd *vhd, const uint8_t *header, uint32_t code,
                        const struct gw_parent_path *kind)
{
    int rc = 0;

    for (uint32_t i = 0; i < VHD_LOCATOR_COUNT && rc == 0; i++) {
        const uint8_t *entry = header + VHD_HEADER_LOCATORS + i * VHD_LOCATOR_SIZE;

        if (gw_get_be32(entry) == code)
            rc = add_text(vhd, kind, gw_get_be64(entry + VHD_LOCATOR_OFFSET),
                          gw_get_be32(entry + VHD_LOCATOR_LENGTH));
    }
    return rc;
}

static int add_name(struct gw_vhd *vhd, const uint8_t *header)
{
    const uint8_t *name = header + VHD_HEADER_PARENT_NAME;
    size_t length = 0;
    char *text;

    while (length < VHD_HEADER_NAME_SIZE && (name[length] || name[length + 1]))
        length += 2;
    /* It is a name for people; the locators say the same better. */
    if (length == 0 || gw_text_from_utf16(name, length, true, &text))
        return 0;
    return gw_parent_link_add(vhd->base.link, GW_PARENT_ELSEWHERE, "parent name", text);
}

static int parent_read(struct gw_vhd *vhd, const uint8_t *header)
{
    static const struct gw_parent_path relative = {GW_PARENT_RELATIVE, "W2ru", NULL};
    static const struct gw_parent_path absolute = {GW_PARENT_ELSEWHERE, "W2ku", NULL};
    struct gw_parent_link *link = calloc(1, sizeof(*link));
    int rc;

    if (!link)
        return gw_fail(-ENOMEM, "no memory to open %s", vhd->base.file.path);
    vhd->base.link = link;
    memcpy(link->ids[0], header + VHD_HEADER_PARENT_ID, 16);
    link->id_count = 1;
    link->is_big_endian = true;
    link->place = vhd->footer.header_offset;
    rc = add_locators(vhd, header, VHD_LOCATOR_RELATIVE, &relative);
    if (rc == 0)
        rc = add_locators(vhd, header, VHD_LOCATOR_ABSOLUTE, &absolute);
    if (rc == 0)
        rc = add_name(vhd, header);
    if (rc == 0 && link->path_count == 0)
        rc =
            gw_fail(-EUCLEAN, "%s is a differencing disk and names no parent", vhd->base.file.path);
    return rc;
}

int gw_vhd_header_read(struct gw_vhd *vhd)
{
    uint8_t header[VHD_HEADER_SIZE];
    int rc;

    if (vhd->footer.type == VHD_FIXED)
        return 0;
    rc = header_load(vhd, header);
    if (rc)
        return rc;
    vhd->base.info.block_size = gw_get_be32(header + VHD_HEADER_BLOCK);
    vhd->table_offset = gw_get_be64(header + VHD_HEADER_TABLE);
    rc = table_check(vhd, gw_get_be32(header + VHD_HEADER_ENTRIES));
    if (rc == 0 && vhd->footer.type == VHD_DIFFERENCING)
        rc = parent_read(vhd, header);
    return rc;
}
