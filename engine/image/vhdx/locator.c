/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent locator: MS-VHDX 2.6.2.6. Decodes what a differencing image says about its parent;
 * where that file lies on this host is engine/image/parent.h's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/text.h"
#include "engine/image/vhdx/vhdx.h"

/* B04AEFB7-D19E-4A81-B789-25B8E9445913, the only type there is. */
static const uint8_t locator_type[16] = {0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
                                         0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13};

/* In the order in which paths are to be tried. */
enum key { LINKAGE, LINKAGE2, RELATIVE, VOLUME, ABSOLUTE, KEY_COUNT };

static const char *const key_names[KEY_COUNT] = {
    "parent_linkage", "parent_linkage2", "relative_path", "volume_path", "absolute_win32_path",
};

struct item {
    const char *path; /* of the image */
    const uint8_t *bytes;
    size_t length;
    char *values[KEY_COUNT];
};

static int text_at(const struct item *item, uint32_t offset, uint32_t length, char **out)
{
    int rc;

    if (offset < VHDX_LOCATOR_HEADER_SIZE || length == 0 ||
        !gw_range_fits(offset, length, item->length))
        return gw_fail(-EUCLEAN, "%s: the parent locator cannot have %u bytes of text at byte %u",
                       item->path, length, offset);
    rc = gw_text_from_utf16(item->bytes + offset, length, false, out);
    if (rc == -ENOMEM)
        return gw_fail(rc, "no memory to open %s", item->path);
    return rc ? gw_fail(-EUCLEAN, "%s: the text at byte %u of the parent locator is no UTF-16",
                        item->path, offset)
              : 0;
}

static int entry_decode(struct item *item, const uint8_t *entry)
{
    char *key = NULL, *value = NULL;
    int known = 0;
    int rc = text_at(item, gw_get_le32(entry), gw_get_le16(entry + VHDX_LOCATOR_KEY_LENGTH), &key);

    if (rc)
        return rc;
    while (known < KEY_COUNT && strcmp(key, key_names[known]) != 0)
        known++;
    free(key);
    if (known == KEY_COUNT)
        return 0;
    rc = text_at(item, gw_get_le32(entry + VHDX_LOCATOR_VALUE_OFFSET),
                 gw_get_le16(entry + VHDX_LOCATOR_VALUE_LENGTH), &value);
    if (rc)
        return rc;
    if (item->values[known]) {
        free(value);
        return gw_fail(-EUCLEAN, "%s: the parent locator has %s twice", item->path,
                       key_names[known]);
    }
    item->values[known] = value;
    return 0;
}

static int entries_decode(struct item *item)
{
    uint32_t count = gw_get_le16(item->bytes + VHDX_LOCATOR_COUNT);
    int rc = 0;

    if (count > VHDX_LOCATOR_COUNT_MAX)
        return gw_fail(-EUCLEAN, "%s: the parent locator has %u entries, more than %u", item->path,
                       count, VHDX_LOCATOR_COUNT_MAX);
    if (!gw_range_fits(VHDX_LOCATOR_HEADER_SIZE, (uint64_t)count * VHDX_LOCATOR_ENTRY_SIZE,
                       item->length))
        return gw_fail(-EUCLEAN, "%s: the parent locator of %zu bytes has no room for %u entries",
                       item->path, item->length, count);
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = entry_decode(item,
                          item->bytes + VHDX_LOCATOR_HEADER_SIZE + i * VHDX_LOCATOR_ENTRY_SIZE);
    return rc;
}

static int take_ids(const struct item *item, struct gw_parent_link *link)
{
    if (!item->values[LINKAGE])
        return gw_fail(-EUCLEAN, "%s: the parent locator does not say which parent it is",
                       item->path);
    for (int key = LINKAGE; key <= LINKAGE2; key++) {
        if (!item->values[key])
            continue;
        if (gw_guid_parse(item->values[key], link->ids[link->id_count]))
            return gw_fail(-EUCLEAN, "%s: the parent locator's %s '%.64s' is no GUID", item->path,
                           key_names[key], item->values[key]);
        link->id_count++;
    }
    return 0;
}

static int take_paths(struct item *item, struct gw_parent_link *link)
{
    int rc = 0;

    for (int key = RELATIVE; key < KEY_COUNT && rc == 0; key++) {
        if (!item->values[key])
            continue;
        rc = gw_parent_link_add(link, key == RELATIVE ? GW_PARENT_RELATIVE : GW_PARENT_ELSEWHERE,
                                key_names[key], item->values[key]);
        item->values[key] = NULL;
    }
    if (rc == 0 && link->path_count == 0)
        return gw_fail(-EUCLEAN, "%s: the parent locator names no path", item->path);
    return rc;
}

int gw_vhdx_locator_decode(const char *path, const uint8_t *bytes, size_t length,
                           struct gw_parent_link *link)
{
    struct item item = {.path = path, .bytes = bytes, .length = length};
    char type[GW_GUID_TEXT];
    int rc;

    if (memcmp(bytes, locator_type, 16) != 0) {
        gw_guid_format(bytes, false, type);
        return gw_fail(-ENOTSUP, "%s: its parent is of type %s, which is no VHDX file", path, type);
    }
    rc = entries_decode(&item);
    if (rc == 0)
        rc = take_ids(&item, link);
    if (rc == 0)
        rc = take_paths(&item, link);
    for (int i = 0; i < KEY_COUNT; i++)
        free(item.values[i]);
    return rc;
}
