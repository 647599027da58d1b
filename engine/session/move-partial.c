/* SPDX-License-Identifier: Apache-2.0 */
/* What a move notes of itself on the source, so that a later attempt can go on from it, or a restarted
 * agent can take it out of QEMU. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/session/attended.h"
#include "engine/session/move.h"
#include "engine/session/process.h"

#define TAKE_UP_TIMEOUT_S 20u /* recovery may ask the target about the earlier attempt */
#define SYNC_INTERVAL_S   10u /* seconds of the disks' first pass that a loss can cost, at most */

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

static void let_go_of_older(struct gw_move *move)
{
    if (move->is_older_attended)
        gw_unattend(move->environment->attended, move->request->resume, GW_SIDE_SOURCE);
    move->is_older_attended = false;
}

int gw_move_load_older(struct gw_move *move)
{
    const char *epoch = move->request->resume;
    int error;

    if (!epoch)
        return 0;
    /* Nobody cancels it, or removes it for its age, while this one waits to be accepted. */
    error = gw_attend_soon(move->environment->attended, epoch, GW_SIDE_SOURCE, TAKE_UP_TIMEOUT_S);
    move->is_older_attended = !error;
    if (error)
        return error;
    error = gw_partial_read(move->environment, epoch, GW_SIDE_SOURCE, &move->older);
    if (error && error != -ENOENT)
        return error;
    if (error || !move->older.is_kept)
        return gw_fail(-ESTALE,
                       "move %.12s left nothing to go on from: start over with godwit move", epoch);
    return 0;
}

struct search {
    struct gw_move *move;
    char found[GW_EPOCH_TEXT_MAX];
};

/* An earlier attempt with the same VM, which this one takes the place of. */
static int drop_same(const struct gw_partial *partial, void *context)
{
    struct search *search = context;
    const struct gw_move *move = search->move;
    int error;

    if (partial->side != GW_SIDE_SOURCE || !partial->is_kept ||
        strcmp(text_of(partial->detail, "qmp"), move->request->qmp_path) != 0)
        return 0;
    error = gw_partial_clean_vmm(move->qmp, partial->epoch);
    if (error)
        return error;
    snprintf(search->found, sizeof(search->found), "%s", partial->epoch);
    gw_partial_forget(move->environment, partial->epoch, GW_SIDE_SOURCE);
    return 0;
}

int gw_move_begin_partial(struct gw_move *move)
{
    struct search search = {.move = move};
    char peer[GW_ADDRESS_TEXT_MAX], process[GW_PROCESS_TEXT_MAX] = "";
    json_t *disks = json_array();

    if (!move->older.detail) {
        int error = gw_partial_each(move->environment, drop_same, &search);

        if (error) {
            json_decref(disks);
            return error;
        }
        snprintf(move->instead, sizeof(move->instead), "%s", search.found);
    }
    gw_address_format(&move->request->peer, peer, sizeof(peer));
    snprintf(move->partial.epoch, sizeof(move->partial.epoch), "%s", move->source->epoch);
    move->partial.side = GW_SIDE_SOURCE;
    for (unsigned i = 0; i < move->vm->disk_count; i++) {
        const struct gw_vm_disk *disk = &move->vm->disks[i];
        enum gw_image_format format;

        move->can_keep |=
            gw_image_format_parse(disk->format, &format) == 0 && gw_image_can_continue(format);
        json_array_append_new(disks, json_pack("{s:s,s:i}", "name", disk->name, "copied", 0));
    }
    move->can_keep &= move->environment->keep_partial_hours > 0;
    if (gw_process_identify(move->vm->pid, process, sizeof(process)))
        process[0] = '\0';
    move->partial.detail =
        json_pack("{s:s,s:s,s:s,s:i,s:O,s:s,s:O*,s:o}", "kind", "move", "vm", move->vm->name, "qmp",
                  move->request->qmp_path, "pid", (int)move->vm->pid, "settings", move->settings,
                  "peer", peer, "request", move->request->text, "disks", disks);
    if (!move->partial.detail)
        return gw_fail(-ENOMEM, "no memory for a move");
    if (process[0])
        json_object_set_new(move->partial.detail, "process", json_string(process));
    if (move->older.detail) {
        int error = gw_partial_follow(&move->partial, &move->older, move->older.epoch);

        if (error)
            return error;
    }
    return gw_partial_write(move->environment, &move->partial);
}

int gw_move_open_tracker(struct gw_move *move, unsigned index)
{
    struct gw_disk_tracker_options options = {.index = index, .socket_dir = move->socket_dir};

    return gw_disk_tracker_open(move->qmp, &move->vm->disks[index], &options,
                                &move->trackers[index]);
}

void gw_move_offer_partial(const struct gw_move *move, json_t *offer)
{
    json_object_set_new(offer, "keep", json_boolean(move->can_keep));
    if (move->older.detail)
        json_object_set_new(offer, "resume", json_string(move->older.epoch));
    if (move->instead[0])
        json_object_set_new(offer, "instead", json_string(move->instead));
}

