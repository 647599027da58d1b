/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trackers against a real guest: QEMU runs the boot sector of tracker_guest.S, its RAM is copied in
 * rounds while it writes, it is stopped, the last round is copied, and the copy must equal the RAM
 * file byte by byte. Before the last round it must not: a guest that wrote nothing would prove
 * nothing.
 *
 * tracker-qemu --kind uffd|softdirty|compare --guest IMAGE [--sandbox] [--accel tcg|kvm]
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/bitmap.h"
#include "common/bytes.h"
#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/inject.h"
#include "engine/vmm/tracker.h"
#include "tests/descriptors.h"
#include "tests/engine/tracker_writer.h"

#define SKIPPED     77
#define RAM_SIZE    (64u << 20)
#define PAGE_SIZE   4096u
#define FIRST_PAGE  256u /* of the guest's own pages, see tracker_guest.S */
#define GUEST_PAGES 8192u
#define GUEST_MAGIC 0x60d317a5u
#define UNUSED_PAGE 12000u /* and those behind it: the guest never comes there */
#define CYCLES      3
#define ROUNDS      6
#define INJECTIONS  200
#define START_MS    60000
#define QEMU        "qemu-system-x86_64"

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("  %s:%d: ", __FILE__, __LINE__);                                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

struct machine {
    enum gw_tracker_kind kind;
    const char *guest_image;
    const char *accelerator;
    bool is_sandboxed;
    char folder[64];
    char ram_path[96], serial_path[96], qmp_path[96];
    pid_t pid;
    int qmp;
    int ram_fd;
    unsigned char *ram;
    unsigned char *copy;
    struct gw_tracker *tracker;
    struct gw_bitmap dirty;
};

static void exec_qemu(const struct machine *machine)
{
    char memory[256], serial[128], drive[512], qmp[160];
    const char *arguments[40] = {QEMU};
    const char *const fixed[] = {"-accel",
                                 machine->accelerator,
                                 "-m",
                                 "64",
                                 "-machine",
                                 "pc,memory-backend=ram0",
                                 "-object",
                                 memory,
                                 "-nodefaults",
                                 "-display",
                                 "none",
                                 "-serial",
                                 serial,
                                 "-drive",
                                 drive,
                                 "-qmp",
                                 qmp};
    size_t count = 1;

    snprintf(memory, sizeof(memory), "memory-backend-file,id=ram0,size=64M,mem-path=%s,share=on",
             machine->ram_path);
    snprintf(serial, sizeof(serial), "file:%s", machine->serial_path);
    snprintf(drive, sizeof(drive), "if=floppy,format=raw,readonly=on,file=%s",
             machine->guest_image);
    snprintf(qmp, sizeof(qmp), "unix:%s,server=on,wait=off", machine->qmp_path);
    for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        arguments[count++] = fixed[i];
    if (machine->is_sandboxed) {
        arguments[count++] = "-sandbox";
        arguments[count++] = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                             "resourcecontrol=deny";
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(QEMU, (char *const *)(uintptr_t)arguments);
    _exit(127);
}

/* Sends a command to QEMU's monitor and waits for its return. */
static bool monitor(const struct machine *machine, const char *command)
{
    char text[160], line[4096];
    size_t held = 0;

    snprintf(text, sizeof(text), "{\"execute\":\"%s\"}\n", command);
    if (send(machine->qmp, text, strlen(text), MSG_NOSIGNAL) < 0)
        return false;
    for (;;) {
        ssize_t got = recv(machine->qmp, line + held, 1, 0);

        if (got <= 0)
            return false;
        if (line[held] != '\n' && held + 2 < sizeof(line)) {
            held++;
            continue;
        }
        line[held] = '\0';
        held = 0;
        if (strstr(line, "\"return\""))
            return true;
        if (strstr(line, "\"error\""))
            return false;
    }
}

static bool connect_monitor(struct machine *machine)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t begin = gw_clock_ns();

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", machine->qmp_path);
    machine->qmp = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(machine->qmp, (struct sockaddr *)&address, sizeof(address)) < 0) {
        if (gw_clock_ns() - begin > START_MS * GW_NS_PER_MS ||
            waitpid(machine->pid, NULL, WNOHANG) != 0)
            return false;
        usleep(20000);
    }
    return monitor(machine, "qmp_capabilities");
}

