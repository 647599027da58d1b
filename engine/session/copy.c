/* SPDX-License-Identifier: Apache-2.0 */
/* Copies an image that nobody uses to a peer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "engine/session/compare.h"
#include "engine/session/copy.h"
#include "engine/session/source.h"

void gw_copy_begin_phase(struct gw_progress *progress, uint64_t total)
{
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_DISKS;
    progress->data.round = 1;
    progress->data.bytes_total = total;
    pthread_mutex_unlock(&progress->lock);
}

/* One pass over what is left, or as much of it as fits until the next checkpoint. */
static int send_part(struct gw_source *source, struct gw_copy *copy)
{
    uint64_t interval = gw_copy_sync_interval_ns(copy);
    struct gw_round *round;
    int error = gw_round_new(&round);

    if (error)
        return error;
    if (interval)
        gw_round_set_deadline(round, gw_clock_ns() + interval);
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        if (copy->copied[i] < copy->plan.volumes[i]->size)
            error = gw_round_add_rest(round, (uint16_t)i, copy->plan.volumes[i], copy->copied[i]);
    if (!error)
        error = gw_source_run_round(source, round);
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        if (copy->copied[i] < copy->plan.volumes[i]->size)
            copy->copied[i] =
                gw_min(gw_round_position(round, (uint16_t)i), copy->plan.volumes[i]->size);
    gw_round_free(round);
    return error;
}

static bool is_all_sent(const struct gw_copy *copy)
{
    for (unsigned i = 0; i < copy->plan.count; i++)
        if (copy->copied[i] < copy->plan.volumes[i]->size)
            return false;
    return true;
}

/* The target makes what it has durable and notes it; then this side does. */
static int checkpoint(struct gw_source *source, struct gw_copy *copy)
{
    json_t *list = json_array(), *synced;
    bool is_kept;
    int error;

    for (unsigned i = 0; i < copy->plan.count; i++)
        json_array_append_new(list, json_integer((json_int_t)copy->copied[i]));
    error = gw_source_exchange(source, json_pack("{s:s,s:o}", "type", "sync", "copied", list),
                               "synced", &synced);
    if (error)
        return error;
    error = gw_message_bool(synced, "kept", &is_kept);
    json_decref(synced);
    if (!error && is_kept)
        error = gw_copy_checkpoint(copy);
    return error;
}

/* What the target is said to have and has not, or not as the source has it. */
static int send_different(struct gw_source *source, struct gw_copy *copy, unsigned index)
{
    struct gw_source_volume *volume = copy->plan.volumes[index];
    struct gw_bitmap different;
    struct gw_round *round = NULL;
    uint64_t bytes = 0;
    int error;

    error = gw_compare_begin(volume, &different);
    if (error)
        return error;
    error = gw_source_compare(source, index, volume, copy->copied[index], &different, &bytes);
    if (!error && bytes > 0) {
        error = gw_round_new(&round);
        if (!error)
            error = gw_round_add(round, (uint16_t)index, volume, &different);
        if (!error)
            error = gw_source_run_round(source, round);
    }
    copy->resent_bytes += bytes;
    gw_round_free(round);
    gw_bitmap_free(&different);
    return error;
}

static int send_volumes(struct gw_source *source, struct gw_copy *copy)
{
    int error = 0;

    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        if (copy->copied[i] > 0)
            error = send_different(source, copy, i);
    while (!error && !is_all_sent(copy)) {
        error = send_part(source, copy);
        /* The last one too, when there was one before: a comparison of hours may follow. And of a chain, which is of
         * no use if it is lost when some of its files have their names. */
        if (!error && copy->can_keep &&
            (!is_all_sent(copy) || copy->partial.is_kept || copy->plan.count > 1))
            error = checkpoint(source, copy);
    }
    for (unsigned i = 0; i < copy->plan.count && !error; i++)
        error = copy->plan.volumes[i]->ops->unchanged(copy->plan.volumes[i]);
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

static json_t *make_offer(const struct gw_source *source, const struct gw_copy *copy)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < copy->plan.count; i++)
        json_array_append_new(list, gw_offer_volume(&copy->plan.offered[i]));
    return json_pack("{s:s,s:s,s:s,s:o,s:I,s:b,s:s*}", "type", "offer", "kind", "copy", "epoch",
                     source->epoch, "volumes", list, "reconnect_s", (json_int_t)source->reconnect_s,
                     "keep", (int)copy->can_keep, "resume",
                     copy->older.detail ? copy->older.epoch : NULL);
}

