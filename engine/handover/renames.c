/* SPDX-License-Identifier: Apache-2.0 */
/* Renames that may be repeated, with a sync of the folder. It keeps no list of what it renamed. */
#include "engine/handover/renames.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "common/folder.h"

int gw_rename_name(const char *path, const char *epoch, char *out, size_t size)
{
    const char *base = strrchr(path, '/');
    const int length = snprintf(out, size, "%s.godwit-%s", path, epoch);
    const size_t folder = base == NULL ? 0 : (size_t)(base - path) + 1;

    if (length < 0 || (size_t)length >= size || (size_t)length - folder > NAME_MAX)
        return gw_fail(-ENAMETOOLONG, "rename: %s: the name with .godwit-%s is too long", path,
                       epoch);
    return 0;
}

bool gw_rename_is_device(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && S_ISBLK(status.st_mode);
}

/* The folder of path, opened; its name within. */
static int open_folder(const char *path, char *name, size_t size)
{
    char copy[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const char *base = slash == NULL ? path : slash + 1;
    int fd;

    if (strlen(path) >= sizeof(copy) || strlen(base) >= size || *base == '\0')
        return gw_fail(-EINVAL, "rename: %s: is not the path of a file", path);
    strcpy(name, base);
    strcpy(copy, path);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return gw_fail_errno(-errno, "rename: %s: cannot open its folder", path);
    return fd;
}

static bool exists(int folder_fd, const char *name)
{
    struct stat status;

    return fstatat(folder_fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

static int sync_folder(int folder_fd, const char *path)
{
    if (fsync(folder_fd) != 0)
        return gw_fail_errno(-errno, "rename: %s: cannot sync its folder", path);
    return 0;
}

int gw_rename_sync(const char *path)
{
    char name[NAME_MAX + 1];
    int error, folder_fd = open_folder(path, name, sizeof(name));

    if (folder_fd < 0)
        return folder_fd;
    error = sync_folder(folder_fd, path);
    close(folder_fd);
    return error;
}

int gw_rename_file(const char *from, const char *to)
{
    char old_name[NAME_MAX + 1], new_name[NAME_MAX + 1];
    const char *slash = strrchr(from, '/');
    const size_t folder = slash == NULL ? 0 : (size_t)(slash - from) + 1;
    int folder_fd, error;

    if (strncmp(from, to, folder) != 0 || strchr(to + folder, '/') != NULL || to[folder] == '\0' ||
        strlen(to + folder) > NAME_MAX)
        return gw_fail(-EINVAL, "rename: %s and %s are not names in one folder", from, to);
    folder_fd = open_folder(from, old_name, sizeof(old_name));
    if (folder_fd < 0)
        return folder_fd;
    strcpy(new_name, to + folder);
    error = gw_folder_rename(folder_fd, old_name, new_name);
    if (error == -ENOENT && exists(folder_fd, new_name))
        error = 0;
    if (error != 0)
        gw_fail_errno(error, "rename: %s to %s", from, new_name);
    else
        error = sync_folder(folder_fd, from);
    close(folder_fd);
    return error;
}
