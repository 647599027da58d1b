/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a new image under a name of its own and gives it its final name at the end. A block device has none, and gets
 * what makes it look like a disk at the end (edges.c). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/folder.h"
#include "engine/volume/device.h"
#include "engine/volume/disk.h"
#include "engine/volume/edges.h"
#include "engine/volume/location.h"

struct disk_target {
    struct gw_target_volume volume;
    struct gw_image *image;
    char path[PATH_MAX], part[PATH_MAX];
    bool is_finished; /* it has its final name */
    bool is_earlier;  /* which an earlier attempt gave it: there is no image to be written */
    enum gw_image_format format;
    bool is_device; /* no other name, nothing to unlink */
    bool is_name_journalled;
    char mark[GW_DEVICE_MARK_MAX]; /* of a device that is complete; empty: nobody can tell */
};

static struct disk_target *of(struct gw_target_volume *volume)
{
    return gw_container_of(volume, struct disk_target, volume);
}

static int refuse_write(const struct disk_target *disk)
{
    return gw_fail(
        -EEXIST,
        "%s was finished by an earlier attempt and is not what the source has: it is not "
        "written to. Remove it, and copy again",
        disk->path);
}

static int locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    if (of(volume)->is_earlier)
        return refuse_write(of(volume));
    return gw_image_locate(of(volume)->image, offset, length, out);
}

static int write_bytes(struct gw_target_volume *volume, uint64_t offset, const void *from,
                       uint64_t length)
{
    return gw_fail(-ENOTSUP, "%s is written through its file", volume->name);
}

static int zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    if (of(volume)->is_earlier)
        return refuse_write(of(volume));
    return gw_image_zero(of(volume)->image, offset, length);
}

static int sync_image(struct gw_target_volume *volume)
{
    return of(volume)->is_earlier ? 0 : gw_image_sync(of(volume)->image);
}

static int open_finished(const struct disk_target *disk, struct gw_source_volume **out)
{
    struct gw_disk_source_options options = {
        .name = disk->volume.name, .path = disk->path, .format = disk->format};
    int error = gw_disk_source_open(&options, out);

    if (error || (*out)->size == disk->volume.size)
        return error;
    (*out)->ops->close(*out);
    return refuse_write(disk);
}

static int view(struct gw_target_volume *volume, struct gw_source_volume **out)
{
    if (of(volume)->is_earlier)
        return open_finished(of(volume), out);
    return gw_disk_source_view(volume->name, of(volume)->image, out);
}

static int complete(struct gw_target_volume *volume)
{
    struct disk_target *disk = of(volume);
    int error = disk->image ? gw_image_finish(disk->image) : 0;

    if (error)
        return error;
    /* The locks go with the descriptor; whoever reads it back, or the hypervisor, opens the file next. */
    gw_image_close(disk->image);
    disk->image = NULL;
    if (disk->is_device && !disk->mark[0] && gw_device_mark(disk->path, disk->mark))
        disk->mark[0] = '\0';
    return 0;
}

static int finish(struct gw_target_volume *volume)
{
    struct disk_target *disk = of(volume);
    int error = complete(volume);

    if (error || disk->is_device)
        return error;
    error = disk->is_earlier ? 0 : gw_folder_rename(AT_FDCWD, disk->part, disk->path);
    if (error)
        return gw_fail_errno(error, "%s: cannot give the finished image this name", disk->path);
    disk->is_finished = true;
    return disk->is_name_journalled ? 0 : gw_folder_sync_of(disk->path);
}

static void abort_target(struct gw_target_volume *volume)
{
    struct disk_target *disk = of(volume);

    gw_image_close(disk->image);
    disk->image = NULL;
    if (!disk->is_device && !disk->is_earlier)
        unlink(disk->is_finished ? disk->path : disk->part);
}

static void close_target(struct gw_target_volume *volume)
{
    struct disk_target *disk = of(volume);

    gw_image_close(disk->image);
    free(disk);
}

/* A device that was let go may be somebody else's by now: written to, or another one under that name. */
static int reopen(struct gw_target_volume *volume)
{
    struct disk_target *disk = of(volume);
    struct gw_image_create_options create = {.path = disk->path,
                                             .format = GW_IMAGE_RAW,
                                             .virtual_size = volume->size,
                                             .is_direct = true};
    int error;

    if (disk->image)
        return 0;
    if (!disk->mark[0])
        return gw_fail(-ENOTSUP, "nobody can tell whether %s was written to since", disk->path);
    error = gw_image_create(&create, &disk->image);
    return error ? error : gw_device_check(disk->path, disk->mark);
}

