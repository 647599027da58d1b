/* SPDX-License-Identifier: Apache-2.0 */
/* godwit guard: started by an agent, never by a person; see engine/handover/guard.h. */
#include "cli/command.h"
#include "engine/handover/guard.h"

int gw_command_guard(int argc, char **argv)
{
    return gw_guard_main(GW_GUARD_FD);
}
