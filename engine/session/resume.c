/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half of going on with an unfinished image: what the target has is compared with what
 * the source has, piece by piece. */
#include <errno.h>
#include <stdlib.h>

#include "common/error.h"
#include "engine/session/compare.h"
#include "engine/session/source.h"

struct comparison {
    struct gw_source *source;
    struct gw_source_volume *volume;
    unsigned index;
    uint64_t offset, end;
    struct gw_compare_piece ours, theirs;
};

static int ask(const struct comparison *comparison)
{
    json_t *request =
        json_pack("{s:s,s:i,s:I,s:I}", "type", "compare", "volume", (int)comparison->index,
                  "offset", (json_int_t)comparison->offset, "end", (json_int_t)comparison->end);

    return gw_message_send(comparison->source->control, request);
}

static int hear(struct comparison *comparison)
{
    json_t *message;
    int error = gw_source_receive(comparison->source, GW_REPLY_TIMEOUT_MS, &message);

    if (error)
        return error;
    if (gw_message_is(message, "compared"))
        error =
            gw_compare_decode(message, comparison->offset, comparison->end, &comparison->theirs);
    else if (gw_message_is(message, "error"))
        error = gw_message_raise(message);
    else
        error = gw_fail(-EPROTO, "the target answered '%s' where 'compared' was due",
                        gw_message_type(message));
    json_decref(message);
    return error;
}

/* Both sides read at once. A link that was lost meanwhile is healed, and the piece asked for anew. */
static int compare_piece(struct comparison *comparison)
{
    int error;

    do {
        error = ask(comparison);
        if (!error)
            error = gw_compare_read(comparison->volume, comparison->offset, comparison->end,
                                    &comparison->ours);
        if (!error)
            error = hear(comparison);
        if (!error)
            return 0;
        error = gw_source_heal(comparison->source, error);
    } while (!error);
    return error;
}

int gw_source_compare(struct gw_source *source, unsigned index, struct gw_source_volume *volume,
                      uint64_t end, struct gw_bitmap *different, uint64_t *bytes)
{
    struct comparison *comparison = calloc(1, sizeof(*comparison));
    int error = 0;

    if (!comparison)
        return gw_fail(-ENOMEM, "no memory to compare with");
    *comparison =
        (struct comparison){.source = source, .volume = volume, .index = index, .end = end};
    while (!error && comparison->offset < end) {
        error = compare_piece(comparison);
        if (!error)
            comparison->offset = gw_compare_pieces(&comparison->ours, &comparison->theirs,
                                                   comparison->offset, volume, different, bytes);
        if (!error && source->tick)
            error = source->tick(source->tick_context);
    }
    gw_control_leave(source->control);
    free(comparison);
    return error;
}
