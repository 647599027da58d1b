/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parts: an unfinished image on this host, the journal beside it, and how a later attempt takes both
 * over. The same for the target of a move, of a copy from another host, and of a copy on this one.
 *
 * An entry is what a note of partial.h has in "disks": "volume" (its number in the offer), "name",
 * "path" (the final one), "part" ("" for a block device, which is written as it is), "journal", "epoch" (of the
 * attempt that began it, which is in both names; a later one that goes on with it leaves them), "folder" (which
 * folder they are in); once the image is complete and only lacks its name, "file" (which file it is, and when it was
 * changed).
 *
 * Away: a file whose folder is not the one that it was in, since its file system is not mounted, is not gone. It is
 * neither made anew nor forgotten. Nor is one forgotten that can be seen and not removed.
 *
 * Errors: 0 or -errno with a message.
 * Threads: one per image.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_PARTS_H
#define GODWIT_ENGINE_SESSION_PARTS_H

#include <sys/stat.h>

#include "engine/migration.h"
#include "engine/session/offer.h"
#include "engine/volume/checkpoint.h"

#define GW_PART_REASON_MAX 256u

/* What a copy to path that was begun by that epoch is called until it is finished; -EILSEQ when that is not UTF-8
 * text. The journal of a block device lies in the state folder. */
int gw_part_entry_new(const struct gw_environment *environment, const char *epoch, unsigned volume,
                      const struct gw_offered_volume *offered, const char *path, json_t **out);
/* The epoch in its names; that of its note, which is given, in one of an older godwit. Lent by either. */
const char *gw_part_epoch(const json_t *entry, const char *epoch);
/* The entry of the same image in the older note's list; NULL when there is none. */
json_t *gw_part_find(json_t *disks, unsigned volume, const char *name, const char *path);

/* What tells the file at path from every other, or JSON null when it is no regular file. The caller
 * decrefs. */
json_t *gw_part_identity(const char *path);
/* Is what identity found the file that it found earlier, maybe before this host was started again? */
bool gw_part_is_same(const json_t *found, const json_t *recorded);

/* What tells a folder from every other one at its path, the place of a mount among them, whatever number its
 * device has today: that of the folder that path lies in. null when there is none. */
json_t *gw_part_folder(const char *path);
/* Is a file there that was made in that folder? -ENOENT: it is gone. -ENOMEDIUM: it is away; the message says
 * which folder, and that it may have to be mounted. */
int gw_part_look(const char *path, const json_t *folder);
/* -ENOMEDIUM with a message: a file that can be seen lies in a folder that takes no change, of a file system that is
 * read-only say. */
int gw_part_check_removable(const char *path);
/* -ENOMEDIUM: the unfinished image of the entry, or its device, is away, not where its journal, or the finished
 * image, can be seen; or it is there and can be neither written nor removed. */
int gw_part_check_here(const json_t *entry);

/* Before the first of them gets its final name: which file each image of a note's "disks" is. */
void gw_part_note_finished(json_t *disks);
/* Is there an unfinished image, under its own name? Not of a device, which has none. */
bool gw_part_is_seen(const json_t *entry);
/* Has the noted file its final name, unchanged? */
bool gw_part_is_finished(const json_t *entry);
/* May the image of the older entry be gone on with as offered? Then *durable is what its journal says; of one that is
 * finished, all of it. Else *durable is 0, and why goes into reason. */
void gw_part_check(const json_t *entry, const struct gw_offered_volume *offered, uint64_t *durable,
                   char reason[GW_PART_REASON_MAX]);
/* -EEXIST: something has its final name that is not known to be the finished image, or is not as offered. No file under
 * a final name is written. older may be NULL. */
int gw_part_refuse_unknown(const json_t *older, const struct gw_offered_volume *offered);
/* How much the file takes: it is there already. */
uint64_t gw_part_allocated(const json_t *entry);
/* After a sync of the image: that much of the disk, from its start, is durable. Of one that is finished nothing is
 * noted any more. */
int gw_part_note(const json_t *entry, const struct gw_offered_volume *offered, uint64_t durable);
uint64_t gw_part_durable(const json_t *entry); /* as the journal says; 0 when it says nothing */
/* The journal alone, of an image that is finished; or the image too. epoch: of the note, as above.
 * -errno with a message: what is to go is still there. */
void gw_part_end(const json_t *entry);
int gw_part_unlink(const json_t *entry, const char *epoch);
/* What was unlinked stays so: before the note goes that names it. Nothing to do where its folder went, too. */
int gw_part_sync(const json_t *entry);
/* The finished image, if it is the noted file, unchanged, and has no other name. */
int gw_part_unlink_finished(const json_t *entry);

/* What tells the content of a file from every other, as text, for gw_offered_volume.source. */
void gw_part_source(const char *path, const char *format, char *out, size_t size);

#endif
