/* SPDX-License-Identifier: Apache-2.0 */
/* Copies an image that nobody uses: to a peer, or from one local path to another. */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "engine/session/local.h"
#include "engine/session/source.h"
#include "engine/session/space.h"
#include "engine/volume/nbd.h"

/* What the new image is to be, from the old one and the request. */
static int describe(const struct gw_copy_request *request, const struct gw_endpoint *source,
                    struct gw_offered_volume *out)
{
    const struct gw_image_info *info = &source->info;
    char copy[PATH_MAX];
    int error = 0;

    *out = (struct gw_offered_volume){
        .kind = GW_VOLUME_DISK,
        .size = source->volume->size,
        .data_bytes = gw_source_data_bytes(source->volume),
        .format = source->foreign[0] ? GW_IMAGE_PROBE : info->format,
        .is_fixed = request->is_fixed || info->is_fixed,
        .block_size = info->block_size,
        .logical_sector_size = info->logical_sector_size,
        .physical_sector_size = info->physical_sector_size,
    };
    memcpy(out->foreign, source->foreign, sizeof(out->foreign));
    snprintf(out->name, sizeof(out->name), "%s", source->volume->name);
    snprintf(copy, sizeof(copy), "%s",
             gw_nbd_is_uri(request->source_path) ? "disk.raw" : request->source_path);
    if (snprintf(out->file_name, sizeof(out->file_name), "%s", basename(copy)) >=
            (int)sizeof(out->file_name) ||
        snprintf(out->target, sizeof(out->target), "%s",
                 request->target_path ? request->target_path : "") >= (int)sizeof(out->target))
        return gw_fail(-ENAMETOOLONG, "'%s' is too long a name", request->source_path);
    if (request->target_format)
        error = gw_offer_set_format(request->target_format, out);
    else if (gw_nbd_is_uri(out->target))
        error = gw_offer_set_format("raw", out);
    if (error)
        return error;
    /* A VHDX keeps its identity; what becomes one gets a new one. Blocks are the format's own. */
    out->has_disk_id = info->format == GW_IMAGE_VHDX && out->format == GW_IMAGE_VHDX;
    memcpy(out->disk_id, info->disk_id, sizeof(out->disk_id));
    if (strcmp(gw_offer_format(out),
               source->foreign[0] ? source->foreign : gw_image_format_name(info->format)) != 0)
        out->block_size = 0;
    return 0;
}

static void begin_phase(struct gw_progress *progress, uint64_t total)
{
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_DISKS;
    progress->data.round = 1;
    progress->data.bytes_total = total;
    pthread_mutex_unlock(&progress->lock);
}

static int send_volume(struct gw_source *source, struct gw_source_volume *volume)
{
    struct gw_round *round;
    int error = gw_round_new(&round);

    if (error)
        return error;
    error = gw_round_add(round, 0, volume, NULL);
    if (!error)
        error = gw_source_run_round(source, round);
    gw_round_free(round);
    return error ? error : volume->ops->unchanged(volume);
}

static void note_path(struct gw_source *source)
{
    struct gw_progress_data *data = &source->progress->data;
    char transport[sizeof(data->transport)];

    gw_sender_describe(source->sender, transport, sizeof(transport));
    pthread_mutex_lock(&source->progress->lock);
    snprintf(data->path, sizeof(data->path), "%s", gw_sender_path(source->sender, 0));
    memcpy(data->transport, transport, sizeof(transport));
    pthread_mutex_unlock(&source->progress->lock);
}

static int send_copy(struct gw_source *source, const struct gw_copy_request *request,
                     struct gw_source_volume *volume, const struct gw_offered_volume *offered,
                     struct gw_outcome *out)
{
    json_t *reply, *finished,
        *offer = json_pack("{s:s,s:s,s:s,s:[o]}", "type", "offer", "kind", "copy", "epoch",
                           source->epoch, "volumes", gw_offer_volume(offered));
    int error;

    json_object_set_new(offer, "reconnect_s", json_integer(source->reconnect_s));
    error = gw_source_exchange(source, offer, "accepted", &reply);

