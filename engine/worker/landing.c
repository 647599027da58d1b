/* SPDX-License-Identifier: Apache-2.0 */
/* Places in a ring whose used part grows. It knows no byte of it. */
#include "engine/worker/landing.h"

#include "common/checked.h"
#include "engine/worker/record.h"

/* So many round trips of a ring that is nearly full, none of them twice as long as the shortest, are no
 * chance: the bytes do not wait at the other end, and more could be on their way. */
#define QUICK_COUNT 8u

void gw_landing_init(struct gw_landing *ring, uint32_t size)
{
    *ring = (struct gw_landing){.size = size,
                                .span = (uint32_t)gw_min(size, GW_LANDING_SPAN_MIN),
                                .shortest_ns = UINT64_MAX};
}

/* At the end of a lap, at bytes into it: what lies behind the part that was used is free, and taking goes on
 * there when nothing before it is left of the lap before. */
static bool grow(struct gw_landing *ring, uint64_t at)
{
    if (!ring->is_short || ring->span == ring->size || ring->head - ring->tail > at)
        return false;
    ring->origin = ring->head - at;
    ring->span = (uint32_t)gw_min(2ull * ring->span, ring->size);
    ring->is_short = false;
    ring->quick_count = 0;
    return true;
}

bool gw_landing_take(struct gw_landing *ring, uint64_t length, uint32_t *position)
{
    uint64_t head = ring->head, at;

    /* An empty one is begun anew: what is left of the lap may be too little for all that is to come. */
    if (ring->head == ring->tail)
        ring->origin = ring->head;
    at = (head - ring->origin) % ring->span;
    length = gw_align_up(length, GW_RING_ALIGNMENT);
    if (at == 0 && head != ring->origin && grow(ring, ring->span))
        at = (head - ring->origin) % ring->span;
    if (at + length > ring->span)
        grow(ring, at);
    if (at + length > ring->span) {
        head += ring->span - at;
        at = 0;
    }
    if (head + length - ring->tail > ring->span)
        return false;
    *position = (uint32_t)at;
    ring->head = head + length;
    return true;
}

void gw_landing_free_to(struct gw_landing *ring, uint64_t end)
{
    ring->tail = end;
}

void gw_landing_learn(struct gw_landing *ring, uint64_t used, uint64_t round_trip_ns)
{
    ring->shortest_ns = gw_min(ring->shortest_ns, round_trip_ns);
    if (used < ring->span / 4 * 3)
        return;
    ring->quick_count = round_trip_ns < 2 * ring->shortest_ns ? ring->quick_count + 1 : 0;
    if (ring->quick_count >= QUICK_COUNT)
        ring->is_short = true;
}

void gw_landing_lengthen(struct gw_landing *ring)
{
    ring->is_short = true;
}
