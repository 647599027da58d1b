/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the dpdk protocol's core through many simulated lives, each made of one seed: what the
 * network does to datagrams, what an attacker who hears all of them sends, what becomes of the path
 * and of the peer.
 *
 * usage: schedules [COUNT [SEED]]    COUNT lives from SEED on; prints the seed of one that fails
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "tests/transport/dpdk/fence.h"
#include "tests/transport/dpdk/sim.h"
#include "tests/transport/dpdk/work.h"

#define HISTORY  64u
#define PATIENCE (30 * SIM_SECOND) /* of the simulated clock, for a life's whole work */

enum plot { QUIET, BLACK_HOLE, BLACKOUT, DEATH, CLOSE, RESTART, FENCE, PLOTS };

static const char *const plot_names[PLOTS] = {"quiet",
                                              "path MTU black hole",
                                              "link down",
                                              "a peer that dies",
                                              "a peer that closes",
                                              "a second incarnation",
                                              "a region that ends within a burst"};

struct overheard {
    struct sim_end *from;
    uint32_t length;
    uint8_t bytes[DPDK_DATAGRAM_MAX];
};

struct life {
    struct sim sim;
    struct sim_link links[2];
    struct sim_end ends[2];
    struct work works[2];
    enum plot plot;
    uint64_t plot_ns; /* when it happens */
    bool has_happened;
    uint32_t attacks; /* share of datagrams that the attacker answers with some of its own */
    struct overheard *history;
    unsigned heard;
    struct overheard accept;
    struct fence fence; /* where the plot is FENCE */
    const char *fault;
};

/* Over all lives. */
struct tally {
    unsigned happened[PLOTS];
    uint64_t longest_ns, longest_seed;
    uint64_t bursts, taken, longest_burst;
};

static struct life *life_of(struct sim *sim)
{
    return sim->context;
}

static void inject(struct life *life, const struct overheard *what, uint8_t *bytes)
{
    struct sim_end *to = what->from->peer;

    sim_send(&life->sim, what->from->link, &to->port, bytes, what->length);
}

/* What who hears everything and has no key can make of it. */
static void attack(struct life *life)
{
    struct sim *sim = &life->sim;
    const struct overheard *what = &life->history[sim_below(sim, gw_min(life->heard, HISTORY))];
    uint8_t bytes[DPDK_DATAGRAM_MAX];
    const struct sim_end *to;

    if (life->accept.length && sim_below(sim, 16) == 0)
        what = &life->accept;
    to = what->from->peer;
    memcpy(bytes, what->bytes, what->length);
    switch (sim_below(sim, 7)) {
    case 0: /* again as it was */
        break;
    case 1: /* another packet number, so that it is new */
        gw_put_le64(bytes + 16, gw_get_le64(bytes + 16) + 1 + sim_below(sim, 10000));
        break;
    case 2: /* somewhere else in memory, or acknowledging more */
        gw_put_le64(bytes + 24 + 8 * sim_below(sim, 4), sim_random(sim));
        break;
    case 3: /* other bytes */
        bytes[DPDK_HEADER_SIZE + sim_below(sim, what->length - DPDK_HEADER_SIZE + 1) - 1] ^= 0x40;
        break;
    case 4: /* another kind: an ACK, a CLOSE */
        bytes[1] = (uint8_t)(1 + sim_below(sim, 9));
        break;
    case 5: /* of an earlier life, for this one */
        gw_put_le32(bytes + 4, to->id);
        gw_put_le32(bytes + 8, to->incarnation);
        break;
    default: /* anything */
        for (uint32_t i = 12; i < what->length; i++)
            bytes[i] = (uint8_t)sim_random(sim);
        break;
    }
    inject(life, what, bytes);
}

