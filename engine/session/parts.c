/* SPDX-License-Identifier: Apache-2.0 */
/* Names, journals and removal of unfinished images. What is in them is the volumes' business. */
#include "engine/session/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/folder.h"
#include "common/log.h"
#include "engine/handover/renames.h"

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

static bool is_seen(const char *path)
{
    struct stat status;

    return path[0] && lstat(path, &status) == 0;
}

/* In ns; 0 where a file system knows no time of birth. */
static json_int_t born(const struct statx *status)
{
    return status->stx_mask & STATX_BTIME
               ? (json_int_t)((uint64_t)status->stx_btime.tv_sec * GW_NS_PER_S +
                              status->stx_btime.tv_nsec)
               : 0;
}

json_t *gw_part_identity(const char *path)
{
    struct statx status;

    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &status) ||
        !S_ISREG(status.stx_mode))
        return json_null();
    /* The time of birth tells it from a later file that was given the same inode. */
    return json_pack("{s:I,s:I,s:I}", "device",
                     (json_int_t)makedev(status.stx_dev_major, status.stx_dev_minor), "inode",
                     (json_int_t)status.stx_ino, "born", born(&status));
}

static bool is_equal(const json_t *one, const json_t *other, const char *member)
{
    return json_equal(json_object_get(one, member), json_object_get(other, member));
}

bool gw_part_is_same(const json_t *found, const json_t *recorded)
{
    /* A host that starts again, or a mount, may give the device another number. The time of birth, to the
     * nanosecond, tells the file from one of another file system too; where there is none, the number has to do. */
    bool is_born = json_integer_value(json_object_get(found, "born")) != 0;

    return json_is_object(found) && json_is_object(recorded) &&
           is_equal(found, recorded, "inode") && is_equal(found, recorded, "born") &&
           (is_born || is_equal(found, recorded, "device"));
}

json_t *gw_part_folder(const char *path)
{
    char copy[PATH_MAX];
    struct statx status;

    snprintf(copy, sizeof(copy), "%s", path);
    if (statx(AT_FDCWD, dirname(copy), 0, STATX_INO | STATX_BTIME, &status))
        return json_null();
    /* Not the device's number, which another mount may give it. Where a file system knows no time of birth, its
     * inode tells it from the folder that it hides. */
    return json_pack("{s:I,s:I}", "inode", (json_int_t)status.stx_ino, "born", born(&status));
}

int gw_part_look(const char *path, const json_t *folder)
{
    const char *end = strrchr(path, '/');
    int length = end ? (int)(end - path) : 0;
    struct stat status;
    json_t *found;
    bool is_same;

    if (lstat(path, &status) == 0)
        return 0;
    if (errno == ENAMETOOLONG)
        return -ENOENT; /* it could never be made */
    if (errno != ENOENT && errno != ENOTDIR)
        return gw_fail(-ENOMEDIUM, "%s cannot be looked at: %s", path, strerror(errno));
    /* A note that does not say where it was: there is nothing that could come back. */
    if (!json_is_object(folder))
        return -ENOENT;
    found = gw_part_folder(path);
    is_same = json_is_object(found) && json_equal(found, folder);
    json_decref(found);
    return is_same
               ? -ENOENT
               : gw_fail(-ENOMEDIUM,
                         "the folder %.*s is not the one that the unfinished image is in: mount "
                         "its file system",
                         length, path);
}

int gw_part_check_removable(const char *path)
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof(copy), "%s", path);
    if (!is_seen(path) || faccessat(AT_FDCWD, dirname(copy), W_OK | X_OK, AT_EACCESS) == 0)
        return 0;
    return gw_fail(-ENOMEDIUM, "%s is there and cannot be removed: %s: make its folder writable",
                   path, strerror(errno));
}

int gw_part_check_here(const json_t *entry)
{
    const char *part = text_of(entry, "part"), *path = text_of(entry, "path");
    int error;

    if (!path[0])
        return 0; /* of a source, which has no part */
    if (!part[0])
        return gw_rename_is_device(path)
                   ? 0
                   : gw_fail(-ENOMEDIUM,
                             "the device %s, which holds the unfinished disk, is not "
                             "there: attach it",
                             path);
    error = gw_part_look(part, json_object_get(entry, "folder"));
    /* What lay beside it is there: this is the folder, whatever its file system calls it today. */
    if (error == -ENOENT || is_seen(text_of(entry, "journal")) || is_seen(path))
        error = 0;
    return error ? error : gw_part_check_removable(part);
}

