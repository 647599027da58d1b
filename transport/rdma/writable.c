/* SPDX-License-Identifier: Apache-2.0 */
/* Before Linux 6.2 the kernel pins memory for writing whatever the device may do with it, and
 * refuses pages of a shared file that is mapped read-only. The same pages mapped once more, writable,
 * by the same process that may write the file, are what it takes; nothing ever writes to that mapping.
 */
#include "transport/rdma/writable.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/checked.h"

#define PAGE 4096u

/* One line of /proc/self/maps. */
struct mapping {
    uint64_t begin, end, offset, inode;
    unsigned major, minor;
    char flags[8];
    char path[512];
};

static bool parse(const char *line, struct mapping *out)
{
    int at = 0;

    memset(out, 0, sizeof(*out));
    if (sscanf(line, "%lx-%lx %7s %lx %x:%x %lu %n", &out->begin, &out->end, out->flags,
               &out->offset, &out->major, &out->minor, &out->inode, &at) < 7)
        return false;
    snprintf(out->path, sizeof(out->path), "%.*s", (int)strcspn(line + at, "\n"), line + at);
    return true;
}

/* The file of a mapping, for writing: by the kernel's own link (which needs CAP_CHECKPOINT_RESTORE)
 * or by its name, if that is still the same file. */
static int open_file(const struct mapping *mapping)
{
    char link[64];
    struct stat status;
    int fd;

    snprintf(link, sizeof(link), "/proc/self/map_files/%lx-%lx", mapping->begin, mapping->end);
    fd = open(link, O_RDWR | O_CLOEXEC);
    if (fd < 0 && mapping->path[0] == '/')
        fd = open(mapping->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) != 0 || status.st_ino != mapping->inode ||
        major(status.st_dev) != mapping->major || minor(status.st_dev) != mapping->minor) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

/* Maps the part of mapping that lies in [begin, end) at its place in the alias. */
static int map_part(const struct mapping *mapping, uint64_t begin, uint64_t end, char *alias)
{
    uint64_t from = gw_max(begin, mapping->begin), to = gw_min(end, mapping->end);
    int fd = open_file(mapping), error = 0;

    if (fd < 0)
        return fd;
    if (mmap(alias + (from - begin), to - from, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
             (off_t)(mapping->offset + (from - mapping->begin))) == MAP_FAILED)
        error = -errno;
    close(fd);
    return error;
}

static int map_parts(FILE *maps, uint64_t begin, uint64_t end, char *alias)
{
    uint64_t covered = begin;
    char line[1024];

    while (covered < end && fgets(line, sizeof(line), maps)) {
        struct mapping mapping;
        int error;

        if (!parse(line, &mapping) || mapping.end <= covered)
            continue;
        if (mapping.begin > covered || mapping.flags[3] != 's' || mapping.inode == 0)
            return -EFAULT; /* a gap, or pages that are no file's */
        error = map_part(&mapping, begin, end, alias);
        if (error)
            return error;
        covered = mapping.end;
    }
    return covered < end ? -EFAULT : 0;
}

int gw_rdma_map_writable(const void *memory, uint64_t length, void **alias, uint64_t *alias_size)
{
    uint64_t begin = gw_align_down((uintptr_t)memory, PAGE);
    uint64_t end = gw_align_up((uintptr_t)memory + length, PAGE);
    FILE *maps = fopen("/proc/self/maps", "re");
    int error = -ENOMEM;
    void *space;

    if (!maps)
        return -errno;
    space = mmap(NULL, end - begin, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space != MAP_FAILED)
        error = map_parts(maps, begin, end, space);
    fclose(maps);
    if (space != MAP_FAILED && error)
        munmap(space, end - begin);
    if (error)
        return error;
    *alias = space;
    *alias_size = end - begin;
    return 0;
}
