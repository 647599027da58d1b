/* SPDX-License-Identifier: Apache-2.0 */
/* Records: what the drawing in docs/protocol.md says, byte by byte, and what is refused. */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "common/error.h"
#include "engine/worker/record.h"

static uint8_t record[GW_SEAL_RECORD_MAX];

static struct gw_record_entry ring_entry(void)
{
    struct gw_record_entry entry = {.kind = GW_ENTRY_RING,
                                    .has_digest = true,
                                    .volume = 0x0102,
                                    .position = 0x03040506,
                                    .offset = 0x1112131415161718ull,
                                    .length = 0x20000};

    for (unsigned i = 0; i < GW_DIGEST_SIZE; i++)
        entry.digest[i] = (uint8_t)(0xa0 + i);
    return entry;
}

static uint32_t one_entry(const struct gw_record_entry *entry)
{
    return gw_record_append(record, gw_record_begin(record), entry);
}

static int type_of(uint32_t length, enum gw_record_type *type, unsigned *count)
{
    return gw_record_type(record, length, type, count);
}

static void expect_type_refused(uint32_t length)
{
    enum gw_record_type type = (enum gw_record_type)77;
    unsigned count = 77;

    cr_assert_eq(type_of(length, &type, &count), -EPROTO);
    cr_assert_eq((int)type, 77, "something was stored");
    cr_assert_eq(count, 77, "something was stored");
    cr_assert_neq(gw_error_message()[0], '\0');
}

static void expect_entry_refused(const struct gw_record_entry *entry)
{
    struct gw_record_entry out;

    one_entry(entry);
    cr_assert_eq(gw_record_entry(record, 0, &out), -EPROTO);
}

/* The wire is the contract with other versions: written down by hand, not by the encoder. */
Test(record, entry_has_the_documented_bytes)
{
    static const uint8_t expected[] = {
        1,    0,    1,    0,                            /* EXTENTS, one item */
        1,    1,    0x02, 0x01,                         /* RING, digest, volume */
        0x06, 0x05, 0x04, 0x03,                         /* position */
        0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, /* offset */
        0,    0,    2,    0,    0,    0,    0,    0,    /* length */
        0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, /* digest */
        0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf,
    };
    struct gw_record_entry entry = ring_entry();

    cr_assert_eq(one_entry(&entry), sizeof(expected));
    cr_assert_arr_eq(record, expected, sizeof(expected));
}

Test(record, regions_have_the_documented_bytes)
{
    static const uint8_t expected[] = {
        2, 0, 1, 0, 0xff, 0xff, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0x40, 0, 0, 0, 0, 0,
    };
    struct gw_record_region region = {GW_RECORD_RING, 0x0102030405060708ull, 4u << 20};

    cr_assert_eq(gw_record_regions(record, &region, 1), sizeof(expected));
    cr_assert_arr_eq(record, expected, sizeof(expected));
}

Test(record, applied_has_the_documented_bytes)
{
    static const uint8_t expected[] = {3, 0, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1};

    cr_assert_eq(gw_record_applied(record, 0x0102030405060708ull), sizeof(expected));
    cr_assert_arr_eq(record, expected, sizeof(expected));
}

Test(record, empty_record_round_trips)
{
    enum gw_record_type type;
    unsigned count;

    cr_assert_eq(type_of(gw_record_begin(record), &type, &count), 0);
    cr_assert_eq(type, GW_RECORD_EXTENTS);
    cr_assert_eq(count, 0);
}

Test(record, full_record_round_trips)
{
    uint32_t length = gw_record_begin(record);
    enum gw_record_type type;
    unsigned count;

    for (unsigned i = 0; i < GW_RECORD_ENTRIES_MAX; i++) {
        struct gw_record_entry entry = ring_entry();

        entry.kind = (enum gw_entry_kind)(GW_ENTRY_RING + i % 3);
        entry.has_digest = entry.kind == GW_ENTRY_RING || i % 2 == 0;
        entry.volume = (uint16_t)i;
        entry.offset = (uint64_t)i << 40;
        entry.length = entry.kind == GW_ENTRY_ZERO ? 1ull << 45 : GW_CHUNK_MAX - i;
        length = gw_record_append(record, length, &entry);
    }
    cr_assert_leq(length, GW_SEAL_RECORD_MAX);
    cr_assert_eq(type_of(length, &type, &count), 0, "%s", gw_error_message());
    cr_assert_eq(count, GW_RECORD_ENTRIES_MAX);
    for (unsigned i = 0; i < count; i++) {
        struct gw_record_entry wanted = ring_entry(), got;

        cr_assert_eq(gw_record_entry(record, i, &got), 0, "entry %u: %s", i, gw_error_message());
        cr_assert_eq(got.kind, (enum gw_entry_kind)(GW_ENTRY_RING + i % 3));
        cr_assert_eq(got.has_digest, got.kind == GW_ENTRY_RING || i % 2 == 0);
        cr_assert_eq(got.volume, i);
        cr_assert_eq(got.position, wanted.position);
        cr_assert_eq(got.offset, (uint64_t)i << 40);
        cr_assert_eq(got.length, got.kind == GW_ENTRY_ZERO ? 1ull << 45 : GW_CHUNK_MAX - i);
        cr_assert_arr_eq(got.digest, wanted.digest, GW_DIGEST_SIZE);
    }
}

