/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tracking costs: the tracker's own calls by the size of the RAM, the process that is tracked
 * at its first write to a page, and its stop while a userfaultfd is made in it. Prints medians;
 * judges nothing. tracker-bench [GIB], 1 by default.
 */
#include <stdatomic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bitmap.h"
#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/inject.h"
#include "engine/vmm/mappers.h"
#include "engine/vmm/tracker.h"

#define PAGE    4096u
#define REPEATS 21
#define STRIDE  16u /* every 16th page is written in the busy rounds */

/* Shared with the process that is tracked. */
struct board {
    atomic_uint wanted; /* rounds of writes asked for */
    atomic_uint done;
    atomic_ullong write_ns; /* of the last round, for each page */
    atomic_ullong gap_ns;   /* the longest time between two looks at the clock */
};

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *numbers, size_t count)
{
    qsort(numbers, count, sizeof(*numbers), compare_numbers);
    return numbers[count / 2];
}

static void run_target(struct board *board, unsigned char *ram, uint64_t page_count)
{
    uint64_t last = gw_clock_ns();

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        uint64_t now;

        syscall(SYS_getppid);
        now = gw_clock_ns();
        if (now - last > atomic_load(&board->gap_ns))
            atomic_store(&board->gap_ns, now - last);
        last = now;
        if (atomic_load(&board->wanted) == atomic_load(&board->done))
            continue;
        for (uint64_t page = 0; page < page_count; page += STRIDE)
            ((volatile unsigned char *)ram)[page * PAGE]++;
        last = gw_clock_ns();
        atomic_store(&board->write_ns, (last - now) / (page_count / STRIDE));
        atomic_store(&board->done, atomic_load(&board->wanted));
    }
}

static void have_written(struct board *board)
{
    atomic_fetch_add(&board->wanted, 1);
    while (atomic_load(&board->wanted) != atomic_load(&board->done))
        usleep(100);
}

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, gw_error_message());
    exit(1);
}

static uint64_t timed_collect(struct gw_tracker *tracker, struct gw_bitmap *dirty)
{
    uint64_t begin = gw_clock_ns();

    gw_bitmap_clear_all(dirty);
    if (gw_tracker_collect(tracker, dirty))
        fail("collect");
    return (gw_clock_ns() - begin) / 1000;
}

static void bench_kind(const struct gw_tracker_options *options, struct board *board)
{
    struct gw_tracker *tracker;
    struct gw_bitmap dirty = {0};
    uint64_t idle[REPEATS], busy[REPEATS], writes[REPEATS], begin = gw_clock_ns();

    if (gw_tracker_probe(options->kind)) {
        printf("%s: %s\n", gw_tracker_name(options->kind), gw_error_message());
        return;
    }
    if (gw_tracker_open(options, &tracker) || gw_tracker_arm(tracker) ||
        gw_bitmap_init(&dirty, options->size / PAGE))
        fail("open");
    printf("%s: open and arm %llu us\n", gw_tracker_name(options->kind),
           (unsigned long long)((gw_clock_ns() - begin) / 1000));
    begin = gw_clock_ns();
    gw_tracker_copied(tracker, 0, options->ram, options->size);
    if (gw_tracker_needs_copy(tracker))
        printf("  digests of all pages %llu us\n",
               (unsigned long long)((gw_clock_ns() - begin) / 1000));
    for (int i = 0; i < REPEATS; i++) {
        idle[i] = timed_collect(tracker, &dirty);
        have_written(board);
        writes[i] = atomic_load(&board->write_ns);
        busy[i] = timed_collect(tracker, &dirty);
        gw_tracker_copied(tracker, 0, options->ram, options->size);
    }
    printf("  collect: nothing written %llu us, every %uth page written %llu us; first write to a "
           "page %llu ns\n",
           (unsigned long long)median(idle, REPEATS), STRIDE,
           (unsigned long long)median(busy, REPEATS), (unsigned long long)median(writes, REPEATS));
    gw_bitmap_free(&dirty);
    gw_tracker_close(tracker);
}

static void bench_injection(pid_t pid, struct board *board)
{
    uint64_t stops[REPEATS], totals[REPEATS];
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

    for (int i = 0; i < REPEATS; i++) {
        uint64_t begin = gw_clock_ns();
        int fd;

        atomic_store(&board->gap_ns, 0);
        if (gw_inject_userfaultfd(pid, pidfd, &fd))
            fail("injection");
        totals[i] = (gw_clock_ns() - begin) / 1000;
        usleep(1000);
        stops[i] = atomic_load(&board->gap_ns) / 1000;
        close(fd);
    }
    printf("injection: thread stopped %llu us, in all %llu us\n",
           (unsigned long long)median(stops, REPEATS), (unsigned long long)median(totals, REPEATS));
    close(pidfd);
}

static void bench_mappers(int ram_fd)
{
    uint64_t all[REPEATS], writable[REPEATS];
    struct gw_mapper found[4];

    for (int i = 0; i < REPEATS; i++) {
        uint64_t begin = gw_clock_ns(), middle;

        gw_mappers_find(ram_fd, found, 4);
        middle = gw_clock_ns();
        gw_mappers_find_writable(ram_fd, found, 4);
        all[i] = (middle - begin) / 1000;
        writable[i] = (gw_clock_ns() - middle) / 1000;
    }
    printf("mappers: all %llu us, writable ones %llu us\n",
           (unsigned long long)median(all, REPEATS), (unsigned long long)median(writable, REPEATS));
}

int main(int argc, char **argv)
{
    uint64_t size = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1) << 30;
    int fd = memfd_create("godwit-bench", MFD_CLOEXEC);
    struct board *board =
        mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *ram;
    pid_t pid;

    if (fd < 0 || ftruncate(fd, (off_t)size) < 0 || board == MAP_FAILED)
        return 1;
    ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ram == MAP_FAILED)
        return 1;
    for (uint64_t i = 0; i < size / sizeof(uint64_t); i++)
        ((uint64_t *)(void *)ram)[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    pid = fork();
    if (pid == 0)
        run_target(board, ram, size / PAGE);
    have_written(board); /* so that the pages are in its page table */
    bench_injection(pid, board);
    bench_mappers(fd);
    for (int kind = GW_TRACKER_UFFD; kind <= GW_TRACKER_COMPARE; kind++) {
        struct gw_tracker_options options = {.kind = (enum gw_tracker_kind)kind,
                                             .ram_fd = fd,
                                             .ram = ram,
                                             .size = size,
                                             .page_size = PAGE,
                                             .vmm_pid = pid};

        bench_kind(&options, board);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
