/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes into an NBD export that somebody else serves. Unlike a new image it may hold old bytes, so
 * every range that is to read as zeroes is looked at, and zeroed where it does not. What makes it look
 * like a disk comes last (edges.c).
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/volume/edges.h"
#include "engine/volume/nbd-client.h"
#include "engine/volume/nbd.h"

struct nbd_export {
    struct gw_target_volume volume;
    struct gw_nbd_client *client;
    char uri[PATH_MAX], warning[200];
};

static struct nbd_export *of(struct gw_target_volume *volume)
{
    return gw_container_of(volume, struct nbd_export, volume);
}

bool gw_nbd_is_uri(const char *text)
{
    static const char *const schemes[] = {"nbd://", "nbds://", "nbd+unix://", "nbds+unix://"};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(schemes); i++)
        if (strncmp(text, schemes[i], strlen(schemes[i])) == 0)
            return true;
    return false;
}

static int locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA, .where = GW_BY_CALL, .length = gw_min(length, GW_NBD_REQUEST_MAX)};
    return 0;
}

static int write_bytes(struct gw_target_volume *volume, uint64_t offset, const void *from,
                       uint64_t length)
{
    return gw_nbd_client_write(of(volume)->client, offset, from, length);
}

/* One answer about allocation: how far it goes, and what in it is to be zeroed. */
struct look {
    uint64_t end, first, last; /* first < last: there is something */
};

static void take_run(void *context, const struct gw_extent *run)
{
    struct look *look = context;

    look->end = run->offset + run->length;
    if (run->kind != GW_EXTENT_DATA)
        return;
    if (look->first == look->last)
        look->first = run->offset;
    look->last = look->end;
}

static int zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    struct nbd_export *disk = of(volume);
    uint64_t end = offset + length;
    int error = 0;

    if (!gw_nbd_client_has_allocation(disk->client))
        return gw_nbd_client_zero(disk->client, offset, length);
    while (!error && offset < end) {
        struct look look = {.end = offset};

        error = gw_nbd_client_status(disk->client, offset, end - offset, take_run, &look);
        if (!error && look.first < look.last)
            error = gw_nbd_client_zero(disk->client, look.first, look.last - look.first);
        offset = look.end;
    }
    return error;
}

static int sync_export(struct gw_target_volume *volume)
{
    return gw_nbd_client_flush(of(volume)->client, volume->wanted);
}

/* Somebody may want to read it back from a server that takes one client at a time. */
static int complete(struct gw_target_volume *volume)
{
    int error = of(volume)->client ? sync_export(volume) : 0;

    gw_nbd_client_close(of(volume)->client);
    of(volume)->client = NULL;
    return error;
}

/* Nothing was made. */
static void abort_target(struct gw_target_volume *volume)
{
}

static void close_target(struct gw_target_volume *volume)
{
    gw_nbd_client_close(of(volume)->client);
    free(of(volume));
}

static const struct gw_target_ops ops = {
    .locate = locate,
    .write = write_bytes,
    .zero = zero,
    .sync = sync_export,
    .view = gw_target_no_view,
    .complete = complete,
    .finish = complete,
    .abort = abort_target,
    .close = close_target,
};

static int reopen(struct gw_target_volume *volume)
{
    struct nbd_export *disk = of(volume);
    struct gw_nbd_client_options options = {
        .name = volume->name, .uri = disk->uri, .is_writer = true, .pid_fd = -1};
    int error;

    gw_nbd_client_close(disk->client);
    disk->client = NULL;
    error = gw_nbd_client_open(&options, &disk->client);
    if (!error && gw_nbd_client_size(disk->client) < volume->size)
        error = gw_fail(-ENOSPC, "%s has %llu bytes, the disk needs %llu: give it a larger export",
                        disk->uri, (unsigned long long)gw_nbd_client_size(disk->client),
                        (unsigned long long)volume->size);
    return error;
}

static int read_export(struct gw_target_volume *volume, uint64_t offset, void *into,
                       uint64_t length)
{
    int error = 0;

    for (uint64_t moved = 0, part; !error && moved < length; moved += part) {
        part = gw_min(length - moved, GW_NBD_REQUEST_MAX);
        error =
            gw_nbd_client_read(of(volume)->client, offset + moved, (uint8_t *)into + moved, part);
    }
    return error;
}

int gw_nbd_target_open_uri(const char *name, const char *uri, uint64_t size,
                           struct gw_target_volume **out)
{
    struct nbd_export *disk = calloc(1, sizeof(*disk));
    struct gw_error kept;
    int error;

    if (!disk)
        return gw_fail(-ENOMEM, "no memory for a volume");
    snprintf(disk->uri, sizeof(disk->uri), "%s", uri);
    disk->volume = (struct gw_target_volume){.ops = &ops,
                                             .kind = GW_VOLUME_DISK,
                                             .size = size,
                                             .place = disk->uri,
                                             .takes_at_once = true};
    snprintf(disk->volume.name, sizeof(disk->volume.name), "%s", name);
    error = reopen(&disk->volume);
    if (!error && !gw_nbd_client_can_flush(disk->client)) {
        snprintf(disk->warning, sizeof(disk->warning),
                 "%s: its NBD server knows no flush: what it holds when the copy is done may still "
                 "be lost with its host",
                 name);
        disk->volume.warning = disk->warning;
    }
    if (error) {
        gw_error_take(error, &kept);
        close_target(&disk->volume);
        return gw_error_raise(&kept);
    }
    return gw_edges_target_new(
        &disk->volume,
        &(struct gw_edges_options){.reopen = reopen, .read = read_export, .path = disk->uri}, out);
}
