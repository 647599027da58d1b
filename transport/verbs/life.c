/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's one thread: waits for events of connected channels and of devices, notes them at the
 * channels, and once a second, while there are any, tells pollers to look after theirs. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "transport/verbs/channel.h"

/* Called with the lock held. */
static void tell(struct verbs_channel *channel, unsigned news)
{
    atomic_fetch_or(&channel->news, news);
    gw_verbs_poller_wake(channel->poller);
}

/* ---- connections ---- */

static unsigned news_of(const struct rdma_cm_event *event)
{
    if (event->event == RDMA_CM_EVENT_DISCONNECTED)
        return VERBS_NEWS_DISCONNECTED;
    return event->event == RDMA_CM_EVENT_DEVICE_REMOVAL ? VERBS_NEWS_REMOVED : 0;
}

static void take_connection_events(struct verbs_transport *transport)
{
    struct rdma_cm_event *event;

    while (rdma_get_cm_event(transport->life, &event) == 0) {
        unsigned news = news_of(event);
        struct verbs_channel *channel;

        pthread_mutex_lock(&transport->lock);
        for (channel = transport->connected; news && channel; channel = channel->life_next)
            if (channel->id == event->id)
                tell(channel, news);
        for (struct verbs_device *device = transport->devices; device; device = device->next)
            device->is_removed |= news == VERBS_NEWS_REMOVED && device->keeper == event->id;
        pthread_mutex_unlock(&transport->lock);
        rdma_ack_cm_event(event);
    }
    gw_verbs_devices_sweep(transport, false);
}

/* ---- devices ---- */

static unsigned news_for(const struct verbs_channel *channel, const struct verbs_device *device,
                         const struct ibv_async_event *event)
{
    const struct ibv_qp *qp = __atomic_load_n(&channel->qp, __ATOMIC_RELAXED);

    if (channel->queue->device != device)
        return 0;
    switch (event->event_type) {
    case IBV_EVENT_DEVICE_FATAL:
        return VERBS_NEWS_REMOVED;
    case IBV_EVENT_PORT_ERR:
        return event->element.port_num == (int)channel->port ? VERBS_NEWS_PORT : 0;
    case IBV_EVENT_CQ_ERR:
        return event->element.cq == channel->queue->cq ? VERBS_NEWS_FATAL : 0;
    case IBV_EVENT_QP_FATAL:
        return event->element.qp == qp ? VERBS_NEWS_FATAL : 0;
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
        return event->element.qp == qp ? VERBS_NEWS_ACCESS : 0;
    default:
        return 0;
    }
}

/* device may be gone by now: only the list of devices says that it is not. */
static void take_device_events(struct verbs_transport *transport, const struct verbs_device *device)
{
    struct verbs_device *at;
    struct ibv_async_event event;

    pthread_mutex_lock(&transport->lock);
    for (at = transport->devices; at && at != device; at = at->next)
        ;
    while (at && ibv_get_async_event(at->context, &event) == 0) {
        for (struct verbs_channel *channel = transport->connected; channel;
             channel = channel->life_next) {
            unsigned news = news_for(channel, at, &event);

            if (news)
                tell(channel, news);
        }
        at->is_removed |= event.event_type == IBV_EVENT_DEVICE_FATAL;
        ibv_ack_async_event(&event);
    }
    pthread_mutex_unlock(&transport->lock);
    gw_verbs_devices_sweep(transport, false);
}

int gw_verbs_life_add_device(struct verbs_transport *transport, struct verbs_device *device)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = device};
    int fd = device->context->async_fd;

    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0 ||
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return gw_fail_errno(-errno, "verbs: the events of %s cannot be had",
                             ibv_get_device_name(device->context->device));
    return 0;
}

void gw_verbs_life_remove_device(struct verbs_transport *transport, struct verbs_device *device)
{
    epoll_ctl(transport->epoll_fd, EPOLL_CTL_DEL, device->context->async_fd, NULL);
}

/* ---- channels ---- */

