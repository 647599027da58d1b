/* SPDX-License-Identifier: Apache-2.0 */
/* Folders and files of tests. */
#include "tests/engine/volume/place.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"

#define TMPFS 0x01021994l

static void make(struct place *place, const char *parent)
{
    place->is_mount = false;
    snprintf(place->folder, sizeof(place->folder), "%s/godwit-place-XXXXXX", parent);
    cr_assert_not_null(mkdtemp(place->folder), "%s", parent);
}

static bool is_tmpfs(const char *path)
{
    struct statfs info;

    return statfs(path, &info) == 0 && info.f_type == TMPFS;
}

void place_in_memory(struct place *place)
{
    if (!is_tmpfs("/dev/shm"))
        cr_skip_test("/dev/shm is no tmpfs");
    make(place, "/dev/shm");
}

void place_on_disk(struct place *place)
{
    if (is_tmpfs("/var/tmp"))
        cr_skip_test("/var/tmp is a tmpfs");
    make(place, "/var/tmp");
}

void place_small(struct place *place, uint64_t size)
{
    char options[64];

    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
        cr_skip_test("no mount namespace of its own: needs root");
    make(place, "/var/tmp");
    snprintf(options, sizeof(options), "size=%llu", (unsigned long long)size);
    cr_assert_eq(mount("none", place->folder, "tmpfs", 0, options), 0);
    place->is_mount = true;
}

void place_end(struct place *place)
{
    if (place->is_mount) {
        cr_assert_eq(umount2(place->folder, MNT_DETACH), 0);
        cr_assert_eq(rmdir(place->folder), 0);
    } else {
        cr_assert_eq(place_run("rm -rf '%s'", place->folder), 0);
    }
}

const char *place_path(const struct place *place, const char *name)
{
    static char paths[4][512];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", place->folder, name);
    return path;
}

unsigned place_count(const struct place *place)
{
    DIR *folder = opendir(place->folder);
    const struct dirent *entry;
    unsigned count = 0;

    cr_assert_not_null(folder);
    while ((entry = readdir(folder)))
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(folder);
    return count;
}

bool place_has(const struct place *place, const char *name)
{
    struct stat info;

    return lstat(place_path(place, name), &info) == 0;
}

uint8_t place_byte(unsigned seed, uint64_t offset)
{
    return (uint8_t)((offset * 2654435761u + (offset >> 9) * 40503u + seed * 97u) >> 7 | 1);
}

void place_fill(const char *path, uint64_t offset, uint64_t length, unsigned seed)
{
    static uint8_t bytes[64 << 10];
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0, "%s", path);
    for (uint64_t moved = 0; moved < length;) {
        size_t now = length - moved < sizeof(bytes) ? length - moved : sizeof(bytes);

        for (size_t i = 0; i < now; i++)
            bytes[i] = place_byte(seed, offset + moved + i);
        cr_assert_eq(pwrite(fd, bytes, now, (off_t)(offset + moved)), (ssize_t)now);
        moved += now;
    }
    close(fd);
}

void place_write(int (*locate)(void *context, uint64_t offset, uint64_t length,
                               struct gw_location *out),
                 void *context, uint64_t offset, uint64_t length, unsigned seed)
{
    uint8_t *bytes = NULL;
    struct gw_location to;

    cr_assert_eq(posix_memalign((void **)&bytes, 4096, length), 0);
    for (uint64_t i = 0; i < length; i++)
        bytes[i] = place_byte(seed, offset + i);
    for (uint64_t moved = 0; moved < length; moved += to.length) {
        cr_assert_eq(locate(context, offset + moved, length - moved, &to), 0, "%s",
                     gw_error_message());
        cr_assert_eq(to.where, GW_IN_FILE);
        cr_assert_gt(to.length, 0);
        cr_assert_eq(pwrite(to.fd, bytes + moved, to.length, (off_t)to.file_offset),
                     (ssize_t)to.length, "%s", strerror(errno));
    }
    free(bytes);
}

void place_truncate(const char *path, uint64_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0);
    cr_assert_eq(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

uint64_t place_allocated(const char *path)
{
    struct stat info;

    cr_assert_eq(stat(path, &info), 0, "%s", path);
    return (uint64_t)info.st_blocks * 512;
}

int place_run(const char *format, ...)
{
    char command[2048];
    va_list arguments;
    int status;

    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool place_same(const char *path, const char *other)
{
    return place_run("cmp -s '%s' '%s'", path, other) == 0;
}
