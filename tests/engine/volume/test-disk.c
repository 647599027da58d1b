/* SPDX-License-Identifier: Apache-2.0 */
/* Images as volumes, on a real file system and in memory. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/volume/disk.h"
#include "engine/volume/location.h"
#include "tests/engine/volume/place.h"

#define KIB  1024ull
#define MIB  (1024 * KIB)
#define GIB  (1024 * MIB)
#define SIZE (4 * MIB)
#define PART ".godwit-0123abcd.part"

TestSuite(disk, .timeout = 60);

static struct gw_disk_target_options options_of(const char *path, enum gw_image_format format)
{
    return (struct gw_disk_target_options){.name = "vda",
                                           .path = path,
                                           .epoch = "0123abcd",
                                           .format = format,
                                           .size = SIZE,
                                           .block_size = format == GW_IMAGE_VHDX ? 1u << 20 : 0};
}

static struct gw_target_volume *create(const struct place *place, enum gw_image_format format)
{
    struct gw_disk_target_options options = options_of(place_path(place, "disk"), format);
    struct gw_target_volume *volume = NULL;

    cr_assert_eq(gw_disk_target_create(&options, &volume), 0, "%s", gw_error_message());
    return volume;
}

static int locate(void *context, uint64_t offset, uint64_t length, struct gw_location *out)
{
    struct gw_target_volume *volume = context;

    return volume->ops->locate(volume, offset, length, out);
}

static void write_range(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                        unsigned seed)
{
    place_write(locate, volume, offset, length, seed);
}

struct kind {
    bool in_memory;
    enum gw_image_format format;
};

static void make_place(struct place *place, const struct kind *kind)
{
    if (kind->in_memory)
        place_in_memory(place);
    else
        place_on_disk(place);
}

static struct kind kinds[] = {
    {false, GW_IMAGE_RAW}, {false, GW_IMAGE_VHDX}, {true, GW_IMAGE_RAW}, {true, GW_IMAGE_VHDX}};

#define EACH_KIND(name)                                                                            \
    ParameterizedTestParameters(disk, name)                                                        \
    {                                                                                              \
        return cr_make_param_array(struct kind, kinds, sizeof(kinds) / sizeof(*kinds));            \
    }                                                                                              \
    ParameterizedTest(struct kind *kind, disk, name, .timeout = 60)

EACH_KIND(target_holds_what_was_written_as_qemu_img_reads_it)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    place_fill(place_path(&place, "wanted"), 1 * MIB, 1 * MIB + 128 * KIB, 7);
    place_truncate(place_path(&place, "wanted"), SIZE);
    volume = create(&place, kind->format);
    write_range(volume, 1 * MIB, 1 * MIB + 128 * KIB, 7);
    cr_assert_eq(volume->ops->sync(volume), 0);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    cr_assert_eq(place_run("qemu-img compare -q -f %s -F raw '%s' '%s'",
                           gw_image_format_name(kind->format), place_path(&place, "disk"),
                           place_path(&place, "wanted")),
                 0);
    /* The negative control. */
    place_fill(place_path(&place, "wanted"), 3 * MIB, 512, 1);
    cr_assert_eq(place_run("qemu-img compare -q -f %s -F raw '%s' '%s'",
                           gw_image_format_name(kind->format), place_path(&place, "disk"),
                           place_path(&place, "wanted")),
                 1);
    place_end(&place);
}

EACH_KIND(target_zeroes_what_was_written)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    place_truncate(place_path(&place, "wanted"), SIZE);
    place_fill(place_path(&place, "wanted"), 0, 64 * KIB, 7);
    volume = create(&place, kind->format);
    write_range(volume, 0, 2 * MIB, 7);
    cr_assert_eq(volume->ops->zero(volume, 64 * KIB, SIZE - 64 * KIB), 0);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    cr_assert_eq(place_run("qemu-img compare -q -f %s -F raw '%s' '%s'",
                           gw_image_format_name(kind->format), place_path(&place, "disk"),
                           place_path(&place, "wanted")),
                 0);
    place_end(&place);
}

EACH_KIND(target_has_another_name_until_finish)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    volume = create(&place, kind->format);
    write_range(volume, 0, 64 * KIB, 7);
    cr_assert_eq(volume->ops->sync(volume), 0);
    cr_assert_not(place_has(&place, "disk"));
    cr_assert(place_has(&place, "disk" PART));
    cr_assert_eq(volume->ops->finish(volume), 0);
    cr_assert(place_has(&place, "disk"));
    cr_assert_eq(place_count(&place), 1);
    volume->ops->close(volume);
    place_end(&place);
}

