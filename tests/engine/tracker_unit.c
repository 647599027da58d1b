/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of trackers that need no other process: names, arguments, comparing, finding mappers.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bitmap.h"
#include "common/error.h"
#include "engine/vmm/mappers.h"
#include "engine/vmm/tracker.h"

#define PAGE  4096u
#define PAGES 1300u /* more than one block of compare's flags, and no multiple of it */

struct ram {
    int fd;
    unsigned char *bytes;
    unsigned char *copy;
    struct gw_tracker *tracker;
    struct gw_bitmap dirty;
};

static struct gw_tracker_options options_of(const struct ram *ram, enum gw_tracker_kind kind)
{
    return (struct gw_tracker_options){.kind = kind,
                                       .ram_fd = ram->fd,
                                       .ram = ram->bytes,
                                       .size = (uint64_t)PAGES * PAGE,
                                       .page_size = PAGE,
                                       .vmm_pid = getpid()};
}

static void make_ram(struct ram *ram)
{
    *ram = (struct ram){.fd = memfd_create("ram", MFD_CLOEXEC)};
    cr_assert(ram->fd >= 0 && ftruncate(ram->fd, (off_t)PAGES * PAGE) == 0);
    ram->bytes = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ram->fd, 0);
    cr_assert(ram->bytes != MAP_FAILED);
    ram->copy = aligned_alloc(PAGE, (size_t)PAGES * PAGE);
    cr_assert(gw_bitmap_init(&ram->dirty, PAGES) == 0);
}

/* A child that has its mappings as they shall be says so, and stays. */
static void stay(const int ready[2])
{
    if (write(ready[1], "r", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static void await(const int ready[2])
{
    char byte;

    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1, "the child did not get there");
    close(ready[0]);
}

static void free_ram(struct ram *ram)
{
    gw_tracker_close(ram->tracker);
    gw_bitmap_free(&ram->dirty);
    free(ram->copy);
    munmap(ram->bytes, (size_t)PAGES * PAGE);
    close(ram->fd);
}

static void compare_begin(struct ram *ram)
{
    struct gw_tracker_options options;

    make_ram(ram);
    options = options_of(ram, GW_TRACKER_COMPARE);
    cr_assert(gw_tracker_open(&options, &ram->tracker) == 0, "%s", gw_error_message());
    cr_assert(gw_tracker_arm(ram->tracker) == 0);
}

static uint64_t collect(struct ram *ram)
{
    gw_bitmap_clear_all(&ram->dirty);
    cr_assert(gw_tracker_collect(ram->tracker, &ram->dirty) == 0, "%s", gw_error_message());
    return gw_bitmap_count(&ram->dirty);
}

static void send_pages(struct ram *ram, uint64_t first, uint64_t count)
{
    memcpy(ram->copy + first * PAGE, ram->bytes + first * PAGE, count * PAGE);
    gw_tracker_copied(ram->tracker, first * PAGE, ram->copy + first * PAGE, count * PAGE);
}

Test(tracker, names_are_parsed_and_others_refused)
{
    enum gw_tracker_kind kind = GW_TRACKER_AUTO;
    const enum gw_tracker_kind kinds[] = {GW_TRACKER_AUTO, GW_TRACKER_UFFD, GW_TRACKER_SOFTDIRTY,
                                          GW_TRACKER_COMPARE};

    for (size_t i = 0; i < 4; i++) {
        cr_expect_eq(gw_tracker_kind_parse(gw_tracker_name(kinds[i]), &kind), 0);
        cr_expect_eq(kind, kinds[i]);
    }
    cr_expect_eq(gw_tracker_kind_parse("dirty-ring", &kind), -EINVAL);
    cr_expect(strstr(gw_error_message(), "dirty-ring"));
}

Test(tracker, rejects_sizes_that_are_none)
{
    struct ram ram;
    struct gw_tracker_options options;

    make_ram(&ram);
    options = options_of(&ram, GW_TRACKER_COMPARE);
    options.size = 0;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -EINVAL);
    options.size = 5000;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -EINVAL);
    options = options_of(&ram, GW_TRACKER_COMPARE);
    options.page_size = 3 * PAGE;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -EINVAL);
    options.page_size = 512;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -EINVAL);
    free_ram(&ram);
}

Test(tracker, rejects_a_hypervisor_that_is_gone)
{
    struct ram ram;
    struct gw_tracker_options options;
    pid_t child = fork();

    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    make_ram(&ram);
    options = options_of(&ram, GW_TRACKER_AUTO);
    options.vmm_pid = child;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -ESRCH);
    free_ram(&ram);
}

