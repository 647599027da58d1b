/* SPDX-License-Identifier: Apache-2.0 */
/* What transport.h promises of full queues, of sleeping on a poller, and of death. */
#include <poll.h>

#include "common/checked.h"
#include "common/clock.h"
#include "tests/transport/contract.h"

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
    uint8_t *source = rig_source_new(rig, (size_t)COUNT * SIZE, 5);

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
    cr_assert(rig_until(rig, &send.done_count, 1));
    for (unsigned i = 0; i < COUNT; i++) {
        cr_assert(rig_until(rig, &writes[i].done_count, 1));
        cr_assert_eq(writes[i].done_count, 1);
    }
    target_close(&target);
    rig_source_free(rig, source);
}

CONTRACT(large_writes_of_every_kind_mixed_with_messages)
{
    enum { COUNT = 48 };
    static struct rig_write writes[COUNT];
    static struct rig_send sends[COUNT];
    static unsigned numbers[COUNT];
    struct target target;
    uint8_t *source = rig_source_new(rig, (size_t)COUNT * MIB, 6);
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
    rig_source_free(rig, source);
}

CONTRACT(many_channels_on_one_poller)
{
    enum { CHANNELS = 40, SIZE = 100000 };
    struct gw_channel *near[CHANNELS], *far[CHANNELS];
    static struct rig_write writes[CHANNELS];
    static struct rig_send sends[CHANNELS];
    struct gw_message message;
    struct target target;
    uint8_t *source = rig_source_new(rig, (size_t)CHANNELS * SIZE, 8);

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
    rig_source_free(rig, source);
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

/* Until nothing happens any more. Where the path's MTU is found out by trying, that takes some round trips, and
 * an end stays awake for a while after them. */
static void settle(struct rig *rig)
{
    uint64_t settled_ns = gw_clock_ns() + (rig->kind == RIG_DPDK ? 500 * GW_NS_PER_MS : 0);

    for (int turn = 0; turn < 200 || gw_clock_ns() < settled_ns; turn++)
        rig_turn(rig);
}

CONTRACT(armed_descriptor_wakes_for_a_message)
{
    struct gw_channel *ready[1];
    struct rig_send send = rig_send("x", 1);
    struct gw_message message;

    settle(rig);
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
    cr_assert(rig_until(rig, &send.done_count, 1));
}

CONTRACT(armed_descriptor_stays_the_same)
{
    static uint8_t bytes[GW_MESSAGE_MAX];
    struct rig_send sends[16];
    struct gw_message message;
    int fd = gw_poller_arm(rig->far_poller);

    /* Also for an end that many messages came to just now. */
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(sends); i++) {
        sends[i] = rig_send(bytes, sizeof(bytes));
        cr_assert_eq(rig_post_send(rig->near, &sends[i]), 0);
    }
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(sends); i++) {
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
        cr_assert_eq(gw_poller_arm(rig->far_poller), fd);
    }
}

CONTRACT(armed_descriptor_is_quiet_when_nothing_happens)
{
    struct gw_channel *ready[1];
    int wakes = 0, seconds;
    uint64_t begun_ns;

    settle(rig);
    if (rig_is_faulty(rig))
        return; /* faulty looks for commands every 20 ms */
    begun_ns = gw_clock_ns();
    for (int i = 0; i < 4; i++) {
        int fd = gw_poller_arm(rig->far_poller);

        cr_assert_eq(gw_poll(rig->far_poller, ready, 1), 0);
        wakes += sleeps_until_readable(fd, 100);
    }
    /* Less than one, but on a machine that had other things to do. */
    seconds = (int)((gw_clock_ns() - begun_ns) / GW_NS_PER_S) + 1;
    cr_assert_leq(wakes, seconds * rig_timers(rig),
                  "a back end may look after its peers once a second");
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
    uint8_t *source = rig_source_new(rig, MIB, 9);
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
    rig_source_free(rig, source);
}

/* The peer closes after so many turns of work: each count is another moment of the transfer. */
CONTRACT(peer_that_dies_at_any_moment)
{
    enum { COUNT = 24 };
    static struct rig_write writes[COUNT];
    static struct rig_send sends[COUNT];
    struct target target;
    uint8_t *source = rig_source_new(rig, COUNT * 200000, 10);

    target_open(rig, COUNT * 200000, 0, &target);
    /* Making a channel takes a while in the lab: fewer moments there. */
    for (int turns = 0; turns < 40; turns += rig->kind == RIG_VERBS ? 5 : 1) {
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
    rig_source_free(rig, source);
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