Test(record, regions_round_trip_for_every_volume_and_the_ring)
{
    struct gw_record_region regions[GW_VOLUMES_MAX + 1];
    enum gw_record_type type;
    unsigned count;
    uint32_t length;

    for (unsigned i = 0; i <= GW_VOLUMES_MAX; i++)
        regions[i] = (struct gw_record_region){(uint16_t)(i < GW_VOLUMES_MAX ? i : GW_RECORD_RING),
                                               UINT64_MAX - i, 1ull << (i % 63)};
    length = gw_record_regions(record, regions, GW_VOLUMES_MAX + 1);
    cr_assert_leq(length, GW_SEAL_RECORD_MAX);
    cr_assert_eq(type_of(length, &type, &count), 0);
    cr_assert_eq(type, GW_RECORD_REGIONS);
    cr_assert_eq(count, GW_VOLUMES_MAX + 1);
    for (unsigned i = 0; i < count; i++) {
        struct gw_record_region got;

        cr_assert_eq(gw_record_region(record, i, &got), 0);
        cr_assert_eq(got.volume, regions[i].volume);
        cr_assert_eq(got.key, regions[i].key);
        cr_assert_eq(got.length, regions[i].length);
    }
}

Test(record, applied_round_trips_at_the_largest_number)
{
    enum gw_record_type type;
    unsigned count;

    cr_assert_eq(type_of(gw_record_applied(record, UINT64_MAX), &type, &count), 0);
    cr_assert_eq(type, GW_RECORD_APPLIED);
    cr_assert_eq(gw_record_applied_sequence(record), UINT64_MAX);
}

Test(record, refuses_every_length_shorter_than_a_header)
{
    gw_record_begin(record);
    for (uint32_t length = 0; length < GW_RECORD_HEADER_SIZE; length++)
        expect_type_refused(length);
}

Test(record, refuses_type_zero)
{
    uint32_t length = gw_record_begin(record);

    record[0] = 0;
    expect_type_refused(length);
}

Test(record, refuses_type_past_the_last)
{
    uint32_t length = gw_record_applied(record, 1);

    record[0] = GW_RECORD_CLOSED + 1;
    expect_type_refused(length);
}

Test(record, refuses_type_in_the_high_byte)
{
    uint32_t length = gw_record_applied(record, 1);

    record[1] = 1;
    expect_type_refused(length);
}

Test(record, refuses_one_byte_missing)
{
    struct gw_record_entry entry = ring_entry();

    expect_type_refused(one_entry(&entry) - 1);
}

Test(record, refuses_one_byte_too_many)
{
    struct gw_record_entry entry = ring_entry();

    expect_type_refused(one_entry(&entry) + 1);
}

Test(record, refuses_more_items_than_fit_a_record)
{
    uint32_t length = GW_RECORD_HEADER_SIZE;
    struct gw_record_entry entry = ring_entry();
    static uint8_t large[2 * GW_SEAL_RECORD_MAX];
    enum gw_record_type type;
    unsigned count;

    gw_record_begin(large);
    for (unsigned i = 0; i <= GW_RECORD_ENTRIES_MAX; i++)
        length = gw_record_append(large, length, &entry);
    cr_assert_eq(gw_record_type(large, length, &type, &count), -EPROTO);
}

/* 65535 items of 40 bytes: a length that must be computed in more than 16 bits. */
Test(record, refuses_the_largest_count)
{
    uint32_t length = gw_record_begin(record);

    record[2] = record[3] = 0xff;
    expect_type_refused(length);
}

Test(record, refuses_acknowledgement_without_a_number)
{
    gw_record_applied(record, 1);
    record[2] = 0;
    expect_type_refused(GW_RECORD_HEADER_SIZE);
}

Test(record, refuses_acknowledgement_with_two_numbers)
{
    uint32_t length = gw_record_applied(record, 1);

    record[2] = 2;
    expect_type_refused(length + 8);
}

