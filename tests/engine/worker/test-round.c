/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds: what they hand out, compared with a map of the bytes that the test keeps by itself. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/worker/record.h"
#include "engine/worker/round.h"
#include "tests/engine/worker/fake-volume.h"

#define KIB 1024ull
#define MIB (1024 * KIB)

/* What was handed out of one volume: per KiB, how often, and as what. */
struct seen {
    unsigned times[64 * KIB];
    enum gw_extent_kind kind[64 * KIB];
};

static struct gw_round *new_round(void)
{
    struct gw_round *round = NULL;

    cr_assert_eq(gw_round_new(&round), 0);
    return round;
}

static void add(struct gw_round *round, uint16_t index, struct fake_volume *fake,
                const struct gw_bitmap *dirty)
{
    cr_assert_eq(gw_round_add(round, index, &fake->volume, dirty), 0);
}

static void note(struct seen *seen, const struct gw_piece *piece)
{
    cr_assert_eq(piece->offset % KIB, 0);
    cr_assert_eq(piece->length % KIB, 0);
    cr_assert_gt(piece->length, 0);
    for (uint64_t at = piece->offset / KIB; at < (piece->offset + piece->length) / KIB; at++) {
        seen->times[at]++;
        seen->kind[at] = piece->kind;
    }
}

/* Claims all of one volume, a piece at a time. */
static struct seen *drain(struct gw_round *round)
{
    struct seen *seen = calloc(1, sizeof(*seen));
    struct gw_piece piece;

    while (gw_round_claim(round, &piece, 1, UINT64_MAX) == 1)
        note(seen, &piece);
    return seen;
}

static void expect_range(const struct seen *seen, uint64_t from, uint64_t to, unsigned times)
{
    for (uint64_t at = from / KIB; at < to / KIB; at++)
        cr_assert_eq(seen->times[at], times, "at %llu KiB: %u times, not %u",
                     (unsigned long long)at, seen->times[at], times);
}

static const struct gw_extent mixed[] = {
    {0, 1 * MIB, GW_EXTENT_DATA},
    {1 * MIB, 2 * MIB, GW_EXTENT_ZERO},
    {3 * MIB, 5 * MIB, GW_EXTENT_ABSENT},
    {8 * MIB, 64 * KIB, GW_EXTENT_DATA},
    {8 * MIB + 64 * KIB, 1 * MIB, GW_EXTENT_DATA},
};
#define MIXED_SIZE (9 * MIB + 64 * KIB)

Test(round, first_pass_of_a_disk_covers_every_byte_once)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct seen *seen;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    add(round, 3, &fake, NULL);
    seen = drain(round);
    expect_range(seen, 0, MIXED_SIZE, 1);
    expect_range(seen, MIXED_SIZE, MIXED_SIZE + MIB, 0);
    for (unsigned i = 0; i < 5; i++)
        for (uint64_t at = mixed[i].offset; at < mixed[i].offset + mixed[i].length; at += KIB)
            cr_assert_eq(seen->kind[at / KIB], mixed[i].kind, "at %llu KiB",
                         (unsigned long long)at / KIB);
    free(seen);
    gw_round_free(round);
}

Test(round, first_pass_of_ram_skips_holes_and_keeps_zeroes)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct seen *seen;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, mixed, 5);
    add(round, 0, &fake, NULL);
    seen = drain(round);
    expect_range(seen, 0, 3 * MIB, 1);
    expect_range(seen, 3 * MIB, 8 * MIB, 0);
    expect_range(seen, 8 * MIB, MIXED_SIZE, 1);
    free(seen);
    gw_round_free(round);
}

Test(round, first_pass_of_untouched_ram_is_done_at_once)
{
    static const struct gw_extent hole = {0, 64ull << 40, GW_EXTENT_ABSENT};
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct gw_piece piece;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, &hole, 1);
    add(round, 0, &fake, NULL);
    cr_assert(gw_round_is_done(round));
    cr_assert_eq(gw_round_claim(round, &piece, 1, UINT64_MAX), 0);
    gw_round_free(round);
}

Test(round, dirty_hole_of_ram_is_handed_out)
{
    struct gw_round *round = new_round();
    struct gw_bitmap dirty;
    struct fake_volume fake;
    struct seen *seen;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, mixed, 5);
    cr_assert_eq(gw_bitmap_init(&dirty, MIXED_SIZE / (4 * KIB)), 0);
    gw_bitmap_set_range(&dirty, 4 * MIB / (4 * KIB), 2);
    add(round, 0, &fake, &dirty);
    seen = drain(round);
    expect_range(seen, 0, 4 * MIB, 0);
    expect_range(seen, 4 * MIB, 4 * MIB + 8 * KIB, 1);
    expect_range(seen, 4 * MIB + 8 * KIB, MIXED_SIZE, 0);
    cr_assert_eq(seen->kind[4 * KIB], GW_EXTENT_ABSENT);
    free(seen);
    gw_bitmap_free(&dirty);
    gw_round_free(round);
}

