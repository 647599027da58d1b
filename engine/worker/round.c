/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of one pass. It walks volumes and bitmaps; it moves no byte. */
#include "engine/worker/round.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/checked.h"
#include "common/clock.h"
#include "engine/worker/record.h"

#define BEYOND 2 /* there is more, but not yet */

struct member {
    struct gw_source_volume *volume;
    const struct gw_bitmap *dirty;
    uint16_t index;
    uint64_t position;       /* everything before it was looked at */
    uint64_t horizon;        /* nothing from there on is handed out yet */
    uint64_t run_end;        /* of the dirty run that position is in */
    bool is_spent;           /* nothing is left to hand out */
    struct gw_extent extent; /* of the volume, around position; length 0: not looked up */
};

struct gw_round {
    pthread_mutex_t lock; /* protects everything below; leaf */
    struct member members[GW_VOLUMES_MAX];
    unsigned count;
    struct gw_piece *returned;
    unsigned returned_count, returned_room;
    uint64_t out_bytes; /* claimed and not applied */
    uint64_t data_bytes, zero_bytes;
    uint64_t deadline_ns; /* 0: none */
    bool is_over;         /* the deadline has passed: nothing new is handed out */
    bool is_still, is_done_told;
    struct gw_error error;
};

int gw_round_new(struct gw_round **out)
{
    struct gw_round *round = calloc(1, sizeof(*round));

    if (!round)
        return gw_fail(-ENOMEM, "no memory for a round");
    pthread_mutex_init(&round->lock, NULL);
    *out = round;
    return 0;
}

void gw_round_free(struct gw_round *round)
{
    if (!round)
        return;
    pthread_mutex_destroy(&round->lock);
    free(round->returned);
    free(round);
}

int gw_round_add(struct gw_round *round, uint16_t index, struct gw_source_volume *volume,
                 const struct gw_bitmap *dirty)
{
    if (round->count == GW_VOLUMES_MAX)
        return gw_fail(-E2BIG, "more than %u volumes", GW_VOLUMES_MAX);
    round->members[round->count++] =
        (struct member){.volume = volume, .dirty = dirty, .index = index, .horizon = UINT64_MAX};
    return 0;
}

int gw_round_add_rest(struct gw_round *round, uint16_t index, struct gw_source_volume *volume,
                      uint64_t position)
{
    int error = gw_round_add(round, index, volume, NULL);

    if (!error)
        round->members[round->count - 1].position = position;
    return error;
}

void gw_round_set_deadline(struct gw_round *round, uint64_t deadline_ns)
{
    round->deadline_ns = deadline_ns;
}

bool gw_round_member(struct gw_round *round, unsigned position, uint16_t *index,
                     struct gw_source_volume **volume, bool *is_first_pass)
{
    if (position >= round->count)
        return false;
    /* Set by gw_round_add alone, before any lane knows the round. */
    *index = round->members[position].index;
    *volume = round->members[position].volume;
    *is_first_pass = !round->members[position].dirty;
    return true;
}

static struct member *member_of(struct gw_round *round, uint16_t index)
{
    for (unsigned i = 0; i < round->count; i++)
        if (round->members[i].index == index)
            return &round->members[i];
    assert(false);
    return NULL;
}

uint64_t gw_round_position(struct gw_round *round, uint16_t index)
{
    uint64_t position;

    pthread_mutex_lock(&round->lock);
    position = member_of(round, index)->position;
    pthread_mutex_unlock(&round->lock);
    return position;
}

uint64_t gw_round_covers(struct gw_round *round, uint16_t index, uint64_t offset, uint64_t length)
{
    const struct member *member = member_of(round, index);
    uint64_t granularity = member->volume->granularity, end = offset + length, bytes = 0;
    uint64_t first = offset / granularity, count;

    if (!member->dirty)
        return length;
    /* Lent until the end of the round, and nobody changes it. */
    while (gw_bitmap_next_run(member->dirty, first, &first, &count) && first * granularity < end) {
        bytes += gw_min((first + count) * granularity, end) - gw_max(first * granularity, offset);
        first += count;
    }
    return bytes;
}

