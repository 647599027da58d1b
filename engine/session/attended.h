/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attended: the moves that this process has in hand, by epoch and side. A recovery, or a new
 * session about an old move, leaves them to whoever has them.
 * Errors: -EBUSY when somebody has it; -ENOMEM.
 * Threads: any; one lock (leaf).
 * Units: seconds.
 */
#ifndef GODWIT_ENGINE_SESSION_ATTENDED_H
#define GODWIT_ENGINE_SESSION_ATTENDED_H

#include "engine/migration.h"

#define GW_PATIENCE_CALLS 20u /* of gw_attended_is_due, one each GW_RECOVER_EVERY_MS */

int gw_attend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side);
/* As attend, and waits that long for whoever has it. */
int gw_attend_soon(struct gw_attended *attended, const char *epoch, enum gw_journal_side side,
                   unsigned timeout_s);
void gw_unattend(struct gw_attended *attended, const char *epoch, enum gw_journal_side side);

/* Recovery looks at everything once more: what it did not ask about in its last round is new to it again. */
void gw_attended_begin_round(struct gw_attended *attended);
/* Is it time for recovery to ask the other host about this move? Once in a round: always at first, then once
 * in GW_PATIENCE_CALLS rounds. */
bool gw_attended_is_due(struct gw_attended *attended, const char *epoch, enum gw_journal_side side);

#endif
