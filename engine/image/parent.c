/* SPDX-License-Identifier: Apache-2.0 */
/* Turns the paths of a parent locator into files of this host. It opens no image. */
#include "engine/image/parent.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"

void gw_parent_link_free(struct gw_parent_link *link)
{
    for (unsigned i = 0; link && i < link->path_count; i++)
        free(link->paths[i].text);
    free(link);
}

int gw_parent_link_add(struct gw_parent_link *link, enum gw_parent_path_kind kind,
                       const char *label, char *text)
{
    if (link->path_count == GW_PARENT_PATHS_MAX) {
        free(text);
        return gw_fail(-E2BIG, "it names more than %u paths of its parent", GW_PARENT_PATHS_MAX);
    }
    link->paths[link->path_count++] =
        (struct gw_parent_path){.kind = kind, .label = label, .text = text};
    return 0;
}

void gw_parent_places_free(struct gw_parent_places *places)
{
    for (unsigned i = 0; i < places->count; i++)
        free(places->list[i].path);
    *places = (struct gw_parent_places){0};
}

static bool is_slash(char character)
{
    return character == '/' || character == '\\';
}

static bool is_same(char a, char b)
{
    return (is_slash(a) && is_slash(b)) || tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* The last name of a path of either kind. */
static const char *last_name(const char *path)
{
    const char *name = path;

    for (; *path; path++)
        if (is_slash(*path))
            name = path + 1;
    return name;
}

/* "..", "." and what is no name of a file here. */
static bool is_file_name(const char *name)
{
    return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           strlen(name) <= NAME_MAX && !strchr(name, ':');
}

/* What follows from in path, when path begins with it as whole names; else NULL. */
static const char *rest_after(const char *path, const char *from)
{
    bool ends_whole = false;

    while (*from && is_same(*path, *from)) {
        ends_whole = is_slash(*from);
        path++;
        from++;
    }
    if (*from)
        return NULL;
    return *path == '\0' || is_slash(*path) || ends_whole ? path : NULL;
}

/* to and, when only the beginning was mapped, the rest beneath it. */
static int join_mapped(const char *to, const char *rest, char *out)
{
    size_t used;

    while (is_slash(*rest))
        rest++;
    if (snprintf(out, PATH_MAX, "%s%s%s", to, *rest ? "/" : "", rest) >= PATH_MAX)
        return gw_fail(-ENAMETOOLONG, "the parent's path '%.64s...' is too long", to);
    used = strlen(out) - strlen(rest);
    for (char *at = out + used; *at; at++) {
        if (*at == '\\')
            *at = '/';
        if (at[0] == '.' && at[1] == '.' && (at == out + used || is_slash(at[-1])) &&
            (at[2] == '\0' || is_slash(at[2])))
            return gw_fail(-EACCES, "the parent's path '%s' leads out of '%s': map it whole", rest,
                           to);
    }
    return 0;
}

static int add_place(struct gw_parent_places *places, const char *path, const struct stat *info)
{
    struct gw_parent_place *place = &places->list[places->count];

    for (unsigned i = 0; i < places->count; i++)
        if (places->list[i].device == info->st_dev && places->list[i].inode == info->st_ino)
            return 0;
    *place = (struct gw_parent_place){strdup(path), info->st_dev, info->st_ino};
    if (!place->path)
        return gw_fail(-ENOMEM, "no memory for a path");
    places->count++;
    return 0;
}

/* 1 when a mapping speaks of this path. */
static int find_mapped(const struct gw_parent_search *search, const char *text,
                       struct gw_parent_places *out)
{
    for (unsigned i = 0; i < search->mapping_count; i++) {
        const struct gw_parent_mapping *mapping = &search->mappings[i];
        const char *rest = rest_after(text, mapping->from);
        char path[PATH_MAX];
        struct stat info;
        int error;

        if (!rest && rest_after(last_name(text), mapping->from))
            rest = "";
        if (!rest)
            continue;
        error = join_mapped(mapping->to, rest, path);
        if (!error && stat(path, &info))
            error = gw_fail_errno(-errno, "%s: its parent was said to be %s", search->child, path);
        if (!error)
            error = add_place(out, path, &info);
        out->is_mapped = true;
        return error ? error : 1;
    }
    return 0;
}

/* Adds folder/relative when it is a regular file that lies beneath folder. */
static int add_beneath(int folder_fd, const char *folder, const char *relative,
                       struct gw_parent_places *out)
{
    struct open_how how = {
        .flags = O_PATH | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    char path[PATH_MAX];
    struct stat info;
    long fd = syscall(SYS_openat2, folder_fd, relative, &how, sizeof(how));
    int error = 0;

    if (fd < 0)
        return 0;
    if (fstat((int)fd, &info) == 0 && S_ISREG(info.st_mode) &&
        snprintf(path, sizeof(path), "%s/%s", folder, relative) < (int)sizeof(path))
        error = add_place(out, path, &info);
    close((int)fd);
    return error;
}

/* A relative path with '/' in place of '\', or false when it is none or says "..". */
static bool make_relative(const char *text, char *out)
{
    while (text[0] == '.' && is_slash(text[1]))
        text += 2;
    if (is_slash(text[0]) || strchr(text, ':') || snprintf(out, PATH_MAX, "%s", text) >= PATH_MAX)
        return false;
    for (char *at = out; *at; at++)
        if (*at == '\\')
            *at = '/';
    return out[0] != '\0';
}

static int find_beneath(const struct gw_parent_search *search, struct gw_parent_places *out)
{
    char copy[PATH_MAX], relative[PATH_MAX];
    const char *folder;
    int fd, error = 0;

    snprintf(copy, sizeof(copy), "%s", search->child);
    folder = dirname(copy);
    fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return gw_fail_errno(-errno, "the folder of %s", search->child);
    for (unsigned i = 0; i < search->link->path_count && !error; i++)
        if (search->link->paths[i].kind == GW_PARENT_RELATIVE &&
            make_relative(search->link->paths[i].text, relative))
            error = add_beneath(fd, folder, relative, out);
    for (unsigned i = 0; i < search->link->path_count && !error; i++) {
        const char *name = last_name(search->link->paths[i].text);

        if (is_file_name(name))
            error = add_beneath(fd, folder, name, out);
    }
    close(fd);
    return error;
}

int gw_parent_find(const struct gw_parent_search *search, struct gw_parent_places *out)
{
    int found = 0;

    *out = (struct gw_parent_places){0};
    if (search->link->path_count == 0)
        return gw_fail(-EUCLEAN, "%s is a differencing disk and names no path of its parent",
                       search->child);
    for (unsigned i = 0; i < search->link->path_count && found == 0; i++)
        found = find_mapped(search, search->link->paths[i].text, out);
    if (found == 0)
        found = find_beneath(search, out);
    if (found < 0) {
        gw_parent_places_free(out);
        return found;
    }
    if (out->count == 0)
        return gw_fail(-ENOENT,
                       "%s: its parent '%s' is not beneath the image's own folder: put it there, "
                       "or say where it is with --parent '%s=PATH'",
                       search->child, search->link->paths[0].text,
                       last_name(search->link->paths[0].text));
    return 0;
}

bool gw_parent_is_beside(const struct gw_parent_link *link, const char *name)
{
    char relative[PATH_MAX];

    return link->path_count > 0 && link->paths[0].kind == GW_PARENT_RELATIVE &&
           make_relative(link->paths[0].text, relative) && strcmp(relative, name) == 0;
}
