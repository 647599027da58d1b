/* SPDX-License-Identifier: Apache-2.0 */
/* What a copy notes of itself on the side that reads. What the target notes is elsewhere
 * (serve-partial.c), but for a copy on one host, whose images are in this note. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/session/attended.h"
#include "engine/session/copy.h"

#define SYNC_INTERVAL_S 10u /* seconds of a copy that a loss can cost, at most */

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

/* The same source to the same place: how it is sent does not count. */
static bool is_same_request(const json_t *one, const json_t *other)
{
    static const char *const members[] = {"source", "to", "target"};

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (strcmp(text_of(one, members[i]), text_of(other, members[i])) != 0)
            return false;
    return true;
}

struct search {
    const struct gw_copy *copy;
    struct gw_partial found;
};

static int look(const struct gw_partial *partial, void *context)
{
    struct search *search = context;
    struct gw_attended *attended = search->copy->environment->attended;

    if (partial->side != GW_SIDE_SOURCE || !partial->is_kept ||
        strcmp(text_of(partial->detail, "kind"), "copy") != 0 ||
        !is_same_request(json_object_get(partial->detail, "request"), search->copy->request->text))
        return 0;
    /* One that runs this moment will say itself what becomes of it. */
    if (gw_attend(attended, partial->epoch, GW_SIDE_SOURCE))
        return 0;
    gw_unattend(attended, partial->epoch, GW_SIDE_SOURCE);
    search->found = *partial;
    json_incref(search->found.detail);
    return 1;
}

int gw_copy_refuse_same(struct gw_copy *copy)
{
    struct search search = {.copy = copy};
    int error;

    if (copy->request->resume || !copy->can_keep ||
        !gw_partial_each(copy->environment, look, &search))
        return 0;
    copy->is_blocked = true;
    error = gw_fail(-EEXIST,
                    "this copy was begun before and is not finished: 'godwit resume %.12s' goes on "
                    "with it, 'godwit cancel %.12s' removes what it left",
                    search.found.epoch, search.found.epoch);
    gw_partial_free(&search.found);
    return error;
}

static int load_older(struct gw_copy *copy)
{
    const char *epoch = copy->request->resume;
    struct gw_error cause;
    int error = gw_attend(copy->environment->attended, epoch, GW_SIDE_SOURCE);

    if (error)
        return error;
    error = gw_partial_read(copy->environment, epoch, GW_SIDE_SOURCE, &copy->older);
    if (error == -ENOENT || (!error && !copy->older.is_kept))
        error = gw_fail(
            -ESTALE, "copy %.12s left nothing to go on with: start over with godwit copy", epoch);
    else if (!error)
        error = gw_partial_check_here(&copy->older);
    if (error == -ENOMEDIUM) {
        copy->is_blocked = true;
        gw_error_take(error, &cause);
        error = gw_partial_say_kept(&cause, epoch);
    }
    if (error) {
        gw_partial_free(&copy->older);
        gw_unattend(copy->environment->attended, epoch, GW_SIDE_SOURCE);
    }
    return error;
}

int gw_copy_begin_partial(struct gw_copy *copy, const char *epoch)
{
    const struct gw_environment *environment = copy->environment;
    const struct gw_copy_request *request = copy->request;
    char peer[GW_ADDRESS_TEXT_MAX] = "";
    int error;

    snprintf(copy->epoch, sizeof(copy->epoch), "%s", epoch);
    if (!copy->can_keep)
        return request->resume ? gw_fail(-ENOTSUP, "nothing is kept here: --keep-partial is 0") : 0;
    error = request->resume ? load_older(copy) : 0;
    if (!error)
        error = gw_attend(environment->attended, epoch, GW_SIDE_SOURCE);
    copy->is_attended = !error;
    if (error)
        return error;
    if (request->is_remote)
        gw_address_format(&request->peer, peer, sizeof(peer));
    snprintf(copy->partial.epoch, sizeof(copy->partial.epoch), "%s", epoch);
    copy->partial.side = GW_SIDE_SOURCE;
    copy->partial.detail =
        json_pack("{s:s,s:s,s:s,s:O,s:[]}", "kind", "copy", "vm", request->source_path, "peer",
                  peer, "request", request->text, "disks");
    if (!copy->partial.detail)
        return gw_fail(-ENOMEM, "no memory for a copy");
    if (copy->older.detail)
        error = gw_partial_follow(&copy->partial, &copy->older, copy->older.epoch);
    if (error)
        return error;
    /* Of a copy to another host nothing is here, and until its first checkpoint nothing is kept there. */
    return request->is_remote ? 0 : gw_partial_write(environment, &copy->partial);
}

