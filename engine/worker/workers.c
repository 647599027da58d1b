/* SPDX-License-Identifier: Apache-2.0 */
/* How many workers there are, and which of them serves a rail. What they do is worker.c. */
#include "engine/worker/workers.h"

#include "common/checked.h"

void gw_workers_init(struct gw_workers *workers, const struct gw_topology *topology, unsigned asked)
{
    unsigned half = gw_topology_cpu_count(topology, -1) / 2;

    *workers = (struct gw_workers){.topology = topology, .asked = asked};
    workers->limit = asked ? asked : (unsigned)gw_max(half, 1);
}

void gw_workers_free(struct gw_workers *workers)
{
    for (unsigned i = 0; i < workers->count; i++)
        gw_worker_free(workers->list[i]);
    workers->count = 0;
}

static unsigned count_on(const struct gw_workers *workers, int node)
{
    unsigned count = 0;

    for (unsigned i = 0; i < workers->count; i++)
        count += gw_worker_node(workers->list[i]) == node;
    return count;
}

/* May the node have one more? */
static bool has_room(const struct gw_workers *workers, int node, unsigned on_node)
{
    unsigned share = workers->asked
                         ? workers->asked
                         : (unsigned)gw_max(gw_topology_cpu_count(workers->topology, node) / 2, 1);

    if (workers->count == GW_WORKERS_MAX)
        return false;
    return on_node == 0 || (on_node < share && workers->count < workers->limit);
}

int gw_workers_on(struct gw_workers *workers, int node, struct gw_worker **out)
{
    unsigned on_node = count_on(workers, node);

    if (has_room(workers, node, on_node)) {
        int error = gw_worker_new(workers->topology, node, &workers->list[workers->count]);

        if (error)
            return error;
        *out = workers->list[workers->count++];
        return 0;
    }
    /* Only a node beyond the last place for a worker has none of its own. */
    do {
        *out = workers->list[workers->next++ % workers->count];
    } while (on_node > 0 && gw_worker_node(*out) != node);
    return 0;
}

int gw_workers_for(struct gw_workers *workers, const struct gw_address *local,
                   struct gw_worker **out)
{
    return gw_workers_on(workers, gw_topology_node_of_address(workers->topology, local), out);
}

double gw_workers_cpu_seconds(const struct gw_workers *workers)
{
    double cpu = 0;

    for (unsigned i = 0; i < workers->count; i++)
        cpu += (double)gw_worker_cpu_ns(workers->list[i]) / 1e9;
    return cpu;
}
