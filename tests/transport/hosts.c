/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What transport.h promises, with the two ends in two processes, mostly on two hosts (tests/lab/
 * rdma_contract.py): each process is one end, and both go through the same tests in the same order. Every
 * test has a channel of its own; a second one, aside, lives as long as all of them, says who may go on,
 * and shows that what kills one channel kills no other.
 *   transport-hosts far  LOCAL:PORT        [TEST]
 *   transport-hosts near LOCAL PEER:PORT   [TEST]
 * Over tcp, or over verbs, fabric or dpdk by the environment (rig.h). The far end goes first and prints "ready
 * PORT". A TEST by name: that one alone; vanish, in which the far end goes away by other hands, is run
 * only so. What fails ends the process with status 134.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/check.h"
#include "tests/transport/rig.h"

#define PATIENCE 6 /* times RIG_WAIT_MS: an emulated host beside others */
#define ASIDE    1u
#define FRAME    64u /* bytes on either side of what is written, which nobody may touch */
#define WRITES   24u
#define VANISH_S 120

/* This process's end. The rig has it on both of its sides, so that what turns both turns this one. */
struct end {
    struct rig rig;
    bool is_near;
    struct gw_address peer;
    struct gw_channel *aside, *channel;
    uint32_t number; /* of the newest channel */
    /* Of the test: the near end's source, or the far end's target and its region. */
    uint8_t *memory;
    size_t size;
    struct gw_region region;
    struct gw_region *registered;
};

/* ---- waiting ---- */

/* What gw_recv says in the end. */
static int receive(struct end *end, struct gw_channel *channel, struct gw_message *out)
{
    int error = -EAGAIN;

    /* Nothing within the rig's time is not the same as a channel that died of a timeout. */
    for (int i = 0; i < PATIENCE && error == -EAGAIN; i++) {
        error = rig_receive(&end->rig, channel, out);
        if (error == -ETIMEDOUT)
            error = gw_recv(channel, out);
    }
    return error;
}

static void await(struct end *end, const int *value)
{
    int i = 0;

    while (i < PATIENCE && !rig_until(&end->rig, value, 1))
        i++;
    check(*value == 1);
}

static void say(struct end *end, struct gw_channel *channel, const void *bytes, uint32_t length)
{
    struct rig_send send = rig_send(bytes, length);
    int error;

    /* Behind thousands of writes the queue may be full. */
    while ((error = rig_post_send(channel, &send)) == -EAGAIN)
        rig_turn(&end->rig);
    check(error == 0);
    await(end, &send.done_count);
    check(send.status == 0);
}

static void hear(struct end *end, struct gw_channel *channel, void *out, uint32_t length)
{
    struct gw_message message;

    check(receive(end, channel, &message) == 0);
    check(message.length == length);
    memcpy(out, message.data, length);
}

/* Until the other end is here as well. */
static void meet(struct end *end)
{
    uint32_t mine = end->number, theirs;

    say(end, end->aside, &mine, sizeof(mine));
    hear(end, end->aside, &theirs, sizeof(theirs));
    check(mine == theirs);
}

/* ---- channels ---- */

static struct gw_channel *join(struct end *end, uint32_t number)
{
    struct gw_channel_options options = {.domain = end->rig.near_domain,
                                         .poller = end->rig.near_poller,
                                         .context = &end->rig,
                                         .number = number,
                                         .timeout_ms = RIG_WAIT_MS};
    struct gw_connect_options dial = {.peer = end->peer};
    struct gw_request *request;
    struct gw_channel *channel;

    rig_set_secret(&options);
    dial.channel = options;
    if (end->is_near) {
        check(gw_connect(end->rig.transport, &dial, &channel) == 0);
    } else {
        int error = -ETIMEDOUT;

        for (int i = 0; i < PATIENCE && error == -ETIMEDOUT; i++)
            error = gw_next_request(end->rig.listener, RIG_WAIT_MS, &request);
        check(error == 0);
        check(gw_accept(request, &options, &channel) == 0);
    }
    return channel;
}

