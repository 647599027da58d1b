/* SPDX-License-Identifier: Apache-2.0 */
/* RAM files at both ends. The source's tracker wants a process that maps the file: a child. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/memory.h"
#include "engine/volume/ram.h"
#include "tests/engine/volume/place.h"

#define MIB  (1ull << 20)
#define SIZE (16 * MIB)

TestSuite(ram, .timeout = 60);

struct guest {
    struct place place;
    pid_t pid;
};

static pid_t start_mapper(const char *path)
{
    int ready[2];
    char byte;
    pid_t pid;

    cr_assert_eq(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        int fd = open(path, O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ||
            write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static struct gw_source_volume *open_source(struct guest *guest)
{
    struct gw_ram_source_options options = {
        .name = "ram0", .size = SIZE, .tracker = GW_TRACKER_COMPARE};
    struct gw_source_volume *volume = NULL;

    options.fd = open(place_path(&guest->place, "ram"), O_RDONLY | O_CLOEXEC);
    guest->pid = start_mapper(place_path(&guest->place, "ram"));
    options.vmm_pid = guest->pid;
    cr_assert_eq(gw_ram_source_open(&options, &volume), 0, "%s", gw_error_message());
    return volume;
}

static void end(struct guest *guest, struct gw_source_volume *volume)
{
    if (volume)
        volume->ops->close(volume);
    kill(guest->pid, SIGKILL);
    waitpid(guest->pid, NULL, 0);
    place_end(&guest->place);
}

/* 4 MiB hole, 4 MiB data, 8 MiB hole. */
static struct gw_source_volume *sparse_source(struct guest *guest)
{
    place_in_memory(&guest->place);
    place_fill(place_path(&guest->place, "ram"), 4 * MIB, 4 * MIB, 1);
    place_truncate(place_path(&guest->place, "ram"), SIZE);
    return open_source(guest);
}

static void expect_extent_to(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                             uint64_t length, enum gw_extent_kind kind)
{
    struct gw_extent extent;

    cr_assert_eq(volume->ops->next_extent(volume, offset, end, &extent), 0, "%s",
                 gw_error_message());
    cr_assert_eq(extent.offset, offset);
    cr_assert_eq(extent.length, length, "%llu", (unsigned long long)extent.length);
    cr_assert_eq(extent.kind, kind);
}

static void expect_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                          enum gw_extent_kind kind)
{
    expect_extent_to(volume, offset, SIZE, length, kind);
}

Test(ram, source_tells_holes_from_data)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);

    expect_extent(volume, 0, 4 * MIB, GW_EXTENT_ABSENT);
    expect_extent(volume, 4 * MIB, 4 * MIB, GW_EXTENT_DATA);
    expect_extent(volume, 6 * MIB, 2 * MIB, GW_EXTENT_DATA);
    expect_extent(volume, 8 * MIB, 8 * MIB, GW_EXTENT_ABSENT);
    end(&guest, volume);
}

Test(ram, source_tells_no_more_than_is_asked)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);

    expect_extent_to(volume, 1 * MIB, 2 * MIB, 1 * MIB, GW_EXTENT_ABSENT);
    expect_extent_to(volume, 4 * MIB - 4096, 4 * MIB + 4096, 4096, GW_EXTENT_ABSENT);
    expect_extent_to(volume, 5 * MIB, 5 * MIB + 4096, 4096, GW_EXTENT_DATA);
    expect_extent_to(volume, 5 * MIB, 6 * MIB, 1 * MIB, GW_EXTENT_DATA);
    /* Little of it and much: page by page, and by a walk to the end of the run. */
    expect_extent_to(volume, 8 * MIB - 8192, 8 * MIB + 65536, 8192, GW_EXTENT_DATA);
    expect_extent_to(volume, 5 * MIB, 15 * MIB, 3 * MIB, GW_EXTENT_DATA);
    expect_extent_to(volume, 5 * MIB, 7 * MIB, 2 * MIB, GW_EXTENT_DATA);
    expect_extent_to(volume, 8 * MIB, 9 * MIB, 1 * MIB, GW_EXTENT_ABSENT);
    end(&guest, volume);
}

/* Looking for what there is must not make pages of it. */
Test(ram, holes_cost_nothing)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);
    uint64_t before = place_allocated(place_path(&guest.place, "ram"));

    cr_assert_eq(before, 4 * MIB);
    for (uint64_t at = 0; at < SIZE; at += 1 * MIB) {
        struct gw_extent extent;

        cr_assert_eq(volume->ops->next_extent(volume, at, SIZE, &extent), 0);
        cr_assert_eq(volume->ops->next_extent(volume, at, at + 65536, &extent), 0);
    }
    cr_assert_eq(place_allocated(place_path(&guest.place, "ram")), before);
    end(&guest, volume);
}