EACH_KIND(target_is_complete_before_it_has_its_name)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    place_fill(place_path(&place, "wanted"), 1 * MIB, 1 * MIB + 64 * KIB, 7);
    place_truncate(place_path(&place, "wanted"), SIZE);
    volume = create(&place, kind->format);
    write_range(volume, 1 * MIB, 1 * MIB + 64 * KIB, 7);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    cr_assert_not(place_has(&place, "disk"));
    cr_assert_eq(place_run("qemu-img compare -q -f %s -F raw '%s' '%s'",
                           gw_image_format_name(kind->format), volume->place,
                           place_path(&place, "wanted")),
                 0);
    cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    cr_assert(place_has(&place, "disk"));
    cr_assert_eq(place_count(&place), 2);
    volume->ops->close(volume);
    place_end(&place);
}

enum stage { WRITTEN, COMPLETE, FINISHED };

static void expect_abort_to_leave_nothing(const struct kind *kind, enum stage stage)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    volume = create(&place, kind->format);
    write_range(volume, 0, 64 * KIB, 7);
    if (stage == COMPLETE)
        cr_assert_eq(volume->ops->complete(volume), 0, "%s", gw_error_message());
    if (stage == FINISHED)
        cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->abort(volume);
    cr_assert_eq(place_count(&place), 0);
    volume->ops->close(volume);
    cr_assert_eq(place_count(&place), 0);
    place_end(&place);
}

EACH_KIND(target_abort_before_finish_leaves_nothing)
{
    expect_abort_to_leave_nothing(kind, WRITTEN);
}

EACH_KIND(target_abort_when_complete_leaves_nothing)
{
    expect_abort_to_leave_nothing(kind, COMPLETE);
}

EACH_KIND(target_abort_after_finish_leaves_nothing)
{
    expect_abort_to_leave_nothing(kind, FINISHED);
}

EACH_KIND(target_close_without_finish_never_gives_the_final_name)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    volume = create(&place, kind->format);
    volume->ops->close(volume);
    cr_assert_not(place_has(&place, "disk"));
    place_end(&place);
}

EACH_KIND(target_refuses_a_name_that_is_taken)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    place_fill(place_path(&place, "disk"), 0, 4096, 1);
    options = options_of(place_path(&place, "disk"), kind->format);
    cr_assert_eq(gw_disk_target_create(&options, &volume), -EEXIST);
    cr_assert_eq(place_count(&place), 1);
    place_end(&place);
}

/* A name that appears between create and finish belongs to somebody else too. */
EACH_KIND(target_never_replaces_a_name_that_appeared_meanwhile)
{
    struct gw_target_volume *volume;
    struct place place;

    make_place(&place, kind);
    volume = create(&place, kind->format);
    place_fill(place_path(&place, "disk"), 0, 4096, 1);
    place_fill(place_path(&place, "same"), 0, 4096, 1);
    cr_assert_eq(volume->ops->finish(volume), -EEXIST);
    cr_assert(place_same(place_path(&place, "disk"), place_path(&place, "same")));
    volume->ops->abort(volume);
    volume->ops->close(volume);
    cr_assert(place_same(place_path(&place, "disk"), place_path(&place, "same")),
              "abort took somebody's file");
    cr_assert_eq(place_count(&place), 2);
    place_end(&place);
}

Test(disk, target_refuses_a_dangling_link_as_a_name)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    struct place place;

    place_on_disk(&place);
    cr_assert_eq(symlink("/nowhere/at/all", place_path(&place, "disk")), 0);
    options = options_of(place_path(&place, "disk"), GW_IMAGE_RAW);
    cr_assert_eq(gw_disk_target_create(&options, &volume), -EEXIST);
    place_end(&place);
}

Test(disk, target_refuses_a_temporary_name_that_is_taken)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "disk" PART), 0, 4096, 1);
    options = options_of(place_path(&place, "disk"), GW_IMAGE_RAW);
    cr_assert_eq(gw_disk_target_create(&options, &volume), -EEXIST);
    cr_assert_eq(place_allocated(place_path(&place, "disk" PART)), 4096);
    place_end(&place);
}

