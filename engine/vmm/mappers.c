/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds mappings of a file in /proc/PID/maps. A look at every process of a host belongs to every
 * round, and to the pause: so the kernel is asked for the few mappings in question where it can be,
 * and where not, the text is searched for the file's device and inode before a line is parsed.
 */
#include "engine/vmm/mappers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/pagemap_abi.h"
#include "engine/vmm/tracker.h"

#define READ_SIZE                                                                                  \
    (64u << 10) /* longer than any line: a path is at most 4 * PATH_MAX when escaped */
#define NEEDLE_SIZE 64

struct search {
    const struct gw_file_id *file;
    char needle[NEEDLE_SIZE];
    size_t needle_length;
    struct gw_mappings *list;
    bool writable_only;
};

int gw_file_id_of(int fd, struct gw_file_id *out)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return gw_fail_errno(-errno, "the RAM file cannot be looked at");
    *out = (struct gw_file_id){.device = status.st_dev, .inode = status.st_ino};
    return 0;
}

int gw_mappings_add(struct gw_mappings *list, const struct gw_mapping *mapping)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 8;
        struct gw_mapping *items = reallocarray(list->items, capacity, sizeof(*items));

        if (!items)
            return gw_fail(-ENOMEM, "no memory for a list of %zu mappings", capacity);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *mapping;
    return 0;
}

void gw_mappings_free(struct gw_mappings *list)
{
    free(list->items);
    *list = (struct gw_mappings){0};
}

static bool parse_line(const char *line, const struct gw_file_id *file, struct gw_mapping *out)
{
    uint64_t start, end, offset, inode;
    unsigned major_number, minor_number;
    char flags[5];

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &start, &end, flags,
               &offset, &major_number, &minor_number, &inode) != 7)
        return false;
    if (makedev(major_number, minor_number) != file->device || inode != file->inode)
        return false;
    *out = (struct gw_mapping){.start = start,
                               .end = end,
                               .offset = offset,
                               .is_writable = flags[1] == 'w',
                               .is_shared = flags[3] == 's'};
    return true;
}

/* text holds whole lines and ends with a zero byte at text[length]. */
static int search_lines(struct search *search, char *text, size_t length)
{
    char *at = text, *end = text + length, *hit;

    while ((hit = memmem(at, (size_t)(end - at), search->needle, search->needle_length))) {
        char *line = hit, *next = memchr(hit, '\n', (size_t)(end - hit));
        struct gw_mapping mapping;

        while (line > text && line[-1] != '\n')
            line--;
        if (parse_line(line, search->file, &mapping) &&
            (!search->writable_only || (mapping.is_writable && mapping.is_shared))) {
            int error = gw_mappings_add(search->list, &mapping);

            if (error)
                return error;
        }
        at = next ? next + 1 : end;
    }
    return 0;
}

static int search_file(struct search *search, int fd, char *buffer)
{
    size_t held = 0;

    for (;;) {
        ssize_t got = read(fd, buffer + held, READ_SIZE - 1 - held);
        char *last;
        size_t whole;
        int error;

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return 0;
        held += (size_t)got;
        last = memrchr(buffer, '\n', held);
        if (!last) {
            if (held == READ_SIZE - 1)
                return -EPROTO;
            continue;
        }
        whole = (size_t)(last - buffer) + 1;
        *last = '\0';
        error = search_lines(search, buffer, whole - 1);
        if (error)
            return error;
        held -= whole;
        memmove(buffer, buffer + whole, held);
    }
}

/* Asks the kernel for shared writable mappings of files, which in most processes are none: far less
 * work than text of all mappings. -ENOTTY before Linux 6.11. */
static int query_file(struct search *search, int fd)
{
    uint64_t address = 0;

    for (;;) {
        struct gw_map_query query = {.size = sizeof(query),
                                     .flags = GW_MAP_WRITABLE | GW_MAP_SHARED | GW_MAP_FILE |
                                              GW_MAP_OR_NEXT,
                                     .address = address};
        struct gw_mapping mapping;
        int error;

        if (ioctl(fd, GW_MAP_QUERY, &query) < 0)
            return errno == ENOENT ? 0 : -errno;
        mapping = (struct gw_mapping){.start = query.start,
                                      .end = query.end,
                                      .offset = query.offset,
                                      .is_writable = true,
                                      .is_shared = true};
        address = query.end;
        if (makedev(query.major, query.minor) != search->file->device ||
            query.inode != search->file->inode)
            continue;
        error = gw_mappings_add(search->list, &mapping);
        if (error)
            return error;
    }
}

static int read_mappings(pid_t pid, struct search *search, char *buffer)
{
    char path[64];
    int fd, error;

    snprintf(search->needle, sizeof(search->needle), " %02x:%02x %" PRIu64 " ",
             major(search->file->device), minor(search->file->device),
             (uint64_t)search->file->inode);
    search->needle_length = strlen(search->needle);
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    error = search->writable_only ? query_file(search, fd) : -ENOTTY;
    if (error == -ENOTTY)
        error = search_file(search, fd, buffer);
    close(fd);
    return error;
}

