/* SPDX-License-Identifier: Apache-2.0 */
/* The data path over a transport that behaves as if a device placed its writes: guest memory is
 * registered in windows, in time, within limits and never where nobody wrote; no byte of it is
 * copied on the way; no write meets a dropped key. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/memory.h"
#include "engine/worker/record.h"
#include "tests/engine/path/rig.h"

#define SIZE     (48u << 20)
#define PAGE     4096u
#define VOLUME   2
#define MIB      (1ull << 20)
#define NO_LIMIT (1ull << 40)
#define RINGS    (4 * 8 * MIB) /* two lanes, both ends */

/* Guest memory in a file, as QEMU has it; what nobody wrote is a hole. */
struct guest {
    struct gw_source_volume volume;
    int fd;
    uint8_t *memory;
};

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    struct guest *guest = (struct guest *)volume;
    off_t data = lseek(guest->fd, (off_t)offset, SEEK_DATA), hole;

    *out = (struct gw_extent){.offset = offset, .kind = GW_EXTENT_ABSENT};
    if (data < 0) {
        out->length = end - offset;
    } else if ((uint64_t)data > offset) {
        out->length = gw_min((uint64_t)data, end) - offset;
    } else {
        hole = lseek(guest->fd, (off_t)offset, SEEK_HOLE);
        out->kind = GW_EXTENT_DATA;
        out->length = gw_min((uint64_t)hole, end) - offset;
    }
    return 0;
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    *out = (struct gw_location){.kind = GW_EXTENT_DATA,
                                .where = GW_IN_MEMORY,
                                .length = length,
                                .memory = ((struct guest *)volume)->memory + offset};
    return 0;
}

static void copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length)
{
}

static const struct gw_source_ops guest_ops = {
    .next_extent = next_extent,
    .locate = locate,
    .copied = copied,
};

struct bench {
    struct path_rig rig;
    struct guest guest;
    struct gw_target_volume *target;
    uint64_t long_bytes, short_bytes; /* in runs worth a window, in others */
};

static void write_pages(struct bench *bench, uint64_t offset, uint64_t length)
{
    uint32_t *words = (uint32_t *)(void *)(bench->guest.memory + offset);

    for (uint64_t i = 0; i < length / 4; i++)
        words[i] = (uint32_t)(offset + i) * 2654435761u + 1;
}

/* Long runs, short runs, holes. */
static void fill(struct bench *bench)
{
    for (uint64_t at = 0; at < SIZE; at += 16 * MIB) {
        write_pages(bench, at, 11 * MIB + 3 * PAGE);
        bench->long_bytes += 11 * MIB + 3 * PAGE;
        for (uint64_t at_short = at + 12 * MIB; at_short < at + 15 * MIB; at_short += MIB) {
            write_pages(bench, at_short, 7 * PAGE);
            bench->short_bytes += 7 * PAGE;
        }
    }
}

struct flavour {
    const char *transport;
    bool is_clear;
    uint64_t limit, target_limit;
};

static void set_up(struct bench *bench, const struct flavour *flavour)
{
    *bench = (struct bench){0};
    path_rig_open_rdma(&bench->rig, flavour->transport, flavour->is_clear, flavour->limit,
                       flavour->target_limit);
    bench->guest.fd = memfd_create("guest", MFD_CLOEXEC);
    cr_assert_eq(ftruncate(bench->guest.fd, SIZE), 0);
    bench->guest.memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, bench->guest.fd, 0);
    bench->guest.volume = (struct gw_source_volume){.ops = &guest_ops,
                                                    .kind = GW_VOLUME_RAM,
                                                    .name = "ram0",
                                                    .size = SIZE,
                                                    .granularity = PAGE};
    bench->target = path_target_new(GW_VOLUME_RAM, SIZE);
    fill(bench);
    gw_faulty_rdma_guest(bench->rig.faulty, bench->guest.memory, SIZE);
    path_rig_add_volume(&bench->rig, VOLUME, &bench->guest.volume, bench->target);
    path_rig_add_channel(&bench->rig);
    path_rig_add_channel(&bench->rig);
}

static void tear_down(struct bench *bench)
{
    struct gw_faulty_rdma_report report;

    gw_faulty_rdma_get(bench->rig.faulty, &report);
    cr_assert_eq(report.filled, 0, "%u untouched pages were registered", report.filled);
    cr_assert_eq(report.ended_early, 0, "%u regions ended while a device read", report.ended_early);
    cr_assert_eq(report.in_pause, 0);
    path_rig_close(&bench->rig);
    bench->target->ops->close(bench->target);
    munmap(bench->guest.memory, SIZE);
    close(bench->guest.fd);
}

