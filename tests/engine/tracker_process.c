/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trackers against real processes: what they report is compared with what the writer process says
 * it wrote, and copies made by their reports with the RAM file itself. Needs nothing but this
 * program, so that it runs on any kernel: tracker-process --kind uffd|softdirty|compare --backing
 * memfd|tmpfs|hugetlbfs. Exit 77 with the reason when the kernel lacks either.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bitmap.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/memory.h"
#include "engine/vmm/tracker.h"
#include "tests/descriptors.h"
#include "tests/engine/tracker_writer.h"

#define SKIPPED    77
#define ROUNDS     8
#define TURNS_MAX  1500 /* 30 s */
#define HUGE_PAGES 32   /* that the tests may need at once */

struct bench {
    enum gw_tracker_kind kind;
    int fd;
    uint64_t page_count, page_size, size;
    unsigned char *ram;  /* the file, as the tracker's owner sees it */
    unsigned char *copy; /* what the other host would hold */
    struct writer writer;
    struct gw_tracker *tracker;
    struct gw_bitmap dirty;
};

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("  %s:%d: ", __FILE__, __LINE__);                                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

/* Holes are not read: a mapped read would make pages of them. */
static bool is_data(const struct bench *bench, uint64_t page)
{
    off_t data = lseek(bench->fd, (off_t)(page * bench->page_size), SEEK_DATA);

    return data >= 0 && (uint64_t)data < (page + 1) * bench->page_size;
}

static void copy_page(struct bench *bench, uint64_t page)
{
    unsigned char *to = bench->copy + page * bench->page_size;

    if (!is_data(bench, page)) {
        memset(to, 0, bench->page_size);
        gw_tracker_copied(bench->tracker, page * bench->page_size, NULL, bench->page_size);
        return;
    }
    memcpy(to, bench->ram + page * bench->page_size, bench->page_size);
    gw_tracker_copied(bench->tracker, page * bench->page_size, to, bench->page_size);
}

static void copy_dirty(struct bench *bench)
{
    uint64_t first, count, from = 0;

    while (gw_bitmap_next_run(&bench->dirty, from, &first, &count)) {
        for (uint64_t page = first; page < first + count; page++)
            copy_page(bench, page);
        from = first + count;
    }
}

/* Collects, with the writer's second thread stopped around it when it runs and the tracker says so.
 */
static int collect(struct bench *bench, bool is_live)
{
    bool stops = is_live && gw_tracker_needs_stop(bench->tracker);
    int error;

    gw_bitmap_clear_all(&bench->dirty);
    if (stops)
        writer_do(&bench->writer, WRITER_STOP, 0, 0);
    error = gw_tracker_collect(bench->tracker, &bench->dirty);
    if (stops)
        writer_do(&bench->writer, WRITER_START, 0, bench->page_count);
    return error;
}

static bool begin(struct bench *bench)
{
    struct gw_tracker_options options = {.kind = bench->kind,
                                         .ram_fd = bench->fd,
                                         .ram = bench->ram,
                                         .size = bench->size,
                                         .page_size = bench->page_size,
                                         .vmm_pid = bench->writer.pid};
    int error = gw_tracker_open(&options, &bench->tracker);

    CHECK(error == 0, "open: %s", gw_error_message());
    CHECK(gw_tracker_kind_of(bench->tracker) == bench->kind, "another kind was opened");
    error = gw_tracker_arm(bench->tracker);
    CHECK(error == 0, "arm: %s", gw_error_message());
    for (uint64_t page = 0; page < bench->page_count; page++)
        copy_page(bench, page);
    return true;
}

/* The dirty pages are those, and only those, of up to two ranges. */
static bool expect_ranges(struct bench *bench, const uint64_t ranges[4])
{
    int error = collect(bench, false);

    CHECK(error == 0, "collect: %s", gw_error_message());
    for (uint64_t page = 0; page < bench->page_count; page++) {
        bool expected = (page >= ranges[0] && page < ranges[0] + ranges[1]) ||
                        (page >= ranges[2] && page < ranges[2] + ranges[3]);

        CHECK(gw_bitmap_test(&bench->dirty, page) == expected, "page %llu is %sreported",
              (unsigned long long)page, expected ? "not " : "");
    }
    copy_dirty(bench);
    return true;
}

