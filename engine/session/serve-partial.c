/* SPDX-License-Identifier: Apache-2.0 */
/* What the receiving side notes of its unfinished images, and how a later session goes on from them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/session/compare.h"
#include "engine/session/offer.h"
#include "engine/session/parts.h"
#include "engine/session/recover.h"
#include "engine/session/serve.h"

/* How long the session of a lost attempt may take to end once it is released: a sync may be under
 * way. */
#define RELEASE_TIMEOUT_S 60u

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

static void peer_of(const struct gw_serve *serve, char *out /* 33 bytes */)
{
    gw_id_format(gw_control_peer(serve->control)->instance_id, out);
}

static int gone(struct gw_serve *serve)
{
    serve->is_older_gone = true;
    return gw_fail(-ESTALE, "the target has nothing of that attempt (any more)");
}

/* The lost attempt's own session may still wait for its source, which is this one. */
static int take_up(struct gw_serve *serve, const char *epoch)
{
    const struct gw_environment *environment = serve->environment;
    int error;

    if (environment->rejoins)
        gw_rejoins_release(environment->rejoins, epoch, gw_control_peer(serve->control));
    error = gw_attend_soon(environment->attended, epoch, GW_SIDE_TARGET, RELEASE_TIMEOUT_S);
    serve->is_older_attended = !error;
    return error;
}

/* An earlier attempt of this very source: another peer is told nothing of it. A note that cannot be read
 * this moment is not gone. */
static int read_older(struct gw_serve *serve, const char *epoch)
{
    char peer[2 * GW_ID_SIZE + 1];
    uint8_t id[GW_ID_SIZE];
    int error = gw_id_parse(epoch, id);

    if (!error)
        error = gw_partial_read(serve->environment, epoch, GW_SIDE_TARGET, &serve->older);
    if (error)
        return error == -ENOENT ? gone(serve) : error;
    peer_of(serve, peer);
    return strcmp(text_of(serve->older.detail, "peer"), peer) == 0 ? 0 : gone(serve);
}

static void let_go_of_older(struct gw_serve *serve)
{
    if (serve->is_older_attended)
        gw_unattend(serve->environment->attended, serve->older.epoch, GW_SIDE_TARGET);
    serve->is_older_attended = false;
}

/* A move that the agent has not settled since it was started again: what the journal still has to remove would be this
 * attempt's. */
static int settle_older(const struct gw_serve *serve, const char *epoch)
{
    const struct gw_environment *environment = serve->environment;
    struct gw_recovered recovered;
    struct gw_journal_entry entry;
    bool is_open;
    int error;

    if (!environment->journal || gw_partial_check_here(&serve->older))
        return 0; /* where they are away it is not gone on with */
    error = gw_recover_entry(environment, epoch, GW_SIDE_TARGET, GW_EVENT_COUNT, &recovered);

    if (!error)
        error = gw_journal_find(environment->journal, epoch, GW_SIDE_TARGET, &entry);
    if (error)
        return error == -ENOENT ? 0 : error;
    is_open = gw_journal_entry_is_open(&entry);
    gw_journal_entry_free(&entry);
    return is_open ? gw_fail(-EBUSY, "move %.12s is still being settled at the target", epoch) : 0;
}

static int hold_older(struct gw_serve *serve, const char *epoch)
{
    int error = read_older(serve, epoch);

    if (!error)
        error = take_up(serve, epoch);
    if (!error)
        error = settle_older(serve, epoch);
    gw_partial_free(&serve->older);
    /* As that session, or recovery, has left it. */
    if (!error)
        error = read_older(serve, epoch);
    if (!error && !serve->older.is_kept)
        error = gone(serve);
    if (error) {
        gw_partial_free(&serve->older);
        let_go_of_older(serve);
    }
    return error;
}

/* The source may not have heard that an attempt of its own has taken the place of the one that it knows. */
static int find_older(struct gw_serve *serve, const char *asked)
{
    struct gw_partial follower = {.detail = NULL};
    int error;

    serve->is_older_gone = false;
    error = hold_older(serve, asked);
    if (serve->is_older_gone &&
        gw_partial_find_follower(serve->environment, asked, GW_SIDE_TARGET, &follower) == 0) {
        serve->is_older_gone = false;
        error = hold_older(serve, follower.epoch);
    }
    gw_partial_free(&follower);
    return error;
}

