/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks of a running QEMU: dirty maps against what qemu-io wrote, copies against qemu-img compare
 * (with the last round left out as the negative control), swaps out and back with every format and
 * cache.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/volume/nbd.h"
#include "tests/engine/qemu/move.h"

TestSuite(disks, .timeout = 180);

#define DISK_SIZE (64u << 20)

struct setting {
    char format[8], cache[12];
    int iothread, blockdev;
};

static struct setting settings[] = {
    {"raw", "writeback", 0, 0},  {"raw", "none", 1, 1},        {"raw", "writeback", 1, 0},
    {"vhdx", "writeback", 0, 0}, {"vhdx", "none", 1, 0},       {"vhdx", "writeback", 1, 1},
    {"vhdx", "none", 0, 1},      {"qcow2", "writeback", 0, 1}, {"qcow2", "none", 1, 0},
};

#define RAM "-m 32 -object memory-backend-file,id=ram0,size=32M,mem-path=@/ram,share=on "

static void start_disk_with(struct qemu *qemu, const struct setting *setting, const char *more)
{
    char line[1024], command[160];

    qemu_prepare(qemu);
    snprintf(command, sizeof(command), "qemu-img create -q -f %s @/disk 64M", setting->format);
    cr_assert_eq(shell(qemu->dir, command), 0);
    guest_write(qemu->dir, "boot.raw", 1 << 20);
    snprintf(line, sizeof(line),
             "-machine pc,memory-backend=ram0 -nodefaults -serial file:@/serial " RAM
             "-drive file=@/boot.raw,format=raw,if=none,id=boot -device virtio-blk-pci,drive=boot,"
             "bootindex=1 ");
    if (setting->blockdev)
        snprintf(line + strlen(line), sizeof(line) - strlen(line),
                 "-blockdev driver=file,filename=@/disk,node-name=file0,cache.direct=%s "
                 "-blockdev driver=%s,file=file0,node-name=disk0,cache.direct=%s ",
                 strcmp(setting->cache, "none") == 0 ? "on" : "off", setting->format,
                 strcmp(setting->cache, "none") == 0 ? "on" : "off");
    else
        snprintf(line + strlen(line), sizeof(line) - strlen(line),
                 "-drive file=@/disk,format=%s,if=none,id=disk0,cache=%s,discard=unmap ",
                 setting->format, setting->cache);
    snprintf(line + strlen(line), sizeof(line) - strlen(line),
             "-object iothread,id=io0 -device virtio-blk-pci,drive=disk0,id=vda%s %s",
             setting->iothread ? ",iothread=io0" : "", more);
    qemu_start(qemu, line);
}

static void start_disk(struct qemu *qemu, const struct setting *setting)
{
    start_disk_with(qemu, setting, "");
}

static struct gw_vm_disk *disk_of(struct gw_vm *vm)
{
    struct gw_vm_disk *disk = gw_vm_find_disk(vm, "vda");

    cr_assert_not_null(disk);
    return disk;
}

/* Runs a qemu-io command on the device's own back end, through QEMU itself. The guest is stopped
 * around it: QEMU 7.2's qemu-io runs in the main thread, and aborts now and then on a VHDX that is
 * on a running iothread. */
static void io(struct qemu *qemu, const char *command)
{
    char line[200], path[96], *text;
    bool was_running;

    cr_assert_eq(gw_vm_stop(qemu->qmp, &was_running), 0, "%s", gw_error_message());

    snprintf(line, sizeof(line), "qemu-io -d /machine/peripheral/vda/virtio-backend \"%s\"",
             command);
    cr_assert_eq(gw_qmp_human(qemu->qmp, line, &text), 0, "%s", gw_error_message());
    cr_assert_str_empty(text, "%s: %s", line, text);
    free(text);
    if (was_running)
        cr_assert_eq(gw_vm_cont(qemu->qmp), 0, "%s", gw_error_message());
    /* What qemu-io says goes to QEMU's standard output. */
    snprintf(path, sizeof(path), "%s/log", qemu->dir);
    text = file_text(path);
    cr_assert(strstr(text, "verification failed") == NULL && strstr(text, "write failed") == NULL,
              "%s: %s", command, text);
    free(text);
}