/* A channel for a test, and so much memory: the near end's source, which the far end's region is for. */
static void begin(struct end *end, size_t size, unsigned access)
{
    uint64_t key;

    end->channel = join(end, ++end->number);
    end->size = size;
    if (end->is_near) {
        end->memory = rig_source_new(&end->rig, size, end->number);
        hear(end, end->channel, &key, sizeof(key));
        end->region = (struct gw_region){.key = key};
        return;
    }
    end->memory = calloc(1, size);
    check(end->memory);
    check(gw_reg(end->rig.near_domain, end->memory, size, access, end->number, &end->registered) ==
          0);
    key = end->registered->key;
    say(end, end->channel, &key, sizeof(key));
}

static void finish(struct end *end)
{
    meet(end);
    gw_close(end->channel);
    if (end->is_near) {
        rig_source_free(&end->rig, end->memory);
    } else {
        gw_unreg(end->registered);
        free(end->memory);
    }
    end->registered = NULL;
}

static void post_write(struct end *end, struct rig_write *write)
{
    int error;

    while ((error = rig_post_write(end->channel, write)) == -EAGAIN)
        rig_turn(&end->rig);
    check(error == 0);
}

/* The near end's memory as it was made, for the far end to compare. */
static uint8_t *expected(const struct end *end)
{
    uint8_t *bytes = malloc(end->size);

    check(bytes);
    rig_fill(bytes, end->size, end->number);
    return bytes;
}

/* ---- order and sizes ---- */

/* The bytes of each round differ from those of the round before. */
static void writes_are_visible_before_the_message_behind_them(struct end *end)
{
    enum { ROUNDS = 60, PIECES = 16, SIZE = PIECES * 9000 };

    begin(end, SIZE, GW_ACCESS_REMOTE_WRITE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct rig_write writes[PIECES];
        unsigned heard;

        if (!end->is_near) {
            uint8_t *wanted = malloc(SIZE);

            hear(end, end->channel, &heard, sizeof(heard));
            check(wanted && heard == round);
            rig_fill(wanted, SIZE, round);
            check(memcmp(end->memory, wanted, SIZE) == 0);
            free(wanted);
            say(end, end->channel, &round, sizeof(round));
            continue;
        }
        rig_fill(end->memory, SIZE, round);
        for (unsigned i = 0; i < PIECES; i++) {
            unsigned at = (i * 7 + round) % PIECES * (SIZE / PIECES);

            writes[i] = rig_write(end->memory + at, SIZE / PIECES, &end->region, at);
            writes[i].write.flags = round % 3 ? GW_POST_MORE : 0;
            post_write(end, &writes[i]);
        }
        say(end, end->channel, &round, sizeof(round));
        hear(end, end->channel, &heard, sizeof(heard));
        check(heard == round);
        for (unsigned i = 0; i < PIECES; i++) {
            await(end, &writes[i].done_count);
            check(writes[i].status == 0);
        }
    }
    finish(end);
}

static void messages_keep_their_order_both_ways(struct end *end)
{
    enum { COUNT = 900 };
    static struct rig_send sends[COUNT];
    static unsigned numbers[COUNT];

    begin(end, 4096, GW_ACCESS_REMOTE_WRITE);
    for (unsigned i = 0; i < COUNT; i++) {
        numbers[i] = i;
        sends[i] = rig_send(&numbers[i], sizeof(unsigned));
        sends[i].send.flags = i % 7 ? GW_POST_MORE : 0;
        check(rig_post_send(end->channel, &sends[i]) == 0);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        unsigned heard;

        hear(end, end->channel, &heard, sizeof(heard));
        check(heard == i);
    }
    for (unsigned i = 0; i < COUNT; i++)
        await(end, &sends[i].done_count);
    finish(end);
}

static void sizes_from_nothing_to_the_largest(struct end *end)
{
    static const uint32_t sizes[] = {0, 1, 4095, 4096, 65537, GW_WRITE_MAX - 1, GW_WRITE_MAX};
    static uint8_t text[GW_MESSAGE_MAX];
    struct rig_write write;
    uint8_t *wanted;

    begin(end, GW_WRITE_MAX + (size_t)2 * FRAME, GW_ACCESS_REMOTE_WRITE);
    wanted = expected(end);
    for (size_t i = 0; i < GW_ARRAY_LENGTH(sizes); i++) {
        uint32_t length = (uint32_t)gw_min(sizes[i], GW_MESSAGE_MAX);

        if (end->is_near) {
            write = rig_write(end->memory + FRAME, sizes[i], &end->region, FRAME);
            post_write(end, &write);
            say(end, end->channel, end->memory, length);
            await(end, &write.done_count);
        } else {
            hear(end, end->channel, text, length);
            check(memcmp(text, wanted, length) == 0);
            check(memcmp(end->memory + FRAME, wanted + FRAME, sizes[i]) == 0);
            for (size_t at = 0; at < FRAME; at++)
                check(end->memory[at] == 0 && end->memory[FRAME + sizes[i] + at] == 0);
        }
        meet(end);
    }
    free(wanted);
    finish(end);
}

