/* SPDX-License-Identifier: Apache-2.0 */
/* Names the places that agents and commands share, and makes their folders. */
#include "agent/paths.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"

static int print_path(char *out, size_t size, const char *folder, const char *name)
{
    int length = snprintf(out, size, "%s/%s", folder, name);

    if (length < 0 || (size_t)length >= size)
        return gw_fail(-ENAMETOOLONG, "path %s/%s is too long", folder, name);
    return 0;
}

int gw_path_join(const char *folder, const char *name, char *out, size_t size)
{
    return print_path(out, size, folder, name);
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

int gw_path_socket(unsigned which, char *out, size_t size)
{
    const char *folder = environment("XDG_RUNTIME_DIR");
    char name[64] = "godwit/" GW_SOCKET_NAME;
    char fallback[32];

    if (which)
        snprintf(name, sizeof(name), "godwit/agent-%llu.sock",
                 (unsigned long long)gw_network_namespace(getpid()));
    if (geteuid() == 0)
        return print_path(out, size, "/run", name);
    if (folder)
        return print_path(out, size, folder, name);
    snprintf(fallback, sizeof(fallback), "/run/user/%u", (unsigned)geteuid());
    return print_path(out, size, fallback, name);
}

int gw_path_state_home(char *out, size_t size)
{
    const char *chosen = environment("GODWIT_STATE_HOME");
    const char *xdg = environment("XDG_STATE_HOME");
    const char *home = environment("HOME");

    if (chosen) {
        if (strlen(chosen) >= size)
            return gw_fail(-ENAMETOOLONG, "GODWIT_STATE_HOME is too long");
        strcpy(out, chosen);
        return 0;
    }
    if (geteuid() == 0)
        return print_path(out, size, "/var/lib", "godwit");
    if (xdg)
        return print_path(out, size, xdg, "godwit");
    if (home)
        return print_path(out, size, home, ".local/state/godwit");
    return gw_fail(-ENOENT, "no place for state: set HOME or GODWIT_STATE_HOME");
}

int gw_path_absolute(const char *path, char *out, size_t size)
{
    char folder[PATH_MAX];

    if (path[0] == '/') {
        if (strlen(path) >= size)
            return gw_fail(-ENAMETOOLONG, "path %s is too long", path);
        strcpy(out, path);
        return 0;
    }
    if (!getcwd(folder, sizeof(folder)))
        return gw_fail_errno(-errno, "the working folder");
    return print_path(out, size, strcmp(folder, "/") == 0 ? "" : folder, path);
}

int gw_path_make_folder(const char *path)
{
    char part[PATH_MAX];
    struct stat status;
    size_t length = strlen(path);

    if (!length || length >= sizeof(part))
        return gw_fail(-ENAMETOOLONG, "folder '%s': bad length", path);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return gw_fail_errno(-errno, "folder %s", part);
        part[i] = path[i];
    }
    if (stat(path, &status) != 0)
        return gw_fail_errno(-errno, "folder %s", path);
    if (!S_ISDIR(status.st_mode))
        return gw_fail(-ENOTDIR, "%s is not a folder", path);
    return 0;
}

ino_t gw_network_namespace(pid_t pid)
{
    char path[64];
    struct stat status;

    snprintf(path, sizeof(path), "/proc/%ld/ns/net", (long)pid);
    return stat(path, &status) == 0 ? status.st_ino : 0;
}