static int open_tracker(struct gw_qmp *qmp, const struct gw_vm_disk *disk, unsigned index,
                        const char *dir, struct gw_disk_tracker **out)
{
    const struct gw_disk_tracker_options options = {.index = index, .socket_dir = dir};

    return gw_disk_tracker_open(qmp, disk, &options, out);
}

/* Exactly these granules, -1 at the end. */
static void expect_granules(struct gw_disk_tracker *tracker, const int *granules)
{
    struct gw_bitmap dirty;
    unsigned count = 0;

    cr_assert_eq(gw_bitmap_init(&dirty, gw_disk_granules(DISK_SIZE)), 0);
    cr_assert_eq(gw_disk_tracker_collect(tracker, &dirty), 0, "%s", gw_error_message());
    for (; granules[count] >= 0; count++)
        cr_expect(gw_bitmap_test(&dirty, (uint64_t)granules[count]), "granule %d", granules[count]);
    cr_expect_eq(gw_bitmap_count(&dirty), count);
    gw_bitmap_free(&dirty);
}

ParameterizedTestParameters(disks, tracker_tells_what_was_written)
{
    return cr_make_param_array(struct setting, settings, sizeof(settings) / sizeof(settings[0]));
}

ParameterizedTest(struct setting *setting, disks, tracker_tells_what_was_written)
{
    struct gw_disk_tracker *tracker;
    struct qemu qemu = {.pid = -1};
    struct gw_vm_disk *disk;
    struct gw_vm *vm;

    start_disk(&qemu, setting);
    vm = describe(&qemu);
    disk = disk_of(vm);
    cr_assert_eq(disk->is_direct, strcmp(setting->cache, "none") == 0);
    cr_assert_eq(disk->is_on_iothread, setting->iothread);
    io(&qemu, "write -P 1 10M 64k");
    cr_assert_eq(open_tracker(qemu.qmp, disk, 3, qemu.dir, &tracker), 0, "%s", gw_error_message());
    expect_granules(tracker, (int[]){-1});
    io(&qemu, "write -P 2 0 512");
    io(&qemu, "write -P 3 131071 2");
    io(&qemu, "write -z 67043328 65536");
    expect_granules(tracker, (int[]){0, 1, 2, 1023, -1});
    expect_granules(tracker, (int[]){-1});
    io(&qemu, "discard 20M 64k");
    /* A discard counts where it reaches the image. */
    expect_granules(tracker, disk->is_discard && strcmp(disk->format, "vhdx") != 0
                                 ? (int[]){320, -1}
                                 : (int[]){-1});
    gw_disk_tracker_close(tracker);
    /* Nothing is left behind: the same can be opened again. */
    cr_assert_eq(open_tracker(qemu.qmp, disk, 3, qemu.dir, &tracker), 0, "%s", gw_error_message());
    gw_disk_tracker_close(tracker);
    json_decref(qemu_run(&qemu, "query-status", NULL));
    gw_vm_free(vm);
    qemu_end(&qemu);
}

static int collect_for(void *context, struct gw_bitmap *dirty)
{
    return gw_disk_tracker_collect(context, dirty);
}

static void expect_exports(struct qemu *qemu, size_t count)
{
    json_t *exports = qemu_run(qemu, "query-block-exports", NULL);

    cr_expect_eq(json_array_size(exports), count);
    json_decref(exports);
}

