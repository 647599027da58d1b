/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dial: a new session with the target of a move of an earlier one, to ask or tell it something.
 * Errors: as gw_control_connect; -EACCES without a key.
 * Threads: any.
 */
#ifndef GODWIT_ENGINE_SESSION_DIAL_H
#define GODWIT_ENGINE_SESSION_DIAL_H

#include "engine/migration.h"

#define GW_DIAL_TIMEOUT_MS 3000

/* peer: ADDRESS:PORT as the journal has it, or NULL. The caller closes. */
int gw_dial_again(const struct gw_environment *environment, const char *peer,
                  struct gw_control **out);

#endif
