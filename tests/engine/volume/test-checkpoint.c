/* SPDX-License-Identifier: Apache-2.0 */
/* The journal of an unfinished image: torn, damaged and made-up records. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/volume/checkpoint.h"
#include "tests/engine/volume/place.h"

TestSuite(checkpoint, .timeout = 30);

static struct gw_checkpoint example(uint64_t durable)
{
    struct gw_checkpoint checkpoint = {.format = "vhdx",
                                       .size = 1 << 30,
                                       .block_size = 1 << 20,
                                       .logical_sector_size = 512,
                                       .physical_sector_size = 4096,
                                       .durable = durable};

    snprintf(checkpoint.source, sizeof(checkpoint.source), "vhdx /srv/vm/a.vhdx, 4096 bytes");
    return checkpoint;
}

static void make_file(uint8_t *bytes, uint64_t first, uint64_t second)
{
    struct gw_checkpoint checkpoint = example(first);

    gw_checkpoint_encode(&checkpoint, 6, bytes);
    checkpoint.durable = second;
    gw_checkpoint_encode(&checkpoint, 7, bytes + GW_CHECKPOINT_SLOT);
}

Test(checkpoint, newest_record_counts)
{
    uint8_t bytes[GW_CHECKPOINT_SIZE];
    struct gw_checkpoint found, wanted = example(2000);
    uint64_t number;

    make_file(bytes, 1000, 2000);
    cr_assert_eq(gw_checkpoint_decode(bytes, sizeof(bytes), &found, &number), 0);
    cr_assert_eq(found.durable, 2000);
    cr_assert_eq(number, 7);
    cr_assert(gw_checkpoint_is_same(&found, &wanted));
    wanted.block_size *= 2;
    cr_assert(!gw_checkpoint_is_same(&found, &wanted));
    wanted = example(2000);
    wanted.source[0] = 'x';
    cr_assert(!gw_checkpoint_is_same(&found, &wanted));
}

/* Each sector of the newest record in turn is what was there before, or nothing. */
Test(checkpoint, torn_record_leaves_the_one_before)
{
    for (unsigned at = 0; at < 512; at++) {
        uint8_t bytes[GW_CHECKPOINT_SIZE];
        struct gw_checkpoint found;

        make_file(bytes, 1000, 2000);
        if (bytes[GW_CHECKPOINT_SLOT + at] == 0)
            continue; /* padding and high bytes: nothing is torn */
        bytes[GW_CHECKPOINT_SLOT + at] ^= 0x41;
        cr_assert_eq(gw_checkpoint_decode(bytes, sizeof(bytes), &found, NULL), 0);
        cr_assert_eq(found.durable, 1000, "byte %u", at);
    }
}

Test(checkpoint, no_valid_record_is_damaged)
{
    uint8_t bytes[GW_CHECKPOINT_SIZE];
    struct gw_checkpoint found;

    make_file(bytes, 1000, 2000);
    bytes[60] ^= 1;
    bytes[GW_CHECKPOINT_SLOT + 60] ^= 1;
    cr_assert_eq(gw_checkpoint_decode(bytes, sizeof(bytes), &found, NULL), -EUCLEAN);
    cr_assert_eq(gw_checkpoint_decode(bytes, 0, &found, NULL), -EUCLEAN);
    cr_assert_eq(gw_checkpoint_decode(bytes, GW_CHECKPOINT_SLOT - 1, &found, NULL), -EUCLEAN);
}

/* Its checksum is right: somebody made it up. */
Test(checkpoint, more_than_all_is_damaged)
{
    struct gw_checkpoint lie = example((1 << 30) + 1), found;
    uint8_t bytes[GW_CHECKPOINT_SIZE] = {0};

    gw_checkpoint_encode(&lie, 1, bytes);
    cr_assert_eq(gw_checkpoint_decode(bytes, sizeof(bytes), &found, NULL), -EUCLEAN);
    lie = example(0);
    lie.size = UINT64_MAX;
    gw_checkpoint_encode(&lie, 1, bytes);
    cr_assert_eq(gw_checkpoint_decode(bytes, sizeof(bytes), &found, NULL), -EUCLEAN);
}

Test(checkpoint, file_never_grows)
{
    struct gw_checkpoint checkpoint = example(0), found;
    struct place place;
    struct stat status;
    const char *path;

    place_on_disk(&place);
    path = place_path(&place, "journal");
    cr_assert_eq(gw_checkpoint_read(path, &found), -ENOENT);
    for (uint64_t i = 1; i <= 5; i++) {
        checkpoint.durable = i << 20;
        cr_assert_eq(gw_checkpoint_write(path, &checkpoint), 0);
        cr_assert_eq(gw_checkpoint_read(path, &found), 0);
        cr_assert_eq(found.durable, i << 20);
    }
    cr_assert_eq(stat(path, &status), 0);
    cr_assert_eq(status.st_size, GW_CHECKPOINT_SIZE);
    place_end(&place);
}

Test(checkpoint, link_in_its_place_is_not_followed)
{
    struct gw_checkpoint checkpoint = example(1), found;
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "other"), 0, 4096, 1);
    cr_assert_eq(symlink("other", place_path(&place, "journal")), 0);
    cr_assert_neq(gw_checkpoint_write(place_path(&place, "journal"), &checkpoint), 0);
    cr_assert_neq(gw_checkpoint_read(place_path(&place, "journal"), &found), 0);
    place_end(&place);
}
