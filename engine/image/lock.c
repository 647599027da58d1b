/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's image locks: one byte of the file for each permission that a process uses, and one for
 * each that it does not share, held as open-file-description read locks. Shared locks never exclude
 * one another; each side takes its own bytes first and then looks for a contradicting one. Nothing
 * here depends on what is in the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "common/error.h"
#include "engine/image/file.h"

/* Source: QEMU, block/file-posix.c (RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE) and the BLK_PERM_
 * bits of its block layer. Offsets in bytes from the start of the file. */
#define USED_BASE     100
#define UNSHARED_BASE 200

enum permission { PERMISSION_READ = 0, PERMISSION_WRITE = 1, PERMISSION_RESIZE = 3 };

#define BIT(permission) (1u << (permission))
#define CHANGES         (BIT(PERMISSION_WRITE) | BIT(PERMISSION_RESIZE))

static int take(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

static bool is_held_by_other(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool gw_image_is_locked_to_write(int fd)
{
    return is_held_by_other(fd, USED_BASE + PERMISSION_WRITE);
}

static int take_all(int fd, unsigned used, unsigned unshared)
{
    int rc = 0;

    for (int i = 0; i < 4 && rc == 0; i++) {
        if (used & (1u << i))
            rc = take(fd, USED_BASE + i);
        if (rc == 0 && (unshared & (1u << i)))
            rc = take(fd, UNSHARED_BASE + i);
    }
    return rc;
}

/* The bytes, without a look at whom they contradict. *has_locks is false where there are none: QEMU goes on
 * without them too. */
static int take_own(int fd, const char *path, unsigned used, unsigned unshared, bool *has_locks)
{
    int rc = take_all(fd, used, unshared);

    /* No locks on this file system or kernel. */
    *has_locks = rc != -EINVAL && rc != -ENOLCK && rc != -EOPNOTSUPP && rc != -ENOSYS;
    if (rc && *has_locks)
        return gw_fail(
            -EBUSY, "%s is locked by another process; end the program that uses it and try again",
            path);
    return 0;
}

int gw_image_keep_off(int fd, const char *path, bool is_in_use)
{
    bool has_locks;
    int rc = take_own(fd, path, 0, CHANGES, &has_locks);

    if (!rc && has_locks && !is_in_use && gw_image_is_locked_to_write(fd))
        rc = gw_fail(-EBUSY, "%s is open for writing in another process", path);
    return rc;
}

int gw_image_lock(int fd, const char *path, bool is_writer)
{
    unsigned used = BIT(PERMISSION_READ) | (is_writer ? CHANGES : 0);
    unsigned unshared = CHANGES;
    bool has_locks;
    int rc = take_own(fd, path, used, unshared, &has_locks);

    if (rc || !has_locks)
        return rc;
    for (int i = 0; i < 4; i++) {
        if ((unshared & (1u << i)) && is_held_by_other(fd, USED_BASE + i))
            return gw_fail(-EBUSY,
                           "%s is open for writing in another process (QEMU's image lock is held): "
                           "move a running VM with 'godwit move', or stop the program that uses it",
                           path);
        if ((used & (1u << i)) && is_held_by_other(fd, UNSHARED_BASE + i))
            return gw_fail(-EBUSY,
                           "%s is in use by another process (QEMU's image lock is held) that does "
                           "not share it: stop the program that uses it",
                           path);
    }
    return 0;
}
