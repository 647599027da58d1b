/* SPDX-License-Identifier: Apache-2.0 */
/*
 * journal: what a host promised about a migration, durable before it is said. Its own SQLite
 * database: WAL, synchronous=FULL, never on tmpfs, no checkpoint in the pause.
 *
 * Errors: 0 or -errno with a message that names the file: -EBUSY (another process holds it),
 *   -ENOSPC, -EROFS, -EACCES, -EUCLEAN (damaged), -EIO. A record that could not be made durable is an
 *   error, and the promise must not be made; it may be on the disk all the same, so the opposite
 *   must not be assumed either. The first that fails is logged, and the first that succeeds again.
 * Threads: any; a lock inside (leaf).
 */
#ifndef GODWIT_ENGINE_HANDOVER_JOURNAL_H
#define GODWIT_ENGINE_HANDOVER_JOURNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define GW_EPOCH_TEXT_MAX 40u
/* Member of detail: true while the other host says the opposite of what this one was told. */
#define GW_CONTRADICTED "contradicted"

enum gw_journal_side { GW_SIDE_SOURCE, GW_SIDE_TARGET };

/* One migration as the journal knows it. */
struct gw_journal_entry {
    char epoch[GW_EPOCH_TEXT_MAX]; /* hex of the migration id */
    enum gw_journal_side side;
    char state[24]; /* a state name of handover.h */
    uint8_t peer_instance[16];
    json_t *detail; /* what recovery needs: peer, qmp path, renames, node options */
};

struct gw_journal;

/* Creates the file (mode 0600) when it is missing. -ENOTSUP on tmpfs unless allow_volatile (tests).
 */
int gw_journal_open(const char *path, bool allow_volatile, struct gw_journal **out);
void gw_journal_close(struct gw_journal *journal);
/* Durable when it returns (PREPARED outlives the agent only, see gw_handover_needs_sync). A state of
 * the same epoch and side replaces the older one; the history of states with their times is kept. */
int gw_journal_record(struct gw_journal *journal, const struct gw_journal_entry *entry);
/* Could the newest record not be made? Then why. */
bool gw_journal_is_failing(struct gw_journal *journal, struct gw_error *out);
/* From now on recorded(context, entry) is called behind each record that succeeded, on the thread that
 * made it, some of them in the pause of a move. It may use the journal. Before any other thread. */
void gw_journal_watch(struct gw_journal *journal,
                      void (*recorded)(void *context, const struct gw_journal_entry *entry),
                      void *context);
/* -ENOENT. The caller frees with gw_journal_entry_free. */
int gw_journal_find(struct gw_journal *journal, const char *epoch, enum gw_journal_side side,
                    struct gw_journal_entry *out);
/* The epoch that begins with these hex digits. -ENOENT; -ENOTUNIQ when several do. */
int gw_journal_complete(struct gw_journal *journal, const char *start, enum gw_journal_side side,
                        char epoch[GW_EPOCH_TEXT_MAX]);
/* Takes NULL; the entry itself is the caller's. */
void gw_journal_entry_free(struct gw_journal_entry *entry);
/* Not ended (see gw_handover_is_ended), or contradicted. */
bool gw_journal_entry_is_open(const struct gw_journal_entry *entry);
/* Calls each for every entry that is open as it is when this begins, oldest
 * change first. Stops when it returns not 0, and returns that. each may use the journal. */
int gw_journal_each_open(struct gw_journal *journal,
                         int (*each)(const struct gw_journal_entry *entry, void *context),
                         void *context);
/* Every state that the migration was recorded in, oldest first: [{"state": ..., "at_ns": wall
 * time}]. The caller decrefs. */
int gw_journal_history(struct gw_journal *journal, const char *epoch, enum gw_journal_side side,
                       json_t **out);
/* Moves the write-ahead log into the database. Outside of pauses. */
int gw_journal_checkpoint(struct gw_journal *journal);

#endif
