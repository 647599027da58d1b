/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata region: MS-VHDX 2.6. Sizes of the disk, of its blocks and sectors, its id, its
 * parent; refuses what must be understood and is not.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/text.h"
#include "engine/image/vhdx/vhdx.h"

enum item {
    PARAMETERS,
    VIRTUAL_SIZE,
    DISK_ID,
    LOGICAL_SECTOR,
    PHYSICAL_SECTOR,
    PARENT,
    ITEM_COUNT
};

static const struct known_item {
    uint8_t guid[16];
    const char *name;
    uint32_t size; /* at least */
    uint32_t flags;
} known_items[ITEM_COUNT] = {
    [PARAMETERS] = {{0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa,
                     0x44, 0xe7, 0x6b},
                    "file parameters",
                    VHDX_PARAMETERS_SIZE,
                    VHDX_METADATA_IS_REQUIRED},
    [VIRTUAL_SIZE] = {{0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8,
                       0x3b, 0xf4, 0xb8},
                      "virtual disk size",
                      8,
                      VHDX_METADATA_IS_REQUIRED | VHDX_METADATA_IS_DISK},
    [DISK_ID] = {{0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0,
                  0x00, 0xc7, 0x46},
                 "virtual disk id",
                 16,
                 VHDX_METADATA_IS_REQUIRED | VHDX_METADATA_IS_DISK},
    [LOGICAL_SECTOR] = {{0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33,
                         0xa8, 0xfa, 0xab, 0x5f},
                        "logical sector size",
                        4,
                        VHDX_METADATA_IS_REQUIRED | VHDX_METADATA_IS_DISK},
    [PHYSICAL_SECTOR] = {{0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88,
                          0x52, 0x51, 0xc5, 0x56},
                         "physical sector size",
                         4,
                         VHDX_METADATA_IS_REQUIRED | VHDX_METADATA_IS_DISK},
    [PARENT] = {{0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34,
                 0xab, 0x0c},
                "parent locator",
                20,
                VHDX_METADATA_IS_REQUIRED},
};

struct found_items {
    bool is_found[ITEM_COUNT];
    struct gw_vhdx_range items[ITEM_COUNT]; /* offsets within the region */
};

static int find_known(const uint8_t *guid)
{
    for (int i = 0; i < ITEM_COUNT; i++)
        if (memcmp(guid, known_items[i].guid, 16) == 0)
            return i;
    return -1;
}

const char *gw_vhdx_item_name(const uint8_t *entry)
{
    bool is_user = gw_get_le32(entry + VHDX_METADATA_ENTRY_FLAGS) & VHDX_METADATA_IS_USER;
    int known = is_user ? -1 : find_known(entry);

    return known < 0 ? "unknown" : known_items[known].name;
}

static int entry_decode(const struct gw_vhdx *vhdx, const uint8_t *entry, struct found_items *found)
{
    const char *path = vhdx->base.file.path;
    uint32_t flags = gw_get_le32(entry + VHDX_METADATA_ENTRY_FLAGS);
    uint32_t offset = gw_get_le32(entry + VHDX_METADATA_ENTRY_OFFSET);
    uint32_t length = gw_get_le32(entry + VHDX_METADATA_ENTRY_LENGTH);
    int known = flags & VHDX_METADATA_IS_USER ? -1 : find_known(entry);
    char guid[GW_GUID_TEXT];

    if (known < 0) {
        gw_guid_format(entry, false, guid);
        if (flags & VHDX_METADATA_IS_REQUIRED)
            return gw_fail(-ENOTSUP,
                           "%s has a metadata item (%s) that must be understood and is not known: "
                           "it was made by newer software",
                           path, guid);
        return 0;
    }
    if (found->is_found[known])
        return gw_fail(-EUCLEAN, "%s: the %s is listed twice in the metadata", path,
                       known_items[known].name);
    if (offset < VHDX_METADATA_TABLE_SIZE || length > VHDX_METADATA_ITEM_MAX ||
        length < known_items[known].size ||
        !gw_range_fits(offset, length, vhdx->metadata_region.length))
        return gw_fail(-EUCLEAN, "%s: the %s cannot have %u bytes at byte %u of the metadata", path,
                       known_items[known].name, length, offset);
    found->is_found[known] = true;
    found->items[known] = (struct gw_vhdx_range){offset, length};
    return 0;
}