/* How much the guest has said; -1 when it found one of its pages wrong. */
static long guest_progress(const struct machine *machine)
{
    static char text[1 << 20];
    int fd = open(machine->serial_path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof(text));

    if (fd >= 0)
        close(fd);
    if (got > 0 && memchr(text, 'X', (size_t)got))
        return -1;
    return got;
}

static bool wait_progress(const struct machine *machine, long beyond)
{
    uint64_t begin = gw_clock_ns();
    long now;

    while ((now = guest_progress(machine)) <= beyond) {
        CHECK(now >= 0, "the guest found one of its pages wrong");
        CHECK(gw_clock_ns() - begin < START_MS * GW_NS_PER_MS, "the guest says nothing any more");
        usleep(10000);
    }
    return true;
}

static bool start(struct machine *machine)
{
    struct stat status;

    snprintf(machine->folder, sizeof(machine->folder), "/dev/shm/godwit-tracker-XXXXXX");
    CHECK(mkdtemp(machine->folder), "no folder: %s", strerror(errno));
    snprintf(machine->ram_path, sizeof(machine->ram_path), "%s/ram", machine->folder);
    snprintf(machine->serial_path, sizeof(machine->serial_path), "%s/serial", machine->folder);
    snprintf(machine->qmp_path, sizeof(machine->qmp_path), "%s/qmp", machine->folder);
    machine->pid = fork();
    if (machine->pid == 0)
        exec_qemu(machine);
    CHECK(connect_monitor(machine), QEMU " did not start");
    CHECK(wait_progress(machine, 4), "the guest did not start");
    machine->ram_fd = open(machine->ram_path, O_RDONLY | O_CLOEXEC);
    CHECK(machine->ram_fd >= 0 && fstat(machine->ram_fd, &status) == 0 &&
              status.st_size == RAM_SIZE,
          "the RAM file is not as expected");
    machine->ram = mmap(NULL, RAM_SIZE, PROT_READ, MAP_SHARED, machine->ram_fd, 0);
    madvise(machine->ram, RAM_SIZE, MADV_DONTFORK);
    machine->copy = calloc(1, RAM_SIZE);
    CHECK(machine->ram != MAP_FAILED && machine->copy, "no memory");
    return gw_bitmap_init(&machine->dirty, RAM_SIZE / PAGE_SIZE) == 0;
}

static void stop(struct machine *machine)
{
    gw_tracker_close(machine->tracker);
    if (machine->pid > 0) {
        kill(machine->pid, SIGKILL);
        waitpid(machine->pid, NULL, 0);
    }
    unlink(machine->ram_path);
    unlink(machine->serial_path);
    unlink(machine->qmp_path);
    rmdir(machine->folder);
    gw_bitmap_free(&machine->dirty);
    free(machine->copy);
}

static void copy_page(struct machine *machine, uint64_t page)
{
    unsigned char *to = machine->copy + page * PAGE_SIZE;

    memcpy(to, machine->ram + page * PAGE_SIZE, PAGE_SIZE);
    gw_tracker_copied(machine->tracker, page * PAGE_SIZE, to, PAGE_SIZE);
}

static void copy_dirty(struct machine *machine)
{
    uint64_t first, count, from = 0;

    while (gw_bitmap_next_run(&machine->dirty, from, &first, &count)) {
        for (uint64_t page = first; page < first + count; page++)
            copy_page(machine, page);
        from = first + count;
    }
}

