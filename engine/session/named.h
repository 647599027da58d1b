/* SPDX-License-Identifier: Apache-2.0 */
/*
 * named: which move or copy a person means, by the one rule of resume, cancel and resolve: the first digits of its
 * id, GW_NAMED_LEAST at least, or the name of its VM, of a copy its image, in full. Who finds that several are meant
 * asks for more digits.
 * Errors: -EINVAL with a message.
 * Threads: any.
 * Units: none.
 */
#ifndef GODWIT_ENGINE_SESSION_NAMED_H
#define GODWIT_ENGINE_SESSION_NAMED_H

#include <stdbool.h>

#define GW_NAMED_LEAST 4u

/* An empty word means none of them, and not any. */
int gw_named_check(const char *word);
/* epoch: of 32 hex digits; vm may be NULL. */
bool gw_named_is(const char *epoch, const char *vm, const char *word);

#endif