static int table_decode(const struct gw_vhdx *vhdx, const uint8_t *table, struct found_items *found)
{
    const char *path = vhdx->base.file.path;
    uint32_t count = gw_get_le16(table + VHDX_METADATA_COUNT);
    int rc = 0;

    if (memcmp(table, VHDX_METADATA_SIGNATURE, 8) != 0)
        return gw_fail(-EUCLEAN, "%s: the metadata table is damaged (no signature)", path);
    if (count > VHDX_METADATA_COUNT_MAX)
        return gw_fail(-EUCLEAN, "%s: the metadata table has %u entries, more than 2047", path,
                       count);
    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc =
            entry_decode(vhdx, table + VHDX_METADATA_ENTRIES + i * VHDX_METADATA_ENTRY_SIZE, found);
    for (int i = 0; i < PARENT && rc == 0; i++)
        if (!found->is_found[i])
            rc = gw_fail(-EUCLEAN, "%s: the %s is missing from the metadata", path,
                         known_items[i].name);
    return rc;
}

static int read_item(const struct gw_vhdx *vhdx, const struct found_items *found, enum item item,
                     uint8_t *into)
{
    return gw_vhdx_read(vhdx, vhdx->metadata_region.offset + found->items[item].offset, into,
                        known_items[item].size);
}

static bool is_sector_size(uint32_t size)
{
    return size == 512 || size == 4096;
}

static int check_sizes(const struct gw_vhdx *vhdx)
{
    const struct gw_image_info *info = &vhdx->base.info;
    const char *path = vhdx->base.file.path;

    if (!gw_is_power_of_two(info->block_size) || info->block_size < VHDX_BLOCK_SIZE_MIN ||
        info->block_size > VHDX_BLOCK_SIZE_MAX)
        return gw_fail(-EUCLEAN,
                       "%s: blocks of %u bytes are not allowed (a power of two, 1 to 256 MiB)",
                       path, info->block_size);
    if (!is_sector_size(info->logical_sector_size) || !is_sector_size(info->physical_sector_size))
        return gw_fail(-EUCLEAN, "%s: sectors of %u and %u bytes are not allowed (512 or 4096)",
                       path, info->logical_sector_size, info->physical_sector_size);
    if (info->virtual_size == 0 || info->virtual_size > VHDX_VIRTUAL_SIZE_MAX ||
        info->virtual_size % info->logical_sector_size)
        return gw_fail(
            -EUCLEAN, "%s: a disk of %llu bytes is not allowed (1 sector to 64 TiB, whole sectors)",
            path, (unsigned long long)info->virtual_size);
    return 0;
}

static int parent_read(struct gw_vhdx *vhdx, const struct found_items *found)
{
    const struct gw_vhdx_range *item = &found->items[PARENT];
    uint8_t *bytes;
    int rc;

    if (!found->is_found[PARENT])
        return gw_fail(-EUCLEAN, "%s has a parent and does not say which: it has no parent locator",
                       vhdx->base.file.path);
    vhdx->locator = *item;
    bytes = malloc(item->length);
    vhdx->base.link = calloc(1, sizeof(*vhdx->base.link));
    rc = bytes && vhdx->base.link ? 0
                                  : gw_fail(-ENOMEM, "no memory to open %s", vhdx->base.file.path);
    if (rc == 0)
        rc = gw_vhdx_read(vhdx, vhdx->metadata_region.offset + item->offset, bytes, item->length);
    if (rc == 0)
        rc = gw_vhdx_locator_decode(vhdx->base.file.path, bytes, item->length, vhdx->base.link);
    if (rc == 0)
        vhdx->base.link->place = vhdx->metadata_region.offset + item->offset;
    free(bytes);
    return rc;
}