int gw_part_entry_new(const struct gw_environment *environment, const char *epoch, unsigned volume,
                      const struct gw_offered_volume *offered, const char *path, json_t **out)
{
    char part[PATH_MAX] = "", journal[PATH_MAX];
    int length;

    if (gw_rename_is_device(path)) {
        length = snprintf(journal, sizeof(journal), "%s/partial/%s.%u.journal",
                          environment->state_dir, epoch, volume);
    } else {
        length = snprintf(part, sizeof(part), "%s.godwit-%s.part", path, epoch);
        if (length < (int)sizeof(part))
            length = snprintf(journal, sizeof(journal), "%s.godwit-%s.journal", path, epoch);
    }
    if (length >= (int)sizeof(journal))
        return gw_fail(-ENAMETOOLONG, "%s: the name is too long", path);
    *out = json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:o}", "volume", (int)volume, "name", offered->name,
                     "path", path, "epoch", epoch, "part", part, "journal", journal, "folder",
                     gw_part_folder(path));
    return *out ? 0
                : gw_fail(-EILSEQ, "the path of %s on this host is not UTF-8 text", offered->name);
}

const char *gw_part_epoch(const json_t *entry, const char *epoch)
{
    const char *own = text_of(entry, "epoch");

    return own[0] ? own : epoch;
}

json_t *gw_part_find(json_t *disks, unsigned volume, const char *name, const char *path)
{
    json_t *disk;
    size_t index;

    json_array_foreach(disks, index,
                       disk) if (json_integer_value(json_object_get(disk, "volume")) ==
                                     (json_int_t)volume &&
                                 strcmp(text_of(disk, "name"), name) == 0 &&
                                 strcmp(text_of(disk, "path"), path) == 0) return disk;
    return NULL;
}

static void describe(const struct gw_offered_volume *offered, struct gw_checkpoint *out)
{
    memset(out, 0, sizeof(*out));
    snprintf(out->source, sizeof(out->source), "%s", offered->source);
    snprintf(out->format, sizeof(out->format), "%s", gw_offer_format(offered));
    out->is_fixed = offered->is_fixed;
    out->size = offered->size;
    out->block_size = offered->block_size;
    out->logical_sector_size = offered->logical_sector_size;
    out->physical_sector_size = offered->physical_sector_size;
}

static bool can_continue(const struct gw_offered_volume *offered)
{
    return !offered->foreign[0] && gw_image_can_continue(offered->format);
}

/* The identity, and the size and time of the last change of what is in it (not of its name). */
static json_t *describe_file(const char *path)
{
    json_t *file = gw_part_identity(path);
    struct stat status;

    if (json_is_object(file) && lstat(path, &status) == 0) {
        json_object_set_new(file, "size", json_integer((json_int_t)status.st_size));
        json_object_set_new(
            file, "changed",
            json_integer((json_int_t)((uint64_t)status.st_mtim.tv_sec * GW_NS_PER_S +
                                      (uint64_t)status.st_mtim.tv_nsec)));
    }
    return file;
}

void gw_part_note_finished(json_t *disks)
{
    json_t *disk;
    size_t index;

    /* What was noted by an earlier attempt, and has its name, has no part. */
    json_array_foreach(disks, index, disk) if (is_seen(text_of(disk, "part")))
        json_object_set_new(disk, "file", describe_file(text_of(disk, "part")));
}

bool gw_part_is_seen(const json_t *entry)
{
    return is_seen(text_of(entry, "part"));
}

bool gw_part_is_finished(const json_t *entry)
{
    const json_t *noted = json_object_get(entry, "file");
    json_t *found = noted ? describe_file(text_of(entry, "path")) : NULL;
    bool is = gw_part_is_same(found, noted) && is_equal(found, noted, "changed") &&
              is_equal(found, noted, "size");

    json_decref(found);
    return is;
}

static int check(const json_t *entry, const struct gw_offered_volume *offered, uint64_t *durable)
{
    const char *part = text_of(entry, "part");
    bool is_finished = gw_part_is_finished(entry);
    struct gw_checkpoint found, wanted;
    struct stat status;
    int error = gw_checkpoint_read(text_of(entry, "journal"), &found);

    /* The journal goes before the note does. */
    if (error == -ENOENT && is_finished) {
        *durable = offered->size;
        return 0;
    }
    if (error)
        return error;
    describe(offered, &wanted);
    if (strcmp(found.source, wanted.source) != 0)
        return gw_fail(-ESTALE, "the source was changed since");
    if (!gw_checkpoint_is_same(&found, &wanted))
        return gw_fail(-ESTALE, "the target is to be another image than the unfinished one");
    if (part[0] && !is_finished && (lstat(part, &status) || !S_ISREG(status.st_mode)))
        return gw_fail(-ESTALE, "the unfinished image is gone");
    *durable = is_finished ? offered->size : found.durable;
    return 0;
}

