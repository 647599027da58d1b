/* SPDX-License-Identifier: Apache-2.0 */
/* Between a channel's core and frames: what arrived is given to it, what it has is made into frames. */
#include <rte_mbuf.h>
#include <rte_prefetch.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

#define IN_PLACE_MIN 512u
#define FETCH_MAX    2048u /* beyond that the guess is right for most of it */

static struct dpdk_channel *find(struct dpdk_poller *poller, enum dpdk_slot_state state,
                                 const uint8_t *datagram, uint32_t length)
{
    uint32_t id = length >= DPDK_HEADER_SIZE ? gw_get_le32(datagram + 4) : UINT32_MAX;

    if (id >= DPDK_CHANNELS_MAX ||
        atomic_load_explicit(&poller->slots[id].state, memory_order_acquire) != state ||
        atomic_load_explicit(&poller->slots[id].incarnation, memory_order_relaxed) !=
            gw_get_le32(datagram + 8))
        return NULL;
    return poller->slots[id].channel;
}

static struct dpdk_channel *channel_of(struct dpdk_poller *poller, enum dpdk_slot_state state,
                                       const struct dpdk_arrival *arrival)
{
    return find(poller, state,
                rte_pktmbuf_mtod_offset(arrival->mbuf, const uint8_t *, arrival->frame.payload),
                arrival->frame.payload_length);
}

/* Datagrams of one channel. Only who proves to be the peer may have moved to another place of the network. */
static void take_of_one(struct dpdk_channel *channel, const struct dpdk_arrival *arrivals,
                        unsigned count, uint64_t now_ns)
{
    struct dpdk_input inputs[DPDK_BURST];

    for (unsigned i = 0; i < count; i++)
        inputs[i] =
            (struct dpdk_input){.bytes = rte_pktmbuf_mtod_offset(arrivals[i].mbuf, uint8_t *,
                                                                 arrivals[i].frame.payload),
                                .length = arrivals[i].frame.payload_length,
                                .flags = arrivals[i].frame.is_congested ? DPDK_INPUT_CE : 0};
    gw_dpdk_core_input(channel->core, now_ns, inputs, count);
    for (unsigned i = 0; i < count; i++)
        if (inputs[i].is_authentic)
            channel->flow.peer_mac = arrivals[i].frame.source_mac;
}

void gw_dpdk_take_in(struct dpdk_poller *poller, enum dpdk_slot_state state,
                     const struct dpdk_arrival *arrivals, unsigned count, uint64_t now_ns)
{
    struct rte_mbuf *mbufs[DPDK_BURST];

    for (unsigned first = 0, next; first < count; first = next) {
        struct dpdk_channel *channel = channel_of(poller, state, &arrivals[first]);

        for (next = first + 1; next < count; next++)
            if (channel_of(poller, state, &arrivals[next]) != channel)
                break;
        if (channel)
            take_of_one(channel, arrivals + first, next - first, now_ns);
    }
    for (unsigned i = 0; i < count; i++)
        mbufs[i] = arrivals[i].mbuf;
    rte_pktmbuf_free_bulk(mbufs, count);
}

/* Where the peer wants its datagrams, once it has said so. */
static void follow_port(struct dpdk_channel *channel)
{
    uint16_t port = gw_dpdk_core_peer_port(channel->core);

    if (port)
        channel->flow.peer_port = port;
}

/* Over IPv4 the tag is all the proof that a datagram needs: a UDP checksum would be work for nothing, and
 * drivers of virtual devices say that the NIC does it and do it themselves. What sets a channel up has
 * one, since its tag is looked at late or never. */
static unsigned choose_checksums(const struct dpdk_channel *channel, const struct dpdk_port *port,
                                 const uint8_t *datagram)
{
    bool is_setup = datagram[1] == DPDK_KIND_OPEN || datagram[1] == DPDK_KIND_ACCEPT;

    if (is_setup)
        return port->checksums | DPDK_CHECKSUM_UDP;
    if (channel->flow.local.is_ipv6)
        return port->checksums;
    return port->checksums & ~(unsigned)DPDK_CHECKSUM_UDP_BY_NIC;
}

static void tell_nic(const struct dpdk_channel *channel, unsigned checksums, struct rte_mbuf *mbuf)
{
    bool is_ipv6 = channel->flow.local.is_ipv6;

    mbuf->l2_len = DPDK_ETHERNET_SIZE;
    mbuf->l3_len = is_ipv6 ? DPDK_IPV6_SIZE : DPDK_IPV4_SIZE;
    mbuf->ol_flags |= is_ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
    if (checksums & DPDK_CHECKSUM_UDP_BY_NIC)
        mbuf->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM;
    if (checksums & DPDK_CHECKSUM_IPV4_BY_NIC && !is_ipv6)
        mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
}