Test(disk, target_in_a_missing_folder_is_enoent)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    struct place place;

    place_on_disk(&place);
    options = options_of(place_path(&place, "no/disk"), GW_IMAGE_RAW);
    cr_assert_eq(gw_disk_target_create(&options, &volume), -ENOENT);
    place_end(&place);
}

Test(disk, target_on_a_real_file_system_goes_past_the_page_cache)
{
    struct gw_target_volume *volume;
    struct gw_location to;
    struct place place;

    place_on_disk(&place);
    volume = create(&place, GW_IMAGE_RAW);
    cr_assert_eq(volume->ops->locate(volume, 0, 64 * KIB, &to), 0);
    if (!(fcntl(to.fd, F_GETFL) & O_DIRECT) &&
        place_run("dd if=/dev/zero of='%s' bs=4096 count=1 oflag=direct 2>/dev/null",
                  place_path(&place, "probe")) != 0)
        cr_skip_test("this file system has no O_DIRECT");
    cr_assert(fcntl(to.fd, F_GETFL) & O_DIRECT);
    cr_assert_not(to.is_memory_file);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, target_in_memory_says_that_writes_never_wait)
{
    struct gw_target_volume *volume;
    struct gw_location to;
    struct place place;

    place_in_memory(&place);
    volume = create(&place, GW_IMAGE_RAW);
    cr_assert_eq(volume->ops->locate(volume, 0, 64 * KIB, &to), 0);
    cr_assert_eq(to.where, GW_IN_FILE);
    cr_assert(to.is_memory_file);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, target_with_a_tail_has_its_exact_size)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    struct place place;
    struct stat info;

    place_on_disk(&place);
    options = options_of(place_path(&place, "disk"), GW_IMAGE_RAW);
    options.size = 1 * MIB + 700;
    place_fill(place_path(&place, "wanted"), 0, 1 * MIB + 700, 5);
    cr_assert_eq(gw_disk_target_create(&options, &volume), 0);
    write_range(volume, 0, 1 * MIB + 700, 5);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    cr_assert_eq(stat(place_path(&place, "disk"), &info), 0);
    cr_assert_eq(info.st_size, 1 * MIB + 700);
    cr_assert(place_same(place_path(&place, "disk"), place_path(&place, "wanted")));
    place_end(&place);
}

static bool goes_direct(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    struct gw_location to;

    cr_assert_eq(locate(volume, offset, length, &to), 0, "%s", gw_error_message());
    return fcntl(to.fd, F_GETFL) & O_DIRECT;
}

/* Sizes of VHDs and of disks with sectors of 512 bytes. */
static void tail_alone_is_buffered(enum gw_image_format format)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    bool is_possible;
    struct place place;

    place_on_disk(&place);
    volume = create(&place, format);
    is_possible = goes_direct(volume, 0, 64 * KIB);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    options = options_of(place_path(&place, "disk"), format);
    options.size = 2 * MIB + 512;
    place_fill(place_path(&place, "wanted"), 0, options.size, 5);
    cr_assert_eq(gw_disk_target_create(&options, &volume), 0, "%s", gw_error_message());
    cr_assert_eq(goes_direct(volume, 0, 64 * KIB), is_possible);
    /* As it was, and again in pieces that overlap it otherwise, as in a later round of a move. */
    write_range(volume, 0, MIB, 5);
    write_range(volume, MIB, MIB + 512, 6);
    write_range(volume, 2 * MIB - 64 * KIB, 64 * KIB, 5);
    write_range(volume, MIB, MIB + 512, 5);
    write_range(volume, 2 * MIB, 512, 5);
    cr_assert_eq(volume->ops->finish(volume), 0, "%s", gw_error_message());
    volume->ops->close(volume);
    cr_assert_eq(place_run("qemu-img compare -q -F raw -f %s %s %s", gw_image_format_name(format),
                           place_path(&place, "disk"), place_path(&place, "wanted")),
                 0);
    place_end(&place);
}

Test(disk, raw_target_with_a_tail_goes_past_the_page_cache)
{
    tail_alone_is_buffered(GW_IMAGE_RAW);
}

Test(disk, vhdx_target_with_a_tail_goes_past_the_page_cache)
{
    tail_alone_is_buffered(GW_IMAGE_VHDX);
}