Test(round, dirty_round_covers_the_set_granules_and_nothing_else)
{
    struct gw_round *round = new_round();
    const uint64_t granules = MIXED_SIZE / (64 * KIB);
    struct gw_bitmap dirty;
    struct fake_volume fake;
    struct seen *seen;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    cr_assert_eq(gw_bitmap_init(&dirty, granules), 0);
    srandom(7);
    for (uint64_t i = 0; i < granules; i++)
        if (random() % 3 == 0)
            gw_bitmap_set_range(&dirty, i, 1);
    add(round, 0, &fake, &dirty);
    seen = drain(round);
    for (uint64_t i = 0; i < granules; i++)
        expect_range(seen, i * 64 * KIB, (i + 1) * 64 * KIB, gw_bitmap_test(&dirty, i) ? 1 : 0);
    free(seen);
    gw_bitmap_free(&dirty);
    gw_round_free(round);
}

Test(round, dirty_round_stops_at_the_end_of_a_volume_that_is_no_whole_granule)
{
    static const struct gw_extent data = {0, 128 * KIB + 3 * KIB, GW_EXTENT_DATA};
    struct gw_round *round = new_round();
    struct gw_bitmap dirty;
    struct fake_volume fake;
    struct seen *seen;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, &data, 1);
    cr_assert_eq(gw_bitmap_init(&dirty, 3), 0);
    gw_bitmap_set_range(&dirty, 2, 1);
    add(round, 0, &fake, &dirty);
    seen = drain(round);
    expect_range(seen, 0, 128 * KIB, 0);
    expect_range(seen, 128 * KIB, 131 * KIB, 1);
    expect_range(seen, 131 * KIB, 192 * KIB, 0);
    free(seen);
    gw_bitmap_free(&dirty);
    gw_round_free(round);
}

Test(round, clean_bitmap_is_done_at_once)
{
    struct gw_round *round = new_round();
    struct gw_bitmap dirty;
    struct fake_volume fake;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    cr_assert_eq(gw_bitmap_init(&dirty, MIXED_SIZE / (64 * KIB)), 0);
    add(round, 0, &fake, &dirty);
    cr_assert(gw_round_is_done(round));
    gw_bitmap_free(&dirty);
    gw_round_free(round);
}

Test(round, data_ends_at_multiples_of_a_chunk)
{
    /* Begins and ends within a chunk, and is larger than several. */
    static const struct gw_extent extents[] = {
        {0, 12 * KIB, GW_EXTENT_ABSENT},
        {12 * KIB, 1 * MIB, GW_EXTENT_DATA},
    };
    struct gw_round *round = new_round();
    struct gw_piece pieces[16];
    struct fake_volume fake;
    int count;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, extents, 2);
    add(round, 0, &fake, NULL);
    count = gw_round_claim(round, pieces, 16, UINT64_MAX);
    cr_assert_eq(count, 5);
    for (int i = 0; i < count; i++) {
        uint64_t end = pieces[i].offset + pieces[i].length;

        cr_assert_leq(pieces[i].length, GW_CHUNK_MAX);
        cr_assert(end % GW_CHUNK_MAX == 0 || end == 1 * MIB + 12 * KIB, "piece %d ends at %llu", i,
                  (unsigned long long)end);
    }
    gw_round_free(round);
}

Test(round, zero_extent_is_one_piece_whatever_its_length)
{
    static const struct gw_extent zero = {0, 1ull << 42, GW_EXTENT_ZERO};
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct gw_piece piece;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, &zero, 1);
    add(round, 0, &fake, NULL);
    cr_assert_eq(gw_round_claim(round, &piece, 1, 1), 1);
    cr_assert_eq(piece.length, 1ull << 42);
    gw_round_free(round);
}

Test(round, claim_stops_at_the_wanted_bytes)
{
    static const struct gw_extent data = {0, 16 * MIB, GW_EXTENT_DATA};
    struct gw_round *round = new_round();
    struct gw_piece pieces[64];
    struct fake_volume fake;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, &data, 1);
    add(round, 0, &fake, NULL);
    cr_assert_eq(gw_round_claim(round, pieces, 64, GW_CHUNK_MAX + 1), 2);
    cr_assert_eq(gw_round_claim(round, pieces, 3, UINT64_MAX), 3);
    gw_round_free(round);
}

