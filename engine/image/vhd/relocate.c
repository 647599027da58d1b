/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parent locator that says another place, for a copy of the file: one relative path in the room
 * of an old one. The parent's identity stays.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/text.h"
#include "engine/image/vhd/vhd.h"

#define TEXT_MAX 1024u

/* The entry to be changed: a relative path, or else an absolute one, which would be of no use. */
static uint8_t *find_entry(uint8_t *header)
{
    static const uint32_t codes[] = {VHD_LOCATOR_RELATIVE, VHD_LOCATOR_ABSOLUTE};

    for (size_t c = 0; c < GW_ARRAY_LENGTH(codes); c++)
        for (uint32_t i = 0; i < VHD_LOCATOR_COUNT; i++) {
            uint8_t *entry = header + VHD_HEADER_LOCATORS + i * VHD_LOCATOR_SIZE;

            if (gw_get_be32(entry) == codes[c])
                return entry;
        }
    return NULL;
}

int gw_vhd_relocate(struct gw_image *image, const char *name, struct gw_patches *patches)
{
    struct gw_vhd *vhd = gw_vhd_of(image);
    uint8_t header[VHD_HEADER_SIZE], bytes[2 * TEXT_MAX] = {0}, *entry;
    char text[TEXT_MAX];
    size_t length = 0, room;
    int error =
        gw_image_file_read(&image->file, vhd->footer.header_offset, header, VHD_HEADER_SIZE);

    if (error)
        return error;
    entry = find_entry(header);
    if (snprintf(text, sizeof(text), ".\\%s", name) >= (int)sizeof(text) ||
        gw_text_to_utf16(text, false, bytes, &length))
        return gw_fail(-EINVAL, "%s: '%s' cannot be written as a parent's name", image->file.path,
                       name);
    room = entry ? gw_align_up(gw_get_be32(entry + VHD_LOCATOR_LENGTH), VHD_SECTOR) : 0;
    if (length > room)
        return gw_fail(-ENOSPC,
                       "%s has no room for another path of its parent: copy it with --flatten",
                       image->file.path);
    gw_put_be32(entry, VHD_LOCATOR_RELATIVE);
    gw_put_be32(entry + VHD_LOCATOR_LENGTH, (uint32_t)length);
    gw_put_be32(header + VHD_HEADER_CHECKSUM,
                gw_vhd_checksum(header, VHD_HEADER_SIZE, VHD_HEADER_CHECKSUM));
    error =
        gw_patches_put(patches, &image->file, vhd->footer.header_offset, header, VHD_HEADER_SIZE);
    if (error)
        return error;
    return gw_patches_put(patches, &image->file, gw_get_be64(entry + VHD_LOCATOR_OFFSET), bytes,
                          gw_min(room, sizeof(bytes)));
}
