/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes an image in a format that only QEMU knows: qemu-img makes it, a qemu-nbd writes it. What
 * was never written needs no zeroes, so that a hole costs neither a request nor a table.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/folder.h"
#include "engine/volume/nbd-server.h"
#include "engine/volume/nbd.h"

#define UNIT             (1u << 20) /* bytes of the disk per bit of what was written */
#define CLOSE_IN_PAUSE_S 60u        /* the image was synced before */
#define CHECK_LEAKS      3          /* exit status of qemu-img check: clusters that nothing uses */

struct nbd_target {
    struct gw_target_volume volume;
    struct gw_nbd_server server;
    char path[PATH_MAX], part[PATH_MAX], format[16];
    bool is_serving, is_made, is_complete, is_finished;
    bool is_in_pause;          /* the end of it */
    _Atomic uint64_t *written; /* a bit for each UNIT; several threads set bits of one word */
};

static struct nbd_target *of(struct gw_target_volume *volume)
{
    return gw_container_of(volume, struct nbd_target, volume);
}

static int locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    *out = (struct gw_location){.kind = GW_EXTENT_DATA, .where = GW_BY_CALL, .length = length};
    return 0;
}

static int check_serving(const struct nbd_target *disk)
{
    return disk->is_serving ? 0 : gw_fail(-EINVAL, "%s is finished already", disk->volume.name);
}

static int write_bytes(struct gw_target_volume *volume, uint64_t offset, const void *from,
                       uint64_t length)
{
    struct nbd_target *disk = of(volume);
    int error = check_serving(disk);

    if (error || length == 0)
        return error;
    for (uint64_t unit = offset / UNIT; unit <= (offset + length - 1) / UNIT; unit++)
        atomic_fetch_or(&disk->written[unit / 64], 1ull << unit % 64);
    return gw_nbd_client_write(disk->server.client, offset, from, length);
}

static bool is_written(struct nbd_target *disk, uint64_t unit)
{
    return atomic_load(&disk->written[unit / 64]) >> unit % 64 & 1;
}

/* Rounds are barriers: a write to these very bytes is older than this, and its bit is seen. */
static int zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    struct nbd_target *disk = of(volume);
    uint64_t end = offset + length;
    int error = check_serving(disk);

    while (!error && offset < end) {
        uint64_t unit = offset / UNIT, stop = gw_min((unit + 1) * UNIT, end);

        if (!is_written(disk, unit)) {
            offset = stop;
            continue;
        }
        while (stop < end && is_written(disk, stop / UNIT))
            stop = gw_min(stop + UNIT, end);
        error = gw_nbd_client_zero(disk->server.client, offset, stop - offset);
        offset = stop;
    }
    return error;
}

static int sync_image(struct gw_target_volume *volume)
{
    int error = check_serving(of(volume));

    return error ? error : gw_nbd_client_flush(of(volume)->server.client, volume->wanted);
}

static int sync_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;

    if (fd < 0 || fsync(fd))
        error = gw_fail_errno(-errno, "%s: cannot sync it", path);
    if (fd >= 0)
        close(fd);
    return error;
}

static int check_image(const struct nbd_target *disk)
{
    const char *const words[] = {"qemu-img",   "check", "-q",       "-f",
                                 disk->format, "--",    disk->part, NULL};
    struct gw_nbd_wait wait = {
        .name = disk->volume.name, .what = "qemu-img check", .wanted = disk->volume.wanted};
    struct gw_error kept;
    int status, error = gw_tool_run(words, &wait, &status);

    if (error || status == 0 || status == CHECK_LEAKS)
        return error;
    gw_error_take(-EIO, &kept);
    return gw_fail(-EUCLEAN, "%s: the finished image does not pass its check: %.300s",
                   disk->volume.name, kept.text);
}

static int complete(struct gw_target_volume *volume)
{
    struct nbd_target *disk = of(volume);
    struct gw_nbd_wait wait = {.name = volume->name,
                               .wanted = volume->wanted,
                               .limit_s = disk->is_in_pause ? CLOSE_IN_PAUSE_S : 0};
    int error = disk->is_complete ? 0 : sync_image(volume);

    if (error || disk->is_complete)
        return error;
    disk->is_serving = false;
    /* Its locks go with it; whoever reads it back, or the hypervisor, opens the file next. */
    error = gw_nbd_server_finish(&disk->server, &wait);
    /* It reads all of the tables: no guest stands still for that. */
    if (!error && !disk->is_in_pause)
        error = check_image(disk);
    disk->is_complete = !error;
    return error;
}

static int finish(struct gw_target_volume *volume)
{
    struct nbd_target *disk = of(volume);
    char name[PATH_MAX];
    int error = complete(volume);

    if (!error) {
        snprintf(name, sizeof(name), "%s", disk->path);
        error = gw_nbd_image_rename(disk->part, disk->format, basename(name));
    }
    if (!error)
        error = sync_file(disk->part);
    if (error)
        return error;
    error = gw_folder_rename(AT_FDCWD, disk->part, disk->path);
    if (error)
        return gw_fail_errno(error, "%s: cannot give the finished image this name", disk->path);
    disk->is_finished = true;
    return gw_folder_sync_of(disk->path);
}

