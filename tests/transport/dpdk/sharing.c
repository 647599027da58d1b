/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the congestion control of a dpdk channel makes of a bottleneck, in simulated time: alone,
 * with datagrams lost by accident, beside another channel, beside a TCP, and with marks.
 *
 * usage: sharing [SEED]      prints shares and rates; fails when a bound at the end of this file does not hold
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "tests/transport/dpdk/sim.h"

#define WRITE_SIZE  (256u << 10)
#define WRITES      32u /* posted at a time */
#define TCP_SEGMENT 1448u
#define TCP_WINDOW  16384u
#define TCP_LIFE_NS (20 * SIM_MS) /* a segment that was not acknowledged by then is lost */

struct bulk;

struct bulk_write {
    struct gw_write write; /* first */
    struct bulk *bulk;
    bool is_posted;
};

/* A channel that always has something to write. */
struct bulk {
    struct sim_end ends[2];
    struct gw_region region;
    struct bulk_write writes[WRITES];
    uint64_t bytes; /* done */
};

/* RFC 5681's congestion control around segments of no content: what is lost is sent no more, but
 * counts as if it were. One acknowledgement a segment. */
struct tcp {
    struct sim_port sender, receiver;
    struct sim *sim;
    struct sim_link *there, *back;
    double window, threshold;
    uint64_t next, recover, bytes;
    uint64_t highest;
    uint64_t sent_ns[TCP_WINDOW]; /* 0: settled */
    unsigned in_flight;
    uint64_t oldest;
    bool is_over; /* sends no more */
};

struct stage {
    struct sim sim;
    struct sim_link there, back;
    struct bulk bulks[2];
    struct tcp tcp;
};

static uint8_t source[WRITE_SIZE], target[WRITE_SIZE];

static void done(struct gw_op *op, int status)
{
    struct bulk_write *write = (struct bulk_write *)(void *)op;

    write->is_posted = false;
    if (status == 0)
        write->bulk->bytes += WRITE_SIZE;
}

static void bulk_turn(struct sim_end *end)
{
    struct bulk *bulk = end->context;

    if (end != &bulk->ends[0])
        return;
    for (unsigned i = 0; i < WRITES; i++) {
        struct bulk_write *write = &bulk->writes[i];

        if (write->is_posted)
            continue;
        *write = (struct bulk_write){.write = {.op = {.done = done},
                                               .local = source,
                                               .length = WRITE_SIZE,
                                               .remote_key = bulk->region.key},
                                     .bulk = bulk,
                                     .is_posted = true};
        write->is_posted = gw_dpdk_core_write(end->core, &write->write) == 0;
    }
}

static void bulk_init(struct stage *stage, struct bulk *bulk, uint16_t max_length)
{
    sim_end_init(&stage->sim, &bulk->ends[0], &stage->there);
    sim_end_init(&stage->sim, &bulk->ends[1], &stage->back);
    for (unsigned i = 0; i < 2; i++) {
        bulk->ends[i].turn = bulk_turn;
        bulk->ends[i].context = bulk;
    }
    bulk->region = (struct gw_region){
        .memory = target, .length = WRITE_SIZE, .access = GW_ACCESS_REMOTE_WRITE};
    if (gw_region_table_add(&bulk->ends[1].regions, &bulk->region, 0))
        abort();
    sim_connect(&bulk->ends[0], &bulk->ends[1], max_length, max_length);
}

static void bulk_end(struct bulk *bulk)
{
    if (!bulk->region.memory)
        return;
    for (unsigned i = 0; i < 2; i++)
        sim_disconnect(&bulk->ends[i]);
    gw_region_table_remove(&bulk->ends[1].regions, &bulk->region);
    for (unsigned i = 0; i < 2; i++)
        sim_end_free(&bulk->ends[i]);
}