Test(round, pieces_name_the_volume_they_came_from)
{
    static const struct gw_extent data = {0, 64 * KIB, GW_EXTENT_DATA};
    struct gw_round *round = new_round();
    struct fake_volume disk, ram;
    struct gw_piece pieces[4];

    fake_volume_init(&disk, GW_VOLUME_DISK, 64 * KIB, &data, 1);
    fake_volume_init(&ram, GW_VOLUME_RAM, 4 * KIB, &data, 1);
    add(round, 9, &disk, NULL);
    add(round, 2, &ram, NULL);
    cr_assert_eq(gw_round_claim(round, pieces, 4, UINT64_MAX), 2);
    cr_assert_eq(pieces[0].volume, 9);
    cr_assert_eq(pieces[1].volume, 2);
    gw_round_free(round);
}

Test(round, refuses_more_volumes_than_a_migration_has)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    for (unsigned i = 0; i < GW_VOLUMES_MAX; i++)
        add(round, (uint16_t)i, &fake, NULL);
    cr_assert_eq(gw_round_add(round, 64, &fake.volume, NULL), -E2BIG);
    gw_round_free(round);
}

/* done turns true with the last byte, neither with the last claim nor before. */
Test(round, is_done_exactly_when_the_last_byte_is_applied)
{
    struct gw_round *round = new_round();
    struct gw_piece pieces[64];
    struct fake_volume fake;
    int count;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    add(round, 0, &fake, NULL);
    cr_assert_not(gw_round_is_done(round));
    count = gw_round_claim(round, pieces, 64, UINT64_MAX);
    cr_assert_eq(gw_round_claim(round, &pieces[count], 1, UINT64_MAX), 0);
    cr_assert_not(gw_round_is_done(round));
    for (int i = count - 1; i > 0; i--)
        cr_assert_not(gw_round_applied(round, pieces[i].length), "done at piece %d", i);
    cr_assert_not(gw_round_applied(round, pieces[0].length - 1));
    cr_assert_not(gw_round_is_done(round));
    cr_assert(gw_round_applied(round, 1));
    cr_assert(gw_round_is_done(round));
    gw_round_free(round);
}

Test(round, is_not_done_while_something_is_unclaimed)
{
    struct gw_round *round = new_round();
    struct gw_piece piece;
    struct fake_volume fake;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    add(round, 0, &fake, NULL);
    cr_assert_eq(gw_round_claim(round, &piece, 1, UINT64_MAX), 1);
    cr_assert_not(gw_round_applied(round, piece.length));
    cr_assert_not(gw_round_is_done(round));
    gw_round_free(round);
}

/* The look for more must not swallow what it finds. */
Test(round, asking_whether_it_is_done_loses_nothing)
{
    struct gw_round *round = new_round();
    struct fake_volume first, second;
    struct seen *seen = calloc(1, sizeof(*seen));
    struct gw_piece piece;
    unsigned pieces_of[2] = {0, 0};

    fake_volume_init(&first, GW_VOLUME_RAM, 4 * KIB, mixed, 5);
    fake_volume_init(&second, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    add(round, 0, &first, NULL);
    add(round, 1, &second, NULL);
    cr_assert_not(gw_round_is_done(round));
    while (gw_round_claim(round, &piece, 1, UINT64_MAX) == 1) {
        if (piece.volume == 1)
            note(seen, &piece);
        pieces_of[piece.volume]++;
        gw_round_applied(round, piece.length);
        gw_round_is_done(round);
        gw_round_is_done(round);
    }
    expect_range(seen, 0, MIXED_SIZE, 1);
    /* 4 chunks, 1 zero extent, 1 chunk, then 4 and a part of 1 MiB; the disk has its hole too. */
    cr_assert_eq(pieces_of[0] + 1, pieces_of[1]);
    cr_assert(gw_round_is_done(round));
    free(seen);
    gw_round_free(round);
}

Test(round, given_back_piece_is_handed_out_again)
{
    struct gw_round *round = new_round();
    struct gw_piece pieces[64], again;
    struct fake_volume fake;
    uint64_t data, zero;
    int count;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    add(round, 0, &fake, NULL);
    count = gw_round_claim(round, pieces, 64, UINT64_MAX);
    for (int i = 1; i < count; i++)
        gw_round_applied(round, pieces[i].length);
    cr_assert_eq(gw_round_give_back(round, &pieces[0]), 0);
    cr_assert_not(gw_round_is_done(round));
    cr_assert_eq(gw_round_claim(round, &again, 1, UINT64_MAX), 1);
    cr_assert_eq(again.offset, pieces[0].offset);
    cr_assert_eq(again.length, pieces[0].length);
    cr_assert(gw_round_applied(round, again.length));
    gw_round_counts(round, &data, &zero);
    cr_assert_eq(data, 2 * MIB + 64 * KIB, "counted twice");
    cr_assert_eq(zero, 7 * MIB);
    gw_round_free(round);
}

Test(round, all_of_a_lane_can_be_given_back)
{
    static const struct gw_extent data = {0, 64 * MIB - 128 * KIB, GW_EXTENT_DATA};
    static struct gw_piece pieces[300];
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct seen *seen;
    int count;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, &data, 1);
    add(round, 0, &fake, NULL);
    count = gw_round_claim(round, pieces, 300, UINT64_MAX);
    cr_assert_eq(count, 256);
    /* Twice 256, so that the list of returned pieces grows. */
    for (int i = 0; i < count; i++) {
        struct gw_piece half = pieces[i];

        half.length = 64 * KIB;
        cr_assert_eq(gw_round_give_back(round, &half), 0);
        half.offset += half.length;
        half.length = pieces[i].length - half.length;
        cr_assert_eq(gw_round_give_back(round, &half), 0);
    }
    seen = drain(round);
    expect_range(seen, 0, 64 * MIB - 128 * KIB, 1);
    free(seen);
    gw_round_free(round);
}

