/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover: one move taken up from the journal, by itself or with a person's word.
 * Errors: that the journal cannot be read; what failed of the move is in gw_recovered.cause, and the state says
 *   what counts.
 * Order: the caller attends the move (attended.h); what it knew of it before may have changed since.
 * Threads: any that attends the move; blocks for some seconds.
 */
#ifndef GODWIT_ENGINE_SESSION_RECOVER_H
#define GODWIT_ENGINE_SESSION_RECOVER_H

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/migration.h"

struct gw_recovered {
    enum gw_handover_state state; /* NONE: it could not be taken up */
    bool is_contradicted;
    struct gw_error cause;
};

/* person: GW_EVENT_RESOLVE_SOURCE or _TARGET, or GW_EVENT_COUNT for nobody's word. The other host is
 * asked first where it can be reached; a word that is not expected then changes nothing. */
int gw_recover_entry(const struct gw_environment *environment, const char *epoch,
                     enum gw_journal_side side, enum gw_handover_event person,
                     struct gw_recovered *out);

/* -ENOMEDIUM with a message: a move that will never run here is to be removed, and waits for files that are away
 * (parts.h). */
int gw_recover_check_here(const struct gw_journal_entry *entry);
/* A person's word for such a move: it is settled without them, and they stay wherever they are. -ENOENT when there
 * is none that waits to be removed. */
int gw_recover_give_up(const struct gw_environment *environment, const char *epoch);

#endif
