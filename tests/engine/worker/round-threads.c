/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several threads claim from one round at once, give some pieces back, and count what they got:
 * every KiB is applied exactly once. A plain program, so that ThreadSanitizer can run it. Exit: 0,
 * or 1 with what was wrong.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/worker/round.h"
#include "tests/engine/worker/fake-volume.h"

#define KIB     1024ull
#define MIB     (1024 * KIB)
#define THREADS 4
#define VOLUMES 3
#define SIZE    (128 * MIB)

struct rig {
    struct gw_round *round;
    pthread_barrier_t start;
    _Atomic unsigned char *applied; /* per KiB of each volume, how often */
    _Atomic unsigned finished;      /* how often "that was the last" was said */
    _Atomic unsigned errors;
};

static unsigned random_of(unsigned *state)
{
    *state = *state * 1103515245u + 12345u;
    return *state >> 16;
}

static void apply(struct rig *rig, const struct gw_piece *piece)
{
    size_t first = (piece->volume * SIZE + piece->offset) / KIB;

    for (size_t i = 0; i < piece->length / KIB; i++)
        atomic_fetch_add(&rig->applied[first + i], 1);
    if (gw_round_applied(rig->round, piece->length))
        atomic_fetch_add(&rig->finished, 1);
}

static void *work(void *argument)
{
    struct rig *rig = argument;
    unsigned state = (unsigned)(size_t)pthread_self();
    struct gw_piece pieces[3];

    pthread_barrier_wait(&rig->start);
    while (!gw_round_is_done(rig->round)) {
        int count =
            gw_round_claim(rig->round, pieces, 1 + random_of(&state) % 3, random_of(&state) * KIB);

        if (count < 0)
            atomic_fetch_add(&rig->errors, 1);
        for (int i = 0; i < count; i++)
            if (random_of(&state) % 8 == 0)
                gw_round_give_back(rig->round, &pieces[i]);
            else
                apply(rig, &pieces[i]);
    }
    return NULL;
}

/* Compares with the map that was made beside the round. */
static unsigned check(const struct rig *rig, unsigned char *wanted)
{
    unsigned wrong = 0;

    for (size_t i = 0; i < VOLUMES * SIZE / KIB; i++)
        if (atomic_load(&rig->applied[i]) != wanted[i] && wrong++ < 5)
            fprintf(stderr, "volume %llu, %llu KiB: applied %u times, not %u\n", i / (SIZE / KIB),
                    i % (SIZE / KIB), atomic_load(&rig->applied[i]), wanted[i]);
    if (atomic_load(&rig->errors) > 0)
        fprintf(stderr, "%u claims failed\n", atomic_load(&rig->errors));
    if (atomic_load(&rig->finished) != 1)
        fprintf(stderr, "the end was said %u times\n", atomic_load(&rig->finished));
    return wrong + atomic_load(&rig->errors) + (atomic_load(&rig->finished) != 1);
}

int main(void)
{
    static const struct gw_extent extents[] = {
        {0, 40 * MIB + 4 * KIB, GW_EXTENT_DATA},
        {40 * MIB + 4 * KIB, 20 * MIB, GW_EXTENT_ABSENT},
        {60 * MIB + 4 * KIB, 4 * MIB, GW_EXTENT_ZERO},
        {64 * MIB + 4 * KIB, SIZE - 64 * MIB - 4 * KIB, GW_EXTENT_DATA},
    };
    struct rig rig = {.applied = calloc(VOLUMES, SIZE / KIB)};
    unsigned char *wanted = calloc(VOLUMES, SIZE / KIB);
    struct fake_volume volumes[VOLUMES];
    pthread_t threads[THREADS];
    struct gw_bitmap dirty;
    unsigned wrong, state = 1;

    if (!rig.applied || !wanted || gw_round_new(&rig.round) ||
        gw_bitmap_init(&dirty, SIZE / (4 * KIB)))
        return 1;
    /* Volume 0: a disk's first pass; 1: RAM's, which skips its hole; 2: a dirty map. */
    for (unsigned i = 0; i < VOLUMES; i++) {
        fake_volume_init(&volumes[i], i ? GW_VOLUME_RAM : GW_VOLUME_DISK, 4 * KIB, extents, 4);
        if (gw_round_add(rig.round, (uint16_t)i, &volumes[i].volume, i == 2 ? &dirty : NULL))
            return 1;
    }
    for (size_t i = 0; i < SIZE / KIB; i++) {
        wanted[i] = 1;
        wanted[SIZE / KIB + i] = i < 40 * KIB + 4 || i >= 60 * KIB + 4;
    }
    for (size_t i = 0; i < SIZE / (4 * KIB); i++)
        if (random_of(&state) % 3 == 0) {
            gw_bitmap_set_range(&dirty, i, 1);
            for (unsigned j = 0; j < 4; j++)
                wanted[2 * SIZE / KIB + 4 * i + j] = 1;
        }
    pthread_barrier_init(&rig.start, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, &rig))
            return 1;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&rig.start);
    wrong = check(&rig, wanted);
    gw_round_free(rig.round);
    gw_bitmap_free(&dirty);
    free(wanted);
    free((void *)rig.applied);
    return wrong ? 1 : 0;
}
