/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settle: the request "resolve" (docs/admin-protocol.md), answered by an agent, or by a command on
 * the state folder of one that does not run.
 * Errors: gw_settle_here: -ENOENT when the folder has no journal, -EBUSY when an agent has it, with
 *   a message. What the request itself comes to is in the answer.
 * Threads: any; blocks for up to a minute.
 */
#ifndef GODWIT_AGENT_SETTLE_H
#define GODWIT_AGENT_SETTLE_H

#include "engine/migration.h"

#define GW_SETTLE_TIMEOUT_MS 120000 /* for the answer */

/* request is lent; the answer is the caller's, NULL when memory is short. */
json_t *gw_settle(const struct gw_environment *environment, const json_t *request);
int gw_settle_here(const char *state_folder, const json_t *request, json_t **answer);

#endif
