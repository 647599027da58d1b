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
#include "engine/session/offer.h"
#include "engine/session/source.h"
#include "engine/volume/disk.h"

static int target_format(const struct gw_copy_request *request, enum gw_image_format source,
                         enum gw_image_format *out)
{
    *out = source;
    return request->target_format ? gw_image_format_parse(request->target_format, out) : 0;
}

/* What the new image is to be, from the old one and the request. */
static int describe(const struct gw_copy_request *request, struct gw_source_volume *volume,
                    struct gw_offered_volume *out)
{
    const struct gw_image_info *info = gw_disk_source_info(volume);
    char copy[PATH_MAX];
    int error;

    *out = (struct gw_offered_volume){
        .kind = GW_VOLUME_DISK,
        .size = volume->size,
        .data_bytes = gw_source_data_bytes(volume),
        .is_fixed = request->is_fixed || info->is_fixed,
        .block_size = info->block_size,
        .logical_sector_size = info->logical_sector_size,
        .physical_sector_size = info->physical_sector_size,
    };
    snprintf(out->name, sizeof(out->name), "%s", volume->name);
    snprintf(copy, sizeof(copy), "%s", request->source_path);
    if (snprintf(out->file_name, sizeof(out->file_name), "%s", basename(copy)) >=
            (int)sizeof(out->file_name) ||
        snprintf(out->target, sizeof(out->target), "%s",
                 request->target_path ? request->target_path : "") >= (int)sizeof(out->target))
        return gw_fail(-ENAMETOOLONG, "'%s' is too long a name", request->source_path);
    error = target_format(request, info->format, &out->format);
    if (error)
        return error;
    /* A VHDX keeps its identity; what becomes one gets a new one. */
    out->has_disk_id = info->format == GW_IMAGE_VHDX && out->format == GW_IMAGE_VHDX;
    memcpy(out->disk_id, info->disk_id, sizeof(out->disk_id));
    if (out->format != GW_IMAGE_VHDX)
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
                       const struct gw_copy_request *request, struct gw_source_volume *volume,
                       struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_offered_volume offered;
    struct gw_source *source;
    struct gw_error cause;
    int error = describe(request, volume, &offered);

    if (error)
        return error;
    error = gw_source_connect(environment, &request->peer, &request->link, progress, &source);
    if (error)
        return error;
    error = send_copy(source, request, volume, &offered, out);
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

    if (resolved && !is_folder) {
        char probe[PATH_MAX];

        snprintf(probe, sizeof(probe), "%s/.", resolved);
        free(resolved);
        resolved = realpath(probe, NULL);
        is_folder = resolved != NULL;
    }
    free(resolved);
    length = (size_t)snprintf(out, PATH_MAX, is_folder ? "%s/%s" : "%s", request->target_path,
                              offered->file_name);
    return length < PATH_MAX
               ? 0
               : gw_fail(-ENAMETOOLONG, "'%s' is too long a name", request->target_path);
}

static int copy_local(const struct gw_environment *environment,
                      const struct gw_copy_request *request, struct gw_source_volume *volume,
                      struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_offered_volume offered;
    struct gw_disk_target_options options;
    char path[PATH_MAX], epoch[2 * GW_ID_SIZE + 1];
    uint8_t id[GW_ID_SIZE];
    int error = describe(request, volume, &offered);

    if (!error)
        error = gw_id_random(id);
    if (!error)
        error = local_path(request, &offered, path);
    if (error)
        return error;
    gw_id_format(id, epoch);
    options = (struct gw_disk_target_options){
        .name = offered.name,
        .path = path,
        .epoch = epoch,
        .format = offered.format,
        .is_fixed = offered.is_fixed,
        .size = offered.size,
        .block_size = offered.block_size,
        .logical_sector_size = offered.logical_sector_size,
        .physical_sector_size = offered.physical_sector_size,
        .disk_id = offered.has_disk_id ? offered.disk_id : NULL,
    };
    begin_phase(progress, gw_source_data_bytes(volume));
    json_object_set_new(out->detail, "volumes",
                        json_pack("[{s:s,s:s}]", "name", offered.name, "path", path));
    return gw_local_copy(volume, &options, request->verify, progress, out->detail);
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
    struct gw_disk_source_options options = {.name = "disk", .path = request->source_path};
    struct gw_source_volume *volume = NULL;
    int error = 0;

    out->detail = json_object();
    out->exit_code = GW_EXIT_FAILED;
    if (request->source_format)
        error = gw_image_format_parse(request->source_format, &options.format);
    if (!error)
        error = gw_disk_source_open(&options, &volume);
    if (!error) {
        error = request->is_remote ? copy_remote(environment, request, volume, progress, out)
                                   : copy_local(environment, request, volume, progress, out);
        volume->ops->close(volume);
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
