/* SPDX-License-Identifier: Apache-2.0 */
/* The target's volumes that are files: made from the offer, finished or dropped. */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/error.h"
#include "engine/session/offer.h"
#include "engine/session/serve.h"
#include "engine/session/storage.h"
#include "engine/volume/disk.h"
#include "engine/volume/nbd.h"

/* What the disks of one offer need of each file system, so that two that fit alone do not fail together. */
struct space {
    unsigned count;
    struct {
        dev_t device;
        uint64_t needed;
    } places[GW_VOLUMES_MAX];
};

static int check_space(struct space *space, const struct gw_offered_volume *offered,
                       const char *path)
{
    uint64_t needed = offered->is_fixed ? offered->size : offered->data_bytes, available;
    char folder[PATH_MAX];
    struct stat info;
    unsigned i = 0;
    int error = gw_storage_free(path, &available);

    snprintf(folder, sizeof(folder), "%s", path);
    if (!error && stat(dirname(folder), &info))
        error = gw_fail_errno(-errno, "the folder of %s", path);
    if (error)
        return error;
    while (i < space->count && space->places[i].device != info.st_dev)
        i++;
    if (i == space->count) {
        space->places[space->count].device = info.st_dev;
        space->places[space->count++].needed = 0;
    }
    space->places[i].needed += needed;
    if (space->places[i].needed <= available)
        return 0;
    return gw_fail(-ENOSPC,
                   "%s and the disks before it need %llu MiB, but only %llu MiB are free at %s: "
                   "free some, or choose another folder",
                   offered->name, (unsigned long long)(space->places[i].needed >> 20),
                   (unsigned long long)(available >> 20), path);
}

/* The image's own name, with the ending of its new format when that differs. */
static void default_name(const struct gw_offered_volume *offered, char *out, size_t size)
{
    const char *dot = strrchr(offered->file_name, '.');
    size_t stem = dot ? (size_t)(dot - offered->file_name) : strlen(offered->file_name);
    bool keeps = !dot || offered->foreign[0] ||
                 (strcmp(dot, ".vhdx") == 0) == (offered->format == GW_IMAGE_VHDX);

    if (keeps)
        snprintf(out, size, "%s", offered->file_name);
    else
        snprintf(out, size, "%.*s.%s", (int)stem, offered->file_name,
                 gw_image_format_name(offered->format));
}

static int make_foreign(struct gw_serve *serve, const struct gw_offered_volume *offered,
                        const char *path, struct gw_target_volume **out)
{
    struct gw_nbd_target_options options = {
        .name = offered->name,
        .path = path,
        .epoch = serve->epoch,
        .format = offered->foreign,
        .size = offered->size,
        .cluster_size = offered->block_size,
    };

    return gw_nbd_target_create(&options, out);
}

static int make_disk(struct gw_serve *serve, struct space *space,
                     const struct gw_offered_volume *offered, char *path,
                     struct gw_target_volume **out)
{
    struct gw_disk_target_options options = {
        .name = offered->name,
        .path = path,
        .epoch = serve->epoch,
        .format = offered->format,
        .is_fixed = offered->is_fixed,
        .size = offered->size,
        .block_size = offered->block_size,
        .logical_sector_size = offered->logical_sector_size,
        .physical_sector_size = offered->physical_sector_size,
        .disk_id = offered->has_disk_id ? offered->disk_id : NULL,
    };
    char name[256];
    uint64_t copied = 0;
    int error;

    default_name(offered, name, sizeof(name));
    error = gw_storage_resolve(serve->environment, offered->target, name, path);
    if (!error)
        error = check_space(space, offered, path);
    if (!error)
        error = gw_serve_note_disk(serve, offered, path, &copied);
    options.is_continued = copied > 0;
    json_array_append_new(serve->kept, json_integer((json_int_t)copied));
    if (error)
        return error;
    return offered->foreign[0] ? make_foreign(serve, offered, path, out)
                               : gw_disk_target_create(&options, out);
}

int gw_serve_make_volumes(struct gw_serve *serve, const json_t *offer, json_t *names)
{
    struct space space = {0};
    json_t *list;
    int error = gw_message_array(offer, "volumes", GW_VOLUMES_MAX, &list);

    serve->kept = json_array();
    if (!error)
        error = gw_serve_begin_partial(serve, offer);
    for (size_t i = 0; !error && i < json_array_size(list); i++) {
        struct gw_offered_volume offered;
        char path[PATH_MAX];

        error = gw_offer_parse_volume(json_array_get(list, i), &offered);
        serve->volume_count = (unsigned)i + 1;
        if (error || offered.kind == GW_VOLUME_RAM)
            continue;
        if (serve->environment->drop_disks) {
            error = gw_null_target_create(offered.name, offered.size, &serve->volumes[i]);
            snprintf(path, sizeof(path), "dropped");
        } else {
            error = make_disk(serve, &space, &offered, path, &serve->volumes[i]);
        }
        if (!error) {
            serve->paths[i] = strdup(path);
            if (!serve->paths[i])
                error = gw_fail(-ENOMEM, "no memory for a path");
            serve->formats[i] = offered.format;
            memcpy(serve->foreign[i], offered.foreign, sizeof(serve->foreign[i]));
        }
        if (!error && json_array_append_new(
                          names, json_pack("{s:s,s:s}", "name", offered.name, "path", path)))
            error = gw_fail(-EILSEQ, "the path of %s on this host is not UTF-8 text", offered.name);
    }
    return error;
}

int gw_serve_sync(struct gw_serve *serve)
{
    int error = 0;

    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            error = serve->volumes[i]->ops->sync(serve->volumes[i]);
    return error;
}

int gw_serve_take_digests(struct gw_serve *serve, const json_t *message)
{
    json_t *list;
    int error = gw_message_array(message, "digests", GW_VOLUMES_MAX, &list);

    for (size_t i = 0; !error && i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));

        if (i >= serve->volume_count || !text)
            return gw_fail(-EPROTO, "digests that fit no volume");
        error = gw_id_parse(text, serve->digests[i]);
        serve->has_digest[i] = !error;
    }
    return error;
}

static int verify(struct gw_serve *serve, unsigned index)
{
    struct gw_target_volume *volume = serve->volumes[index];
    uint8_t digest[GW_VERIFY_SIZE];
    int error;

    if (!serve->has_digest[index])
        return 0;
    if (volume->memory)
        error = gw_verify_memory(volume->memory, volume->size, digest);
    else if (serve->foreign[index][0])
        error = gw_verify_foreign(serve->paths[index], serve->foreign[index], digest);
    else
        error = gw_verify_image(serve->paths[index], serve->formats[index], digest);
    if (error || memcmp(digest, serve->digests[index], GW_VERIFY_SIZE) == 0)
        return error;
    return gw_fail(-EBADMSG, "%s: what the target holds differs from the source", volume->name);
}

int gw_serve_finish(struct gw_serve *serve)
{
    int error = 0;

    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            error = serve->volumes[i]->ops->finish(serve->volumes[i]);
    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            error = verify(serve, i);
    return error;
}

void gw_serve_drop_volumes(struct gw_serve *serve, bool keep)
{
    for (unsigned i = 0; i < serve->volume_count; i++) {
        struct gw_target_volume *volume = serve->volumes[i];

        if (!volume)
            continue;
        if (!keep)
            volume->ops->abort(volume);
        volume->ops->close(volume);
        free(serve->paths[i]);
        serve->paths[i] = NULL;
        serve->volumes[i] = NULL;
    }
}
