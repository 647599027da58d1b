/* SPDX-License-Identifier: Apache-2.0 */
/* The target's volumes that are files: made from the offer, finished or dropped. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "engine/session/endpoint.h"
#include "engine/session/fence.h"
#include "engine/session/serve.h"
#include "engine/session/space.h"
#include "engine/session/storage.h"
#include "engine/volume/disk.h"
#include "engine/volume/nbd.h"

/* What a disk becomes here, and what the source's user should know of it. */
struct made {
    char path[PATH_MAX];
    char warning[GW_SPACE_WARNING_MAX];
};

/* An image that is gone on with, or, when its tables cannot be relied on, a new one. */
static int make_image(struct gw_serve *serve, unsigned volume, struct made *made,
                      struct gw_target_volume **out)
{
    struct gw_offered_volume *offered = &serve->offered[volume];
    const char *epoch = gw_serve_part_epoch(serve, volume);
    struct gw_wanted wanted = {.check = gw_serve_check_wanted, .context = serve};
    int error = gw_endpoint_make(offered, made->path, epoch, wanted, out);

    if (error != -EUCLEAN || !offered->is_continued || offered->is_finished)
        return error;
    snprintf(made->warning, sizeof(made->warning), "%s: it starts over: %.180s", offered->name,
             gw_error_message());
    gw_serve_drop_part(serve, volume);
    offered->is_continued = false;
    return gw_endpoint_make(offered, made->path, epoch, wanted, out);
}

static int make_disk(struct gw_serve *serve, struct gw_space *space, unsigned volume,
                     struct made *made)
{
    struct gw_offered_volume *offered = &serve->offered[volume], needed;
    struct gw_serve_part part = {.durable = 0};
    bool is_uri;
    char name[256];
    int error;

    gw_endpoint_name(offered, name, sizeof(name));
    error = gw_storage_resolve(serve->environment, offered->target, name, made->path);
    is_uri = gw_nbd_is_uri(made->path);
    if (!error && !is_uri) {
        error = gw_serve_look_for_part(serve, volume, made->path, &part);
        needed = *offered;
        needed.already_bytes = part.allocated;
        if (!error)
            error = gw_space_add(space, &needed, made->path, made->warning);
        if (part.reason[0])
            snprintf(made->warning, sizeof(made->warning), "%s", part.reason);
    }
    if (!error && !is_uri)
        error = gw_serve_note_disk(serve, volume, made->path, &part);
    if (!error && !is_uri)
        error = gw_fence_give_up(serve->environment->fences, made->path);
    offered->is_continued = part.durable > 0;
    offered->is_finished = part.is_finished;
    offered->is_name_journalled = serve->vm != NULL;
    if (!error)
        error = make_image(serve, volume, made, &serve->volumes[volume]);
    if (!error && serve->volumes[volume]->warning)
        snprintf(made->warning, sizeof(made->warning), "%s", serve->volumes[volume]->warning);
    json_array_append_new(serve->kept,
                          json_integer(offered->is_continued ? (json_int_t)part.durable : 0));
    return error;
}

int gw_serve_make_volumes(struct gw_serve *serve, const json_t *offer, json_t *names)
{
    struct gw_space space = {0};
    json_t *list;
    int error = gw_message_array(offer, "volumes", GW_VOLUMES_MAX, &list);

    serve->kept = json_array();
    if (!error)
        error = gw_serve_begin_partial(serve, offer);
    for (size_t i = 0; !error && i < json_array_size(list); i++) {
        struct gw_offered_volume *offered = &serve->offered[i];
        struct made made = {.path = "dropped"};
        json_t *told = NULL;

        error = gw_offer_parse_volume(json_array_get(list, i), offered);
        serve->volume_count = (unsigned)i + 1;
        if (error || offered->kind == GW_VOLUME_RAM)
            continue;
        if (serve->environment->drop_disks) {
            error = gw_null_target_create(offered->name, offered->size, &serve->volumes[i]);
        } else {
            error = make_disk(serve, &space, (unsigned)i, &made);
        }
        if (!error) {
            serve->paths[i] = strdup(made.path);
            if (!serve->paths[i])
                error = gw_fail(-ENOMEM, "no memory for a path");
            serve->formats[i] = offered->format;
            memcpy(serve->foreign[i], offered->foreign, sizeof(serve->foreign[i]));
        }
        if (!error)
            told = json_pack("{s:s,s:s}", "name", offered->name, "path", made.path);
        if (told && made.warning[0])
            json_object_set_new(told, "warning", json_string(made.warning));
        if (!error && json_array_append_new(names, told))
            error =
                gw_fail(-EILSEQ, "the path of %s on this host is not UTF-8 text", offered->name);
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

bool gw_serve_is_verified(const struct gw_serve *serve)
{
    for (unsigned i = 0; i < serve->volume_count; i++)
        if (serve->has_digest[i])
            return true;
    return false;
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
    gw_log(GW_LOG_DEBUG, "migration %s: %s is read back", serve->epoch, volume->name);
    if (volume->memory)
        error = gw_verify_ram(volume, digest);
    else if (!volume->place)
        error = gw_fail(-ENOTSUP, "%s cannot be read back", volume->name);
    else
        error = gw_endpoint_digest(volume->place,
                                   serve->foreign[index][0]
                                       ? serve->foreign[index]
                                       : gw_image_format_name(serve->formats[index]),
                                   volume->size, digest);
    if (error || memcmp(digest, serve->digests[index], GW_VERIFY_SIZE) == 0)
        return error;
    return gw_fail(-EBADMSG, "%s: what the target holds differs from the source", volume->name);
}

int gw_serve_finish(struct gw_serve *serve)
{
    int error = 0;

    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            error = serve->volumes[i]->ops->complete(serve->volumes[i]);
    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            error = verify(serve, i);
    if (!error && !serve->vm)
        gw_partial_note_finished(serve->environment, &serve->partial);
    /* The names last: what has one is as the source has it. */
    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            error = serve->volumes[i]->ops->finish(serve->volumes[i]);
    if (!error)
        gw_serve_end_journals(serve);
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
