/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parent locator that says another place, for a copy of the file: the paths become one relative
 * path, the parent's identity stays. MS-VHDX 2.6.2.6.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/text.h"
#include "engine/image/vhdx/vhdx.h"

#define PAIRS_MAX 3u
#define TEXT_MAX  1024u /* bytes of one key or value */
#define ITEM_MAX  (VHDX_LOCATOR_HEADER_SIZE + PAIRS_MAX * (VHDX_LOCATOR_ENTRY_SIZE + 2 * TEXT_MAX))

struct item {
    uint8_t bytes[ITEM_MAX];
    uint32_t length, count;
    int error;
};

static void put_text(struct item *item, const char *text, uint8_t *offset, uint8_t *length)
{
    size_t count = 0;

    if (strlen(text) * 2 > TEXT_MAX ||
        gw_text_to_utf16(text, false, item->bytes + item->length, &count))
        item->error = -EINVAL;
    gw_put_le32(offset, item->length);
    gw_put_le16(length, (uint16_t)count);
    item->length += (uint32_t)count;
}

static void put_pair(struct item *item, const char *key, const char *value)
{
    uint8_t *entry =
        item->bytes + VHDX_LOCATOR_HEADER_SIZE + item->count++ * VHDX_LOCATOR_ENTRY_SIZE;

    put_text(item, key, entry, entry + VHDX_LOCATOR_KEY_LENGTH);
    put_text(item, value, entry + VHDX_LOCATOR_VALUE_OFFSET, entry + VHDX_LOCATOR_VALUE_LENGTH);
}

static int build(const struct gw_vhdx *vhdx, const uint8_t *old, const char *name,
                 struct item *item)
{
    static const char *const keys[] = {"parent_linkage", "parent_linkage2"};
    const struct gw_parent_link *link = vhdx->base.link;
    char guid[GW_GUID_TEXT], text[TEXT_MAX];

    *item = (struct item){
        .length = VHDX_LOCATOR_HEADER_SIZE + (link->id_count + 1) * VHDX_LOCATOR_ENTRY_SIZE,
    };
    memcpy(item->bytes, old, 16); /* the locator's type */
    gw_put_le16(item->bytes + VHDX_LOCATOR_COUNT, (uint16_t)(link->id_count + 1));
    for (unsigned i = 0; i < link->id_count; i++) {
        gw_guid_format(link->ids[i], false, guid);
        snprintf(text, sizeof(text), "{%s}", guid);
        put_pair(item, keys[i], text);
    }
    snprintf(text, sizeof(text), ".\\%s", name);
    put_pair(item, "relative_path", text);
    return item->error ? gw_fail(-EINVAL, "%s: '%s' cannot be written as a parent's name",
                                 vhdx->base.file.path, name)
                       : 0;
}

/* Where the item may lie: in its old place if it fits, else behind all items. */
static int find_room(const struct gw_vhdx *vhdx, const uint8_t *table, uint32_t length,
                     uint32_t *entry_at, uint32_t *offset)
{
    uint32_t count = gw_get_le16(table + VHDX_METADATA_COUNT);
    uint64_t end = VHDX_METADATA_TABLE_SIZE;

    *entry_at = 0;
    for (uint32_t i = 0; i < count && i < VHDX_METADATA_COUNT_MAX; i++) {
        uint32_t at = VHDX_METADATA_ENTRIES + i * VHDX_METADATA_ENTRY_SIZE;
        uint64_t begin = gw_get_le32(table + at + VHDX_METADATA_ENTRY_OFFSET);

        end = gw_max(end, begin + gw_get_le32(table + at + VHDX_METADATA_ENTRY_LENGTH));
        if (begin == vhdx->locator.offset)
            *entry_at = at;
    }
    *offset = (uint32_t)vhdx->locator.offset;
    if (length <= vhdx->locator.length && *entry_at)
        return 0;
    if (!*entry_at || !gw_range_fits(gw_align_up(end, 8), length, vhdx->metadata_region.length))
        return gw_fail(-ENOSPC,
                       "%s: its metadata has no room for another path of its parent: copy it with "
                       "--flatten",
                       vhdx->base.file.path);
    *offset = (uint32_t)gw_align_up(end, 8);
    return 0;
}

int gw_vhdx_relocate(struct gw_image *image, const char *name, struct gw_patches *patches)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    uint64_t base = vhdx->metadata_region.offset;
    uint8_t *table, field[8], type[16];
    uint32_t entry_at, offset;
    struct item item;
    int error;

    if (gw_vhdx_has_log(&vhdx->header))
        return gw_fail(-ENOTSUP,
                       "%s was not closed cleanly, so that its parent's place cannot be changed in "
                       "a copy: open it once with the program that wrote it, or copy it with "
                       "--flatten",
                       image->file.path);
    table = malloc(VHDX_METADATA_TABLE_SIZE);
    if (!table)
        return gw_fail(-ENOMEM, "no memory for the metadata of %s", image->file.path);
    error = gw_vhdx_read(vhdx, base, table, VHDX_METADATA_TABLE_SIZE);
    if (!error)
        error = gw_vhdx_read(vhdx, base + vhdx->locator.offset, type, sizeof(type));
    if (!error)
        error = build(vhdx, type, name, &item);
    if (!error)
        error = find_room(vhdx, table, item.length, &entry_at, &offset);
    free(table);
    if (error)
        return error;
    gw_put_le32(field, offset);
    gw_put_le32(field + 4, item.length);
    error = gw_patches_put(patches, &image->file, base + entry_at + VHDX_METADATA_ENTRY_OFFSET,
                           field, sizeof(field));
    return error ? error
                 : gw_patches_put(patches, &image->file, base + offset, item.bytes, item.length);
}