static void set_copied(struct gw_move *move, unsigned index, uint64_t copied)
{
    json_t *disk = json_array_get(json_object_get(move->partial.detail, "disks"), index);

    json_object_set_new(disk, "copied", json_integer((json_int_t)copied));
}

int gw_move_take_kept(struct gw_move *move, const json_t *accepted)
{
    json_t *list;
    bool is_replaced = false;
    uint64_t all = 0;
    int error;

    if (!move->older.detail)
        return 0;
    error = gw_message_array(accepted, "kept", GW_VOLUMES_MAX, &list);
    for (unsigned i = 0; !error && i < move->vm->disk_count; i++) {
        json_int_t kept = json_integer_value(json_array_get(list, i));

        if (kept < 0 || (uint64_t)kept > move->volumes[i]->size)
            return gw_fail(-EPROTO, "the target kept %lld bytes of disk %s", (long long)kept,
                           move->vm->disks[i].name);
        move->kept[i] = (uint64_t)kept;
        all += (uint64_t)kept;
        set_copied(move, i, move->kept[i]);
    }
    if (error)
        return error;
    move->kept_bytes = all;
    /* From here on the target knows this attempt only. */
    move->partial.is_kept = all > 0;
    error = gw_partial_write(move->environment, &move->partial);
    if (!error)
        error = gw_partial_replace(move->environment, &move->older, &move->partial, &is_replaced);
    if (is_replaced)
        let_go_of_older(move);
    if (!error || !is_replaced)
        return error;
    /* A loss of power would bring back the note of the older attempt: the target finds this one by it. */
    gw_log(GW_LOG_WARNING, "%s", gw_error_message());
    return 0;
}

int gw_move_compare_kept(struct gw_move *move)
{
    uint64_t bytes = 0;
    int error = 0;

    if (!move->older.detail)
        return 0;
    for (unsigned i = 0; !error && i < move->vm->disk_count; i++)
        if (move->kept[i] > 0)
            error = gw_source_compare(move->source, i, move->volumes[i], move->kept[i],
                                      gw_precopy_dirty(move->precopy, (uint16_t)i), &bytes);
    json_object_set_new(move->out->detail, "resumed",
                        json_pack("{s:s,s:I,s:I}", "epoch", move->older.epoch, "kept_bytes",
                                  (json_int_t)move->kept_bytes, "resent_bytes", (json_int_t)bytes));
    return error;
}

uint64_t gw_move_sync_interval_ns(const struct gw_move *move)
{
    unsigned seconds = move->request->sync_interval_s;

    return move->can_keep ? (seconds ? seconds : SYNC_INTERVAL_S) * GW_NS_PER_S : 0;
}

static uint64_t copied_of(const struct gw_move *move, unsigned index)
{
    enum gw_image_format format;

    if (gw_image_format_parse(move->vm->disks[index].format, &format) ||
        !gw_image_can_continue(format))
        return 0;
    return gw_precopy_copied(move->precopy, (uint16_t)index);
}

json_t *gw_move_sync_request(const struct gw_move *move)
{
    json_t *request = json_pack("{s:s}", "type", "sync"), *list = json_array();

    for (unsigned i = 0; i < move->vm->disk_count; i++)
        json_array_append_new(list, json_integer((json_int_t)copied_of(move, i)));
    if (move->can_keep)
        json_object_set(request, "copied", list);
    json_decref(list);
    return request;
}

int gw_move_take_synced(struct gw_move *move, const json_t *synced)
{
    bool is_kept;
    int error = gw_message_bool(synced, "kept", &is_kept);

    if (error || !is_kept || !move->can_keep)
        return error;
    for (unsigned i = 0; i < move->vm->disk_count; i++)
        set_copied(move, i, copied_of(move, i));
    move->partial.is_kept = true;
    return gw_partial_write(move->environment, &move->partial);
}

void gw_move_decide_keep(struct gw_move *move, int error)
{
    bool is_lost = gw_partial_is_loss(error) || (error && move->source->is_given_up);

    move->steps.keeps = is_lost && (move->partial.is_kept || move->older.detail != NULL) &&
                        !gw_source_steps_is_gone(&move->steps);
    move->switchover.keeps = move->steps.keeps;
}

void gw_move_close_partial(struct gw_move *move)
{
    const char *epoch = move->partial.epoch;
    bool is_settled = !move->is_begun || gw_handover_is_ended(move->switchover.machine.state);

    /* What this one could not even begin to go on with is there as it was. */
    if (move->older.detail && move->is_older_gone)
        gw_partial_cancel(move->environment, &move->older);
    if (move->partial.detail && (move->steps.keeps ? !move->partial.is_kept : is_settled))
        gw_partial_forget(move->environment, epoch, GW_SIDE_SOURCE);
    let_go_of_older(move);
    gw_partial_free(&move->partial);
    gw_partial_free(&move->older);
}
