/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topology: which NUMA node a network interface, an address or memory is on, and how a thread and
 * its memory get there. By hwloc, and by sysfs where hwloc sees no devices (its PCI plugin is a
 * package of its own). A node is the kernel's number; -1 is "none in particular".
 *
 * Errors: -errno with a message from new only. Everything else is a wish: a machine with one node,
 *   a device that nobody knows or a cgroup that forbids a CPU changes nothing.
 * Order: new → anything → free. NULL is a valid topology: that of a machine with one node.
 * Threads: any; a topology does not change. prefer and run_on are about the calling thread.
 * Units: bytes.
 */
#ifndef GODWIT_COMMON_TOPOLOGY_H
#define GODWIT_COMMON_TOPOLOGY_H

#include <stddef.h>

#include "common/address.h"

#define GW_TOPOLOGY_NODES_MAX 1024u /* of the kernel: CONFIG_NODES_SHIFT is at most 10 */

struct gw_topology;

/* The memory policy that a thread had: set_mempolicy(2). */
struct gw_memory_policy {
    int mode; /* negative: nothing to restore */
    unsigned long nodes[GW_TOPOLOGY_NODES_MAX / (8 * sizeof(unsigned long))];
};

/* xml: a file that lstopo wrote, to look at only; NULL: this machine, and *out is NULL when it has
 * one node. */
int gw_topology_new(const char *xml, struct gw_topology **out);
void gw_topology_free(struct gw_topology *topology);

/* CPUs near a node that this process may use (all, for a node that only has memory); of all nodes
 * for -1. At least 1. */
unsigned gw_topology_cpu_count(const struct gw_topology *topology, int node);

/* The node that an interface or an RDMA device hangs on. Of a VLAN, bridge or bond it
 * is that of the devices beneath, if they share one. */
int gw_topology_node_of_device(const struct gw_topology *topology, const char *name);
/* The node of the interface that has this address; the port does not matter. */
int gw_topology_node_of_address(const struct gw_topology *topology,
                                const struct gw_address *address);
/* The node that at least three quarters of some pages lie on. They are present in this process's
 * page tables: touched before. */
int gw_topology_node_of_pages(void *const *pages, size_t count);

/* Keeps the calling thread on CPUs of the node, among those that it may use now. */
void gw_topology_run_on(const struct gw_topology *topology, int node);
/* What the calling thread touches first from now on comes from that node as long as it has any
 * free. before takes what restore gives back. */
void gw_topology_prefer(const struct gw_topology *topology, int node,
                        struct gw_memory_policy *before);
void gw_topology_restore(const struct gw_memory_policy *before);
/* Gives memory that is not touched yet the policy of the calling thread: shared memory does not
 * follow the policy of whoever made it by itself. */
void gw_topology_settle(void *memory, size_t size);

#endif
