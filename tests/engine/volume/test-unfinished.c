/* SPDX-License-Identifier: Apache-2.0 */
/* Unfinished VHDX images that are gone on with: what a crash leaves, and tables that somebody made up. What
 * comes of them is compared by qemu-img. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/error.h"
#include "engine/image/image.h"
#include "tests/engine/volume/place.h"

#define KIB   1024ull
#define MIB   (1024 * KIB)
#define SIZE  (16 * MIB)
#define TABLE (3 * MIB) /* of blocks, in the file */
#define FIRST (4 * MIB) /* block, in the file */

TestSuite(unfinished, .timeout = 60);

struct rig {
    struct place place;
    struct gw_image *image;
    bool is_fixed;
};

static int open_image(struct rig *rig, bool is_continued)
{
    struct gw_image_create_options options = {.path = place_path(&rig->place, "part"),
                                              .format = GW_IMAGE_VHDX,
                                              .is_fixed = rig->is_fixed,
                                              .virtual_size = SIZE,
                                              .block_size = 1 << 20,
                                              .is_direct = true,
                                              .is_continued = is_continued};

    return gw_image_create(&options, &rig->image);
}

static int locate(void *context, uint64_t offset, uint64_t length, struct gw_location *out)
{
    return gw_image_locate(context, offset, length, out);
}

static void put(struct rig *rig, uint64_t offset, uint64_t length, unsigned seed)
{
    place_write(locate, rig->image, offset, length, seed);
}

/* The same bytes into the image and into the plain file beside it. */
static void put_both(struct rig *rig, uint64_t offset, uint64_t length, unsigned seed)
{
    put(rig, offset, length, seed);
    place_fill(place_path(&rig->place, "plain"), offset, length, seed);
}

static void begin(struct rig *rig)
{
    place_on_disk(&rig->place);
    cr_assert_eq(open_image(rig, false), 0, "%s", gw_error_message());
    put_both(rig, 0, 3 * MIB, 1);
    put_both(rig, 9 * MIB + 64 * KIB, 64 * KIB, 2);
    place_truncate(place_path(&rig->place, "plain"), SIZE);
    cr_assert_eq(gw_image_sync(rig->image), 0);
}

/* As a process that is killed leaves it: what is only in memory is lost. */
static void crash(struct rig *rig)
{
    gw_image_close(rig->image);
    rig->image = NULL;
}

static void finish_and_compare(struct rig *rig)
{
    cr_assert_eq(gw_image_finish(rig->image), 0, "%s", gw_error_message());
    crash(rig);
    cr_assert_eq(place_run("qemu-img check -q -f vhdx '%s/part'", rig->place.folder), 0);
    cr_assert_eq(place_run("qemu-img compare -q -f raw -F vhdx '%s/plain' '%s/part'",
                           rig->place.folder, rig->place.folder),
                 0);
    place_end(&rig->place);
}

static void poke(const struct rig *rig, uint64_t offset, uint64_t value)
{
    int fd = open(place_path(&rig->place, "part"), O_WRONLY);
    uint8_t bytes[8];

    gw_put_le64(bytes, value);
    cr_assert_eq(pwrite(fd, bytes, 8, (off_t)offset), 8);
    close(fd);
}

Test(unfinished, dynamic_vhdx_goes_on)
{
    struct rig rig = {.is_fixed = false};

    begin(&rig);
    crash(&rig);
    cr_assert_eq(open_image(&rig, true), 0, "%s", gw_error_message());
    put_both(&rig, 12 * MIB, 2 * MIB, 3);
    finish_and_compare(&rig);
}

Test(unfinished, fixed_vhdx_goes_on)
{
    struct rig rig = {.is_fixed = true};

    begin(&rig);
    crash(&rig);
    cr_assert_eq(open_image(&rig, true), 0, "%s", gw_error_message());
    put_both(&rig, 12 * MIB, 2 * MIB, 3);
    finish_and_compare(&rig);
}

/* A block that was written after the last sync, so that the table does not know it: whoever gets its place
 * finds nothing of it there. */
Test(unfinished, lost_blocks_leave_no_bytes)
{
    struct rig rig = {.is_fixed = false};

    begin(&rig);
    put(&rig, 5 * MIB, MIB, 7);
    put(&rig, 6 * MIB, MIB, 8);
    crash(&rig);
    cr_assert_eq(open_image(&rig, true), 0, "%s", gw_error_message());
    put_both(&rig, 7 * MIB + 256 * KIB, 64 * KIB, 3);
    put_both(&rig, 5 * MIB, 64 * KIB, 4);
    finish_and_compare(&rig);
}

/* The control for that: a place in the middle that the table does not name, with bytes in it. */
Test(unfinished, forgotten_place_is_given_back)
{
    struct rig rig = {.is_fixed = false};

    begin(&rig);
    crash(&rig);
    poke(&rig, TABLE + 8, 0); /* block 1 is forgotten */
    cr_assert_eq(open_image(&rig, true), 0, "%s", gw_error_message());
    place_fill(place_path(&rig.place, "plain"), 0, MIB, 1);
    cr_assert_eq(place_run("fallocate -p -o %llu -l %llu '%s/plain'", MIB, MIB, rig.place.folder),
                 0);
    put_both(&rig, 11 * MIB + 512 * KIB, 4 * KIB, 9); /* gets the place */
    finish_and_compare(&rig);
}

/* Killed between the end of finish and the new name. */
Test(unfinished, finished_image_is_taken_back)
{
    struct rig rig = {.is_fixed = false};

    begin(&rig);
    cr_assert_eq(gw_image_finish(rig.image), 0);
    crash(&rig);
    cr_assert_eq(open_image(&rig, true), 0, "%s", gw_error_message());
    cr_assert_neq(place_run("qemu-img info -f vhdx '%s/part' >/dev/null 2>&1", rig.place.folder),
                  0);
    put_both(&rig, 14 * MIB, MIB, 3);
    finish_and_compare(&rig);
}

static void expect_refusal(const char *what, uint64_t offset, uint64_t value)
{
    struct rig rig = {.is_fixed = false};

    begin(&rig);
    crash(&rig);
    poke(&rig, offset, value);
    cr_assert_eq(open_image(&rig, true), -EUCLEAN, "%s was taken", what);
    cr_assert(place_has(&rig.place, "part"));
    place_end(&rig.place);
}

Test(unfinished, two_blocks_in_one_place_are_refused)
{
    expect_refusal("an overlap", TABLE + 8, FIRST | 6);
}

Test(unfinished, block_behind_the_end_is_refused)
{
    expect_refusal("a place behind the end", TABLE + 8, 1ull << 40 | 6);
}

Test(unfinished, block_in_the_table_is_refused)
{
    expect_refusal("a place in the table", TABLE + 8, TABLE | 6);
}

Test(unfinished, unknown_state_is_refused)
{
    expect_refusal("a state that is none", TABLE + 8, FIRST | 4);
}

Test(unfinished, other_file_is_refused)
{
    expect_refusal("another file", 0, 0x1234567812345678);
}

Test(unfinished, cut_file_is_refused)
{
    struct rig rig = {.is_fixed = false};

    begin(&rig);
    crash(&rig);
    place_truncate(place_path(&rig.place, "part"), FIRST + MIB);
    cr_assert_eq(open_image(&rig, true), -EUCLEAN);
    place_truncate(place_path(&rig.place, "part"), 0);
    cr_assert_eq(open_image(&rig, true), -EUCLEAN);
    place_end(&rig.place);
}