static void abort_target(struct gw_target_volume *volume)
{
    struct nbd_target *disk = of(volume);

    disk->is_serving = false;
    gw_nbd_server_kill(&disk->server);
    if (disk->is_made)
        unlink(disk->is_finished ? disk->path : disk->part);
    disk->is_made = false;
}

static void close_target(struct gw_target_volume *volume)
{
    struct nbd_target *disk = of(volume);

    gw_nbd_server_kill(&disk->server);
    free(disk->written);
    free(disk);
}

static const struct gw_target_ops ops = {
    .locate = locate,
    .write = write_bytes,
    .zero = zero,
    .sync = sync_image,
    .view = gw_target_no_view,
    .complete = complete,
    .finish = finish,
    .abort = abort_target,
    .close = close_target,
};

/* The file is made here, where a name that is taken is seen, and private; qemu-img keeps it. */
static int make_image(struct nbd_target *disk, const struct gw_nbd_target_options *options)
{
    char size[32], shape[48];
    const char *const words[] = {"qemu-img", "create", "-q",       "-f", disk->format, "-o",
                                 shape,      "--",     disk->part, size, NULL};
    struct gw_nbd_wait wait = {
        .name = options->name, .what = "qemu-img to make the image", .wanted = disk->volume.wanted};
    struct gw_error kept;
    int status, error, fd = open(disk->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return gw_fail_errno(-errno, "cannot make %s", disk->part);
    close(fd);
    disk->is_made = true;
    snprintf(size, sizeof(size), "%llu", (unsigned long long)options->size);
    gw_nbd_create_options(disk->format, options->cluster_size, options->is_fixed, shape,
                          sizeof(shape));
    error = gw_tool_run(words, &wait, &status);
    if (error || status == 0)
        return error;
    gw_error_take(-EIO, &kept);
    return gw_fail(-EIO, "%s: cannot make a %s image: %.300s", options->name, disk->format,
                   kept.text);
}

static int serve(struct nbd_target *disk, const struct gw_nbd_target_options *options)
{
    struct gw_nbd_server_options server = {
        .name = options->name, .path = disk->part, .format = disk->format};
    int error = gw_nbd_server_start(&server, &disk->server);

    if (error)
        return error;
    disk->is_serving = true;
    if (gw_nbd_client_size(disk->server.client) != options->size)
        return gw_fail(-ENOTSUP, "%s: a %s image cannot have %llu bytes", options->name,
                       disk->format, (unsigned long long)options->size);
    return 0;
}

static int check_options(struct nbd_target *disk, const struct gw_nbd_target_options *options)
{
    uint32_t cluster = options->cluster_size;
    struct stat info;

    if (!gw_nbd_format_is_known(options->format))
        return gw_fail(-ENOTSUP, "%s: images of the format '%.16s' are not made here: convert it",
                       options->name, options->format);
    if (options->is_fixed && !gw_nbd_can_preallocate(options->format))
        return gw_fail(-ENOTSUP, "%s: the space of a %s image cannot be taken beforehand",
                       options->name, options->format);
    if (cluster && (cluster < 512 || cluster > 2u << 20 || (cluster & (cluster - 1))))
        return gw_fail(-EPROTO, "%s: no image has clusters of %u bytes", options->name, cluster);
    if (lstat(options->path, &info) == 0)
        return gw_fail(-EEXIST, "%s exists already: choose another name or remove it",
                       options->path);
    disk->is_in_pause = options->is_in_pause;
    snprintf(disk->format, sizeof(disk->format), "%s", options->format);
    if (snprintf(disk->path, PATH_MAX, "%s", options->path) >= PATH_MAX ||
        snprintf(disk->part, PATH_MAX, "%s.godwit-%s.part", options->path, options->epoch) >=
            PATH_MAX)
        return gw_fail(-ENAMETOOLONG, "%s: the name is too long", options->path);
    return 0;
}

int gw_nbd_target_create(const struct gw_nbd_target_options *options, struct gw_target_volume **out)
{
    struct nbd_target *disk = calloc(1, sizeof(*disk));
    struct gw_error kept;
    int error;

    if (!disk)
        return gw_fail(-ENOMEM, "no memory for a volume");
    disk->volume = (struct gw_target_volume){.ops = &ops,
                                             .kind = GW_VOLUME_DISK,
                                             .size = options->size,
                                             .place = disk->part,
                                             .takes_at_once = true,
                                             .wanted = options->wanted};
    snprintf(disk->volume.name, sizeof(disk->volume.name), "%s", options->name);
    disk->server.tool = (struct gw_tool){.pid = -1, .pid_fd = -1, .log_fd = -1};
    disk->written = calloc(options->size / UNIT / 64 + 1, sizeof(*disk->written));
    error =
        disk->written ? check_options(disk, options) : gw_fail(-ENOMEM, "no memory for a volume");
    if (!error)
        error = make_image(disk, options);
    if (!error)
        error = serve(disk, options);
    if (error) {
        gw_error_take(error, &kept);
        abort_target(&disk->volume);
        close_target(&disk->volume);
        return gw_error_raise(&kept);
    }
    *out = &disk->volume;
    return 0;
}