static void tcp_send(struct tcp *tcp)
{
    uint8_t bytes[TCP_SEGMENT] = {0};

    while (!tcp->is_over && tcp->in_flight < (unsigned)tcp->window &&
           tcp->next - tcp->oldest < TCP_WINDOW) {
        tcp->sent_ns[tcp->next % TCP_WINDOW] = tcp->sim->now_ns;
        gw_put_le64(bytes, tcp->next++);
        tcp->in_flight++;
        sim_send(tcp->sim, tcp->there, &tcp->receiver, bytes, sizeof(bytes));
    }
}

static void tcp_receive(struct sim_port *port, const uint8_t *bytes, uint32_t length, bool mark)
{
    struct tcp *tcp = gw_container_of(port, struct tcp, receiver);

    (void)length;
    (void)mark;
    sim_send(tcp->sim, tcp->back, &tcp->sender, bytes, 8);
}

/* Everything older than three segments before the newest that arrived, or than the timeout, is
 * gone; the window halves once for all that were on their way then. */
static void tcp_find_lost(struct tcp *tcp)
{
    bool is_lost = false, is_timeout = false;

    for (; tcp->oldest < tcp->next; tcp->oldest++) {
        uint64_t *sent = &tcp->sent_ns[tcp->oldest % TCP_WINDOW];
        bool is_late = *sent + TCP_LIFE_NS < tcp->sim->now_ns;

        if (*sent == 0)
            continue;
        if (tcp->oldest + 3 >= tcp->highest && !is_late)
            break;
        is_timeout = is_timeout || is_late;
        is_lost = is_lost || tcp->oldest >= tcp->recover;
        *sent = 0;
        tcp->in_flight--;
    }
    if (!is_lost)
        return;
    tcp->threshold = tcp->window / 2 < 2 ? 2 : tcp->window / 2;
    tcp->window = is_timeout ? 1 : tcp->threshold;
    tcp->recover = tcp->next;
}

static void tcp_acknowledged(struct sim_port *port, const uint8_t *bytes, uint32_t length,
                             bool mark)
{
    struct tcp *tcp = gw_container_of(port, struct tcp, sender);
    uint64_t number = length ? gw_get_le64(bytes) : 0;
    uint64_t *sent = &tcp->sent_ns[number % TCP_WINDOW];

    (void)mark;
    if (length == 0) {
        sim_alarm(tcp->sim, tcp->sim->now_ns + SIM_MS, port);
    } else if (number >= tcp->oldest && *sent) {
        *sent = 0;
        tcp->in_flight--;
        tcp->bytes += TCP_SEGMENT;
        tcp->highest = gw_max(tcp->highest, number);
        tcp->window += tcp->window < tcp->threshold ? 1 : 1 / tcp->window;
    }
    tcp_find_lost(tcp);
    tcp_send(tcp);
}

static void tcp_init(struct stage *stage)
{
    struct tcp *tcp = &stage->tcp;

    tcp->sender.arrive = tcp_acknowledged;
    tcp->receiver.arrive = tcp_receive;
    tcp->sim = &stage->sim;
    tcp->there = &stage->there;
    tcp->back = &stage->back;
    tcp->window = 10;
    tcp->threshold = TCP_WINDOW;
    tcp->next = tcp->oldest = 1;
    sim_alarm(&stage->sim, stage->sim.now_ns, &tcp->sender);
}

static bool is_never(struct sim *sim)
{
    (void)sim;
    return false;
}

static void run_ms(struct stage *stage, uint64_t duration_ms)
{
    sim_run(&stage->sim, stage->sim.now_ns + duration_ms * SIM_MS, is_never);
}

static struct stage *new_stage(uint64_t seed, uint64_t rate, uint64_t delay_ns, uint64_t queue)
{
    struct stage *stage = calloc(1, sizeof(*stage));

    if (!stage)
        abort();
    sim_init(&stage->sim, seed);
    sim_link_init(&stage->there);
    stage->there.bytes_per_second = rate;
    stage->there.delay_ns = delay_ns;
    stage->there.queue_bytes = queue;
    stage->back = stage->there;
    return stage;
}

