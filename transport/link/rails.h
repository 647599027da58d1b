/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rails: which pairs of addresses two hosts can use beside each other.
 * Errors: -errno from getifaddrs.
 * Threads: any.
 * Units: counts.
 */
#ifndef GODWIT_TRANSPORT_LINK_RAILS_H
#define GODWIT_TRANSPORT_LINK_RAILS_H

#include "common/address.h"

#define GW_RAILS_MAX 16u

struct gw_rail {
    struct gw_address local, peer;
};

/* The addresses of this host that a peer may dial (interfaces that are up; no loopback or
 * link-local unless primary is one), at most max. Ports are left 0. Returns the count or -errno. */
int gw_rails_local(const struct gw_address *primary, struct gw_address *out, unsigned max);

/* Pairs each usable local address with a peer's address on the same network (by interface netmask),
 * the pair of the control channel first and always. One rail for each local interface. Returns the
 * count. */
int gw_rails_pair(const struct gw_rail *control, const struct gw_address *peers,
                  unsigned peer_count, struct gw_rail *out, unsigned max);

#endif