static void overhear(struct sim *sim, struct sim_end *from, const uint8_t *bytes, uint32_t length)
{
    struct life *life = life_of(sim);
    struct overheard *place = &life->history[life->heard++ % HISTORY];

    place->from = from;
    place->length = length;
    memcpy(place->bytes, bytes, length);
    if (bytes[1] == DPDK_KIND_ACCEPT)
        life->accept = *place;
    while (sim_chance(sim, life->attacks))
        attack(life);
}

static uint32_t one_of(struct sim *sim, const uint32_t *values, unsigned count)
{
    return values[sim_below(sim, count)];
}

#define ONE_OF(sim, ...)                                                                           \
    one_of(sim, (const uint32_t[]){__VA_ARGS__},                                                   \
           (unsigned)(sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)))

static void plan_links(struct life *life)
{
    struct sim *sim = &life->sim;
    uint32_t mtu = ONE_OF(sim, 1232, 1472, 1472, 4000, 8972, 9188);
    uint64_t rate = ONE_OF(sim, 12500000, 125000000, 1250000000);

    for (unsigned i = 0; i < 2; i++) {
        struct sim_link *link = &life->links[i];

        sim_link_init(link);
        link->bytes_per_second = rate;
        link->delay_ns = ONE_OF(sim, 2000, 20000, 200000, 3000000);
        link->jitter_ns = ONE_OF(sim, 0, 0, 5000, 300000, 2000000);
        link->queue_bytes = ONE_OF(sim, 20000, 100000, 1000000);
        link->mark_bytes = ONE_OF(sim, 0, 0, 30000);
        link->loss = ONE_OF(sim, 0, 0, 100, 1000, 10000, 50000, 200000);
        link->duplication = ONE_OF(sim, 0, 0, 100, 10000, 200000);
        link->corruption = ONE_OF(sim, 0, 0, 100, 1000, 10000, 50000, 200000);
        link->mtu = mtu;
    }
    life->attacks = ONE_OF(sim, 0, 0, 1000, 50000, 300000);
}

static void take_turn(struct sim_end *end)
{
    struct life *life = end->context;
    unsigned which = end == &life->ends[1];

    work_post(&life->works[which]);
    work_receive(&life->works[1 - which]);
}

static void make_end(struct life *life, unsigned which)
{
    struct sim_end *end = &life->ends[which];
    struct sim *sim = &life->sim;

    sim_end_init(sim, end, &life->links[which]);
    end->turn = take_turn;
    end->context = life;
    end->burst_max = ONE_OF(sim, 1, 4, 32, SIM_BURST);
    /* Of what comes behind each other on a busy wire. */
    end->burst_wait_ns =
        ONE_OF(sim, 0, 10, 50, 150) * end->link->mtu * SIM_SECOND / end->link->bytes_per_second;
}

static void connect_ends(struct life *life)
{
    struct sim *sim = &life->sim;
    uint16_t max = (uint16_t)ONE_OF(sim, 1472, 8972, 9188);

    sim_connect(&life->ends[0], &life->ends[1], max, (uint16_t)ONE_OF(sim, 1452, 8972, 9188));
}

static void begin_works(struct life *life)
{
    struct sim *sim = &life->sim;

    for (unsigned i = 0; i < 2; i++)
        work_init(&life->works[i], &life->ends[i], &life->ends[1 - i],
                  i == 0 ? 20 + (unsigned)sim_below(sim, 120) : 1 + (unsigned)sim_below(sim, 20),
                  ONE_OF(sim, 3000, 20000, 60000));
}

static void gather_faults(struct life *life)
{
    for (unsigned i = 0; i < 2; i++) {
        if (life->works[i].fault && !life->fault)
            life->fault = life->works[i].fault;
        if (life->ends[i].fault && !life->fault)
            life->fault = life->ends[i].fault;
    }
    if (life->fence.fault && !life->fault)
        life->fault = life->fence.fault;
}

static void check_works(struct life *life)
{
    for (unsigned i = 0; i < 2; i++)
        work_check(&life->works[i]);
    gather_faults(life);
}

