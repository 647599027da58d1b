/* SPDX-License-Identifier: Apache-2.0 */
/* Ends a region in the middle of a burst; see fence.h. */
#include "tests/transport/dpdk/fence.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define LOOK_NS 20000l
#define LOOKS                                                                                      \
    10u /* for an end that comes too early; one that comes later is seen in another life */
#define PATIENCE_NS (60 * GW_NS_PER_S)

static void *end_region(void *context)
{
    struct fence *fence = context;

    while (sem_wait(&fence->begin) != 0)
        ;
    if (!fence->is_given_up) {
        gw_region_table_remove(fence->regions, fence->region);
        trap_close(&fence->target);
        atomic_store(&fence->has_ended, true);
    }
    sem_post(&fence->end);
    return NULL;
}

/* The fence's thread will not come back. */
static _Noreturn void give_up(const char *fault)
{
    printf("%s\n", fault);
    fflush(stdout);
    _exit(1);
}

static void wait_a_little(void)
{
    nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
}

/* Within a handler: the burst stands still. */
static void begin(struct fence *fence)
{
    fence->has_begun = true;
    sem_post(&fence->begin);
    for (uint64_t until_ns = gw_clock_ns() + PATIENCE_NS;
         gw_region_table_hold_again(fence->regions, fence->region->key);) {
        gw_region_table_release(fence->regions, fence->region->key);
        if (gw_clock_ns() > until_ns)
            give_up("a region that is to end can still be held");
        wait_a_little();
    }
    for (unsigned i = 0; i < LOOKS && !atomic_load(&fence->has_ended); i++)
        wait_a_little();
}

static void on_datagram(void *context)
{
    begin(context);
}

static void on_copy(void *context)
{
    struct fence *fence = context;

    if (fence->has_begun) {
        fence->fault = "bytes were placed in a region that had ended";
        return;
    }
    begin(fence);
    if (atomic_load(&fence->has_ended))
        fence->fault = "a region ended while bytes were placed in it";
}

void fence_open(struct fence *fence, struct gw_region_table *regions,
                const struct gw_region *region, bool is_in_copy)
{
    *fence = (struct fence){
        .regions = regions,
        .region = region,
        .is_in_copy = is_in_copy,
        .target = {
            .page = region->memory, .size = region->length, .hit = on_copy, .context = fence}};
    sem_init(&fence->begin, 0, 0);
    sem_init(&fence->end, 0, 0);
    if (pthread_create(&fence->thread, NULL, end_region, fence) != 0)
        abort();
    trap_add(&fence->target);
}

void fence_take(struct fence *fence, struct sim_end *end, struct dpdk_input *inputs, unsigned count)
{
    struct timespec until;
    struct trap *trap = &fence->target;

    if (!fence->has_begun) {
        if (!fence->is_in_copy) {
            trap = &fence->source;
            *trap =
                (struct trap){.page = (void *)(uintptr_t)inputs[sim_below(end->sim, count)].bytes,
                              .size = SIM_ROOM,
                              .hit = on_datagram,
                              .context = fence};
            trap_add(trap);
        }
        trap_close(trap);
        gw_dpdk_core_input(end->core, end->sim->now_ns, inputs, count);
        if (!fence->is_in_copy)
            trap_remove(trap);
        if (!fence->has_begun)
            trap_open(trap);
    } else {
        gw_dpdk_core_input(end->core, end->sim->now_ns, inputs, count);
    }
    if (!fence->has_begun || atomic_load(&fence->has_ended))
        return;
    /* Nothing is held between bursts. */
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_NS / GW_NS_PER_S;
    if (sem_timedwait(&fence->end, &until) != 0)
        give_up("a region never ends: it is held after a burst");
    sem_post(&fence->end);
}

void fence_close(struct fence *fence)
{
    if (!fence->has_begun) {
        fence->is_given_up = true;
        sem_post(&fence->begin);
    }
    pthread_join(fence->thread, NULL);
    trap_remove(&fence->target);
    sem_destroy(&fence->begin);
    sem_destroy(&fence->end);
}
