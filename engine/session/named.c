/* SPDX-License-Identifier: Apache-2.0 */
/* A few digits are not enough: a VM may be called "1". */
#include "engine/session/named.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "common/error.h"

int gw_named_check(const char *word)
{
    return word && *word
               ? 0
               : gw_fail(-EINVAL, "an empty name means none: name a move by its VM, or by "
                                  "the digits that godwit status shows");
}

bool gw_named_is(const char *epoch, const char *vm, const char *word)
{
    size_t length = strlen(word);

    return (length >= GW_NAMED_LEAST && strncmp(epoch, word, length) == 0) ||
           (length > 0 && vm && strcmp(vm, word) == 0);
}