/* ---- full queues ---- */

static void thousands_of_scattered_writes_are_all_placed(struct end *end)
{
    enum { COUNT = 3000, SIZE = 4096 };
    static struct rig_write writes[COUNT];
    uint8_t *wanted;
    char word[3];

    begin(end, (size_t)COUNT * SIZE, GW_ACCESS_REMOTE_WRITE);
    wanted = expected(end);
    for (unsigned i = 0; end->is_near && i < COUNT; i++) {
        size_t at = (size_t)(i * 4799u % COUNT) * SIZE; /* prime to COUNT: every place once */

        writes[i] = rig_write(end->memory + at, SIZE, &end->region, at);
        writes[i].write.flags = GW_POST_MORE;
        post_write(end, &writes[i]);
    }
    if (end->is_near) {
        say(end, end->channel, "end", 3);
    } else {
        hear(end, end->channel, word, 3);
        check(memcmp(end->memory, wanted, end->size) == 0);
    }
    for (unsigned i = 0; end->is_near && i < COUNT; i++) {
        await(end, &writes[i].done_count);
        check(writes[i].status == 0);
    }
    free(wanted);
    finish(end);
}

/* Posts until nothing moves, and says how many messages that were. */
static unsigned fill_queue(struct end *end, struct rig_send *sends, unsigned *numbers,
                           unsigned total)
{
    unsigned posted = 0;

    for (int stuck = 0; stuck < 400;) {
        int error = -EAGAIN;

        if (posted < total) {
            numbers[posted * (GW_MESSAGE_MAX / sizeof(unsigned))] = posted;
            sends[posted] =
                rig_send(&numbers[posted * (GW_MESSAGE_MAX / sizeof(unsigned))], GW_MESSAGE_MAX);
            error = rig_post_send(end->channel, &sends[posted]);
        }
        check(error == 0 || error == -EAGAIN);
        stuck = error ? stuck + 1 : 0;
        posted += error == 0;
        rig_turn(&end->rig);
    }
    check(posted < total);
    return posted;
}

static void full_queue_loses_nothing(struct end *end)
{
    enum { TOTAL = GW_CHANNEL_OPS_MAX * 8 };
    static struct rig_send sends[TOTAL];
    unsigned *numbers = calloc(TOTAL, GW_MESSAGE_MAX), count;
    struct gw_message message;

    begin(end, 4096, GW_ACCESS_REMOTE_WRITE);
    check(numbers);
    if (end->is_near) {
        count = fill_queue(end, sends, numbers, TOTAL);
        say(end, end->aside, &count, sizeof(count));
        for (unsigned i = 0; i < count; i++) {
            await(end, &sends[i].done_count);
            check(sends[i].status == 0);
        }
    } else {
        /* Nothing is taken from the channel before. */
        hear(end, end->aside, &count, sizeof(count));
        for (unsigned i = 0; i < count; i++) {
            check(receive(end, end->channel, &message) == 0);
            check(message.length == GW_MESSAGE_MAX && memcmp(message.data, &i, sizeof(i)) == 0);
        }
    }
    free(numbers);
    finish(end);
}

/* ---- bounds ---- */

enum breach { PAST_THE_END, OVERFLOW, WRONG_KEY, KEY_ZERO, ENDED, LOCAL_ONLY, BREACHES };

static void breach(struct end *end, enum breach kind)
{
    bool is_local = kind == LOCAL_ONLY;
    struct gw_message message;
    struct rig_write write;
    int error;

    begin(end, 8192, is_local ? GW_ACCESS_LOCAL_READ : GW_ACCESS_REMOTE_WRITE);
    if (!end->is_near && kind == ENDED) {
        gw_unreg(end->registered);
        end->registered = NULL;
    }
    meet(end);
    if (end->is_near) {
        uint64_t offset = kind == PAST_THE_END ? 8191 : kind == OVERFLOW ? UINT64_MAX : 0;

        write = rig_write(end->memory, 2, &end->region, offset);
        write.write.remote_key ^= kind == WRONG_KEY ? 1ull << 20 : 0;
        write.write.remote_key *= kind != KEY_ZERO;
        post_write(end, &write);
        error = receive(end, end->channel, &message);
        check(error == -ECONNRESET || error == -EPIPE);
        await(end, &write.done_count);
    } else {
        error = receive(end, end->channel, &message);
        /* A provider of libfabric ends the connection and does not say why. */
        check(error == -EPROTO || (end->rig.kind == RIG_FABRIC && error == -ECONNRESET));
        for (size_t i = 0; i < end->size; i++)
            check(end->memory[i] == 0);
    }
    finish(end);
}

