/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recovery: a thread that settles what the journal holds as undecided, at start and every few
 * seconds for as long as there is something. The settling itself is the engine's gw_recover.
 * Errors: 0 or -errno with a message.
 * Threads: its own.
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_RECOVERY_H
#define GODWIT_AGENT_RECOVERY_H

#include "agent/state.h"
#include "engine/migration.h"

struct gw_recovery;

int gw_recovery_start(const struct gw_environment *environment, struct gw_state *state,
                      struct gw_recovery **out);
void gw_recovery_stop(struct gw_recovery *recovery); /* waits for a round that runs; takes NULL */

#endif