void gw_round_set_still(struct gw_round *round)
{
    round->is_still = true;
}

bool gw_round_is_still(const struct gw_round *round)
{
    return round->is_still;
}

/* Moves position to the next byte that this pass covers. False at the end of the volume. */
static bool seek_covered(struct member *member)
{
    uint64_t first, count, granularity = member->volume->granularity;

    if (!member->dirty)
        member->run_end = member->volume->size;
    if (member->position >= member->run_end) {
        if (!member->dirty ||
            !gw_bitmap_next_run(member->dirty, member->position / granularity, &first, &count))
            return false;
        member->position = gw_max(member->position, first * granularity);
        member->run_end = gw_min((first + count) * granularity, member->volume->size);
    }
    return member->position < member->run_end;
}

/* Holes of RAM need no word in a first pass: the target's memory begins as zeroes. */
static bool skip_fresh(struct member *member)
{
    if (member->dirty || member->volume->kind != GW_VOLUME_RAM ||
        member->extent.kind != GW_EXTENT_ABSENT)
        return false;
    member->position = member->extent.offset + member->extent.length;
    return true;
}

/* The next piece of a volume; 0 when it has no more, 1 when *out is one, BEYOND when it lies behind
 * the horizon, or -errno. */
static int next_piece(struct member *member, struct gw_piece *out)
{
    struct gw_extent *extent = &member->extent;
    uint64_t end;
    int error;

    do {
        if (!seek_covered(member))
            return 0;
        if (member->position >= member->horizon)
            return BEYOND;
        if (member->position >= extent->offset + extent->length || extent->length == 0) {
            error = member->volume->ops->next_extent(member->volume, member->position,
                                                     member->run_end, extent);
            if (error)
                return error;
        }
    } while (skip_fresh(member));
    if (member->position >= member->horizon)
        return BEYOND;
    end = gw_min(gw_min(extent->offset + extent->length, member->run_end), member->horizon);
    *out = (struct gw_piece){
        .volume = member->index,
        .kind = extent->kind,
        .offset = member->position,
        .length = end - member->position,
    };
    if (out->kind == GW_EXTENT_DATA) {
        /* Chunks end at multiples of their size, so that they keep the alignment of the volume. */
        uint64_t limit = gw_align_down(out->offset, GW_CHUNK_MAX) + GW_CHUNK_MAX - out->offset;

        out->length = gw_min(out->length, limit);
    }
    member->position += out->length;
    return 1;
}

static bool is_near(const struct member *member, int node)
{
    return node < 0 || !member->volume->has_node || member->volume->node == node;
}

/* The next piece of a volume that is near the node, or of one that is not; the answers are those of
 * next_piece. *from takes its volume, NULL for a piece that was returned. */
static int next_of_members(struct gw_round *round, int node, bool wants_near, struct gw_piece *out,
                           struct member **from)
{
    for (unsigned i = 0; i < round->count; i++) {
        struct member *member = &round->members[i];
        int found;

        if (member->is_spent || is_near(member, node) != wants_near)
            continue;
        *from = member;
        found = next_piece(member, out);
        if (found)
            return found;
        member->is_spent = true;
    }
    return 0;
}

static bool has_horizon(const struct gw_round *round)
{
    for (unsigned i = 0; i < round->count; i++)
        if (round->members[i].horizon != UINT64_MAX)
            return true;
    return false;
}

static int next_of_round(struct gw_round *round, int node, struct gw_piece *out,
                         struct member **from)
{
    int found;

    if (round->returned_count > 0) {
        *from = NULL;
        *out = round->returned[--round->returned_count];
        return 1;
    }
    /* It ends while something is out, whose acknowledgement then finds that it is done. */
    if (round->deadline_ns && round->out_bytes > 0 && gw_clock_ns() >= round->deadline_ns)
        round->is_over = true;
    if (round->is_over)
        return 0;
    /* Windows open in the order of the volumes, and so the walk has to go while there are any. */
    if (has_horizon(round))
        node = -1;
    found = next_of_members(round, node, true, out, from);
    return found ? found : next_of_members(round, node, false, out, from);
}

