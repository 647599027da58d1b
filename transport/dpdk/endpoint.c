/* SPDX-License-Identifier: Apache-2.0 */
/* From the NIC's queues to whoever a datagram is for. */
#include <errno.h>
#include <rte_prefetch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

#define FIRST_PORT     49152u /* of dynamic ports (RFC 6335) */
#define PREFETCH_AHEAD 3u
#define NEIGHBORS_KEPT 8u /* frames of neighbours in one burst; more are a flood */

static_assert(DPDK_ENDPOINTS_MAX == 256, "their places are bytes");

void gw_dpdk_wake(int fd)
{
    uint64_t one = 1;

    /* Full only when it was woken already. */
    if (write(fd, &one, sizeof(one)) < 0)
        return;
}

void gw_dpdk_unwake(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0)
        return;
}

/* ---- rings ---- */

int gw_dpdk_ring_new(const char *what, unsigned size, struct rte_ring **out)
{
    static _Atomic unsigned serial; /* names must differ in the process */
    char name[RTE_RING_NAMESIZE];

    snprintf(name, sizeof(name), "godwit-%s-%u", what, atomic_fetch_add(&serial, 1));
    *out = rte_ring_create(name, size, SOCKET_ID_ANY, RING_F_SC_DEQ);
    return *out ? 0 : gw_fail(-ENOMEM, "dpdk: no memory for a ring");
}

void gw_dpdk_ring_free(struct rte_ring *ring)
{
    void *mbuf;

    while (ring && rte_ring_dequeue(ring, &mbuf) == 0)
        rte_pktmbuf_free(mbuf);
    rte_ring_free(ring);
}

/* ---- coming and going ---- */

/* Under the transport's lock. */
static int find_port(struct dpdk_transport *transport, uint16_t *out)
{
    for (unsigned i = 0; i < (1u << 16) - FIRST_PORT; i++) {
        unsigned port = FIRST_PORT + transport->next_port++ % ((1u << 16) - FIRST_PORT);

        if (atomic_load(&transport->endpoint_of[port]) == 0) {
            *out = (uint16_t)port;
            return 0;
        }
    }
    return gw_fail(-EADDRINUSE, "dpdk: no UDP port is free");
}

static int enter(struct dpdk_transport *transport, struct dpdk_endpoint *endpoint)
{
    unsigned place = 1;
    int error = 0;

    pthread_mutex_lock(&transport->lock);
    while (place < DPDK_ENDPOINTS_MAX && atomic_load(&transport->endpoints[place]))
        place++;
    if (place == DPDK_ENDPOINTS_MAX)
        error =
            gw_fail(-EMFILE, "dpdk: more than %u pollers and listeners", DPDK_ENDPOINTS_MAX - 1);
    if (!error && endpoint->udp_port == 0)
        error = find_port(transport, &endpoint->udp_port);
    if (!error && atomic_load(&transport->endpoint_of[endpoint->udp_port]) != 0)
        error =
            gw_fail(-EADDRINUSE, "dpdk: UDP port %u is in use on this port", endpoint->udp_port);
    if (!error) {
        atomic_store(&transport->endpoints[place], endpoint);
        atomic_store(&transport->endpoint_of[endpoint->udp_port], (uint8_t)place);
    }
    pthread_mutex_unlock(&transport->lock);
    return error;
}

static void release(struct dpdk_endpoint *endpoint)
{
    gw_dpdk_ring_free(endpoint->inbox);
    if (endpoint->wake_fd >= 0)
        close(endpoint->wake_fd);
    if (endpoint->reserve_fd >= 0)
        close(endpoint->reserve_fd);
}

int gw_dpdk_endpoint_open(struct dpdk_transport *transport, bool is_poller, uint16_t udp_port,
                          struct dpdk_endpoint *endpoint)
{
    int error = 0;

    *endpoint = (struct dpdk_endpoint){
        .udp_port = udp_port, .is_poller = is_poller, .reserve_fd = -1, .wake_fd = -1};
    if (transport->port.is_kernels)
        error = gw_dpdk_kernel_reserve(&transport->settings.locals[0].host, &endpoint->udp_port,
                                       &endpoint->reserve_fd);
    endpoint->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!error && endpoint->wake_fd < 0)
        error = gw_fail_errno(-errno, "dpdk: eventfd");
    if (!error)
        error =
            gw_dpdk_ring_new(is_poller ? "poller" : "listener",
                             is_poller ? DPDK_INBOX_SIZE : DPDK_REQUESTS_SIZE, &endpoint->inbox);
    if (!error)
        error = enter(transport, endpoint);
    if (error)
        release(endpoint);
    return error;
}

