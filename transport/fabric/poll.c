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

    assert(!poller->channels && !atomic_load(&poller->incoming));
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
    channel->next = atomic_load(&poller->incoming);
    while (!atomic_compare_exchange_weak(&poller->incoming, &channel->next, channel))
        ;
    gw_fabric_poller_wake(poller);
    return 0;
}

static void take_incoming(struct fabric_poller *poller)
{
    struct fabric_channel *channel = atomic_exchange(&poller->incoming, NULL);

    while (channel) {
        struct fabric_channel *rest = channel->next;

        if (!poller->channels) {
            poller->channels = channel->next = channel->previous = channel;
        } else {
            channel->next = poller->channels;
            channel->previous = poller->channels->previous;
            channel->previous->next = channel->next->previous = channel;
        }
        channel = rest;
    }
}

void gw_fabric_poller_remove(struct fabric_poller *poller, struct fabric_channel *channel)
{
    take_incoming(poller);
    if (channel->cq_fd >= 0)
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, channel->cq_fd, NULL);
    if (channel->next == channel) {
        poller->channels = NULL;
        return;
    }
    channel->previous->next = channel->next;
    channel->next->previous = channel->previous;
    if (poller->channels == channel)
        poller->channels = channel->next;
}

/* ---- polling ---- */

static void take_news(struct fabric_poller *poller)
{
    struct fabric_channel *channel;

    atomic_store(&poller->has_news, false);
    take_incoming(poller);
    channel = poller->channels;
    if (!channel)
        return;
    do {
        unsigned news = atomic_exchange(&channel->news, 0);

        if (news)
            gw_fabric_channel_hear_news(channel, news);
        channel = channel->next;
    } while (channel != poller->channels);
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
    struct fabric_channel *channel, *last_reported = NULL;
    int count = 0;

    if (poller->is_armed)
        take_wakes(poller);
    poller->is_armed = false;
    if (atomic_load_explicit(&poller->has_news, memory_order_acquire))
        take_news(poller);
    channel = poller->channels;
    if (!channel)
        return 0;
    poller->is_polling = true;
    do {
        if (gw_fabric_absorb(channel))
            gw_fabric_poller_wake(poller);
        gw_fabric_receiver_repost(channel);
        gw_fabric_sender_finish(channel);
        gw_fabric_sender_run(channel);
        if (count < max && is_ready(channel)) {
            ready[count++] = &channel->base;
            last_reported = channel;
        }
        channel = channel->next;
    } while (channel != poller->channels);
    poller->is_polling = false;
    /* Who did not fit into ready comes first the next time. */
    if (last_reported)
        poller->channels = last_reported->next;
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
    struct fabric_channel *channel = poller->channels;

    take_wakes(poller);
    poller->is_armed = true;
    if (atomic_load(&poller->has_news))
        eventfd_write(poller->wake_fd, 1);
    if (!channel)
        return poller->epoll_fd;
    do {
        if (channel->cq_fd < 0)
            timerfd_settime(poller->timer_fd, 0, &soon, NULL);
        else if (!is_quiet(channel))
            eventfd_write(poller->wake_fd, 1);
        channel = channel->next;
    } while (channel != poller->channels);
    return poller->epoll_fd;
}
