/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim: two or more ends of dpdk channels and the network between them, in one thread and in
 * simulated time. The protocol's core is the real one; everything else is here, and everything that
 * happens follows from one seed.
 *
 * Threads: one.
 * Units: bytes, nanoseconds of the simulated clock.
 */
#ifndef GODWIT_TESTS_TRANSPORT_DPDK_SIM_H
#define GODWIT_TESTS_TRANSPORT_DPDK_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/dpdk/core.h"

#define SIM_ENDS   8u
#define SIM_BURST  64u        /* datagrams that an end is given at once, at the most */
#define SIM_ROOM   (3u << 12) /* each of them has pages of its own */
#define SIM_MS     1000000ull
#define SIM_SECOND 1000000000ull

struct sim;
struct sim_end;

/* One direction of a wire with a queue before it. Shares are of 1,000,000. */
struct sim_link {
    uint64_t bytes_per_second;
    uint64_t delay_ns, jitter_ns; /* jitter lets datagrams overtake each other */
    uint64_t queue_bytes;         /* what would wait longer is dropped */
    uint64_t mark_bytes;          /* what waits behind more is marked; 0: never */
    uint32_t mtu;                 /* longest datagram; longer ones vanish */
    uint32_t loss, duplication, corruption;
    uint64_t down_until_ns;
    uint64_t free_at_ns; /* the wire is busy until then */
    uint64_t dropped, carried_bytes;
};

/* Who takes what a link carries. */
struct sim_port {
    void (*arrive)(struct sim_port *port, const uint8_t *bytes, uint32_t length, bool is_marked);
};

struct sim_datagram;

/* What an end sent, by its packet number: enough to know it again. */
struct sim_sent {
    uint64_t hash;
    bool is_taken; /* by the other end: another copy of it is a replay */
};

/* What came for an end and was not yet given to its core. */
struct sim_burst {
    uint8_t (*bytes)[SIM_ROOM];
    struct dpdk_input inputs[SIM_BURST];
    unsigned count, wanted;
};

struct sim {
    uint64_t now_ns, random;
    struct sim_datagram **heap;
    unsigned count, capacity;
    uint64_t sequence;
    struct sim_end *ends[SIM_ENDS];
    unsigned end_count;
    /* Copies of what passed, for an attacker; NULL: none listens. */
    void (*overhear)(struct sim *sim, struct sim_end *from, const uint8_t *bytes, uint32_t length);
    void *context;
};

struct sim_end {
    struct sim_port port; /* first */
    struct sim *sim;
    struct sim_end *peer;
    struct sim_link *link; /* what it sends goes there */
    struct dpdk_core *core;
    struct gw_region_table regions;
    uint32_t id, incarnation; /* the id is the same in each life */
    bool is_frozen;           /* its process does not run */
    uint64_t next_ns;
    void (*turn)(struct sim_end *end); /* after its core's turn: post, receive, look */
    void *context;

    /* Datagrams wait until there are as many as chance wants, burst_max at the most, or for burst_wait_ns
     * at the most, and are given to the core together; those of another life sometimes, too. Each of them
     * must be believed, or not, as sim knows. burst_max 0: one by one, and nobody looks. */
    unsigned burst_max;
    uint64_t burst_wait_ns;
    struct sim_burst burst;
    struct sim_sent *sent;
    uint64_t sent_count, largest_taken;
    bool is_met; /* it has its keys */
    /* Gives a burst to the core; NULL: just that. */
    void (*take)(struct sim_end *end, struct dpdk_input *inputs, unsigned count);
    const char *fault;                     /* what the core took for what it is not */
    uint64_t bursts, taken, longest_burst; /* taken: datagrams in them */
};

uint64_t sim_random(struct sim *sim);
uint64_t sim_below(struct sim *sim, uint64_t limit); /* 0 to limit - 1 */
bool sim_chance(struct sim *sim, uint32_t share);    /* of 1,000,000 */

void sim_init(struct sim *sim, uint64_t seed);
void sim_free(struct sim *sim); /* datagrams on their way too; not the ends */
/* A plain wire: 10 Gbit/s, 20 us, 1 MB of queue, MTU 9000. */
void sim_link_init(struct sim_link *link);

/* Puts bytes on a wire. */
void sim_send(struct sim *sim, struct sim_link *link, struct sim_port *to, const uint8_t *bytes,
              uint32_t length);

/* An end without a core. */
void sim_end_init(struct sim *sim, struct sim_end *end, struct sim_link *link);
void sim_end_free(struct sim_end *end);
/* Dials from one end to another one; both have a core then. Secrets are made of the seed.
 * max_length of each. */
void sim_connect(struct sim_end *from, struct sim_end *to, uint16_t max_from, uint16_t max_to);
/* Ends the core, with what it has to say at last. */
void sim_disconnect(struct sim_end *end);
/* A turn of the core now, because something was posted. */
void sim_wake(struct sim_end *end);

/* Runs until is_over answers true or the clock passes until_ns: true in the first case. */
bool sim_run(struct sim *sim, uint64_t until_ns, bool (*is_over)(struct sim *sim));
/* Calls back at a time. The port gets a datagram of no bytes. */
void sim_alarm(struct sim *sim, uint64_t at_ns, struct sim_port *port);

#endif
