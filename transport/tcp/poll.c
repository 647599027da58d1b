/* SPDX-License-Identifier: Apache-2.0 */
/* One epoll set per poller, edge triggered: an event only notes that a socket may be read or
 * written again, and the notes are used up within bounds, so that no channel starves another. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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
    struct epoll_event wake = {.events = EPOLLIN}, watch = wake;
    const struct itimerspec period = {.it_value.tv_sec = TCP_WATCH_S,
                                      .it_interval.tv_sec = TCP_WATCH_S};
    int error;

    if (!poller)
        return gw_fail(-ENOMEM, "tcp: no memory for a poller");
    poller->base.transport = transport;
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    poller->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    poller->watch_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch.data.ptr = poller;
    if (poller->epoll_fd < 0 || poller->wake_fd < 0 || poller->watch_fd < 0 ||
        timerfd_settime(poller->watch_fd, 0, &period, NULL) != 0 ||
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, poller->wake_fd, &wake) != 0 ||
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, poller->watch_fd, &watch) != 0) {
        error = gw_fail_errno(-errno, "tcp: no epoll set");
        gw_tcp_close_poller(&poller->base);
        return error;
    }
    *out = &poller->base;
    return 0;
}

void gw_tcp_close_poller(struct gw_poller *base)
{
    struct tcp_poller *poller = poller_of(base);

    assert(!poller->channels && !atomic_load(&poller->incoming));
    if (poller->epoll_fd >= 0)
        close(poller->epoll_fd);
    if (poller->wake_fd >= 0)
        close(poller->wake_fd);
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
    if (epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, channel->fd, &event) != 0) {
        int error = gw_fail_errno(-errno, "tcp: the epoll set takes no more sockets");

        gw_tcp_channel_free(channel);
        return error;
    }
    channel->next = atomic_load(&poller->incoming);
    while (!atomic_compare_exchange_weak(&poller->incoming, &channel->next, channel))
        ;
    eventfd_write(poller->wake_fd, 1);
    return 0;
}

static void take_incoming(struct tcp_poller *poller)
{
    struct tcp_channel *channel = atomic_exchange(&poller->incoming, NULL);

    while (channel) {
        struct tcp_channel *rest = channel->next;

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

void gw_tcp_poller_remove(struct tcp_poller *poller, struct tcp_channel *channel)
{
    take_incoming(poller);
    epoll_ctl(poller->epoll_fd, EPOLL_CTL_DEL, channel->fd, NULL);
    if (channel->next == channel) {
        poller->channels = NULL;
        return;
    }
    channel->previous->next = channel->next;
    channel->next->previous = channel->previous;
    if (poller->channels == channel)
        poller->channels = channel->next;
}

static void look_for_gone_peers(struct tcp_poller *poller)
{
    struct tcp_channel *channel = poller->channels;
    uint64_t periods;

    if (read(poller->watch_fd, &periods, sizeof(periods)) < 0 || !channel)
        return;
    do {
        if (!channel->error.code && gw_tcp_watch_is_gone(channel->fd, &channel->strikes)) {
            channel->receiver.is_open = false;
            gw_tcp_channel_kill(channel, -ETIMEDOUT);
        }
        channel = channel->next;
    } while (channel != poller->channels);
}

static void note_events(struct tcp_poller *poller)
{
    struct epoll_event events[TCP_EVENTS_MAX];
    int count = epoll_wait(poller->epoll_fd, events, TCP_EVENTS_MAX, 0);

    for (int i = 0; i < count; i++) {
        struct tcp_channel *channel = events[i].data.ptr;
        eventfd_t wakes;

        if (!channel) {
            eventfd_read(poller->wake_fd, &wakes);
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

int gw_tcp_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct tcp_poller *poller = poller_of(base);
    struct tcp_channel *channel, *last_reported = NULL;
    int count = 0;

    note_events(poller);
    take_incoming(poller);
    channel = poller->channels;
    if (!channel)
        return 0;
    poller->is_polling = true;
    do {
        gw_tcp_receiver_run(channel);
        gw_tcp_sender_run(channel);
        gw_tcp_sender_finish(channel);
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

int gw_tcp_arm(struct gw_poller *base)
{
    struct tcp_poller *poller = poller_of(base);
    struct tcp_channel *channel;

    take_incoming(poller);
    channel = poller->channels;
    if (channel)
        do {
            if (gw_tcp_receiver_can_run(channel) || gw_tcp_sender_can_run(channel)) {
                eventfd_write(poller->wake_fd, 1);
                break;
            }
            channel = channel->next;
        } while (channel != poller->channels);
    return poller->epoll_fd;
}
