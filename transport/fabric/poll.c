/* SPDX-License-Identifier: Apache-2.0 */
/* Pollers: the ring of channels that every poll walks, and what a sleeper waits on. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "transport/fabric/channel.h"

static int watch(struct fabric_poller *poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    return epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

int gw_fabric_open_poller(struct gw_transport *transport, struct gw_poller **out)
{
    struct fabric_poller *poller = calloc(1, sizeof(*poller));
    int error;

    if (!poller)
        return gw_fail(-ENOMEM, "fabric: no memory for a poller");
    poller->base.transport = transport;
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    poller->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    poller->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller->epoll_fd < 0 || poller->wake_fd < 0 || poller->timer_fd < 0 ||
        watch(poller, poller->wake_fd) != 0 || watch(poller, poller->timer_fd) != 0) {
        error = gw_fail_errno(-errno, "fabric: no poller");
        gw_fabric_close_poller(&poller->base);
        return error;
    }
    *out = &poller->base;
    return 0;
}

void gw_fabric_close_poller(struct gw_poller *base)
{
    struct fabric_poller *poller = gw_fabric_poller_of(base);

    assert(gw_ring_is_empty(&poller->channels));
    if (poller->epoll_fd >= 0)
        close(poller->epoll_fd);
    if (poller->wake_fd >= 0)
        close(poller->wake_fd);
    if (poller->timer_fd >= 0)
        close(poller->timer_fd);
    free(poller);
}

/* ---- handing over ---- */

void gw_fabric_poller_wake(struct fabric_poller *poller)
{
    atomic_store(&poller->has_news, true);
    eventfd_write(poller->wake_fd, 1);
}

int gw_fabric_poller_start(struct fabric_poller *poller, struct fabric_channel *channel)
{
    if (channel->cq_fd >= 0 && watch(poller, channel->cq_fd) != 0)
        return gw_fail_errno(-errno, "fabric: a completion queue cannot be waited on");
    gw_ring_offer(&poller->channels, &channel->link);
    gw_fabric_poller_wake(poller);
    return 0;
}

void gw_fabric_poller_remove(struct fabric_poller *poller, struct fabric_channel *channel)
{
    gw_ring_remove(&poller->channels, &channel->link);
    if (channel->cq_fd >= 0)
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, channel->cq_fd, NULL);
}

/* ---- polling ---- */

static struct fabric_channel *channel_of(struct gw_ring_link *link)
{
    return gw_container_of(link, struct fabric_channel, link);
}

static void take_news(struct fabric_poller *poller)
{
    struct gw_ring *ring = &poller->channels;

    atomic_store(&poller->has_news, false);
    gw_ring_take_all(ring);
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct fabric_channel *channel = channel_of(link);
        unsigned news = atomic_exchange(&channel->news, 0);

        if (news)
            gw_fabric_channel_hear_news(channel, news);
    }
}

/* So that they are quiet again. What woke the sleeper is found in the channels' queues. */
static void take_wakes(struct fabric_poller *poller)
{
    eventfd_t wakes;
    uint64_t ticks;

    eventfd_read(poller->wake_fd, &wakes);
    if (read(poller->timer_fd, &ticks, sizeof(ticks)) < 0)
        return; /* it was not the timer */
}

static bool is_ready(const struct fabric_channel *channel)
{
    return channel->receiver.count > (channel->receiver.has_lent ? 1u : 0u) ||
           (channel->error.code && gw_fabric_channel_is_drained(channel));
}

int gw_fabric_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct fabric_poller *poller = gw_fabric_poller_of(base);
    struct gw_ring *ring = &poller->channels;
    struct gw_ring_link *last_reported = NULL;
    int count = 0;

    if (poller->is_armed)
        take_wakes(poller);
    poller->is_armed = false;
    if (atomic_load_explicit(&poller->has_news, memory_order_acquire))
        take_news(poller);
    poller->is_polling = true;
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct fabric_channel *channel = channel_of(link);

        if (gw_fabric_absorb(channel))
            gw_fabric_poller_wake(poller);
        gw_fabric_receiver_repost(channel);
        gw_fabric_sender_finish(channel);
        gw_fabric_sender_run(channel);
        if (count < max && is_ready(channel)) {
            ready[count++] = &channel->base;
            last_reported = link;
        }
    }
    poller->is_polling = false;
    /* Who did not fit into ready comes first the next time. */
    if (last_reported)
        ring->first = last_reported->next;
    return count;
}

/* A queue may be waited on only when it says so (fi_trywait(3)); reading it is what it then wants.
 * False when something was read, or it still does not say so. */
static bool is_quiet(struct fabric_channel *channel)
{
    struct fid *queue = &channel->cq->fid;

    if (fi_trywait(channel->domain->fabric, &queue, 1) == 0)
        return true;
    for (unsigned i = 0; i < FABRIC_TRYWAITS; i++) {
        gw_fabric_absorb(channel);
        if (fi_trywait(channel->domain->fabric, &queue, 1) == 0)
            break;
    }
    return false;
}

int gw_fabric_arm(struct gw_poller *base)
{
    static const struct itimerspec soon = {.it_value.tv_nsec = FABRIC_POLL_NS};
    struct fabric_poller *poller = gw_fabric_poller_of(base);
    struct gw_ring *ring = &poller->channels;

    take_wakes(poller);
    poller->is_armed = true;
    if (atomic_load(&poller->has_news))
        eventfd_write(poller->wake_fd, 1);
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct fabric_channel *channel = channel_of(link);

        if (channel->cq_fd < 0)
            timerfd_settime(poller->timer_fd, 0, &soon, NULL);
        else if (!is_quiet(channel))
            eventfd_write(poller->wake_fd, 1);
    }
    return poller->epoll_fd;
}
