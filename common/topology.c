/* SPDX-License-Identifier: Apache-2.0 */
/* Questions to hwloc and sysfs, and the system calls of memory policies. Where workers go is
 * decided in engine/worker. */
#include "common/topology.h"

#include <dirent.h>
#include <errno.h>
#include <hwloc.h>
#include <ifaddrs.h>
#include <limits.h>
#include <linux/mempolicy.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"

#define PAGES_MAX   64u
#define LOWER_DEPTH 4u /* a VLAN on a bridge on a bond on a card */
#define NAME_MAX_   64u

struct gw_topology {
    hwloc_topology_t hwloc;
    bool is_here; /* this machine, not one in a file */
};

/* ---- making one ---- */

static int load(struct gw_topology *topology, const char *xml)
{
    if (hwloc_topology_init(&topology->hwloc))
        return gw_fail(-ENOMEM, "no memory for the topology of this machine");
    if (xml && hwloc_topology_set_xml(topology->hwloc, xml))
        return gw_fail(-EINVAL, "%s is not a topology that lstopo wrote", xml);
    hwloc_topology_set_io_types_filter(topology->hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(topology->hwloc))
        return gw_fail(-EIO, "the topology of %s cannot be read", xml ? xml : "this machine");
    topology->is_here = !xml;
    return 0;
}

/* Spares a machine with one node, as most are, the time that hwloc takes to look at it. */
static bool has_one_node(void)
{
    DIR *folder = opendir("/sys/devices/system/node");
    struct dirent *entry;
    unsigned number, count = 0;

    while (folder && (entry = readdir(folder)) != NULL)
        if (sscanf(entry->d_name, "node%u", &number) == 1)
            count++;
    if (folder)
        closedir(folder);
    return count < 2;
}

int gw_topology_new(const char *xml, struct gw_topology **out)
{
    struct gw_topology *topology;
    int error;

    if (!xml && has_one_node()) {
        *out = NULL;
        return 0;
    }
    topology = calloc(1, sizeof(*topology));
    if (!topology)
        return gw_fail(-ENOMEM, "no memory for the topology of this machine");
    error = load(topology, xml);
    if (error) {
        gw_topology_free(topology);
        return error;
    }
    *out = topology;
    return 0;
}

void gw_topology_free(struct gw_topology *topology)
{
    if (!topology)
        return;
    if (topology->hwloc)
        hwloc_topology_destroy(topology->hwloc);
    free(topology);
}

/* ---- nodes ---- */

static hwloc_obj_t node_object(const struct gw_topology *topology, int node)
{
    return node < 0 ? NULL : hwloc_get_numanode_obj_by_os_index(topology->hwloc, (unsigned)node);
}

static bool has_cpus(hwloc_obj_t node)
{
    return node && node->cpuset && !hwloc_bitmap_iszero(node->cpuset);
}

unsigned gw_topology_cpu_count(const struct gw_topology *topology, int node)
{
    hwloc_obj_t object = topology ? node_object(topology, node) : NULL;
    int count;

    if (!topology)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    else if (object)
        count = hwloc_bitmap_weight(object->cpuset);
    else
        count = hwloc_bitmap_weight(hwloc_topology_get_allowed_cpuset(topology->hwloc));
    return count > 0 ? (unsigned)count : 1;
}

/* A node that can run a worker, or -1. */
static int usable(const struct gw_topology *topology, int node)
{
    return has_cpus(node_object(topology, node)) ? node : -1;
}

/* The first node of a set whose nodes are all near the same CPUs (memory of two kinds), or -1. */
static int common_node(const struct gw_topology *topology, hwloc_const_nodeset_t set)
{
    int first = hwloc_bitmap_first(set);
    hwloc_obj_t object = node_object(topology, first);

    for (int node = first; node >= 0; node = hwloc_bitmap_next(set, node)) {
        hwloc_obj_t other = node_object(topology, node);

        if (!object || !other || !hwloc_bitmap_isequal(object->cpuset, other->cpuset))
            return -1;
    }
    return usable(topology, first);
}

/* ---- devices ---- */

static int node_by_hwloc(const struct gw_topology *topology, const char *name)
{
    hwloc_obj_t device = NULL;

    while ((device = hwloc_get_next_osdev(topology->hwloc, device)) != NULL) {
        hwloc_obj_t near;

        if (!device->name || strcmp(device->name, name) != 0)
            continue;
        near = hwloc_get_non_io_ancestor_obj(topology->hwloc, device);
        /* Of a device that hangs on the whole machine nothing is known. */
        if (near && near->nodeset)
            return common_node(topology, near->nodeset);
    }
    return -1;
}

static bool read_number(const char *path, int *out)
{
    FILE *file = fopen(path, "re");
    bool is_read = file && fscanf(file, "%d", out) == 1;

    if (file)
        fclose(file);
    return is_read;
}

/* The numa_node of the device or of the first one above it that has one. */
static int node_by_sysfs(const struct gw_topology *topology, const char *class, const char *name)
{
    char link[PATH_MAX], path[PATH_MAX];
    int node;

    snprintf(link, sizeof(link), "/sys/class/%s/%s/device", class, name);
    if (!realpath(link, path))
        return -1;
    while (strlen(path) > strlen("/sys/devices")) {
        char *last;

        snprintf(link, sizeof(link), "%.4000s/numa_node", path);
        if (read_number(link, &node))
            return usable(topology, node);
        last = strrchr(path, '/');
        *last = '\0';
    }
    return -1;
}

