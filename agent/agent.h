/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent: one host's godwit. Listens, admits peers, runs and queues migrations until it is told to
 * end.
 *
 * Errors: an exit code of the design; messages go to the log (stderr) and to options->ready_fd.
 * Order: once per process; call it from main, before other threads.
 * Threads: its own, see the parts.
 * Signals: SIGTERM and SIGINT end it: no new work, migrations that can still be undone are
 *   cancelled (their source runs on), the others are waited for. SIGHUP is ignored by a private
 *   agent.
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_AGENT_H
#define GODWIT_AGENT_AGENT_H

#include "agent/options.h"
#include "engine/migration.h"

#define GW_STOP_TIMEOUT_MS  30000 /* for migrations that cannot be cancelled any more */
#define GW_RECOVER_EVERY_MS 3000
#define GW_PRIVATE_IDLE_MS  5000 /* a private agent with nothing to do ends after this */

/* options are completed (state, limits); lent. */
enum gw_exit gw_agent_run(struct gw_agent_options *options);

#endif
