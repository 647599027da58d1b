/* SPDX-License-Identifier: Apache-2.0 */
/* The data path over every transport: what arrives equals what was sent, whatever dies; what was
 * altered on the way is noticed. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/memory.h"
#include "tests/engine/path/rig.h"

#define SIZE (24u << 20)

struct flavour {
    char transport[8];
    bool is_clear;
    enum gw_volume_kind kind;
};

static struct flavour flavours[] = {
    {"loop", true, GW_VOLUME_RAM},   {"loop", true, GW_VOLUME_DISK}, {"loop", false, GW_VOLUME_RAM},
    {"loop", false, GW_VOLUME_DISK}, {"tcp", true, GW_VOLUME_RAM},   {"tcp", true, GW_VOLUME_DISK},
    {"tcp", false, GW_VOLUME_RAM},   {"tcp", false, GW_VOLUME_DISK},
};

struct bench {
    struct path_rig rig;
    uint8_t *bytes;
    struct gw_source_volume *source;
    struct gw_target_volume *target;
};

static void fill(uint8_t *bytes, uint32_t seed)
{
    /* Runs of data, holes, and single zero pages within data. */
    for (uint32_t page = 0; page < SIZE / 4096; page++) {
        if (page / 256 % 5 == 4 || page % 17 == 0)
            continue;
        for (uint32_t i = 0; i < 4096; i += 4) {
            seed = seed * 1664525 + 1013904223;
            memcpy(bytes + (size_t)page * 4096 + i, &seed, 4);
        }
    }
}

static void set_up(struct bench *bench, const struct flavour *flavour)
{
    path_rig_open(&bench->rig, flavour->transport, flavour->is_clear);
    cr_assert_eq(gw_memory_new(SIZE, (void **)&bench->bytes), 0);
    fill(bench->bytes, 1);
    bench->source = path_source_new(flavour->kind, bench->bytes, SIZE);
    bench->target = path_target_new(flavour->kind, SIZE);
    path_rig_add_volume(&bench->rig, 3, bench->source, bench->target);
    path_rig_add_channel(&bench->rig);
    path_rig_add_channel(&bench->rig);
}

static void tear_down(struct bench *bench)
{
    path_rig_close(&bench->rig);
    bench->source->ops->close(bench->source);
    bench->target->ops->close(bench->target);
    gw_memory_free(bench->bytes, SIZE);
}

static int first_pass(struct bench *bench)
{
    struct gw_round *round;
    int result;

    cr_assert_eq(gw_round_new(&round), 0);
    cr_assert_eq(gw_round_add(round, 3, bench->source, NULL), 0);
    result = path_rig_run(&bench->rig, round);
    gw_round_free(round);
    return result;
}

static bool is_same(struct bench *bench)
{
    return memcmp(bench->bytes, path_target_bytes(bench->target), SIZE) == 0;
}

#define PARAMETERS(name)                                                                           \
    ParameterizedTestParameters(path, name)                                                        \
    {                                                                                              \
        return cr_make_param_array(struct flavour, flavours,                                       \
                                   sizeof(flavours) / sizeof(*flavours));                          \
    }

static uint64_t data_bytes(const struct bench *bench, uint32_t block)
{
    uint64_t bytes = 0;

    for (uint64_t at = 0; at < SIZE; at += block)
        if (!gw_memory_is_zero(bench->bytes + at, block))
            bytes += block;
    return bytes;
}

