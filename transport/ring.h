/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring, op queue: what every back end's poller and channels keep, and keep alike.
 *
 * A ring holds the channels of a poller. Control threads offer channels that they connected or
 * accepted; all else is done by the poller's thread. The walk begins at first, which moves on so
 * that each channel comes first in turn.
 *
 * An op queue holds what is posted on a channel until its done().
 *
 * Errors: none; nothing here allocates.
 * Threads: gw_ring_offer by any; the rest by the poller's.
 * Units: ops.
 */
#ifndef GODWIT_TRANSPORT_RING_H
#define GODWIT_TRANSPORT_RING_H

#include <stdatomic.h>

#include "transport/transport.h"

/* Embedded in a channel. */
struct gw_ring_link {
    struct gw_ring_link *previous, *next;
};

struct gw_ring {
    struct gw_ring_link *first;              /* NULL when empty */
    _Atomic(struct gw_ring_link *) incoming; /* offered, not yet taken; newest first */
    bool is_served;                          /* gw_ring_serve runs: no channel may go */
};

/* Hands a channel to the poller's thread, which the caller then wakes. */
void gw_ring_offer(struct gw_ring *ring, struct gw_ring_link *link);
/* Takes one of the offered into the ring and answers it; NULL when there is none. */
struct gw_ring_link *gw_ring_take(struct gw_ring *ring);
void gw_ring_take_all(struct gw_ring *ring);
/* Of a channel that was offered, taken or not. */
void gw_ring_remove(struct gw_ring *ring, struct gw_ring_link *link);
/* Nothing in it and nothing offered. */
bool gw_ring_is_empty(struct gw_ring *ring);

/* The channel behind link in a walk, or NULL behind the last one:
 * for (link = ring->first; link; link = gw_ring_next(ring, link)) */
static inline struct gw_ring_link *gw_ring_next(const struct gw_ring *ring,
                                                const struct gw_ring_link *link)
{
    return link->next == ring->first ? NULL : link->next;
}

/* What gw_poll does: serve runs once for each channel, and answers it when it is to be reported, or NULL.
 * Up to max of those are stored; those that did not fit come first the next time. Answers how many. */
int gw_ring_serve(struct gw_ring *ring, struct gw_channel *(*serve)(struct gw_ring_link *link),
                  struct gw_channel **ready, int max);

struct gw_op_queue {
    struct gw_op *first, **last;
    unsigned count;
};

static inline void gw_op_queue_init(struct gw_op_queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
    queue->count = 0;
}

static inline void gw_op_queue_push(struct gw_op_queue *queue, struct gw_op *op)
{
    op->next = NULL;
    *queue->last = op;
    queue->last = &op->next;
    queue->count++;
}

/* NULL when empty. */
static inline struct gw_op *gw_op_queue_take(struct gw_op_queue *queue)
{
    struct gw_op *op = queue->first;

    if (op) {
        queue->first = op->next;
        if (!queue->first)
            queue->last = &queue->first;
        queue->count--;
    }
    return op;
}

/* Gives each its done(), oldest first. */
static inline void gw_op_queue_end(struct gw_op_queue *queue, int status)
{
    struct gw_op *op;

    while ((op = gw_op_queue_take(queue)))
        op->done(op, status);
}

#endif
