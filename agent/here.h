/* SPDX-License-Identifier: Apache-2.0 */
/*
 * here: a copy that runs in this process, without an agent: for godwit copy and for programs that
 * embed godwit. It has no journal and no state.
 *
 * Errors: 0 when it ran, however it ended (see the result); -errno with a message when it could
 *   not start.
 * Threads: blocks the caller, who gets the ticks; the copy runs on a thread that inherits the
 *   caller's signal mask.
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_HERE_H
#define GODWIT_AGENT_HERE_H

#include "agent/run.h"

#define GW_HERE_TICK_MS 200

struct gw_here_options {
    json_t *request;             /* as in docs/admin-protocol.md; lent */
    const char *const *settings; /* options of transports, as gw_transports_wanted; lent */
    unsigned setting_count;
    /* Called about every GW_HERE_TICK_MS; not 0 cancels the copy (and ticks go on until it has
     * ended). */
    int (*tick)(const struct gw_progress_data *data, void *context);
    void *context;
};

/* last is the final snapshot. The caller frees the result. */
int gw_here_run(const struct gw_here_options *options, struct gw_result *out,
                struct gw_progress_data *last);

#endif
