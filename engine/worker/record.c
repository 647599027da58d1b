/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes records field by field. Whether an entry fits its volume is the receiver's
 * check. */
#include "engine/worker/record.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"

#define REGION_SIZE  20u
#define APPLIED_SIZE 8u
#define WINDOW_SIZE  12u
#define CLOSED_SIZE  4u
#define HAS_DIGEST   1u

static uint32_t header(uint8_t *out, enum gw_record_type type, unsigned count)
{
    gw_put_le16(out, (uint16_t)type);
    gw_put_le16(out + 2, (uint16_t)count);
    return GW_RECORD_HEADER_SIZE;
}

uint32_t gw_record_begin(uint8_t *out)
{
    return header(out, GW_RECORD_EXTENTS, 0);
}

uint32_t gw_record_append(uint8_t *out, uint32_t length, const struct gw_record_entry *entry)
{
    uint8_t *at = out + length;

    gw_put_le16(out + 2, (uint16_t)(gw_get_le16(out + 2) + 1));
    at[0] = (uint8_t)entry->kind;
    at[1] = entry->has_digest ? HAS_DIGEST : 0;
    gw_put_le16(at + 2, entry->volume);
    gw_put_le32(at + 4, entry->position);
    gw_put_le64(at + 8, entry->offset);
    gw_put_le64(at + 16, entry->length);
    memcpy(at + 24, entry->digest, GW_DIGEST_SIZE);
    return length + GW_RECORD_ENTRY_SIZE;
}

uint32_t gw_record_regions(uint8_t *out, const struct gw_record_region *regions, unsigned count)
{
    uint32_t length = header(out, GW_RECORD_REGIONS, count);

    for (unsigned i = 0; i < count; i++, length += REGION_SIZE) {
        gw_put_le16(out + length, regions[i].volume);
        gw_put_le16(out + length + 2, 0);
        gw_put_le64(out + length + 4, regions[i].key);
        gw_put_le64(out + length + 12, regions[i].length);
    }
    return length;
}

uint32_t gw_record_applied(uint8_t *out, uint64_t sequence)
{
    header(out, GW_RECORD_APPLIED, 1);
    gw_put_le64(out + GW_RECORD_HEADER_SIZE, sequence);
    return GW_RECORD_HEADER_SIZE + APPLIED_SIZE;
}

uint32_t gw_record_windows(uint8_t *out, const struct gw_record_window *windows, unsigned count)
{
    uint32_t length = header(out, GW_RECORD_WINDOWS, count);

    for (unsigned i = 0; i < count; i++, length += WINDOW_SIZE) {
        gw_put_le32(out + length, windows[i].number);
        gw_put_le64(out + length + 4, windows[i].key);
    }
    return length;
}

uint32_t gw_record_closed(uint8_t *out, const uint32_t *numbers, unsigned count)
{
    uint32_t length = header(out, GW_RECORD_CLOSED, count);

    for (unsigned i = 0; i < count; i++, length += CLOSED_SIZE)
        gw_put_le32(out + length, numbers[i]);
    return length;
}

int gw_record_type(const uint8_t *record, uint32_t length, enum gw_record_type *out,
                   unsigned *count)
{
    static const uint32_t sizes[] = {
        [GW_RECORD_EXTENTS] = GW_RECORD_ENTRY_SIZE, [GW_RECORD_REGIONS] = REGION_SIZE,
        [GW_RECORD_APPLIED] = APPLIED_SIZE,         [GW_RECORD_WINDOWS] = WINDOW_SIZE,
        [GW_RECORD_CLOSED] = CLOSED_SIZE,
    };
    unsigned type, items;

    if (length < GW_RECORD_HEADER_SIZE)
        return gw_fail(-EPROTO, "record of %u bytes is too short", length);
    type = gw_get_le16(record);
    items = gw_get_le16(record + 2);
    if (type < GW_RECORD_EXTENTS || type > GW_RECORD_CLOSED)
        return gw_fail(-EPROTO, "record of unknown type %u", type);
    if (items > GW_RECORD_ENTRIES_MAX || length != GW_RECORD_HEADER_SIZE + items * sizes[type])
        return gw_fail(-EPROTO, "record of type %u: %u items do not fit %u bytes", type, items,
                       length);
    if (type == GW_RECORD_APPLIED && items != 1)
        return gw_fail(-EPROTO, "acknowledgement with %u numbers", items);
    *out = (enum gw_record_type)type;
    *count = items;
    return 0;
}

int gw_record_entry(const uint8_t *record, unsigned index, struct gw_record_entry *out)
{
    const uint8_t *at = record + GW_RECORD_HEADER_SIZE + index * GW_RECORD_ENTRY_SIZE;

    if (at[0] < GW_ENTRY_RING || at[0] > GW_ENTRY_ZERO || at[1] > HAS_DIGEST)
        return gw_fail(-EPROTO, "record entry of unknown kind %u/%u", at[0], at[1]);
    out->kind = (enum gw_entry_kind)at[0];
    out->has_digest = at[1] & HAS_DIGEST;
    out->volume = gw_get_le16(at + 2);
    out->position = gw_get_le32(at + 4);
    out->offset = gw_get_le64(at + 8);
    out->length = gw_get_le64(at + 16);
    memcpy(out->digest, at + 24, GW_DIGEST_SIZE);
    if (out->length == 0)
        return gw_fail(-EPROTO, "record entry of no bytes");
    if (out->kind != GW_ENTRY_ZERO && out->length > GW_CHUNK_MAX)
        return gw_fail(-EPROTO, "record entry of %llu bytes exceeds a chunk",
                       (unsigned long long)out->length);
    if (out->kind == GW_ENTRY_RING && !out->has_digest)
        return gw_fail(-EPROTO, "record entry in the ring has no digest");
    return 0;
}

int gw_record_region(const uint8_t *record, unsigned index, struct gw_record_region *out)
{
    const uint8_t *at = record + GW_RECORD_HEADER_SIZE + index * REGION_SIZE;

    out->volume = gw_get_le16(at);
    out->key = gw_get_le64(at + 4);
    out->length = gw_get_le64(at + 12);
    if (out->volume != GW_RECORD_RING && out->volume >= GW_VOLUMES_MAX)
        return gw_fail(-EPROTO, "region of volume %u", out->volume);
    return 0;
}

uint64_t gw_record_applied_sequence(const uint8_t *record)
{
    return gw_get_le64(record + GW_RECORD_HEADER_SIZE);
}

int gw_record_window(const uint8_t *record, unsigned index, struct gw_record_window *out)
{
    const uint8_t *at = record + GW_RECORD_HEADER_SIZE + index * WINDOW_SIZE;

    out->number = gw_get_le32(at);
    out->key = gw_get_le64(at + 4);
    return out->number ? 0 : gw_fail(-EPROTO, "window number 0");
}

int gw_record_closed_number(const uint8_t *record, unsigned index, uint32_t *out)
{
    *out = gw_get_le32(record + GW_RECORD_HEADER_SIZE + index * CLOSED_SIZE);
    return *out ? 0 : gw_fail(-EPROTO, "window number 0");
}