Test(record, refuses_entry_kind_zero)
{
    struct gw_record_entry entry = ring_entry();

    entry.kind = (enum gw_entry_kind)0;
    expect_entry_refused(&entry);
}

Test(record, refuses_entry_kind_past_the_last)
{
    struct gw_record_entry entry = ring_entry();

    entry.kind = (enum gw_entry_kind)(GW_ENTRY_ZERO + 1);
    expect_entry_refused(&entry);
}

Test(record, refuses_unknown_entry_flags)
{
    struct gw_record_entry entry = ring_entry(), out;

    one_entry(&entry);
    for (unsigned flags = 2; flags < 256; flags++) {
        record[GW_RECORD_HEADER_SIZE + 1] = (uint8_t)flags;
        cr_assert_eq(gw_record_entry(record, 0, &out), -EPROTO, "flags %u", flags);
    }
}

Test(record, refuses_entry_of_no_bytes)
{
    struct gw_record_entry entry = ring_entry();

    entry.length = 0;
    expect_entry_refused(&entry);
}

Test(record, refuses_ring_entry_longer_than_a_chunk)
{
    struct gw_record_entry entry = ring_entry();

    entry.length = GW_CHUNK_MAX + 1;
    expect_entry_refused(&entry);
}

Test(record, refuses_direct_entry_longer_than_a_chunk)
{
    struct gw_record_entry entry = ring_entry();

    entry.kind = GW_ENTRY_DIRECT;
    entry.length = 1ull << 32; /* would be 0 in 32 bits */
    expect_entry_refused(&entry);
}

Test(record, refuses_ring_entry_without_digest)
{
    struct gw_record_entry entry = ring_entry();

    entry.has_digest = false;
    expect_entry_refused(&entry);
}

Test(record, refuses_region_of_a_volume_past_the_last)
{
    struct gw_record_region region = {GW_VOLUMES_MAX, 1, 1}, out;

    gw_record_regions(record, &region, 1);
    cr_assert_eq(gw_record_region(record, 0, &out), -EPROTO);
}

Test(record, windows_have_the_documented_bytes)
{
    static const uint8_t expected[] = {4,    0,    1,    0,    4,    3,    2,    1,
                                       0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11};
    struct gw_record_window window = {0x01020304, 0x1112131415161718ull};

    cr_assert_eq(gw_record_windows(record, &window, 1), sizeof(expected));
    cr_assert_arr_eq(record, expected, sizeof(expected));
}

Test(record, closed_windows_have_the_documented_bytes)
{
    static const uint8_t expected[] = {5, 0, 2, 0, 4, 3, 2, 1, 9, 0, 0, 0};
    uint32_t numbers[] = {0x01020304, 9};

    cr_assert_eq(gw_record_closed(record, numbers, 2), sizeof(expected));
    cr_assert_arr_eq(record, expected, sizeof(expected));
}

Test(record, as_many_windows_as_fit_round_trip)
{
    struct gw_record_window windows[GW_RECORD_ENTRIES_MAX], got;
    uint32_t numbers[GW_RECORD_ENTRIES_MAX], number, length;
    enum gw_record_type type;
    unsigned count;

    for (unsigned i = 0; i < GW_RECORD_ENTRIES_MAX; i++) {
        windows[i] = (struct gw_record_window){UINT32_MAX - i, UINT64_MAX - i};
        numbers[i] = i + 1;
    }
    length = gw_record_windows(record, windows, GW_RECORD_ENTRIES_MAX);
    cr_assert_leq(length, GW_SEAL_RECORD_MAX);
    cr_assert_eq(type_of(length, &type, &count), 0, "%s", gw_error_message());
    cr_assert_eq(type, GW_RECORD_WINDOWS);
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(gw_record_window(record, i, &got), 0);
        cr_assert(got.number == windows[i].number && got.key == windows[i].key);
    }
    length = gw_record_closed(record, numbers, GW_RECORD_ENTRIES_MAX);
    cr_assert_eq(type_of(length, &type, &count), 0, "%s", gw_error_message());
    cr_assert_eq(type, GW_RECORD_CLOSED);
    cr_assert_eq(count, GW_RECORD_ENTRIES_MAX);
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(gw_record_closed_number(record, i, &number), 0);
        cr_assert_eq(number, i + 1);
    }
}

Test(record, refuses_window_number_zero)
{
    struct gw_record_window window = {0, 1}, out;
    uint32_t number = 0;

    gw_record_windows(record, &window, 1);
    cr_assert_eq(gw_record_window(record, 0, &out), -EPROTO);
    gw_record_closed(record, &number, 1);
    cr_assert_eq(gw_record_closed_number(record, 0, &number), -EPROTO);
}
