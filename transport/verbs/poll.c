/* SPDX-License-Identifier: Apache-2.0 */
/* Pollers: completion queues per device, the slots by which completions find their channels, and the
 * ring of channels that every poll walks. While nobody sleeps no system call is made. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "transport/verbs/channel.h"

#define CHANNEL_COMPLETIONS (VERBS_SEND_DEPTH + VERBS_RECEIVE_DEPTH)

int gw_verbs_open_poller(struct gw_transport *transport, struct gw_poller **out)
{
    struct verbs_poller *poller = calloc(1, sizeof(*poller));
    int error;

    if (!poller)
        return gw_fail(-ENOMEM, "verbs: no memory for a poller");
    poller->base.transport = transport;
    pthread_mutex_init(&poller->lock, NULL);
    error = gw_waker_open(&poller->waker);
    poller->slots = calloc(VERBS_SLOTS, sizeof(*poller->slots));
    if (!error && !poller->slots)
        error = -ENOMEM;
    if (error) {
        gw_verbs_close_poller(&poller->base);
        return gw_fail_errno(error, "verbs: no poller");
    }
    *out = &poller->base;
    return 0;
}

static void take_vector(struct verbs_transport *transport, struct verbs_queue *queue)
{
    pthread_mutex_lock(&transport->lock);
    queue->vector =
        gw_vectors_take(&queue->device->vectors, queue->device->context->num_comp_vectors);
    pthread_mutex_unlock(&transport->lock);
}

static void give_vector_back(struct verbs_transport *transport, struct verbs_queue *queue)
{
    pthread_mutex_lock(&transport->lock);
    gw_vectors_give_back(&queue->device->vectors, queue->vector);
    pthread_mutex_unlock(&transport->lock);
}

static void queue_free(struct verbs_poller *poller, struct verbs_queue *queue)
{
    struct verbs_transport *transport = gw_verbs_transport_of(poller->base.transport);

    if (queue->cq)
        ibv_destroy_cq(queue->cq);
    if (queue->events)
        ibv_destroy_comp_channel(queue->events);
    if (queue->device)
        give_vector_back(transport, queue);
    gw_verbs_device_put(transport, queue->device);
    free(queue);
}

void gw_verbs_close_poller(struct gw_poller *base)
{
    struct verbs_poller *poller = gw_verbs_poller_of(base);
    struct verbs_queue *queue = atomic_load(&poller->queues);

    assert(gw_ring_is_empty(&poller->channels));
    while (queue) {
        struct verbs_queue *next = queue->next;

        queue_free(poller, queue);
        queue = next;
    }
    gw_waker_close(&poller->waker);
    free(poller->slots);
    pthread_mutex_destroy(&poller->lock);
    free(poller);
}

/* ---- reserving ---- */

/* Makes what a queue consists of; epoll carries its address. */
static int queue_open(struct verbs_poller *poller, struct verbs_queue *queue)
{
    struct ibv_context *context = queue->device->context;
    int wanted = (int)gw_min(VERBS_QUEUE_CHANNELS * CHANNEL_COMPLETIONS,
                             (unsigned)queue->device->attributes.max_cqe);

    queue->events = ibv_create_comp_channel(context);
    if (queue->events)
        queue->cq = ibv_create_cq(context, wanted, queue, queue->events, queue->vector);
    if (!queue->cq || fcntl(queue->events->fd, F_SETFL, O_NONBLOCK) != 0 ||
        gw_waker_watch(&poller->waker, queue->events->fd, queue) != 0)
        return gw_fail_errno(-errno, "verbs: %s gives no completion queue of %d entries",
                             ibv_get_device_name(context->device), wanted);
    queue->capacity = (unsigned)queue->cq->cqe;
    return 0;
}

static int queue_new(struct verbs_poller *poller, struct verbs_device *device,
                     struct verbs_queue **out)
{
    struct verbs_transport *transport = gw_verbs_transport_of(poller->base.transport);
    struct verbs_queue *queue = calloc(1, sizeof(*queue));
    struct gw_address address;
    int error;

    if (!queue)
        return gw_fail(-ENOMEM, "verbs: no memory for a completion queue");
    gw_verbs_address_of(rdma_get_local_addr(device->keeper), &address);
    error = gw_verbs_device_get(transport, device->context, &address, &queue->device);
    if (!error)
        take_vector(transport, queue);
    if (!error)
        error = queue_open(poller, queue);
    if (!error && queue->capacity < CHANNEL_COMPLETIONS)
        error = gw_fail(
            -EINVAL, "verbs: %s has completion queues of %u entries only, %u are needed",
            ibv_get_device_name(device->context->device), queue->capacity, CHANNEL_COMPLETIONS);
    if (error) {
        queue_free(poller, queue);
        return error;
    }
    *out = queue;
    return 0;
}

static struct verbs_queue *find_room(struct verbs_poller *poller, const struct verbs_device *device)
{
    struct verbs_queue *queue = atomic_load(&poller->queues);

    while (queue &&
           (queue->device != device || queue->capacity - queue->reserved < CHANNEL_COMPLETIONS))
        queue = queue->next;
    return queue;
}

/* Called with the lock held. */
static int take_slot(struct verbs_poller *poller, struct verbs_channel *channel)
{
    for (unsigned i = 0; i < VERBS_SLOTS; i++) {
        unsigned number = (poller->next_slot + i) % VERBS_SLOTS;
        struct verbs_slot *slot = &poller->slots[number];

        if (atomic_load(&slot->channel))
            continue;
        poller->next_slot = number + 1;
        channel->slot = number;
        channel->generation = atomic_fetch_add(&slot->generation, 1) + 1;
        atomic_store(&slot->is_started, false);
        atomic_store(&slot->channel, channel);
        return 0;
    }
    return gw_fail(-ENOSPC, "verbs: a poller serves at most %u channels", VERBS_SLOTS);
}

