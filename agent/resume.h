/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resume: moves and copies that were lost and can be gone on with, by the name that a person gives
 * them.
 * Errors: -ENOENT when nothing of that name is kept here, -EINVAL when more than one is, -EBUSY when
 *   it is not settled yet.
 * Threads: any.
 */
#ifndef GODWIT_AGENT_RESUME_H
#define GODWIT_AGENT_RESUME_H

#include "engine/migration.h"

/* which: the first digits of an epoch, the name of a VM, the path of a copy's source, or NULL for the
 * only one. *out is the request of a move or a copy that goes on with it, as docs/admin-protocol.md has it; the caller decrefs. */
int gw_resume_request(const struct gw_environment *environment, const char *which, json_t **out);
/* Removes what is kept, here and, where it can be reached, on the other host. */
int gw_resume_cancel(const struct gw_environment *environment, const char *which);

#endif
