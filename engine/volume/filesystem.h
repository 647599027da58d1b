/* SPDX-License-Identifier: Apache-2.0 */
/* What the file system beneath a file is like. Private to engine/volume. Threads: any. */
#ifndef GODWIT_ENGINE_VOLUME_FILESYSTEM_H
#define GODWIT_ENGINE_VOLUME_FILESYSTEM_H

#include <stdbool.h>
#include <sys/vfs.h>

#define GW_TMPFS_MAGIC     0x01021994ul
#define GW_RAMFS_MAGIC     0x858458f6ul
#define GW_HUGETLBFS_MAGIC 0x958458f6ul

static inline bool gw_is_memory_type(const struct statfs *info)
{
    unsigned long type = (unsigned long)info->f_type;

    return type == GW_TMPFS_MAGIC || type == GW_RAMFS_MAGIC || type == GW_HUGETLBFS_MAGIC;
}

/* True for tmpfs, ramfs and hugetlbfs: reads and writes are copies that never wait. */
static inline bool gw_is_memory_file(int fd)
{
    struct statfs info;

    return fstatfs(fd, &info) == 0 && gw_is_memory_type(&info);
}

static inline bool gw_is_memory_path(const char *path)
{
    struct statfs info;

    return statfs(path, &info) == 0 && gw_is_memory_type(&info);
}

#endif
