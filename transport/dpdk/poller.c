/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's share of the port: its turn from the NIC's queues to the channels and back, and its
 * sleep. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

#define NOT_ARMED    UINT32_MAX
#define INBOX_BURSTS 4u /* of what others read, in one turn */
/* So many datagrams within that time are a stream: who serves it stays awake for as long once more. A
 * sleeper would have to wait for the port's thread, which looks every 50 us at best. */
#define STREAM_DATAGRAMS 8u
#define AWAKE_NS         200000u
#define RETRY_NS         (1 * GW_NS_PER_MS) /* while the NIC has no room */

/* ---- opening and closing ---- */

static int take_place(struct dpdk_transport *transport, unsigned *out)
{
    unsigned place = 0;

    pthread_mutex_lock(&transport->lock);
    while (transport->has_poller[place])
        place++;
    transport->has_poller[place] = true;
    if (place >= atomic_load(&transport->poller_count))
        atomic_store(&transport->poller_count, place + 1);
    pthread_mutex_unlock(&transport->lock);
    *out = place;
    return 0;
}

static void leave_place(struct dpdk_transport *transport, unsigned place)
{
    unsigned count;

    pthread_mutex_lock(&transport->lock);
    transport->has_poller[place] = false;
    for (count = atomic_load(&transport->poller_count);
         count > 0 && !transport->has_poller[count - 1];)
        count--;
    atomic_store(&transport->poller_count, count);
    pthread_mutex_unlock(&transport->lock);
}

static int open_descriptors(struct dpdk_poller *poller)
{
    struct epoll_event event = {.events = EPOLLIN};

    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    poller->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    poller->setup_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (poller->epoll_fd < 0 || poller->timer_fd < 0 || poller->setup_fd < 0 ||
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, poller->timer_fd, &event) != 0 ||
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, poller->endpoint.wake_fd, &event) != 0)
        return gw_fail_errno(-errno, "dpdk: descriptors of a poller");
    return 0;
}

static void close_one(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void free_poller(struct dpdk_poller *poller)
{
    close_one(poller->epoll_fd);
    close_one(poller->timer_fd);
    close_one(poller->setup_fd);
    gw_dpdk_outbox_close(poller);
    gw_dpdk_ring_free(poller->setup_inbox);
    pthread_mutex_destroy(&poller->setup_lock);
    free(poller);
}

int gw_dpdk_poller_open(struct gw_transport *base, struct gw_poller **out)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base);
    struct dpdk_poller *poller = calloc(1, sizeof(*poller));
    int error;

    if (!poller)
        return gw_fail(-ENOMEM, "dpdk: no memory for a poller");
    poller->base.transport = base;
    poller->epoll_fd = poller->timer_fd = poller->setup_fd = -1;
    poller->polls_since_arm = NOT_ARMED;
    pthread_mutex_init(&poller->setup_lock, NULL);
    error = gw_dpdk_ring_new("setup", DPDK_REQUESTS_SIZE, &poller->setup_inbox);
    if (!error)
        error = gw_dpdk_outbox_open(poller);
    if (!error)
        error = gw_dpdk_endpoint_open(transport, true, 0, &poller->endpoint);
    if (!error) {
        error = open_descriptors(poller);
        if (error)
            gw_dpdk_endpoint_close(transport, &poller->endpoint);
    }
    if (error) {
        free_poller(poller);
        return error;
    }
    take_place(transport, &poller->place);
    *out = &poller->base;
    return 0;
}

static void disarm(struct dpdk_poller *poller);

void gw_dpdk_poller_close(struct gw_poller *base)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base->transport);
    struct dpdk_poller *poller = gw_dpdk_poller_of(base);

    disarm(poller);
    gw_dpdk_endpoint_close(transport, &poller->endpoint);
    leave_place(transport, poller->place);
    free_poller(poller);
}

/* ---- a turn ---- */

/* Which channels are this thread's now. */
static void adopt(struct dpdk_poller *poller)
{
    unsigned changes = atomic_load_explicit(&poller->changes, memory_order_acquire);

    if (changes == poller->seen_changes)
        return;
    poller->seen_changes = changes;
    poller->channel_count = 0;
    for (unsigned i = 0; i < DPDK_CHANNELS_MAX; i++)
        if (atomic_load_explicit(&poller->slots[i].state, memory_order_acquire) == DPDK_SLOT_OPEN)
            poller->channels[poller->channel_count++] = poller->slots[i].channel;
}

