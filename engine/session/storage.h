/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage: where a peer may put files. A path from a peer is resolved beneath one of the
 * configured folders only, following no link out of it.
 *
 * Errors: -EACCES for a path outside, -ENOENT for a folder that is missing, -EINVAL for what is no
 *   name; the message names the folders.
 * Threads: any.
 */
#ifndef GODWIT_ENGINE_SESSION_STORAGE_H
#define GODWIT_ENGINE_SESSION_STORAGE_H

#include <dirent.h>
#include <stddef.h>

#include "engine/migration.h"

/* An NBD URI stands for itself when it is one of those that the host lets peers write to.
 * Resolves wanted (absolute within a folder, or relative to the first one; "" or a folder keeps
 * default_name) into an absolute path in out (PATH_MAX bytes). The file itself need not exist; the
 * folder that holds it must. */
int gw_storage_resolve(const struct gw_environment *environment, const char *wanted,
                       const char *default_name, char *out);
/* A private folder, which the caller closes. NULL also for one that somebody else made there in the meantime: that is
 * theirs. */
DIR *gw_folder_open_own(const char *folder);
/* Removes a private folder of sockets, logs and the like, with what lies in it. A folder within keeps it. */
void gw_folder_remove(const char *folder);

#endif
