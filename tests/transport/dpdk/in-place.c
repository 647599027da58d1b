/* SPDX-License-Identifier: Apache-2.0 */
/* Payload that is sent from where it lies: over vhost's port it is, over virtio_user's it cannot be, and both
 * say so; bytes that change under the port while they leave do no harm. And a port whose other end takes
 * nothing: what waits is whole, and who waits sleeps. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/transport/rig.h"
#include "transport/dpdk/dpdk.h"
#include "transport/dpdk/private.h"

#define SIZE         (1u << 20)
#define ROUNDS       60
#define BIG          (4u << 20)
#define BIG_ROUNDS   8
#define WAIT_MS      90000
#define WATCH_NS     (300 * GW_NS_PER_MS)
#define WAKES_A_MS   2u
#define LONG_PAYLOAD 8192u /* less than a datagram's, at this MTU */

struct guest {
    uint8_t *memory;
    _Atomic bool is_over;
};

/* A guest that runs while it is moved: every byte takes two values in turn. */
static void *run_guest(void *argument)
{
    struct guest *guest = argument;

    for (unsigned turn = 0; !atomic_load(&guest->is_over); turn++)
        for (size_t at = 0; at < SIZE; at += 64)
            *(volatile uint8_t *)(guest->memory + at) = turn % 2 ? 0x55 : 0xaa;
    return NULL;
}

static bool is_in_place(struct gw_channel *channel)
{
    struct gw_channel_info info;

    gw_channel_info(channel, &info);
    return strstr(info.description, "sent in place") != NULL;
}

Test(dpdk_in_place, where_the_driver_can_and_only_there)
{
    struct rig rig;

    rig_open(&rig, RIG_DPDK);
    rig_join(&rig);
    cr_assert(is_in_place(rig.far), "vhost reads any memory");
    cr_assert(!is_in_place(rig.near), "the other end of virtio_user reads DPDK's alone");
    rig_close(&rig);
}

/* The far end sends. */
static void send_all(struct rig *rig, const uint8_t *source, uint32_t size,
                     const struct gw_region *region)
{
    struct rig_write write = rig_write(source, size, region, 0);
    struct rig_send send = rig_send("x", 1);
    struct gw_message message;

    cr_assert_eq(rig_post_write(rig->far, &write), 0);
    cr_assert_eq(rig_post_send(rig->far, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->near, &message), 0);
    cr_assert(rig_until(rig, &write.done_count, 1) && rig_until(rig, &send.done_count, 1));
    cr_assert_eq(write.status, 0);
}