/* The channel's end, and what was written by its attackers afterwards: nothing. */
static void end_works(struct life *life)
{
    for (unsigned i = 0; i < 2; i++) {
        life->works[i].is_ending = true;
        sim_disconnect(&life->ends[i]);
    }
    if (life->plot == FENCE) {
        fence_close(&life->fence);
        life->works[0].has_loose_ended = life->fence.has_begun;
    }
    check_works(life);
    for (unsigned i = 0; i < 2; i++)
        work_free(&life->works[i]);
}

static void happen(struct life *life)
{
    struct sim *sim = &life->sim;

    life->has_happened = true;
    switch (life->plot) {
    case BLACK_HOLE:
        life->links[0].mtu = life->links[1].mtu = DPDK_DATAGRAM_MIN;
        break;
    case BLACKOUT:
        life->links[0].down_until_ns = life->links[1].down_until_ns =
            sim->now_ns + SIM_MS * (1 + sim_below(sim, 4000));
        break;
    case DEATH:
        life->works[0].is_ending = life->works[1].is_ending = true;
        life->ends[1].is_frozen = true;
        break;
    case CLOSE:
        life->works[0].is_ending = life->works[1].is_ending = true;
        sim_disconnect(&life->ends[0]);
        break;
    case RESTART:
        end_works(life);
        connect_ends(life);
        begin_works(life);
        break;
    default:
        break;
    }
}

static void take_and_fence(struct sim_end *end, struct dpdk_input *inputs, unsigned count)
{
    struct life *life = end->context;

    if (end->sim->now_ns < life->plot_ns) {
        gw_dpdk_core_input(end->core, end->sim->now_ns, inputs, count);
        return;
    }
    fence_take(&life->fence, end, inputs, count);
    life->has_happened = life->fence.has_begun;
    for (unsigned i = 0; i < 2; i++)
        life->works[i].is_ending = life->has_happened;
}

static bool is_dead(const struct sim_end *end)
{
    return !end->core || gw_dpdk_core_state(end->core) == DPDK_DEAD;
}

static bool is_over(struct sim *sim)
{
    struct life *life = life_of(sim);

    if (!life->has_happened && sim->now_ns >= life->plot_ns && life->plot != FENCE)
        happen(life);
    if (life->plot == DEATH && life->has_happened)
        return is_dead(&life->ends[0]);
    if (life->plot == CLOSE && life->has_happened)
        return is_dead(&life->ends[1]);
    if (life->plot == FENCE && is_dead(&life->ends[1]))
        return is_dead(&life->ends[0]);
    for (unsigned i = 0; i < 2; i++) {
        if (life->works[i].wrong || life->ends[i].fault || is_dead(&life->ends[i]))
            return true;
    }
    return work_is_over(&life->works[0]) && work_is_over(&life->works[1]);
}

/* Whoever writes to the region once more breaks a rule, and is told. */
static bool had_fenced_end(const struct life *life)
{
    int target = gw_dpdk_core_error(life->ends[1].core);
    int source = gw_dpdk_core_error(life->ends[0].core);

    return life->has_happened && target == -EPROTO &&
           (source == -ECONNRESET || source == -ETIMEDOUT);
}

/* How the life had to end. */
static void judge(struct life *life, bool came_to_end)
{
    const struct sim_end *left = &life->ends[life->plot == DEATH ? 0 : 1];
    bool is_death = (life->plot == DEATH || life->plot == CLOSE) && life->has_happened;
    int error = left->core ? gw_dpdk_core_error(left->core) : 0;

    gather_faults(life);
    if (life->fault)
        return;
    if (!came_to_end)
        life->fault = "it stalled";
    else if (life->plot == FENCE && is_dead(&life->ends[1]) && is_dead(&life->ends[0]))
        life->fault = had_fenced_end(life) ? NULL : "a region's end killed its channel otherwise";
    else if (!is_death && (is_dead(&life->ends[0]) || is_dead(&life->ends[1])))
        life->fault = gw_error_message();
    else if (is_death && error != -ETIMEDOUT && (life->plot == DEATH || error != -ECONNRESET))
        life->fault = "a dead peer is reported as something else";
    else if (is_death && life->sim.now_ns > life->plot_ns + DPDK_DEAD_NS + 2 * SIM_SECOND)
        life->fault = "a dead peer is found too late";
}

