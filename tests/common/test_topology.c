/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes and devices of machines described in files, and what this machine says of itself. */
#include "common/topology.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct gw_topology *machine(const char *name)
{
    struct gw_topology *topology;
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s", TOPOLOGY_FOLDER, name);
    cr_assert_eq(gw_topology_new(path, &topology), 0);
    return topology;
}

Test(topology, devices_are_on_the_node_of_their_bus)
{
    struct gw_topology *topology = machine("two-nodes.xml");

    cr_assert_eq(gw_topology_cpu_count(topology, 0), 4);
    cr_assert_eq(gw_topology_cpu_count(topology, 1), 2);
    cr_assert_eq(gw_topology_cpu_count(topology, -1), 6);
    cr_assert_eq(gw_topology_node_of_device(topology, "ens1f0"), 0);
    cr_assert_eq(gw_topology_node_of_device(topology, "mlx5_0"), 0);
    cr_assert_eq(gw_topology_node_of_device(topology, "ens2f0"), 1);
    cr_assert_eq(gw_topology_node_of_device(topology, "mlx5_1"), 1);
    cr_assert_eq(gw_topology_node_of_device(topology, "ens9"), -1);
    cr_assert_eq(gw_topology_node_of_device(topology, "../net/lo"), -1);
    gw_topology_free(topology);
}

Test(topology, device_of_the_whole_machine_is_on_no_node)
{
    struct gw_topology *topology = machine("two-nodes.xml");

    cr_assert_eq(gw_topology_node_of_device(topology, "eno1"), -1);
    gw_topology_free(topology);
}

Test(topology, node_with_memory_only_is_near_all_cpus)
{
    struct gw_topology *topology = machine("memory-node.xml");

    cr_assert_eq(gw_topology_node_of_device(topology, "ens1f0"), 0);
    cr_assert_eq(gw_topology_cpu_count(topology, 0), 4);
    cr_assert_eq(gw_topology_cpu_count(topology, 1), 4);
    cr_assert_eq(gw_topology_cpu_count(topology, 7), 4, "a node that there is not");
    gw_topology_free(topology);
}

Test(topology, machine_without_devices_still_has_nodes)
{
    struct gw_topology *topology = machine("no-devices.xml");

    cr_assert_eq(gw_topology_cpu_count(topology, 1), 2);
    cr_assert_eq(gw_topology_node_of_device(topology, "ens1f0"), -1);
    gw_topology_free(topology);
}

Test(topology, file_that_is_none_is_refused)
{
    struct gw_topology *topology;

    cr_assert_lt(gw_topology_new("/dev/null", &topology), 0);
    cr_assert_lt(gw_topology_new("/nonexistent", &topology), 0);
}

Test(topology, none_is_a_machine_with_one_node)
{
    struct gw_memory_policy before;

    cr_assert_eq(gw_topology_cpu_count(NULL, -1), (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
    cr_assert_eq(gw_topology_node_of_device(NULL, "lo"), -1);
    gw_topology_run_on(NULL, 0);
    gw_topology_prefer(NULL, 0, &before);
    gw_topology_restore(&before);
    gw_topology_free(NULL);
}

/* What a file describes is not this machine: nothing is bound by it. */
Test(topology, described_machine_binds_nothing)
{
    struct gw_topology *topology = machine("two-nodes.xml");
    struct gw_memory_policy before;
    int mode = -1;

    gw_topology_run_on(topology, 1);
    gw_topology_prefer(topology, 1, &before);
    cr_assert_eq(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0), 0);
    cr_assert_eq(mode, MPOL_DEFAULT);
    gw_topology_restore(&before);
    gw_topology_free(topology);
}

Test(topology, pages_say_where_they_are)
{
    char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *pages[4] = {memory, memory + 4096, memory + 65536, memory + 131072};

    for (int i = 0; i < 4; i++)
        *(volatile char *)pages[i] = 1;
    /* Every machine has a node 0; on one with several the pages are on one that exists. */
    if (access("/sys/devices/system/node/node1", F_OK) == 0)
        cr_assert_geq(gw_topology_node_of_pages(pages, 4), 0);
    else
        cr_assert_eq(gw_topology_node_of_pages(pages, 4), 0);
    /* Pages that nobody touched are nowhere. */
    pages[0] = pages[1] = memory + 262144;
    cr_assert_eq(gw_topology_node_of_pages(pages, 2), -1);
    cr_assert_eq(gw_topology_node_of_pages(pages, 0), -1);
    munmap(memory, 1 << 20);
}