static int run_round(struct bench *bench, const struct gw_bitmap *dirty, bool is_still)
{
    struct gw_round *round;
    int result;

    cr_assert_eq(gw_round_new(&round), 0);
    if (is_still)
        gw_round_set_still(round);
    cr_assert_eq(gw_round_add(round, VOLUME, &bench->guest.volume, dirty), 0);
    result = path_rig_run(&bench->rig, round);
    gw_round_free(round);
    return result;
}

static bool is_same(struct bench *bench)
{
    return memcmp(bench->guest.memory, path_target_bytes(bench->target), SIZE) == 0;
}

static struct gw_volume_stats sent(struct bench *bench)
{
    struct gw_path_stats stats;

    gw_sender_stats(bench->rig.sender, &stats);
    return stats.volumes[VOLUME];
}

static struct gw_volume_stats got(struct bench *bench)
{
    struct gw_path_stats stats;

    gw_receiver_stats(bench->rig.receiver, &stats);
    return stats.volumes[VOLUME];
}

static const char *const transports[] = {"loop", "tcp"};

#define EACH_TRANSPORT(name)                                                                       \
    Test(windows, name##_over_loop)                                                                \
    {                                                                                              \
        name("loop");                                                                              \
    }                                                                                              \
    Test(windows, name##_over_tcp)                                                                 \
    {                                                                                              \
        name("tcp");                                                                               \
    }

/* What is long enough goes straight into place, and no processor copies it at either end. */
static void clear_memory_is_not_copied(const char *transport)
{
    struct bench bench;

    set_up(&bench, &(struct flavour){transport, true, NO_LIMIT, NO_LIMIT});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(bench.rig.deaths, 0);
    cr_assert_eq(sent(&bench).direct, bench.long_bytes);
    cr_assert_eq(sent(&bench).slots, bench.short_bytes);
    cr_assert_eq(sent(&bench).copied, bench.short_bytes);
    cr_assert_eq(got(&bench).direct, bench.long_bytes);
    /* Out of the ring into the worker's own memory, and from there into place. */
    cr_assert_eq(got(&bench).copied, 2 * bench.short_bytes);
    cr_assert_str_eq(gw_sender_path(bench.rig.sender, VOLUME), "direct");
    tear_down(&bench);
}
EACH_TRANSPORT(clear_memory_is_not_copied)

/* The counter counts where a copy is made: the same memory through slots. */
Test(windows, copies_are_counted)
{
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    bench.guest.volume.needs_copy = true;
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(sent(&bench).direct, 0);
    cr_assert_eq(sent(&bench).copied, bench.long_bytes + bench.short_bytes);
    cr_assert_str_eq(gw_sender_path(bench.rig.sender, VOLUME), "slots");
    tear_down(&bench);
}

/* No key to guest memory, and no registration of it, where everything is sealed. */
Test(windows, sealed_memory_is_never_registered)
{
    struct gw_faulty_rdma_report report;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", false, NO_LIMIT, NO_LIMIT});
    gw_faulty_rdma_guest(bench.rig.faulty, path_target_bytes(bench.target), SIZE);
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    gw_faulty_rdma_get(bench.rig.faulty, &report);
    cr_assert_eq(report.guest_registrations, 0);
    cr_assert_eq(report.registrations, 4, "one ring for each end of a lane");
    cr_assert_not(gw_sender_device_reads(bench.rig.sender));
    cr_assert_str_eq(gw_sender_path(bench.rig.sender, VOLUME), "sealed");
    tear_down(&bench);
}

/* Memory whose pages are taken away meanwhile is not registered. */
Test(windows, punched_memory_goes_through_slots)
{
    struct gw_faulty_rdma_report report;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    bench.guest.volume.is_punched = true;
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    gw_faulty_rdma_get(bench.rig.faulty, &report);
    cr_assert_eq(report.guest_registrations, 0);
    tear_down(&bench);
}

/* The balloon changes when windows are open already: from then on nothing goes through them. */
Test(windows, memory_that_is_punched_later_goes_through_slots)
{
    struct gw_volume_stats first;
    struct gw_bitmap dirty;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    first = sent(&bench);
    bench.guest.volume.is_punched = true;
    write_pages(&bench, MIB, MIB);
    cr_assert_eq(gw_bitmap_init(&dirty, SIZE / PAGE), 0);
    gw_bitmap_set_range(&dirty, 0, SIZE / PAGE);
    cr_assert_eq(run_round(&bench, &dirty, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(sent(&bench).direct, first.direct);
    cr_assert_geq(sent(&bench).slots, bench.long_bytes);
    cr_assert_str_eq(gw_sender_path(bench.rig.sender, VOLUME), "slots");
    gw_bitmap_free(&dirty);
    tear_down(&bench);
}

/* What a device has read may be wrong when nobody is left that reads by a device. */
Test(windows, what_a_device_read_is_not_forgotten)
{
    uint64_t deadline = gw_clock_ns() + 10 * GW_NS_PER_S;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    gw_faulty_drop_all(bench.rig.faulty);
    while (gw_sender_window_use(bench.rig.sender) != GW_WINDOWS_NONE)
        cr_assert_lt(gw_clock_ns(), deadline);
    cr_assert(gw_sender_device_reads(bench.rig.sender));
    tear_down(&bench);
}

/* With less room than memory, windows roll: the oldest is closed, the next is opened, and still no
 * byte of a long run is copied, nor does a write meet a dropped key. */
static void windows_roll_within_a_limit(const char *transport)
{
    struct gw_faulty_rdma_report report;
    uint64_t limit = RINGS + 24 * MIB;
    struct bench bench;

    set_up(&bench, &(struct flavour){transport, true, limit, NO_LIMIT});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(bench.rig.deaths, 0);
    cr_assert_eq(sent(&bench).direct, bench.long_bytes);
    gw_faulty_rdma_get(bench.rig.faulty, &report);
    cr_assert_leq(report.pinned_max, limit);
    tear_down(&bench);
}
EACH_TRANSPORT(windows_roll_within_a_limit)

/* The same when it is the target that has no room. */
Test(windows, windows_roll_within_the_targets_limit)
{
    uint64_t target_limit = RINGS / 2 + 13 * MIB;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, target_limit});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(bench.rig.deaths, 0);
    cr_assert_eq(sent(&bench).direct, bench.long_bytes);
    tear_down(&bench);
}

/* Without any room for windows the move goes on through slots, and says why. */
Test(windows, without_room_memory_goes_through_slots)
{
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, 1});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(sent(&bench).direct, 0);
    cr_assert_eq(sent(&bench).copied, bench.long_bytes + bench.short_bytes);
    cr_assert(strstr(gw_windows_note(bench.rig.windows), "--pin-limit"), "%s",
              gw_windows_note(bench.rig.windows));
    tear_down(&bench);
}

