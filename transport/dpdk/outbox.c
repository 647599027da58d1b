/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a poller sends: a burst of datagrams at a time. Where the driver reads with the CPU, a write's
 * payload is not copied into DPDK's memory: a second buffer without bytes of its own names the op's
 * (rte_pktmbuf_attach_extbuf). That ends with the burst: what the NIC had no room for is made whole by a
 * copy, and the driver must have let go of the rest, which is looked at. So ops may be done, and their
 * memory gone, as soon as flush has returned.
 */
#include <errno.h>
#include <rte_cycles.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/dpdk/dpdk.h"

#define LET_GO_US     10u
#define LET_GO_MAX_NS GW_NS_PER_S

static void freed(void *memory, void *context)
{
    (void)memory;
    (void)context;
}

static struct dpdk_port *port_of(const struct dpdk_poller *poller)
{
    return &gw_dpdk_transport_of(poller->base.transport)->port;
}

int gw_dpdk_outbox_open(struct dpdk_poller *poller)
{
    static _Atomic unsigned serial; /* names must differ in the process */
    struct dpdk_outbox *outbox = &poller->outbox;
    char name[RTE_MEMPOOL_NAMESIZE];

    if (!port_of(poller)->sends_in_place)
        return 0;
    snprintf(name, sizeof(name), "godwit-lent-%u", atomic_fetch_add(&serial, 1));
    outbox->lent_pool = rte_pktmbuf_pool_create(name, DPDK_BURST, 0, 0, 0, SOCKET_ID_ANY);
    if (!outbox->lent_pool ||
        rte_pktmbuf_alloc_bulk(outbox->lent_pool, outbox->lent, DPDK_BURST) != 0)
        return gw_fail(-ENOMEM, "dpdk: no memory for a poller's buffers");
    outbox->lent_info.free_cb = freed;
    rte_mbuf_ext_refcnt_set(&outbox->lent_info, 1);
    return 0;
}

void gw_dpdk_outbox_close(struct dpdk_poller *poller)
{
    struct dpdk_outbox *outbox = &poller->outbox;

    gw_dpdk_outbox_drop(outbox);
    rte_pktmbuf_free_bulk(outbox->spare, outbox->spare_count);
    for (unsigned i = 0; outbox->lent_pool && i < DPDK_BURST && outbox->lent[i]; i++)
        if (rte_mbuf_refcnt_read(outbox->lent[i]) > 1)
            return; /* a driver that hangs has it still */
    rte_mempool_free(outbox->lent_pool);
}

struct rte_mbuf *gw_dpdk_outbox_take(struct dpdk_outbox *outbox, struct rte_mempool *pool)
{
    if (!outbox)
        return rte_pktmbuf_alloc(pool);
    if (outbox->spare_count == 0 && rte_pktmbuf_alloc_bulk(pool, outbox->spare, DPDK_BURST) == 0)
        outbox->spare_count = DPDK_BURST;
    return outbox->spare_count ? outbox->spare[--outbox->spare_count] : rte_pktmbuf_alloc(pool);
}

void gw_dpdk_outbox_give_back(struct dpdk_outbox *outbox, struct rte_mbuf *mbuf)
{
    if (outbox && outbox->spare_count < DPDK_BURST)
        outbox->spare[outbox->spare_count++] = mbuf;
    else
        rte_pktmbuf_free(mbuf);
}

void gw_dpdk_outbox_lend(struct dpdk_outbox *outbox, unsigned index, struct rte_mbuf *mbuf,
                         const struct dpdk_packet *packet)
{
    struct rte_mbuf *lent = outbox->lent[index];

    outbox->lent_count++;
    lent->ol_flags &= ~RTE_MBUF_F_EXTERNAL; /* of the last time */
    rte_pktmbuf_attach_extbuf(lent, (void *)(uintptr_t)packet->payload, RTE_BAD_IOVA,
                              (uint16_t)packet->length, &outbox->lent_info);
    lent->data_len = (uint16_t)packet->length;
    lent->pkt_len = packet->length;
    rte_mbuf_refcnt_set(lent, 2); /* the driver's, which it gives back, and the outbox's */
    mbuf->next = lent;
    mbuf->nb_segs = 2;
    mbuf->pkt_len += packet->length;
}

static void make_whole(struct rte_mbuf *mbuf)
{
    struct rte_mbuf *lent = mbuf->next;

    if (!lent)
        return;
    memcpy(rte_pktmbuf_mtod_offset(mbuf, uint8_t *, mbuf->data_len),
           rte_pktmbuf_mtod(lent, const uint8_t *), lent->data_len);
    mbuf->data_len = (uint16_t)mbuf->pkt_len;
    mbuf->next = NULL;
    mbuf->nb_segs = 1;
    rte_mbuf_refcnt_set(lent, 1);
}

/* A driver that reads after the burst was taken for another kind: it gets copies from now on. One that does
 * not let go at all has bytes that soon are somebody else's: nothing can be sent by it any more. */
static void wait_for_driver(struct dpdk_poller *poller, unsigned queue, struct rte_mbuf *lent)
{
    struct dpdk_port *port = port_of(poller);
    uint64_t begun_ns;

    if (rte_mbuf_refcnt_read(lent) == 1 || atomic_load(&port->state) == DPDK_PORT_GONE)
        return;
    gw_log(GW_LOG_WARNING, "dpdk: %s keeps what it is to send: it gets copies from now on",
           port->driver);
    atomic_store(&port->sends_in_place, false);
    begun_ns = gw_clock_ns();
    while (rte_mbuf_refcnt_read(lent) > 1) {
        if (gw_clock_ns() - begun_ns > LET_GO_MAX_NS) {
            gw_dpdk_port_give_up(port);
            return;
        }
        gw_dpdk_port_clean_up(port, queue);
        rte_delay_us_block(LET_GO_US);
    }
}

void gw_dpdk_outbox_flush(struct dpdk_poller *poller)
{
    struct dpdk_outbox *outbox = &poller->outbox;
    struct dpdk_port *port = port_of(poller);
    unsigned queue = poller->place % port->queue_count, count = outbox->unsent_count, sent;

    if (count == 0)
        return;
    sent = gw_dpdk_port_send(port, queue, outbox->unsent, count);
    for (unsigned i = sent; i < count; i++)
        make_whole(outbox->unsent[i]);
    for (unsigned i = 0; outbox->lent_pool && i < count; i++)
        wait_for_driver(poller, queue, outbox->lent[i]);
    outbox->unsent_count -= sent;
    memmove(outbox->unsent, outbox->unsent + sent,
            outbox->unsent_count * sizeof(outbox->unsent[0]));
}

unsigned gw_dpdk_outbox_send(struct dpdk_poller *poller, struct dpdk_channel *channel,
                             uint64_t now_ns)
{
    struct dpdk_outbox *outbox = &poller->outbox;
    unsigned made = gw_dpdk_make(channel, outbox, now_ns, outbox->unsent, DPDK_BURST);

    outbox->unsent_count = made;
    gw_dpdk_outbox_flush(poller);
    return made;
}

void gw_dpdk_outbox_drop(struct dpdk_outbox *outbox)
{
    rte_pktmbuf_free_bulk(outbox->unsent, outbox->unsent_count);
    outbox->unsent_count = 0;
}
