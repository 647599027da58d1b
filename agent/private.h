/* SPDX-License-Identifier: Apache-2.0 */
/*
 * private: an agent started for one command, where a host has none. It has a state folder of its
 * own beneath the state home, or takes up that of one that was killed (left.h); it outlives the terminal, and ends when
 * it has nothing to do and nothing is in doubt. It is the same program: godwit agent --private.
 * Errors: 0 or -errno with a message, the agent's own where it said one.
 * Threads: one.
 * Units: none.
 */
#ifndef GODWIT_AGENT_PRIVATE_H
#define GODWIT_AGENT_PRIVATE_H

#include "agent/client.h"
#include "agent/options.h"

/* options: credentials (absolute paths), transports and their options, trusted networks, allow_volatile_state; lent. */
int gw_private_start(const struct gw_agent_options *options, struct gw_client **out);

#endif
