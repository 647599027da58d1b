/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that life.h describes. */
#include "transport/rdma/life.h"

#include <sys/epoll.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"

#define EVENTS_MAX 16

static void take_events(struct gw_life *life, int longest_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(life->waker.epoll_fd, events, EVENTS_MAX, longest_ms);

    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr)
            life->ops->take(life->owner, events[i].data.ptr);
        else
            gw_waker_calm(&life->waker);
    }
}

static void *live(void *argument)
{
    struct gw_life *life = argument;
    uint64_t next_ns = gw_clock_ns() + GW_LIFE_TICK_MS * GW_NS_PER_MS;

    while (!atomic_load(&life->is_stopping)) {
        bool is_due = gw_clock_ns() >= next_ns;
        int longest_ms = life->ops->look(life->owner, is_due);

        if (is_due)
            next_ns = gw_clock_ns() + GW_LIFE_TICK_MS * GW_NS_PER_MS;
        if (longest_ms != GW_LIFE_IDLE)
            longest_ms = (int)gw_min((uint64_t)longest_ms, (uint64_t)gw_clock_left_ms(next_ns));
        take_events(life, longest_ms);
    }
    return NULL;
}

int gw_life_start(struct gw_life *life, const char *name, const struct gw_life_ops *ops,
                  void *owner)
{
    int error = gw_waker_open(&life->waker);

    if (error)
        return gw_fail_errno(error, "%s: no epoll set", name);
    life->ops = ops;
    life->owner = owner;
    error = pthread_create(&life->thread, NULL, live, life);
    life->has_thread = error == 0;
    if (!error)
        return 0;
    gw_waker_close(&life->waker);
    return gw_fail_errno(-error, "%s: no thread", name);
}

void gw_life_stop(struct gw_life *life)
{
    if (!life->has_thread)
        return;
    atomic_store(&life->is_stopping, true);
    gw_waker_wake(&life->waker);
    pthread_join(life->thread, NULL);
    gw_waker_close(&life->waker);
}