void gw_dpdk_endpoint_close(struct dpdk_transport *transport, struct dpdk_endpoint *endpoint)
{
    uint8_t place;

    pthread_mutex_lock(&transport->lock);
    place = atomic_exchange(&transport->endpoint_of[endpoint->udp_port], 0);
    atomic_store(&transport->endpoints[place], NULL);
    pthread_mutex_unlock(&transport->lock);
    /* Whoever still has it from the table reads a queue, and is done when the queue is free. */
    for (unsigned i = 0; i < transport->port.queue_count; i++) {
        rte_spinlock_lock(&transport->port.queues[i].rx_lock);
        rte_spinlock_unlock(&transport->port.queues[i].rx_lock);
    }
    release(endpoint);
}

static void wake_waiting(struct dpdk_endpoint *endpoint)
{
    if (atomic_exchange(&endpoint->is_waiting, false))
        gw_dpdk_wake(endpoint->wake_fd);
}

void gw_dpdk_wake_all(struct dpdk_transport *transport)
{
    pthread_mutex_lock(&transport->lock);
    for (unsigned place = 1; place < DPDK_ENDPOINTS_MAX; place++) {
        struct dpdk_endpoint *endpoint = atomic_load(&transport->endpoints[place]);

        if (endpoint)
            wake_waiting(endpoint);
    }
    pthread_mutex_unlock(&transport->lock);
}

/* ---- receiving ---- */

bool gw_dpdk_is_setup(const struct dpdk_poller *poller, const uint8_t *datagram, uint32_t length)
{
    uint32_t id = length >= DPDK_HEADER_SIZE ? gw_get_le32(datagram + 4) : UINT32_MAX;

    return id < DPDK_CHANNELS_MAX && atomic_load(&poller->slots[id].state) == DPDK_SLOT_SETUP &&
           atomic_load(&poller->slots[id].incarnation) == gw_get_le32(datagram + 8);
}

static void hand_over(struct dpdk_endpoint *endpoint, const struct dpdk_arrival *arrival)
{
    const uint8_t *datagram =
        rte_pktmbuf_mtod_offset(arrival->mbuf, uint8_t *, arrival->frame.payload);
    struct dpdk_poller *poller =
        endpoint->is_poller ? gw_container_of(endpoint, struct dpdk_poller, endpoint) : NULL;
    bool is_setup = poller && gw_dpdk_is_setup(poller, datagram, arrival->frame.payload_length);

    if (rte_ring_enqueue(is_setup ? poller->setup_inbox : endpoint->inbox, arrival->mbuf) != 0)
        rte_pktmbuf_free(arrival->mbuf); /* as on a network that is full: it is sent again */
    if (is_setup)
        gw_dpdk_wake(poller->setup_fd);
    else
        wake_waiting(endpoint);
}

