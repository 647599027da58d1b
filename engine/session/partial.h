/* SPDX-License-Identifier: Apache-2.0 */
/*
 * partial: what a migration that has not ended, a move or a copy, leaves on this host, each in a small file of its own,
 * STATE/partial/EPOCH.source or EPOCH.target: so that a restarted agent removes it, or a later
 * attempt goes on from it. docs/handover.md, "Going on where it stopped".
 *
 * detail on the source: "kind" ("move", "copy"), "vm" (or the image's path), "peer" (empty for a copy
 *   on one host), "request" (what was asked), "disks" [{"name", "copied"}, or parts.h on one host];
 *   of a move also "qmp", "pid", "process" (process.h), "settings"
 * detail on the target: "kind", "vm" (or the image's name), "peer" (instance), "disks" (parts.h);
 *   of a move whose QEMU is being made also "run_dir", "ram_dir"; "made": both are its own; "pid", "process" (process.h)
 * on both "given-up": to be removed as soon as all of its parts can be looked at. What the journal knows of a
 *   move waits for them, too. "taken_from" [epochs]: see gw_partial_follow
 *
 * Errors: 0 or -errno with a message.
 * Threads: any; one writer per epoch and side.
 * Units: bytes; hours.
 */
#ifndef GODWIT_ENGINE_SESSION_PARTIAL_H
#define GODWIT_ENGINE_SESSION_PARTIAL_H

#include "engine/migration.h"

struct gw_qmp;

/* Member of a note, and of an ABORT: somebody cancelled it, so that finished files of a chain that lacks others go as
 * well when it is dropped. Else nobody asked for it, and somebody may use them. */
#define GW_TAKES_FINISHED "takes-finished"

struct gw_partial {
    char epoch[GW_EPOCH_TEXT_MAX];
    enum gw_journal_side side;
    bool is_kept; /* a later attempt may go on from it; else it only is to be removed */
    uint64_t changed_ns;
    json_t *detail;
};

/* Durable when it returns. Sets changed_ns. Without a state folder nothing is done. */
int gw_partial_write(const struct gw_environment *environment, struct gw_partial *partial);
/* -ENOENT. The caller frees. */
int gw_partial_read(const struct gw_environment *environment, const char *epoch,
                    enum gw_journal_side side, struct gw_partial *out);
void gw_partial_free(struct gw_partial *partial); /* takes zeroed memory too */
/* May a later attempt go on from it? True also where that cannot be read this moment. */
bool gw_partial_is_kept(const struct gw_environment *environment, const char *epoch,
                        enum gw_journal_side side);
/* The note, and the journals of its images, which are finished or another note's. */
void gw_partial_forget(const struct gw_environment *environment, const char *epoch,
                       enum gw_journal_side side);
/* A note that is damaged for good, named by its digits (named.h): it goes, and the log says which files it may have
 * stood for. -ENOENT; -EINVAL when several are meant; -EBUSY. */
int gw_partial_forget_damaged(const struct gw_environment *environment, const char *word);
/* Before the first of a kept copy's images gets its final name: which files they are. Durable when it returns; a failure
 * is logged, and costs that a loss from here on cannot be gone on with. */
void gw_partial_note_finished(const struct gw_environment *environment, struct gw_partial *partial);
/* Stops when each returns not 0, and returns that. What cannot be read is passed over. */
int gw_partial_each(const struct gw_environment *environment,
                    int (*each)(const struct gw_partial *partial, void *context), void *context);

/* -ENOMEDIUM with a message: some of its parts are away (parts.h). */
int gw_partial_check_here(const struct gw_partial *partial);
/* It is only to be removed, and waits for its parts. */
bool gw_partial_is_given_up(const struct gw_partial *partial);
/* A person may want to know of it: it is kept, or waits for its parts. */
bool gw_partial_is_of_note(const struct gw_partial *partial);

/* An attempt that goes on with an earlier one leaves its files their names, and both notes stand for them until
 * replace has removed the earlier one. Until then the later one is provisional: the files are the earlier one's, so
 * nothing is lost or left with an attempt that dies or fails meanwhile. (partial-follow.c) */

/* Before partial is first written. asked: as the source knows older, which need not have heard of an attempt that has
 * replaced it. -ENOMEM. */
int gw_partial_follow(struct gw_partial *partial, const struct gw_partial *older,
                      const char *asked);
bool gw_partial_is_provisional(const struct gw_environment *environment,
                               const struct gw_partial *partial);
/* The one that has replaced that epoch. -ENOENT. The caller frees. */
int gw_partial_find_follower(const struct gw_environment *environment, const char *epoch,
                             enum gw_journal_side side, struct gw_partial *out);
/* Does any attempt here go on with that epoch, whether it has replaced it yet or not? */
bool gw_partial_is_followed(const struct gw_environment *environment, const char *epoch,
                            enum gw_journal_side side);
/* later, which follows older and is written, has its files from now on; what it does not go on with is removed. Durable
 * when it returns 0. *is_replaced: they are later's, also where that could not be made durable: a loss of power may make
 * them older's again. */
int gw_partial_replace(const struct gw_environment *environment, const struct gw_partial *older,
                       const struct gw_partial *later, bool *is_replaced);
/* Takes the files that are an earlier attempt's out of a provisional note, in memory alone. True when it was one. */
bool gw_partial_give_back(const struct gw_environment *environment, struct gw_partial *partial);
/* Of an attempt that nobody has in hand: what died while it began to go on with it goes first. */
void gw_partial_drop_followers(const struct gw_environment *environment,
                               const struct gw_partial *partial);
/* For replace: the note alone, durably. *is_gone: also where the sync failed. */
int gw_partial_unlink(const struct gw_environment *environment, const struct gw_partial *partial,
                      bool *is_gone);

/* What a note stands for in a QEMU. (partial-vmm.c) */

/* The folder for the socket of QEMU's NBD server, of a move at its source: its name comes from the epoch, so
 * that the note is enough to find it. out has GW_PARTIAL_SOCKETS_MAX bytes. */
#define GW_PARTIAL_SOCKETS_MAX 32u
void gw_partial_sockets(const char *epoch, char *out);
/* Takes what that move's trackers left in QEMU out of it (gw_disk_tracker_clean), and the folder away. */
int gw_partial_clean_vmm(struct gw_qmp *qmp, const char *epoch);
/* That folder, of a move's note at its source: what used it is gone. */
void gw_partial_remove_sockets(const struct gw_partial *partial);
/* A move's note at its source: takes what it left out of its QEMU. -errno while that lives and could not be cleaned, nor
 * its guard, which may be letting the guest go on, be dismissed. */
int gw_partial_clean_source(const struct gw_environment *environment,
                            const struct gw_partial *partial);
/* A move's note at its target: ends the QEMU of an offer that was never answered, which no journal knows, and removes its
 * folders. They have the epoch in their names. Fails with a message while that QEMU may run. */
int gw_partial_end_launched(const struct gw_partial *partial);

/* What it stands for goes too: the partial images, or godwit's bitmaps and settings in QEMU. Where parts are
 * away, all of that goes later. */
void gw_partial_drop(const struct gw_environment *environment, const struct gw_partial *partial);

/* As drop, and asks the other host to do the same, if it can be reached. */
void gw_partial_cancel(const struct gw_environment *environment, const struct gw_partial *partial);

/* Fails with that cause, and the way to go on. */
int gw_partial_say_kept(const struct gw_error *cause, const char *epoch);

/* The link or the other agent was lost, as opposed to what would fail again. */
bool gw_partial_is_loss(int error);

#endif