Test(ram, source_is_read_in_place)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);
    struct gw_location from;

    cr_assert_eq(volume->ops->locate(volume, 5 * MIB, 4096, &from), 0);
    cr_assert_eq(from.where, GW_IN_MEMORY);
    cr_assert_eq(from.length, 4096);
    for (unsigned i = 0; i < 4096; i++)
        cr_assert_eq(((uint8_t *)from.memory)[i], place_byte(1, 5 * MIB + i));
    /* The same page, not a copy of it. */
    place_fill(place_path(&guest.place, "ram"), 5 * MIB, 4096, 2);
    cr_assert_eq(*(uint8_t *)from.memory, place_byte(2, 5 * MIB));
    end(&guest, volume);
}

Test(ram, source_takes_its_size_from_the_guest_and_not_the_file)
{
    struct guest guest;
    struct gw_source_volume *volume;

    place_in_memory(&guest.place);
    place_fill(place_path(&guest.place, "ram"), 0, SIZE + 2 * MIB, 1);
    volume = open_source(&guest);
    cr_assert_eq(volume->size, SIZE);
    expect_extent(volume, 0, SIZE, GW_EXTENT_DATA);
    end(&guest, volume);
}

Test(ram, source_that_shrank_is_stale)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);

    cr_assert_eq(volume->ops->unchanged(volume), 0);
    place_truncate(place_path(&guest.place, "ram"), 6 * MIB);
    cr_assert_eq(volume->ops->unchanged(volume), -ESTALE);
    cr_assert_not_null(strstr(gw_error_message(), "ram0"));
    end(&guest, volume);
}

/* The extents of a file that shrank end with it: nobody is sent to read past its end. */
Test(ram, source_that_shrank_has_no_data_past_its_end)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);

    place_truncate(place_path(&guest.place, "ram"), 6 * MIB);
    expect_extent(volume, 4 * MIB, 2 * MIB, GW_EXTENT_DATA);
    expect_extent(volume, 6 * MIB, SIZE - 6 * MIB, GW_EXTENT_ABSENT);
    end(&guest, volume);
}

Test(ram, source_refuses_a_file_smaller_than_the_guest)
{
    struct gw_ram_source_options options = {
        .name = "ram0", .size = SIZE, .tracker = GW_TRACKER_COMPARE, .vmm_pid = 1};
    struct gw_source_volume *volume;
    struct place place;

    place_in_memory(&place);
    place_truncate(place_path(&place, "ram"), SIZE - 4096);
    options.fd = open(place_path(&place, "ram"), O_RDONLY | O_CLOEXEC);
    cr_assert_eq(gw_ram_source_open(&options, &volume), -ESTALE);
    cr_assert_eq(fcntl(options.fd, F_GETFD), -1, "the descriptor was taken over");
    place_end(&place);
}

Test(ram, source_is_not_read_by_call)
{
    struct guest guest;
    struct gw_source_volume *volume = sparse_source(&guest);
    char byte;

    cr_assert_eq(volume->ops->read(volume, 0, &byte, 1), -ENOTSUP);
    end(&guest, volume);
}

static uint64_t collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    gw_bitmap_clear_all(dirty);
    cr_assert_eq(volume->ops->collect(volume, dirty), 0, "%s", gw_error_message());
    return gw_bitmap_count(dirty);
}

