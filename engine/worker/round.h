/* SPDX-License-Identifier: Apache-2.0 */
/*
 * round: one pass over some volumes, handed out in chunks to whichever lane asks first.
 *
 * A first pass covers everything a volume has (data, zero and absent extents); a later one covers
 * the dirty granules of a bitmap. Within a round a byte belongs to one lane until it is
 * acknowledged or given back by the burial of that lane.
 *
 * Errors: 0 or -errno; an error of a volume ends the round for everyone, with its message.
 * Order: new → add (each volume) → claim … applied/give_back … → gw_round_is_done → free.
 * Threads: claim, applied and give_back from any worker; the rest from the control thread. One
 *   lock (leaf), taken once per batch of chunks; next_extent of a volume runs under it.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_ROUND_H
#define GODWIT_ENGINE_WORKER_ROUND_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/volume/volume.h"

/* A piece of work. DATA is at most GW_CHUNK_MAX long; ZERO and ABSENT as long as they are. */
struct gw_piece {
    uint16_t volume; /* index given to gw_round_add */
    enum gw_extent_kind kind;
    uint64_t offset, length;
};

struct gw_round;

int gw_round_new(struct gw_round **out);
void gw_round_free(struct gw_round *round);
/* dirty NULL: a first pass over all of it. Else the set granules; the bitmap is lent until the end.
 */
int gw_round_add(struct gw_round *round, uint16_t index, struct gw_source_volume *volume,
                 const struct gw_bitmap *dirty);
/* A first pass that begins at position, a multiple of the granularity. */
int gw_round_add_rest(struct gw_round *round, uint16_t index, struct gw_source_volume *volume,
                      uint64_t position);
/* The round ends soon after that time (gw_clock_ns), whatever is left; at least one piece is sent. */
void gw_round_set_deadline(struct gw_round *round, uint64_t deadline_ns);
/* RAM digests are asked for: the guest is stopped and the bytes hold still. */
void gw_round_set_still(struct gw_round *round);
bool gw_round_is_still(const struct gw_round *round);

/* The volumes of the round in the order in which they were added. False when there are no more. */
bool gw_round_member(struct gw_round *round, unsigned position, uint16_t *index,
                     struct gw_source_volume **volume, bool *is_first_pass);
/* How much of these bytes of the volume the round covers, whatever has been claimed of it: the dirty
 * granules, or in a first pass all. */
uint64_t gw_round_covers(struct gw_round *round, uint16_t index, uint64_t offset, uint64_t length);
/* Nothing at or behind horizon is claimed yet, of the volume and of those after it; UINT64_MAX lifts
 * that, and is how a round begins. It only grows. Returns true when that shows that the
 * round is done, as gw_round_applied does; of both together only one call ever does. */
bool gw_round_set_horizon(struct gw_round *round, uint16_t index, uint64_t horizon);
/* All before it was claimed once; and applied, when the round is done. */
uint64_t gw_round_position(struct gw_round *round, uint16_t index);
/* Up to max pieces and at most about bytes_max of data. Returns how many, 0 when nothing is left to
 * claim or the horizon is reached, or -errno. */
int gw_round_claim(struct gw_round *round, struct gw_piece *out, unsigned max, uint64_t bytes_max);
/* As above for a worker on a NUMA node (-1: on none): volumes whose bytes lie on another one come
 * when nothing else is left. Where there is a horizon, volumes come in their order. */
int gw_round_claim_near(struct gw_round *round, int node, struct gw_piece *out, unsigned max,
                        uint64_t bytes_max);
/* That much of what was claimed (pieces or parts of them, in bytes) is in the peer's volume.
 * Returns true when that was the last of the round. */
bool gw_round_applied(struct gw_round *round, uint64_t bytes);
/* A lane died before the piece was applied: someone else does it. */
int gw_round_give_back(struct gw_round *round, const struct gw_piece *piece);
bool gw_round_is_done(struct gw_round *round);
/* The first error of a volume, or code 0. */
void gw_round_error(struct gw_round *round, struct gw_error *out);
/* Data bytes handed out, zero bytes handed out, so far. */
void gw_round_counts(struct gw_round *round, uint64_t *data, uint64_t *zero);

#endif
