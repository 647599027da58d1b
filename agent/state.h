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
#include "engine/migration.h"

struct gw_state {
    char folder[PATH_MAX];
    uint8_t instance_id[GW_ID_SIZE];
    struct gw_journal *journal;
    int lock_fd;
};

/* The instance id kept in a folder, made when there is none. */
int gw_instance_load(const char *folder, uint8_t *id);
/* Creates what is missing. allow_volatile: a journal on tmpfs is accepted. */
int gw_state_open(const char *folder, bool allow_volatile, struct gw_state *out);
void gw_state_close(struct gw_state *state);
/* How many entries of the journal have not ended, or -errno. Migrations that run are among them. */
int gw_state_undecided(struct gw_state *state);
/* The entries that are in doubt, as gw_resolve_describe has them, with "is_in_doubt" true; the caller
 * decrefs. is_idle: no migration runs, so the other entries that have not ended are listed too: they
 * were left behind, and the agent settles them. */
json_t *gw_state_describe(struct gw_state *state, struct gw_attended *attended, bool is_idle);

#endif