static int node_of(const struct gw_topology *topology, const char *name, unsigned depth);

/* What the devices beneath a virtual one agree on. */
static int node_of_lower(const struct gw_topology *topology, const char *name, unsigned depth)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *folder;
    int agreed = -1;

    if (depth == LOWER_DEPTH)
        return -1;
    snprintf(path, sizeof(path), "/sys/class/net/%s", name);
    folder = opendir(path);
    while (folder && (entry = readdir(folder)) != NULL) {
        int node;

        if (strncmp(entry->d_name, "lower_", 6) != 0)
            continue;
        node = node_of(topology, entry->d_name + 6, depth + 1);
        if (node < 0 || (agreed >= 0 && node != agreed)) {
            agreed = -1;
            break;
        }
        agreed = node;
    }
    if (folder)
        closedir(folder);
    return agreed;
}

static int node_of(const struct gw_topology *topology, const char *name, unsigned depth)
{
    int node = node_by_hwloc(topology, name);

    if (node < 0 && topology->is_here)
        node = node_by_sysfs(topology, "net", name);
    if (node < 0 && topology->is_here)
        node = node_by_sysfs(topology, "infiniband", name);
    if (node < 0 && topology->is_here)
        node = node_of_lower(topology, name, depth);
    return node;
}

int gw_topology_node_of_device(const struct gw_topology *topology, const char *name)
{
    if (!topology || strchr(name, '/') || strlen(name) >= NAME_MAX_)
        return -1;
    return node_of(topology, name, 0);
}

int gw_topology_node_of_address(const struct gw_topology *topology,
                                const struct gw_address *address)
{
    struct ifaddrs *list;
    int node = -1;

    if (!topology || !topology->is_here || getifaddrs(&list))
        return -1;
    for (const struct ifaddrs *item = list; item; item = item->ifa_next) {
        struct gw_address own = {.length = address->length};

        if (!item->ifa_addr || item->ifa_addr->sa_family != address->storage.ss_family)
            continue;
        memcpy(&own.storage, item->ifa_addr, address->length);
        if (gw_address_same_host(&own, address)) {
            node = gw_topology_node_of_device(topology, item->ifa_name);
            break;
        }
    }
    freeifaddrs(list);
    return node;
}

/* ---- memory ---- */

int gw_topology_node_of_pages(void *const *pages, size_t count)
{
    int nodes[PAGES_MAX];
    void *asked[PAGES_MAX];

    count = gw_min(count, PAGES_MAX);
    memcpy(asked, pages, count * sizeof(asked[0]));
    if (count == 0 || syscall(SYS_move_pages, 0, count, asked, NULL, nodes, 0) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        size_t same = 0;

        for (size_t j = 0; j < count; j++)
            same += nodes[j] == nodes[i];
        if (nodes[i] >= 0 && same * 4 >= count * 3)
            return nodes[i];
    }
    return -1;
}

void gw_topology_run_on(const struct gw_topology *topology, int node)
{
    hwloc_obj_t object = topology && topology->is_here ? node_object(topology, node) : NULL;
    hwloc_bitmap_t set;

    if (!has_cpus(object))
        return;
    set = hwloc_bitmap_alloc();
    if (!set)
        return;
    /* Whoever confined this process to some CPUs meant it. */
    if (hwloc_get_cpubind(topology->hwloc, set, HWLOC_CPUBIND_THREAD) == 0) {
        hwloc_bitmap_and(set, set, object->cpuset);
        if (!hwloc_bitmap_iszero(set))
            hwloc_set_cpubind(topology->hwloc, set, HWLOC_CPUBIND_THREAD);
    }
    hwloc_bitmap_free(set);
}

/* Calls the kernel for policies; get_mempolicy wants one bit more than there are. */
static bool get_policy(struct gw_memory_policy *policy)
{
    memset(policy, 0, sizeof(*policy));
    return syscall(SYS_get_mempolicy, &policy->mode, policy->nodes, GW_TOPOLOGY_NODES_MAX, NULL,
                   0) == 0;
}

void gw_topology_prefer(const struct gw_topology *topology, int node,
                        struct gw_memory_policy *before)
{
    struct gw_memory_policy policy = {.mode = MPOL_PREFERRED};
    unsigned bits = 8 * sizeof(policy.nodes[0]);

    before->mode = -1;
    if (!topology || !topology->is_here || node < 0 || (unsigned)node >= GW_TOPOLOGY_NODES_MAX)
        return;
    /* An administrator's own policy (numactl) goes before this one. */
    if (!get_policy(before) || before->mode != MPOL_DEFAULT) {
        before->mode = -1;
        return;
    }
    policy.nodes[(unsigned)node / bits] |= 1ul << ((unsigned)node % bits);
    if (syscall(SYS_set_mempolicy, policy.mode, policy.nodes, GW_TOPOLOGY_NODES_MAX) != 0)
        before->mode = -1;
}

void gw_topology_restore(const struct gw_memory_policy *before)
{
    if (before->mode == MPOL_DEFAULT)
        syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
}

void gw_topology_settle(void *memory, size_t size)
{
    struct gw_memory_policy policy;

    if (get_policy(&policy) && policy.mode != MPOL_DEFAULT)
        syscall(SYS_mbind, memory, size, policy.mode, policy.nodes, GW_TOPOLOGY_NODES_MAX, 0);
}