int gw_copy_take_older(struct gw_copy *copy)
{
    int error = 0;

    if (copy->older.detail) {
        copy->partial.is_kept = copy->kept_bytes > 0;
        error = gw_partial_write(copy->environment, &copy->partial);
        if (!error)
            error = gw_partial_replace(copy->environment, &copy->older, &copy->partial,
                                       &copy->is_older_taken);
    }
    if (!error || !copy->is_older_taken)
        return error;
    /* A loss of power would bring back the note of the older attempt, which names the same files. */
    gw_log(GW_LOG_WARNING, "%s", gw_error_message());
    return 0;
}

uint64_t gw_copy_sync_interval_ns(const struct gw_copy *copy)
{
    unsigned seconds = copy->request->sync_interval_s;

    return copy->can_keep ? (seconds ? seconds : SYNC_INTERVAL_S) * GW_NS_PER_S : 0;
}

/* For those who ask what is kept; of a copy on one host the journals say it. */
static void note_copied(struct gw_copy *copy)
{
    json_t *list;

    if (!copy->request->is_remote)
        return;
    list = json_array();
    for (unsigned i = 0; i < copy->plan.count; i++)
        json_array_append_new(list, json_pack("{s:s,s:I}", "name", copy->plan.offered[i].name,
                                              "copied", (json_int_t)copy->copied[i]));
    json_object_set_new(copy->partial.detail, "disks", list);
}

int gw_copy_checkpoint(struct gw_copy *copy)
{
    note_copied(copy);
    copy->partial.is_kept = true;
    return gw_partial_write(copy->environment, &copy->partial);
}

void gw_copy_note_restart(struct gw_copy *copy, const char *reason)
{
    if (!reason[0])
        return;
    gw_log(GW_LOG_WARNING, "%s", reason);
    json_object_set_new(copy->out->detail, "restarted", json_string(reason));
    gw_progress_note(copy->progress, "%s", reason);
}

void gw_copy_report_resumed(const struct gw_copy *copy)
{
    if (copy->older.detail)
        json_object_set_new(copy->out->detail, "resumed",
                            json_pack("{s:s,s:I,s:I}", "epoch", copy->older.epoch, "kept_bytes",
                                      (json_int_t)copy->kept_bytes, "resent_bytes",
                                      (json_int_t)copy->resent_bytes));
}

/* The error, once nothing is left but what it says. */
static int settle(struct gw_copy *copy, const struct gw_error *cause, bool is_lost)
{
    const struct gw_environment *environment = copy->environment;

    if (cause->code && is_lost && copy->partial.is_kept)
        return gw_partial_say_kept(cause, copy->epoch);
    /* What is done has its names, and is its owner's by now. */
    if (copy->partial.detail && (copy->request->is_remote || !cause->code))
        gw_partial_forget(environment, copy->epoch, GW_SIDE_SOURCE);
    else if (copy->partial.detail)
        gw_partial_drop(environment, &copy->partial);
    if (!cause->code)
        return 0;
    /* What this one could not even begin to go on with is there as it was. */
    if (copy->older.detail && !copy->is_older_taken && cause->code != -EEXIST)
        return gw_partial_say_kept(cause, copy->older.epoch);
    return gw_error_raise(cause);
}

int gw_copy_end_partial(struct gw_copy *copy, int error, bool is_given_up)
{
    struct gw_attended *attended = copy->environment->attended;
    bool is_lost = is_given_up || gw_partial_is_loss(error);
    struct gw_error cause = {0};

    if (error)
        gw_error_take(error, &cause);
    error = settle(copy, &cause, is_lost);
    if (error)
        gw_error_take(error, &cause);
    if (copy->is_attended)
        gw_unattend(attended, copy->epoch, GW_SIDE_SOURCE);
    if (copy->older.detail)
        gw_unattend(attended, copy->older.epoch, GW_SIDE_SOURCE);
    gw_partial_free(&copy->partial);
    gw_partial_free(&copy->older);
    return error ? gw_error_raise(&cause) : 0;
}