static unsigned take_from_inbox(struct dpdk_poller *poller, uint64_t now_ns)
{
    const struct dpdk_transport *transport = gw_dpdk_transport_of(poller->base.transport);
    unsigned total = 0;

    for (unsigned burst = 0; burst < INBOX_BURSTS; burst++) {
        struct dpdk_arrival arrivals[DPDK_BURST];
        void *mbufs[DPDK_BURST];
        unsigned got = rte_ring_dequeue_burst(poller->endpoint.inbox, mbufs, DPDK_BURST, NULL);

        for (unsigned i = 0; i < got; i++) {
            arrivals[i].mbuf = mbufs[i];
            gw_dpdk_frame_read(rte_pktmbuf_mtod(arrivals[i].mbuf, uint8_t *),
                               rte_pktmbuf_data_len(arrivals[i].mbuf),
                               !transport->port.verifies_ipv4, &arrivals[i].frame);
        }
        gw_dpdk_take_in(poller, DPDK_SLOT_OPEN, arrivals, got, now_ns);
        total += got;
        if (got < DPDK_BURST)
            break;
    }
    return total;
}

/* One that came for a channel which a control thread still makes. */
static bool leave_to_setup(struct dpdk_poller *poller, const struct dpdk_arrival *arrival)
{
    const uint8_t *datagram =
        rte_pktmbuf_mtod_offset(arrival->mbuf, const uint8_t *, arrival->frame.payload);

    if (!gw_dpdk_is_setup(poller, datagram, arrival->frame.payload_length))
        return false;
    if (rte_ring_enqueue(poller->setup_inbox, arrival->mbuf) != 0)
        rte_pktmbuf_free(arrival->mbuf);
    gw_dpdk_wake(poller->setup_fd);
    return true;
}

/* The NIC's queues are dealt out among the pollers: with one of each, each has its own. Returns how many
 * datagrams were this poller's. */
static unsigned take_from_nic(struct dpdk_poller *poller, uint64_t now_ns)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(poller->base.transport);
    unsigned queues = transport->port.queue_count, total = 0;
    unsigned step = (unsigned)gw_max(atomic_load(&transport->poller_count), 1);

    for (unsigned queue = poller->place % queues; queue < queues; queue += step) {
        struct dpdk_arrival arrivals[DPDK_BURST];
        unsigned count, kept = 0;

        gw_dpdk_receive(transport, queue, &poller->endpoint, arrivals, &count);
        total += count;
        for (unsigned i = 0; i < count; i++) {
            if (leave_to_setup(poller, &arrivals[i]))
                continue;
            if (kept < i)
                arrivals[kept] = arrivals[i];
            kept++;
        }
        gw_dpdk_take_in(poller, DPDK_SLOT_OPEN, arrivals, kept, now_ns);
        if (poller->polls_since_arm == NOT_ARMED)
            atomic_store_explicit(&transport->port.queues[queue].polled_ns, now_ns,
                                  memory_order_relaxed);
    }
    return total;
}

/* Each channel in turn gives a burst; what the NIC has no room for waits, and nobody is asked for
 * more until it has gone. */
static unsigned send_all(struct dpdk_poller *poller, uint64_t now_ns)
{
    unsigned total = 0;

    gw_dpdk_outbox_flush(poller);
    for (unsigned i = 0; i < poller->channel_count && poller->outbox.unsent_count == 0; i++) {
        unsigned at = poller->next_channel++ % poller->channel_count;

        total += gw_dpdk_outbox_send(poller, poller->channels[at], now_ns);
    }
    for (unsigned i = 0; i < poller->channel_count && poller->outbox.unsent_count; i++)
        gw_dpdk_core_tick(poller->channels[i]->core, now_ns);
    return total;
}

static void note_traffic(struct dpdk_poller *poller, uint64_t now_ns, unsigned datagrams)
{
    if (now_ns - poller->traffic_since_ns > AWAKE_NS) {
        poller->traffic_since_ns = now_ns;
        poller->traffic = 0;
    }
    poller->traffic += datagrams;
    if (poller->traffic >= STREAM_DATAGRAMS)
        poller->busy_ns = now_ns;
}

/* Who was not reported for want of room is the first in the next turn. */
static int report(struct dpdk_poller *poller, struct gw_channel **ready, int max)
{
    unsigned first = poller->next_report;
    int count = 0;

    for (unsigned i = 0; i < poller->channel_count; i++)
        gw_dpdk_core_reap(poller->channels[i]->core);
    for (unsigned i = 0; i < poller->channel_count && count < max; i++) {
        struct dpdk_channel *channel = poller->channels[(first + i) % poller->channel_count];

        if (!gw_dpdk_core_is_ready(channel->core))
            continue;
        ready[count++] = &channel->base;
        poller->next_report = (first + i + 1) % poller->channel_count;
    }
    return count;
}

/* ---- sleeping ---- */

