/* SPDX-License-Identifier: Apache-2.0 */
/* Between a channel's core and frames: what arrived is given to it, what it has is made into frames. */
#include <rte_mbuf.h>
#include <string.h>

#include "common/bytes.h"
#include "transport/dpdk/dpdk.h"

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

void gw_dpdk_take_in(struct dpdk_poller *poller, enum dpdk_slot_state state,
                     struct dpdk_arrival *arrival, uint64_t now_ns)
{
    const struct dpdk_frame *frame = &arrival->frame;
    const uint8_t *datagram =
        rte_pktmbuf_mtod_offset(arrival->mbuf, const uint8_t *, frame->payload);
    struct dpdk_channel *channel = find(poller, state, datagram, frame->payload_length);

    /* Only who proves to be the peer may have moved to another place of the network. */
    if (channel && gw_dpdk_core_input(channel->core, now_ns, datagram, frame->payload_length,
                                      frame->is_congested ? DPDK_INPUT_CE : 0))
        channel->flow.peer_mac = frame->source_mac;
    rte_pktmbuf_free(arrival->mbuf);
}

/* Where the peer wants its datagrams, once it has said so. */
static void follow_port(struct dpdk_channel *channel)
{
    uint16_t port = gw_dpdk_core_peer_port(channel->core);

    if (port)
        channel->flow.peer_port = port;
}

/* Headers, the core's header and the payload behind each other in one buffer. */
static void fill(struct dpdk_channel *channel, const struct dpdk_port *port, struct rte_mbuf *mbuf,
                 uint8_t *frame, const struct dpdk_packet *packet)
{
    uint32_t headers = gw_dpdk_headers_size(&channel->flow);
    uint32_t length = DPDK_HEADER_SIZE + packet->length;
    uint8_t *datagram = frame + headers, *payload = datagram + DPDK_HEADER_SIZE;
    bool is_setup = datagram[1] == DPDK_KIND_OPEN || datagram[1] == DPDK_KIND_ACCEPT;
    unsigned checksums = port->checksums | (is_setup ? DPDK_CHECKSUM_UDP : 0);

    if (packet->length)
        memcpy(payload, packet->payload, packet->length);
    gw_dpdk_core_seal(channel->core, datagram, payload, packet->length);
    gw_dpdk_headers_write(&channel->flow, length, checksums, frame);
    gw_dpdk_headers_finish(&channel->flow, length, checksums, frame);
    mbuf->data_len = (uint16_t)(headers + length);
    mbuf->pkt_len = mbuf->data_len;
    if (port->checksums) {
        mbuf->l2_len = DPDK_ETHERNET_SIZE;
        mbuf->l3_len = channel->flow.local.is_ipv6 ? DPDK_IPV6_SIZE : DPDK_IPV4_SIZE;
        mbuf->ol_flags |= channel->flow.local.is_ipv6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
        if (port->checksums & DPDK_CHECKSUM_UDP_BY_NIC)
            mbuf->ol_flags |= RTE_MBUF_F_TX_UDP_CKSUM;
        if (port->checksums & DPDK_CHECKSUM_IPV4_BY_NIC && !channel->flow.local.is_ipv6)
            mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
    }
}

unsigned gw_dpdk_make(struct dpdk_channel *channel, uint64_t now_ns, struct rte_mbuf **out,
                      unsigned max)
{
    const struct dpdk_port *port = &gw_dpdk_transport_of(channel->poller->base.transport)->port;
    uint32_t headers = gw_dpdk_headers_size(&channel->flow);
    unsigned made = 0;

    follow_port(channel);
    while (made < max) {
        struct rte_mbuf *mbuf = rte_pktmbuf_alloc(port->pool);
        struct dpdk_packet packet;
        uint8_t *frame;

        /* Without a buffer it is asked again in the next turn. */
        if (!mbuf)
            break;
        frame = rte_pktmbuf_mtod(mbuf, uint8_t *);
        if (!gw_dpdk_core_output(channel->core, now_ns, frame + headers, &packet)) {
            rte_pktmbuf_free(mbuf);
            break;
        }
        fill(channel, port, mbuf, frame, &packet);
        out[made++] = mbuf;
    }
    return made;
}

void gw_dpdk_send_burst(struct dpdk_channel *channel, uint64_t now_ns)
{
    struct dpdk_port *port = &gw_dpdk_transport_of(channel->poller->base.transport)->port;
    struct rte_mbuf *mbufs[DPDK_BURST];
    unsigned made = gw_dpdk_make(channel, now_ns, mbufs, DPDK_BURST);
    unsigned sent = gw_dpdk_port_send(port, 0, mbufs, made);

    rte_pktmbuf_free_bulk(mbufs + sent, made - sent);
}