#define EXPECT(bench, ...)                                                                         \
    do {                                                                                           \
        if (!expect_ranges(bench, (const uint64_t[4]){__VA_ARGS__})) {                             \
            printf("  called at line %d\n", __LINE__);                                             \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

static bool nothing_written_is_nothing_reported(struct bench *bench)
{
    EXPECT(bench, 0);
    writer_do(&bench->writer, WRITER_READ, 0, bench->page_count);
    EXPECT(bench, 0);
    return true;
}

static bool processor_writes(struct bench *bench)
{
    writer_do(&bench->writer, WRITER_WRITE, 2, 3);
    writer_do(&bench->writer, WRITER_WRITE, bench->page_count - 1, 1);
    EXPECT(bench, 2, 3, bench->page_count - 1, 1);
    EXPECT(bench, 0);
    writer_do(&bench->writer, WRITER_WRITE, 3, 1);
    EXPECT(bench, 3, 1);
    return true;
}

static bool kernel_writes(struct bench *bench)
{
    writer_do(&bench->writer, WRITER_KERNEL_WRITE, 1, 2);
    EXPECT(bench, 1, 2);
    EXPECT(bench, 0);
    return true;
}

static bool write_then_zap(struct bench *bench)
{
    uint64_t in_hole = bench->page_count / 2 + 1;

    /* In the page table before the write, and in a hole of the file, where no page was. */
    writer_do(&bench->writer, WRITER_READ, 4, 2);
    EXPECT(bench, 0);
    writer_do(&bench->writer, WRITER_WRITE_ZAP, 4, 2);
    writer_do(&bench->writer, WRITER_WRITE_ZAP, in_hole, 1);
    EXPECT(bench, 4, 2, in_hole, 1);
    EXPECT(bench, 0);
    return true;
}

/* Data that is in no page table before and after the write: beyond soft-dirty bits. */
static bool write_then_zap_of_unmapped_data(struct bench *bench)
{
    if (bench->kind == GW_TRACKER_SOFTDIRTY)
        return true;
    writer_do(&bench->writer, WRITER_WRITE_ZAP, 2, 2);
    EXPECT(bench, 2, 2);
    EXPECT(bench, 0);
    return true;
}

static bool write_then_punch(struct bench *bench)
{
    writer_do(&bench->writer, WRITER_WRITE, 1, 1);
    writer_do(&bench->writer, WRITER_WRITE, 4, 1);
    EXPECT(bench, 1, 1, 4, 1);
    writer_do(&bench->writer, WRITER_WRITE, 1, 1);
    writer_do(&bench->writer, WRITER_PUNCH, 1, 1);
    EXPECT(bench, 1, 1);
    writer_do(&bench->writer, WRITER_WRITE, 1, 1);
    EXPECT(bench, 1, 1);
    return true;
}

/* After a mapping was replaced, its pages are reported whether written or not. */
static bool remapped(struct bench *bench)
{
    writer_do(&bench->writer, WRITER_REMAP, 2, 4);
    CHECK(collect(bench, false) == 0, "collect: %s", gw_error_message());
    for (uint64_t page = 2; page < 6; page++)
        CHECK(gw_bitmap_test(&bench->dirty, page), "page %llu is lost", (unsigned long long)page);
    copy_dirty(bench);
    EXPECT(bench, 0);
    writer_do(&bench->writer, WRITER_WRITE, 4, 3);
    EXPECT(bench, 4, 3);
    return true;
}

static bool is_equal(const struct bench *bench)
{
    for (uint64_t page = 0; page < bench->page_count; page++) {
        const unsigned char *copy = bench->copy + page * bench->page_size;

        if (is_data(bench, page)
                ? memcmp(copy, bench->ram + page * bench->page_size, bench->page_size) != 0
                : !gw_memory_is_zero(copy, bench->page_size))
            return false;
    }
    return true;
}

/* Rounds against a writer that never rests; then it stops, and the last round makes the copy equal.
 */
static bool copy_while_written(struct bench *bench)
{
    bool was_different = false;

    writer_do(&bench->writer, WRITER_START, 0, bench->page_count);
    for (int round = 0; round < ROUNDS; round++) {
        int turns = TURNS_MAX; /* on a busy machine the writer may have to wait for its own */

        do {
            usleep(20000);
            CHECK(collect(bench, true) == 0, "collect: %s", gw_error_message());
        } while (gw_bitmap_count(&bench->dirty) == 0 && --turns > 0);
        CHECK(gw_bitmap_count(&bench->dirty) > 0, "nothing dirty in round %d", round);
        copy_dirty(bench);
    }
    for (int turn = 0; turn < TURNS_MAX && is_equal(bench); turn++)
        usleep(5000);
    writer_do(&bench->writer, WRITER_STOP, 0, 0);
    was_different = !is_equal(bench);
    CHECK(collect(bench, false) == 0, "collect: %s", gw_error_message());
    copy_dirty(bench);
    CHECK(was_different, "the copy was equal without the last round: this test proves nothing");
    CHECK(is_equal(bench), "the copy differs from the RAM file");
    EXPECT(bench, 0);
    return true;
}

static bool second_mapper_from_the_start(struct bench *bench, struct writer *other)
{
    writer_do(other, WRITER_WRITE, 1, 2);
    writer_do(&bench->writer, WRITER_WRITE, 5, 1);
    EXPECT(bench, 1, 2, 5, 1);
    writer_do(other, WRITER_WRITE, 5, 1);
    EXPECT(bench, 5, 1);
    return true;
}

static bool second_mapper(struct bench *bench)
{
    struct writer other;
    bool is_good;

    gw_tracker_close(bench->tracker);
    writer_start(&other, bench->fd, bench->page_count, bench->page_size, true);
    is_good = begin(bench) && second_mapper_from_the_start(bench, &other);
    writer_end(&other);
    return is_good;
}

static bool late_mapper(struct bench *bench)
{
    struct writer other;
    bool is_good;

    EXPECT(bench, 0);
    writer_start(&other, bench->fd, bench->page_count, bench->page_size, true);
    writer_do(&other, WRITER_WRITE, 1, 2);
    is_good = collect(bench, false) == 0;
    if (!is_good)
        printf("  collect: %s\n", gw_error_message());
    is_good = is_good && gw_bitmap_test(&bench->dirty, 1) && gw_bitmap_test(&bench->dirty, 2);
    copy_dirty(bench);
    is_good = is_good && is_equal(bench) && second_mapper_from_the_start(bench, &other);
    writer_do(&other, WRITER_WRITE, 6, 1);
    writer_end(&other);
    CHECK(is_good, "the late mapper's writes were not seen");
    CHECK(collect(bench, false) == 0, "collect: %s", gw_error_message());
    CHECK(gw_bitmap_test(&bench->dirty, 6), "what a process wrote before its end is lost");
    copy_dirty(bench);
    CHECK(is_equal(bench), "the copy differs from the RAM file");
    EXPECT(bench, 0);
    return true;
}

/* In the pause only those are collected from that are known; the check behind it finds the others. */
static bool last_moment_mapper_is_refused(struct bench *bench)
{
    struct writer other;
    char expected[64];
    int error, wanted = bench->kind == GW_TRACKER_COMPARE ? 0 : -EBUSY;
    bool is_named;

    EXPECT(bench, 0);
    gw_tracker_hasten(bench->tracker);
    writer_do(&bench->writer, WRITER_WRITE, 1, 2);
    EXPECT(bench, 1, 2);
    CHECK(gw_tracker_check(bench->tracker) == 0, "check: %s", gw_error_message());
    writer_start(&other, bench->fd, bench->page_count, bench->page_size, true);
    snprintf(expected, sizeof(expected), "process %d (writer)", (int)other.pid);
    error = gw_tracker_check(bench->tracker);
    is_named = strstr(gw_error_message(), expected) != NULL;
    writer_end(&other);
    CHECK(error == wanted, "check returned %d", error);
    CHECK(is_named || !wanted, "the message does not name it: %s", gw_error_message());
    return true;
}

static bool reader_is_no_matter(struct bench *bench)
{
    struct writer reader;

    writer_start(&reader, bench->fd, bench->page_count, bench->page_size, false);
    writer_do(&reader, WRITER_READ, 0, bench->page_count / 2);
    EXPECT(bench, 0);
    writer_do(&bench->writer, WRITER_WRITE, 3, 2);
    EXPECT(bench, 3, 2);
    writer_end(&reader);
    return true;
}

/* A process that a debugger holds cannot be given a userfaultfd. */
static bool untrackable_mapper_is_refused(struct bench *bench)
{
    struct writer other;
    char expected[64];
    int error;
    bool is_named;

    if (bench->kind != GW_TRACKER_UFFD)
        return true;
    writer_start(&other, bench->fd, bench->page_count, bench->page_size, true);
    snprintf(expected, sizeof(expected), "process %d (writer)", (int)other.pid);
    if (ptrace(PTRACE_SEIZE, other.pid, 0, 0) < 0) {
        writer_end(&other);
        CHECK(false, "the other process cannot be traced by the test itself");
    }
    error = collect(bench, false);
    is_named = strstr(gw_error_message(), expected) != NULL;
    writer_end(&other);
    CHECK(error == -EBUSY, "collect returned %d", error);
    CHECK(is_named, "'%s' does not name %s", gw_error_message(), expected);
    return true;
}

/* Whether the kernel says that a mapping of the process is watched (VmFlags: uw). */
static bool is_watched(pid_t pid)
{
    char path[64], line[512];
    bool found = false;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file))
        found |= strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " uw") != NULL;
    if (file)
        fclose(file);
    return found;
}

