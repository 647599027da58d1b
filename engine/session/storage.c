/* SPDX-License-Identifier: Apache-2.0 */
/* Resolves a peer's paths by real path, after every symbolic link, and compares with the folders.
 */
#include "engine/session/storage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "engine/volume/nbd.h"

static bool is_beneath(const char *path, const char *folder)
{
    size_t length = strlen(folder);

    while (length > 1 && folder[length - 1] == '/')
        length--;
    if (length == 1 && folder[0] == '/')
        return path[0] == '/';
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static bool is_name(const char *name)
{
    return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

static int refuse(const struct gw_environment *environment, const char *wanted)
{
    char folders[256] = "";

    for (unsigned i = 0; i < environment->storage_count; i++) {
        size_t used = strlen(folders);

        snprintf(folders + used, sizeof(folders) - used, "%s%s", i ? ", " : "",
                 environment->storage[i]);
    }
    return gw_fail(-EACCES,
                   "path '%s' is outside the storage folders of this host (%s): choose one "
                   "beneath them, or add a folder with --storage on the agent",
                   wanted, folders);
}

/* Splits into the folder, resolved, and the last name. */
static int resolve_folder(const char *path, char *folder, char *name)
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof(copy), "%s", path);
    if (snprintf(name, NAME_MAX + 1, "%s", basename(copy)) > NAME_MAX)
        return gw_fail(-ENAMETOOLONG, "the name '%.64s...' is too long", name);
    snprintf(copy, sizeof(copy), "%s", path);
    if (!realpath(dirname(copy), folder))
        return gw_fail_errno(-errno, "the folder of '%s'", path);
    return is_name(name) ? 0 : gw_fail(-EINVAL, "'%s' does not name a file", path);
}

/* An export is allowed by the very URI, since what stands in one decides what it means. */
static int resolve_uri(const struct gw_environment *environment, const char *wanted, char *out)
{
    for (unsigned i = 0; i < environment->storage_count; i++)
        if (strcmp(environment->storage[i], wanted) == 0 &&
            snprintf(out, PATH_MAX, "%s", wanted) < PATH_MAX)
            return 0;
    return gw_fail(-EACCES,
                   "this host lets nobody write to '%.256s': start its agent with --storage and "
                   "this URI",
                   wanted);
}

static const char *default_folder(const struct gw_environment *environment)
{
    for (unsigned i = 0; i < environment->storage_count; i++)
        if (!gw_nbd_is_uri(environment->storage[i]))
            return environment->storage[i];
    return NULL;
}

int gw_storage_resolve(const struct gw_environment *environment, const char *wanted,
                       const char *default_name, char *out)
{
    const char *default_root = default_folder(environment);
    char path[PATH_MAX], folder[PATH_MAX], name[NAME_MAX + 1], root[PATH_MAX];
    struct stat info;
    int length, error;

    if (gw_nbd_is_uri(wanted))
        return resolve_uri(environment, wanted, out);
    if (!default_root)
        return gw_fail(-EACCES, "this host has no storage folder: start its agent with --storage");
    length = wanted[0] == '/' ? snprintf(path, sizeof(path), "%s", wanted)
                              : snprintf(path, sizeof(path), "%s/%s", default_root, wanted);
    if (length >= (int)sizeof(path) - NAME_MAX - 1)
        return gw_fail(-ENAMETOOLONG, "path '%.64s...' is too long", wanted);
    if (!wanted[0] || path[strlen(path) - 1] == '/' ||
        (stat(path, &info) == 0 && S_ISDIR(info.st_mode))) {
        if (!is_name(default_name))
            return gw_fail(-EINVAL, "'%s' is no name for a file", default_name);
        length = (int)strlen(path);
        snprintf(path + length, sizeof(path) - (size_t)length, "/%s", default_name);
    }
    error = resolve_folder(path, folder, name);
    if (error)
        return error;
    for (unsigned i = 0; i < environment->storage_count; i++) {
        if (gw_nbd_is_uri(environment->storage[i]) || !realpath(environment->storage[i], root) ||
            !is_beneath(folder, root))
            continue;
        if (snprintf(out, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
            return gw_fail(-ENAMETOOLONG, "path '%.64s...' is too long", wanted);
        return 0;
    }
    return refuse(environment, wanted);
}

DIR *gw_folder_open_own(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;
    DIR *entries =
        fd >= 0 && fstat(fd, &status) == 0 && status.st_uid == geteuid() ? fdopendir(fd) : NULL;

    if (!entries && fd >= 0)
        close(fd);
    return entries;
}

void gw_folder_remove(const char *folder)
{
    DIR *entries = gw_folder_open_own(folder);
    const struct dirent *entry;

    while (entries && (entry = readdir(entries)) != NULL)
        if (entry->d_type != DT_DIR)
            unlinkat(dirfd(entries), entry->d_name, 0);
    if (!entries)
        return;
    closedir(entries);
    if (rmdir(folder) && errno != ENOENT)
        gw_log(GW_LOG_WARNING, "%s is not empty and stays", folder);
}