Test(round, counts_data_and_zeroes_apart)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;
    uint64_t data, zero;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    add(round, 0, &fake, NULL);
    free(drain(round));
    gw_round_counts(round, &data, &zero);
    cr_assert_eq(data, 2 * MIB + 64 * KIB);
    cr_assert_eq(zero, 7 * MIB);
    gw_round_free(round);
}

Test(round, error_of_a_volume_ends_it_for_everyone)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct gw_piece pieces[64];
    struct gw_error error;

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    fake.fail_at = 8 * MIB;
    fake.fail_code = -EIO;
    add(round, 0, &fake, NULL);
    cr_assert_eq(gw_round_claim(round, pieces, 2, UINT64_MAX), 2, "the part before is handed out");
    cr_assert_eq(gw_round_claim(round, pieces, 64, UINT64_MAX), -EIO);
    cr_assert_str_eq(gw_error_message(), "the fake volume breaks at 8388608");
    gw_fail(-EPERM, "another message of this thread");
    cr_assert_eq(gw_round_claim(round, pieces, 1, UINT64_MAX), -EIO, "it stays broken");
    cr_assert_str_eq(gw_error_message(), "the fake volume breaks at 8388608");
    gw_round_error(round, &error);
    cr_assert_eq(error.code, -EIO);
    gw_round_free(round);
}

Test(round, broken_round_is_never_done)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct gw_piece pieces[64];

    fake_volume_init(&fake, GW_VOLUME_DISK, 64 * KIB, mixed, 5);
    fake.fail_code = -EIO;
    add(round, 0, &fake, NULL);
    cr_assert_not(gw_round_is_done(round));
    cr_assert_eq(gw_round_claim(round, pieces, 1, UINT64_MAX), -EIO);
    cr_assert_not(gw_round_is_done(round));
    gw_round_free(round);
}

Test(round, has_no_error_to_begin_with)
{
    struct gw_round *round = new_round();
    struct gw_error error;

    gw_round_error(round, &error);
    cr_assert_eq(error.code, 0);
    gw_round_free(round);
}

Test(round, is_still_only_when_told)
{
    struct gw_round *round = new_round();

    cr_assert_not(gw_round_is_still(round));
    gw_round_set_still(round);
    cr_assert(gw_round_is_still(round));
    gw_round_free(round);
}

static const struct gw_extent all_data[] = {{0, 4 * MIB, GW_EXTENT_DATA}};
static const struct gw_extent all_absent[] = {{0, 4 * MIB, GW_EXTENT_ABSENT}};

