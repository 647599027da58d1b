/* SPDX-License-Identifier: Apache-2.0 */
/* Loses, delays, doubles and changes what ports receive; see faulty-port.h. */
#include "tests/transport/dpdk/faulty-port.h"

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

#define MILLION          1000000u
#define QUEUES_MAX       64u
#define HELD_MAX         64u
#define OVERTAKEN_BY     32u     /* frames at the most */
#define HELD_NS          2000000 /* and for so long at the most */
#define BITS_MAX         8u
#define ETHERNET_SIZE    14u
#define TYPE_IPV4        0x0800u
#define TYPE_IPV6        0x86ddu
#define PROTOCOL_UDP     17u
#define IPV4_PROTOCOL    (ETHERNET_SIZE + 9)
#define IPV6_PROTOCOL    (ETHERNET_SIZE + 6)
#define HEADERS_AT_LEAST (ETHERNET_SIZE + 20)

struct held {
    struct rte_mbuf *mbuf;
    uint64_t at, until_ns; /* of arrived; of the clock */
};

/* Of one queue; whoever reads the queue has it. */
struct queue {
    uint64_t random, arrived;
    struct held held[HELD_MAX];
    unsigned count;
};

/* A layer of the process, as DPDK's ports are. */
static struct {
    _Atomic uint32_t lose, swap, repeat, corrupt;
    _Atomic uint64_t seen, lost, swapped, repeated, corrupted;
    struct queue queues[QUEUES_MAX];
    unsigned queue_count;
} layer;

static uint64_t next_random(struct queue *queue)
{
    /* splitmix64 (Steele, Lea, Flood, OOPSLA 2014) */
    uint64_t z = queue->random += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool falls_on(struct queue *queue, _Atomic uint32_t *share)
{
    uint32_t of_million = atomic_load_explicit(share, memory_order_relaxed);

    return of_million && next_random(queue) % MILLION < of_million;
}

static void count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static bool is_udp(const uint8_t *frame, uint32_t length)
{
    unsigned type;

    if (length <= HEADERS_AT_LEAST)
        return false;
    type = (unsigned)(frame[12] << 8 | frame[13]);
    return (type == TYPE_IPV4 && frame[IPV4_PROTOCOL] == PROTOCOL_UDP) ||
           (type == TYPE_IPV6 && frame[IPV6_PROTOCOL] == PROTOCOL_UDP);
}

static void corrupt(struct queue *queue, struct rte_mbuf *mbuf)
{
    uint8_t *frame = rte_pktmbuf_mtod(mbuf, uint8_t *);
    uint32_t length = rte_pktmbuf_data_len(mbuf);
    unsigned bits = 1 + (unsigned)(next_random(queue) % BITS_MAX);

    if (!is_udp(frame, length))
        return;
    for (unsigned i = 0; i < bits; i++) {
        uint64_t bit = next_random(queue) % ((uint64_t)(length - ETHERNET_SIZE) * 8);

        frame[ETHERNET_SIZE + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    count(&layer.corrupted);
}

static bool hold(struct queue *queue, struct rte_mbuf *mbuf)
{
    if (!mbuf || queue->count == HELD_MAX)
        return false;
    queue->held[queue->count++] =
        (struct held){.mbuf = mbuf,
                      .at = queue->arrived + 1 + next_random(queue) % OVERTAKEN_BY,
                      .until_ns = gw_clock_ns() + HELD_NS};
    return true;
}

/* One that arrived; true when it goes on at once. */
static bool treat(struct queue *queue, struct rte_mbuf *mbuf)
{
    queue->arrived++;
    count(&layer.seen);
    if (falls_on(queue, &layer.lose)) {
        rte_pktmbuf_free(mbuf);
        count(&layer.lost);
        return false;
    }
    if (falls_on(queue, &layer.repeat)) {
        struct rte_mbuf *twin = rte_pktmbuf_copy(mbuf, mbuf->pool, 0, UINT32_MAX);

        if (hold(queue, twin))
            count(&layer.repeated);
        else
            rte_pktmbuf_free(twin);
    }
    if (falls_on(queue, &layer.corrupt))
        corrupt(queue, mbuf);
    if (falls_on(queue, &layer.swap) && hold(queue, mbuf)) {
        count(&layer.swapped);
        return false;
    }
    return true;
}

static uint16_t release(struct queue *queue, struct rte_mbuf **mbufs, uint16_t at, uint16_t room)
{
    uint64_t now_ns = queue->count ? gw_clock_ns() : 0;
    unsigned kept = 0;

    for (unsigned i = 0; i < queue->count; i++) {
        const struct held *held = &queue->held[i];

        if (at < room && (queue->arrived >= held->at || now_ns >= held->until_ns))
            mbufs[at++] = held->mbuf;
        else
            queue->held[kept++] = *held;
    }
    queue->count = kept;
    return at;
}

static uint16_t on_burst(uint16_t port, uint16_t number, struct rte_mbuf **mbufs, uint16_t got,
                         uint16_t room, void *context)
{
    struct queue *queue = context;
    uint16_t kept = 0;

    (void)port;
    (void)number;
    for (uint16_t i = 0; i < got; i++)
        if (treat(queue, mbufs[i]))
            mbufs[kept++] = mbufs[i];
    return release(queue, mbufs, kept, room);
}

void faulty_port_attach_one(uint16_t port, uint64_t seed)
{
    struct rte_eth_dev_info info;

    if (rte_eth_dev_info_get(port, &info) != 0)
        abort();
    for (uint16_t i = 0; i < info.nb_rx_queues; i++) {
        struct queue *queue = &layer.queues[layer.queue_count];

        if (layer.queue_count++ == QUEUES_MAX)
            abort();
        queue->random = seed * MILLION + layer.queue_count;
        if (!rte_eth_add_rx_callback(port, i, on_burst, queue)) {
            fprintf(stderr, "faulty-port: this DPDK has no receive callbacks\n");
            abort();
        }
    }
}

void faulty_port_attach(uint64_t seed)
{
    for (uint16_t port = 0; port < RTE_MAX_ETHPORTS; port++)
        if (rte_eth_dev_is_valid_port(port))
            faulty_port_attach_one(port, seed);
}

void faulty_port_set(const struct faulty_port_shares *shares)
{
    atomic_store(&layer.lose, shares->lose);
    atomic_store(&layer.swap, shares->swap);
    atomic_store(&layer.repeat, shares->repeat);
    atomic_store(&layer.corrupt, shares->corrupt);
}

void faulty_port_counts(struct faulty_port_counts *out)
{
    *out = (struct faulty_port_counts){.seen = atomic_load(&layer.seen),
                                       .lost = atomic_load(&layer.lost),
                                       .swapped = atomic_load(&layer.swapped),
                                       .repeated = atomic_load(&layer.repeated),
                                       .corrupted = atomic_load(&layer.corrupted)};
}
