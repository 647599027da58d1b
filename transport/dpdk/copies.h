/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copies: whether payload is copied before it is sent, or read by the driver where it lies.
 *
 * What a guest writes between the tag and the driver is lost. Nobody can tell one such loss from others, so after
 * a loss payload is copied for a while. If copies are lost at least half as often, most of it was not the guest: then
 * no loss has anything copied for a longer while. What arrives after all was no loss. A pure state machine, told of
 * the core's eras: each time it begins or ends to copy a new one begins.
 *
 * Threads: one.
 * Units: ns, datagrams.
 */
#ifndef GODWIT_TRANSPORT_DPDK_COPIES_H
#define GODWIT_TRANSPORT_DPDK_COPIES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "transport/dpdk/core.h"

#define DPDK_COPY_NS     GW_NS_PER_S
#define DPDK_COPY_LOSSES 32u                /* or until so many were lost as if there were none */
#define DPDK_SPARE_NS    (16 * GW_NS_PER_S) /* after copies that lessened nothing */

/* Zeros: nothing is copied. */
struct dpdk_copies {
    bool is_copying;
    uint64_t begun_ns;        /* while copying */
    uint64_t spared_until_ns; /* no loss begins it before that */
};

/* True when it begins or ends to copy. */
bool gw_dpdk_copies_note(struct dpdk_copies *copies, uint64_t now_ns, const struct dpdk_eras *eras);

#endif