void gw_part_check(const json_t *entry, const struct gw_offered_volume *offered, uint64_t *durable,
                   char reason[GW_PART_REASON_MAX])
{
    int error = -ENOENT;

    *durable = 0;
    if (!can_continue(offered))
        error = gw_fail(-ENOTSUP, "an unfinished %s image cannot be gone on with",
                        gw_offer_format(offered));
    else if (!entry)
        error = gw_fail(-ENOENT, "nothing of it is here any more");
    else
        error = check(entry, offered, durable);
    reason[0] = '\0';
    if (error)
        snprintf(reason, GW_PART_REASON_MAX, "%s: it starts over: %.180s", offered->name,
                 gw_error_message());
}

int gw_part_refuse_unknown(const json_t *older, const struct gw_offered_volume *offered)
{
    const char *part = text_of(older, "part"), *path = text_of(older, "path");
    uint64_t durable;

    if (!part[0] || is_seen(part) || !is_seen(path))
        return 0;
    if (can_continue(offered) && gw_part_is_finished(older) && check(older, offered, &durable) == 0)
        return 0;
    return gw_fail(-EEXIST,
                   "%s is there already: the earlier attempt was lost when it had finished it, or "
                   "somebody made it since. Compare it with the source (qemu-img compare), then "
                   "godwit cancel what is left of the attempt; or remove it and copy again",
                   path);
}

uint64_t gw_part_allocated(const json_t *entry)
{
    const char *part = text_of(entry, gw_part_is_finished(entry) ? "path" : "part");
    struct stat status;

    return part[0] && stat(part, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}

int gw_part_note(const json_t *entry, const struct gw_offered_volume *offered, uint64_t durable)
{
    const char *part = text_of(entry, "part");
    struct gw_checkpoint checkpoint;

    if (!can_continue(offered) || json_object_get(entry, "file"))
        return 0;
    /* A file system that was taken away beneath the open file: the folder in its place is not the journal's. */
    if (part[0] && !is_seen(part))
        return gw_fail(-ENOMEDIUM, "%s is not in its folder any more", part);
    describe(offered, &checkpoint);
    checkpoint.durable = durable;
    return gw_checkpoint_write(text_of(entry, "journal"), &checkpoint);
}

uint64_t gw_part_durable(const json_t *entry)
{
    struct gw_checkpoint checkpoint;

    return gw_checkpoint_read(text_of(entry, "journal"), &checkpoint) == 0 ? checkpoint.durable : 0;
}

/* A name with the epoch in it is nobody else's. */
static int unlink_named(const char *path, const char *epoch)
{
    const char *base = strrchr(path, '/');

    if (base && epoch[0] && strstr(base, epoch) && unlink(path) && errno != ENOENT &&
        errno != ENOTDIR)
        return gw_fail_errno(-errno, "%s cannot be removed", path);
    return 0;
}

void gw_part_end(const json_t *entry)
{
    const char *journal = text_of(entry, "journal");

    if (journal[0] && unlink(journal) && errno != ENOENT)
        gw_log(GW_LOG_WARNING, "%s could not be removed: %s", journal, strerror(errno));
}

int gw_part_unlink(const json_t *entry, const char *epoch)
{
    int error = unlink_named(text_of(entry, "part"), gw_part_epoch(entry, epoch));

    return error ? error : unlink_named(text_of(entry, "journal"), gw_part_epoch(entry, epoch));
}

int gw_part_sync(const json_t *entry)
{
    const char *part = text_of(entry, "part"), *journal = text_of(entry, "journal");
    int error = part[0] || journal[0] ? gw_folder_sync_of(part[0] ? part : journal) : 0;

    return error == -ENOENT || error == -ENOTDIR ? 0 : error;
}

int gw_part_unlink_finished(const json_t *entry)
{
    const char *path = text_of(entry, "path");
    struct stat status;

    /* Another name is somebody else's. */
    if (!gw_part_is_finished(entry) || lstat(path, &status) || status.st_nlink > 1)
        return 0;
    return unlink(path) && errno != ENOENT ? gw_fail_errno(-errno, "%s cannot be removed", path)
                                           : 0;
}

void gw_part_source(const char *path, const char *format, char *out, size_t size)
{
    char birth[64];
    struct statx status;

    if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &status) != 0)
        memset(&status, 0, sizeof(status));
    /* A device has neither a size nor a time of change here: what it holds is compared. */
    if (!S_ISREG(status.stx_mode)) {
        snprintf(out, size, "%s %s", format, path);
        return;
    }
    /* As of a folder: the device may have another number at each mount. */
    if (born(&status))
        snprintf(birth, sizeof(birth), "born at %lld", (long long)born(&status));
    else
        snprintf(birth, sizeof(birth), "of device %u:%u", status.stx_dev_major,
                 status.stx_dev_minor);
    snprintf(out, size, "%s %s, %llu bytes, file %llu %s, changed at %lld.%09u", format, path,
             (unsigned long long)status.stx_size, (unsigned long long)status.stx_ino, birth,
             (long long)status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec);
}