static bool close_leaves_nothing(struct bench *bench)
{
    unsigned before = count_descriptors(bench->writer.pid);

    if (bench->kind == GW_TRACKER_UFFD)
        CHECK(is_watched(bench->writer.pid), "the kernel does not show the watch: no test");
    gw_tracker_close(bench->tracker);
    bench->tracker = NULL;
    CHECK(!is_watched(bench->writer.pid), "a mapping is still watched");
    CHECK(begin(bench), "not to be opened again");
    CHECK(count_descriptors(bench->writer.pid) == before, "descriptors were left in the process");
    writer_do(&bench->writer, WRITER_WRITE, 1, 1);
    EXPECT(bench, 1, 1);
    return true;
}

static bool end_of_the_process_is_told(struct bench *bench)
{
    int error;

    if (bench->kind == GW_TRACKER_COMPARE)
        return true;
    kill(bench->writer.pid, SIGKILL);
    waitpid(bench->writer.pid, NULL, 0);
    error = collect(bench, false);
    CHECK(error == -ESRCH, "collect returned %d", error);
    return true;
}

static const struct test {
    const char *name;
    bool (*run)(struct bench *bench);
} tests[] = {
    {"nothing_written_is_nothing_reported", nothing_written_is_nothing_reported},
    {"processor_writes", processor_writes},
    {"kernel_writes", kernel_writes},
    {"write_then_zap", write_then_zap},
    {"write_then_zap_of_unmapped_data", write_then_zap_of_unmapped_data},
    {"write_then_punch", write_then_punch},
    {"remapped", remapped},
    {"copy_while_written", copy_while_written},
    {"second_mapper", second_mapper},
    {"late_mapper", late_mapper},
    {"last_moment_mapper_is_refused", last_moment_mapper_is_refused},
    {"reader_is_no_matter", reader_is_no_matter},
    {"untrackable_mapper_is_refused", untrackable_mapper_is_refused},
    {"close_leaves_nothing", close_leaves_nothing},
    {"end_of_the_process_is_told", end_of_the_process_is_told},
};

