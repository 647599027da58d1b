/* SPDX-License-Identifier: Apache-2.0 */
/* Writes one source entry into a journal, as a killed agent leaves it: JOURNAL EPOCH STATE. */
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/handover/journal.h"

int main(int argc, char **argv)
{
    struct gw_journal_entry entry = {.side = GW_SIDE_SOURCE};
    struct gw_journal *journal;
    int error;

    if (argc != 4)
        return 2;
    snprintf(entry.epoch, sizeof(entry.epoch), "%s", argv[2]);
    snprintf(entry.state, sizeof(entry.state), "%s", argv[3]);
    entry.detail = json_pack("{s:s}", "peer", "127.0.0.1:1");
    error = gw_journal_open(argv[1], true, &journal);
    if (!error) {
        error = gw_journal_record(journal, &entry);
        gw_journal_close(journal);
    }
    json_decref(entry.detail);
    if (error)
        fprintf(stderr, "%s\n", gw_error_message());
    return error ? 1 : 0;
}
