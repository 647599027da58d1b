/* SPDX-License-Identifier: Apache-2.0 */
/* One epoll set per poller, edge triggered: an event only notes that a socket may be read or
 * written again, and the notes are used up within bounds, so that no channel starves another. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/checked.h"
#include "transport/tcp/tcp.h"

static struct tcp_poller *poller_of(struct gw_poller *base)
{
    return gw_container_of(base, struct tcp_poller, base);
}

int gw_tcp_open_poller(struct gw_transport *transport, struct gw_poller **out)
{
    struct tcp_poller *poller = calloc(1, sizeof(*poller));
    const struct itimerspec period = {.it_value.tv_sec = TCP_WATCH_S,
                                      .it_interval.tv_sec = TCP_WATCH_S};
    int error;

    if (!poller)
        return gw_fail(-ENOMEM, "tcp: no memory for a poller");
    poller->base.transport = transport;
    poller->watch_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    error = gw_waker_open(&poller->waker);
    if (!error &&
        (poller->watch_fd < 0 || timerfd_settime(poller->watch_fd, 0, &period, NULL) != 0))
        error = -errno;
    if (!error)
        error = gw_waker_watch(&poller->waker, poller->watch_fd, poller);
    if (error) {
        gw_tcp_close_poller(&poller->base);
        return gw_fail_errno(error, "tcp: no epoll set");
    }
    *out = &poller->base;
    return 0;
}

void gw_tcp_close_poller(struct gw_poller *base)
{
    struct tcp_poller *poller = poller_of(base);

    assert(gw_ring_is_empty(&poller->channels));
    gw_waker_close(&poller->waker);
    if (poller->watch_fd >= 0)
        close(poller->watch_fd);
    free(poller);
}

int gw_tcp_poller_add(struct tcp_poller *poller, struct tcp_channel *channel)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = channel};

    /* First the set, which can fail; until the channel is in the list nobody looks at it, and what
     * an event says about it is only added to what it starts with. */
    if (epoll_ctl(poller->waker.epoll_fd, EPOLL_CTL_ADD, channel->fd, &event) != 0) {
        int error = gw_fail_errno(-errno, "tcp: the epoll set takes no more sockets");

        gw_tcp_channel_free(channel);
        return error;
    }
    gw_ring_offer(&poller->channels, &channel->link);
    gw_waker_wake(&poller->waker);
    return 0;
}

void gw_tcp_poller_remove(struct tcp_poller *poller, struct tcp_channel *channel)
{
    gw_ring_remove(&poller->channels, &channel->link);
    gw_waker_ignore(&poller->waker, channel->fd);
}

static struct tcp_channel *channel_of(struct gw_ring_link *link)
{
    return gw_container_of(link, struct tcp_channel, link);
}

static void look_for_gone_peers(struct tcp_poller *poller)
{
    struct gw_ring *ring = &poller->channels;
    uint64_t periods;

    if (read(poller->watch_fd, &periods, sizeof(periods)) < 0)
        return;
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct tcp_channel *channel = channel_of(link);

        if (!channel->error.code && gw_tcp_watch_is_gone(channel->fd, &channel->strikes)) {
            channel->receiver.is_open = false;
            gw_tcp_channel_kill(channel, -ETIMEDOUT);
        }
    }
}

static void note_events(struct tcp_poller *poller)
{
    struct epoll_event events[TCP_EVENTS_MAX];
    int count = epoll_wait(poller->waker.epoll_fd, events, TCP_EVENTS_MAX, 0);

    for (int i = 0; i < count; i++) {
        struct tcp_channel *channel = events[i].data.ptr;

        if (!channel) {
            gw_waker_calm(&poller->waker);
            continue;
        }
        if (events[i].data.ptr == poller) {
            look_for_gone_peers(poller);
            continue;
        }
        if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            channel->receiver.is_readable = true;
        if (events[i].events & (EPOLLRDHUP | EPOLLHUP))
            channel->receiver.has_hung_up = true;
        if (events[i].events & EPOLLERR)
            channel->sender.zerocopy.has_news = true;
        if (events[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            channel->sender.is_writable = true;
    }
}

static bool is_ready(const struct tcp_channel *channel)
{
    return gw_tcp_receiver_has_message(channel) ||
           (channel->error.code && !gw_tcp_receiver_can_run(channel));
}

static struct gw_channel *serve(struct gw_ring_link *link)
{
    struct tcp_channel *channel = channel_of(link);

    gw_tcp_receiver_run(channel);
    gw_tcp_sender_run(channel);
    gw_tcp_sender_finish(channel);
    return is_ready(channel) ? &channel->base : NULL;
}

int gw_tcp_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct tcp_poller *poller = poller_of(base);

    note_events(poller);
    gw_ring_take_all(&poller->channels);
    return gw_ring_serve(&poller->channels, serve, ready, max);
}

int gw_tcp_arm(struct gw_poller *base)
{
    struct tcp_poller *poller = poller_of(base);
    struct gw_ring *ring = &poller->channels;
    struct gw_ring_link *link;

    gw_ring_take_all(ring);
    for (link = ring->first; link; link = gw_ring_next(ring, link))
        if (gw_tcp_receiver_can_run(channel_of(link)) || gw_tcp_sender_can_run(channel_of(link)))
            break;
    if (link)
        gw_waker_wake(&poller->waker);
    return poller->waker.epoll_fd;
}
