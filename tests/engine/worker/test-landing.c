/* SPDX-License-Identifier: Apache-2.0 */
/* Places in the landing ring: against a map of what is taken, and how long the used part becomes on ways that
 * are simulated. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "engine/worker/landing.h"
#include "engine/worker/record.h"

#define MIB       (1u << 20)
#define PAGES     (8 * MIB / GW_RING_ALIGNMENT)
#define TAKEN_MAX 4096u

struct taken {
    uint32_t position;
    uint64_t length, end;
};

/* The ring, and what is taken of it, in order. */
struct model {
    struct gw_landing ring;
    bool is_taken[PAGES];
    struct taken list[TAKEN_MAX];
    unsigned first, count;
};

static struct model *new_model(uint32_t size)
{
    struct model *model = calloc(1, sizeof(*model));

    cr_assert_not_null(model);
    gw_landing_init(&model->ring, size);
    return model;
}

static void mark(struct model *model, const struct taken *taken, bool is_taken)
{
    uint64_t end = gw_align_up(taken->position + taken->length, GW_RING_ALIGNMENT);

    cr_assert_leq(end, model->ring.size);
    for (uint64_t at = taken->position; at < end; at += GW_RING_ALIGNMENT) {
        cr_assert_neq(model->is_taken[at / GW_RING_ALIGNMENT], is_taken, "at %llu",
                      (unsigned long long)at);
        model->is_taken[at / GW_RING_ALIGNMENT] = is_taken;
    }
}

static bool take(struct model *model, uint64_t length)
{
    struct taken *taken = &model->list[(model->first + model->count) % TAKEN_MAX];

    if (model->count == TAKEN_MAX || !gw_landing_take(&model->ring, length, &taken->position))
        return false;
    taken->length = length;
    taken->end = model->ring.head;
    mark(model, taken, true);
    model->count++;
    return true;
}

static void free_one(struct model *model)
{
    const struct taken *taken = &model->list[model->first];

    mark(model, taken, false);
    gw_landing_free_to(&model->ring, taken->end);
    model->first = (model->first + 1) % TAKEN_MAX;
    model->count--;
}

Test(landing, a_part_is_gone_around_in)
{
    struct model *model = new_model(8 * MIB);

    for (unsigned i = 0; i < 100; i++) {
        cr_assert(take(model, 256 << 10));
        cr_assert_lt(model->list[model->first].position, GW_LANDING_SPAN_MIN);
        free_one(model);
    }
    for (unsigned i = 0; i < 8; i++)
        cr_assert(take(model, 256 << 10));
    cr_assert_not(take(model, 1));
    free_one(model);
    cr_assert(take(model, 256 << 10));
    free(model);
}

Test(landing, a_small_ring_is_used_whole)
{
    struct model *model = new_model(1 * MIB);

    for (unsigned i = 0; i < 4; i++)
        cr_assert(take(model, 256 << 10));
    cr_assert_not(take(model, 1));
    gw_landing_lengthen(&model->ring);
    cr_assert_not(take(model, 1));
    free_one(model);
    cr_assert(take(model, 256 << 10));
    cr_assert_eq(model->ring.span, 1 * MIB);
    free(model);
}

/* A take that is undone leaves everything as it was, also where the ring grew for it. */
Test(landing, a_take_is_undone)
{
    struct model *model = new_model(8 * MIB);
    uint32_t position, again;
    uint64_t head;

    for (unsigned i = 0; i < 8; i++)
        cr_assert(take(model, 256 << 10));
    head = model->ring.head;
    gw_landing_lengthen(&model->ring);
    cr_assert(gw_landing_take(&model->ring, 4096, &position));
    cr_assert_eq(position, 2 * MIB);
    model->ring.head = head;
    cr_assert(gw_landing_take(&model->ring, 65536, &again));
    cr_assert_eq(again, position);
    free(model);
}

/* Nothing that is taken is given out again, however it grows. */
Test(landing, what_is_taken_stays_so)
{
    static const uint32_t sizes[] = {8 * MIB, 3 * MIB, 2 * MIB + 4096, 256 << 10};

    srand(5);
    for (unsigned seed = 0; seed < 200; seed++) {
        struct model *model = new_model(sizes[seed % 4]);

        for (unsigned step = 0; step < 5000; step++) {
            uint64_t head = model->ring.head;
            uint32_t position;

            if (rand() % 200 == 0)
                gw_landing_lengthen(&model->ring);
            if (rand() % 9 == 0 && gw_landing_take(&model->ring, 1 + rand() % 65536, &position))
                model->ring.head = head;
            if (rand() % 2)
                take(model, 1 + rand() % (rand() % 2 ? GW_CHUNK_MAX : 8192));
            else if (model->count > 0 && rand() % 8 < 7)
                free_one(model);
            cr_assert_leq(model->ring.head - model->ring.tail, model->ring.span);
        }
        while (model->count > 0)
            free_one(model);
        cr_assert(take(model, GW_CHUNK_MAX));
        free(model);
    }
}

/* A way of that round trip, and a target that takes a record in that time; one record of 512 KiB after the other,
 * as soon as there is room. Returns the part of the ring that is used in the end. */
static uint32_t simulate(uint64_t trip_ns, uint64_t each_ns, unsigned records)
{
    struct model *model = new_model(8 * MIB);
    struct {
        uint64_t sent_ns, back_ns, used;
    } out[TAKEN_MAX];
    uint64_t now = 0, free_ns = 0;
    uint32_t span;

    for (unsigned sent = 0, back = 0; back < records; back++) {
        for (; sent - back < TAKEN_MAX / 2 && take(model, 256 << 10); sent++) {
            if (!take(model, 256 << 10)) {
                model->ring.head -= 256 << 10;
                mark(model, &model->list[(model->first + --model->count) % TAKEN_MAX], false);
                break;
            }
            free_ns = gw_max(free_ns, now + trip_ns / 2) + each_ns;
            out[sent % TAKEN_MAX].sent_ns = now;
            out[sent % TAKEN_MAX].back_ns = free_ns + trip_ns / 2;
            out[sent % TAKEN_MAX].used = model->ring.head - model->ring.tail;
        }
        now = gw_max(now, out[back % TAKEN_MAX].back_ns);
        gw_landing_learn(&model->ring, out[back % TAKEN_MAX].used,
                         now - out[back % TAKEN_MAX].sent_ns);
        free_one(model);
        free_one(model);
    }
    span = model->ring.span;
    free(model);
    return span;
}

#define US 1000ull

Test(landing, it_grows_on_a_long_way_only)
{
    /* A switch or two between the hosts, and a target that is slower than the way. */
    cr_assert_eq(simulate(50 * US, 250 * US, 2000), 2 * MIB);
    /* Twice as much as is on its way is enough. */
    cr_assert_eq(simulate(200 * US, 100 * US, 2000), 4 * MIB);
    cr_assert_eq(simulate(1500 * US, 500 * US, 2000), 4 * MIB);
    /* 20 ms, and whatever is faster than the whole ring in that time. */
    cr_assert_eq(simulate(20000 * US, 250 * US, 2000), 8 * MIB);
    cr_assert_eq(simulate(20000 * US, 1000 * US, 2000), 8 * MIB);
    /* Far away, but slow. */
    cr_assert_eq(simulate(20000 * US, 20000 * US, 2000), 2 * MIB);
}
