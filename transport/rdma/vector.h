/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vector: which of a device's completion vectors wakes who sleeps on a completion queue, as each vector
 * interrupts a CPU of its own. Pure.
 *
 * Errors: none.
 * Order: take → give back, any number; those in use are never given back twice.
 * Threads: one at a time.
 * Units: counts.
 */
#ifndef GODWIT_TRANSPORT_RDMA_VECTOR_H
#define GODWIT_TRANSPORT_RDMA_VECTOR_H

#include <assert.h>

#define GW_VECTORS_MAX 256 /* of one device; it may have more, which stay unused */

/* Zeroed at first. */
struct gw_vectors {
    unsigned queue_counts[GW_VECTORS_MAX]; /* the completion queues on each vector */
};

/* For one more queue: a vector with the fewest, so that each gets one of its own while there are any. The
 * lowest of them: drivers of several NUMA nodes' devices, such as mlx5, give these to CPUs of the device's
 * node, where its workers are. vector_count: ibv_context.num_comp_vectors; a device that has none takes 0. */
static inline int gw_vectors_take(struct gw_vectors *vectors, int vector_count)
{
    int found = 0;

    for (int i = 1; i < vector_count && i < GW_VECTORS_MAX; i++)
        if (vectors->queue_counts[i] < vectors->queue_counts[found])
            found = i;
    vectors->queue_counts[found]++;
    return found;
}

static inline void gw_vectors_give_back(struct gw_vectors *vectors, int vector)
{
    assert(vectors->queue_counts[vector] > 0);
    vectors->queue_counts[vector]--;
}

#endif