/* A target that is too slow to answer holds nothing back, and what it answers in the end is good for later rounds.
 * is_refused: it is that there is no room. */
static void late_answers_are_not_waited_for(bool is_refused)
{
    struct bench bench;
    uint64_t before;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, is_refused ? 1 : NO_LIMIT});
    bench.rig.is_unanswered = true;
    before = gw_clock_ns();
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert_lt(gw_clock_ns() - before, 20 * GW_NS_PER_S);
    cr_assert(is_same(&bench));
    cr_assert_gt(bench.rig.answer_count, 0);
    cr_assert_eq(sent(&bench).direct, 0);
    bench.rig.is_unanswered = false;
    /* Some of the second round is copied before the answers are there. */
    for (int round = 2; round <= 3; round++) {
        bench.guest.memory[0] ^= 0xff;
        cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
        cr_assert(is_same(&bench));
    }
    if (is_refused)
        cr_assert_eq(sent(&bench).direct, 0);
    else
        cr_assert_geq(sent(&bench).direct, bench.long_bytes);
    cr_assert_eq(bench.rig.deaths, 0);
    tear_down(&bench);
}

Test(windows, late_windows_are_not_waited_for)
{
    late_answers_are_not_waited_for(false);
}

Test(windows, late_refusals_are_not_waited_for)
{
    late_answers_are_not_waited_for(true);
}

/* Rounds after the first, with less room than there is memory: windows of the round before make way
 * for those that are needed, as often as it takes. */
