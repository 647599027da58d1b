/* SPDX-License-Identifier: Apache-2.0 */
/* A growing array of slots that are never moved or freed before the table is, so that look-ups need
 * no lock. It knows nothing of wires. */
#include "transport/region-table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "common/checked.h"
#include "common/error.h"

#define SLOT_BITS 16u

static_assert(GW_REGIONS_MAX == 1u << SLOT_BITS, "a slot's number fills the low bits of its key");

struct gw_region_slot {
    _Atomic uint64_t key;     /* 0: no region */
    _Atomic uint32_t holders; /* threads that place bytes, and brief visitors with a stale key */
    bool is_taken;            /* guarded by the table's lock */
    /* Written before key is stored and after the last holder is gone. */
    char *memory;
    uint64_t length;
    uint32_t only_channel;
};

void gw_region_table_init(struct gw_region_table *table)
{
    pthread_mutex_init(&table->lock, NULL);
    for (unsigned i = 0; i < GW_REGION_CHUNKS; i++)
        atomic_init(&table->chunks[i], NULL);
    table->lowest_free = 0;
}

void gw_region_table_destroy(struct gw_region_table *table)
{
    for (unsigned i = 0; i < GW_REGION_CHUNKS; i++)
        free(atomic_load(&table->chunks[i]));
    pthread_mutex_destroy(&table->lock);
}

static struct gw_region_slot *slot_at(struct gw_region_table *table, uint64_t key)
{
    unsigned number = (unsigned)(key & (GW_REGIONS_MAX - 1));
    struct gw_region_slot *chunk =
        atomic_load_explicit(&table->chunks[number / GW_REGION_CHUNK_SLOTS], memory_order_acquire);

    return chunk ? &chunk[number % GW_REGION_CHUNK_SLOTS] : NULL;
}

/* The number of a free slot, or -errno. Called with the lock held. */
static int find_slot(struct gw_region_table *table)
{
    for (unsigned number = table->lowest_free; number < GW_REGIONS_MAX; number++) {
        struct gw_region_slot *slot = slot_at(table, number);

        if (!slot) {
            struct gw_region_slot *chunk = calloc(GW_REGION_CHUNK_SLOTS, sizeof(*chunk));

            if (!chunk)
                return gw_fail(-ENOMEM, "no memory for more regions");
            atomic_store_explicit(&table->chunks[number / GW_REGION_CHUNK_SLOTS], chunk,
                                  memory_order_release);
            slot = slot_at(table, number);
        }
        if (!slot->is_taken) {
            table->lowest_free = number + 1;
            return (int)number;
        }
    }
    return gw_fail(-ENOSPC, "a domain holds at most %u regions", GW_REGIONS_MAX);
}

int gw_region_table_add(struct gw_region_table *table, struct gw_region *region,
                        uint32_t only_channel)
{
    struct gw_region_slot *slot;
    uint64_t random = 0;
    int number;

    region->key = 0;
    if (!(region->access & GW_ACCESS_REMOTE_WRITE))
        return 0;
    do
        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
            return gw_fail_errno(-errno, "no random bytes for a region's key");
    while (random >> SLOT_BITS == 0);
    pthread_mutex_lock(&table->lock);
    number = find_slot(table);
    if (number >= 0) {
        slot = slot_at(table, (uint64_t)number);
        slot->is_taken = true;
        slot->memory = region->memory;
        slot->length = region->length;
        slot->only_channel = only_channel;
        region->key = (random & ~(uint64_t)(GW_REGIONS_MAX - 1)) | (uint64_t)number;
        atomic_store(&slot->key, region->key);
    }
    pthread_mutex_unlock(&table->lock);
    return number < 0 ? number : 0;
}

void gw_region_table_remove(struct gw_region_table *table, const struct gw_region *region)
{
    const struct timespec pause = {.tv_nsec = 20000};
    struct gw_region_slot *slot;

    if (region->key == 0)
        return;
    slot = slot_at(table, region->key);
    assert(slot && atomic_load(&slot->key) == region->key);
    atomic_store(&slot->key, 0);
    while (atomic_load(&slot->holders) != 0)
        nanosleep(&pause, NULL);
    pthread_mutex_lock(&table->lock);
    slot->is_taken = false;
    table->lowest_free = (unsigned)gw_min(table->lowest_free, region->key & (GW_REGIONS_MAX - 1));
    pthread_mutex_unlock(&table->lock);
}

static struct gw_region_slot *hold(struct gw_region_table *table, uint64_t key)
{
    struct gw_region_slot *slot = key ? slot_at(table, key) : NULL;

    if (!slot)
        return NULL;
    atomic_fetch_add(&slot->holders, 1);
    if (atomic_load(&slot->key) == key)
        return slot;
    atomic_fetch_sub(&slot->holders, 1);
    return NULL;
}

bool gw_region_table_hold_again(struct gw_region_table *table, uint64_t key)
{
    return hold(table, key) != NULL;
}

void gw_region_table_release(struct gw_region_table *table, uint64_t key)
{
    atomic_fetch_sub(&slot_at(table, key)->holders, 1);
}

int gw_region_table_new(struct gw_region_table *table, const struct gw_region *region,
                        uint32_t only_channel, struct gw_region **out)
{
    struct gw_region *made = malloc(sizeof(*made));
    int error;

    if (!made)
        return gw_fail(-ENOMEM, "no memory for a region");
    *made = *region;
    error = gw_region_table_add(table, made, only_channel);
    if (error)
        free(made);
    else
        *out = made;
    return error;
}

void gw_region_table_free(struct gw_region_table *table, struct gw_region *region)
{
    gw_region_table_remove(table, region);
    free(region);
}

/* Of a slot that is held. */
static int locate(const struct gw_region_slot *slot, const struct gw_region_target *target,
                  void **out)
{
    if (slot->only_channel != 0 && slot->only_channel != target->channel_number)
        return gw_fail(-EPROTO, "the peer wrote on channel %u to a region of channel %u",
                       target->channel_number, slot->only_channel);
    if (!gw_range_fits(target->offset, target->length, slot->length))
        return gw_fail(-EPROTO, "the peer wrote %u bytes at offset %llu of a region of %llu",
                       target->length, (unsigned long long)target->offset,
                       (unsigned long long)slot->length);
    *out = slot->memory + target->offset;
    return 0;
}

int gw_region_table_grip(struct gw_region_table *table, struct gw_region_grip *grip,
                         const struct gw_region_target *target, void **out)
{
    if (grip->slot && grip->key != target->key)
        gw_region_table_let_go(grip);
    if (!grip->slot) {
        grip->slot = hold(table, target->key);
        grip->key = target->key;
    }
    if (!grip->slot)
        return gw_fail(-EPROTO, "the peer wrote to a region that is not registered");
    return locate(grip->slot, target, out);
}

void gw_region_table_let_go(struct gw_region_grip *grip)
{
    if (grip->slot)
        atomic_fetch_sub(&grip->slot->holders, 1);
    grip->slot = NULL;
}

int gw_region_table_hold(struct gw_region_table *table, const struct gw_region_target *target,
                         void **out)
{
    struct gw_region_grip grip = {0};
    int error = gw_region_table_grip(table, &grip, target, out);

    if (error)
        gw_region_table_let_go(&grip);
    return error;
}
