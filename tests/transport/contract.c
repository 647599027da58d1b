/* SPDX-License-Identifier: Apache-2.0 */
/* What transport.h promises of order, sizes and regions. */
#include "tests/transport/contract.h"

/* A provider of libfabric ends the connection and does not say why. */
static bool is_breach(const struct rig *rig, int error)
{
    return error == -EPROTO ||
           (error == -ECONNRESET && (rig->kind == RIG_FABRIC || rig->kind == RIG_FAULTY_FABRIC));
}

/* Expects that posting this write kills both ends, the far one as a breach of protocol that text
 * explains, and that nothing was placed. */
static void expect_refused(struct rig *rig, struct rig_write *write, const struct target *target,
                           const char *text)
{
    struct gw_message message;
    int error, breach;

    cr_assert_eq(rig_post_write(rig->near, write), 0);
    breach = rig_receive(rig, rig->far, &message);
    cr_assert(is_breach(rig, breach), "the far end got %d (%s)", breach, gw_error_message());
    /* A device says only that something was not allowed. */
    if (rig->transport->ops->is_rdma)
        text = "outside of what it had been given";
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
    error = rig_receive(rig, rig->near, &message);
    cr_assert(error == -ECONNRESET || error == -EPIPE, "the near end got %d", error);
    cr_assert(rig_until(rig, &write->done_count, 1));
    for (size_t i = 0; target && i < target->size; i++)
        cr_assert_eq(target->memory[i], 0);
    write->write.region = NULL; /* was the other end's */
    cr_assert_eq(rig_post_write(rig->far, write), breach);
    cr_assert_eq(rig_receive(rig, rig->far, &message), breach, "dead for good");
}

/* ---- order ---- */

CONTRACT(message_comes_after_writes_posted_before_it)
{
    enum { ROUNDS = 200, SIZE = 64 * 1024 };
    struct target target;
    uint8_t *source = rig_source_new(rig, SIZE, 1);

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
    rig_source_free(rig, source);
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
    cr_assert(rig_until(rig, &full.done_count, 1));
    target_close(&target);
}

CONTRACT(zero_length_writes_within_a_batch)
{
    enum { COUNT = 150 };
    static struct rig_write writes[COUNT];
    struct target target;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    uint8_t *source = rig_source_new(rig, COUNT * 512, 7);

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
    cr_assert(rig_until(rig, &send.done_count, 1));
    target_close(&target);
    rig_source_free(rig, source);
}

static void largest_write(struct rig *rig, unsigned flags)
{
    struct target target;
    struct rig_write write;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    uint8_t *source = rig_source_new(rig, GW_WRITE_MAX, 2);

    target_open(rig, GW_WRITE_MAX + 2, 0, &target);
    write = rig_write(source, GW_WRITE_MAX, target.region, 1);
    write.write.flags = flags;
    cr_assert_eq(rig_post_write(rig->near, &write), 0);
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(memcmp(target.memory + 1, source, GW_WRITE_MAX), 0);
    cr_assert_eq(target.memory[0], 0);
    cr_assert_eq(target.memory[GW_WRITE_MAX + 1], 0);
    cr_assert(rig_until(rig, &write.done_count, 1) && rig_until(rig, &send.done_count, 1));
    target_close(&target);
    rig_source_free(rig, source);
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
    write.write.remote_key ^= 1ull << (rig->transport->ops->has_channel_keys ? 40 : 20);
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

    if (!rig->transport->ops->has_channel_keys) {
        rig_close(rig);
        cr_skip_test("%s: keys are the device's, good on every channel", rig_name(rig->kind));
    }
    target_open(rig, 4096, 2, &target);
    write = rig_write("x", 1, target.region, 0);
    expect_refused(rig, &write, &target, "channel 2");
    target_close(&target);
}

/* A domain belongs to one link: what one peer was given is no other peer's. */
CONTRACT(write_to_another_domains_region_is_refused)
{
    static uint8_t memory[4096];
    struct target target = {.memory = memory, .size = sizeof(memory)};
    struct rig_write write;

    cr_assert_eq(
        gw_reg(rig->near_domain, memory, sizeof(memory), GW_ACCESS_REMOTE_WRITE, 0, &target.region),
        0);
    write = rig_write("x", 1, target.region, 0);
    expect_refused(rig, &write, &target, "not registered");
    gw_unreg(target.region);
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
    cr_assert(rig_until(rig, &send.done_count, 1));
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
    uint8_t *source = rig_source_new(rig, COUNT * 4096, 3);

    target_open(rig, COUNT * 4096, 0, &target);
    for (unsigned i = 0; i < COUNT; i++) {
        writes[i] = rig_write(source + i * 4096, 4096, target.region, i * 4096);
        writes[i].write.flags = GW_POST_MORE;
        if (i == 20)
            writes[i].write.remote_offset = target.size - 4095;
        cr_assert_eq(rig_post_write(rig->near, &writes[i]), 0);
    }
    cr_assert(is_breach(rig, rig_receive(rig, rig->far, &message)));
    /* Where each datagram is placed by itself, those of the bad write that lie within are, too. */
    for (size_t i = 21 * 4096; i < target.size - (rig->kind == RIG_DPDK ? 4095 : 0); i++)
        cr_assert_eq(target.memory[i], 0);
    for (unsigned i = 0; i < COUNT; i++)
        cr_assert(rig_until(rig, &writes[i].done_count, 1));
    target_close(&target);
    rig_source_free(rig, source);
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

    if (!rig->transport->ops->has_channel_keys) {
        rig_close(rig);
        cr_skip_test("%s: keys are the device's, and can be guessed", rig_name(rig->kind));
    }
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