/* A checksum that is made here wants the payload behind its headers. */
bool gw_dpdk_sends_in_place(const struct dpdk_channel *channel)
{
    const struct dpdk_port *port = &gw_dpdk_transport_of(channel->poller->base.transport)->port;

    return atomic_load_explicit(&port->sends_in_place, memory_order_relaxed) &&
           (!channel->flow.local.is_ipv6 || port->checksums & DPDK_CHECKSUM_UDP_BY_NIC);
}

/* Short payload costs less to copy than to name. */
static bool may_lie(const struct dpdk_channel *channel, const struct dpdk_packet *packet)
{
    return !packet->must_copy && packet->length >= IN_PLACE_MIN && gw_dpdk_sends_in_place(channel);
}

/* The next datagram mostly goes on where this one ends. Hashing reads as fast as it can and runs into
 * memory that nobody has touched lately; the processor's own guess ends with each page. */
static void fetch_next(const struct dpdk_packet *packet)
{
    const uint8_t *next = (const uint8_t *)packet->payload + packet->length;

    for (uint32_t at = 0; packet->length <= FETCH_MAX && at < packet->length;
         at += RTE_CACHE_LINE_SIZE)
        rte_prefetch0(next + at);
}

/* Headers, the core's header, and the payload behind them unless it stays where it lies. */
static void fill(struct dpdk_channel *channel, struct rte_mbuf *mbuf,
                 const struct dpdk_packet *packet, bool is_in_place)
{
    const struct dpdk_port *port = &gw_dpdk_transport_of(channel->poller->base.transport)->port;
    uint32_t headers = gw_dpdk_headers_size(&channel->flow);
    uint32_t length = DPDK_HEADER_SIZE + packet->length;
    uint8_t *frame = rte_pktmbuf_mtod(mbuf, uint8_t *), *datagram = frame + headers;
    unsigned checksums = choose_checksums(channel, port, datagram);
    const void *payload = packet->payload;

    fetch_next(packet);
    if (packet->length && !is_in_place)
        payload = memcpy(datagram + DPDK_HEADER_SIZE, payload, packet->length);
    gw_dpdk_core_seal(channel->core, datagram, payload, packet->length);
    gw_dpdk_headers_write(&channel->flow, length, checksums, frame);
    if (!is_in_place)
        gw_dpdk_headers_finish(&channel->flow, length, checksums, frame);
    mbuf->data_len = (uint16_t)(headers + (is_in_place ? DPDK_HEADER_SIZE : length));
    mbuf->pkt_len = mbuf->data_len;
    if (checksums & (DPDK_CHECKSUM_IPV4_BY_NIC | DPDK_CHECKSUM_UDP_BY_NIC))
        tell_nic(channel, checksums, mbuf);
}

unsigned gw_dpdk_make(struct dpdk_channel *channel, struct dpdk_outbox *outbox, uint64_t now_ns,
                      struct rte_mbuf **out, unsigned max)
{
    const struct dpdk_port *port = &gw_dpdk_transport_of(channel->poller->base.transport)->port;
    uint32_t headers = gw_dpdk_headers_size(&channel->flow);
    unsigned made = 0;

    if (gw_dpdk_copies_note(&channel->copies, now_ns, gw_dpdk_core_eras(channel->core)))
        gw_dpdk_core_begin_era(channel->core);
    follow_port(channel);
    while (made < max) {
        struct rte_mbuf *mbuf = gw_dpdk_outbox_take(outbox, port->pool);
        struct dpdk_packet packet;
        bool is_in_place;

        /* Without a buffer it is asked again in the next turn. */
        if (!mbuf)
            break;
        if (!gw_dpdk_core_output(channel->core, now_ns,
                                 rte_pktmbuf_mtod_offset(mbuf, uint8_t *, headers), &packet)) {
            gw_dpdk_outbox_give_back(outbox, mbuf);
            break;
        }
        is_in_place = outbox && !channel->copies.is_copying && may_lie(channel, &packet);
        fill(channel, mbuf, &packet, is_in_place);
        if (is_in_place)
            gw_dpdk_outbox_lend(outbox, made, mbuf, &packet);
        out[made++] = mbuf;
    }
    return made;
}

void gw_dpdk_send_burst(struct dpdk_channel *channel, uint64_t now_ns)
{
    struct dpdk_port *port = &gw_dpdk_transport_of(channel->poller->base.transport)->port;
    struct rte_mbuf *mbufs[DPDK_BURST];
    unsigned made = gw_dpdk_make(channel, NULL, now_ns, mbufs, DPDK_BURST);
    unsigned sent = gw_dpdk_port_send(port, 0, mbufs, made);

    rte_pktmbuf_free_bulk(mbufs + sent, made - sent);
}
