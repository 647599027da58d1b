/* SPDX-License-Identifier: Apache-2.0 */
/* How many descriptors a process has open (proc(5), fd), and two: good for comparing. 0 when it is gone, or not to be
 * looked into. */
#ifndef GODWIT_TESTS_DESCRIPTORS_H
#define GODWIT_TESTS_DESCRIPTORS_H

#include <dirent.h>
#include <stdio.h>
#include <sys/types.h>

static inline unsigned count_descriptors(pid_t pid)
{
    char path[64];
    unsigned count = 0;
    DIR *folder;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    folder = opendir(path);
    while (folder && readdir(folder))
        count++;
    if (folder)
        closedir(folder);
    return count;
}

#endif