Test(disk, target_that_does_not_fit_is_enospc_and_abort_leaves_nothing)
{
    struct gw_disk_target_options options;
    struct gw_target_volume *volume;
    struct gw_location to;
    struct place place;
    int error;

    place_small(&place, 2 * MIB);
    options = options_of(place_path(&place, "disk"), GW_IMAGE_RAW);
    options.is_fixed = true;
    error = gw_disk_target_create(&options, &volume);
    if (!error) {
        error = volume->ops->locate(volume, 0, SIZE, &to);
        volume->ops->abort(volume);
        volume->ops->close(volume);
    }
    cr_assert_eq(error, -ENOSPC, "%s", gw_error_message());
    cr_assert_eq(place_count(&place), 0);
    place_end(&place);
}

Test(disk, thin_target_stays_thin)
{
    struct gw_target_volume *volume;
    struct place place;

    place_on_disk(&place);
    volume = create(&place, GW_IMAGE_RAW);
    write_range(volume, 1 * MIB, 64 * KIB, 7);
    cr_assert_eq(volume->ops->zero(volume, 2 * MIB, 2 * MIB), 0);
    cr_assert_eq(volume->ops->finish(volume), 0);
    volume->ops->close(volume);
    cr_assert_leq(place_allocated(place_path(&place, "disk")), 128 * KIB);
    place_end(&place);
}

Test(disk, target_is_not_written_by_call)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    volume = create(&place, GW_IMAGE_RAW);
    cr_assert_eq(volume->ops->write(volume, 0, "x", 1), -ENOTSUP);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    place_end(&place);
}

/* ---- source ---- */

static int no_collect(void *context, struct gw_bitmap *dirty)
{
    gw_bitmap_set_range(dirty, *(const uint64_t *)context, 1);
    return 0;
}

static struct gw_source_volume *open_source(const struct place *place, const char *name,
                                            const struct gw_disk_dirty *dirty)
{
    struct gw_disk_source_options options = {
        .name = "vda", .path = place_path(place, name), .dirty = dirty};
    struct gw_source_volume *volume = NULL;

    cr_assert_eq(gw_disk_source_open(&options, &volume), 0, "%s", gw_error_message());
    return volume;
}

static _Alignas(4096) uint8_t room[128 << 10];

static void expect_bytes(const struct gw_location *from, uint64_t offset, unsigned seed)
{
    uint8_t *bytes = room;

    if (from->where == GW_IN_MEMORY)
        bytes = from->memory;
    else
        cr_assert_eq(pread(from->fd, bytes, from->length, (off_t)from->file_offset),
                     (ssize_t)from->length, "%s", strerror(errno));
    for (uint64_t i = 0; i < from->length; i++)
        cr_assert_eq(bytes[i], place_byte(seed, offset + i), "at %llu",
                     (unsigned long long)(offset + i));
}

EACH_KIND(source_reads_what_qemu_img_wrote)
{
    struct gw_source_volume *volume;
    struct gw_location from;
    struct place place;

    make_place(&place, kind);
    place_fill(place_path(&place, "raw"), 1 * MIB, 1 * MIB, 9);
    place_truncate(place_path(&place, "raw"), SIZE);
    cr_assert_eq(place_run("qemu-img convert -f raw -O %s '%s' '%s'",
                           gw_image_format_name(kind->format), place_path(&place, "raw"),
                           place_path(&place, "disk")),
                 0);
    volume = open_source(&place, "disk", NULL);
    cr_assert_eq(volume->size, SIZE);
    cr_assert(volume->is_still);
    for (uint64_t at = 1 * MIB; at < 2 * MIB; at += from.length) {
        cr_assert_eq(volume->ops->locate(volume, at, 64 * KIB, &from), 0);
        cr_assert_eq(from.kind, GW_EXTENT_DATA);
        cr_assert_eq(from.where, kind->in_memory ? GW_IN_MEMORY : GW_IN_FILE);
        expect_bytes(&from, at, 9);
    }
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, source_on_a_real_file_system_goes_past_the_page_cache)
{
    struct gw_source_volume *volume;
    struct gw_location from;
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "disk"), 0, SIZE, 9);
    if (place_run("dd if='%s' of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null",
                  place_path(&place, "disk")) != 0)
        cr_skip_test("this file system has no O_DIRECT");
    volume = open_source(&place, "disk", NULL);
    cr_assert_eq(volume->ops->locate(volume, 0, 64 * KIB, &from), 0);
    cr_assert(fcntl(from.fd, F_GETFL) & O_DIRECT);
    volume->ops->close(volume);
    place_end(&place);
}

