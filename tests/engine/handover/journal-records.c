/* SPDX-License-Identifier: Apache-2.0 */
/* Eight records with a checkpoint between, each between two marks that strace sees. usage: PATH */
#include <stdio.h>
#include <unistd.h>

#include "engine/handover/journal.h"

int main(int argc, char **argv)
{
    struct gw_journal_entry entry = {.side = GW_SIDE_SOURCE, .state = "COPYING"};
    const int mark = dup(STDERR_FILENO);
    struct gw_journal *journal;
    int error = 0;

    if (argc != 2 || gw_journal_open(argv[1], true, &journal) != 0)
        return 1;
    for (int i = 0; i < 8 && error == 0; i++) {
        if (i == 4)
            error = gw_journal_checkpoint(journal);
        snprintf(entry.epoch, sizeof(entry.epoch), "e%d", i);
        if (error != 0 || write(mark, "begin\n", 6) != 6)
            break;
        error = gw_journal_record(journal, &entry);
        if (write(mark, "end\n", 4) != 4)
            break;
    }
    gw_journal_close(journal);
    return error == 0 ? 0 : 1;
}