static int read_one(pid_t pid, struct search *search)
{
    char *buffer = malloc(READ_SIZE);
    int error;

    if (!buffer)
        return gw_fail(-ENOMEM, "no memory to read the mappings of process %d", (int)pid);
    error = read_mappings(pid, search, buffer);
    free(buffer);
    if (error == -ESRCH)
        return gw_fail(error, "process %d has ended", (int)pid);
    if (error && error != -ENOMEM)
        return gw_fail_errno(error, "the mappings of process %d cannot be read", (int)pid);
    return error;
}

int gw_mappings_read(pid_t pid, const struct gw_file_id *file, struct gw_mappings *list)
{
    struct search search = {.file = file, .list = list};

    return read_one(pid, &search);
}

int gw_mappings_read_writable(pid_t pid, const struct gw_file_id *file, struct gw_mappings *list)
{
    struct search search = {.file = file, .list = list, .writable_only = true};

    return read_one(pid, &search);
}

/* Takes the part of piece that cut covers out of it; what lies behind the cut goes to rest. */
static bool cut_piece(struct gw_mapping *piece, const struct gw_mapping *cut,
                      struct gw_mapping *rest)
{
    uint64_t start = gw_max(piece->start, cut->start), end = gw_min(piece->end, cut->end);
    bool is_same_place = piece->start - piece->offset == cut->start - cut->offset;

    *rest = *piece;
    rest->start = rest->end;
    if (start >= end || !is_same_place)
        return false;
    rest->start = end;
    rest->offset = piece->offset + (end - piece->start);
    piece->end = start;
    return true;
}

int gw_mappings_subtract(const struct gw_mappings *list, const struct gw_mappings *without,
                         struct gw_mappings *out)
{
    for (size_t i = 0; i < list->count; i++) {
        struct gw_mapping piece = list->items[i];
        int error = 0;

        /* Both lists are in the order of addresses, so what is left always lies behind the cut. */
        for (size_t j = 0; j < without->count && !error && piece.start < piece.end; j++) {
            struct gw_mapping rest;

            if (!cut_piece(&piece, &without->items[j], &rest))
                continue;
            if (piece.start < piece.end)
                error = gw_mappings_add(out, &piece);
            piece = rest;
        }
        if (!error && piece.start < piece.end)
            error = gw_mappings_add(out, &piece);
        if (error)
            return error;
    }
    return 0;
}

void gw_process_name(pid_t pid, char *name, size_t size)
{
    char path[64];
    FILE *file;

    snprintf(name, size, "?");
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return;
    if (fgets(name, (int)size, file))
        name[strcspn(name, "\n")] = '\0';
    fclose(file);
}

static bool pid_of_entry(const char *name, pid_t *out)
{
    char *end;
    long value = strtol(name, &end, 10);

    *out = (pid_t)value;
    return end != name && *end == '\0' && value > 0;
}

static void fill_mapper(struct gw_mapper *mapper, pid_t pid, const struct gw_mappings *list)
{
    *mapper = (struct gw_mapper){.pid = pid};
    for (size_t i = 0; i < list->count; i++)
        mapper->is_writable |= list->items[i].is_writable && list->items[i].is_shared;
    gw_process_name(pid, mapper->name, sizeof(mapper->name));
}

static int find_in(DIR *folder, struct search *search, struct gw_mapper *out, int max)
{
    struct gw_mappings list = {0};
    struct dirent *entry;
    char *buffer = malloc(READ_SIZE);
    int count = 0, error = buffer ? 0 : -ENOMEM;

    search->list = &list;
    while (!error && (entry = readdir(folder))) {
        pid_t pid;

        if (!pid_of_entry(entry->d_name, &pid) || pid == getpid())
            continue;
        list.count = 0;
        /* A process that ended meanwhile, or that this user may not look at, is passed over. */
        if (read_mappings(pid, search, buffer) == -ENOMEM)
            error = -ENOMEM;
        if (list.count == 0)
            continue;
        if (count < max)
            fill_mapper(&out[count], pid, &list);
        count++;
    }
    gw_mappings_free(&list);
    free(buffer);
    return error ? gw_fail(error, "no memory to search the mappings of all processes") : count;
}

static int find(int ram_fd, bool writable_only, struct gw_mapper *out, int max)
{
    struct gw_file_id file;
    struct search search = {.file = &file, .writable_only = writable_only};
    int result = gw_file_id_of(ram_fd, &file);
    DIR *folder;

    if (result)
        return result;
    folder = opendir("/proc");
    if (!folder)
        return gw_fail_errno(-errno, "/proc cannot be read");
    result = find_in(folder, &search, out, max);
    closedir(folder);
    return result;
}

int gw_mappers_find(int ram_fd, struct gw_mapper *out, int max)
{
    return find(ram_fd, false, out, max);
}

int gw_mappers_find_writable(int ram_fd, struct gw_mapper *out, int max)
{
    return find(ram_fd, true, out, max);
}
