/* SPDX-License-Identifier: Apache-2.0 */
/* What transport.h promises of the data path, tested over every back end and over each one wrapped
 * by faulty. Every test runs once per back end and opens its own rig. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/poll.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/rig.h"

#define MIB (1u << 20)

/* A test that is run over every back end. The body is given an open rig whose ends are joined. */
#define CONTRACT(name)                                                                             \
    static void body_##name(struct rig *rig);                                                      \
    ParameterizedTestParameters(contract, name)                                                    \
    {                                                                                              \
        static enum rig_kind kinds[] = {RIG_LOOP, RIG_TCP, RIG_FAULTY_LOOP, RIG_FAULTY_TCP};       \
        return cr_make_param_array(enum rig_kind, kinds, RIG_KINDS);                               \
    }                                                                                              \
    ParameterizedTest(enum rig_kind *kind, contract, name)                                         \
    {                                                                                              \
        struct rig rig;                                                                            \
        rig_open(&rig, *kind);                                                                     \
        rig_join(&rig);                                                                            \
        body_##name(&rig);                                                                         \
        rig_close(&rig);                                                                           \
    }                                                                                              \
    static void body_##name(struct rig *rig)

/* Memory of the far end that the near end may write. */
struct target {
    uint8_t *memory;
    size_t size;
    struct gw_region *region;
};

static void target_open(struct rig *rig, size_t size, uint32_t only_channel, struct target *target)
{
    target->memory = calloc(1, size);
    target->size = size;
    cr_assert_eq(gw_reg(rig->far_domain, target->memory, size, GW_ACCESS_REMOTE_WRITE, only_channel,
                        &target->region),
                 0);
}

static void target_close(struct target *target)
{
    gw_unreg(target->region);
    free(target->memory);
}

static uint8_t *source_new(size_t size, unsigned seed)
{
    uint8_t *source = malloc(size);

    rig_fill(source, size, seed);
    return source;
}

/* Expects that posting this write kills both ends, the far one as a breach of protocol that text
 * explains, and that nothing was placed. */
static void expect_refused(struct rig *rig, struct rig_write *write, const struct target *target,
                           const char *text)
{
    struct gw_message message;
    int error;

    cr_assert_eq(rig_post_write(rig->near, write), 0);
    error = rig_receive(rig, rig->far, &message);
    cr_assert_eq(error, -EPROTO, "the far end got %d", error);
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
    error = rig_receive(rig, rig->near, &message);
    cr_assert(error == -ECONNRESET || error == -EPIPE, "the near end got %d", error);
    cr_assert(rig_until(rig, &write->done_count, 1));
    for (size_t i = 0; target && i < target->size; i++)
        cr_assert_eq(target->memory[i], 0);
    cr_assert_eq(rig_post_write(rig->far, write), -EPROTO);
    cr_assert_eq(rig_receive(rig, rig->far, &message), -EPROTO, "dead for good");
}

/* ---- order ---- */

CONTRACT(message_comes_after_writes_posted_before_it)
{
    enum { ROUNDS = 200, SIZE = 64 * 1024 };
    struct target target;
    uint8_t *source = source_new(SIZE, 1);

    target_open(rig, SIZE, 0, &target);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct rig_write write = rig_write(source, SIZE, target.region, 0);
        struct rig_send send = rig_send(&round, sizeof(round));
        struct gw_message message;

        source[SIZE - 1] = (uint8_t)round;
        source[0] = (uint8_t)(round * 3);
        write.write.flags = round % 2 ? GW_POST_MORE : 0;
        cr_assert_eq(rig_post_write(rig->near, &write), 0);
        cr_assert_eq(rig_post_send(rig->near, &send), 0);
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        cr_assert_eq(message.length, sizeof(round));
        cr_assert_eq(memcmp(message.data, &round, sizeof(round)), 0);
        cr_assert_eq(memcmp(target.memory, source, SIZE), 0);
        cr_assert(rig_until(rig, &write.done_count, 1) && rig_until(rig, &send.done_count, 1));
    }
    target_close(&target);
    free(source);
}

