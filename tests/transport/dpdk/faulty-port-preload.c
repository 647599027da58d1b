/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into any program that uses DPDK: its ports are faulty from their start, as
 * GODWIT_TEST_PORT_FAULTS says; see faulty-port.h. */
#include <dlfcn.h>
#include <rte_ethdev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/transport/dpdk/faulty-port.h"

static uint64_t read_share(const char *text, const char *name)
{
    const char *at = text ? strstr(text, name) : NULL;

    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

__attribute__((visibility("default"))) int rte_eth_dev_start(uint16_t port)
{
    const char *text = getenv("GODWIT_TEST_PORT_FAULTS");
    int (*start)(uint16_t) = (int (*)(uint16_t))dlsym(RTLD_NEXT, "rte_eth_dev_start");
    const struct faulty_port_shares shares = {.lose = (uint32_t)read_share(text, "lose="),
                                              .swap = (uint32_t)read_share(text, "swap="),
                                              .repeat = (uint32_t)read_share(text, "repeat="),
                                              .corrupt = (uint32_t)read_share(text, "corrupt=")};
    int error = start ? start(port) : -1;

    if (error)
        return error;
    faulty_port_set(&shares);
    faulty_port_attach_one(port, read_share(text, "seed="));
    return 0;
}

/* What happened, so that a test sees that something did. */
__attribute__((destructor)) static void tell(void)
{
    const char *path = getenv("GODWIT_TEST_PORT_FAULTS_TOLD");
    struct faulty_port_counts counts;
    FILE *file = path ? fopen(path, "ae") : NULL;

    if (!file)
        return;
    faulty_port_counts(&counts);
    fprintf(file, "seen %llu lost %llu swapped %llu repeated %llu corrupted %llu\n",
            (unsigned long long)counts.seen, (unsigned long long)counts.lost,
            (unsigned long long)counts.swapped, (unsigned long long)counts.repeated,
            (unsigned long long)counts.corrupted);
    fclose(file);
}