PARAMETERS(first_pass_arrives_whole)
ParameterizedTest(struct flavour *flavour, path, first_pass_arrives_whole)
{
    struct gw_path_stats sent, got;
    struct bench bench;

    set_up(&bench, flavour);
    cr_assert_eq(first_pass(&bench), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    gw_sender_stats(bench.rig.sender, &sent);
    gw_receiver_stats(bench.rig.receiver, &got);
    cr_assert_eq(sent.data_bytes, got.data_bytes);
    /* Holes, and in RAM every zero page, cost no data. */
    cr_assert_leq(sent.wire_bytes,
                  data_bytes(&bench, flavour->kind == GW_VOLUME_RAM ? 4096 : 65536));
    cr_assert_gt(path_source_tidied(bench.source), 0, "who waits has nothing to do");
    tear_down(&bench);
}

PARAMETERS(dirty_round_sends_only_what_is_dirty)
ParameterizedTest(struct flavour *flavour, path, dirty_round_sends_only_what_is_dirty)
{
    struct gw_path_stats before, after;
    struct gw_bitmap dirty;
    struct gw_round *round;
    struct bench bench;

    set_up(&bench, flavour);
    cr_assert_eq(first_pass(&bench), 0, "%s", gw_error_message());
    gw_sender_stats(bench.rig.sender, &before);
    cr_assert_eq(gw_bitmap_init(&dirty, SIZE / 4096), 0);
    for (uint32_t page = 5; page < SIZE / 4096; page += 100) {
        /* Half of the pages become zero, half get other bytes. */
        memset(bench.bytes + (size_t)page * 4096, page % 200 == 5 ? 0 : 0xa5, 4096);
        gw_bitmap_set_range(&dirty, page, 1);
    }
    bench.bytes[4096 * 7]++; /* not marked: must not be sent */
    cr_assert_eq(gw_round_new(&round), 0);
    gw_round_set_still(round);
    cr_assert_eq(gw_round_add(round, 3, bench.source, &dirty), 0);
    cr_assert_eq(path_rig_run(&bench.rig, round), 0, "%s", gw_error_message());
    gw_round_free(round);
    cr_assert(!is_same(&bench));
    bench.bytes[4096 * 7]--;
    cr_assert(is_same(&bench));
    gw_sender_stats(bench.rig.sender, &after);
    cr_assert_leq(after.wire_bytes - before.wire_bytes, gw_bitmap_count(&dirty) * 4096);
    gw_bitmap_free(&dirty);
    tear_down(&bench);
}

PARAMETERS(dead_channels_lose_nothing)
ParameterizedTest(struct flavour *flavour, path, dead_channels_lose_nothing)
{
    struct bench bench;

    set_up(&bench, flavour);
    /* Every channel dies again and again, until a few have carried it all. Runs of RAM pages are
     * smaller than chunks of disks, so they take more ops. */
    gw_faulty_drop_after(bench.rig.faulty, flavour->kind == GW_VOLUME_RAM ? 150 : 40);
    cr_assert_eq(first_pass(&bench), 0, "%s", gw_error_message());
    gw_faulty_drop_after(bench.rig.faulty, UINT64_MAX);
    cr_assert_gt(bench.rig.deaths, 0);
    cr_assert(is_same(&bench));
    tear_down(&bench);
}

static bool is_answered(struct bench *bench)
{
    uint64_t deadline_ns = gw_clock_ns() + 60 * GW_NS_PER_S;

    while (!gw_sender_is_answered(bench->rig.sender) && gw_clock_ns() < deadline_ns)
        poll(NULL, 0, 1);
    return gw_sender_is_answered(bench->rig.sender);
}

/* Between rounds nothing is under way by which a channel would be found dead. */
PARAMETERS(idle_channels_answer_and_dead_ones_do_not)
ParameterizedTest(struct flavour *flavour, path, idle_channels_answer_and_dead_ones_do_not)
{
    struct gw_path_stats before, after;
    struct gw_path_event event;
    struct bench bench;

    set_up(&bench, flavour);
    cr_assert_eq(first_pass(&bench), 0, "%s", gw_error_message());
    gw_sender_stats(bench.rig.sender, &before);
    gw_sender_ask(bench.rig.sender);
    cr_assert(is_answered(&bench));
    gw_sender_stats(bench.rig.sender, &after);
    cr_assert_eq(after.records - before.records, 2, "one for each channel");
    cr_assert_eq(after.wire_bytes, before.wire_bytes);
    gw_faulty_drop_all(bench.rig.faulty);
    gw_sender_ask(bench.rig.sender);
    while (!gw_sender_next_event(bench.rig.sender, &event))
        poll(NULL, 0, 1);
    cr_assert_eq(event.kind, GW_PATH_LANE_DEAD);
    cr_assert(!gw_sender_is_answered(bench.rig.sender));
    tear_down(&bench);
}

PARAMETERS(corrupt_bytes_are_noticed)
ParameterizedTest(struct flavour *flavour, path, corrupt_bytes_are_noticed)
{
    struct bench bench;
    int result;

    /* Live RAM in the clear carries no digest in a first pass; its last round does. */
    if (flavour->is_clear && flavour->kind == GW_VOLUME_RAM)
        return;
    set_up(&bench, flavour);
    gw_faulty_corrupt_writes(bench.rig.faulty, 1);
    result = first_pass(&bench);
    cr_assert_eq(result, -EBADMSG, "%d %s", result, gw_error_message());
    tear_down(&bench);
}

PARAMETERS(corrupt_bytes_of_the_last_round_are_noticed)
ParameterizedTest(struct flavour *flavour, path, corrupt_bytes_of_the_last_round_are_noticed)
{
    struct gw_round *round;
    struct bench bench;

    set_up(&bench, flavour);
    gw_faulty_corrupt_writes(bench.rig.faulty, 1);
    cr_assert_eq(gw_round_new(&round), 0);
    gw_round_set_still(round);
    cr_assert_eq(gw_round_add(round, 3, bench.source, NULL), 0);
    cr_assert_eq(path_rig_run(&bench.rig, round), -EBADMSG, "%s", gw_error_message());
    gw_round_free(round);
    tear_down(&bench);
}

PARAMETERS(corrupt_records_cost_a_channel_and_nothing_else)
ParameterizedTest(struct flavour *flavour, path, corrupt_records_cost_a_channel_and_nothing_else)
{
    struct bench bench;

    set_up(&bench, flavour);
    gw_faulty_corrupt_messages(bench.rig.faulty, 1);
    cr_assert_eq(first_pass(&bench), 0, "%s", gw_error_message());
    cr_assert(is_same(&bench));
    tear_down(&bench);
}

static int all_data(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                    struct gw_extent *out)
{
    *out = (struct gw_extent){.offset = offset, .length = end - offset, .kind = GW_EXTENT_DATA};
    return 0;
}

/* Puts a mapping of a file in the place of bytes, and cuts the file in the middle. */
static void cut_under(void *bytes, uint64_t size)
{
    char path[] = "/dev/shm/godwit-path-XXXXXX";
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    unlink(path);
    cr_assert_eq(ftruncate(fd, (off_t)size), 0);
    cr_assert_eq(mmap(bytes, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), bytes);
    memset(bytes, 0x5a, size);
    cr_assert_eq(ftruncate(fd, (off_t)size / 2), 0);
    close(fd);
}

PARAMETERS(a_source_that_is_cut_fails_alone)
ParameterizedTest(struct flavour *flavour, path, a_source_that_is_cut_fails_alone)
{
    struct gw_source_ops ops;
    struct bench bench;

    set_up(&bench, flavour);
    ops = *bench.source->ops;
    ops.next_extent = all_data;
    bench.source->ops = &ops;
    cut_under(bench.bytes, SIZE);
    cr_assert_eq(first_pass(&bench), -EFAULT, "%s", gw_error_message());
    tear_down(&bench);
}

PARAMETERS(a_target_that_is_cut_fails_alone)
ParameterizedTest(struct flavour *flavour, path, a_target_that_is_cut_fails_alone)
{
    struct bench bench;

    /* A channel that writes into the mapping by itself dies of it instead, again and again. */
    if (flavour->kind == GW_VOLUME_RAM &&
        (flavour->is_clear || strcmp(flavour->transport, "loop") == 0))
        return;
    set_up(&bench, flavour);
    cut_under((void *)path_target_bytes(bench.target), SIZE);
    cr_assert_eq(first_pass(&bench), -EFAULT, "%s", gw_error_message());
    tear_down(&bench);
}
