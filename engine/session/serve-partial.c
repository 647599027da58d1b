/* SPDX-License-Identifier: Apache-2.0 */
/* What the receiving side notes of its unfinished images, and how a later session goes on from them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/log.h"
#include "engine/handover/renames.h"
#include "engine/session/offer.h"
#include "engine/session/serve.h"

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

static void peer_of(const struct gw_serve *serve, char *out /* 33 bytes */)
{
    gw_id_format(gw_control_peer(serve->control)->instance_id, out);
}

/* An earlier attempt of this very source: another peer is told nothing of it. */
static int find_older(struct gw_serve *serve, const char *epoch)
{
    char peer[2 * GW_ID_SIZE + 1];
    uint8_t id[GW_ID_SIZE];
    int error = gw_id_parse(epoch, id);

    if (!error)
        error = gw_partial_read(serve->environment, epoch, GW_SIDE_TARGET, &serve->older);
    peer_of(serve, peer);
    if (error || !serve->older.is_kept || strcmp(text_of(serve->older.detail, "peer"), peer) != 0)
        return gw_fail(-ESTALE, "the target has nothing of that move (any more): start over with "
                                "godwit move");
    error = gw_attend(serve->environment->attended, epoch, GW_SIDE_TARGET);
    serve->is_older_attended = !error;
    return error ? error : gw_partial_check(&serve->older);
}

int gw_serve_begin_partial(struct gw_serve *serve, const json_t *offer)
{
    const struct gw_environment *environment = serve->environment;
    const char *resume, *instead;
    char peer[2 * GW_ID_SIZE + 1];
    bool wants_keep;
    int error = gw_message_bool(offer, "keep", &wants_keep);

    if (!error)
        error = gw_message_optional_text(offer, "resume", &resume);
    if (!error)
        error = gw_message_optional_text(offer, "instead", &instead);
    if (error)
        return error;
    peer_of(serve, peer);
    serve->can_keep = wants_keep && environment->keep_partial_hours > 0 && environment->state_dir;
    snprintf(serve->partial.epoch, sizeof(serve->partial.epoch), "%s", serve->epoch);
    serve->partial.side = GW_SIDE_TARGET;
    serve->partial.detail =
        json_pack("{s:s,s:s,s:[]}", "vm", text_of(json_object_get(offer, "vm"), "name"), "peer",
                  peer, "disks");
    /* The source starts over: what it had here is of no use. */
    if (instead && find_older(serve, instead) == 0)
        gw_partial_drop(environment, &serve->older);
    if (instead || !resume)
        return 0;
    error = find_older(serve, resume);
    if (error == -ESTALE && serve->older.detail)
        gw_partial_drop(environment, &serve->older);
    serve->is_resumed = !error;
    return error;
}

/* The older attempt's entry of the same disk, with bytes in it that are worth something. */
static json_t *find_disk(const struct gw_serve *serve, const struct gw_offered_volume *offered,
                         const char *path)
{
    json_t *disk;
    size_t index;

    if (!serve->is_resumed || !gw_image_can_continue(offered->format) || offered->foreign[0])
        return NULL;
    json_array_foreach(
        json_object_get(serve->older.detail, "disks"), index,
        disk) if (strcmp(text_of(disk, "name"), offered->name) == 0 &&
                  strcmp(text_of(disk, "path"), path) == 0 &&
                  strcmp(text_of(disk, "format"), gw_offer_format(offered)) == 0 &&
                  (uint64_t)json_integer_value(json_object_get(disk, "size")) == offered->size &&
                  json_integer_value(json_object_get(disk, "copied")) > 0) return disk;
    return NULL;
}

int gw_serve_note_disk(struct gw_serve *serve, const struct gw_offered_volume *offered,
                       const char *path, uint64_t *copied)
{
    json_t *disks = json_object_get(serve->partial.detail, "disks");
    json_t *older = find_disk(serve, offered, path);
    char part[4096];
    int error;

    *copied = older ? (uint64_t)json_integer_value(json_object_get(older, "copied")) : 0;
    if (gw_rename_is_device(path))
        return 0;
    if (snprintf(part, sizeof(part), "%s.godwit-%s.part", path, serve->epoch) >= (int)sizeof(part))
        return gw_fail(-ENAMETOOLONG, "%s: the name is too long", path);
    if (json_array_append_new(
            disks, json_pack("{s:s,s:s,s:s,s:s,s:I,s:I}", "name", offered->name, "path", path,
                             "part", part, "format", gw_offer_format(offered), "size",
                             (json_int_t)offered->size, "copied", (json_int_t)*copied)))
        return gw_fail(-EILSEQ, "the path of %s on this host is not UTF-8 text", offered->name);
    /* The note first: a file without one would stay for ever. */
    serve->partial.is_kept |= older != NULL;
    error = gw_partial_write(serve->environment, &serve->partial);
    return error || !older ? error : gw_rename_file(text_of(older, "part"), part);
}

int gw_serve_note_vm(struct gw_serve *serve, const char *run_dir, const char *ram_dir)
{
    json_object_set_new(serve->partial.detail, "run_dir", json_string(run_dir));
    json_object_set_new(serve->partial.detail, "ram_dir", json_string(ram_dir));
    return gw_partial_write(serve->environment, &serve->partial);
}

void gw_serve_end_older(struct gw_serve *serve)
{
    if (serve->is_resumed)
        gw_partial_drop(serve->environment, &serve->older);
    if (serve->is_older_attended)
        gw_unattend(serve->environment->attended, serve->older.epoch, GW_SIDE_TARGET);
    serve->is_older_attended = false;
}

int gw_serve_take_copied(struct gw_serve *serve, const json_t *message, bool *is_kept)
{
    json_t *disks = json_object_get(serve->partial.detail, "disks"), *list, *disk;
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
        json_int_t size = json_integer_value(json_object_get(disk, "size"));
        json_int_t copied = json_integer_value(json_array_get(list, index));

        if (copied < 0 || copied > size)
            return gw_fail(-EPROTO, "%lld bytes of disk %s were copied, which has %lld",
                           (long long)copied, text_of(disk, "name"), (long long)size);
        json_object_set_new(disk, "copied", json_integer(copied));
        serve->partial.is_kept |= copied > 0;
    }
    error = gw_partial_write(serve->environment, &serve->partial);
    *is_kept = !error && serve->partial.is_kept;
    return error;
}

void gw_serve_close_partial(struct gw_serve *serve)
{
    gw_serve_end_older(serve);
    if (serve->keeps_parts) {
        gw_partial_seal(&serve->partial);
        if (gw_partial_write(serve->environment, &serve->partial))
            gw_log(GW_LOG_WARNING, "%s", gw_error_message());
    } else if (serve->partial.detail) {
        gw_partial_forget(serve->environment, serve->partial.epoch, GW_SIDE_TARGET);
    }
    gw_partial_free(&serve->partial);
    gw_partial_free(&serve->older);
    json_decref(serve->kept);
    serve->kept = NULL;
}

void gw_serve_drop_note(struct gw_serve *serve, const char *epoch, bool is_kept)
{
    struct gw_partial partial = {.detail = NULL};

    if (gw_partial_read(serve->environment, epoch, GW_SIDE_TARGET, &partial) == 0 &&
        partial.is_kept == is_kept) {
        if (is_kept)
            gw_partial_drop(serve->environment, &partial);
        else
            gw_partial_forget(serve->environment, epoch, GW_SIDE_TARGET);
    }
    gw_partial_free(&partial);
}
