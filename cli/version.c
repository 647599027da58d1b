/* SPDX-License-Identifier: Apache-2.0 */
/* godwit version: prints the version of the program. */
#include <stdio.h>

#include "cli/command.h"

int gw_command_version(int argc, char **argv)
{
    puts("godwit " GODWIT_VERSION);
    return GW_EXIT_DONE;
}