static void what_is_not_given_cannot_be_written(struct end *end)
{
    for (enum breach kind = 0; kind < BREACHES; kind++)
        breach(end, kind);
}

/* ---- death ---- */

struct work {
    struct rig_write writes[WRITES];
    struct rig_send sends[WRITES];
};

/* Stops at the first that is not taken; the rest counts as done with that error, which is returned. */
static int post_work(struct end *end, struct work *work)
{
    size_t piece = end->size / WRITES;
    int error = 0;

    for (unsigned i = 0; i < WRITES; i++) {
        work->writes[i] = rig_write(end->memory + i * piece, (uint32_t)(i % 3 ? piece : 4096),
                                    &end->region, i * piece);
        work->writes[i].write.flags = (i % 2 ? GW_POST_STABLE : 0) | (i % 5 ? GW_POST_MORE : 0);
        work->sends[i] = rig_send("x", 1);
        error = error ? error : rig_post_write(end->channel, &work->writes[i]);
        if (error)
            work->writes[i].done_count = 1;
        error = error ? error : rig_post_send(end->channel, &work->sends[i]);
        if (error)
            work->sends[i].done_count = 1;
    }
    return error;
}

/* Every op is done once, and says 0 or what killed the channel, which posting says as well. */
static void check_dead(struct end *end, struct work *work, int error)
{
    struct rig_send another = rig_send("x", 1);

    for (unsigned i = 0; i < WRITES; i++) {
        await(end, &work->writes[i].done_count);
        await(end, &work->sends[i].done_count);
        check(work->writes[i].status == 0 || work->writes[i].status == error);
        check(work->sends[i].status == 0 || work->sends[i].status == error);
    }
    check(rig_post_send(end->channel, &another) == error);
}

static void end_that_closes_at_any_moment(struct end *end)
{
    static struct work work;
    struct gw_message message;
    int error = 0;

    for (int turns = 0; turns < 40; turns += 8) {
        begin(end, WRITES * 100000, GW_ACCESS_REMOTE_WRITE);
        if (!end->is_near) {
            for (int turn = 0; turn < turns; turn++)
                rig_turn(&end->rig);
            gw_close(end->channel);
            end->channel = NULL;
        } else {
            error = post_work(end, &work);
            check(error == 0 || error == -ECONNRESET || error == -EPIPE);
            while ((error = receive(end, end->channel, &message)) == 0)
                ;
            check(error == -ECONNRESET || error == -EPIPE);
            check_dead(end, &work, error);
        }
        finish(end);
    }
}

static void last_words_are_heard(struct end *end)
{
    struct gw_message message;
    char word[7];

    begin(end, 4096, GW_ACCESS_REMOTE_WRITE);
    if (end->is_near) {
        for (int i = 0; i < 3; i++)
            say(end, end->channel, "goodbye", 7);
        gw_close(end->channel);
        end->channel = NULL;
    } else {
        for (int i = 0; i < 3; i++)
            hear(end, end->channel, word, 7);
        check(receive(end, end->channel, &message) == -ECONNRESET);
    }
    finish(end);
}

/* The far end, its host or the wire is taken away by somebody else, with work under way. Prints what
 * each end made of it. */