static bool collect(struct machine *machine, bool is_running)
{
    bool stops = is_running && gw_tracker_needs_stop(machine->tracker);
    uint64_t begin;
    int error;

    gw_bitmap_clear_all(&machine->dirty);
    CHECK(!stops || monitor(machine, "stop"), "stop");
    begin = gw_clock_ns();
    error = gw_tracker_collect(machine->tracker, &machine->dirty);
    printf("  collect: %llu pages in %llu us\n",
           (unsigned long long)gw_bitmap_count(&machine->dirty),
           (unsigned long long)((gw_clock_ns() - begin) / 1000));
    CHECK(!stops || monitor(machine, "cont"), "cont");
    CHECK(error == 0, "collect: %s", gw_error_message());
    return true;
}

static bool open_tracker(struct machine *machine)
{
    struct gw_tracker_options options = {.kind = machine->kind,
                                         .ram_fd = machine->ram_fd,
                                         .ram = machine->ram,
                                         .size = RAM_SIZE,
                                         .page_size = PAGE_SIZE,
                                         .vmm_pid = machine->pid};
    uint64_t begin = gw_clock_ns();

    CHECK(gw_tracker_open(&options, &machine->tracker) == 0, "open: %s", gw_error_message());
    CHECK(gw_tracker_arm(machine->tracker) == 0, "arm: %s", gw_error_message());
    printf("  open and arm in %llu us\n", (unsigned long long)((gw_clock_ns() - begin) / 1000));
    return true;
}

/* What the guest itself promises of its pages holds in the copy: each has its signature, and both
 * counters agree but for the one page that it was stopped in. */
static bool copy_is_as_the_guest_wrote_it(const struct machine *machine)
{
    unsigned between = 0;

    for (uint32_t i = 0; i < GUEST_PAGES; i++) {
        const unsigned char *page = machine->copy + (FIRST_PAGE + i) * (uint64_t)PAGE_SIZE;

        CHECK(gw_get_le32(page) == (i ^ GUEST_MAGIC), "page %u has no signature", i);
        between += gw_get_le32(page + 4) != gw_get_le32(page + PAGE_SIZE - 4);
    }
    CHECK(between <= 1, "%u pages are torn", between);
    return true;
}

static bool copy_while_it_runs(struct machine *machine)
{
    bool was_equal;

    if (!open_tracker(machine))
        return false;
    for (uint64_t page = 0; page < RAM_SIZE / PAGE_SIZE; page++)
        copy_page(machine, page);
    for (int round = 0; round < ROUNDS; round++) {
        long said = guest_progress(machine);

        CHECK(wait_progress(machine, said), "no progress");
        if (!collect(machine, true))
            return false;
        copy_dirty(machine);
    }
    CHECK(wait_progress(machine, guest_progress(machine)), "no progress");
    CHECK(monitor(machine, "stop"), "the guest cannot be stopped");
    was_equal = memcmp(machine->ram, machine->copy, RAM_SIZE) == 0;
    if (!collect(machine, false))
        return false;
    /* The guest itself may have come to all of its own, where nobody looked for a while. */
    CHECK(!gw_bitmap_test(&machine->dirty, UNUSED_PAGE),
          "everything is reported: that is no tracking");
    copy_dirty(machine);
    CHECK(!was_equal, "the copy was equal without the last round: this proves nothing");
    CHECK(memcmp(machine->ram, machine->copy, RAM_SIZE) == 0, "the copy differs from the RAM");
    CHECK(copy_is_as_the_guest_wrote_it(machine), "the copy is not what the guest wrote");
    CHECK(monitor(machine, "cont"), "the guest cannot be continued");
    gw_tracker_close(machine->tracker);
    machine->tracker = NULL;
    return wait_progress(machine, guest_progress(machine));
}

/* A back end beside QEMU, which appears while the tracker is at work and writes where the guest
 * does not. The guest is stopped, so that only its writes are new. */