CONTRACT(messages_arrive_in_order_both_ways)
{
    enum { COUNT = 900 };
    static struct rig_send near_sends[COUNT], far_sends[COUNT];
    static unsigned numbers[COUNT];

    for (unsigned i = 0; i < COUNT; i++)
        numbers[i] = i;
    for (unsigned i = 0; i < COUNT; i++) {
        near_sends[i] = rig_send(&numbers[i], sizeof(unsigned));
        far_sends[i] = rig_send(&numbers[COUNT - 1 - i], sizeof(unsigned));
        near_sends[i].send.flags = i % 7 ? GW_POST_MORE : 0;
        cr_assert_eq(rig_post_send(rig->near, &near_sends[i]), 0);
        cr_assert_eq(rig_post_send(rig->far, &far_sends[i]), 0);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        struct gw_message message;

        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        cr_assert_eq(memcmp(message.data, &numbers[i], sizeof(unsigned)), 0);
        cr_assert_eq(rig_receive(rig, rig->near, &message), 0);
        cr_assert_eq(memcmp(message.data, &numbers[COUNT - 1 - i], sizeof(unsigned)), 0,
                     "%s: message %u is %u", rig_name(rig->kind), i,
                     *(const unsigned *)message.data);
    }
}

CONTRACT(message_keeps_its_bytes_until_the_next_recv)
{
    static uint8_t bytes[3][GW_MESSAGE_MAX];
    struct rig_send sends[3];
    struct gw_message message;

    for (int i = 0; i < 3; i++) {
        rig_fill(bytes[i], GW_MESSAGE_MAX, 40u + (unsigned)i);
        sends[i] = rig_send(bytes[i], GW_MESSAGE_MAX);
        cr_assert_eq(rig_post_send(rig->near, &sends[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        cr_assert(rig_until(rig, &sends[2].done_count, 1));
        for (int turn = 0; turn < 100; turn++)
            rig_turn(rig);
        cr_assert_eq(message.length, GW_MESSAGE_MAX);
        cr_assert_eq(memcmp(message.data, bytes[i], GW_MESSAGE_MAX), 0);
    }
}

/* ---- sizes ---- */

CONTRACT(zero_length_write_and_message)
{
    struct target target;
    struct rig_write write;
    struct rig_send empty = rig_send(NULL, 0), full = rig_send("x", 1);
    struct gw_message message = {.length = 99};

    target_open(rig, 4096, 0, &target);
    write = rig_write(NULL, 0, target.region, 4096);
    cr_assert_eq(rig_post_write(rig->near, &write), 0);
    cr_assert_eq(rig_post_send(rig->near, &empty), 0);
    cr_assert_eq(rig_post_send(rig->near, &full), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(message.length, 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(message.length, 1);
    cr_assert(rig_until(rig, &write.done_count, 1));
    cr_assert_eq(write.status, 0);
    target_close(&target);
}

CONTRACT(zero_length_writes_within_a_batch)
{
    enum { COUNT = 150 };
    static struct rig_write writes[COUNT];
    struct target target;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    uint8_t *source = source_new(COUNT * 512, 7);

    target_open(rig, COUNT * 512, 0, &target);
    for (unsigned i = 0; i < COUNT; i++) {
        writes[i] = rig_write(source + i * 512, i % 3 == 1 ? 512 : 0, target.region, i * 512);
        writes[i].write.flags = GW_POST_MORE;
        cr_assert_eq(rig_post_write(rig->near, &writes[i]), 0);
    }
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        static const uint8_t zero[512];

        cr_assert(rig_until(rig, &writes[i].done_count, 1));
        cr_assert_eq(memcmp(target.memory + i * 512, i % 3 == 1 ? source + i * 512 : zero, 512), 0);
    }
    target_close(&target);
    free(source);
}

static void largest_write(struct rig *rig, unsigned flags)
{
    struct target target;
    struct rig_write write;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    uint8_t *source = source_new(GW_WRITE_MAX, 2);

    target_open(rig, GW_WRITE_MAX + 2, 0, &target);
    write = rig_write(source, GW_WRITE_MAX, target.region, 1);
    write.write.flags = flags;
    cr_assert_eq(rig_post_write(rig->near, &write), 0);
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(memcmp(target.memory + 1, source, GW_WRITE_MAX), 0);
    cr_assert_eq(target.memory[0], 0);
    cr_assert_eq(target.memory[GW_WRITE_MAX + 1], 0);
    cr_assert(rig_until(rig, &write.done_count, 1));
    target_close(&target);
    free(source);
}

CONTRACT(largest_write)
{
    largest_write(rig, 0);
}

CONTRACT(largest_stable_write)
{
    largest_write(rig, GW_POST_STABLE);
}

CONTRACT(sizes_beyond_the_largest_are_refused)
{
    static uint8_t bytes[GW_MESSAGE_MAX + 1];
    struct target target;
    struct rig_write write;
    struct rig_send send = rig_send(bytes, GW_MESSAGE_MAX + 1);

    target_open(rig, 4096, 0, &target);
    write = rig_write(bytes, GW_WRITE_MAX + 1, target.region, 0);
    cr_assert_eq(rig_post_write(rig->near, &write), -EINVAL);
    cr_assert_eq(rig_post_send(rig->near, &send), -EMSGSIZE);
    cr_assert_eq(write.done_count + send.done_count, 0);
    target_close(&target);
}

/* ---- regions ---- */

CONTRACT(write_past_the_end_of_a_region_is_refused)
{
    struct target target;
    struct rig_write write;
    uint8_t byte[2] = {1, 1};

    target_open(rig, 4096, 0, &target);
    write = rig_write(byte, 2, target.region, 4095);
    expect_refused(rig, &write, &target, "2 bytes at offset 4095 of a region of 4096");
    target_close(&target);
}

CONTRACT(write_whose_offset_overflows_is_refused)
{
    struct target target;
    struct rig_write write;
    uint8_t byte[2] = {1, 1};

    target_open(rig, 4096, 0, &target);
    write = rig_write(byte, 2, target.region, UINT64_MAX);
    expect_refused(rig, &write, &target, "18446744073709551615");
    target_close(&target);
}

CONTRACT(write_to_a_wrong_key_is_refused)
{
    struct target target;
    struct rig_write write;

    target_open(rig, 4096, 0, &target);
    write = rig_write("x", 1, target.region, 0);
    write.write.remote_key ^= 1ull << 40;
    expect_refused(rig, &write, &target, "not registered");
    target_close(&target);
}

CONTRACT(write_to_key_zero_is_refused)
{
    struct target target;
    struct rig_write write;

    target_open(rig, 4096, 0, &target);
    write = rig_write("x", 1, target.region, 0);
    write.write.remote_key = 0;
    expect_refused(rig, &write, &target, "not registered");
    target_close(&target);
}

CONTRACT(write_to_an_ended_region_is_refused)
{
    struct target target;
    struct rig_write write;

    target_open(rig, 4096, 0, &target);
    write = rig_write("x", 1, target.region, 0);
    gw_unreg(target.region);
    expect_refused(rig, &write, &target, "not registered");
    free(target.memory);
}

CONTRACT(write_to_another_channels_region_is_refused)
{
    struct target target;
    struct rig_write write;

    target_open(rig, 4096, 2, &target);
    write = rig_write("x", 1, target.region, 0);
    expect_refused(rig, &write, &target, "channel 2");
    target_close(&target);
}

CONTRACT(write_to_the_channels_own_region_is_placed)
{
    struct target target;
    struct rig_write write;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;

    target_open(rig, 4096, 1, &target);
    write = rig_write("x", 1, target.region, 4095);
    cr_assert_eq(rig_post_write(rig->near, &write), 0);
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(target.memory[4095], 'x');
    target_close(&target);
}

CONTRACT(region_without_remote_write_has_no_key)
{
    static uint8_t memory[4096];
    struct gw_region *region;
    struct target none = {.memory = memory, .size = sizeof(memory)};
    struct rig_write write;

    cr_assert_eq(gw_reg(rig->far_domain, memory, sizeof(memory), GW_ACCESS_LOCAL_READ, 0, &region),
                 0);
    write = rig_write("x", 1, region, 0);
    expect_refused(rig, &write, &none, "not registered");
    gw_unreg(region);
}

CONTRACT(bad_write_in_the_middle_of_a_batch_places_nothing_of_it)
{
    enum { COUNT = 40 };
    static struct rig_write writes[COUNT];
    struct target target;
    struct gw_message message;
    uint8_t *source = source_new(COUNT * 4096, 3);

    target_open(rig, COUNT * 4096, 0, &target);
    for (unsigned i = 0; i < COUNT; i++) {
        writes[i] = rig_write(source + i * 4096, 4096, target.region, i * 4096);
        writes[i].write.flags = GW_POST_MORE;
        if (i == 20)
            writes[i].write.remote_offset = target.size - 4095;
        cr_assert_eq(rig_post_write(rig->near, &writes[i]), 0);
    }
    cr_assert_eq(rig_receive(rig, rig->far, &message), -EPROTO);
    for (size_t i = 21 * 4096; i < target.size; i++)
        cr_assert_eq(target.memory[i], 0);
    for (unsigned i = 0; i < COUNT; i++)
        cr_assert(rig_until(rig, &writes[i].done_count, 1));
    target_close(&target);
    free(source);
}

CONTRACT(region_with_nonsense_is_not_registered)
{
    struct gw_region *region;
    uint8_t byte;

    cr_assert_eq(gw_reg(rig->far_domain, &byte, 0, GW_ACCESS_REMOTE_WRITE, 0, &region), -EINVAL);
    cr_assert_eq(gw_reg(rig->far_domain, NULL, 1, GW_ACCESS_REMOTE_WRITE, 0, &region), -EINVAL);
    cr_assert_eq(gw_reg(rig->far_domain, &byte, UINT64_MAX, GW_ACCESS_REMOTE_WRITE, 0, &region),
                 -EINVAL);
    cr_assert_eq(gw_reg(rig->far_domain, &byte, 1, 4, 0, &region), -EINVAL);
    cr_assert_eq(gw_reg(rig->far_domain, &byte, 1, 0, 0, &region), -EINVAL);
}

CONTRACT(keys_are_not_reused_or_guessable)
{
    enum { COUNT = 600 };
    static uint64_t keys[COUNT];
    uint8_t byte;

    for (int i = 0; i < COUNT; i++) {
        struct gw_region *region;

        cr_assert_eq(gw_reg(rig->far_domain, &byte, 1, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
        keys[i] = region->key;
        cr_assert_neq(keys[i], 0);
        gw_unreg(region);
        for (int j = 0; j < i; j++)
            cr_assert(keys[i] != keys[j] && keys[i] - keys[j] != 1 && keys[j] - keys[i] != 1);
    }
}

CONTRACT(many_regions_at_once)
{
    enum { COUNT = 3000 };
    static struct gw_region *regions[COUNT];
    static uint8_t memory[COUNT];
    struct gw_message message;

    for (unsigned i = 0; i < COUNT; i++)
        cr_assert_eq(gw_reg(rig->far_domain, &memory[i], 1, GW_ACCESS_REMOTE_WRITE, 0, &regions[i]),
                     0);
    for (unsigned i = 0; i < COUNT; i += 301) {
        struct rig_write write = rig_write("x", 1, regions[i], 0);
        struct rig_send send = rig_send("end", 3);

        cr_assert_eq(rig_post_write(rig->near, &write), 0);
        cr_assert_eq(rig_post_send(rig->near, &send), 0);
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        cr_assert_eq(memory[i], 'x');
        cr_assert(rig_until(rig, &send.done_count, 1));
    }
    for (unsigned i = 0; i < COUNT; i++)
        gw_unreg(regions[i]);
}

/* ---- queues ---- */

CONTRACT(full_queue_answers_eagain_and_then_moves_on)
{
    static struct rig_send sends[GW_CHANNEL_OPS_MAX * 8];
    static uint8_t bytes[GW_MESSAGE_MAX];
    unsigned posted = 0, taken = 0, total = GW_CHANNEL_OPS_MAX * 8;
    bool was_full = false;

    /* The far end takes nothing until the near end is stuck for good. */
    for (int stuck = 0; stuck < 200 && posted < total;) {
        struct gw_channel *ready[1];
        int error;

        sends[posted] = rig_send(bytes, GW_MESSAGE_MAX);
        error = rig_post_send(rig->near, &sends[posted]);
        cr_assert(error == 0 || error == -EAGAIN);
        was_full |= error == -EAGAIN;
        stuck = error ? stuck + 1 : 0;
        posted += error == 0;
        gw_poll(rig->near_poller, ready, 1);
        gw_poll(rig->far_poller, ready, 1);
    }
    cr_assert(was_full);
    while (taken < posted) {
        struct gw_message message;

        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        taken++;
    }
    for (unsigned i = 0; i < posted; i++) {
        cr_assert(rig_until(rig, &sends[i].done_count, 1));
        cr_assert_eq(sends[i].done_count, 1);
        cr_assert_eq(sends[i].status, 0);
    }
}

CONTRACT(thousands_of_scattered_writes)
{
    enum { COUNT = 8000, SIZE = 4096 };
    static struct rig_write writes[COUNT];
    struct target target;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    uint8_t *source = source_new((size_t)COUNT * SIZE, 5);

    target_open(rig, (size_t)COUNT * SIZE, 0, &target);
    for (unsigned i = 0; i < COUNT;) {
        unsigned to = i * 4799u % COUNT; /* prime to COUNT: every place once, none in order */
        int error;

        writes[i] = rig_write(source + (size_t)to * SIZE, SIZE, target.region, (uint64_t)to * SIZE);
        writes[i].write.flags = GW_POST_MORE | (i % 2 ? GW_POST_STABLE : 0);
        error = rig_post_write(rig->near, &writes[i]);
        cr_assert(error == 0 || error == -EAGAIN);
        if (error)
            rig_turn(rig);
        else
            i++;
    }
    while (rig_post_send(rig->near, &send) == -EAGAIN)
        rig_turn(rig);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(memcmp(target.memory, source, (size_t)COUNT * SIZE), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        cr_assert(rig_until(rig, &writes[i].done_count, 1));
        cr_assert_eq(writes[i].done_count, 1);
    }
    target_close(&target);
    free(source);
}

CONTRACT(large_writes_of_every_kind_mixed_with_messages)
{
    enum { COUNT = 48 };
    static struct rig_write writes[COUNT];
    static struct rig_send sends[COUNT];
    static unsigned numbers[COUNT];
    struct target target;
    uint8_t *source = source_new((size_t)COUNT * MIB, 6);
    struct gw_message message;

    target_open(rig, (size_t)COUNT * MIB, 0, &target);
    for (unsigned i = 0; i < COUNT; i++) {
        /* Odd sizes and alignments around the limits at which senders change. */
        uint32_t length = i % 4 == 0 ? MIB - 3 : i % 4 == 1 ? 65536 : i % 4 == 2 ? 65535 : 300001;

        numbers[i] = i;
        writes[i] = rig_write(source + (size_t)i * MIB + i, length - i, target.region,
                              (uint64_t)i * MIB + i);
        writes[i].write.flags = (i % 3 ? GW_POST_STABLE : 0) | (i % 5 ? GW_POST_MORE : 0);
        sends[i] = rig_send(&numbers[i], sizeof(unsigned));
        cr_assert_eq(rig_post_write(rig->near, &writes[i]), 0);
        if (i % 6 == 0)
            cr_assert_eq(rig_post_send(rig->near, &sends[i]), 0);
    }
    for (unsigned i = 0; i < COUNT; i += 6)
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    sends[1] = rig_send("end", 3);
    cr_assert_eq(rig_post_send(rig->near, &sends[1]), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        cr_assert(rig_until(rig, &writes[i].done_count, 1));
        cr_assert_eq(writes[i].status, 0);
        cr_assert_eq(memcmp(target.memory + (size_t)i * MIB + i, source + (size_t)i * MIB + i,
                            writes[i].write.length),
                     0, "write %u", i);
        cr_assert_eq(target.memory[(size_t)i * MIB + i + writes[i].write.length], 0);
    }
    target_close(&target);
    free(source);
}

CONTRACT(many_channels_on_one_poller)
{
    enum { CHANNELS = 40, SIZE = 100000 };
    struct gw_channel *near[CHANNELS], *far[CHANNELS];
    static struct rig_write writes[CHANNELS];
    static struct rig_send sends[CHANNELS];
    struct gw_message message;
    struct target target;
    uint8_t *source = source_new((size_t)CHANNELS * SIZE, 8);

    target_open(rig, (size_t)CHANNELS * SIZE, 0, &target);
    for (unsigned i = 0; i < CHANNELS; i++) {
        rig_channel(rig, i + 2, &near[i], &far[i]);
        writes[i] = rig_write(source + i * SIZE, SIZE, target.region, i * SIZE);
        sends[i] = rig_send(&near[i], sizeof(near[i]));
        cr_assert_eq(rig_post_write(near[i], &writes[i]), 0);
        cr_assert_eq(rig_post_send(near[i], &sends[i]), 0);
    }
    for (unsigned i = 0; i < CHANNELS; i++) {
        cr_assert_eq(rig_receive(rig, far[i], &message), 0);
        cr_assert_eq(memcmp(message.data, &near[i], sizeof(near[i])), 0);
    }
    cr_assert_eq(memcmp(target.memory, source, target.size), 0);
    for (unsigned i = 0; i < CHANNELS; i++) {
        cr_assert(rig_until(rig, &sends[i].done_count, 1));
        gw_close(near[i]);
        gw_close(far[i]);
    }
    target_close(&target);
    free(source);
}

CONTRACT(poll_reports_everyone_although_ready_is_short)
{
    enum { CHANNELS = 5 };
    struct gw_channel *near[CHANNELS], *far[CHANNELS];
    static struct rig_send sends[CHANNELS];
    bool seen[CHANNELS] = {false};
    unsigned count = 0;
    uint64_t deadline_ns = gw_clock_ns() + RIG_WAIT_MS * GW_NS_PER_MS;

    for (unsigned i = 0; i < CHANNELS; i++) {
        rig_channel(rig, i + 2, &near[i], &far[i]);
        sends[i] = rig_send("x", 1);
        cr_assert_eq(rig_post_send(near[i], &sends[i]), 0);
    }
    /* Nobody takes the messages: every channel stays ready, and each is named in its turn. */
    while (count < CHANNELS && gw_clock_ns() < deadline_ns) {
        struct gw_channel *ready[1];

        gw_poll(rig->near_poller, NULL, 0);
        if (gw_poll(rig->far_poller, ready, 1) == 1)
            for (unsigned i = 0; i < CHANNELS; i++)
                if (ready[0] == far[i] && !seen[i]) {
                    seen[i] = true;
                    count++;
                }
    }
    cr_assert_eq(count, CHANNELS);
    for (unsigned i = 0; i < CHANNELS; i++) {
        gw_close(near[i]);
        gw_close(far[i]);
    }
}

struct relay {
    struct gw_send send;
    struct gw_channel *channel;
    int left, done_count;
};

static void post_next(struct gw_op *op, int status)
{
    struct relay *relay = gw_container_of(op, struct relay, send.op);

    relay->done_count++;
    if (relay->left-- > 0)
        cr_assert_eq(gw_send(relay->channel, &relay->send), 0);
}

CONTRACT(done_may_post_again)
{
    struct relay relay = {
        .send = {.op = {.done = post_next}, .message = "x", .length = 1, .flags = GW_POST_MORE},
        .channel = rig->near,
        .left = 100};
    struct gw_message message;

    cr_assert_eq(gw_send(rig->near, &relay.send), 0);
    for (int i = 0; i < 101; i++)
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert(rig_until(rig, &relay.done_count, 101));
}

/* ---- sleeping ---- */

static bool sleeps_until_readable(int fd, int timeout_ms)
{
    struct pollfd descriptor = {.fd = fd, .events = POLLIN};

    return poll(&descriptor, 1, timeout_ms) == 1;
}

CONTRACT(armed_descriptor_wakes_for_a_message)
{
    struct gw_channel *ready[1];
    struct rig_send send = rig_send("x", 1);
    struct gw_message message;

    for (int turn = 0; turn < 100; turn++)
        rig_turn(rig);
    cr_assert_eq(gw_recv(rig->far, &message), -EAGAIN);
    (void)gw_poller_arm(rig->far_poller);
    cr_assert_eq(gw_poll(rig->far_poller, ready, 1), 0);
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    gw_poll(rig->near_poller, NULL, 0);
    for (int wakes = 0; gw_poll(rig->far_poller, ready, 1) == 0; wakes++) {
        cr_assert_lt(wakes, 1000);
        cr_assert(sleeps_until_readable(gw_poller_arm(rig->far_poller), RIG_WAIT_MS));
    }
    cr_assert_eq(ready[0], rig->far);
}

CONTRACT(armed_descriptor_is_quiet_when_nothing_happens)
{
    struct gw_channel *ready[1];
    int wakes = 0;

    for (int turn = 0; turn < 200; turn++)
        rig_turn(rig);
    if (rig->kind == RIG_FAULTY_LOOP || rig->kind == RIG_FAULTY_TCP)
        return; /* faulty looks for commands every 20 ms */
    for (int i = 0; i < 4; i++) {
        int fd = gw_poller_arm(rig->far_poller);

        cr_assert_eq(gw_poll(rig->far_poller, ready, 1), 0);
        wakes += sleeps_until_readable(fd, 100);
    }
    cr_assert_leq(wakes, 1, "a back end may look after its peers once a second");
}

CONTRACT(armed_descriptor_wakes_a_blocked_sender)
{
    static struct rig_send sends[GW_CHANNEL_OPS_MAX];
    static uint8_t bytes[GW_MESSAGE_MAX];
    struct gw_message message;
    unsigned posted = 0;

    /* Until the near end is full and nothing moves any more. */
    for (int stuck = 0; stuck < 200;) {
        int done_before = sends[0].done_count;

        if (posted < GW_CHANNEL_OPS_MAX) {
            sends[posted] = rig_send(bytes, GW_MESSAGE_MAX);
            posted += rig_post_send(rig->near, &sends[posted]) == 0;
        }
        rig_turn(rig);
        stuck = done_before == sends[0].done_count && posted == GW_CHANNEL_OPS_MAX ? stuck + 1 : 0;
    }
    for (unsigned taken = 0; taken < posted; taken++) {
        struct gw_channel *ready[1];

        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        gw_poller_arm(rig->near_poller);
        gw_poll(rig->near_poller, ready, 1);
    }
    cr_assert(rig_until(rig, &sends[posted - 1].done_count, 1));
}

CONTRACT(armed_descriptor_wakes_for_death)
{
    struct gw_channel *ready[1];

    for (int turn = 0; turn < 100; turn++)
        rig_turn(rig);
    gw_close(rig->near);
    rig->near = NULL;
    for (int wakes = 0; gw_poll(rig->far_poller, ready, 1) == 0; wakes++) {
        cr_assert_lt(wakes, 1000);
        cr_assert(sleeps_until_readable(gw_poller_arm(rig->far_poller), RIG_WAIT_MS));
    }
    cr_assert_eq(ready[0], rig->far);
}

/* ---- death ---- */

CONTRACT(close_cancels_every_op_once)
{
    static struct rig_write writes[GW_CHANNEL_OPS_MAX];
    struct target target;
    uint8_t *source = source_new(MIB, 9);
    int finished = 0;

    target_open(rig, MIB, 0, &target);
    for (unsigned i = 0; i < GW_CHANNEL_OPS_MAX; i++) {
        writes[i] = rig_write(source, MIB, target.region, 0);
        writes[i].write.flags = i % 2 ? GW_POST_STABLE : 0;
        cr_assert_eq(rig_post_write(rig->near, &writes[i]), 0);
    }
    gw_close(rig->near);
    rig->near = NULL;
    for (unsigned i = 0; i < GW_CHANNEL_OPS_MAX; i++) {
        cr_assert_eq(writes[i].done_count, 1);
        cr_assert(writes[i].status == 0 || writes[i].status == -ECANCELED);
        finished += writes[i].status == 0;
    }
    cr_assert_lt(finished, (int)GW_CHANNEL_OPS_MAX);
    for (int turn = 0; turn < 100; turn++)
        rig_turn(rig);
    target_close(&target);
    free(source);
}

/* The peer closes after so many turns of work: each count is another moment of the transfer. */
CONTRACT(peer_that_dies_at_any_moment)
{
    enum { COUNT = 24 };
    static struct rig_write writes[COUNT];
    static struct rig_send sends[COUNT];
    struct target target;
    uint8_t *source = source_new(COUNT * 200000, 10);

    target_open(rig, COUNT * 200000, 0, &target);
    for (int turns = 0; turns < 40; turns++) {
        struct gw_channel *near, *far;
        struct gw_message message;
        int error = 0;

        rig_channel(rig, (uint32_t)turns + 2, &near, &far);
        for (unsigned i = 0; i < COUNT; i++) {
            writes[i] =
                rig_write(source + i * 200000, i % 3 ? 200000 : 4096, target.region, i * 200000);
            writes[i].write.flags = (i % 2 ? GW_POST_STABLE : 0) | (i % 5 ? GW_POST_MORE : 0);
            sends[i] = rig_send("x", 1);
            cr_assert_eq(rig_post_write(near, &writes[i]), 0);
            cr_assert_eq(rig_post_send(near, &sends[i]), 0);
        }
        for (int turn = 0; turn < turns; turn++)
            rig_turn(rig);
        gw_close(far);
        while (error == 0)
            error = rig_receive(rig, near, &message);
        cr_assert(error == -ECONNRESET || error == -EPIPE, "%d turns: %d", turns, error);
        for (unsigned i = 0; i < COUNT; i++) {
            cr_assert(rig_until(rig, &writes[i].done_count, 1));
            cr_assert(rig_until(rig, &sends[i].done_count, 1));
            cr_assert(writes[i].status == 0 || writes[i].status == error);
        }
        cr_assert_eq(rig_post_send(near, &sends[0]), error, "posting names the cause");
        gw_close(near);
        for (unsigned i = 0; i < COUNT; i++)
            cr_assert(writes[i].done_count == 1 && sends[i].done_count == 1);
    }
    target_close(&target);
    free(source);
}

CONTRACT(last_words_arrive_before_death)
{
    struct rig_send sends[3];
    struct gw_message message;

    for (int i = 0; i < 3; i++) {
        sends[i] = rig_send("goodbye", 7);
        cr_assert_eq(rig_post_send(rig->near, &sends[i]), 0);
    }
    cr_assert(rig_until(rig, &sends[2].done_count, 1));
    gw_close(rig->near);
    rig->near = NULL;
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        cr_assert_eq(message.length, 7);
    }
    cr_assert_eq(rig_receive(rig, rig->far, &message), -ECONNRESET);
}

CONTRACT(info_counts_and_describes)
{
    struct gw_channel_info info;
    struct target target;
    struct rig_write write;
    struct rig_send send = rig_send("12345", 5);
    struct gw_message message;

    target_open(rig, 4096, 0, &target);
    write = rig_write(target.memory, 1000, target.region, 2000);
    cr_assert_eq(rig_post_write(rig->near, &write), 0);
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert(rig_until(rig, &send.done_count, 1));
    gw_channel_info(rig->near, &info);
    cr_assert_eq(info.bytes_sent, 1005);
    cr_assert_eq(info.messages_sent, 1);
    cr_assert(gw_address_same_host(&info.peer, &rig->address));
    cr_assert_gt(strlen(info.description), 10);
    gw_channel_info(rig->far, &info);
    cr_assert_eq(info.bytes_received, 1005);
    cr_assert_eq(info.messages_received, 1);
    target_close(&target);
}