Test(dpdk_in_place, bytes_that_change_while_they_leave)
{
    struct guest guest = {.memory = calloc(1, SIZE)};
    uint8_t *target = calloc(1, SIZE);
    struct gw_region *region;
    pthread_t thread;
    struct rig rig;

    rig_open(&rig, RIG_DPDK);
    rig_join(&rig);
    cr_assert(is_in_place(rig.far));
    cr_assert_eq(gw_reg(rig.near_domain, target, SIZE, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    cr_assert_eq(pthread_create(&thread, NULL, run_guest, &guest), 0);
    for (int round = 0; round < ROUNDS; round++) {
        send_all(&rig, guest.memory, SIZE, region);
        for (size_t at = 0; at < SIZE; at++)
            cr_assert(at % 64 ? target[at] == 0
                              : target[at] == 0 || target[at] == 0x55 || target[at] == 0xaa,
                      "byte %zu is %#x", at, target[at]);
    }
    atomic_store(&guest.is_over, true);
    pthread_join(thread, NULL);
    send_all(&rig, guest.memory, SIZE, region);
    cr_assert_eq(memcmp(target, guest.memory, SIZE), 0);
    gw_unreg(region);
    rig_close(&rig);
    free(guest.memory);
    free(target);
}

/* ---- memory that nobody writes ---- */

struct quiet {
    struct rig rig;
    uint8_t *source, *target;
    struct gw_region *region;
};

static void open_quiet(struct quiet *quiet)
{
    rig_open(&quiet->rig, RIG_DPDK);
    rig_join(&quiet->rig);
    quiet->source = malloc(BIG);
    quiet->target = calloc(1, BIG);
    rig_fill(quiet->source, BIG, 1);
    cr_assert_eq(gw_reg(quiet->rig.near_domain, quiet->target, BIG, GW_ACCESS_REMOTE_WRITE, 0,
                        &quiet->region),
                 0);
    for (int round = 0; round < BIG_ROUNDS; round++)
        send_all(&quiet->rig, quiet->source, BIG, quiet->region);
}

static void close_quiet(struct quiet *quiet)
{
    gw_unreg(quiet->region);
    rig_close(&quiet->rig);
    free(quiet->source);
    free(quiet->target);
}

static const struct dpdk_counts *counts_of(struct gw_channel *channel)
{
    return &gw_dpdk_channel_of(channel)->core->counts;
}

static const struct dpdk_outbox *outbox_of(struct gw_poller *poller)
{
    return &gw_dpdk_poller_of(poller)->outbox;
}

/* Bytes that are wrong, or gone, when the driver reads them would be sent again as copies, and arrive. */
Test(dpdk_in_place, quiet_bytes_arrive_at_once)
{
    uint64_t least = (uint64_t)BIG_ROUNDS * BIG / DPDK_DATAGRAM_MAX;
    struct quiet quiet;

    open_quiet(&quiet);
    cr_assert_eq(memcmp(quiet.target, quiet.source, BIG), 0);
    cr_assert_eq(counts_of(quiet.rig.near)->forged, 0);
    /* (What a busy machine delays may be sent again for that.) */
    cr_assert_lt(counts_of(quiet.rig.far)->sent_again, least / 4);
    cr_assert_gt(outbox_of(quiet.rig.far_poller)->lent_count, 0);
    cr_assert_eq(outbox_of(quiet.rig.near_poller)->lent_count, 0);
    close_quiet(&quiet);
}

/* The near end's driver stands still, and the far end sends until the ring between them is full. */
static void fill_ring(struct rig *rig, struct rig_write *writes, unsigned count)
{
    struct dpdk_port *port = &gw_dpdk_transport_of(rig->transport)->port;
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    struct gw_channel *ready[1];

    rte_spinlock_lock(&port->queues[0].rx_lock);
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(rig_post_write(rig->far, &writes[i]), 0);
    while (outbox_of(rig->far_poller)->unsent_count == 0) {
        cr_assert(writes[0].done_count == 0 && gw_clock_ns() < deadline_ns,
                  "the ring has room for everything");
        gw_poll(rig->far_poller, ready, 1);
    }
}

static void empty_ring(struct rig *rig)
{
    rte_spinlock_unlock(&gw_dpdk_transport_of(rig->transport)->port.queues[0].rx_lock);
}

Test(dpdk_in_place, what_the_ring_has_no_room_for_is_made_whole)
{
    const struct dpdk_outbox *outbox;
    struct rig_write writes[2];
    struct quiet quiet;
    unsigned long_count = 0;

    open_quiet(&quiet);
    outbox = outbox_of(quiet.rig.far_poller);
    memset(quiet.target, 0, BIG);
    for (unsigned i = 0; i < 2; i++)
        writes[i] = rig_write(quiet.source, BIG, quiet.region, 0);
    gw_dpdk_channel_of(quiet.rig.far)->copies.is_copying = false;
    fill_ring(&quiet.rig, writes, 2);
    for (unsigned i = 0; i < outbox->unsent_count; i++) {
        cr_assert_eq(outbox->unsent[i]->nb_segs, 1);
        cr_assert_null(outbox->unsent[i]->next);
        long_count += outbox->unsent[i]->data_len > LONG_PAYLOAD;
    }
    cr_assert_gt(long_count, 0, "nothing but what was copied anyway");
    empty_ring(&quiet.rig);
    cr_assert(rig_until(&quiet.rig, &writes[0].done_count, 1));
    cr_assert(rig_until(&quiet.rig, &writes[1].done_count, 1));
    cr_assert_eq(memcmp(quiet.target, quiet.source, BIG), 0);
    cr_assert_eq(counts_of(quiet.rig.near)->forged, 0);
    close_quiet(&quiet);
}

/* What the far end sends first of a write is caught before the near end sees any of it. At least two: a single
 * one may be made good by what answers silence, with no later one to tell that it was lost. */
static unsigned catch (struct quiet *quiet, struct rig_write *write, struct rte_mbuf **mbufs)
{
    struct dpdk_port *port = &gw_dpdk_transport_of(quiet->rig.transport)->port;
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    const struct dpdk_channel *channel = gw_dpdk_channel_of(quiet->rig.far);
    struct gw_channel *ready[1];
    unsigned count = 0;

    /* (On a busy machine there may have been a loss.) */
    while (channel->copies.is_copying)
        rig_turn(&quiet->rig);
    rte_spinlock_lock(&port->queues[0].rx_lock);
    *write = rig_write(quiet->source, BIG, quiet->region, 0);
    cr_assert_eq(rig_post_write(quiet->rig.far, write), 0);
    while (count < 2) {
        cr_assert_lt(gw_clock_ns(), deadline_ns);
        gw_poll(quiet->rig.far_poller, ready, 1);
        count += rte_eth_rx_burst(port->id, 0, mbufs + count, (uint16_t)(DPDK_BURST - count));
    }
    empty_ring(&quiet->rig);
    return count;
}

Test(dpdk_in_place, a_loss_has_bytes_copied_for_a_while)
{
    struct dpdk_channel *channel;
    struct rte_mbuf *mbufs[DPDK_BURST];
    uint64_t begun_ns, lent_count;
    struct rig_write write;
    struct quiet quiet;

    open_quiet(&quiet);
    channel = gw_dpdk_channel_of(quiet.rig.far);
    rte_pktmbuf_free_bulk(mbufs, catch (&quiet, &write, mbufs));
    begun_ns = gw_clock_ns();
    cr_assert(rig_until(&quiet.rig, &write.done_count, 1));
    cr_assert_eq(memcmp(quiet.target, quiet.source, BIG), 0);
    cr_assert_geq(channel->copies.begun_ns, begun_ns);
    /* And while that lasts (longer here, for a busy machine) nothing is lent. */
    channel->copies.is_copying = true;
    channel->copies.begun_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    lent_count = outbox_of(quiet.rig.far_poller)->lent_count;
    send_all(&quiet.rig, quiet.source, BIG, quiet.region);
    cr_assert_eq(outbox_of(quiet.rig.far_poller)->lent_count, lent_count);
    close_quiet(&quiet);
}

/* Sent by the far end's port once more, as a network does that held them back. */
static void let_go(struct rig *rig, struct rte_mbuf **mbufs, unsigned count)
{
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    struct dpdk_port *port = &gw_dpdk_transport_of(rig->far_transport)->port;

    for (unsigned sent = 0; sent < count;) {
        cr_assert_lt(gw_clock_ns(), deadline_ns);
        rte_spinlock_lock(&port->queues[0].tx_lock);
        sent += rte_eth_tx_burst(port->id, 0, mbufs + sent, (uint16_t)(count - sent));
        rte_spinlock_unlock(&port->queues[0].tx_lock);
        rig_turn(rig);
    }
}

Test(dpdk_in_place, what_comes_late_ends_the_copies)
{
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    struct rte_mbuf *mbufs[DPDK_BURST];
    struct dpdk_channel *channel;
    struct rig_write write;
    struct quiet quiet;
    unsigned count;

    open_quiet(&quiet);
    channel = gw_dpdk_channel_of(quiet.rig.far);
    count = catch (&quiet, &write, mbufs);
    while (!channel->copies.is_copying) {
        cr_assert_lt(gw_clock_ns(), deadline_ns);
        rig_turn(&quiet.rig);
    }
    /* By time it does not end. */
    channel->copies.begun_ns = gw_clock_ns() + 2 * WAIT_MS * GW_NS_PER_MS;
    let_go(&quiet.rig, mbufs, count);
    while (channel->copies.is_copying) {
        cr_assert_lt(gw_clock_ns(), deadline_ns);
        rig_turn(&quiet.rig);
    }
    cr_assert(rig_until(&quiet.rig, &write.done_count, 1));
    cr_assert_eq(memcmp(quiet.target, quiet.source, BIG), 0);
    close_quiet(&quiet);
}

/* How often a sleeper is woken, a millisecond of the time that passed. */
static void watch_sleep(struct gw_poller *poller)
{
    struct gw_channel *ready[1];
    uint64_t begun_ns, now_ns;
    unsigned wakes = 0;

    usleep(1000); /* a stream keeps it awake for less, once it has ended */
    begun_ns = gw_clock_ns();
    do {
        struct pollfd item = {.fd = gw_poller_arm(poller), .events = POLLIN};

        gw_poll(poller, ready, 1);
        cr_assert_geq(poll(&item, 1, WAIT_MS), 0);
        gw_poll(poller, ready, 1);
        gw_poll(poller, ready, 1);
        wakes++;
        now_ns = gw_clock_ns();
    } while (now_ns - begun_ns < WATCH_NS);
    cr_assert_leq(wakes, WAKES_A_MS * ((now_ns - begun_ns) / GW_NS_PER_MS + 1));
}

Test(dpdk_in_place, who_waits_for_a_full_ring_sleeps)
{
    struct rig_write write;
    struct gw_channel *ready[1];
    struct quiet quiet;

    open_quiet(&quiet);
    write = rig_write(quiet.source, BIG, quiet.region, 0);
    fill_ring(&quiet.rig, &write, 1);
    watch_sleep(quiet.rig.far_poller);
    cr_assert_gt(outbox_of(quiet.rig.far_poller)->unsent_count, 0);
    /* Once nobody wants it any more it is not tried again. */
    gw_close(quiet.rig.far);
    quiet.rig.far = NULL;
    cr_assert_eq(write.status, -ECANCELED);
    gw_poll(quiet.rig.far_poller, ready, 1);
    cr_assert_eq(outbox_of(quiet.rig.far_poller)->unsent_count, 0);
    empty_ring(&quiet.rig);
    close_quiet(&quiet);
}