static void windows_roll_in_later_rounds(const char *transport)
{
    uint64_t limit = RINGS + 24 * MIB;
    struct gw_faulty_rdma_report report;
    struct gw_bitmap dirty;
    struct bench bench;

    set_up(&bench, &(struct flavour){transport, true, limit, NO_LIMIT});
    cr_assert_eq(gw_bitmap_init(&dirty, SIZE / PAGE), 0);
    gw_bitmap_set_range(&dirty, 0, SIZE / PAGE);
    for (unsigned round = 1; round <= 3; round++) {
        cr_assert_eq(run_round(&bench, round > 1 ? &dirty : NULL, false), 0, "%s",
                     gw_error_message());
        cr_assert(is_same(&bench));
        /* The comparison has read the holes, which are data from then on. */
        cr_assert_eq(sent(&bench).slots, bench.short_bytes, "round %u", round);
        cr_assert_geq(sent(&bench).direct, round * bench.long_bytes);
        for (uint64_t at = 5 * PAGE; at < SIZE; at += 16 * MIB)
            bench.guest.memory[at] ^= bench.guest.memory[at] ? 0xff : 0;
    }
    cr_assert_eq(bench.rig.deaths, 0);
    gw_faulty_rdma_get(bench.rig.faulty, &report);
    cr_assert_leq(report.pinned_max, limit);
    gw_bitmap_free(&dirty);
    tear_down(&bench);
}
EACH_TRANSPORT(windows_roll_in_later_rounds)

/* Where little is dirty it is not worth a registration. */
Test(windows, hardly_dirty_ranges_go_through_slots)
{
    uint64_t limit = RINGS + 24 * MIB;
    struct gw_faulty_rdma_report before, after;
    struct gw_bitmap dirty;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, limit, NO_LIMIT});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    gw_faulty_rdma_get(bench.rig.faulty, &before);
    cr_assert_eq(gw_bitmap_init(&dirty, SIZE / PAGE), 0);
    for (uint64_t page = 0; page < SIZE / PAGE; page += 16)
        gw_bitmap_set_range(&dirty, page, 1);
    cr_assert_eq(run_round(&bench, &dirty, false), 0, "%s", gw_error_message());
    gw_faulty_rdma_get(bench.rig.faulty, &after);
    cr_assert_eq(after.registrations, before.registrations);
    cr_assert_gt(sent(&bench).slots, bench.short_bytes);
    gw_bitmap_free(&dirty);
    tear_down(&bench);
}

/* The last round: what lies in an open window goes straight into place, also what became data since;
 * nothing is registered any more. */
static void the_pause_registers_nothing(const char *transport)
{
    struct gw_faulty_rdma_report before, after;
    struct gw_volume_stats first, last;
    struct gw_bitmap dirty;
    struct bench bench;

    set_up(&bench, &(struct flavour){transport, true, NO_LIMIT, NO_LIMIT});
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    first = sent(&bench);
    gw_faulty_rdma_get(bench.rig.faulty, &before);
    gw_faulty_rdma_pause(bench.rig.faulty, true);
    cr_assert_eq(gw_bitmap_init(&dirty, SIZE / PAGE), 0);
    for (uint64_t at = 5 * PAGE; at < SIZE; at += 16 * MIB) {
        write_pages(&bench, at, 2 * PAGE);              /* in a window */
        write_pages(&bench, at + 11 * MIB, 200 * PAGE); /* was a hole */
        gw_bitmap_set_range(&dirty, at / PAGE, 2);
        gw_bitmap_set_range(&dirty, (at + 11 * MIB) / PAGE, 200);
        bench.guest.memory[at] ^= 0xff;
    }
    cr_assert_eq(run_round(&bench, &dirty, true), 0, "%s", gw_error_message());
    last = sent(&bench);
    /* The target's channels end in the pause, what is registered there does not. */
    gw_receiver_close(bench.rig.receiver);
    gw_faulty_rdma_pause(bench.rig.faulty, false);
    cr_assert(is_same(&bench));
    gw_faulty_rdma_get(bench.rig.faulty, &after);
    cr_assert_eq(after.registrations, before.registrations);
    cr_assert_eq(last.direct - first.direct, 3 * 2 * PAGE);
    cr_assert_eq(last.slots - first.slots, 3 * 200 * PAGE);
    gw_bitmap_free(&dirty);
    tear_down(&bench);
}
EACH_TRANSPORT(the_pause_registers_nothing)