static bool back_end_is_tracked_too(struct machine *machine)
{
    int fd = open(machine->ram_path, O_RDWR | O_CLOEXEC);
    struct writer back_end;
    bool was_seen_late, was_seen_alone = false;

    if (fd < 0 || !open_tracker(machine) || !monitor(machine, "stop"))
        return false;
    writer_start(&back_end, fd, RAM_SIZE / PAGE_SIZE, PAGE_SIZE, true);
    writer_do(&back_end, WRITER_WRITE, UNUSED_PAGE, 2);
    was_seen_late = collect(machine, false) && gw_bitmap_test(&machine->dirty, UNUSED_PAGE) &&
                    gw_bitmap_test(&machine->dirty, UNUSED_PAGE + 1);
    copy_dirty(machine);
    writer_do(&back_end, WRITER_WRITE, UNUSED_PAGE + 5, 1);
    was_seen_alone = collect(machine, false) && gw_bitmap_test(&machine->dirty, UNUSED_PAGE + 5) &&
                     gw_bitmap_count(&machine->dirty) < GUEST_PAGES;
    writer_end(&back_end);
    close(fd);
    gw_tracker_close(machine->tracker);
    machine->tracker = NULL;
    CHECK(was_seen_late, "what the back end wrote before it was found is lost");
    CHECK(was_seen_alone, "what the back end wrote after it was found is lost");
    CHECK(monitor(machine, "cont"), "cont");
    return wait_progress(machine, guest_progress(machine));
}

static bool injections_harm_nothing(struct machine *machine)
{
    int pidfd = (int)syscall(SYS_pidfd_open, machine->pid, 0);
    unsigned before = count_descriptors(machine->pid);
    uint64_t begin = gw_clock_ns();

    for (int i = 0; i < INJECTIONS; i++) {
        int fd, error = gw_inject_userfaultfd(machine->pid, pidfd, &fd);

        CHECK(error == 0, "injection: %s", gw_error_message());
        close(fd);
        if (i % 20 == 0)
            CHECK(monitor(machine, "query-status"), "the monitor does not answer");
    }
    printf("  %d injections, %llu us each\n", INJECTIONS,
           (unsigned long long)((gw_clock_ns() - begin) / 1000 / INJECTIONS));
    close(pidfd);
    CHECK(count_descriptors(machine->pid) == before, "descriptors were left in QEMU");
    CHECK(monitor(machine, "query-status"), "the monitor does not answer");
    return wait_progress(machine, guest_progress(machine));
}

static bool run(struct machine *machine)
{
    if (!start(machine))
        return false;
    for (int cycle = 0; cycle < CYCLES; cycle++)
        if (!copy_while_it_runs(machine))
            return false;
    if (!back_end_is_tracked_too(machine))
        return false;
    if (machine->kind == GW_TRACKER_UFFD && !injections_harm_nothing(machine))
        return false;
    return true;
}

static bool means_are_there(const struct machine *machine)
{
    if (system("command -v " QEMU " >/dev/null") != 0) {
        printf("skipped: no " QEMU "\n");
        return false;
    }
    if (gw_tracker_probe(machine->kind)) {
        printf("skipped: %s: %s\n", gw_tracker_name(machine->kind), gw_error_message());
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {{"kind", required_argument, NULL, 'k'},
                                                 {"guest", required_argument, NULL, 'g'},
                                                 {"accel", required_argument, NULL, 'a'},
                                                 {"sandbox", no_argument, NULL, 's'},
                                                 {0}};
    struct machine machine = {.kind = GW_TRACKER_UFFD, .accelerator = "tcg"};
    int option;
    bool is_good;

    setvbuf(stdout, NULL, _IOLBF, 0);
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == 'k' && gw_tracker_kind_parse(optarg, &machine.kind) == 0)
            continue;
        if (option == 'g')
            machine.guest_image = optarg;
        else if (option == 'a')
            machine.accelerator = optarg;
        else if (option == 's')
            machine.is_sandboxed = true;
        else
            return 2;
    }
    if (!machine.guest_image)
        return 2;
    if (!means_are_there(&machine))
        return SKIPPED;
    is_good = run(&machine);
    stop(&machine);
    printf("%s: %s\n", gw_tracker_name(machine.kind), is_good ? "ok" : "not ok");
    return is_good ? 0 : 1;
}