/* Bytes of shared memory that this process has mapped, by the kernel's account. */
static uint64_t mapped_shared(void)
{
    FILE *status = fopen("/proc/self/status", "re");
    unsigned long long kib = 0;
    char line[256];

    cr_assert_not_null(status);
    while (fgets(line, sizeof(line), status) && sscanf(line, "RssShmem: %llu kB", &kib) != 1)
        continue;
    fclose(status);
    return kib * KIB;
}

/* Reads a piece as a lane does. */
static void read_piece(struct gw_source_volume *volume, uint64_t at)
{
    struct gw_location from;

    cr_assert_eq(volume->ops->locate(volume, at, 64 * KIB, &from), 0, "%s", gw_error_message());
    cr_assert_eq(from.where, GW_IN_MEMORY);
    for (uint64_t byte = 0; byte < 64 * KIB; byte += 4 * KIB)
        cr_assert_eq(((uint8_t *)from.memory)[byte], place_byte(9, at + byte));
}

/* Else the end of a copy would wait for the kernel to unmap all of it. While there is something to read
 * it would cost as much, so it is done when there is nothing. */
Test(disk, source_in_memory_lets_go_of_what_was_read)
{
    struct gw_source_volume *volume;
    struct place place;
    unsigned steps = 0;
    uint64_t before;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, 192 * MIB, 9);
    volume = open_source(&place, "disk", NULL);
    before = mapped_shared();
    cr_assert_not(volume->ops->tidy(volume), "there is nothing to let go of yet");
    for (uint64_t at = 0; at < 192 * MIB; at += 64 * KIB)
        read_piece(volume, at);
    while (volume->ops->tidy(volume))
        cr_assert_lt(steps++, 192);
    /* In steps of 2 MiB, and not what may be in flight. */
    cr_assert_eq(steps, (192 - 64) / 2 - 1, "%u steps: it was done while there was more to read",
                 steps);
    cr_assert_lt(mapped_shared() - before, 80 * MIB);
    /* What was let go of is there all the same. */
    read_piece(volume, MIB);
    volume->ops->close(volume);
    place_end(&place);
}

/* The kernel's tables of what is mapped are memory too. */
Test(disk, source_in_memory_lets_go_of_what_lies_far_behind)
{
    const uint64_t far = 5 * GIB;
    struct gw_source_volume *volume;
    struct place place;
    uint64_t before;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, 32 * MIB, 9);
    place_fill(place_path(&place, "disk"), far, 32 * MIB, 9);
    volume = open_source(&place, "disk", NULL);
    before = mapped_shared();
    for (uint64_t at = 0; at < 32 * MIB; at += 64 * KIB)
        read_piece(volume, at);
    for (uint64_t at = far; at < far + 32 * MIB; at += 64 * KIB)
        read_piece(volume, at);
    cr_assert_lt(mapped_shared() - before, 40 * MIB, "what was read 5 GiB before is still mapped");
    volume->ops->close(volume);
    place_end(&place);
}

/* Bytes that a guest may change must be taken before they are digested. */
Test(disk, source_in_use_is_not_mapped)
{
    uint64_t granule = 3;
    struct gw_disk_dirty dirty = {no_collect, &granule};
    struct gw_source_volume *volume;
    struct gw_location from;
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, SIZE, 9);
    volume = open_source(&place, "disk", &dirty);
    cr_assert_not(volume->is_still);
    cr_assert_eq(volume->ops->locate(volume, 0, 64 * KIB, &from), 0);
    cr_assert_eq(from.where, GW_IN_FILE);
    cr_assert(from.is_memory_file);
    expect_bytes(&from, 0, 9);
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, source_in_use_tells_what_its_tracker_tells)
{
    uint64_t granule = 3;
    struct gw_disk_dirty dirty = {no_collect, &granule};
    struct gw_source_volume *volume;
    struct gw_bitmap bitmap;
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, SIZE, 9);
    volume = open_source(&place, "disk", &dirty);
    cr_assert_eq(gw_bitmap_init(&bitmap, SIZE / GW_DISK_GRANULARITY), 0);
    gw_bitmap_set_range(&bitmap, 9, 1);
    cr_assert_eq(volume->ops->collect(volume, &bitmap), 0, "%s", gw_error_message());
    cr_assert(gw_bitmap_test(&bitmap, 3));
    cr_assert(gw_bitmap_test(&bitmap, 9), "what was set stays");
    cr_assert_eq(gw_bitmap_count(&bitmap), 2);
    gw_bitmap_free(&bitmap);
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, source_at_rest_has_no_tracker)
{
    struct gw_source_volume *volume;
    struct gw_bitmap bitmap = {0};
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "disk"), 0, SIZE, 9);
    volume = open_source(&place, "disk", NULL);
    cr_assert_eq(volume->ops->collect(volume, &bitmap), -ENOTSUP);
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, source_at_rest_that_changed_is_stale)
{
    struct gw_source_volume *volume;
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "disk"), 0, SIZE, 9);
    volume = open_source(&place, "disk", NULL);
    cr_assert_eq(volume->ops->unchanged(volume), 0);
    usleep(20000);
    place_fill(place_path(&place, "disk"), 1 * MIB, 512, 10);
    cr_assert_eq(volume->ops->unchanged(volume), -ESTALE);
    volume->ops->close(volume);
    place_end(&place);
}