static void set_timer(struct dpdk_poller *poller, uint64_t now_ns)
{
    uint64_t deadline_ns = UINT64_MAX;
    struct itimerspec timer = {0};

    for (unsigned i = 0; i < poller->channel_count; i++)
        deadline_ns = gw_min(deadline_ns, gw_dpdk_core_deadline(poller->channels[i]->core, now_ns));
    /* What channels have to send, perhaps for long, cannot go either. */
    if (poller->outbox.unsent_count)
        deadline_ns = now_ns + RETRY_NS;
    if (deadline_ns != UINT64_MAX) {
        deadline_ns = gw_max(deadline_ns, 1);
        timer.it_value.tv_sec = (time_t)(deadline_ns / GW_NS_PER_S);
        timer.it_value.tv_nsec = (long)(deadline_ns % GW_NS_PER_S);
    }
    timerfd_settime(poller->timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

static void disarm(struct dpdk_poller *poller)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(poller->base.transport);

    if (poller->polls_since_arm == NOT_ARMED)
        return;
    poller->polls_since_arm = NOT_ARMED;
    atomic_store(&poller->endpoint.is_waiting, false);
    atomic_fetch_sub(&transport->waiting_count, 1);
    gw_dpdk_unwake(poller->endpoint.wake_fd);
    timerfd_settime(poller->timer_fd, 0, &(struct itimerspec){0}, NULL);
    gw_dpdk_unwake(poller->timer_fd);
}

/* The port's thread reads the queues until this poller is back. */
static void leave_queues(struct dpdk_poller *poller)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(poller->base.transport);
    unsigned queues = transport->port.queue_count;

    for (unsigned queue = poller->place % queues; queue < queues; queue++)
        atomic_store(&transport->port.queues[queue].polled_ns, 0);
}

int gw_dpdk_arm(struct gw_poller *base)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base->transport);
    struct dpdk_poller *poller = gw_dpdk_poller_of(base);

    if (gw_clock_ns() - poller->busy_ns < AWAKE_NS) {
        gw_dpdk_wake(poller->endpoint.wake_fd);
        return poller->epoll_fd;
    }
    if (poller->polls_since_arm == NOT_ARMED)
        atomic_fetch_add(&transport->waiting_count, 1);
    poller->polls_since_arm = 0;
    gw_dpdk_unwake(poller->endpoint.wake_fd);
    atomic_store(&poller->endpoint.is_waiting, true);
    leave_queues(poller);
    set_timer(poller, gw_clock_ns());
    if (!rte_ring_empty(poller->endpoint.inbox) ||
        atomic_load(&poller->changes) != poller->seen_changes)
        gw_dpdk_wake(poller->endpoint.wake_fd);
    return poller->epoll_fd;
}

/* After arm one poll is made before the sleep; whoever polls again is awake. */
static void note_poll(struct dpdk_poller *poller)
{
    if (poller->polls_since_arm == NOT_ARMED)
        return;
    if (poller->polls_since_arm++ > 0)
        disarm(poller);
}

/* Nothing will come or go any more: no need to wait until that is noticed. */
static void end_channels(struct dpdk_poller *poller, const struct dpdk_port *port)
{
    for (unsigned i = 0; i < poller->channel_count; i++)
        if (gw_dpdk_core_state(poller->channels[i]->core) != DPDK_DEAD)
            gw_dpdk_core_fail(poller->channels[i]->core, gw_dpdk_port_error(port));
    gw_dpdk_outbox_drop(&poller->outbox);
}

/* What the NIC has no room for waits no longer where nobody will empty its ring, or nobody has use for it: each
 * datagram that matters is sent again. */
static void drop_hopeless(struct dpdk_poller *poller, const struct dpdk_port *port)
{
    if (poller->channel_count == 0 || atomic_load(&port->state) == DPDK_PORT_DOWN)
        gw_dpdk_outbox_drop(&poller->outbox);
}

int gw_dpdk_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct dpdk_poller *poller = gw_dpdk_poller_of(base);
    const struct dpdk_port *port = &gw_dpdk_transport_of(base->transport)->port;
    uint64_t now_ns = gw_clock_ns();
    unsigned datagrams;
    int count;

    gw_dpdk_thread_enter();
    note_poll(poller);
    adopt(poller);
    datagrams = take_from_inbox(poller, now_ns);
    datagrams += take_from_nic(poller, now_ns);
    /* (In order with is_waiting: who slept through the change is woken.) */
    if (atomic_load(&port->state) == DPDK_PORT_GONE)
        end_channels(poller, port);
    datagrams += send_all(poller, now_ns);
    drop_hopeless(poller, port);
    note_traffic(poller, now_ns, datagrams);
    count = report(poller, ready, max);
    if (poller->polls_since_arm != NOT_ARMED)
        set_timer(poller, now_ns);
    return count;
}

void gw_dpdk_channel_close(struct gw_channel *base)
{
    struct dpdk_channel *channel = gw_dpdk_channel_of(base);
    struct dpdk_poller *poller = channel->poller;

    gw_dpdk_core_close(channel->core);
    gw_dpdk_core_reap(channel->core);
    gw_dpdk_send_burst(channel, gw_clock_ns());
    gw_dpdk_channel_free(channel);
    atomic_fetch_add(&poller->changes, 1);
    adopt(poller);
}
