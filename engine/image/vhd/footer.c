/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The footer: what kind of VHD it is and how large its disk. It is at the end of every VHD, and
 * dynamic ones have a copy of it at the beginning, which counts when the one at the end is lost.
 */
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhd/vhd.h"

uint32_t gw_vhd_checksum(const uint8_t *bytes, size_t length, size_t checksum_at)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < length; i++)
        if (i < checksum_at || i >= checksum_at + 4)
            sum += bytes[i];
    return ~sum;
}

static bool footer_decode(const uint8_t *bytes, struct gw_vhd_footer *out)
{
    const uint8_t *geometry = bytes + VHD_FOOTER_GEOMETRY;

    if (memcmp(bytes, VHD_FOOTER_COOKIE, 8) != 0 ||
        gw_get_be32(bytes + VHD_FOOTER_CHECKSUM) !=
            gw_vhd_checksum(bytes, VHD_FOOTER_SIZE, VHD_FOOTER_CHECKSUM))
        return false;
    *out = (struct gw_vhd_footer){
        .type = (enum vhd_type)gw_get_be32(bytes + VHD_FOOTER_TYPE),
        .header_offset = gw_get_be64(bytes + VHD_FOOTER_HEADER),
        .current_size = gw_get_be64(bytes + VHD_FOOTER_SIZE_NOW),
        .geometry_size = (uint64_t)gw_get_be16(geometry) * geometry[2] * geometry[3] * VHD_SECTOR,
        .has_saved_state = bytes[VHD_FOOTER_SAVED] != 0,
    };
    memcpy(out->id, bytes + VHD_FOOTER_ID, 16);
    for (int i = 0; i < 4; i++) {
        char letter = (char)bytes[VHD_FOOTER_CREATOR + i];

        out->creator[i] = letter >= ' ' && letter < 0x7f ? letter : '.';
    }
    return true;
}

static int footer_read_at(const struct gw_vhd *vhd, uint64_t offset, size_t length,
                          struct gw_vhd_footer *out, bool *is_valid)
{
    uint8_t bytes[VHD_FOOTER_SIZE] = {0};
    int rc = gw_image_file_read(&vhd->base.file, offset, bytes, length);

    *is_valid = rc == 0 && footer_decode(bytes, out);
    return rc;
}

static int footer_check(const struct gw_vhd *vhd)
{
    const struct gw_vhd_footer *footer = &vhd->footer;
    const char *path = vhd->base.file.path;

    if (footer->type != VHD_FIXED && footer->type != VHD_DYNAMIC &&
        footer->type != VHD_DIFFERENCING)
        return gw_fail(-ENOTSUP, "%s: VHD type %u is not supported (fixed, dynamic, differencing)",
                       path, footer->type);
    if (footer->current_size == 0 || footer->current_size % VHD_SECTOR ||
        footer->current_size > VHD_VIRTUAL_SIZE_MAX)
        return gw_fail(-EUCLEAN,
                       "%s: a disk of %llu bytes is not allowed (1 sector to 2 TiB, whole sectors)",
                       path, (unsigned long long)footer->current_size);
    if (footer->type == VHD_FIXED && footer->current_size > vhd->footer_offset)
        return gw_fail(-EUCLEAN,
                       "%s is truncated: its disk has %llu bytes, the file has room for %llu; copy "
                       "it anew from where it came from",
                       path, (unsigned long long)footer->current_size,
                       (unsigned long long)vhd->footer_offset);
    return 0;
}

int gw_vhd_footer_read(struct gw_vhd *vhd)
{
    const struct gw_image_file *file = &vhd->base.file;
    bool is_valid;
    int rc;

    if (file->size < VHD_FOOTER_SIZE)
        return gw_fail(-EUCLEAN, "%s has %llu bytes, too few for a VHD", file->path,
                       (unsigned long long)file->size);
    vhd->footer_offset = file->size - VHD_FOOTER_SIZE;
    rc = footer_read_at(vhd, vhd->footer_offset, VHD_FOOTER_SIZE, &vhd->footer, &is_valid);
    if (rc == 0 && !is_valid && file->size % VHD_SECTOR == VHD_FOOTER_SIZE_OLD) {
        vhd->footer_offset = file->size - VHD_FOOTER_SIZE_OLD;
        rc = footer_read_at(vhd, vhd->footer_offset, VHD_FOOTER_SIZE_OLD, &vhd->footer, &is_valid);
    }
    if (rc == 0 && !is_valid) {
        rc = footer_read_at(vhd, 0, VHD_FOOTER_SIZE, &vhd->footer, &is_valid);
        vhd->is_copy_used = true;
        /* Nothing but the copy says how long the file was: blocks may use all of it. */
        vhd->footer_offset = file->size;
    }
    if (rc)
        return rc;
    if (!is_valid)
        return gw_fail(-EUCLEAN,
                       "%s: no sound footer at either end: it is truncated, damaged or no VHD",
                       file->path);
    return footer_check(vhd);
}
