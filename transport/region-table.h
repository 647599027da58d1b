/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The regions of a domain, for back ends whose device keeps no such table.
 *
 * A key is 48 random bits above the 16-bit number of its slot, so a look-up is one array access and
 * a key that was never told cannot be found by trying. A thread that places bytes of the peer
 * *holds* the key for the duration of the copy: hold counts the slot in use, then looks whether the
 * key is still there; remove takes the key away, then waits until the count is zero. Both sides use
 * sequentially consistent atomics, so either the holder sees the key gone or remove sees the
 * holder. Nobody may keep a hold over a wait for the network: a frame that arrives in pieces holds
 * its keys anew for each piece, and is refused from the piece on that finds its key gone. Counting
 * waits for all that the processor has yet to store, so who places many small pieces in a row keeps
 * one hold for those of one region (a grip).
 *
 * Errors: -ENOMEM; -ENOSPC when all slots are taken; -EPROTO when the peer may not write there.
 * Threads: add and remove by control threads (a mutex orders them); hold and release by any thread.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_REGION_TABLE_H
#define GODWIT_TRANSPORT_REGION_TABLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "transport/transport.h"

#define GW_REGION_CHUNKS      256u
#define GW_REGION_CHUNK_SLOTS 256u
#define GW_REGIONS_MAX        (GW_REGION_CHUNKS * GW_REGION_CHUNK_SLOTS)

struct gw_region_slot;

struct gw_region_table {
    pthread_mutex_t lock; /* guards taken slots and the growth of chunks; no other lock within */
    _Atomic(struct gw_region_slot *) chunks[GW_REGION_CHUNKS];
    unsigned lowest_free; /* no slot below this number is free */
};

/* What a peer's write names. */
struct gw_region_target {
    uint64_t key;
    uint64_t offset;
    uint32_t length;
    uint32_t channel_number; /* of the channel that it arrived on */
};

void gw_region_table_init(struct gw_region_table *table);
void gw_region_table_destroy(struct gw_region_table *table);

/* Enters region and sets its key; 0 for a region that the peer may not write. */
int gw_region_table_add(struct gw_region_table *table, struct gw_region *region,
                        uint32_t only_channel);
/* Ends the key and waits until nobody holds it. */
void gw_region_table_remove(struct gw_region_table *table, const struct gw_region *region);

/* As the two above, for a region of the table's own: a copy of what region says. */
int gw_region_table_new(struct gw_region_table *table, const struct gw_region *region,
                        uint32_t only_channel, struct gw_region **out);
void gw_region_table_free(struct gw_region_table *table, struct gw_region *region);

/* Answers where the target lies in memory and holds its key. On error nothing is held. */
int gw_region_table_hold(struct gw_region_table *table, const struct gw_region_target *target,
                         void **out);
/* As above for a target that was looked up before: true and held when its key is still good. */
bool gw_region_table_hold_again(struct gw_region_table *table, uint64_t key);
void gw_region_table_release(struct gw_region_table *table, uint64_t key);

/* A hold for several targets in a row, by one thread, of one table. Begins zeroed. */
struct gw_region_grip {
    struct gw_region_slot *slot; /* NULL: nothing is held */
    uint64_t key;
};
/* As gw_region_table_hold; the grip's hold is kept where the target is of the same region, and else
 * released. On error it may hold what it held. */
int gw_region_table_grip(struct gw_region_table *table, struct gw_region_grip *grip,
                         const struct gw_region_target *target, void **out);
void gw_region_table_let_go(struct gw_region_grip *grip);

#endif
