/* SPDX-License-Identifier: Apache-2.0 */
/*
 * folder: names that are to outlive a loss of power.
 *
 * Errors: 0 or -errno with a message.
 * Threads: any.
 */
#ifndef GODWIT_COMMON_FOLDER_H
#define GODWIT_COMMON_FOLDER_H

/* The folder that path lies in is synced: a file made, renamed or removed there is so durably. */
int gw_folder_sync_of(const char *path);
/* from gets the name to, both relative to folder_fd (AT_FDCWD: to where we are), without a sync and without a message.
 * Never in place of a file that was there: -EEXIST. A file system that knows no such rename (NFS, CephFS, 9p and FUSE
 * answer EINVAL) has the file linked under its new name first; one that has no links either has the new name taken by
 * an empty file first. A crash can leave both names on the file, which a second call ends, or that empty file. */
int gw_folder_rename(int folder_fd, const char *from, const char *to);

#endif