static void end_stage(struct stage *stage)
{
    for (unsigned i = 0; i < 2; i++)
        bulk_end(&stage->bulks[i]);
    sim_free(&stage->sim);
    free(stage);
}

static void show(const char *name, const struct bulk *bulk)
{
    struct dpdk_path path;
    struct dpdk_counts counts;

    if (!getenv("SHARING_VERBOSE") || !bulk->ends[0].core)
        return;
    gw_dpdk_core_path(bulk->ends[0].core, &path);
    gw_dpdk_core_counts(bulk->ends[0].core, &counts);
    printf("    %s: window %" PRIu64 " rtt %" PRIu64 " us least %" PRIu64 " us again %" PRIu64
           " in vain %" PRIu64 " sent %" PRIu64 "\n",
           name, path.window, path.round_trip_ns / 1000, path.least_round_trip_ns / 1000,
           counts.sent_again, counts.sent_in_vain, counts.datagrams_sent);
}

static unsigned failures;

static void expect(bool is_met, const char *what)
{
    if (is_met)
        return;
    printf("  FAILED: %s\n", what);
    failures++;
}

/* Bytes per second of one channel alone, over 200 ms after a start of 50. */
static double alone(uint64_t seed, uint32_t loss, uint16_t max_length, uint64_t delay_ns)
{
    struct stage *stage = new_stage(seed, 1250000000, delay_ns, 1000000);
    uint64_t before;
    double rate;

    stage->there.loss = stage->back.loss = loss;
    bulk_init(stage, &stage->bulks[0], max_length);
    run_ms(stage, 50);
    before = stage->bulks[0].bytes;
    run_ms(stage, 200);
    rate = (double)(stage->bulks[0].bytes - before) * 5;
    show("alone", &stage->bulks[0]);
    end_stage(stage);
    return rate;
}

static void test_alone(uint64_t seed)
{
    static const uint16_t lengths[] = {1472, 8972};
    static const uint64_t delays[] = {20000, 1000000};

    for (unsigned i = 0; i < 2; i++) {
        for (unsigned j = 0; j < GW_ARRAY_LENGTH(delays); j++) {
            double full = alone(seed, 0, lengths[i], delays[j]);
            double lossy = alone(seed, 10000, lengths[i], delays[j]);

            printf("alone, datagrams of %u, %" PRIu64 " us each way: %.0f MB/s of 1250; with 1 %% "
                   "loss %.2f of that\n",
                   lengths[i], delays[j] / 1000, full / 1e6, lossy / full);
            expect(full > 0.85 * 1.25e9, "a channel alone fills its wire");
            expect(lossy > 0.8 * full, "1 % loss costs little");
        }
    }
}

static void test_two(uint64_t seed, uint64_t delay_ns, uint64_t mark_bytes)
{
    struct stage *stage = new_stage(seed, 1250000000, delay_ns, 1000000);
    uint64_t before[2];
    double share, all;

    stage->there.mark_bytes = mark_bytes;
    bulk_init(stage, &stage->bulks[0], 8972);
    run_ms(stage, 60);
    bulk_init(stage, &stage->bulks[1], 8972);
    run_ms(stage, 500);
    for (unsigned i = 0; i < 2; i++)
        before[i] = stage->bulks[i].bytes;
    run_ms(stage, 500);
    all = (double)(stage->bulks[0].bytes - before[0] + stage->bulks[1].bytes - before[1]);
    share = (double)(stage->bulks[1].bytes - before[1]) / all;
    printf("two channels, %" PRIu64 " us each way%s: the later one has %.2f; together %.0f MB/s\n",
           delay_ns / 1000, mark_bytes ? ", marks" : "", share, all * 2 / 1e6);
    show("first", &stage->bulks[0]);
    show("second", &stage->bulks[1]);
    expect(share > 0.3 && share < 0.7, "two channels share");
    expect(all * 2 > 0.85 * 1.25e9, "two channels fill their wire");
    end_stage(stage);
}