/* How much of each volume the target has of an earlier attempt. */
static int take_kept(struct gw_copy *copy, const json_t *accepted)
{
    json_t *list = NULL;
    int error = json_object_get(accepted, "kept")
                    ? gw_message_array(accepted, "kept", GW_VOLUMES_MAX, &list)
                    : 0;

    for (unsigned i = 0; !error && list && copy->older.detail && i < copy->plan.count; i++) {
        json_int_t kept = json_integer_value(json_array_get(list, i));

        if (kept < 0 || (uint64_t)kept > copy->plan.volumes[i]->size)
            return gw_fail(-EPROTO, "the target kept %lld bytes of %s", (long long)kept,
                           copy->plan.volumes[i]->name);
        copy->copied[i] = (uint64_t)kept;
        copy->kept_bytes += (uint64_t)kept;
    }
    return error ? error : gw_copy_take_older(copy);
}

static int negotiate(struct gw_source *source, struct gw_copy *copy)
{
    struct gw_outcome *out = copy->out;
    json_t *reply;
    int error = gw_source_exchange(source, make_offer(source, copy), "accepted", &reply);

    if (error) {
        /* Nothing was copied: a check of the target says no. */
        out->exit_code = error == -ECANCELED ? GW_EXIT_FAILED : GW_EXIT_BLOCKED;
        return error;
    }
    json_object_set(out->detail, "volumes", json_object_get(reply, "volumes"));
    gw_offer_note_warnings(json_object_get(reply, "volumes"), source->progress);
    error = take_kept(copy, reply);
    if (!error)
        error = gw_source_open_channels(source, reply);
    json_decref(reply);
    return error;
}

static int send_copy(struct gw_source *source, struct gw_copy *copy)
{
    const struct gw_copy_plan *plan = &copy->plan;
    json_t *finished;
    int error = negotiate(source, copy);

    if (error)
        return error;
    source->may_regrow = true;
    for (unsigned i = 0; i < plan->count; i++)
        gw_sender_add_volume(source->sender, (uint16_t)i, plan->volumes[i]);
    gw_copy_begin_phase(source->progress, gw_copy_plan_bytes(plan));
    error = send_volumes(source, copy);
    if (!error && copy->request->verify)
        error = gw_source_send_digests(source, plan->volumes, plan->count);
    note_path(source);
    gw_copy_report_resumed(copy);
    gw_source_report(source, copy->out->detail);
    json_object_set_new(copy->out->detail, "path", json_string(source->progress->data.path));
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

static int copy_remote(struct gw_copy *copy)
{
    const struct gw_copy_request *request = copy->request;
    struct gw_source *source;
    struct gw_error cause;
    bool is_given_up = false;
    int error = gw_source_connect(copy->environment, &request->peer, &request->link, copy->progress,
                                  &source);

    if (error)
        return error;
    error = gw_copy_begin_partial(copy, source->epoch);
    if (!error)
        error = send_copy(source, copy);
    is_given_up = source->is_given_up;
    gw_error_take(error, &cause);
    /* Closing may leave messages of its own; the cause is what counts. */
    gw_source_close(source);
    return gw_copy_end_partial(copy, error ? gw_error_raise(&cause) : 0, is_given_up);
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

static int run(struct gw_copy *copy)
{
    int error = gw_copy_refuse_same(copy);

    if (!error)
        error = gw_copy_plan_make(copy->request, &copy->plan);
    if (error)
        return error;
    error = copy->request->is_remote ? copy_remote(copy) : gw_copy_local(copy);
    gw_copy_plan_free(&copy->plan);
    return error;
}

int gw_copy_run(const struct gw_environment *environment, const struct gw_copy_request *request,
                struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_copy *copy = calloc(1, sizeof(*copy));
    int error;

    out->detail = json_object();
    out->exit_code = GW_EXIT_FAILED;
    if (!copy)
        return gw_fail(-ENOMEM, "no memory for a copy");
    copy->environment = environment;
    copy->request = request;
    copy->progress = progress;
    copy->out = out;
    copy->can_keep = environment->state_dir && environment->attended && request->text &&
                     environment->keep_partial_hours > 0;
    error = run(copy);
    if (copy->is_blocked)
        out->exit_code = GW_EXIT_BLOCKED;
    free(copy);
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
