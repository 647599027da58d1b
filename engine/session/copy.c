/* SPDX-License-Identifier: Apache-2.0 */
/* Copies an image that nobody uses: to a peer, or from one local path to another. */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "engine/session/copy-plan.h"
#include "engine/session/local.h"
#include "engine/session/source.h"
#include "engine/session/space.h"
#include "engine/volume/nbd.h"

static void begin_phase(struct gw_progress *progress, uint64_t total)
{
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_DISKS;
    progress->data.round = 1;
    progress->data.bytes_total = total;
    pthread_mutex_unlock(&progress->lock);
}

static int send_volumes(struct gw_source *source, const struct gw_copy_plan *plan)
{
    struct gw_round *round;
    int error = gw_round_new(&round);

    if (error)
        return error;
    for (unsigned i = 0; i < plan->count && !error; i++)
        error = gw_round_add(round, (uint16_t)i, plan->volumes[i], NULL);
    if (!error)
        error = gw_source_run_round(source, round);
    gw_round_free(round);
    for (unsigned i = 0; i < plan->count && !error; i++)
        error = plan->volumes[i]->ops->unchanged(plan->volumes[i]);
    return error;
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

static json_t *make_offer(const struct gw_source *source, const struct gw_copy_plan *plan)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < plan->count; i++)
        json_array_append_new(list, gw_offer_volume(&plan->offered[i]));
    return json_pack("{s:s,s:s,s:s,s:o}", "type", "offer", "kind", "copy", "epoch", source->epoch,
                     "volumes", list);
}

static int send_copy(struct gw_source *source, const struct gw_copy_request *request,
                     struct gw_copy_plan *plan, struct gw_outcome *out)
{
    json_t *reply, *finished, *offer = make_offer(source, plan);
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
    for (unsigned i = 0; i < plan->count; i++)
        gw_sender_add_volume(source->sender, (uint16_t)i, plan->volumes[i]);
    begin_phase(source->progress, gw_copy_plan_bytes(plan));
    error = send_volumes(source, plan);
    if (!error && request->verify)
        error = gw_source_send_digests(source, plan->volumes, plan->count);
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
                       const struct gw_copy_request *request, struct gw_copy_plan *plan,
                       struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_source *source;
    struct gw_error cause;
    int error = gw_source_connect(environment, &request->peer, &request->link, progress, &source);

    if (error)
        return error;
    error = send_copy(source, request, plan, out);
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

/* Where each file goes; what their file systems have to have for all of them is checked first. */
static int place_files(const struct gw_copy_request *request, const struct gw_copy_plan *plan,
                       char (*paths)[PATH_MAX], json_t *list)
{
    struct gw_space space = {0};
    int error = 0;

    for (unsigned i = 0; i < plan->count && !error; i++) {
        char warning[GW_SPACE_WARNING_MAX] = "";

        if (plan->count > 1)
            snprintf(paths[i], PATH_MAX, "%s", plan->offered[i].target);
        else
            error = local_path(request, &plan->offered[i], paths[i]);
        if (!error && !gw_nbd_is_uri(paths[i]))
            error = gw_space_add(&space, &plan->offered[i], paths[i], warning);
        if (!error)
            json_array_append_new(list,
                                  json_pack("{s:s,s:s,s:s*}", "name", plan->offered[i].name, "path",
                                            paths[i], "warning", warning[0] ? warning : NULL));
    }
    return error;
}

/* A block device that stands there is not the copy's to remove. */
static void remove_file(const char *path)
{
    struct stat info;

    if (lstat(path, &info) == 0 && S_ISREG(info.st_mode))
        unlink(path);
}

/* One file after the other. When one fails, those before it are of no use and are removed. */
static int copy_files(const struct gw_copy_request *request, const struct gw_copy_plan *plan,
                      char (*paths)[PATH_MAX], struct gw_progress *progress, json_t *detail)
{
    struct gw_error cause;
    unsigned done = 0;
    int error = 0;

    while (done < plan->count && !error) {
        struct gw_local_options options = {
            .offered = &plan->offered[done], .path = paths[done], .verify = request->verify};

        error = gw_local_copy(plan->volumes[done], &options, progress, detail);
        if (!error)
            done++;
    }
    if (!error)
        return 0;
    gw_error_take(error, &cause);
    while (done > 0)
        remove_file(paths[--done]);
    return gw_error_raise(&cause);
}

static int copy_local(const struct gw_copy_request *request, const struct gw_copy_plan *plan,
                      struct gw_progress *progress, struct gw_outcome *out)
{
    char(*paths)[PATH_MAX] = calloc(plan->count, sizeof(*paths));
    json_t *list = json_array();
    int error = paths ? place_files(request, plan, paths, list)
                      : gw_fail(-ENOMEM, "no memory for the paths of a copy");

    json_object_set_new(out->detail, "volumes", list);
    if (!error) {
        begin_phase(progress, gw_copy_plan_bytes(plan));
        gw_offer_note_warnings(list, progress);
        error = copy_files(request, plan, paths, progress, out->detail);
    }
    free(paths);
    return error;
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
    struct gw_copy_plan plan;
    int error;

    out->detail = json_object();
    out->exit_code = GW_EXIT_FAILED;
    error = gw_copy_plan_make(request, &plan);
    if (!error) {
        error = request->is_remote ? copy_remote(environment, request, &plan, progress, out)
                                   : copy_local(request, &plan, progress, out);
        gw_copy_plan_free(&plan);
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
