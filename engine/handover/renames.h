/* SPDX-License-Identifier: Apache-2.0 */
/*
 * renames: an image out of the way and back, so that nobody starts a VM from it that another host
 * may run.
 *
 * Errors: -EEXIST when the new name is taken (nothing is ever overwritten), -ENOENT when the file
 *   has neither name, others from rename and fsync, with a message that names the file.
 * Order: all are idempotent: what has the new name already, and no longer the old one, is a
 *   success. The folder is synced before they return, in that case too.
 * Threads: any.
 * Units: bytes, for the size of a name.
 */
#ifndef GODWIT_ENGINE_HANDOVER_RENAMES_H
#define GODWIT_ENGINE_HANDOVER_RENAMES_H

#include <stdbool.h>
#include <stddef.h>

/* A block device has a name of the system's: it is neither renamed nor removed. */
bool gw_rename_is_device(const char *path);
/* "PATH.godwit-EPOCH" into out. -ENAMETOOLONG. */
int gw_rename_name(const char *path, const char *epoch, char *out, size_t size);
/* from to to in the same folder, never over an existing name. */
int gw_rename_file(const char *from, const char *to);
/* The name that path has now lasts: its folder is synced. */
int gw_rename_sync(const char *path);

#endif
