/* SPDX-License-Identifier: Apache-2.0 */
/* A module of another build: what it shares with the program has changed since. */
#include <stddef.h>

#include "transport/module-interface.h"
#include "transport/module.h"

extern const struct gw_module gw_module_verbs;
const struct gw_module gw_module_verbs = {
    .interface = GW_MODULE_INTERFACE + 1, .version = GODWIT_VERSION, .maker = NULL};
