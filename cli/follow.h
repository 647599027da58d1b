/* SPDX-License-Identifier: Apache-2.0 */
/*
 * follow: watches a migration to its end, wherever it runs.
 * Errors: exit codes of the design; GW_TASK_DETACHED after Ctrl-C on a migration that runs in an
 *   agent. In this process Ctrl-C cancels the copy.
 * Threads: main; a copy here runs on one of its own.
 * Units: none.
 */
#ifndef GODWIT_CLI_FOLLOW_H
#define GODWIT_CLI_FOLLOW_H

#include "agent/client.h"
#include "cli/task.h"

int gw_follow_job(const struct gw_task *task, struct gw_client *client, const char *job);
/* --detach: says how to watch and cancel it, and comes back. */
int gw_follow_detached(const struct gw_task *task, const char *job);
int gw_follow_here(const struct gw_task *task);

#endif
