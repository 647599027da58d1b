/* SPDX-License-Identifier: Apache-2.0 */
/* Marks of block devices, from the kernel's own counters (Linux, Documentation/block/stat.rst). */
#include "engine/volume/device.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/error.h"

#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, uint64_t)
#endif
#define BOOT_ID_SIZE 37u /* with its end */

/* The first line of a small file; false when there is none. */
static bool read_line(const char *path, char *out, int size)
{
    FILE *file = fopen(path, "re");
    bool is_read = file && fgets(out, size, file);

    if (file)
        fclose(file);
    if (is_read)
        out[strcspn(out, "\n")] = '\0';
    return is_read;
}

/* A partition has the queue of its disk. */
static bool is_counted(const char *folder)
{
    char path[PATH_MAX], line[8];

    snprintf(path, sizeof(path), "%s/queue/iostats", folder);
    if (!read_line(path, line, sizeof(line))) {
        snprintf(path, sizeof(path), "%s/../queue/iostats", folder);
        if (!read_line(path, line, sizeof(line)))
            return false;
    }
    return strcmp(line, "1") == 0;
}

/* Sectors written, and those discarded. */
static bool read_counts(const char *folder, uint64_t *written, uint64_t *discarded)
{
    char path[PATH_MAX], line[512];

    snprintf(path, sizeof(path), "%s/stat", folder);
    return is_counted(folder) && read_line(path, line, sizeof(line)) &&
           sscanf(line, "%*u %*u %*u %*u %*u %*u %" SCNu64 " %*u %*u %*u %*u %*u %*u %" SCNu64,
                  written, discarded) == 2;
}

static int mark_open(int fd, const char *path, char out[GW_DEVICE_MARK_MAX])
{
    char folder[64], boot[BOOT_ID_SIZE];
    uint64_t sequence, written, discarded;
    struct stat info;

    if (fstat(fd, &info) || !S_ISBLK(info.st_mode))
        return gw_fail(-ENOTBLK, "%s is no block device", path);
    snprintf(folder, sizeof(folder), "/sys/dev/block/%u:%u", major(info.st_rdev),
             minor(info.st_rdev));
    if (ioctl(fd, BLKGETDISKSEQ, &sequence) ||
        !read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot)) ||
        !read_counts(folder, &written, &discarded))
        return gw_fail(-ENOTSUP, "this kernel does not tell how much is written to %s", path);
    snprintf(out, GW_DEVICE_MARK_MAX, "%s %u:%u %" PRIu64 " %" PRIu64 " %" PRIu64, boot,
             major(info.st_rdev), minor(info.st_rdev), sequence, written, discarded);
    return 0;
}

static int tell_mark(const char *path, bool is_synced, char out[GW_DEVICE_MARK_MAX])
{
    int error = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return gw_fail_errno(-errno, "cannot open %s", path);
    if (!is_synced && fsync(fd))
        error = gw_fail_errno(-errno, "cannot flush %s", path);
    if (!error)
        error = mark_open(fd, path, out);
    close(fd);
    return error;
}

int gw_device_mark(const char *path, char out[GW_DEVICE_MARK_MAX])
{
    return tell_mark(path, true, out);
}

int gw_device_check(const char *path, const char *wanted)
{
    char now[GW_DEVICE_MARK_MAX];
    /* What others wrote through the page cache is counted then. */
    int error = tell_mark(path, false, now);

    if (error || strcmp(now, wanted) == 0)
        return error;
    return gw_fail(-ESTALE, "%s is another device, or was written to since", path);
}