/* In one piece, and what the NIC says of its checksums is good. */
static bool is_sound(const struct dpdk_port *port, struct rte_mbuf *mbuf)
{
    if (port->verifies_ipv4 &&
        (mbuf->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD)
        return false;
    return mbuf->nb_segs == 1 || rte_pktmbuf_linearize(mbuf) == 0;
}

void gw_dpdk_flow_back(const struct dpdk_transport *transport, const struct dpdk_frame *frame,
                       struct dpdk_flow *out)
{
    *out = (struct dpdk_flow){
        .local_mac = transport->port.mac,
        .peer_mac = frame->source_mac,
        .local = frame->target,
        .peer = frame->source,
        .local_port = frame->target_port,
        .peer_port = frame->source_port,
    };
}

/* An OPEN for a UDP port of ours on which nobody listens. */
static void refuse_unclaimed(struct dpdk_transport *transport, const struct dpdk_arrival *arrival)
{
    const uint8_t *datagram =
        rte_pktmbuf_mtod_offset(arrival->mbuf, const uint8_t *, arrival->frame.payload);
    uint8_t answer[DPDK_DATAGRAM_MIN];
    struct dpdk_flow flow;
    struct dpdk_open open;

    if (arrival->frame.kind != DPDK_FRAME_UDP ||
        !gw_dpdk_is_local(transport, &arrival->frame.target) ||
        gw_dpdk_open_decode(datagram, arrival->frame.payload_length, &open) != 0)
        return;
    gw_dpdk_flow_back(transport, &arrival->frame, &flow);
    gw_dpdk_refuse_encode(&open, "nothing listens there", answer);
    gw_dpdk_port_send_datagram(&transport->port, &flow, answer, sizeof(answer));
}

/* The endpoint that the datagram is for, or NULL. */
static struct dpdk_endpoint *find_endpoint(struct dpdk_transport *transport,
                                           const struct dpdk_frame *frame)
{
    uint8_t place;

    if (frame->kind != DPDK_FRAME_UDP || !gw_dpdk_is_local(transport, &frame->target))
        return NULL;
    place = atomic_load_explicit(&transport->endpoint_of[frame->target_port], memory_order_acquire);
    return place ? atomic_load_explicit(&transport->endpoints[place], memory_order_acquire) : NULL;
}

struct sorting {
    const struct dpdk_endpoint *self;
    struct dpdk_arrival *out;
    unsigned *count;
    struct dpdk_frame neighbors[NEIGHBORS_KEPT];
    unsigned neighbor_count;
};

/* Where the next arrival's place is in out, whosever it turns out to be: what was just written in parts
 * costs much to copy. */
static void sort_one(struct dpdk_transport *transport, struct rte_mbuf *mbuf,
                     struct sorting *sorting)
{
    struct dpdk_arrival *arrival = &sorting->out[*sorting->count];
    struct dpdk_endpoint *endpoint = NULL;

    arrival->mbuf = mbuf;
    arrival->frame.kind = DPDK_FRAME_OTHER;
    if (is_sound(&transport->port, mbuf)) {
        gw_dpdk_frame_read(rte_pktmbuf_mtod(mbuf, uint8_t *), rte_pktmbuf_data_len(mbuf),
                           !transport->port.verifies_ipv4, &arrival->frame);
        endpoint = find_endpoint(transport, &arrival->frame);
        if (arrival->frame.kind > DPDK_FRAME_UDP && sorting->neighbor_count < NEIGHBORS_KEPT)
            sorting->neighbors[sorting->neighbor_count++] = arrival->frame;
    }
    if (!endpoint) {
        refuse_unclaimed(transport, arrival);
        rte_pktmbuf_free(mbuf);
    } else if (endpoint == sorting->self) {
        (*sorting->count)++;
    } else {
        hand_over(endpoint, arrival);
    }
}

unsigned gw_dpdk_receive(struct dpdk_transport *transport, unsigned queue,
                         const struct dpdk_endpoint *self, struct dpdk_arrival *out,
                         unsigned *count)
{
    struct sorting sorting = {.self = self, .out = out, .count = count};
    struct dpdk_queue *lock = &transport->port.queues[queue];
    struct rte_mbuf *mbufs[DPDK_BURST];
    unsigned got;

    *count = 0;
    if (!rte_spinlock_trylock(&lock->rx_lock))
        return 0;
    got = rte_eth_rx_burst(transport->port.id, (uint16_t)queue, mbufs, DPDK_BURST);
    if (got > 0 && !atomic_load_explicit(&transport->port.has_heard, memory_order_relaxed))
        atomic_store_explicit(&transport->port.has_heard, true, memory_order_relaxed);
    for (unsigned i = 0; i < got && i < PREFETCH_AHEAD; i++)
        rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void *));
    for (unsigned i = 0; i < got; i++) {
        if (i + PREFETCH_AHEAD < got)
            rte_prefetch0(rte_pktmbuf_mtod(mbufs[i + PREFETCH_AHEAD], void *));
        sort_one(transport, mbufs[i], &sorting);
    }
    rte_spinlock_unlock(&lock->rx_lock);
    for (unsigned i = 0; i < sorting.neighbor_count; i++)
        gw_dpdk_neighbor_frame(transport, &sorting.neighbors[i]);
    return got;
}
