/* SPDX-License-Identifier: Apache-2.0 */
/* Makes names durable (fsync(2): a file's own sync does not write the entry in its folder), and gives files names that
 * nobody has. */
#include "common/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"

int gw_folder_sync_of(const char *path)
{
    char copy[PATH_MAX];
    int fd, error = 0;

    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
        return gw_fail(-ENAMETOOLONG, "%.64s...: the name is too long", path);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        error = gw_fail_errno(-errno, "%s: cannot sync its folder", path);
    if (fd >= 0)
        close(fd);
    return error;
}

/* A rename by way of a link that was cut short, or whose answer got lost on the network, left both names on one file.
 */
static bool is_one_file(int folder_fd, const char *from, const char *to)
{
    struct stat a, b;

    return fstatat(folder_fd, from, &a, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(folder_fd, to, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino && a.st_nlink >= 2;
}

static int drop_name(int folder_fd, const char *name)
{
    return unlinkat(folder_fd, name, 0) == 0 ? 0 : -errno;
}

/* A plain rename, over an empty file that nobody else made. */
static int rename_over_claim(int folder_fd, const char *from, const char *to)
{
    int error, fd = openat(folder_fd, to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return -errno;
    close(fd);
    if (renameat(folder_fd, from, folder_fd, to) == 0)
        return 0;
    error = -errno;
    drop_name(folder_fd, to);
    return error;
}

static int rename_by_link(int folder_fd, const char *from, const char *to)
{
    int error;

    if (linkat(folder_fd, from, folder_fd, to, 0) != 0) {
        if (errno == EEXIST && is_one_file(folder_fd, from, to))
            return drop_name(folder_fd, from);
        /* EPERM: vfs_link of what has none; also of a file that is not ours (protected_hardlinks, proc(5)). */
        return errno == EPERM || errno == ENOSYS || errno == EOPNOTSUPP || errno == EMLINK
                   ? rename_over_claim(folder_fd, from, to)
                   : -errno;
    }
    error = drop_name(folder_fd, from);
    if (error)
        drop_name(folder_fd, to); /* whoever is told of the failure looks for the old one */
    return error;
}

int gw_folder_rename(int folder_fd, const char *from, const char *to)
{
    if (renameat2(folder_fd, from, folder_fd, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EEXIST && is_one_file(folder_fd, from, to))
        return drop_name(folder_fd, from);
    return errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP
               ? rename_by_link(folder_fd, from, to)
               : -errno;
}