/* Half of the file is data when the tracker begins, the rest a hole. */
static int open_backing(struct bench *bench, const char *backing)
{
    if (strcmp(backing, "hugetlbfs") == 0) {
        bench->page_size = 2u << 20;
        bench->page_count = 8;
        bench->fd = memfd_create("godwit-tracker", MFD_CLOEXEC | MFD_HUGETLB);
    } else if (strcmp(backing, "tmpfs") == 0) {
        bench->fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    } else {
        bench->fd = memfd_create("godwit-tracker", MFD_CLOEXEC);
    }
    bench->size = bench->page_count * bench->page_size;
    if (bench->fd < 0 || ftruncate(bench->fd, (off_t)bench->size) < 0)
        return -errno;
    bench->ram = mmap(NULL, bench->size, PROT_READ | PROT_WRITE, MAP_SHARED, bench->fd, 0);
    if (bench->ram == MAP_FAILED)
        return -errno;
    /* A writer is forked from here, and must not have this mapping as well. */
    madvise(bench->ram, bench->size, MADV_DONTFORK);
    memset(bench->ram, 0x5a, bench->size / 2);
    return 0;
}

static bool run_test(const struct test *test, const struct bench *options, const char *backing)
{
    struct bench bench = *options;
    bool is_good;
    int error = open_backing(&bench, backing);

    bench.copy = error ? NULL : calloc(1, bench.size);
    if (error || !bench.copy || gw_bitmap_init(&bench.dirty, bench.page_count)) {
        printf("  no memory: %s\n", strerror(-error));
        return false;
    }
    writer_start(&bench.writer, bench.fd, bench.page_count, bench.page_size, true);
    is_good = begin(&bench) && test->run(&bench);
    gw_tracker_close(bench.tracker);
    writer_end(&bench.writer);
    gw_bitmap_free(&bench.dirty);
    free(bench.copy);
    munmap(bench.ram, bench.size);
    close(bench.fd);
    return is_good;
}