static void vanish(struct end *end)
{
    uint64_t deadline_ns = gw_clock_ns() + VANISH_S * GW_NS_PER_S;
    static struct work work;
    struct gw_message message;
    int error = 0;

    begin(end, WRITES * 100000, GW_ACCESS_REMOTE_WRITE);
    printf("under way\n");
    fflush(stdout);
    while (!error && gw_clock_ns() < deadline_ns) {
        if (end->is_near) {
            error = post_work(end, &work);
            for (unsigned i = 0; !error && i < WRITES; i++)
                while (!work.sends[i].done_count && !error && gw_clock_ns() < deadline_ns) {
                    error = gw_recv(end->channel, &message);
                    error = error == -EAGAIN ? 0 : error;
                    rig_turn(&end->rig);
                }
            continue;
        }
        error = gw_recv(end->channel, &message);
        error = error == -EAGAIN ? 0 : error;
        rig_turn(&end->rig);
    }
    check(error);
    printf("dead: %s: %s\n", strerrorname_np(-error), gw_error_message());
    if (end->is_near)
        check_dead(end, &work, error);
    gw_close(end->channel);
    printf("ok vanish\n");
    fflush(stdout);
    exit(0);
}

/* ---- all of them ---- */

static const struct {
    const char *name;
    void (*run)(struct end *end);
    bool is_only_by_name;
} tests[] = {
    {"writes_are_visible_before_the_message_behind_them",
     writes_are_visible_before_the_message_behind_them, false},
    {"messages_keep_their_order_both_ways", messages_keep_their_order_both_ways, false},
    {"sizes_from_nothing_to_the_largest", sizes_from_nothing_to_the_largest, false},
    {"thousands_of_scattered_writes_are_all_placed", thousands_of_scattered_writes_are_all_placed,
     false},
    {"full_queue_loses_nothing", full_queue_loses_nothing, false},
    {"what_is_not_given_cannot_be_written", what_is_not_given_cannot_be_written, false},
    {"end_that_closes_at_any_moment", end_that_closes_at_any_moment, false},
    {"last_words_are_heard", last_words_are_heard, false},
    {"vanish", vanish, true},
};

static enum rig_kind wanted_kind(void)
{
    return getenv("GODWIT_TEST_DPDK")     ? RIG_DPDK
           : getenv("GODWIT_TEST_FABRIC") ? RIG_FABRIC
           : getenv("GODWIT_TEST_VERBS")  ? RIG_VERBS
                                          : RIG_TCP;
}

static void open_end(struct end *end, const char *local, const char *peer)
{
    struct rig *rig = &end->rig;
    struct gw_address address, device;
    struct gw_channel_info info;

    end->is_near = peer != NULL;
    rig->kind = wanted_kind();
    rig_transport_new(rig->kind, &rig->transport);
    rig->far_transport = rig->transport;
    check(gw_address_parse(local, 0, &address) == 0);
    rig_free_address(rig->kind, &device);
    check(gw_domain_open(rig->transport, rig->kind == RIG_TCP ? NULL : &device,
                         &rig->near_domain) == 0);
    check(gw_poller_open(rig->transport, &rig->near_poller) == 0);
    rig->far_domain = rig->near_domain;
    rig->far_poller = rig->near_poller;
    if (end->is_near)
        check(gw_address_parse(peer, 0, &end->peer) == 0);
    else
        check(gw_listen(rig->transport, &address, &rig->listener) == 0 &&
              gw_listener_address(rig->listener, &address) == 0);
    printf("ready %u\n", gw_address_port(&address));
    fflush(stdout);
    end->number = ASIDE;
    end->aside = join(end, ASIDE);
    gw_channel_info(end->aside, &info);
    printf("channel: %s\n", info.description);
}

static void close_end(struct end *end)
{
    struct rig *rig = &end->rig;

    gw_close(end->aside);
    gw_unlisten(rig->listener);
    gw_poller_close(rig->near_poller);
    gw_domain_close(rig->near_domain);
    gw_transport_free(rig->transport);
}

int main(int argc, char **argv)
{
    bool is_near = argc > 3 && strcmp(argv[1], "near") == 0;
    const char *only = argc > 3 + is_near ? argv[3 + is_near] : NULL;
    struct end end = {0};

    if (argc < 3 || (!is_near && strcmp(argv[1], "far") != 0)) {
        fprintf(stderr, "usage: transport-hosts far LOCAL:PORT | near LOCAL PEER:PORT [TEST]\n");
        return 2;
    }
    open_end(&end, argv[2], is_near ? argv[3] : NULL);
    for (size_t i = 0; i < GW_ARRAY_LENGTH(tests); i++) {
        if (only ? strcmp(tests[i].name, only) != 0 : tests[i].is_only_by_name)
            continue;
        tests[i].run(&end);
        printf("ok %s\n", tests[i].name);
        fflush(stdout);
    }
    close_end(&end);
    return 0;
}
