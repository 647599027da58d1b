/* SPDX-License-Identifier: Apache-2.0 */
/*
 * summary: how a migration ended, for a person (standard output; failures on standard error) or as
 * the one JSON object of --json. Keys of the object are documented in docs/admin-protocol.md.
 * Errors: none.
 * Threads: one.
 * Units: as the engine's detail says.
 */
#ifndef GODWIT_CLI_SUMMARY_H
#define GODWIT_CLI_SUMMARY_H

#include "engine/migration.h"

struct gw_summary {
    const char *command;
    const char *job; /* NULL: it ran in this process */
    enum gw_exit exit_code;
    const char *message;                     /* what failed; NULL or "" when nothing did */
    const json_t *detail;                    /* may be NULL */
    const struct gw_progress_data *progress; /* may be NULL */
};

void gw_summary_print(const struct gw_summary *summary, bool is_json);

#endif