void gw_serve_drop_earlier(struct gw_serve *serve, const char *epoch, bool takes_finished)
{
    if (find_older(serve, epoch) == 0) {
        json_object_set_new(serve->older.detail, GW_TAKES_FINISHED, json_boolean(takes_finished));
        gw_partial_drop(serve->environment, &serve->older);
    }
    let_go_of_older(serve);
    gw_partial_free(&serve->older);
}

/* A move attends to itself: its VM may be there longer than the session. */
static int attend(struct gw_serve *serve, bool is_copy)
{
    int error;

    if (!is_copy || !serve->environment->attended)
        return 0;
    error = gw_attend(serve->environment->attended, serve->epoch, GW_SIDE_TARGET);
    serve->is_attended = !error;
    return error;
}

static int read_wishes(const struct gw_serve *serve, const json_t *offer, const char **resume,
                       const char **instead, bool *wants_keep)
{
    int error = gw_message_bool(offer, "keep", wants_keep);

    if (!error)
        error = gw_message_optional_text(offer, "resume", resume);
    if (!error)
        error = gw_message_optional_text(offer, "instead", instead);
    if (!error && (*resume || *instead) && !serve->environment->attended)
        error = gw_fail(-ENOTSUP, "this agent has no state folder and keeps nothing");
    return error;
}

int gw_serve_begin_partial(struct gw_serve *serve, const json_t *offer)
{
    const struct gw_environment *environment = serve->environment;
    const json_t *first = json_array_get(json_object_get(offer, "volumes"), 0);
    const char *kind = text_of(offer, "kind"), *resume, *instead;
    bool wants_keep, is_copy = strcmp(kind, "copy") == 0;
    char peer[2 * GW_ID_SIZE + 1];
    int error = read_wishes(serve, offer, &resume, &instead, &wants_keep);

    if (!error)
        error = attend(serve, is_copy);
    if (error)
        return error;
    peer_of(serve, peer);
    serve->offered = calloc(GW_VOLUMES_MAX, sizeof(*serve->offered));
    if (!serve->offered)
        return gw_fail(-ENOMEM, "no memory for the volumes of an offer");
    serve->can_keep = wants_keep && environment->keep_partial_hours > 0 && environment->state_dir;
    snprintf(serve->partial.epoch, sizeof(serve->partial.epoch), "%s", serve->epoch);
    serve->partial.side = GW_SIDE_TARGET;
    serve->partial.detail =
        json_pack("{s:s,s:s,s:s,s:[]}", "kind", kind, "vm",
                  is_copy ? text_of(first, "file") : text_of(json_object_get(offer, "vm"), "name"),
                  "peer", peer, "disks");
    /* The source starts over: what it had here is of no use. */
    if (instead && find_older(serve, instead) == 0)
        gw_partial_drop(environment, &serve->older);
    serve->wants_resume = !instead && resume;
    if (!serve->wants_resume)
        return 0;
    error = find_older(serve, resume);
    if (!error)
        error = gw_partial_check_here(&serve->older);
    if (!error)
        error = gw_partial_follow(&serve->partial, &serve->older, resume);
    serve->is_resumed = !error;
    /* A copy starts over then, and says so for each disk. Of a move its owner decides. */
    if (serve->is_older_gone && is_copy)
        return 0;
    return serve->is_older_gone
               ? gw_fail(-ESTALE, "the target has nothing of that move (any more): start over with "
                                  "godwit move")
               : error;
}

/* What an earlier attempt noted of the same image; NULL when it did not. */
static json_t *older_entry(const struct gw_serve *serve, unsigned volume, const char *path)
{
    return serve->is_resumed ? gw_part_find(json_object_get(serve->older.detail, "disks"), volume,
                                            serve->offered[volume].name, path)
                             : NULL;
}

