/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compare: what an unfinished image holds beside what its source holds, by digests of both, so that
 * a copy that is gone on with trusts nothing that it has not read. The target tells the digests of
 * what it reads back, the source compares them with its own: what differs is sent again.
 *
 * In pieces: of a range both sides make the XXH3-128 of every 1 MiB granule that is not all zeroes,
 * up to a limit, and say how far they came. Holes cost a seek.
 *
 * Errors: 0 or -errno with a message; -EPROTO for an answer that cannot be.
 * Threads: one per volume.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_COMPARE_H
#define GODWIT_ENGINE_SESSION_COMPARE_H

#include <jansson.h>

#include "engine/session/verify.h"

#define GW_COMPARE_GRANULE (1u << 20)
#define GW_COMPARE_MAX     64u /* granules that one piece reads */

struct gw_compare_granule {
    uint64_t index; /* offset / GW_COMPARE_GRANULE */
    uint8_t digest[GW_VERIFY_SIZE];
};

struct gw_compare_piece {
    uint64_t end; /* of what was looked at */
    unsigned count;
    struct gw_compare_granule granules[GW_COMPARE_MAX]; /* not all zeroes, in their order */
};

/* A bitmap of what differs, one bit per granule; so is what the volume is sent by from here on. The
 * caller frees the bitmap. */
int gw_compare_begin(struct gw_source_volume *volume, struct gw_bitmap *different);
/* From offset, a multiple of the granule, to end at most. */
int gw_compare_read(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                    struct gw_compare_piece *out);
/* Adds to different (one bit per granularity) what differs from offset to the end of the shorter
 * piece, which is returned. *bytes grows by as much. */
uint64_t gw_compare_pieces(const struct gw_compare_piece *ours,
                           const struct gw_compare_piece *theirs, uint64_t offset,
                           const struct gw_source_volume *volume, struct gw_bitmap *different,
                           uint64_t *bytes);
/* The message "compared", and back; checked against the range that was asked for. */
json_t *gw_compare_encode(const struct gw_compare_piece *piece);
int gw_compare_decode(const json_t *message, uint64_t offset, uint64_t end,
                      struct gw_compare_piece *out);

/* Both on this host: all of it from 0 to end. */
int gw_compare_volumes(struct gw_source_volume *source, struct gw_source_volume *target,
                       uint64_t end, struct gw_bitmap *different, uint64_t *bytes);

#endif