int gw_round_claim(struct gw_round *round, struct gw_piece *out, unsigned max, uint64_t bytes_max)
{
    return gw_round_claim_near(round, -1, out, max, bytes_max);
}

int gw_round_claim_near(struct gw_round *round, int node, struct gw_piece *out, unsigned max,
                        uint64_t bytes_max)
{
    struct member *from;
    unsigned count = 0;
    uint64_t bytes = 0;
    int found = 1;

    pthread_mutex_lock(&round->lock);
    while (!round->error.code && count < max && bytes < bytes_max) {
        found = next_of_round(round, node, &out[count], &from);
        if (found != 1)
            break;
        round->out_bytes += out[count].length;
        if (out[count].kind == GW_EXTENT_DATA)
            bytes += out[count].length;
        else
            round->zero_bytes += out[count].length;
        count++;
    }
    round->data_bytes += bytes;
    if (found < 0)
        gw_error_take(found, &round->error);
    found = round->error.code ? gw_error_raise(&round->error) : (int)count;
    pthread_mutex_unlock(&round->lock);
    /* Pieces claimed in the very call that failed stay out: the round has failed anyway. */
    return found;
}

/* Is everything handed out and applied? Looks past members that have nothing left. */
static bool check_done(struct gw_round *round)
{
    struct gw_piece piece;
    struct member *from;
    int found;

    if (round->out_bytes > 0 || round->returned_count > 0 || round->error.code)
        return false;
    found = next_of_round(round, -1, &piece, &from);
    if (found == 1) /* Put back what the look took: nobody claimed it. */
        from->position = piece.offset;
    else if (found < 0)
        gw_error_take(found, &round->error);
    return found == 0;
}

/* Is it done, and was nobody told? */
static bool became_done(struct gw_round *round)
{
    if (round->is_done_told || !check_done(round))
        return false;
    round->is_done_told = true;
    return true;
}

bool gw_round_applied(struct gw_round *round, uint64_t bytes)
{
    bool done;

    pthread_mutex_lock(&round->lock);
    round->out_bytes -= bytes;
    done = became_done(round);
    pthread_mutex_unlock(&round->lock);
    return done;
}

bool gw_round_set_horizon(struct gw_round *round, uint16_t index, uint64_t horizon)
{
    bool done;

    pthread_mutex_lock(&round->lock);
    member_of(round, index)->horizon = horizon;
    done = became_done(round);
    pthread_mutex_unlock(&round->lock);
    return done;
}

int gw_round_give_back(struct gw_round *round, const struct gw_piece *piece)
{
    int error = 0;

    pthread_mutex_lock(&round->lock);
    if (round->returned_count == round->returned_room) {
        unsigned room = round->returned_room ? round->returned_room * 2 : 256;
        struct gw_piece *grown = realloc(round->returned, room * sizeof(*grown));

        if (!grown) {
            error = gw_fail(-ENOMEM, "no memory to send %u pieces again", room);
            goto out;
        }
        round->returned = grown;
        round->returned_room = room;
    }
    round->returned[round->returned_count++] = *piece;
    round->out_bytes -= piece->length;
    if (piece->kind == GW_EXTENT_DATA)
        round->data_bytes -= piece->length;
    else
        round->zero_bytes -= piece->length;
out:
    pthread_mutex_unlock(&round->lock);
    return error;
}

bool gw_round_is_done(struct gw_round *round)
{
    bool done;

    pthread_mutex_lock(&round->lock);
    done = check_done(round);
    pthread_mutex_unlock(&round->lock);
    return done;
}

void gw_round_error(struct gw_round *round, struct gw_error *out)
{
    pthread_mutex_lock(&round->lock);
    *out = round->error;
    pthread_mutex_unlock(&round->lock);
}

void gw_round_counts(struct gw_round *round, uint64_t *data, uint64_t *zero)
{
    pthread_mutex_lock(&round->lock);
    *data = round->data_bytes;
    *zero = round->zero_bytes;
    pthread_mutex_unlock(&round->lock);
}