/* A hypervisor whose RAM is another file, or private, is not watched in vain. */
Test(tracker, rejects_a_hypervisor_that_does_not_map_the_file)
{
    struct ram ram;
    struct gw_tracker_options options;
    int ready[2];
    pid_t child;

    if (gw_tracker_probe(GW_TRACKER_UFFD))
        cr_skip("%s", gw_error_message());
    make_ram(&ram);
    cr_assert_eq(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        munmap(ram.bytes, (size_t)PAGES * PAGE);
        stay(ready);
    }
    await(ready);
    options = options_of(&ram, GW_TRACKER_UFFD);
    options.vmm_pid = child;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -EINVAL);
    cr_expect(strstr(gw_error_message(), "share=on"), "%s", gw_error_message());
    options.kind = GW_TRACKER_AUTO;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -EINVAL, "comparing makes it no better");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    free_ram(&ram);
}

Test(tracker, auto_takes_the_best_that_the_kernel_has)
{
    struct ram ram;
    struct gw_tracker_options options;
    enum gw_tracker_kind best = gw_tracker_probe(GW_TRACKER_UFFD) == 0        ? GW_TRACKER_UFFD
                                : gw_tracker_probe(GW_TRACKER_SOFTDIRTY) == 0 ? GW_TRACKER_SOFTDIRTY
                                                                              : GW_TRACKER_COMPARE;
    pid_t child;

    make_ram(&ram);
    child = fork();
    if (child == 0)
        for (;;)
            pause();
    options = options_of(&ram, GW_TRACKER_AUTO);
    options.vmm_pid = child;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), 0, "%s", gw_error_message());
    cr_expect_eq(gw_tracker_kind_of(ram.tracker), best);
    cr_expect_eq(gw_tracker_needs_stop(ram.tracker), best == GW_TRACKER_SOFTDIRTY);
    cr_expect_eq(gw_tracker_needs_copy(ram.tracker), best == GW_TRACKER_COMPARE);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    free_ram(&ram);
}

Test(tracker, probe_gives_a_reason)
{
    for (int kind = GW_TRACKER_AUTO; kind <= GW_TRACKER_COMPARE; kind++)
        if (gw_tracker_probe((enum gw_tracker_kind)kind))
            cr_expect(strlen(gw_error_message()) > 10);
    cr_expect_eq(gw_tracker_probe(GW_TRACKER_COMPARE), 0);
}

Test(compare, holes_and_zeroes_that_were_never_sent_are_clean)
{
    struct ram ram;

    compare_begin(&ram);
    memset(ram.bytes + 10 * PAGE, 0, 3 * PAGE); /* pages, but zero */
    cr_expect_eq(collect(&ram), 0);
    free_ram(&ram);
}

Test(compare, data_that_was_never_sent_is_dirty)
{
    struct ram ram;

    compare_begin(&ram);
    ram.bytes[700 * PAGE + 4095] = 1;
    cr_expect_eq(collect(&ram), 1);
    cr_expect(gw_bitmap_test(&ram.dirty, 700));
    cr_expect_eq(collect(&ram), 1, "it stays dirty until it is sent");
    send_pages(&ram, 700, 1);
    cr_expect_eq(collect(&ram), 0);
    free_ram(&ram);
}

Test(compare, a_page_of_data_that_became_zero_is_dirty)
{
    struct ram ram;

    compare_begin(&ram);
    memset(ram.bytes + 5 * PAGE, 7, 2 * PAGE);
    send_pages(&ram, 0, 20);
    cr_expect_eq(collect(&ram), 0);
    memset(ram.bytes + 5 * PAGE, 0, PAGE);
    cr_assert_eq(fallocate(ram.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 6 * PAGE, PAGE), 0);
    cr_expect_eq(collect(&ram), 2);
    cr_expect(gw_bitmap_test(&ram.dirty, 5) && gw_bitmap_test(&ram.dirty, 6));
    gw_tracker_copied(ram.tracker, 5 * PAGE, NULL, 2 * PAGE);
    cr_expect_eq(collect(&ram), 0);
    free_ram(&ram);
}

/* Clearing the bits clears them for the whole process: what is dirty in its other memories would be lost. */
Test(tracker, softdirty_refuses_one_of_several_memories)
{
    struct ram ram;
    struct gw_tracker_options options;

    make_ram(&ram);
    options = options_of(&ram, GW_TRACKER_SOFTDIRTY);
    options.is_one_of_several = true;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), -ENOTSUP);
    cr_expect(strstr(gw_error_message(), "several memory backends"), "%s", gw_error_message());
    options.kind = GW_TRACKER_COMPARE;
    cr_expect_eq(gw_tracker_open(&options, &ram.tracker), 0, "%s", gw_error_message());
    free_ram(&ram);
}

