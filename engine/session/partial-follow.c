/* SPDX-License-Identifier: Apache-2.0 */
/* Which of two attempts the unfinished images are, the one that goes on or the one that it goes on with. It knows no
 * images and no links. */
#include <errno.h>
#include <string.h>

#include "common/error.h"
#include "engine/session/partial.h"
#include "engine/session/parts.h"

#define TAKEN_FROM "taken_from"

int gw_partial_follow(struct gw_partial *partial, const struct gw_partial *older, const char *asked)
{
    json_t *list = json_pack("[s]", older->epoch);

    if (strcmp(asked, older->epoch) != 0)
        json_array_append_new(list, json_string(asked));
    return json_object_set_new(partial->detail, TAKEN_FROM, list)
               ? gw_fail(-ENOMEM, "no memory for a note")
               : 0;
}

/* What cannot be read this moment is there. What is damaged for good stands for nothing any more. */
static bool is_noted(const struct gw_environment *environment, const char *epoch,
                     enum gw_journal_side side)
{
    struct gw_partial partial;
    int error = gw_partial_read(environment, epoch, side, &partial);

    gw_partial_free(&partial);
    return error != -ENOENT && error != -EUCLEAN;
}

bool gw_partial_is_provisional(const struct gw_environment *environment,
                               const struct gw_partial *partial)
{
    const json_t *epoch;
    size_t index;

    json_array_foreach(json_object_get(partial->detail, TAKEN_FROM), index, epoch)
    {
        const char *text = json_string_value(epoch);

        if (text && is_noted(environment, text, partial->side))
            return true;
    }
    return false;
}

struct search {
    const struct gw_environment *environment;
    const char *epoch;
    enum gw_journal_side side;
    struct gw_partial *out;
};

static bool is_taken_from(const struct gw_partial *partial, const char *epoch)
{
    const json_t *item;
    size_t index;

    json_array_foreach(json_object_get(partial->detail, TAKEN_FROM), index, item)
    {
        const char *text = json_string_value(item);

        if (text && strcmp(text, epoch) == 0)
            return true;
    }
    return false;
}

static int look(const struct gw_partial *partial, void *context)
{
    const struct search *search = context;

    if (partial->side != search->side || !partial->is_kept ||
        !is_taken_from(partial, search->epoch) ||
        gw_partial_is_provisional(search->environment, partial))
        return 0;
    *search->out = *partial;
    json_incref(search->out->detail);
    return 1;
}

int gw_partial_find_follower(const struct gw_environment *environment, const char *epoch,
                             enum gw_journal_side side, struct gw_partial *out)
{
    struct search search = {.environment = environment, .epoch = epoch, .side = side, .out = out};

    return gw_partial_each(environment, look, &search)
               ? 0
               : gw_fail(-ENOENT, "nothing has taken the place of %.12s", epoch);
}

static int look_for_any(const struct gw_partial *partial, void *context)
{
    const struct search *search = context;

    return partial->side == search->side && is_taken_from(partial, search->epoch);
}

bool gw_partial_is_followed(const struct gw_environment *environment, const char *epoch,
                            enum gw_journal_side side)
{
    struct search search = {.epoch = epoch, .side = side};

    return gw_partial_each(environment, look_for_any, &search) != 0;
}

static int drop_follower(const struct gw_partial *partial, void *context)
{
    const struct search *search = context;

    if (partial->side == search->side && is_taken_from(partial, search->epoch) &&
        gw_partial_is_provisional(search->environment, partial))
        gw_partial_drop(search->environment, partial);
    return 0;
}

void gw_partial_drop_followers(const struct gw_environment *environment,
                               const struct gw_partial *partial)
{
    struct search search = {
        .environment = environment, .epoch = partial->epoch, .side = partial->side};

    gw_partial_each(environment, drop_follower, &search);
}

/* The journal: a block device has no other file. */
static bool has_entry(const struct gw_partial *partial, const json_t *entry)
{
    const json_t *journal = json_object_get(entry, "journal"), *disk;
    size_t index;

    json_array_foreach(json_object_get(partial->detail, "disks"), index,
                       disk) if (json_equal(json_object_get(disk, "journal"), journal)) return true;
    return false;
}

int gw_partial_replace(const struct gw_environment *environment, const struct gw_partial *older,
                       const struct gw_partial *later, bool *is_replaced)
{
    const json_t *entry;
    size_t index;
    int error = 0;

    json_array_foreach(json_object_get(older->detail, "disks"), index, entry)
    {
        if (error || has_entry(later, entry))
            continue;
        error = gw_part_unlink(entry, older->epoch);
        if (!error)
            error = gw_part_sync(entry);
    }
    if (error)
        return error;
    return gw_partial_unlink(environment, older, is_replaced);
}

bool gw_partial_give_back(const struct gw_environment *environment, struct gw_partial *partial)
{
    json_t *disks = json_object_get(partial->detail, "disks");

    if (!gw_partial_is_provisional(environment, partial))
        return false;
    for (size_t i = json_array_size(disks); i > 0; i--) {
        const json_t *entry = json_array_get(disks, i - 1);

        if (strcmp(gw_part_epoch(entry, partial->epoch), partial->epoch) != 0)
            json_array_remove(disks, i - 1);
    }
    json_object_del(partial->detail, TAKEN_FROM);
    partial->is_kept = false;
    return true;
}
