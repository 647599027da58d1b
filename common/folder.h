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

#endif