/* Channels die, with windows rolling: what they held is given up with them. */
static void dead_channels_leave_their_windows(const char *transport)
{
    struct bench bench;

    set_up(&bench, &(struct flavour){transport, true, RINGS + 24 * MIB, NO_LIMIT});
    gw_faulty_drop_after(bench.rig.faulty, 60);
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert_gt(bench.rig.deaths, 0);
    cr_assert(is_same(&bench));
    tear_down(&bench);
}
EACH_TRANSPORT(dead_channels_leave_their_windows)

/* A device may take its time to read: regions stay until it has. */
Test(windows, slow_devices_are_waited_for)
{
    struct bench bench;

    set_up(&bench, &(struct flavour){transports[0], true, RINGS + 24 * MIB, NO_LIMIT});
    gw_faulty_delay(bench.rig.faulty, 2);
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    cr_assert_eq(bench.rig.deaths, 0);
    /* Keys travel slowly too, and lanes wait for them. */
    cr_assert_eq(sent(&bench).direct, bench.long_bytes);
    tear_down(&bench);
}

/* A disk at rest in memory is not registered: its bytes go through the ring, on both sides. */
static void disks_go_through_the_ring(bool is_clear)
{
    struct gw_target_volume *target = path_target_new(GW_VOLUME_DISK, 8 * MIB);
    struct gw_source_volume *source;
    struct gw_path_stats stats;
    struct gw_round *round;
    struct path_rig rig;
    uint8_t *bytes;

    cr_assert_eq(gw_memory_new(8 * MIB, (void **)&bytes), 0);
    for (uint64_t i = 0; i < 8 * MIB; i++)
        bytes[i] = (uint8_t)(i * 31 >> 3);
    source = path_source_new(GW_VOLUME_DISK, bytes, 8 * MIB);
    path_rig_open_rdma(&rig, "loop", is_clear, NO_LIMIT, NO_LIMIT);
    gw_faulty_rdma_guest(rig.faulty, bytes, 8 * MIB);
    path_rig_add_volume(&rig, 0, source, target);
    path_rig_add_channel(&rig);
    cr_assert_eq(gw_round_new(&round), 0);
    cr_assert_eq(gw_round_add(round, 0, source, NULL), 0);
    cr_assert_eq(path_rig_run(&rig, round), 0, "%s", gw_error_message());
    gw_round_free(round);
    cr_assert_arr_eq(path_target_bytes(target), bytes, 8 * MIB);
    gw_sender_stats(rig.sender, &stats);
    cr_assert_eq(stats.volumes[0].copied, 8 * MIB);
    cr_assert_eq(is_clear ? stats.volumes[0].slots : stats.volumes[0].sealed, 8 * MIB);
    path_rig_close(&rig);
    source->ops->close(source);
    target->ops->close(target);
    gw_memory_free(bytes, 8 * MIB);
}

Test(windows, clear_disks_go_through_the_ring)
{
    disks_go_through_the_ring(true);
}

Test(windows, sealed_disks_go_through_the_ring)
{
    disks_go_through_the_ring(false);
}

/* ---- a source that is not to be believed ---- */

Test(windows, targets_refuse_windows_that_cannot_be)
{
    static const struct gw_window bad[] = {
        {1, VOLUME + 1, 0, MIB},                      /* no such volume */
        {1, GW_VOLUMES_MAX, 0, MIB},                  /* nor such a number */
        {1, 5, 0, MIB},                               /* a disk */
        {1, VOLUME, 0, 0},                            /* empty */
        {1, VOLUME, SIZE, PAGE},                      /* behind the end */
        {1, VOLUME, SIZE - PAGE, 2 * PAGE},           /* beyond it */
        {1, VOLUME, UINT64_MAX - PAGE + 1, 2 * PAGE}, /* around the end of numbers */
        {1, VOLUME, 100, MIB},                        /* not at a page */
        {1, VOLUME, 0, MIB + 1},                      /* not of pages */
        {1, VOLUME, 0, GW_WINDOW_MAX + PAGE},
        {0, VOLUME, 0, MIB}, /* numbers begin at 1 */
    };
    struct gw_target_volume *disk = path_target_new(GW_VOLUME_DISK, MIB);
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    gw_receiver_add_volume(bench.rig.receiver, 5, disk);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(gw_receiver_window_open(bench.rig.receiver, &bad[i]), -EPROTO, "%u: %s", i,
                     gw_error_message());
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    /* A number that was used. */
    cr_assert_eq(
        gw_receiver_window_open(bench.rig.receiver, &(struct gw_window){1, VOLUME, 12 * MIB, MIB}),
        -EPROTO);
    tear_down(&bench);
    disk->ops->close(disk);
}