/* Waits for others of this program that have allowed huge pages, and will forbid them again: until this
 * process ends. */
static void take_turns(void)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || flock(fd, LOCK_EX))
        printf("  nobody waits: %s\n", strerror(errno));
}

/* Lets the kernel make huge pages when they are needed; returns what it allowed before, or -1. */
static long allow_huge_pages(long count)
{
    FILE *file = fopen("/proc/sys/vm/nr_overcommit_hugepages", "r+e");
    long before = -1;

    if (!file)
        return -1;
    if (fscanf(file, "%ld", &before) == 1 && (count == 0 || before < count)) {
        rewind(file);
        fprintf(file, "%ld\n", count);
    }
    fclose(file);
    return before;
}

static bool backing_is_there(const struct bench *options, const char *backing)
{
    struct bench bench = *options;
    int error = open_backing(&bench, backing);

    if (error) {
        printf("skipped: no %s here: %s\n", backing, strerror(-error));
        return false;
    }
    munmap(bench.ram, bench.size);
    close(bench.fd);
    return true;
}

/* The kernel keeps no soft-dirty bits of huge pages, so the tracker must not begin. */
static bool is_refused(const struct bench *options, const char *backing)
{
    struct bench bench = *options;
    struct gw_tracker_options request;
    int error;

    if (!backing_is_there(options, backing))
        return true;
    CHECK(open_backing(&bench, backing) == 0, "no memory");
    writer_start(&bench.writer, bench.fd, bench.page_count, bench.page_size, true);
    request = (struct gw_tracker_options){.kind = bench.kind,
                                          .ram_fd = bench.fd,
                                          .ram = bench.ram,
                                          .size = bench.size,
                                          .page_size = bench.page_size,
                                          .vmm_pid = bench.writer.pid};
    error = gw_tracker_open(&request, &bench.tracker);
    writer_end(&bench.writer);
    CHECK(error == -ENOTSUP, "open returned %d", error);
    printf("ok refused: %s\n", gw_error_message());
    return true;
}

static int run_tests(const struct bench *options, const char *backing)
{
    int failures = 0;

    if (!backing_is_there(options, backing))
        return SKIPPED;
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        bool is_good = run_test(&tests[i], options, backing);

        printf("%s %s\n", is_good ? "ok" : "not ok", tests[i].name);
        failures += !is_good;
    }
    printf("%s on %s: %d of %zu failed\n", gw_tracker_name(options->kind), backing, failures,
           sizeof(tests) / sizeof(tests[0]));
    return failures ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"kind", required_argument, NULL, 'k'}, {"backing", required_argument, NULL, 'b'}, {0}};
    struct bench options = {.kind = GW_TRACKER_UFFD, .page_count = 1024, .page_size = 4096};
    const char *backing = "memfd";
    int option, result;
    long huge_pages = -1;

    setvbuf(stdout, NULL, _IOLBF, 0);
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == 'b')
            backing = optarg;
        else if (option != 'k' || gw_tracker_kind_parse(optarg, &options.kind))
            return 2;
    }
    if (gw_tracker_probe(options.kind)) {
        printf("skipped: %s: %s\n", gw_tracker_name(options.kind), gw_error_message());
        return SKIPPED;
    }
    if (strcmp(backing, "hugetlbfs") == 0) {
        take_turns();
        huge_pages = allow_huge_pages(HUGE_PAGES);
    }
    if (options.kind == GW_TRACKER_SOFTDIRTY && strcmp(backing, "hugetlbfs") == 0)
        result = is_refused(&options, backing) ? 0 : 1;
    else
        result = run_tests(&options, backing);
    if (huge_pages == 0)
        allow_huge_pages(0);
    return result;
}