Test(disk, source_in_use_may_change)
{
    uint64_t granule = 0;
    struct gw_disk_dirty dirty = {no_collect, &granule};
    struct gw_source_volume *volume;
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "disk"), 0, SIZE, 9);
    volume = open_source(&place, "disk", &dirty);
    usleep(20000);
    place_fill(place_path(&place, "disk"), 1 * MIB, 512, 10);
    cr_assert_eq(volume->ops->unchanged(volume), 0);
    volume->ops->close(volume);
    place_end(&place);
}

/* A fixed VHD begins with its disk, as a raw file does. */
Test(disk, source_that_is_a_fixed_vhd_is_read_past_the_page_cache)
{
    struct gw_source_volume *raw, *vhd;
    struct gw_location from, wanted;
    struct place place;

    place_on_disk(&place);
    place_fill(place_path(&place, "disk.raw"), 0, 2 * MIB + 512, 5);
    cr_assert_eq(place_run("qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on %s %s",
                           place_path(&place, "disk.raw"), place_path(&place, "disk.vhd")),
                 0);
    raw = open_source(&place, "disk.raw", NULL);
    vhd = open_source(&place, "disk.vhd", NULL);
    cr_assert_eq(vhd->size, 2 * MIB + 512);
    for (uint64_t offset = 0; offset < vhd->size; offset += 64 * KIB) {
        uint64_t length = gw_min(64 * KIB, vhd->size - offset);

        cr_assert_eq(raw->ops->locate(raw, offset, length, &wanted), 0);
        cr_assert_eq(vhd->ops->locate(vhd, offset, length, &from), 0);
        cr_assert_eq(fcntl(from.fd, F_GETFL) & O_DIRECT, fcntl(wanted.fd, F_GETFL) & O_DIRECT);
        cr_assert_eq(from.length, length);
        cr_assert_eq(gw_location_read(&from, room), 0, "%s", gw_error_message());
        for (uint64_t i = 0; i < length; i++)
            cr_assert_eq(room[i], place_byte(5, offset + i), "byte %llu",
                         (unsigned long long)(offset + i));
    }
    raw->ops->close(raw);
    vhd->ops->close(vhd);
    place_end(&place);
}

Test(disk, source_that_is_missing_is_enoent)
{
    struct gw_disk_source_options options = {.name = "vda"};
    struct gw_source_volume *volume;
    struct place place;

    place_on_disk(&place);
    options.path = place_path(&place, "disk");
    cr_assert_eq(gw_disk_source_open(&options, &volume), -ENOENT);
    place_end(&place);
}

/* ---- null ---- */

Test(null, takes_everything_and_makes_no_file)
{
    struct gw_target_volume *volume;
    struct gw_location to;

    cr_assert_eq(gw_null_target_create("vda", 1ull << 45, &volume), 0);
    cr_assert_eq(volume->size, 1ull << 45);
    cr_assert_str_eq(volume->name, "vda");
    cr_assert_eq(volume->ops->locate(volume, 1ull << 44, 123, &to), 0);
    cr_assert_eq(to.kind, GW_EXTENT_DATA);
    cr_assert_eq(to.where, GW_BY_CALL);
    cr_assert_eq(to.length, 123);
    cr_assert_eq(volume->ops->write(volume, 0, "x", 1), 0);
    cr_assert_eq(volume->ops->zero(volume, 0, 1ull << 45), 0);
    cr_assert_eq(volume->ops->sync(volume), 0);
    cr_assert_eq(volume->ops->finish(volume), 0);
    volume->ops->abort(volume);
    volume->ops->close(volume);
}
