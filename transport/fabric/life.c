/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's one thread: takes the events of connected endpoints, notes them at the channels,
 * and once a second, while there are any, tells pollers to look after theirs. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "transport/fabric/channel.h"

/* Called with the lock held. */
static void tell(struct fabric_channel *channel, unsigned news)
{
    atomic_fetch_or(&channel->news, news);
    gw_fabric_poller_wake(channel->poller);
}

/* Any event of a connected endpoint, an error too, says that it ends. */
static void take_events(struct fabric_channel *channel)
{
    struct fi_eq_cm_entry entry;
    struct fi_eq_err_entry failure;
    uint32_t event;

    for (;;) {
        ssize_t got = fi_eq_read(channel->eq, &event, &entry, sizeof(entry), 0);

        failure = (struct fi_eq_err_entry){0};
        if (got == -FI_EAVAIL ? fi_eq_readerr(channel->eq, &failure, 0) < 0 : got < 0)
            return;
        if (got == -FI_EAVAIL || event == FI_SHUTDOWN)
            tell(channel, FABRIC_NEWS_DISCONNECTED);
    }
}

int gw_fabric_life_add(struct fabric_transport *transport, struct fabric_channel *channel)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = channel};

    pthread_mutex_lock(&transport->lock);
    if (channel->eq_fd >= 0 &&
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, channel->eq_fd, &event) != 0) {
        pthread_mutex_unlock(&transport->lock);
        return gw_fail_errno(-errno, "fabric: the events of a connection cannot be had");
    }
    channel->life_next = transport->connected;
    if (channel->life_next)
        channel->life_next->life_previous = channel;
    transport->connected = channel;
    pthread_mutex_unlock(&transport->lock);
    eventfd_write(transport->wake_fd, 1);
    return 0;
}

void gw_fabric_life_remove(struct fabric_transport *transport, struct fabric_channel *channel)
{
    pthread_mutex_lock(&transport->lock);
    if (channel->life_previous)
        channel->life_previous->life_next = channel->life_next;
    else
        transport->connected = channel->life_next;
    if (channel->life_next)
        channel->life_next->life_previous = channel->life_previous;
    if (channel->eq_fd >= 0)
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_DEL, channel->eq_fd, NULL);
    pthread_mutex_unlock(&transport->lock);
}

/* ---- the thread ---- */

/* Looks at every event queue, since a descriptor may be waited on only when its queue says so
 * (fi_trywait(3)). True while there are channels to look after. */
static bool look_around(struct fabric_transport *transport, bool is_due, bool *may_wait)
{
    bool any;

    *may_wait = true;
    pthread_mutex_lock(&transport->lock);
    any = transport->connected != NULL;
    for (struct fabric_channel *channel = transport->connected; channel;
         channel = channel->life_next) {
        struct fid *queue = &channel->eq->fid;

        take_events(channel);
        if (channel->eq_fd >= 0 && fi_trywait(channel->domain->fabric, &queue, 1) != 0)
            *may_wait = false;
        if (is_due)
            tell(channel, FABRIC_NEWS_TICK);
    }
    pthread_mutex_unlock(&transport->lock);
    return any;
}

static void *live(void *argument)
{
    struct fabric_transport *transport = argument;
    uint64_t next_ns = gw_clock_ns() + FABRIC_TICK_MS * GW_NS_PER_MS;

    while (!atomic_load(&transport->is_stopping)) {
        struct epoll_event events[16];
        bool is_due = gw_clock_ns() >= next_ns, may_wait;
        bool any = look_around(transport, is_due, &may_wait);
        eventfd_t wakes;

        if (is_due)
            next_ns = gw_clock_ns() + FABRIC_TICK_MS * GW_NS_PER_MS;
        /* What woke it is found by looking around. */
        epoll_wait(transport->epoll_fd, events, 16,
                   !any       ? -1
                   : may_wait ? gw_clock_left_ms(next_ns)
                              : 1);
        eventfd_read(transport->wake_fd, &wakes);
    }
    return NULL;
}

int gw_fabric_life_start(struct fabric_transport *transport)
{
    struct epoll_event wake = {.events = EPOLLIN};
    int error;

    transport->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    transport->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (transport->epoll_fd < 0 || transport->wake_fd < 0 ||
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, transport->wake_fd, &wake) != 0)
        return gw_fail_errno(-errno, "fabric: no epoll set");
    error = pthread_create(&transport->thread, NULL, live, transport);
    if (error)
        return gw_fail_errno(-error, "fabric: no thread");
    transport->has_thread = true;
    return 0;
}

void gw_fabric_life_stop(struct fabric_transport *transport)
{
    atomic_store(&transport->is_stopping, true);
    if (transport->has_thread) {
        eventfd_write(transport->wake_fd, 1);
        pthread_join(transport->thread, NULL);
    }
    if (transport->epoll_fd >= 0)
        close(transport->epoll_fd);
    if (transport->wake_fd >= 0)
        close(transport->wake_fd);
}
