/* SPDX-License-Identifier: Apache-2.0 */
/*
 * landing: which bytes of the target's landing ring (and of the sender's own, which lies alike) are free.
 *
 * Bytes are taken in order and freed in order. Not the whole ring is gone around in: as long as a short part
 * of it keeps the way full, that part stays in the processors' caches at both ends, which a long one never
 * does. It doubles where it is what limits: on a long way, or while reads wait for it.
 *
 * Order: init → take, head back to what it was before the last take, free_to (an end that was given) …
 * Threads: none; of one lane.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_WORKER_LANDING_H
#define GODWIT_ENGINE_WORKER_LANDING_H

#include <stdbool.h>
#include <stdint.h>

#define GW_LANDING_SPAN_MIN (2u << 20)

struct gw_landing {
    uint32_t size;       /* of the ring, a multiple of the record format's alignment */
    uint32_t span;       /* the part that is gone around in */
    uint64_t origin;     /* where head was at the beginning of that part, some lap ago */
    uint64_t head, tail; /* only grow, but for a take that is undone; what is between is taken */
    uint64_t shortest_ns;
    unsigned quick_count; /* round trips one after the other that did not wait */
    bool is_short;        /* it is to become longer at the end of the lap */
};

void gw_landing_init(struct gw_landing *ring, uint32_t size);
/* Takes length bytes in one piece (at most the span, rounded up to the alignment), and tells their place in
 * the ring. False when there is no room yet. */
bool gw_landing_take(struct gw_landing *ring, uint64_t length, uint32_t *position);
/* Frees everything that was taken before head was end. */
void gw_landing_free_to(struct gw_landing *ring, uint64_t end);
/* Bytes were sent when used of them were on their way, themselves included, and were acknowledged after
 * round_trip_ns. */
void gw_landing_learn(struct gw_landing *ring, uint64_t used, uint64_t round_trip_ns);
/* Something else than the way shows that it is too short. */
void gw_landing_lengthen(struct gw_landing *ring);

#endif
