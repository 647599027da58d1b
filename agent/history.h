/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history: what this host has migrated, in an SQLite database of its own. It is a memory for
 * people; nothing is decided by it (that is the journal's part), so it may lose its last line in a
 * power cut.
 *
 * Errors: 0 or -errno with a message that names the file.
 * Threads: any; a lock inside (leaf).
 * Units: wall-clock nanoseconds since 1970. At most GW_HISTORY_MAX rows are kept, the newest.
 */
#ifndef GODWIT_AGENT_HISTORY_H
#define GODWIT_AGENT_HISTORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define GW_HISTORY_MAX 1000u

struct gw_history_entry {
    const char *id, *kind, *what, *peer;
    const char *state; /* queued, running, ended, interrupted */
    const char *message;
    int exit_code;
    const json_t *detail; /* may be NULL */
    uint64_t submitted_ns, ended_ns;
    long owner_pid;
};

struct gw_history;

/* Several processes may have the same file open. */
int gw_history_open(const char *path, struct gw_history **out);
void gw_history_close(struct gw_history *history);
/* Adds the entry, or replaces the one of the same id. */
int gw_history_put(struct gw_history *history, const struct gw_history_entry *entry);
/* How a migration ended that the history has as in doubt (its exit code is doubt_code) or interrupted. */
struct gw_history_end {
    const char *epoch; /* member of the entry's detail */
    const char *kind, *message;
    int exit_code, doubt_code;
    uint64_t ended_ns;
};
/* The entry, if there is one, has ended with that code; the message is added to its own. */
int gw_history_settle(struct gw_history *history, const struct gw_history_end *end);
/* Entries that were queued or running for a process that is gone become interrupted. is_alone:
 * nobody else uses the file, so all of them do, whatever process has the old number now. */
int gw_history_interrupt(struct gw_history *history, bool is_alone, int *count);
/* The newest limit entries, newest first, as an array; the caller decrefs. */
int gw_history_list(struct gw_history *history, unsigned limit, json_t **out);

#endif
