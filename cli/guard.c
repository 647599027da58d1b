/* SPDX-License-Identifier: Apache-2.0 */
/* godwit guard: the process that lets a guest go on when its agent has died. Started by the engine with its
 * socket in place; of no use to a person, so help does not list it. */
#include "cli/command.h"
#include "engine/handover/guard.h"

int gw_command_guard(int argc, char **argv)
{
    return gw_guard_main(GW_GUARD_FD);
}
