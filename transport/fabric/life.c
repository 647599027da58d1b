/* SPDX-License-Identifier: Apache-2.0 */
/* What the transport's thread does: takes the events of connected endpoints, notes them at the channels,
 * and once a second, while there are any, tells pollers to look after theirs. */
#include "transport/fabric/channel.h"

#define AGAIN_MS 1 /* how long to wait where an event queue may not be waited on */

/* Called with the lock held. */
static void tell(struct fabric_channel *channel, unsigned news)
{
    atomic_fetch_or(&channel->news, news);
    gw_waker_tell(&channel->poller->waker);
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
    int error = 0;

    pthread_mutex_lock(&transport->lock);
    if (channel->eq_fd >= 0)
        error = gw_waker_watch(&transport->life.waker, channel->eq_fd, channel);
    if (!error) {
        gw_ring_offer(&transport->connected, &channel->life_link);
        gw_ring_take_all(&transport->connected);
    }
    pthread_mutex_unlock(&transport->lock);
    if (error)
        return gw_fail_errno(error, "fabric: the events of a connection cannot be had");
    gw_waker_wake(&transport->life.waker);
    return 0;
}

void gw_fabric_life_remove(struct fabric_transport *transport, struct fabric_channel *channel)
{
    pthread_mutex_lock(&transport->lock);
    gw_ring_remove(&transport->connected, &channel->life_link);
    if (channel->eq_fd >= 0)
        gw_waker_ignore(&transport->life.waker, channel->eq_fd);
    pthread_mutex_unlock(&transport->lock);
}

/* ---- the thread ---- */

/* Looks at every event queue, since a descriptor may be waited on only when its queue says so
 * (fi_trywait(3)). */
static int look_around(void *owner, bool is_due)
{
    struct fabric_transport *transport = owner;
    struct gw_ring *ring = &transport->connected;
    int longest_ms = GW_LIFE_IDLE;

    pthread_mutex_lock(&transport->lock);
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct fabric_channel *channel = gw_container_of(link, struct fabric_channel, life_link);
        struct fid *queue = &channel->eq->fid;

        if (longest_ms == GW_LIFE_IDLE)
            longest_ms = GW_LIFE_TICK_MS;
        take_events(channel);
        if (channel->eq_fd >= 0 && fi_trywait(channel->domain->fabric, &queue, 1) != 0)
            longest_ms = AGAIN_MS;
        if (is_due)
            tell(channel, FABRIC_NEWS_TICK);
    }
    pthread_mutex_unlock(&transport->lock);
    return longest_ms;
}

/* The channel at this address may be gone; what is left of it is found by looking around. */
static void take(void *owner, void *address)
{
    (void)owner;
    (void)address;
}

int gw_fabric_life_start(struct fabric_transport *transport)
{
    static const struct gw_life_ops ops = {.look = look_around, .take = take};

    return gw_life_start(&transport->life, "fabric", &ops, transport);
}