static void report(const struct life *life, uint64_t seed)
{
    const struct sim_link *link = &life->links[0];

    printf("seed %" PRIu64 ": %s\n", seed, life->fault);
    printf("  %s at %" PRIu64 " us; now %" PRIu64 " us; %.0f Mbit/s, %" PRIu64
           " us, jitter %" PRIu64 " us, mtu %u\n",
           plot_names[life->plot], life->plot_ns / 1000, life->sim.now_ns / 1000,
           (double)link->bytes_per_second * 8 / 1e6, link->delay_ns / 1000, link->jitter_ns / 1000,
           link->mtu);
    for (unsigned i = 0; i < 2; i++)
        printf("  way %u: loss %u corruption %u duplication %u ppm; ops %u posted %u done %u "
               "checked %u\n",
               i, life->links[i].loss, life->links[i].corruption, life->links[i].duplication,
               life->works[i].op_count, life->works[i].posted, life->works[i].done,
               life->works[i].checked);
}

/* True when every promise was kept. */
static bool run(uint64_t seed, struct tally *tally)
{
    static struct life life;

    memset(&life, 0, sizeof(life));
    sim_init(&life.sim, seed);
    life.sim.context = &life;
    life.sim.overhear = overhear;
    life.history = malloc(HISTORY * sizeof(life.history[0]));
    if (!life.history)
        abort();
    plan_links(&life);
    for (unsigned i = 0; i < 2; i++)
        make_end(&life, i);
    life.plot = (enum plot)sim_below(&life.sim, PLOTS);
    life.plot_ns = life.sim.now_ns + sim_below(&life.sim, 20 * SIM_MS) + SIM_MS;
    connect_ends(&life);
    begin_works(&life);
    if (life.plot == FENCE) {
        fence_open(&life.fence, &life.ends[1].regions, &life.works[0].loose,
                   sim_below(&life.sim, 2));
        life.ends[1].take = take_and_fence;
    }
    judge(&life, sim_run(&life.sim, life.sim.now_ns + PATIENCE, is_over));
    tally->happened[life.plot] += life.has_happened;
    for (unsigned i = 0; i < 2; i++) {
        tally->bursts += life.ends[i].bursts;
        tally->taken += life.ends[i].taken;
        tally->longest_burst = gw_max(tally->longest_burst, life.ends[i].longest_burst);
    }
    if (life.plot != DEATH && life.plot != CLOSE && life.plot != FENCE &&
        life.sim.now_ns > tally->longest_ns) {
        tally->longest_ns = life.sim.now_ns;
        tally->longest_seed = seed;
    }
    end_works(&life);
    for (unsigned i = 0; i < 2; i++)
        sim_end_free(&life.ends[i]);
    sim_free(&life.sim);
    free(life.history);
    if (life.fault)
        report(&life, seed);
    return !life.fault;
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 100;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    struct tally tally = {0};
    unsigned failed = 0;

    printf("seeds %" PRIu64 " to %" PRIu64 "\n", first, first + count - 1);
    for (uint64_t seed = first; seed < first + count && failed < 5; seed++)
        failed += !run(seed, &tally);
    for (unsigned i = 1; i < PLOTS; i++)
        printf("%s: in %u\n", plot_names[i], tally.happened[i]);
    printf("%" PRIu64 " datagrams in %" PRIu64 " bursts, the longest of %" PRIu64 "\n", tally.taken,
           tally.bursts, tally.longest_burst);
    printf("the longest took %" PRIu64 " ms of its own clock: seed %" PRIu64 "\n",
           (uint64_t)((tally.longest_ns - SIM_SECOND) / SIM_MS), tally.longest_seed);
    return failed ? 1 : 0;
}