/* Lanes are held back at the horizon, which cuts pieces, and released as it moves. */
Test(round, horizon_holds_back_what_lies_behind_it)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;
    struct gw_piece pieces[64];
    uint64_t claimed = 0;
    int count;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, all_data, 1);
    add(round, 7, &fake, NULL);
    cr_assert_not(gw_round_set_horizon(round, 7, 0));
    cr_assert_eq(gw_round_claim(round, pieces, 64, UINT64_MAX), 0);
    cr_assert_not(gw_round_is_done(round), "what is held back is not done");
    cr_assert_not(gw_round_set_horizon(round, 7, MIB + 4 * KIB));
    count = gw_round_claim(round, pieces, 64, UINT64_MAX);
    for (int i = 0; i < count; i++)
        claimed += pieces[i].length;
    cr_assert_eq(claimed, MIB + 4 * KIB);
    cr_assert_eq(gw_round_position(round, 7), MIB + 4 * KIB);
    cr_assert_not(gw_round_applied(round, claimed), "the rest is still to come");
    cr_assert_not(gw_round_set_horizon(round, 7, UINT64_MAX));
    count = gw_round_claim(round, pieces, 64, UINT64_MAX);
    cr_assert_eq(pieces[0].offset, MIB + 4 * KIB);
    for (claimed = 0; count > 0; count--)
        claimed += pieces[count - 1].length;
    cr_assert(gw_round_applied(round, claimed));
    gw_round_free(round);
}

/* With only holes behind the horizon, moving it is what ends the round, and it ends once. */
Test(round, horizon_may_end_the_round)
{
    struct gw_round *round = new_round();
    struct fake_volume fake;

    fake_volume_init(&fake, GW_VOLUME_RAM, 4 * KIB, all_absent, 1);
    add(round, 7, &fake, NULL);
    gw_round_set_horizon(round, 7, 0);
    cr_assert_not(gw_round_is_done(round));
    cr_assert(gw_round_set_horizon(round, 7, UINT64_MAX));
    cr_assert_not(gw_round_set_horizon(round, 7, UINT64_MAX), "told twice");
    gw_round_free(round);
}

Test(round, free_takes_null)
{
    gw_round_free(NULL);
}

/* ---- NUMA nodes ---- */

static const struct gw_extent two_chunks[] = {
    {.offset = 0, .length = 512 * KIB, .kind = GW_EXTENT_DATA},
};

static uint16_t claim_one(struct gw_round *round, int node)
{
    struct gw_piece piece = {.volume = UINT16_MAX};

    cr_assert_eq(gw_round_claim_near(round, node, &piece, 1, UINT64_MAX), 1);
    return piece.volume;
}

Test(round, worker_takes_from_another_node_only_when_its_own_is_dry)
{
    struct fake_volume fakes[3];
    struct gw_round *round = new_round();
    struct gw_piece piece;

    /* 0 and 2 lie on nodes, 1 on none in particular. */
    for (uint16_t i = 0; i < 3; i++) {
        fake_volume_init(&fakes[i], GW_VOLUME_RAM, 4096, two_chunks, 1);
        fakes[i].volume.has_node = i != 1;
        fakes[i].volume.node = i == 2 ? 5 : 0;
        add(round, i, &fakes[i], NULL);
    }
    cr_assert_eq(claim_one(round, 5), 1, "no node is as good as its own");
    cr_assert_eq(claim_one(round, 5), 1);
    cr_assert_eq(claim_one(round, 5), 2);
    cr_assert_eq(claim_one(round, 0), 0);
    cr_assert_eq(claim_one(round, 5), 2);
    cr_assert_eq(claim_one(round, 5), 0, "its own is dry");
    cr_assert_eq(gw_round_claim_near(round, 5, &piece, 1, UINT64_MAX), 0);
    cr_assert_eq(gw_round_claim_near(round, 0, &piece, 1, UINT64_MAX), 0);
    cr_assert(!gw_round_applied(round, 1280 * KIB));
    cr_assert(gw_round_applied(round, 256 * KIB), "all of it was handed out once");
    gw_round_free(round);
}

Test(round, what_another_node_has_left_keeps_the_round_open)
{
    struct fake_volume fakes[2];
    struct gw_round *round = new_round();

    for (uint16_t i = 0; i < 2; i++) {
        fake_volume_init(&fakes[i], GW_VOLUME_RAM, 4096, two_chunks, 1);
        fakes[i].volume.has_node = true;
        fakes[i].volume.node = i;
        add(round, i, &fakes[i], NULL);
    }
    cr_assert_eq(claim_one(round, 1), 1);
    cr_assert_eq(claim_one(round, 1), 1);
    cr_assert(!gw_round_applied(round, 512 * KIB), "volume 0 was not handed out");
    cr_assert_eq(claim_one(round, 1), 0);
    cr_assert_eq(claim_one(round, -1), 0, "nothing was skipped by looking");
    cr_assert(gw_round_applied(round, 512 * KIB));
    gw_round_free(round);
}
