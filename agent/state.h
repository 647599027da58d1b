/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state: an agent's own folder: who it is (instance id), its journal and its lock. One agent has
 * it at a time.
 *
 * Errors: 0 or -errno with a message that names the path; -EBUSY when another agent has the
 *   folder.
 * Threads: one.
 * Units: none.
 */
#ifndef GODWIT_AGENT_STATE_H
#define GODWIT_AGENT_STATE_H

#include <limits.h>
#include <stdbool.h>

#include "engine/handover/journal.h"
#include "transport/link/control.h"

struct gw_state {
    char folder[PATH_MAX];
    uint8_t instance_id[GW_ID_SIZE];
    struct gw_journal *journal;
    int lock_fd;
};

/* Creates what is missing. allow_volatile: a journal on tmpfs is accepted. */
int gw_state_open(const char *folder, bool allow_volatile, struct gw_state *out);
void gw_state_close(struct gw_state *state);
/* How many entries of the journal have not ended, or -errno. Migrations that run are among them. */
int gw_state_undecided(struct gw_state *state);
/* The entries that are in doubt, for people, each with what one can do; the caller decrefs.
 * is_idle: no migration runs, so an entry in any state that has not ended is one that was left
 * behind. */
json_t *gw_state_describe(struct gw_state *state, bool is_idle);

#endif