/* The source's end of a channel by hand: joins, then says what the test wants. */
struct stranger {
    struct gw_poller *poller;
    struct gw_channel *channel;
    struct gw_seal *seal;
    struct gw_send send;
    bool is_joined;
};

static void sent_it(struct gw_op *op, int status)
{
}

static void say(struct stranger *stranger, const void *message, uint32_t length)
{
    stranger->send = (struct gw_send){.op.done = sent_it, .message = message, .length = length};
    cr_assert_eq(gw_send(stranger->channel, &stranger->send), 0, "%s", gw_error_message());
}

/* Takes what the target sends until it told its regions. */
static void listen_for_regions(struct stranger *stranger, struct path_rig *rig)
{
    enum gw_record_type type = GW_RECORD_EXTENTS;

    while (type != GW_RECORD_REGIONS) {
        uint8_t record[GW_SEAL_RECORD_MAX];
        struct gw_channel *ready[1];
        struct gw_path_event event;
        struct gw_message message;
        uint32_t length;
        unsigned count;

        /* The target registers on its control thread. */
        cr_assert_not(gw_receiver_next_event(rig->receiver, &event));
        gw_poll(stranger->poller, ready, 1);
        if (gw_recv(stranger->channel, &message))
            continue;
        if (!stranger->is_joined) {
            cr_assert_eq(gw_seal_check(stranger->seal, message.data, message.length), 0);
            stranger->is_joined = true;
            continue;
        }
        cr_assert_eq(
            gw_seal_open_record(stranger->seal, message.data, message.length, record, &length), 0);
        cr_assert_eq(gw_record_type(record, length, &type, &count), 0);
    }
}

/* Says one record in place of a sender; the channel must die of it. */
static void expect_refused(struct bench *bench, const uint8_t *record, uint32_t length,
                           const char *words)
{
    struct path_rig *rig = &bench->rig;
    struct stranger stranger = {0};
    uint8_t proof[GW_SEAL_PROOF_SIZE], sealed[GW_MESSAGE_MAX];
    struct gw_path_event event = {0};

    cr_assert_eq(gw_poller_open(rig->faulty, &stranger.poller), 0);
    path_rig_dial(rig, stranger.poller, &stranger.channel, &stranger.seal);
    gw_seal_proof(stranger.seal, proof);
    say(&stranger, proof, sizeof(proof));
    listen_for_regions(&stranger, rig);
    cr_assert_eq(gw_seal_record(stranger.seal, record, length, sealed), 0);
    say(&stranger, sealed, length + GW_SEAL_TAG_SIZE);
    while (event.kind != GW_PATH_LANE_DEAD || !event.number) {
        struct gw_channel *ready[1];

        gw_poll(stranger.poller, ready, 1);
        if (!gw_receiver_next_event(rig->receiver, &event))
            event.number = 0;
    }
    cr_assert_eq(event.error.code, -EPROTO, "%s", event.error.text);
    cr_assert(strstr(event.error.text, words), "%s", event.error.text);
    gw_close(stranger.channel);
    gw_seal_free(stranger.seal);
    gw_poller_close(stranger.poller);
}

Test(windows, direct_bytes_outside_of_windows_end_the_channel)
{
    struct gw_record_entry entry = {
        .kind = GW_ENTRY_DIRECT, .volume = VOLUME, .offset = 12 * MIB, .length = PAGE};
    uint8_t record[GW_SEAL_RECORD_MAX];
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    /* Windows are open, and the entry lies in none. */
    cr_assert_eq(run_round(&bench, NULL, false), 0, "%s", gw_error_message());
    expect_refused(&bench, record, gw_record_append(record, gw_record_begin(record), &entry),
                   "may not write there");
    tear_down(&bench);
}

Test(windows, closing_a_window_that_was_not_told_ends_the_channel)
{
    uint8_t record[GW_SEAL_RECORD_MAX];
    uint32_t number = 4711;
    struct bench bench;

    set_up(&bench, &(struct flavour){"loop", true, NO_LIMIT, NO_LIMIT});
    expect_refused(&bench, record, gw_record_closed(record, &number, 1), "was not told");
    tear_down(&bench);
}
