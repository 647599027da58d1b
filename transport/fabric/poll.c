/* SPDX-License-Identifier: Apache-2.0 */
/* Pollers: the ring of channels that every poll walks, and what a sleeper waits on. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "transport/fabric/channel.h"

static int open_messages(struct fabric_poller *poller)
{
    struct fabric_transport *transport = gw_fabric_transport_of(poller->base.transport);
    int error = gw_poller_open(transport->messages, &poller->messages);

    return error ? error : gw_waker_watch(&poller->waker, gw_poller_arm(poller->messages), poller);
}

int gw_fabric_open_poller(struct gw_transport *transport, struct gw_poller **out)
{
    struct fabric_poller *poller = calloc(1, sizeof(*poller));
    int error;

    if (!poller)
        return gw_fail(-ENOMEM, "fabric: no memory for a poller");
    poller->base.transport = transport;
    poller->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    error = gw_waker_open(&poller->waker);
    if (!error)
        error = gw_waker_watch(&poller->waker, poller->timer_fd, poller);
    if (!error && gw_fabric_transport_of(transport)->messages)
        error = open_messages(poller);
    if (error) {
        gw_fabric_close_poller(&poller->base);
        return gw_fail_errno(error, "fabric: no poller");
    }
    *out = &poller->base;
    return 0;
}

void gw_fabric_close_poller(struct gw_poller *base)
{
    struct fabric_poller *poller = gw_fabric_poller_of(base);

    assert(gw_ring_is_empty(&poller->channels));
    gw_waker_close(&poller->waker);
    gw_poller_close(poller->messages);
    if (poller->timer_fd >= 0)
        close(poller->timer_fd);
    free(poller);
}

/* ---- handing over ---- */

int gw_fabric_poller_watch(struct fabric_poller *poller, struct fabric_channel *channel)
{
    int error = channel->cq_fd >= 0 ? gw_waker_watch(&poller->waker, channel->cq_fd, channel) : 0;

    return error ? gw_fail_errno(error, "fabric: a completion queue cannot be waited on") : 0;
}

void gw_fabric_poller_offer(struct fabric_poller *poller, struct fabric_channel *channel)
{
    gw_ring_offer(&poller->channels, &channel->link);
    gw_waker_tell(&poller->waker);
}

void gw_fabric_poller_remove(struct fabric_poller *poller, struct fabric_channel *channel)
{
    gw_ring_remove(&poller->channels, &channel->link);
    if (channel->cq_fd >= 0)
        gw_waker_ignore(&poller->waker, channel->cq_fd);
}

/* ---- polling ---- */

static struct fabric_channel *channel_of(struct gw_ring_link *link)
{
    return gw_container_of(link, struct fabric_channel, link);
}

static void take_news(struct fabric_poller *poller)
{
    struct gw_ring *ring = &poller->channels;

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
    uint64_t ticks;

    gw_waker_calm(&poller->waker);
    if (read(poller->timer_fd, &ticks, sizeof(ticks)) < 0)
        return; /* it was not the timer */
}

static bool is_ready(const struct fabric_channel *channel)
{
    return gw_inbox_has_message(&channel->receiver.inbox) ||
           (channel->error.code && gw_fabric_channel_is_drained(channel));
}

static struct gw_channel *serve(struct gw_ring_link *link)
{
    struct fabric_channel *channel = channel_of(link);

    if (gw_fabric_absorb(channel))
        gw_waker_tell(&channel->poller->waker);
    if (channel->rdm)
        gw_fabric_rdm_absorb(channel);
    gw_fabric_receiver_repost(channel);
    gw_fabric_sender_finish(channel);
    gw_fabric_sender_run(channel);
    return is_ready(channel) ? &channel->base : NULL;
}

int gw_fabric_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct fabric_poller *poller = gw_fabric_poller_of(base);

    if (poller->is_armed)
        take_wakes(poller);
    poller->is_armed = false;
    if (poller->messages)
        gw_poll(poller->messages, NULL, 0);
    if (gw_waker_take_news(&poller->waker))
        take_news(poller);
    return gw_ring_serve(&poller->channels, serve, ready, max);
}

/* A queue may be waited on only when it says so (fi_trywait(3)); reading it is what it then wants.
 * False when something was read, or it still does not say so. What is read may end the channel, and
 * ofi_rxm asks the endpoint, also one that is closed. */
static bool is_quiet(struct fabric_channel *channel)
{
    struct fid *queue = &channel->cq->fid;

    if (fi_trywait(channel->domain->fabric, &queue, 1) == 0)
        return true;
    for (unsigned i = 0; i < FABRIC_TRYWAITS; i++) {
        gw_fabric_absorb(channel);
        if (!channel->ep)
            break;
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
    if (poller->messages)
        gw_poller_arm(poller->messages);
    gw_waker_rouse(&poller->waker);
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct fabric_channel *channel = channel_of(link);

        if (channel->cq_fd < 0 || channel->is_refused)
            timerfd_settime(poller->timer_fd, 0, &soon, NULL);
        if (channel->cq_fd >= 0 && channel->ep && !is_quiet(channel))
            gw_waker_wake(&poller->waker);
    }
    return poller->waker.epoll_fd;
}
