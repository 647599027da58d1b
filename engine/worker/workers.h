/* SPDX-License-Identifier: Apache-2.0 */
/*
 * workers: the workers of one side of a migration. Each is on the NUMA node of the rails that it
 * serves; where nodes are unknown or there is one, on none in particular.
 *
 * A worker keeps a CPU busy, and the guest and the control thread want theirs too: half the CPUs
 * of a node are the most that its workers take, and half of all CPUs the most of all workers, but
 * each node that has a rail gets one.
 *
 * Errors: 0 or -errno with a message.
 * Order: init → for … → free (after the lanes are detached). Zeroed memory may be freed.
 * Threads: the migration's control thread.
 * Units: counts.
 */
#ifndef GODWIT_ENGINE_WORKER_WORKERS_H
#define GODWIT_ENGINE_WORKER_WORKERS_H

#include "engine/worker/worker.h"

#define GW_WORKERS_MAX 16u

struct gw_workers {
    const struct gw_topology *topology;
    unsigned asked; /* by a person; 0: as above */
    unsigned limit;
    unsigned count, next;
    struct gw_worker *list[GW_WORKERS_MAX];
};

/* topology is lent until free. */
void gw_workers_init(struct gw_workers *workers, const struct gw_topology *topology,
                     unsigned asked);
void gw_workers_free(struct gw_workers *workers);
/* The worker for one more channel of a rail with this local address. */
int gw_workers_for(struct gw_workers *workers, const struct gw_address *local,
                   struct gw_worker **out);
/* As above, for a node. */
int gw_workers_on(struct gw_workers *workers, int node, struct gw_worker **out);
double gw_workers_cpu_seconds(const struct gw_workers *workers);

#endif