static void test_beside_tcp(uint64_t seed, uint64_t delay_ns, uint64_t queue, bool tcp_first)
{
    struct stage *stage = new_stage(seed, 1250000000, delay_ns, queue);
    uint64_t before[2];
    double share, all;

    if (tcp_first)
        tcp_init(stage);
    else
        bulk_init(stage, &stage->bulks[0], 1472);
    run_ms(stage, 60);
    if (tcp_first)
        bulk_init(stage, &stage->bulks[0], 1472);
    else
        tcp_init(stage);
    run_ms(stage, 500);
    before[0] = stage->bulks[0].bytes;
    before[1] = stage->tcp.bytes;
    run_ms(stage, 1000);
    all = (double)(stage->bulks[0].bytes - before[0] + stage->tcp.bytes - before[1]);
    share = (double)(stage->bulks[0].bytes - before[0]) / all;
    printf("beside a TCP (%s first), %" PRIu64 " us each way, queue of %" PRIu64
           " KB: the channel has %.2f; together %.0f MB/s\n",
           tcp_first ? "it" : "the channel", delay_ns / 1000, queue / 1000, share, all / 1e6);
    show("channel", &stage->bulks[0]);
    expect(share > 0.2 && share < 0.8, "a channel and a TCP share");
    end_stage(stage);
}

/* The mean time that a datagram waits in the queue, over so many ms. */
static uint64_t mean_wait_ns(struct stage *stage, uint64_t duration_ms)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < duration_ms; i++) {
        run_ms(stage, 1);
        sum += stage->there.free_at_ns - gw_min(stage->there.free_at_ns, stage->sim.now_ns);
    }
    return sum / duration_ms;
}

/* A TCP fills a deep queue, and is gone then: nobody is left to compete with, and what the channels
 * keep in the queue themselves must not look like somebody. */
static void test_after_tcp(uint64_t seed, unsigned channels)
{
    struct stage *stage = new_stage(seed, 125000000, 20000, 1250000);
    uint64_t before = 0, after = 0, beside_ns, wait_ns;

    tcp_init(stage);
    run_ms(stage, 60);
    for (unsigned i = 0; i < channels; i++) {
        bulk_init(stage, &stage->bulks[i], 1472);
        run_ms(stage, 7 + seed * 17 % 50);
    }
    run_ms(stage, 1000);
    beside_ns = mean_wait_ns(stage, 200);
    stage->tcp.is_over = true;
    run_ms(stage, 3500);
    for (unsigned i = 0; i < channels; i++)
        before += stage->bulks[i].bytes;
    wait_ns = mean_wait_ns(stage, 500);
    for (unsigned i = 0; i < channels; i++)
        after += stage->bulks[i].bytes;
    printf("%u beside a TCP a datagram waits %.2f ms, after it %.2f; %.0f MB/s of 125\n", channels,
           (double)beside_ns / 1e6, (double)wait_ns / 1e6, (double)(after - before) * 2 / 1e6);
    for (unsigned i = 0; i < channels; i++)
        show("channel", &stage->bulks[i]);
    expect(beside_ns > 3 * SIM_MS, "the TCP filled the queue");
    expect(wait_ns < SIM_MS, "channels let the queue go that nobody else fills");
    expect((double)(after - before) * 2 > 0.85 * 125e6, "what is left fills the wire");
    end_stage(stage);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;

    printf("seed %" PRIu64 "\n", seed);
    test_alone(seed);
    test_two(seed, 20000, 0);
    test_two(seed, 20000, 100000);
    test_two(seed, 500000, 0);
    test_beside_tcp(seed, 20000, 1000000, true);
    test_beside_tcp(seed, 20000, 1000000, false);
    test_beside_tcp(seed, 100000, 300000, true);
    test_beside_tcp(seed, 500000, 1000000, false);
    test_after_tcp(seed, 1);
    test_after_tcp(seed, 2);
    return failures ? 1 : 0;
}