int gw_serve_look_for_part(struct gw_serve *serve, unsigned volume, const char *path,
                           struct gw_serve_part *out)
{
    const json_t *older;
    int error;

    *out = (struct gw_serve_part){.durable = 0};
    if (!serve->wants_resume)
        return 0;
    older = older_entry(serve, volume, path);
    error = gw_part_refuse_unknown(older, &serve->offered[volume]);
    if (error)
        return error;
    gw_part_check(older, &serve->offered[volume], &out->durable, out->reason);
    if (out->durable > 0) {
        out->allocated = gw_part_allocated(older);
        out->is_finished = gw_part_is_finished(older);
    }
    return 0;
}

int gw_serve_note_disk(struct gw_serve *serve, unsigned volume, const char *path,
                       const struct gw_serve_part *part)
{
    const json_t *older = part->durable > 0 ? older_entry(serve, volume, path) : NULL;
    const char *epoch = older ? gw_part_epoch(older, serve->older.epoch) : serve->epoch;
    json_t *entry;
    int error;

    if (!serve->environment->state_dir)
        return 0;
    error =
        gw_part_entry_new(serve->environment, epoch, volume, &serve->offered[volume], path, &entry);
    if (error)
        return error;
    if (part->is_finished)
        json_object_set(entry, "file", json_object_get(older, "file"));
    json_array_append_new(json_object_get(serve->partial.detail, "disks"), entry);
    /* The note first: a file without one would stay for ever. */
    serve->partial.is_kept |= part->durable > 0;
    return gw_partial_write(serve->environment, &serve->partial);
}

static const json_t *entry_of(const struct gw_serve *serve, unsigned volume)
{
    const json_t *disks = json_object_get(serve->partial.detail, "disks"), *entry;
    size_t index;

    json_array_foreach((json_t *)disks, index,
                       entry) if (json_integer_value(json_object_get(entry, "volume")) ==
                                  (json_int_t)volume) return entry;
    return NULL;
}

const char *gw_serve_part_epoch(const struct gw_serve *serve, unsigned volume)
{
    return gw_part_epoch(entry_of(serve, volume), serve->epoch);
}

void gw_serve_drop_part(struct gw_serve *serve, unsigned volume)
{
    if (gw_part_unlink(entry_of(serve, volume), serve->epoch))
        gw_log(GW_LOG_WARNING, "%s", gw_error_message()); /* to make it anew fails then */
}

int gw_serve_note_vm(struct gw_serve *serve, json_t *members)
{
    int error = !members || json_object_update(serve->partial.detail, members)
                    ? gw_fail(-ENOMEM, "no memory for what a restart needs")
                    : gw_partial_write(serve->environment, &serve->partial);

    json_decref(members);
    return error;
}

int gw_serve_end_older(struct gw_serve *serve)
{
    int error = serve->is_resumed ? gw_partial_replace(serve->environment, &serve->older,
                                                       &serve->partial, &serve->is_older_taken)
                                  : 0;

    if (error)
        return error;
    let_go_of_older(serve);
    return 0;
}

int gw_serve_compare(struct gw_serve *serve, const json_t *message)
{
    struct gw_compare_piece *piece;
    struct gw_source_volume *view;
    uint64_t index, offset, end;
    int error = gw_message_number(message, "volume", GW_VOLUMES_MAX - 1, &index);

    if (!error)
        error = gw_message_number(message, "end", INT64_MAX, &end);
    if (!error)
        error = gw_message_number(message, "offset", INT64_MAX, &offset);
    if (error)
        return error;
    if (!serve->is_resumed || !serve->volumes[index] || end > serve->volumes[index]->size ||
        offset >= end || offset % GW_COMPARE_GRANULE)
        return gw_fail(-EPROTO, "the source compares what is not there");
    piece = calloc(1, sizeof(*piece));
    if (!piece)
        return gw_fail(-ENOMEM, "no memory to compare with");
    error = serve->volumes[index]->ops->view(serve->volumes[index], &view);
    if (!error) {
        error = gw_compare_read(view, offset, end, piece);
        view->ops->close(view);
    }
    if (!error)
        error = gw_message_send(serve->control, gw_compare_encode(piece));
    free(piece);
    return error;
}