static int items_read(struct gw_vhdx *vhdx, const struct found_items *found)
{
    struct gw_image_info *info = &vhdx->base.info;
    uint8_t bytes[ITEM_COUNT][16];
    uint32_t flags;
    int rc = 0;

    for (int i = 0; i < PARENT && rc == 0; i++)
        rc = read_item(vhdx, found, (enum item)i, bytes[i]);
    if (rc)
        return rc;
    flags = gw_get_le32(bytes[PARAMETERS] + VHDX_PARAMETERS_FLAGS);
    info->is_differencing = flags & VHDX_HAS_PARENT;
    info->block_size = gw_get_le32(bytes[PARAMETERS]);
    info->is_fixed = flags & VHDX_IS_FIXED && !info->is_differencing;
    info->virtual_size = gw_get_le64(bytes[VIRTUAL_SIZE]);
    memcpy(info->disk_id, bytes[DISK_ID], 16);
    info->logical_sector_size = gw_get_le32(bytes[LOGICAL_SECTOR]);
    info->physical_sector_size = gw_get_le32(bytes[PHYSICAL_SECTOR]);
    memcpy(info->data_id, vhdx->header.data_guid, 16);
    rc = check_sizes(vhdx);
    return rc == 0 && info->is_differencing ? parent_read(vhdx, found) : rc;
}

int gw_vhdx_metadata_read(struct gw_vhdx *vhdx)
{
    struct found_items found = {0};
    uint8_t *table = malloc(VHDX_METADATA_TABLE_SIZE);
    int rc;

    if (!table)
        return gw_fail(-ENOMEM, "no memory to open %s", vhdx->base.file.path);
    rc = gw_vhdx_read(vhdx, vhdx->metadata_region.offset, table, VHDX_METADATA_TABLE_SIZE);
    if (rc == 0)
        rc = table_decode(vhdx, table, &found);
    if (rc == 0)
        rc = items_read(vhdx, &found);
    free(table);
    return rc;
}

void gw_vhdx_metadata_encode(const struct gw_vhdx *vhdx, uint8_t *out)
{
    const struct gw_image_info *info = &vhdx->base.info;
    uint32_t offset = VHDX_METADATA_TABLE_SIZE;
    uint8_t *items[ITEM_COUNT];

    memcpy(out, VHDX_METADATA_SIGNATURE, 8);
    gw_put_le16(out + VHDX_METADATA_COUNT, PARENT);
    for (uint32_t i = 0; i < PARENT; i++) {
        uint8_t *entry = out + VHDX_METADATA_ENTRIES + i * VHDX_METADATA_ENTRY_SIZE;

        memcpy(entry, known_items[i].guid, 16);
        gw_put_le32(entry + VHDX_METADATA_ENTRY_OFFSET, offset);
        gw_put_le32(entry + VHDX_METADATA_ENTRY_LENGTH, known_items[i].size);
        gw_put_le32(entry + VHDX_METADATA_ENTRY_FLAGS, known_items[i].flags);
        items[i] = out + offset;
        offset += known_items[i].size;
    }
    gw_put_le32(items[PARAMETERS], info->block_size);
    gw_put_le32(items[PARAMETERS] + VHDX_PARAMETERS_FLAGS, info->is_fixed ? VHDX_IS_FIXED : 0);
    gw_put_le64(items[VIRTUAL_SIZE], info->virtual_size);
    memcpy(items[DISK_ID], info->disk_id, 16);
    gw_put_le32(items[LOGICAL_SECTOR], info->logical_sector_size);
    gw_put_le32(items[PHYSICAL_SECTOR], info->physical_sector_size);
}

uint64_t gw_vhdx_geometry(struct gw_vhdx *vhdx)
{
    const struct gw_image_info *info = &vhdx->base.info;

    /* MS-VHDX 2.5. Sizes are checked, so that nothing here can overflow or be 0. */
    vhdx->chunk_ratio = VHDX_CHUNK_SECTORS * info->logical_sector_size / info->block_size;
    vhdx->block_count = (info->virtual_size + info->block_size - 1) / info->block_size;
    /* The last chunk of a differencing disk has a sector bitmap too. */
    if (info->is_differencing)
        return (vhdx->block_count + vhdx->chunk_ratio - 1) / vhdx->chunk_ratio *
               (vhdx->chunk_ratio + 1);
    return vhdx->block_count + (vhdx->block_count - 1) / vhdx->chunk_ratio;
}