/* Of an unwritten page that is taken out uffd says nothing. */
Test(ram, pages_that_became_holes_are_seen_when_asked_for)
{
    struct gw_ram_source_options options = {
        .name = "ram0", .size = SIZE, .tracker = GW_TRACKER_UFFD, .sees_holes = true};
    const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    struct gw_source_volume *volume = NULL;
    struct gw_bitmap dirty;
    struct guest guest;
    const char *path;
    int fd;

    place_in_memory(&guest.place);
    path = place_path(&guest.place, "ram");
    place_fill(path, 0, 4 * MIB, 3);
    place_truncate(path, SIZE);
    fd = open(path, O_RDWR | O_CLOEXEC);
    options.fd = dup(fd);
    options.vmm_pid = guest.pid = start_mapper(path);
    if (gw_ram_source_open(&options, &volume))
        cr_skip_test("no uffd here: %s", gw_error_message());
    cr_assert_eq(gw_tracker_arm(gw_ram_source_tracker(volume)), 0, "%s", gw_error_message());
    cr_assert_eq(gw_bitmap_init(&dirty, SIZE / 4096), 0);
    cr_assert_eq(collect(volume, &dirty), 0);
    cr_assert_eq(fallocate(fd, punch, 3 * MIB, 2 * MIB), 0);
    cr_assert_eq(collect(volume, &dirty), MIB / 4096, "what was a hole before is none of it");
    cr_assert(gw_bitmap_test(&dirty, 3 * MIB / 4096));
    cr_assert(gw_bitmap_test(&dirty, 4 * MIB / 4096 - 1));
    cr_assert_eq(collect(volume, &dirty), 0);
    cr_assert_eq(pwrite(fd, "x", 1, 10 * MIB), 1);
    collect(volume, &dirty);
    cr_assert_eq(fallocate(fd, punch, 10 * MIB, 4096), 0);
    cr_assert_eq(collect(volume, &dirty), 1);
    cr_assert(gw_bitmap_test(&dirty, 10 * MIB / 4096));
    gw_bitmap_free(&dirty);
    close(fd);
    end(&guest, volume);
}

Test(ram, target_allocates_every_page)
{
    struct gw_target_volume *volume;
    struct place place;
    struct stat info;

    place_in_memory(&place);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), 0);
    cr_assert_eq(place_allocated(place_path(&place, "ram")), SIZE);
    cr_assert_eq(stat(place_path(&place, "ram"), &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0600, "others may read the guest's memory");
    cr_assert_not_null(volume->memory);
    volume->ops->close(volume);
    cr_assert(place_has(&place, "ram"), "close leaves the file to the hypervisor");
    place_end(&place);
}

Test(ram, sparse_target_has_what_is_set_aside)
{
    struct gw_target_volume *volume;
    struct place place;
    const char *path;
    struct stat info;

    place_in_memory(&place);
    path = place_path(&place, "ram");
    cr_assert_eq(gw_ram_target_make("plug0", path, SIZE, GW_RAM_SPARSE, &volume), 0);
    cr_assert_eq(place_allocated(path), 0);
    cr_assert_eq(stat(path, &info), 0);
    cr_assert_eq(info.st_size, SIZE);
    cr_assert_eq(gw_ram_target_set_aside(volume, 2 * MIB, MIB), 0);
    cr_assert_eq(place_allocated(path), MIB);
    cr_assert_eq(gw_ram_target_set_aside(volume, SIZE - MIB, 2 * MIB), -EINVAL);
    cr_assert_eq(gw_ram_target_set_aside(volume, UINT64_MAX - 4096, 8192), -EINVAL);
    cr_assert_eq(place_allocated(path), MIB);
    /* What is not there is zero: a look at it would make it. */
    memset((char *)volume->memory + 2 * MIB, 1, MIB);
    cr_assert_eq(volume->ops->zero(volume, 0, SIZE), 0);
    cr_assert_eq(place_allocated(path), MIB);
    cr_assert(gw_memory_is_zero((char *)volume->memory + 2 * MIB, MIB));
    volume->ops->close(volume);
    place_end(&place);
}

Test(ram, sparse_target_that_does_not_fit_says_so)
{
    struct gw_target_volume *volume;
    struct place place;

    place_small(&place, 8 * MIB);
    cr_assert_eq(
        gw_ram_target_make("plug0", place_path(&place, "ram"), 64 * MIB, GW_RAM_SPARSE, &volume),
        0);
    cr_assert_eq(gw_ram_target_set_aside(volume, 0, 16 * MIB), -ENOSPC);
    cr_assert_not_null(strstr(gw_error_message(), "cannot set aside 16 MiB"));
    volume->ops->abort(volume);
    volume->ops->close(volume);
    cr_assert_not(place_has(&place, "ram"));
    place_end(&place);
}

/* Somebody else's file may be larger, and is not cut. What was in it goes. */
Test(ram, sparse_foreign_target_keeps_its_size)
{
    struct gw_target_volume *volume;
    struct place place;
    const char *path;
    struct stat info;

    place_in_memory(&place);
    path = place_path(&place, "ram");
    place_fill(path, 0, SIZE + MIB, 3);
    cr_assert_eq(gw_ram_target_make("plug0", path, SIZE, GW_RAM_SPARSE | GW_RAM_FOREIGN, &volume),
                 0);
    cr_assert_eq(stat(path, &info), 0);
    cr_assert_eq(info.st_size, SIZE + MIB);
    cr_assert_eq(place_allocated(path), MIB);
    volume->ops->close(volume);
    place_end(&place);
}