int gw_verbs_poller_reserve(struct verbs_poller *poller, struct verbs_device *device,
                            struct verbs_channel *channel)
{
    struct verbs_queue *queue, *made = NULL;
    int error = 0;

    pthread_mutex_lock(&poller->lock);
    queue = find_room(poller, device);
    pthread_mutex_unlock(&poller->lock);
    /* transport.lock comes before poller.lock, so a queue is made without the latter. */
    if (!queue)
        error = queue_new(poller, device, &made);
    if (error)
        return error;
    pthread_mutex_lock(&poller->lock);
    if (made) {
        made->next = atomic_load(&poller->queues);
        atomic_store(&poller->queues, made);
        queue = made;
    } else {
        queue = find_room(poller, device);
        if (!queue)
            error = gw_fail(-EAGAIN, "verbs: completion queues were filled meanwhile");
    }
    if (!error)
        error = take_slot(poller, channel);
    if (!error) {
        queue->reserved += CHANNEL_COMPLETIONS;
        channel->queue = queue;
    }
    pthread_mutex_unlock(&poller->lock);
    return error;
}

void gw_verbs_poller_release(struct verbs_poller *poller, struct verbs_channel *channel)
{
    if (!channel->queue)
        return;
    pthread_mutex_lock(&poller->lock);
    atomic_store(&poller->slots[channel->slot].channel, NULL);
    channel->queue->reserved -= CHANNEL_COMPLETIONS;
    channel->queue = NULL;
    pthread_mutex_unlock(&poller->lock);
}

/* ---- handing over ---- */

void gw_verbs_poller_start(struct verbs_poller *poller, struct verbs_channel *channel)
{
    /* Under the lock: the poller's thread may be taking a first message for it this moment. */
    pthread_mutex_lock(&poller->lock);
    atomic_store(&poller->slots[channel->slot].is_started, true);
    pthread_mutex_unlock(&poller->lock);
    gw_ring_offer(&poller->channels, &channel->link);
    gw_waker_tell(&poller->waker);
}

static struct verbs_channel *channel_of(struct gw_ring_link *link)
{
    return gw_container_of(link, struct verbs_channel, link);
}

static void take_incoming(struct verbs_poller *poller)
{
    struct gw_ring_link *link;

    while ((link = gw_ring_take(&poller->channels)))
        /* It may have died while it was a control thread's. */
        if (channel_of(link)->error.code)
            gw_verbs_channel_end(channel_of(link));
}

void gw_verbs_poller_remove(struct verbs_poller *poller, struct verbs_channel *channel)
{
    take_incoming(poller);
    gw_ring_remove(&poller->channels, &channel->link);
}

/* ---- polling ---- */

static void take_news(struct verbs_poller *poller)
{
    struct gw_ring *ring = &poller->channels;

    take_incoming(poller);
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct verbs_channel *channel = channel_of(link);
        unsigned news = atomic_exchange(&channel->news, 0);

        if (news)
            gw_verbs_channel_hear_news(channel, news);
    }
}

/* After arm: which descriptors woke the sleeper, so that they are quiet again. */
static void take_wakes(struct verbs_poller *poller)
{
    struct epoll_event events[8];
    int count = epoll_wait(poller->waker.epoll_fd, events, 8, 0);

    for (int i = 0; i < count; i++) {
        struct verbs_queue *queue = events[i].data.ptr;
        struct ibv_cq *cq;
        void *context;

        if (!queue) {
            gw_waker_calm(&poller->waker);
        } else if (ibv_get_cq_event(queue->events, &cq, &context) == 0) {
            ibv_ack_cq_events(cq, 1);
            queue->is_armed = false;
            poller->is_armed = false;
        }
    }
}

static bool is_ready(const struct verbs_channel *channel)
{
    return gw_inbox_has_message(&channel->inbox) ||
           (channel->error.code && gw_verbs_channel_is_drained(channel));
}

static struct gw_channel *serve(struct gw_ring_link *link)
{
    struct verbs_channel *channel = channel_of(link);

    gw_verbs_receiver_repost(channel);
    gw_verbs_sender_finish(channel);
    gw_verbs_sender_run(channel);
    return is_ready(channel) ? &channel->base : NULL;
}

int gw_verbs_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct verbs_poller *poller = gw_verbs_poller_of(base);
    bool has_more = false;

    if (poller->is_armed)
        take_wakes(poller);
    if (gw_waker_take_news(&poller->waker))
        take_news(poller);
    for (struct verbs_queue *queue = atomic_load(&poller->queues); queue; queue = queue->next)
        has_more |= gw_verbs_absorb(poller, queue);
    if (has_more)
        gw_waker_tell(&poller->waker);
    return gw_ring_serve(&poller->channels, serve, ready, max);
}

int gw_verbs_arm(struct gw_poller *base)
{
    struct verbs_poller *poller = gw_verbs_poller_of(base);

    take_wakes(poller);
    for (struct verbs_queue *queue = atomic_load(&poller->queues); queue; queue = queue->next)
        if (!queue->is_armed && ibv_req_notify_cq(queue->cq, 0) == 0)
            queue->is_armed = true;
    poller->is_armed = true;
    gw_waker_rouse(&poller->waker);
    return poller->waker.epoll_fd;
}