int gw_serve_take_copied(struct gw_serve *serve, const json_t *message, bool *is_kept)
{
    json_t *disks = json_object_get(serve->partial.detail, "disks"), *list, *disk;
    bool was_kept = serve->partial.is_kept;
    size_t index;
    int error;

    *is_kept = false;
    if (!serve->can_keep || !json_object_get(message, "copied"))
        return 0;
    error = gw_message_array(message, "copied", GW_VOLUMES_MAX, &list);
    if (error)
        return error;
    json_array_foreach(disks, index, disk)
    {
        size_t volume = (size_t)json_integer_value(json_object_get(disk, "volume"));
        json_int_t copied = json_integer_value(json_array_get(list, volume));
        uint64_t size = serve->offered[volume].size;

        if (copied < 0 || (uint64_t)copied > size)
            return gw_fail(-EPROTO, "%lld bytes of disk %s were copied, which has %llu",
                           (long long)copied, text_of(disk, "name"), (unsigned long long)size);
        error = copied > 0 ? gw_part_note(disk, &serve->offered[volume], (uint64_t)copied) : 0;
        if (error)
            return error;
        serve->partial.is_kept |= copied > 0 && gw_part_durable(disk) > 0;
    }
    /* Its time tells how old it is. */
    if (serve->partial.is_kept)
        error = gw_partial_write(serve->environment, &serve->partial);
    if (!was_kept && serve->partial.is_kept && !error)
        gw_log(GW_LOG_DEBUG, "migration %s can be gone on with from now on", serve->epoch);
    *is_kept = !error && serve->partial.is_kept;
    return error;
}

void gw_serve_end_journals(struct gw_serve *serve)
{
    const json_t *entry;
    size_t index;

    json_array_foreach(json_object_get(serve->partial.detail, "disks"), index, entry)
        gw_part_end(entry);
}

bool gw_serve_keeps(const struct gw_serve *serve, int error)
{
    bool is_begun = serve->is_accepted || !serve->is_older_taken;

    return serve->can_keep && serve->partial.is_kept && (gw_partial_is_loss(error) || !is_begun);
}

bool gw_serve_gives_back(const struct gw_serve *serve)
{
    return serve->is_resumed && !serve->is_older_taken;
}

void gw_serve_close_partial(struct gw_serve *serve)
{
    bool is_copy = strcmp(text_of(serve->partial.detail, "kind"), "copy") == 0;

    if (serve->keeps_parts && !gw_serve_gives_back(serve)) {
        if (gw_partial_write(serve->environment, &serve->partial))
            gw_log(GW_LOG_WARNING, "%s", gw_error_message());
    } else if (gw_serve_gives_back(serve) || (is_copy && !serve->is_finished)) {
        /* A copy's images, which may be away by now. Those of a move are the journal's, but for the ones that are
         * given back. */
        gw_partial_drop(serve->environment, &serve->partial);
    } else if (serve->partial.detail) {
        gw_partial_forget(serve->environment, serve->partial.epoch, GW_SIDE_TARGET);
    }
    let_go_of_older(serve);
    if (serve->is_attended)
        gw_unattend(serve->environment->attended, serve->epoch, GW_SIDE_TARGET);
    gw_partial_free(&serve->partial);
    gw_partial_free(&serve->older);
    json_decref(serve->kept);
    serve->kept = NULL;
    free(serve->offered);
    serve->offered = NULL;
}

void gw_serve_drop_note(struct gw_serve *serve, const char *epoch, bool is_kept)
{
    struct gw_partial partial = {.detail = NULL};
    int error = gw_partial_read(serve->environment, epoch, GW_SIDE_TARGET, &partial);

    if (error == 0 && partial.is_kept == is_kept) {
        if (is_kept)
            gw_partial_drop(serve->environment, &partial);
        else
            gw_partial_forget(serve->environment, epoch, GW_SIDE_TARGET);
    } else if (error == -ENOENT && is_kept) {
        gw_serve_drop_earlier(serve, epoch, false); /* a move's: it has no chain */
    }
    gw_partial_free(&partial);
}
