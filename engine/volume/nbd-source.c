/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a disk through NBD. What is allocated is asked for in windows, which every collect makes
 * stale: a granule that was written for the first time must not be taken for a hole.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/volume/nbd-client.h"
#include "engine/volume/nbd-server.h"
#include "engine/volume/nbd.h"

#define GRANULE         GW_DISK_GRANULARITY
#define WINDOW_GRANULES (GW_NBD_STATUS_MAX / GRANULE)

/* The kind of every granule of a part of the disk. */
struct window {
    uint64_t first, count; /* granules; count 0: nothing is known */
    uint64_t told;         /* bytes from the window's begin that the server has told of */
    uint8_t kinds[WINDOW_GRANULES];
};

struct nbd_source {
    struct gw_source_volume volume;
    struct gw_nbd_client *client;
    struct gw_nbd_server server; /* of an image that we open ourselves, and client is its */
    bool has_server;
    struct gw_image
        *file; /* of that image at rest, as bytes: locked, and is it still the same? Else NULL */
    struct gw_nbd_source_options options;
    pthread_mutex_t lock; /* protects window; requests for it run under it, in no other lock */
    struct window window;
};

static_assert(GW_EXTENT_DATA < GW_EXTENT_ZERO && GW_EXTENT_ZERO < GW_EXTENT_ABSENT,
              "a granule is the most of what its parts are");

static struct nbd_source *of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct nbd_source, volume);
}

/* A granule that the run only touches is what the more of both is. */
static void take_run(void *context, const struct gw_extent *run)
{
    struct window *window = context;
    uint64_t begin = run->offset - window->first * GRANULE;
    uint64_t end = gw_min(begin + run->length, WINDOW_GRANULES * (uint64_t)GRANULE);

    for (uint64_t i = begin / GRANULE; i * GRANULE < end; i++)
        window->kinds[i] = (uint8_t)gw_min(window->kinds[i], (uint8_t)run->kind);
    window->told = end;
}

/* Asks what the granule at offset and those behind it are. */
static int fill(struct nbd_source *disk, uint64_t offset)
{
    struct window *window = &disk->window;
    uint64_t begin = gw_align_down(offset, GRANULE);
    uint64_t length = gw_min(disk->volume.size - begin, GW_NBD_STATUS_MAX);
    int error = 0;

    window->count = 0;
    window->first = begin / GRANULE;
    window->told = 0;
    memset(window->kinds, GW_EXTENT_ABSENT, sizeof(window->kinds));
    if (!gw_nbd_client_has_allocation(disk->client)) {
        struct gw_extent all = {.offset = begin, .length = length, .kind = GW_EXTENT_DATA};

        take_run(window, &all);
    }
    /* An answer may stop within the first granule; a whole one is needed. */
    while (!error && window->told < gw_min(length, GRANULE))
        error = gw_nbd_client_status(disk->client, begin + window->told, length - window->told,
                                     take_run, window);
    if (error)
        return error;
    window->count = window->told / GRANULE;
    if (window->told == length && length % GRANULE)
        window->count++;
    return 0;
}

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    struct nbd_source *disk = of(volume);
    struct window *window = &disk->window;
    uint64_t granule = offset / GRANULE, last;
    int error = 0;

    if (offset >= volume->size)
        return gw_fail(-EINVAL, "%s: no extent at %llu", volume->name, (unsigned long long)offset);
    pthread_mutex_lock(&disk->lock);
    if (granule < window->first || granule - window->first >= window->count)
        error = fill(disk, offset);
    if (!error) {
        last = granule - window->first;
        out->kind = window->kinds[last];
        while (last < window->count && window->kinds[last] == out->kind)
            last++;
        end = gw_min((window->first + last) * GRANULE, end);
        out->offset = offset;
        out->length = end - offset;
    }
    pthread_mutex_unlock(&disk->lock);
    return error;
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    *out = (struct gw_location){.kind = GW_EXTENT_DATA, .where = GW_BY_CALL, .length = length};
    return 0;
}

static int read_bytes(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return gw_nbd_client_read(of(volume)->client, offset, into, length);
}

static void copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length)
{
}

static int serve(struct nbd_source *disk, const struct gw_nbd_server_options *options)
{
    int error = gw_nbd_server_start(options, &disk->server);

    disk->has_server = !error;
    disk->client = error ? NULL : disk->server.client;
    return error;
}

/* Looks at an image in use afresh: after the hypervisor wrote its tables out. */
static int look_again(struct nbd_source *disk)
{
    struct gw_nbd_server_options options = {
        .name = disk->volume.name,
        .path = disk->options.path,
        .format = disk->options.format,
        .is_read_only = true,
        .is_shared = true,
    };
    int error = disk->options.settle(disk->options.settle_context);

    if (disk->has_server)
        gw_nbd_server_kill(&disk->server);
    disk->has_server = false;
    disk->client = NULL;
    return error ? error : serve(disk, &options);
}