static int read_device(struct gw_target_volume *volume, uint64_t offset, void *into,
                       uint64_t length)
{
    struct gw_location from = {.length = length, .file_offset = offset};
    int error;

    from.fd = open(of(volume)->path, O_RDONLY | O_CLOEXEC);
    if (from.fd < 0)
        return gw_fail_errno(-errno, "cannot open %s", of(volume)->path);
    /* What this host has cached may be older than what another one wrote. */
    posix_fadvise(from.fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
    error = gw_location_read(&from, into);
    close(from.fd);
    return error;
}

static const struct gw_target_ops ops = {
    .locate = locate,
    .write = write_bytes,
    .zero = zero,
    .sync = sync_image,
    .view = view,
    .complete = complete,
    .finish = finish,
    .abort = abort_target,
    .close = close_target,
};

static int choose_names(struct disk_target *disk, const struct gw_disk_target_options *options)
{
    struct stat info, behind;
    bool exists = lstat(options->path, &info) == 0;

    /* Logical volumes are links to their devices. */
    disk->is_device =
        exists &&
        (S_ISBLK(info.st_mode) ||
         (S_ISLNK(info.st_mode) && stat(options->path, &behind) == 0 && S_ISBLK(behind.st_mode)));
    if (exists && !disk->is_device && !options->is_finished)
        return gw_fail(-EEXIST, "%s exists already: choose another name or remove it",
                       options->path);
    if (snprintf(disk->path, PATH_MAX, "%s", options->path) >= PATH_MAX ||
        snprintf(disk->part, PATH_MAX, disk->is_device ? "%s" : "%s.godwit-%s.part", options->path,
                 options->epoch) >= PATH_MAX)
        return gw_fail(-ENAMETOOLONG, "%s: the name is too long", options->path);
    return 0;
}

/* What an earlier attempt finished is looked at, and closed again. */
static int check_finished(struct disk_target *disk, const struct gw_disk_target_options *options)
{
    struct gw_source_volume *view;
    int error;

    disk->is_finished = disk->is_earlier = true;
    disk->format = options->format;
    disk->volume.place = disk->path;
    error = open_finished(disk, &view);
    if (!error)
        view->ops->close(view);
    return error;
}

static int make_image(struct disk_target *disk, const struct gw_disk_target_options *options)
{
    struct gw_image_create_options create = {
        .path = disk->part,
        .is_renamed = !disk->is_device,
        .format = options->format,
        .is_fixed = options->is_fixed,
        .virtual_size = options->size,
        .block_size = options->block_size,
        .logical_sector_size = options->logical_sector_size,
        .physical_sector_size = options->physical_sector_size,
        .disk_id = options->disk_id,
        .is_continued = options->is_continued,
        .data_id = options->data_id,
        .is_direct = true,
    };
    int error = gw_image_create(&create, &disk->image);

    if (error)
        return error;
    disk->volume.place = disk->part;
    disk->volume.takes_at_once = gw_image_info(disk->image)->is_memory_file;
    return 0;
}

int gw_disk_target_create(const struct gw_disk_target_options *options,
                          struct gw_target_volume **out)
{
    struct disk_target *disk = calloc(1, sizeof(*disk));
    int error;

    if (!disk)
        return gw_fail(-ENOMEM, "no memory for a volume");
    disk->is_name_journalled = options->is_name_journalled;
    disk->volume =
        (struct gw_target_volume){.ops = &ops, .kind = GW_VOLUME_DISK, .size = options->size};
    snprintf(disk->volume.name, sizeof(disk->volume.name), "%s", options->name);
    error = choose_names(disk, options);
    if (!error)
        error = options->is_finished ? check_finished(disk, options) : make_image(disk, options);
    if (error) {
        free(disk);
        return error;
    }
    if (disk->is_device)
        return gw_edges_target_new(
            &disk->volume,
            &(struct gw_edges_options){.reopen = reopen, .read = read_device, .path = disk->path},
            out);
    *out = &disk->volume;
    return 0;
}
