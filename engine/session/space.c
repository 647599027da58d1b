/* SPDX-License-Identifier: Apache-2.0 */
/* Free space by statvfs(3) and quotactl(2), the largest file by trying it on one that has no name. */
#include "engine/session/space.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"

#define QUOTA_BLOCK 1024u /* bytes of a unit of dqb_bhardlimit */
#define PROJECT_QUOTA                                                                              \
    2 /* PRJQUOTA of linux/quota.h, whose other names clash with the C library's */

/* What a quota leaves; UINT64_MAX where there is none, or none that can be asked. */
static uint64_t quota_left(int folder, int type, unsigned id)
{
    struct dqblk quota = {0};
    uint64_t limit;

    if (syscall(SYS_quotactl_fd, folder, QCMD(Q_GETQUOTA, type), id, &quota) ||
        quota.dqb_bhardlimit == 0 || quota.dqb_bhardlimit > UINT64_MAX / QUOTA_BLOCK)
        return UINT64_MAX;
    limit = quota.dqb_bhardlimit * QUOTA_BLOCK;
    return limit > quota.dqb_curspace ? limit - quota.dqb_curspace : 0;
}

/* Root may go beyond every quota. */
static uint64_t quotas_left(int folder)
{
    struct fsxattr attributes;
    uint64_t left;

    if (geteuid() == 0)
        return UINT64_MAX;
    left = gw_min(quota_left(folder, USRQUOTA, geteuid()), quota_left(folder, GRPQUOTA, getegid()));
    if (ioctl(folder, FS_IOC_FSGETXATTR, &attributes) == 0 && attributes.fsx_projid)
        left = gw_min(left, quota_left(folder, PROJECT_QUOTA, attributes.fsx_projid));
    return left;
}

/* May a file of this process become that large there? The thread ignores or blocks SIGXFSZ. */
static bool may_have_size(int folder, uint64_t size)
{
    int fd = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    bool may;

    if (fd < 0)
        return true; /* not every file system can; the image itself will tell */
    may = size <= INT64_MAX && (ftruncate(fd, (off_t)size) == 0 || errno != EFBIG);
    close(fd);
    return may;
}

static struct gw_space_place *find_place(struct gw_space *space, dev_t device)
{
    for (unsigned i = 0; i < space->count; i++)
        if (space->places[i].device == device)
            return &space->places[i];
    space->places[space->count] = (struct gw_space_place){.device = device};
    return &space->places[space->count++];
}

static int check_file_size(int folder, const struct gw_offered_volume *offered, const char *path,
                           char *warning)
{
    if (may_have_size(folder, offered->size))
        return 0;
    /* The file of a thin image in a format grows only with what is in it. */
    if (offered->format != GW_IMAGE_RAW && !offered->is_fixed &&
        may_have_size(folder, offered->data_bytes)) {
        snprintf(warning, GW_SPACE_WARNING_MAX,
                 "%s: a file at %s may not become as large as the disk (%llu MiB): the guest will "
                 "see errors once it has written more than fits",
                 offered->name, path, (unsigned long long)(offered->size >> 20));
        return 0;
    }
    return gw_fail(-EFBIG,
                   "%s: a file at %s may not have the %llu MiB of the disk (file system, or ulimit "
                   "-f): choose another folder, or --format vhdx for a thin one",
                   offered->name, path, (unsigned long long)(offered->size >> 20));
}

static int check_room(const struct gw_space_place *place, const struct gw_offered_volume *offered,
                      const char *path, uint64_t available, char *warning)
{
    if (place->needed > available)
        return gw_fail(
            -ENOSPC,
            "%s and the disks before it need %llu MiB, but only %llu MiB are free at %s: "
            "free some, or choose another folder",
            offered->name, (unsigned long long)(place->needed >> 20),
            (unsigned long long)(available >> 20), path);
    if (place->grown > available && !warning[0])
        snprintf(warning, GW_SPACE_WARNING_MAX,
                 "%s: the thin disks at %s may grow to %llu MiB, and %llu MiB are free: the guest "
                 "will see errors when it fills up",
                 offered->name, path, (unsigned long long)(place->grown >> 20),
                 (unsigned long long)(available >> 20));
    return 0;
}

static int add_file(struct gw_space *space, const struct gw_offered_volume *offered,
                    const char *path, int folder, char *warning)
{
    struct gw_space_place *place;
    struct statvfs free_space;
    struct stat info;
    uint64_t available, needed;
    int error;

    if (fstat(folder, &info) || fstatvfs(folder, &free_space))
        return gw_fail_errno(-errno, "free space for %s", path);
    error = check_file_size(folder, offered, path, warning);
    if (error)
        return error;
    available = gw_min((uint64_t)free_space.f_bavail * free_space.f_frsize, quotas_left(folder));
    place = find_place(space, info.st_dev);
    needed = offered->is_fixed ? offered->size : offered->data_bytes;
    place->needed += needed - gw_min(needed, offered->already_bytes);
    place->grown += offered->size - gw_min(offered->size, offered->already_bytes);
    return check_room(place, offered, path, available, warning);
}

int gw_space_add(struct gw_space *space, const struct gw_offered_volume *offered, const char *path,
                 char *warning)
{
    char copy[PATH_MAX];
    struct stat info;
    int folder, error;

    warning[0] = '\0';
    /* A device has the room that it has; its size is checked when it is opened. */
    if (stat(path, &info) == 0 && S_ISBLK(info.st_mode))
        return 0;
    snprintf(copy, sizeof(copy), "%s", path);
    folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return gw_fail_errno(-errno, "the folder of %s", path);
    error = add_file(space, offered, path, folder, warning);
    close(folder);
    return error;
}
