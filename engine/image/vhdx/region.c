/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The region tables: MS-VHDX 2.2.3. Finds the BAT and the metadata, and keeps every range where no
 * block may lie.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/text.h"
#include "engine/image/vhdx/vhdx.h"

/* GUIDs as they lie on disk: the first three fields little endian. */
const uint8_t gw_vhdx_guid_bat[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                      0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
const uint8_t gw_vhdx_guid_metadata[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                           0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};

#define IS_REQUIRED 1u

static bool overlaps(const struct gw_vhdx_range *a, const struct gw_vhdx_range *b)
{
    return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

bool gw_vhdx_is_in_table(const struct gw_vhdx *vhdx, uint64_t offset, uint64_t length)
{
    struct gw_vhdx_range asked = {offset, length};

    for (uint32_t i = 0; i < vhdx->range_count; i++)
        if (overlaps(&vhdx->ranges[i], &asked))
            return true;
    return false;
}

bool gw_vhdx_regions_are_valid(const uint8_t *table)
{
    return memcmp(table, VHDX_REGION_SIGNATURE, 4) == 0 &&
           gw_get_le32(table + VHDX_REGION_CHECKSUM) ==
               gw_vhdx_checksum(table, VHDX_REGION_TABLE_SIZE, VHDX_REGION_CHECKSUM);
}

static int table_read(const struct gw_vhdx *vhdx, uint8_t *table)
{
    int rc = gw_vhdx_read(vhdx, VHDX_REGION_1_OFFSET, table, VHDX_REGION_TABLE_SIZE);

    if (rc || gw_vhdx_regions_are_valid(table))
        return rc;
    rc = gw_vhdx_read(vhdx, VHDX_REGION_2_OFFSET, table, VHDX_REGION_TABLE_SIZE);
    if (rc || gw_vhdx_regions_are_valid(table))
        return rc;
    return gw_fail(-EUCLEAN, "%s: both region tables are damaged: restore the image from a backup",
                   vhdx->base.file.path);
}

/* Adds a range in which no block may lie; ranges do not overlap one another. */
static int add_range(struct gw_vhdx *vhdx, const struct gw_vhdx_range *range, const char *what)
{
    const char *path = vhdx->base.file.path;
    uint64_t end;

    if (range->offset < VHDX_ALIGNMENT || range->offset % VHDX_ALIGNMENT ||
        range->length % VHDX_ALIGNMENT || !gw_add_fits(range->offset, range->length, &end) ||
        end > INT64_MAX)
        return gw_fail(-EUCLEAN, "%s: %s cannot have %llu bytes at byte %llu", path, what,
                       (unsigned long long)range->length, (unsigned long long)range->offset);
    if (range->length == 0)
        return 0;
    if (gw_vhdx_is_in_table(vhdx, range->offset, range->length))
        return gw_fail(-EUCLEAN, "%s: %s overlaps another region or the log", path, what);
    vhdx->ranges[vhdx->range_count++] = *range;
    return 0;
}

static int known_region(struct gw_vhdx *vhdx, const uint8_t *entry,
                        const struct gw_vhdx_range *range)
{
    const char *path = vhdx->base.file.path;
    struct gw_vhdx_range *known = NULL;
    char guid[GW_GUID_TEXT];

    if (memcmp(entry, gw_vhdx_guid_bat, 16) == 0)
        known = &vhdx->bat_region;
    else if (memcmp(entry, gw_vhdx_guid_metadata, 16) == 0)
        known = &vhdx->metadata_region;
    if (!known) {
        gw_guid_format(entry, false, guid);
        if (gw_get_le32(entry + VHDX_REGION_ENTRY_REQUIRED) & IS_REQUIRED)
            return gw_fail(-ENOTSUP,
                           "%s has a region (%s) that must be understood and is not known: it was "
                           "made by newer software",
                           path, guid);
        return 0;
    }
    if (known->length)
        return gw_fail(-EUCLEAN, "%s: a region is listed twice", path);
    if (!gw_range_fits(range->offset, range->length, vhdx->file_size))
        return gw_fail(-EUCLEAN,
                       "%s is truncated: a table ends at byte %llu, the file at %llu; copy it anew "
                       "from where it came from",
                       path, (unsigned long long)(range->offset + range->length),
                       (unsigned long long)vhdx->file_size);
    *known = *range;
    return 0;
}

static int table_decode(struct gw_vhdx *vhdx, const uint8_t *table)
{
    uint32_t count = gw_get_le32(table + VHDX_REGION_COUNT);
    int rc = 0;

    if (count > VHDX_REGION_COUNT_MAX)
        return gw_fail(-EUCLEAN, "%s: the region table has %u entries, more than 2047",
                       vhdx->base.file.path, count);
    vhdx->ranges = calloc(count + 1, sizeof(*vhdx->ranges));
    if (!vhdx->ranges)
        return gw_fail(-ENOMEM, "no memory to open %s", vhdx->base.file.path);
    if (vhdx->header.log.length)
        rc = add_range(vhdx, &vhdx->header.log, "the log");
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        const uint8_t *entry = table + VHDX_REGION_ENTRIES + i * VHDX_REGION_ENTRY_SIZE;
        struct gw_vhdx_range range = {gw_get_le64(entry + VHDX_REGION_ENTRY_OFFSET),
                                      gw_get_le32(entry + VHDX_REGION_ENTRY_LENGTH)};

        rc = add_range(vhdx, &range, "a region");
        if (rc == 0)
            rc = known_region(vhdx, entry, &range);
    }
    if (rc == 0 && (!vhdx->bat_region.length || !vhdx->metadata_region.length))
        rc = gw_fail(-EUCLEAN, "%s has no %s region", vhdx->base.file.path,
                     vhdx->bat_region.length ? "metadata" : "block allocation table");
    return rc;
}

int gw_vhdx_regions_read(struct gw_vhdx *vhdx)
{
    uint8_t *table = malloc(VHDX_REGION_TABLE_SIZE);
    int rc;

    if (!table)
        return gw_fail(-ENOMEM, "no memory to open %s", vhdx->base.file.path);
    rc = table_read(vhdx, table);
    if (rc == 0)
        rc = table_decode(vhdx, table);
    free(table);
    return rc;
}

static void entry_encode(uint8_t *entry, const uint8_t guid[16], const struct gw_vhdx_range *range)
{
    memcpy(entry, guid, 16);
    gw_put_le64(entry + VHDX_REGION_ENTRY_OFFSET, range->offset);
    gw_put_le32(entry + VHDX_REGION_ENTRY_LENGTH, (uint32_t)range->length);
    gw_put_le32(entry + VHDX_REGION_ENTRY_REQUIRED, IS_REQUIRED);
}

void gw_vhdx_regions_encode(const struct gw_vhdx *vhdx, uint8_t *out)
{
    memset(out, 0, VHDX_REGION_TABLE_SIZE);
    memcpy(out, VHDX_REGION_SIGNATURE, 4);
    gw_put_le32(out + VHDX_REGION_COUNT, 2);
    entry_encode(out + VHDX_REGION_ENTRIES, gw_vhdx_guid_bat, &vhdx->bat_region);
    entry_encode(out + VHDX_REGION_ENTRIES + VHDX_REGION_ENTRY_SIZE, gw_vhdx_guid_metadata,
                 &vhdx->metadata_region);
    gw_put_le32(out + VHDX_REGION_CHECKSUM,
                gw_vhdx_checksum(out, VHDX_REGION_TABLE_SIZE, VHDX_REGION_CHECKSUM));
}
