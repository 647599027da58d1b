/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fence: ends a region while a burst is taken that writes to it: by another thread, begun between two
 * datagrams or in the middle of a copy into the region. Whatever is placed there after the end has returned is
 * noticed, and that it returns during a copy.
 *
 * Order: open, take once or more, close.
 * Threads: one, that of the simulation; the fence has a thread of its own.
 */
#ifndef GODWIT_TESTS_TRANSPORT_DPDK_FENCE_H
#define GODWIT_TESTS_TRANSPORT_DPDK_FENCE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "tests/transport/dpdk/sim.h"
#include "tests/transport/dpdk/trap.h"

struct fence {
    struct gw_region_table *regions;
    const struct gw_region *region; /* whole pages */
    bool is_in_copy;
    struct trap target, source; /* the region; a datagram */
    pthread_t thread;
    sem_t begin, end;
    bool has_begun, is_given_up;
    _Atomic bool has_ended;
    const char *fault;
};

/* is_in_copy: in the middle of a copy, and not between datagrams. */
void fence_open(struct fence *fence, struct gw_region_table *regions,
                const struct gw_region *region, bool is_in_copy);
/* Gives the burst to end's core, and ends the region meanwhile if the burst comes to that. */
void fence_take(struct fence *fence, struct sim_end *end, struct dpdk_input *inputs,
                unsigned count);
void fence_close(struct fence *fence);

#endif