/* A hole that is written to is no hole after the next collect, whatever was asked before. */
Test(disks, export_reads_what_was_written)
{
    struct setting setting = {"qcow2", "none", 0, 0};
    struct gw_disk_export exported = {0};
    struct gw_disk_tracker *tracker;
    struct gw_nbd_source_options options = {
        .name = "vda", .socket = exported.socket, .export = exported.id, .size = DISK_SIZE};
    struct gw_disk_dirty who = {.collect = collect_for};
    struct gw_source_volume *volume;
    struct qemu qemu = {.pid = -1};
    struct gw_extent extent;
    struct gw_bitmap dirty;
    uint8_t bytes[4096];
    struct gw_vm *vm;

    start_disk(&qemu, &setting);
    vm = describe(&qemu);
    cr_assert_eq(open_tracker(qemu.qmp, disk_of(vm), 3, qemu.dir, &tracker), 0, "%s",
                 gw_error_message());
    cr_assert_eq(gw_disk_export_open(qemu.qmp, disk_of(vm), 3, qemu.dir, &exported), 0, "%s",
                 gw_error_message());
    who.context = tracker;
    options.dirty = &who;
    cr_assert_eq(gw_nbd_source_open(&options, &volume), 0, "%s", gw_error_message());
    cr_assert_eq(gw_bitmap_init(&dirty, gw_disk_granules(DISK_SIZE)), 0);
    cr_assert_eq(volume->ops->next_extent(volume, 0, DISK_SIZE, &extent), 0, "%s",
                 gw_error_message());
    cr_assert(extent.kind == GW_EXTENT_ABSENT && extent.length == DISK_SIZE);
    io(&qemu, "write -P 5 10M 64k");
    cr_assert_eq(volume->ops->collect(volume, &dirty), 0, "%s", gw_error_message());
    cr_assert(gw_bitmap_test(&dirty, 160) && gw_bitmap_count(&dirty) == 1);
    cr_assert_eq(volume->ops->next_extent(volume, 10u << 20, DISK_SIZE, &extent), 0);
    cr_assert(extent.kind == GW_EXTENT_DATA && extent.length == 65536);
    cr_assert_eq(volume->ops->read(volume, 10u << 20, bytes, sizeof(bytes)), 0);
    cr_assert(bytes[0] == 5 && bytes[4095] == 5);
    expect_exports(&qemu, 1);
    cr_assert_eq(gw_disk_export_close(&exported), 0, "%s", gw_error_message());
    expect_exports(&qemu, 0);
    cr_assert_lt(volume->ops->read(volume, 10u << 20, bytes, sizeof(bytes)), 0);
    volume->ops->close(volume);
    /* What a process that died leaves is found by its name. */
    cr_assert_eq(gw_disk_export_open(qemu.qmp, disk_of(vm), 3, qemu.dir, &exported), 0, "%s",
                 gw_error_message());
    cr_assert_eq(gw_disk_tracker_clean(qemu.qmp, qemu.dir), 0, "%s", gw_error_message());
    expect_exports(&qemu, 0);
    gw_disk_tracker_close(tracker);
    disk_of(vm)->is_on_iothread = true;
    cr_assert_eq(gw_disk_export_open(qemu.qmp, disk_of(vm), 3, qemu.dir, &exported), -ENOTSUP);
    gw_bitmap_free(&dirty);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

struct settling {
    struct qemu *qemu;
    bool is_left_out;
};

static int settle(void *context)
{
    const struct settling *settling = context;
    bool was_running;
    int error;

    if (settling->is_left_out)
        return 0;
    error = gw_vm_stop(settling->qemu->qmp, &was_running);
    return error ? error : gw_vm_cont(settling->qemu->qmp);
}

static void expect_at(struct gw_source_volume *volume, uint64_t offset, enum gw_extent_kind kind,
                      uint8_t value)
{
    struct gw_extent extent;
    uint8_t bytes[4096];

    cr_assert_eq(volume->ops->next_extent(volume, offset, DISK_SIZE, &extent), 0, "%s",
                 gw_error_message());
    cr_expect_eq(extent.kind, kind, "at %llu", (unsigned long long)offset);
    cr_assert_eq(volume->ops->read(volume, offset, bytes, sizeof(bytes)), 0);
    cr_expect(bytes[0] == value && bytes[4095] == value, "at %llu", (unsigned long long)offset);
}

/* A disk on an iothread, whose export would abort QEMU: its image is read beside QEMU. What the
 * guest wrote last is still in QEMU's tables only, unless these are settled: left out, it is not
 * seen. The guest is held until then: firmware that finds the disk turns its write cache off, and
 * each write settles itself. */
Test(disks, image_beside_qemu_is_read_once_it_is_settled)
{
    struct setting setting = {"qcow2", "writeback", 1, 1};
    struct gw_disk_dirty who = {.collect = collect_for};
    struct qemu qemu = {.pid = -1};
    struct settling settling = {.qemu = &qemu, .is_left_out = true};
    struct gw_nbd_source_options options = {.name = "vda",
                                            .size = DISK_SIZE,
                                            .dirty = &who,
                                            .format = "qcow2",
                                            .settle = settle,
                                            .settle_context = &settling};
    struct gw_disk_tracker *tracker;
    struct gw_source_volume *volume;
    struct gw_bitmap dirty;
    struct gw_vm *vm;

    start_disk_with(&qemu, &setting, "-S");
    vm = describe(&qemu);
    options.path = disk_of(vm)->path;
    io(&qemu, "write -P 5 10M 64k");
    cr_assert_eq(open_tracker(qemu.qmp, disk_of(vm), 3, qemu.dir, &tracker), 0, "%s",
                 gw_error_message());
    who.context = tracker;
    cr_assert_eq(gw_nbd_source_open(&options, &volume), 0, "%s", gw_error_message());
    expect_at(volume, 10u << 20, GW_EXTENT_ABSENT, 0);
    volume->ops->close(volume);

    settling.is_left_out = false;
    cr_assert_eq(gw_nbd_source_open(&options, &volume), 0, "%s", gw_error_message());
    expect_at(volume, 10u << 20, GW_EXTENT_DATA, 5);
    io(&qemu, "write -P 6 20M 64k");
    cr_assert_eq(gw_bitmap_init(&dirty, gw_disk_granules(DISK_SIZE)), 0);
    cr_assert_eq(volume->ops->collect(volume, &dirty), 0, "%s", gw_error_message());
    cr_expect(gw_bitmap_test(&dirty, 320) && gw_bitmap_count(&dirty) == 1);
    expect_at(volume, 20u << 20, GW_EXTENT_DATA, 6);
    expect_at(volume, 10u << 20, GW_EXTENT_DATA, 5);
    volume->ops->close(volume);
    gw_disk_tracker_close(tracker);
    gw_bitmap_free(&dirty);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

/* Copies the granules that are set from the image, as qemu-img reads it beside QEMU, to copy. */
static void copy_granules(struct qemu *qemu, const struct setting *setting,
                          const struct gw_bitmap *dirty)
{
    static char buffer[GW_DISK_GRANULE];
    char command[300], path[160];
    int from, to;

    snprintf(command, sizeof(command), "qemu-img convert -U -f %s -O raw @/disk @/now.raw",
             setting->format);
    cr_assert_eq(shell(qemu->dir, command), 0);
    snprintf(path, sizeof(path), "%s/now.raw", qemu->dir);
    from = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof(path), "%s/copy.raw", qemu->dir);
    to = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    cr_assert_eq(ftruncate(to, DISK_SIZE), 0);
    for (uint64_t i = 0; i < dirty->bit_count; i++) {
        if (!gw_bitmap_test(dirty, i))
            continue;
        cr_assert_eq(pread(from, buffer, sizeof(buffer), (off_t)(i * GW_DISK_GRANULE)),
                     (ssize_t)sizeof(buffer));
        cr_assert_eq(pwrite(to, buffer, sizeof(buffer), (off_t)(i * GW_DISK_GRANULE)),
                     (ssize_t)sizeof(buffer));
    }
    close(from);
    close(to);
}

static bool copy_is_same(struct qemu *qemu, const struct setting *setting)
{
    char command[300];

    snprintf(command, sizeof(command), "qemu-img compare -U -q -f %s -F raw @/disk @/copy.raw",
             setting->format);
    return shell(qemu->dir, command) == 0;
}

static void write_some(struct qemu *qemu, int round)
{
    char command[80];

    for (int i = 0; i < 12; i++) {
        snprintf(command, sizeof(command), "write -P %d %dk %dk", round * 16 + i,
                 (round * 4931 + i * 5209) % 60000, 4 + i * 9);
        io(qemu, command);
    }
    io(qemu, "flush");
}

ParameterizedTestParameters(disks, rounds_make_a_true_copy)
{
    return cr_make_param_array(struct setting, settings, sizeof(settings) / sizeof(settings[0]));
}

ParameterizedTest(struct setting *setting, disks, rounds_make_a_true_copy)
{
    struct gw_disk_tracker *tracker;
    struct qemu qemu = {.pid = -1};
    struct gw_bitmap dirty;
    struct gw_vm_disk *disk;
    struct gw_vm *vm;

    start_disk(&qemu, setting);
    vm = describe(&qemu);
    disk = disk_of(vm);
    write_some(&qemu, 1);
    cr_assert_eq(open_tracker(qemu.qmp, disk, 0, qemu.dir, &tracker), 0, "%s", gw_error_message());
    cr_assert_eq(gw_bitmap_init(&dirty, gw_disk_granules(DISK_SIZE)), 0);
    gw_bitmap_set_range(&dirty, 0, dirty.bit_count);
    copy_granules(&qemu, setting, &dirty);
    for (int round = 2; round < 6; round++) {
        write_some(&qemu, round);
        cr_assert_not(copy_is_same(&qemu, setting), "the round before is not enough");
        gw_bitmap_clear_all(&dirty);
        cr_assert_eq(gw_disk_tracker_collect(tracker, &dirty), 0, "%s", gw_error_message());
        copy_granules(&qemu, setting, &dirty);
        cr_assert(copy_is_same(&qemu, setting));
    }
    gw_disk_tracker_close(tracker);
    gw_bitmap_free(&dirty);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

/* Does any process have the image open? QEMU is the only candidate. */
static bool is_open(struct qemu *qemu)
{
    char command[120];

    snprintf(command, sizeof(command), "ls -l /proc/%d/fd | grep -q @/disk", (int)qemu->pid);
    return shell(qemu->dir, command) == 0;
}

ParameterizedTestParameters(disks, swap_out_closes_and_undo_brings_back)
{
    return cr_make_param_array(struct setting, settings, sizeof(settings) / sizeof(settings[0]));
}

ParameterizedTest(struct setting *setting, disks, swap_out_closes_and_undo_brings_back)
{
    struct gw_disk_swap swap;
    struct qemu qemu = {.pid = -1};
    struct gw_vm_disk *disk, *again;
    struct gw_vm *vm, *after;
    json_t *undo = json_array(), *blocked;
    bool was_running;
    uint64_t begin;

    start_disk(&qemu, setting);
    vm = describe(&qemu);
    disk = disk_of(vm);
    io(&qemu, "write -P 7 1M 64k");
    cr_assert_eq(gw_disk_swap_prepare(disk, 0, &swap), 0, "%s", gw_error_message());
    cr_assert_eq(gw_disk_swap_undo(&swap, undo), 0);
    cr_assert_eq(gw_disk_swap_out(qemu.qmp, &swap), -EBUSY, "the guest runs");
    cr_assert_eq(gw_vm_stop(qemu.qmp, &was_running), 0, "%s", gw_error_message());
    begin = gw_clock_ns();
    cr_assert_eq(gw_disk_swap_out(qemu.qmp, &swap), 0, "%s", gw_error_message());
    cr_log_info("swap out %.1f ms", (double)(gw_clock_ns() - begin) / 1e6);
    cr_assert_not(is_open(&qemu));
    cr_assert_eq(gw_vm_blocked_reasons(qemu.qmp, &blocked), 0);
    cr_assert_eq(json_array_size(blocked), 0);
    json_decref(blocked);
    cr_assert_eq(gw_disk_undo_run(qemu.qmp, undo), 0, "%s", gw_error_message());
    cr_assert(is_open(&qemu));
    cr_assert_eq(gw_vm_cont(qemu.qmp), 0, "%s", gw_error_message());
    after = describe(&qemu);
    again = disk_of(after);
    cr_assert_eq(again->is_discard, disk->is_discard);
    cr_assert_eq(again->is_direct, disk->is_direct);
    cr_assert_str_eq(again->aio, disk->aio);
    cr_assert_str_eq(again->format, disk->format);
    cr_assert_str_eq(again->path, disk->path);
    if (setting->blockdev)
        cr_assert(strcmp(again->node, "disk0") == 0 && strcmp(again->file_node, "file0") == 0);
    io(&qemu, "read -P 7 1M 64k");
    io(&qemu, "write -P 8 2M 64k");
    /* Once more, now with the node that the swap back made. */
    gw_disk_swap_free(&swap);
    cr_assert_eq(gw_disk_swap_prepare(again, 0, &swap), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_stop(qemu.qmp, &was_running), 0);
    cr_assert_eq(gw_disk_swap_out(qemu.qmp, &swap), 0, "%s", gw_error_message());
    cr_assert_not(is_open(&qemu));
    cr_assert_eq(gw_disk_undo_run(qemu.qmp, undo), 0, "%s", gw_error_message());
    gw_disk_swap_free(&swap);
    json_decref(undo);
    gw_vm_free(vm);
    gw_vm_free(after);
    qemu_end(&qemu);
}

/* The undo list is run after each number of steps of a swap, and twice. */
Test(disks, undo_is_right_in_every_state)
{
    for (int steps = 0; steps <= 3; steps++) {
        for (int blockdev = 0; blockdev <= 1; blockdev++) {
            struct setting setting = {"vhdx", "writeback", 1, blockdev};
            struct qemu qemu = {.pid = -1};
            struct gw_disk_swap swap;
            json_t *undo = json_array();
            struct gw_vm *vm, *after;
            bool was_running;

            start_disk(&qemu, &setting);
            vm = describe(&qemu);
            cr_assert_eq(gw_disk_swap_prepare(disk_of(vm), 0, &swap), 0);
            cr_assert_eq(gw_disk_swap_undo(&swap, undo), 0);
            cr_assert_eq(gw_vm_stop(qemu.qmp, &was_running), 0);
            if (steps > 0)
                json_decref(qemu_run(&qemu, "blockdev-add", json_incref(swap.hold_options)));
            if (steps > 1)
                json_decref(qemu_run(&qemu, "qom-set",
                                     json_pack("{s:s, s:s, s:s}", "path", swap.qom_path, "property",
                                               "drive", "value", swap.hold)));
            if (steps > 2 && blockdev)
                json_decref(
                    qemu_run(&qemu, "blockdev-del", json_pack("{s:s}", "node-name", swap.node)));
            cr_assert_eq(gw_disk_undo_run(qemu.qmp, undo), 0, "%d: %s", steps, gw_error_message());
            cr_assert_eq(gw_disk_undo_run(qemu.qmp, undo), 0, "%d: %s", steps, gw_error_message());
            cr_assert(is_open(&qemu));
            cr_assert_eq(gw_vm_cont(qemu.qmp), 0);
            after = describe(&qemu);
            cr_assert_str_eq(disk_of(after)->path, disk_of(vm)->path);
            gw_disk_swap_free(&swap);
            json_decref(undo);
            gw_vm_free(vm);
            gw_vm_free(after);
            qemu_end(&qemu);
        }
    }
}

Test(disks, undo_that_cannot_work_says_that_the_guest_must_stay_stopped)
{
    struct setting setting = {"vhdx", "writeback", 0, 0};
    struct qemu qemu = {.pid = -1};
    struct gw_disk_swap swap;
    json_t *undo = json_array();
    struct gw_vm *vm;
    bool was_running;

    start_disk(&qemu, &setting);
    vm = describe(&qemu);
    cr_assert_eq(gw_disk_swap_prepare(disk_of(vm), 0, &swap), 0);
    cr_assert_eq(gw_disk_swap_undo(&swap, undo), 0);
    cr_assert_eq(gw_vm_stop(qemu.qmp, &was_running), 0);
    cr_assert_eq(gw_disk_swap_out(qemu.qmp, &swap), 0);
    shell(qemu.dir, "mv @/disk @/elsewhere");
    cr_assert_eq(gw_disk_undo_run(qemu.qmp, undo), -EIO);
    cr_assert_not_null(strstr(gw_error_message(), "must stay stopped"), "%s", gw_error_message());
    shell(qemu.dir, "mv @/elsewhere @/disk");
    cr_assert_eq(gw_disk_undo_run(qemu.qmp, undo), 0, "%s", gw_error_message());
    gw_disk_swap_free(&swap);
    json_decref(undo);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

/* A process that collects dirty maps without end, to be killed in the middle. */
static void collect_for_ever(const char *qmp_path, const char *dir)
{
    struct gw_reasons refused = {0};
    struct gw_disk_tracker *tracker;
    struct gw_bitmap dirty;
    struct gw_qmp *qmp;
    struct gw_vm *vm;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (gw_qmp_open(qmp_path, &qmp) < 0 || gw_vm_describe(qmp, &refused, &vm) < 0 ||
        gw_disk_tracker_clean(qmp, dir) < 0 ||
        gw_bitmap_init(&dirty, gw_disk_granules(DISK_SIZE)) < 0 ||
        open_tracker(qmp, gw_vm_find_disk(vm, "vda"), 0, dir, &tracker) < 0)
        _exit(1);
    while (gw_disk_tracker_collect(tracker, &dirty) == 0)
        ;
    _exit(2);
}

static void connect_patiently(struct qemu *qemu)
{
    for (int i = 0; i < 4500; i++) {
        if (gw_qmp_open(qemu->qmp_path, &qemu->qmp) == 0)
            return;
        usleep(20000);
    }
    cr_assert_fail("QEMU does not answer: %s", gw_error_message());
}

Test(disks, a_killed_client_does_not_hurt_qemu)
{
    struct setting setting = {"vhdx", "none", 1, 0};
    struct gw_disk_tracker *tracker;
    struct qemu qemu = {.pid = -1};
    struct gw_vm *vm;

    start_disk(&qemu, &setting);
    gw_qmp_close(qemu.qmp);
    qemu.qmp = NULL;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        int status;

        if (child == 0)
            collect_for_ever(qemu.qmp_path, qemu.dir);
        usleep(150000 + (unsigned)i * 1733);
        cr_assert_eq(waitpid(child, &status, WNOHANG), 0, "the client ended by itself: %x", status);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        cr_assert_eq(kill(qemu.pid, 0), 0);
        cr_assert_eq(waitpid(qemu.pid, NULL, WNOHANG), 0, "QEMU has ended");
    }
    connect_patiently(&qemu);
    cr_assert_eq(gw_disk_tracker_clean(qemu.qmp, qemu.dir), 0, "%s", gw_error_message());
    vm = describe(&qemu);
    cr_assert_eq(open_tracker(qemu.qmp, disk_of(vm), 0, qemu.dir, &tracker), 0, "%s",
                 gw_error_message());
    io(&qemu, "write -P 9 5M 64k");
    expect_granules(tracker, (int[]){80, -1});
    gw_disk_tracker_close(tracker);
    gw_vm_free(vm);
    qemu_end(&qemu);
}

static int serve_at(struct qemu *qemu, const char *folder, const char *name)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return gw_qmp_execute(
        qemu->qmp, "nbd-server-start",
        json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "unix", "data", "path", path), NULL);
}