    if (error) {
        /* Nothing was copied: a check of the target says no. */
        out->exit_code = error == -ECANCELED ? GW_EXIT_FAILED : GW_EXIT_BLOCKED;
        return error;
    }
    json_object_set(out->detail, "volumes", json_object_get(reply, "volumes"));
    gw_offer_note_warnings(json_object_get(reply, "volumes"), source->progress);
    error = gw_source_open_channels(source, reply);
    json_decref(reply);
    if (error)
        return error;
    source->may_regrow = true;
    gw_sender_add_volume(source->sender, 0, volume);
    begin_phase(source->progress, gw_source_data_bytes(volume));
    error = send_volume(source, volume);
    if (!error && request->verify)
        error = gw_source_send_digests(source, &volume, 1);
    note_path(source);
    gw_source_report(source, out->detail);
    json_object_set_new(out->detail, "path", json_string(source->progress->data.path));
    if (error) {
        /* So that the target drops what it has at once. */
        gw_message_send_error(source->control, error);
        return error;
    }
    error = gw_source_exchange(source, json_pack("{s:s}", "type", "finish"), "finished", &finished);
    if (error)
        return error;
    json_decref(finished);
    gw_message_send_type(source->control, "bye");
    return 0;
}

static int copy_remote(const struct gw_environment *environment,
                       const struct gw_copy_request *request, const struct gw_endpoint *from,
                       struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_offered_volume offered;
    struct gw_source *source;
    struct gw_error cause;
    int error = describe(request, from, &offered);

    if (error)
        return error;
    error = gw_source_connect(environment, &request->peer, &request->link, progress, &source);
    if (error)
        return error;
    error = send_copy(source, request, from->volume, &offered, out);
    gw_error_take(error, &cause);
    /* Closing may leave messages of its own; the cause is what counts. */
    gw_source_close(source);
    return error ? gw_error_raise(&cause) : 0;
}

static int local_path(const struct gw_copy_request *request,
                      const struct gw_offered_volume *offered, char *out)
{
    char *resolved = realpath(request->target_path, NULL);
    size_t length = strlen(request->target_path);
    bool is_folder = length > 0 && request->target_path[length - 1] == '/';
    char name[256];

    if (gw_nbd_is_uri(request->target_path))
        is_folder = false;
    if (resolved && !is_folder) {
        char probe[PATH_MAX];

        snprintf(probe, sizeof(probe), "%s/.", resolved);
        free(resolved);
        resolved = realpath(probe, NULL);
        is_folder = resolved != NULL;
    }
    free(resolved);
    gw_endpoint_name(offered, name, sizeof(name));
    length =
        (size_t)snprintf(out, PATH_MAX, is_folder ? "%s/%s" : "%s", request->target_path, name);
    return length < PATH_MAX
               ? 0
               : gw_fail(-ENAMETOOLONG, "'%s' is too long a name", request->target_path);
}

static int copy_local(const struct gw_copy_request *request, const struct gw_endpoint *source,
                      struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_offered_volume offered;
    struct gw_local_options options = {.offered = &offered, .verify = request->verify};
    char path[PATH_MAX], warning[GW_SPACE_WARNING_MAX] = "";
    struct gw_space space = {0};
    json_t *volumes;
    int error = describe(request, source, &offered);

    if (!error)
        error = local_path(request, &offered, path);
    if (!error && !gw_nbd_is_uri(path))
        error = gw_space_add(&space, &offered, path, warning);
    if (error)
        return error;
    options.path = path;
    begin_phase(progress, offered.data_bytes);
    volumes = json_pack("[{s:s,s:s,s:s*}]", "name", offered.name, "path", path, "warning",
                        warning[0] ? warning : NULL);
    json_object_set_new(out->detail, "volumes", volumes);
    gw_offer_note_warnings(volumes, progress);
    return gw_local_copy(source->volume, &options, progress, out->detail);
}

static enum gw_exit exit_code_of(int error)
{
    switch (error) {
    case 0:
        return GW_EXIT_DONE;
    case -EBADMSG:
    case -ESTALE:
        return GW_EXIT_VERIFY;
    case -EINVAL:
        return GW_EXIT_USAGE;
    default:
        return GW_EXIT_FAILED;
    }
}

int gw_copy_run(const struct gw_environment *environment, const struct gw_copy_request *request,
                struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_endpoint source;
    int error;

    out->detail = json_object();
    out->exit_code = GW_EXIT_FAILED;
    error = gw_endpoint_open(request->source_path, request->source_format, &source);
    if (!error) {
        error = request->is_remote ? copy_remote(environment, request, &source, progress, out)
                                   : copy_local(request, &source, progress, out);
        source.volume->ops->close(source.volume);
    }
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_ENDED;
    progress->data.ended_ns = gw_clock_ns();
    pthread_mutex_unlock(&progress->lock);
    json_object_set_new(out->detail, "seconds",
                        json_real((double)(gw_clock_ns() - progress->data.started_ns) / 1e9));
    if (!error || out->exit_code != GW_EXIT_BLOCKED)
        out->exit_code = exit_code_of(error);
    return error;
}
