/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vector: which of a device's completion vectors wakes who sleeps on a completion queue, as each vector
 * interrupts a CPU of its own. Pure.
 *
 * Errors: none.
 * Threads: any.
 * Units: counts.
 */
#ifndef GODWIT_TRANSPORT_RDMA_VECTOR_H
#define GODWIT_TRANSPORT_RDMA_VECTOR_H

/* For one more queue on a device that has queue_count queues now, so that each gets a vector of its own while
 * there are any. The lowest first: drivers of several NUMA nodes' devices, such as mlx5, give
 * these to CPUs of the device's node, where its workers are. vector_count: ibv_context.num_comp_vectors; a
 * device that has none takes 0. */
static inline int gw_completion_vector(unsigned queue_count, int vector_count)
{
    return vector_count > 0 ? (int)(queue_count % (unsigned)vector_count) : 0;
}

#endif