/* The digest is of the bytes that were sent, not of the page: A, B sent, A again is dirty. */
Test(compare, what_was_sent_counts_and_not_what_was_there)
{
    struct ram ram;

    compare_begin(&ram);
    ram.bytes[0] = 'B';
    memcpy(ram.copy, ram.bytes, PAGE);
    ram.bytes[0] = 'A';
    gw_tracker_copied(ram.tracker, 0, ram.copy, PAGE);
    cr_expect_eq(collect(&ram), 1);
    free_ram(&ram);
}

Test(compare, a_short_last_page_is_a_page)
{
    struct ram ram;
    struct gw_tracker_options options;

    make_ram(&ram);
    options = options_of(&ram, GW_TRACKER_COMPARE);
    options.page_size = 2u << 20; /* 1300 small pages: two and a half large ones */
    gw_bitmap_free(&ram.dirty);
    cr_assert_eq(gw_bitmap_init(&ram.dirty, 3), 0);
    cr_assert_eq(gw_tracker_open(&options, &ram.tracker), 0);
    cr_assert_eq(gw_tracker_arm(ram.tracker), 0);
    ram.bytes[(size_t)PAGES * PAGE - 1] = 1;
    cr_expect_eq(collect(&ram), 1);
    cr_expect(gw_bitmap_test(&ram.dirty, 2));
    memcpy(ram.copy, ram.bytes, (size_t)PAGES * PAGE);
    gw_tracker_copied(ram.tracker, 0, ram.copy, (uint64_t)PAGES * PAGE);
    cr_expect_eq(collect(&ram), 0);
    free_ram(&ram);
}

Test(mappers, the_caller_is_left_out_and_others_are_named)
{
    struct ram ram;
    struct gw_mapper found[4];
    pid_t child;

    make_ram(&ram);
    cr_expect_eq(gw_mappers_find(ram.fd, found, 4), 0);
    child = fork();
    if (child == 0)
        for (;;)
            pause();
    cr_expect_eq(gw_mappers_find(ram.fd, found, 4), 1);
    cr_expect_eq(found[0].pid, child);
    cr_expect(found[0].is_writable);
    cr_expect(strlen(found[0].name) > 0);
    cr_expect_eq(gw_mappers_find_writable(ram.fd, found, 4), 1);
    cr_expect_eq(gw_mappers_find(ram.fd, found, 0), 1, "those that do not fit are counted");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_expect_eq(gw_mappers_find(ram.fd, found, 4), 0);
    free_ram(&ram);
}

Test(mappers, a_private_or_read_only_mapping_is_no_writer)
{
    struct ram ram;
    struct gw_mapper found[4];
    int ready[2];
    pid_t child;

    make_ram(&ram);
    cr_assert_eq(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        munmap(ram.bytes, (size_t)PAGES * PAGE);
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, ram.fd, 0);
        mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ram.fd, 0);
        stay(ready);
    }
    await(ready);
    cr_expect_eq(gw_mappers_find(ram.fd, found, 4), 1);
    cr_expect_not(found[0].is_writable);
    cr_expect_eq(gw_mappers_find_writable(ram.fd, found, 4), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    free_ram(&ram);
}

Test(mappers, ranges_are_subtracted_where_the_place_is_the_same)
{
    struct gw_mapping whole = {.start = 0x1000, .end = 0x9000, .offset = 0};
    struct gw_mapping middle = {.start = 0x3000, .end = 0x5000, .offset = 0x2000};
    struct gw_mapping shifted = {.start = 0x6000, .end = 0x7000, .offset = 0};
    struct gw_mappings list = {0}, without = {0}, rest = {0};

    gw_mappings_add(&list, &whole);
    gw_mappings_add(&without, &middle);
    gw_mappings_add(&without, &shifted);
    cr_assert_eq(gw_mappings_subtract(&list, &without, &rest), 0);
    cr_assert_eq(rest.count, 2);
    cr_expect_eq(rest.items[0].start, 0x1000);
    cr_expect_eq(rest.items[0].end, 0x3000);
    cr_expect_eq(rest.items[1].start, 0x5000);
    cr_expect_eq(rest.items[1].end, 0x9000);
    cr_expect_eq(rest.items[1].offset, 0x4000);
    gw_mappings_free(&list);
    gw_mappings_free(&without);
    gw_mappings_free(&rest);
}