/* A client that was killed when it had started the server and made no node yet, or had deleted its last one. */
Test(disks, a_server_alone_is_cleaned_up_and_a_strangers_is_not)
{
    struct setting setting = {"raw", "writeback", 1, 0};
    struct qemu qemu = {.pid = -1};

    start_disk(&qemu, &setting);
    cr_assert_eq(serve_at(&qemu, qemu.dir, "nbd"), 0, "%s", gw_error_message());
    cr_assert_eq(gw_disk_tracker_clean(qemu.qmp, qemu.dir), 0, "%s", gw_error_message());
    cr_assert_eq(serve_at(&qemu, qemu.dir, "other"), 0, "%s", gw_error_message());
    cr_assert_eq(gw_disk_tracker_clean(qemu.qmp, qemu.dir), 0, "%s", gw_error_message());
    cr_assert_eq(serve_at(&qemu, qemu.dir, "third"), -EREMOTEIO, "a stranger's server was stopped");
    qemu_end(&qemu);
}

Test(disks, two_trackers_share_the_server_and_a_strangers_is_refused)
{
    struct setting setting = {"raw", "writeback", 1, 0};
    struct gw_disk_tracker *one, *two;
    struct qemu qemu = {.pid = -1};
    struct gw_vm *vm;

    start_disk(&qemu, &setting);
    vm = describe(&qemu);
    cr_assert_eq(open_tracker(qemu.qmp, disk_of(vm), 0, qemu.dir, &one), 0);
    cr_assert_eq(open_tracker(qemu.qmp, gw_vm_find_disk(vm, "boot"), 1, qemu.dir, &two), 0, "%s",
                 gw_error_message());
    io(&qemu, "write 1M 64k");
    expect_granules(one, (int[]){16, -1});
    gw_disk_tracker_close(one);
    {
        struct gw_bitmap dirty;

        cr_assert_eq(gw_bitmap_init(&dirty, gw_disk_granules(1 << 20)), 0);
        cr_assert_eq(gw_disk_tracker_collect(two, &dirty), 0, "%s", gw_error_message());
        cr_assert_eq(gw_bitmap_count(&dirty), 0);
        gw_bitmap_free(&dirty);
    }
    gw_disk_tracker_close(two);
    cr_assert_eq(serve_at(&qemu, qemu.dir, "other"), 0, "%s", gw_error_message());
    cr_assert_eq(open_tracker(qemu.qmp, disk_of(vm), 0, qemu.dir, &one), -EBUSY);
    cr_assert_not_null(strstr(gw_error_message(), "already serves NBD"), "%s", gw_error_message());
    gw_vm_free(vm);
    qemu_end(&qemu);
}
