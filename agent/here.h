/* SPDX-License-Identifier: Apache-2.0 */
/*
 * here: a copy that runs in this process, without an agent: for godwit copy and for programs that
 * embed godwit. It moves no VM; what it notes of unfinished copies, when it is asked to, several
 * processes share.
 *
 * Errors: 0 when it ran, however it ended (see the result); -errno with a message when it could
 *   not start.
 * Threads: blocks the caller, who gets the ticks; the copy runs on a thread that inherits the
 *   caller's signal mask.
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_HERE_H
#define GODWIT_AGENT_HERE_H

#include <limits.h>

#include "agent/run.h"

#define GW_HERE_TICK_MS 200

struct gw_here_options {
    json_t *request;             /* as in docs/admin-protocol.md; lent */
    const char *const *settings; /* options of transports, as gw_transports_wanted; lent */
    unsigned setting_count;
    bool keeps; /* an unfinished copy is noted in the state home, to be gone on with */
    /* Called about every GW_HERE_TICK_MS; not 0 cancels the copy (and ticks go on until it has
     * ended). */
    int (*tick)(const struct gw_progress_data *data, void *context);
    void *context;
};

/* What the state home has of copies that ran here: an environment that can look at them and remove
 * them. -ENOENT when there is none; else the caller closes. */
struct gw_here_state {
    struct gw_environment environment;
    char folder[PATH_MAX];
};
int gw_here_state_open(struct gw_here_state *out);
void gw_here_state_close(struct gw_here_state *state);

/* last is the final snapshot. The caller frees the result. */
int gw_here_run(const struct gw_here_options *options, struct gw_result *out,
                struct gw_progress_data *last);

#endif
