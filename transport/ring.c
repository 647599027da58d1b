/* SPDX-License-Identifier: Apache-2.0 */
/* The channels of a poller, in a circle, and those that control threads hand to it. */
#include "transport/ring.h"

void gw_ring_offer(struct gw_ring *ring, struct gw_ring_link *link)
{
    link->next = atomic_load(&ring->incoming);
    while (!atomic_compare_exchange_weak(&ring->incoming, &link->next, link))
        ;
}

struct gw_ring_link *gw_ring_take(struct gw_ring *ring)
{
    struct gw_ring_link *link = atomic_load(&ring->incoming);

    /* Only this thread takes, so what is behind the newest stays there. */
    while (link && !atomic_compare_exchange_weak(&ring->incoming, &link, link->next))
        ;
    if (!link)
        return NULL;
    if (!ring->first) {
        ring->first = link->next = link->previous = link;
    } else {
        link->next = ring->first;
        link->previous = ring->first->previous;
        link->previous->next = link->next->previous = link;
    }
    return link;
}

void gw_ring_take_all(struct gw_ring *ring)
{
    while (gw_ring_take(ring))
        ;
}

void gw_ring_remove(struct gw_ring *ring, struct gw_ring_link *link)
{
    gw_ring_take_all(ring);
    if (link->next == link) {
        ring->first = NULL;
        return;
    }
    link->previous->next = link->next;
    link->next->previous = link->previous;
    if (ring->first == link)
        ring->first = link->next;
}

bool gw_ring_is_empty(struct gw_ring *ring)
{
    return !ring->first && !atomic_load(&ring->incoming);
}

int gw_ring_serve(struct gw_ring *ring, struct gw_channel *(*serve)(struct gw_ring_link *link),
                  struct gw_channel **ready, int max)
{
    struct gw_ring_link *last_reported = NULL;
    int count = 0;

    ring->is_served = true;
    for (struct gw_ring_link *link = ring->first; link; link = gw_ring_next(ring, link)) {
        struct gw_channel *channel = serve(link);

        if (channel && count < max) {
            ready[count++] = channel;
            last_reported = link;
        }
    }
    ring->is_served = false;
    if (last_reported)
        ring->first = last_reported->next;
    return count;
}