Test(ram, target_is_written_in_place)
{
    struct gw_target_volume *volume;
    struct gw_location to;
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "wanted"), 0, SIZE, 3);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), 0);
    for (uint64_t at = 0; at < SIZE; at += to.length) {
        cr_assert_eq(volume->ops->locate(volume, at, 1 * MIB, &to), 0);
        cr_assert_eq(to.where, GW_IN_MEMORY);
        for (uint64_t i = 0; i < to.length; i++)
            ((uint8_t *)to.memory)[i] = place_byte(3, at + i);
    }
    cr_assert_eq(volume->ops->finish(volume), 0);
    volume->ops->close(volume);
    cr_assert(place_same(place_path(&place, "ram"), place_path(&place, "wanted")));
    place_end(&place);
}

Test(ram, target_zeroes_a_range_and_no_byte_more)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), 0);
    memset(volume->memory, 0xff, SIZE);
    cr_assert_eq(volume->ops->zero(volume, 1 * MIB, 3 * 4096), 0);
    for (uint64_t i = 0; i < SIZE; i++)
        cr_assert_eq(((uint8_t *)volume->memory)[i],
                     i >= 1 * MIB && i < 1 * MIB + 3ull * 4096 ? 0 : 0xff);
    volume->ops->close(volume);
    place_end(&place);
}

Test(ram, target_abort_unlinks)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), 0);
    volume->ops->abort(volume);
    cr_assert_eq(place_count(&place), 0);
    volume->ops->close(volume);
    place_end(&place);
}

Test(ram, target_abort_after_finish_unlinks)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), 0);
    cr_assert_eq(volume->ops->finish(volume), 0);
    volume->ops->abort(volume);
    cr_assert_eq(place_count(&place), 0);
    volume->ops->close(volume);
    place_end(&place);
}

Test(ram, target_refuses_an_existing_file_and_leaves_it)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    place_fill(place_path(&place, "ram"), 0, 4096, 1);
    place_fill(place_path(&place, "same"), 0, 4096, 1);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), -EEXIST);
    cr_assert(place_same(place_path(&place, "ram"), place_path(&place, "same")));
    place_end(&place);
}

Test(ram, target_larger_than_the_host_is_enospc_and_leaves_nothing)
{
    struct gw_target_volume *volume;
    struct place place;

    place_small(&place, 8 * MIB);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, 0, &volume), -ENOSPC);
    cr_assert_not_null(strstr(gw_error_message(), "16 MiB"), "%s", gw_error_message());
    cr_assert_eq(place_count(&place), 0);
    /* The negative control: what fits is made. */
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "ram"), 4 * MIB, 0, &volume), 0);
    volume->ops->close(volume);
    place_end(&place);
}

Test(ram, target_in_a_missing_folder_is_enoent)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(gw_ram_target_make("ram0", place_path(&place, "no/ram"), SIZE, 0, &volume),
                 -ENOENT);
    place_end(&place);
}

Test(ram, foreign_target_is_written_and_left_on_abort)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    place_truncate(place_path(&place, "ram"), SIZE);
    cr_assert_eq(
        gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, GW_RAM_FOREIGN, &volume), 0);
    cr_assert_eq(place_allocated(place_path(&place, "ram")), SIZE);
    volume->ops->abort(volume);
    volume->ops->close(volume);
    cr_assert(place_has(&place, "ram"));
    place_end(&place);
}

Test(ram, foreign_target_that_is_missing_is_not_made)
{
    struct gw_target_volume *volume;
    struct place place;

    place_in_memory(&place);
    cr_assert_eq(
        gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, GW_RAM_FOREIGN, &volume),
        -ENOENT);
    cr_assert_eq(place_count(&place), 0);
    place_end(&place);
}

Test(ram, foreign_target_that_cannot_be_allocated_is_left)
{
    struct gw_target_volume *volume;
    struct place place;

    place_small(&place, 8 * MIB);
    place_truncate(place_path(&place, "ram"), SIZE);
    cr_assert_eq(
        gw_ram_target_make("ram0", place_path(&place, "ram"), SIZE, GW_RAM_FOREIGN, &volume),
        -ENOSPC);
    cr_assert(place_has(&place, "ram"));
    place_end(&place);
}
