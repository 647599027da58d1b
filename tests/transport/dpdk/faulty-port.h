/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faulty-port: a layer between DPDK's ports and whoever reads them. On command what arrives is lost,
 * overtaken, doubled or changed, at the burst functions themselves, whatever the driver is. It is
 * hung into DPDK's own receive callbacks, so nothing of the product knows of it.
 *
 * Two ways to it: a test program attaches it to every port of its process; the library
 * faulty-port-preload.so does so in any program, when a port starts, with what GODWIT_TEST_PORT_FAULTS
 * says ("lose=10000,swap=5000,repeat=100,corrupt=1,seed=7", shares of a million frames).
 *
 * Order: frames of ARP and neighbour discovery are lost, overtaken and doubled too. Only UDP is
 *   changed, behind its Ethernet header: ARP proves nothing, and relies on Ethernet's own checksum.
 * Threads: commands may come from any; they hold for frames that arrive later.
 * Units: shares of 1,000,000.
 */
#ifndef GODWIT_TESTS_TRANSPORT_DPDK_FAULTY_PORT_H
#define GODWIT_TESTS_TRANSPORT_DPDK_FAULTY_PORT_H

#include <stdint.h>

struct faulty_port_shares {
    uint32_t lose, swap, repeat, corrupt;
};

struct faulty_port_counts {
    uint64_t seen, lost, swapped, repeated, corrupted;
};

/* Every queue of every port that there is. Once. */
void faulty_port_attach(uint64_t seed);
/* One port. */
void faulty_port_attach_one(uint16_t port, uint64_t seed);
void faulty_port_set(const struct faulty_port_shares *shares);
void faulty_port_counts(struct faulty_port_counts *out);

#endif