int gw_verbs_life_add_channel(struct verbs_transport *transport, struct verbs_channel *channel)
{
    /* First the list: an event that comes with the identifier must find its channel. */
    pthread_mutex_lock(&transport->lock);
    channel->life_next = transport->connected;
    if (channel->life_next)
        channel->life_next->life_previous = channel;
    transport->connected = channel;
    pthread_mutex_unlock(&transport->lock);
    eventfd_write(transport->wake_fd, 1);
    if (rdma_migrate_id(channel->id, transport->life) == 0)
        return 0;
    gw_verbs_life_remove_channel(transport, channel);
    return gw_fail_errno(-errno, "verbs: the events of a connection cannot be had");
}

void gw_verbs_life_remove_channel(struct verbs_transport *transport, struct verbs_channel *channel)
{
    pthread_mutex_lock(&transport->lock);
    if (channel->life_previous)
        channel->life_previous->life_next = channel->life_next;
    else
        transport->connected = channel->life_next;
    if (channel->life_next)
        channel->life_next->life_previous = channel->life_previous;
    pthread_mutex_unlock(&transport->lock);
}

/* ---- the thread ---- */

/* True while there are channels to look after. */
static bool tick(struct verbs_transport *transport, bool is_due)
{
    bool any;

    pthread_mutex_lock(&transport->lock);
    any = transport->connected != NULL;
    for (struct verbs_channel *channel = transport->connected; is_due && channel;
         channel = channel->life_next)
        tell(channel, VERBS_NEWS_TICK);
    pthread_mutex_unlock(&transport->lock);
    return any;
}

static void take(struct verbs_transport *transport, const struct epoll_event *event)
{
    eventfd_t wakes;

    if (event->data.ptr == NULL)
        eventfd_read(transport->wake_fd, &wakes);
    else if (event->data.ptr == transport)
        take_connection_events(transport);
    else
        take_device_events(transport, event->data.ptr);
}

static void *live(void *argument)
{
    struct verbs_transport *transport = argument;
    uint64_t next_ns = gw_clock_ns() + VERBS_TICK_MS * GW_NS_PER_MS;

    while (!atomic_load(&transport->is_stopping)) {
        bool is_due = gw_clock_ns() >= next_ns;
        bool any = tick(transport, is_due);
        struct epoll_event events[16];
        int count;

        if (is_due)
            next_ns = gw_clock_ns() + VERBS_TICK_MS * GW_NS_PER_MS;
        count = epoll_wait(transport->epoll_fd, events, 16, any ? gw_clock_left_ms(next_ns) : -1);
        for (int i = 0; i < count; i++)
            take(transport, &events[i]);
    }
    return NULL;
}

int gw_verbs_life_start(struct verbs_transport *transport)
{
    struct epoll_event wake = {.events = EPOLLIN}, life = wake;
    int error;

    transport->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    transport->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (gw_verbs_events_new(&transport->life) != 0)
        return -ENODEV;
    life.data.ptr = transport;
    if (transport->epoll_fd < 0 || transport->wake_fd < 0 ||
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, transport->wake_fd, &wake) != 0 ||
        epoll_ctl(transport->epoll_fd, EPOLL_CTL_ADD, transport->life->fd, &life) != 0)
        return gw_fail_errno(-errno, "verbs: no epoll set");
    error = pthread_create(&transport->thread, NULL, live, transport);
    if (error)
        return gw_fail_errno(-error, "verbs: no thread");
    transport->has_thread = true;
    return 0;
}

void gw_verbs_life_stop(struct verbs_transport *transport)
{
    atomic_store(&transport->is_stopping, true);
    if (transport->has_thread) {
        eventfd_write(transport->wake_fd, 1);
        pthread_join(transport->thread, NULL);
    }
    if (transport->life)
        rdma_destroy_event_channel(transport->life);
    if (transport->epoll_fd >= 0)
        close(transport->epoll_fd);
    if (transport->wake_fd >= 0)
        close(transport->wake_fd);
}