static int collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    struct nbd_source *disk = of(volume);
    const struct gw_disk_dirty *tracker = disk->options.dirty;
    int error;

    if (!tracker)
        return gw_fail(-ENOTSUP, "%s is at rest: nothing tracks its writes", volume->name);
    error = tracker->collect(tracker->context, dirty);
    pthread_mutex_lock(&disk->lock);
    disk->window.count = 0;
    pthread_mutex_unlock(&disk->lock);
    /* What nobody wrote lies where it lay. */
    if (!error && disk->options.path && gw_bitmap_count(dirty) > 0)
        error = look_again(disk);
    return error;
}

/* Locks keep QEMU off the file of an image at rest, and nobody else. Of an export nothing can be told. */
static int unchanged(struct gw_source_volume *volume)
{
    return of(volume)->file ? gw_image_unchanged(of(volume)->file) : 0;
}

static void close_source(struct gw_source_volume *volume)
{
    struct nbd_source *disk = of(volume);

    if (disk->has_server)
        gw_nbd_server_kill(&disk->server);
    else
        gw_nbd_client_close(disk->client);
    gw_image_close(disk->file);
    pthread_mutex_destroy(&disk->lock);
    free(disk);
}

static const struct gw_source_ops ops = {
    .next_extent = next_extent,
    .locate = locate,
    .read = read_bytes,
    .copied = copied,
    .collect = collect,
    .unchanged = unchanged,
    .close = close_source,
};

static int new_source(const char *name, struct nbd_source **out)
{
    struct nbd_source *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return gw_fail(-ENOMEM, "no memory for a volume");
    pthread_mutex_init(&disk->lock, NULL);
    disk->volume = (struct gw_source_volume){
        .ops = &ops, .kind = GW_VOLUME_DISK, .granularity = GRANULE, .needs_copy = true};
    snprintf(disk->volume.name, sizeof(disk->volume.name), "%s", name);
    *out = disk;
    return 0;
}

static int check_size(const struct nbd_source *disk)
{
    uint64_t found = gw_nbd_client_size(disk->client);

    return found == disk->options.size
               ? 0
               : gw_fail(-ESTALE, "%s: its NBD export has %llu bytes and the disk %llu",
                         disk->volume.name, (unsigned long long)found,
                         (unsigned long long)disk->options.size);
}

int gw_nbd_source_open(const struct gw_nbd_source_options *options, struct gw_source_volume **out)
{
    struct gw_nbd_client_options client = {
        .name = options->name,
        .socket = options->socket,
        .export = options->export,
        .has_allocation = true,
        .pid_fd = -1,
    };
    struct nbd_source *disk;
    int error = new_source(options->name, &disk);

    if (error)
        return error;
    disk->options = *options;
    error = options->path ? look_again(disk) : gw_nbd_client_open(&client, &disk->client);
    if (!error)
        error = check_size(disk);
    if (error) {
        close_source(&disk->volume);
        return error;
    }
    disk->volume.size = options->size;
    disk->volume.is_still = options->dirty == NULL;
    *out = &disk->volume;
    return 0;
}

int gw_nbd_source_open_image(const char *path, const char *format, struct gw_source_volume **out)
{
    struct gw_nbd_server_options options = {
        .name = "image", .path = path, .format = format, .is_read_only = true};
    struct gw_image_open_options bytes = {.path = path, .format = GW_IMAGE_RAW};
    struct gw_nbd_image image;
    struct nbd_source *disk;
    struct gw_error kept;
    int error = new_source("image", &disk);

    if (error)
        return error;
    /* Before anything is read of it. */
    error = gw_image_open(&bytes, &disk->file);
    if (!error)
        error = gw_nbd_image_check(path, format, &image);
    if (!error)
        error = serve(disk, &options);
    if (error) {
        gw_error_take(error, &kept);
        close_source(&disk->volume);
        return gw_error_raise(&kept);
    }
    disk->volume.size = gw_nbd_client_size(disk->client);
    disk->volume.is_still = true;
    *out = &disk->volume;
    return 0;
}

int gw_nbd_source_open_uri(const char *uri, struct gw_source_volume **out)
{
    struct gw_nbd_client_options client = {.name = "image", .uri = uri, .pid_fd = -1};
    struct nbd_source *disk;
    int error = new_source("image", &disk);

    if (error)
        return error;
    error = gw_nbd_client_open(&client, &disk->client);
    if (!error && gw_nbd_client_size(disk->client) == 0)
        error = gw_fail(-EUCLEAN, "%s is empty: there is no disk in it", uri);
    if (error) {
        struct gw_error kept;

        gw_error_take(error, &kept);
        close_source(&disk->volume);
        return gw_error_raise(&kept);
    }
    disk->volume.size = gw_nbd_client_size(disk->client);
    disk->volume.is_still = true;
    *out = &disk->volume;
    return 0;
}
