/* SPDX-License-Identifier: Apache-2.0 */
/* What the transport's thread does: takes the events of connected channels and of devices, notes them at
 * the channels, and once a second, while there are any, tells pollers to look after theirs. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "transport/verbs/channel.h"

/* Called with the lock held. */
static void tell(struct verbs_channel *channel, unsigned news)
{
    atomic_fetch_or(&channel->news, news);
    gw_waker_tell(&channel->poller->waker);
}

static struct verbs_channel *channel_of(struct gw_ring_link *link)
{
    return gw_container_of(link, struct verbs_channel, life_link);
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

/* Called with the lock held. */
static void note_device_events(struct verbs_transport *transport, struct verbs_device *device)
{
    struct gw_ring *ring = &transport->connected;
    struct ibv_async_event event;

    while (ibv_get_async_event(device->context, &event) == 0) {
        for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
            unsigned news = news_for(channel_of(link), device, &event);

            if (news)
                tell(channel_of(link), news);
        }
        device->is_removed |= event.event_type == IBV_EVENT_DEVICE_FATAL;
        ibv_ack_async_event(&event);
    }
}

/* wanted may be gone by now: only the list of devices says that it is not. */
static void take_device_events(struct verbs_transport *transport, const struct verbs_device *wanted)
{
    pthread_mutex_lock(&transport->lock);
    for (struct verbs_device *device = transport->devices; device; device = device->next)
        if (device == wanted)
            note_device_events(transport, device);
    pthread_mutex_unlock(&transport->lock);
    gw_verbs_devices_sweep(transport, false);
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
    struct gw_ring *ring = &transport->connected;
    struct rdma_event_channel *events;
    struct rdma_cm_event *event;

    /* Once they are watched they stay until the thread has ended. */
    pthread_mutex_lock(&transport->lock);
    events = transport->connection_events;
    pthread_mutex_unlock(&transport->lock);
    while (rdma_get_cm_event(events, &event) == 0) {
        unsigned news = news_of(event);

        pthread_mutex_lock(&transport->lock);
        /* A peer that did what it may not hangs up as soon as it hears so: what the device says of it comes first. */
        for (struct verbs_device *device = transport->devices; device; device = device->next)
            note_device_events(transport, device);
        for (struct gw_ring_link *link = ring->first; news && link; link = gw_ring_next(ring, link))
            if (channel_of(link)->id == event->id)
                tell(channel_of(link), news);
        for (struct verbs_device *device = transport->devices; device; device = device->next)
            device->is_removed |= news == VERBS_NEWS_REMOVED && device->keeper == event->id;
        pthread_mutex_unlock(&transport->lock);
        rdma_ack_cm_event(event);
    }
    gw_verbs_devices_sweep(transport, false);
}

int gw_verbs_life_add_device(struct verbs_transport *transport, struct verbs_device *device)
{
    int fd = device->context->async_fd;

    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0 ||
        gw_waker_watch(&transport->life.waker, fd, device) != 0)
        return gw_fail_errno(-errno, "verbs: the events of %s cannot be had",
                             ibv_get_device_name(device->context->device));
    return 0;
}

void gw_verbs_life_remove_device(struct verbs_transport *transport, struct verbs_device *device)
{
    gw_waker_ignore(&transport->life.waker, device->context->async_fd);
}

/* ---- channels ---- */

int gw_verbs_life_add_channel(struct verbs_transport *transport, struct verbs_channel *channel)
{
    /* First the list: an event that comes with the identifier must find its channel. */
    pthread_mutex_lock(&transport->lock);
    gw_ring_offer(&transport->connected, &channel->life_link);
    gw_ring_take_all(&transport->connected);
    pthread_mutex_unlock(&transport->lock);
    gw_waker_wake(&transport->life.waker);
    if (rdma_migrate_id(channel->id, transport->connection_events) == 0)
        return 0;
    gw_verbs_life_remove_channel(transport, channel);
    return gw_fail_errno(-errno, "verbs: the events of a connection cannot be had");
}

void gw_verbs_life_remove_channel(struct verbs_transport *transport, struct verbs_channel *channel)
{
    pthread_mutex_lock(&transport->lock);
    gw_ring_remove(&transport->connected, &channel->life_link);
    pthread_mutex_unlock(&transport->lock);
}

/* ---- the thread ---- */

static int tick(void *owner, bool is_due)
{
    struct verbs_transport *transport = owner;
    struct gw_ring *ring = &transport->connected;
    bool is_idle;

    pthread_mutex_lock(&transport->lock);
    is_idle = gw_ring_is_empty(ring);
    for (struct gw_ring_link *link = ring->first; is_due && link; link = gw_ring_next(ring, link))
        tell(channel_of(link), VERBS_NEWS_TICK);
    pthread_mutex_unlock(&transport->lock);
    return is_idle ? GW_LIFE_IDLE : GW_LIFE_TICK_MS;
}

static void take(void *owner, void *address)
{
    if (address == owner)
        take_connection_events(owner);
    else
        take_device_events(owner, address);
}

int gw_verbs_life_start(struct verbs_transport *transport)
{
    static const struct gw_life_ops ops = {.look = tick, .take = take};

    return gw_life_start(&transport->life, "verbs", &ops, transport);
}

int gw_verbs_life_open_events(struct verbs_transport *transport)
{
    struct rdma_event_channel *events;
    int error;

    if (transport->connection_events)
        return 0;
    error = gw_verbs_events_new(&events);
    if (error)
        return error;
    /* First: the thread reads them as soon as they are watched. */
    transport->connection_events = events;
    error = gw_waker_watch(&transport->life.waker, events->fd, transport);
    if (error) {
        transport->connection_events = NULL;
        rdma_destroy_event_channel(events);
        return gw_fail_errno(error, "verbs: no epoll set");
    }
    return 0;
}

void gw_verbs_life_stop(struct verbs_transport *transport)
{
    gw_life_stop(&transport->life);
    if (transport->connection_events)
        rdma_destroy_event_channel(transport->connection_events);
}
