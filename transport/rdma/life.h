/* SPDX-License-Identifier: Apache-2.0 */
/*
 * life: the one thread of a back end over devices, which learns what happens to connections and
 * devices while nobody polls, and once a second, while there are channels, has them looked after.
 *
 * Errors: -errno with a message.
 * Order: start → stop. Stop takes one that was not started; what fails to start leaves nothing.
 * Threads: start and stop by the transport's maker; look and take run in the thread.
 * Units: milliseconds.
 */
#ifndef GODWIT_TRANSPORT_RDMA_LIFE_H
#define GODWIT_TRANSPORT_RDMA_LIFE_H

#include <pthread.h>

#include "transport/waker.h"

#define GW_LIFE_TICK_MS 1000
#define GW_LIFE_IDLE    (-1)

/* What the thread is for. */
struct gw_life_ops {
    /* Before each sleep; is_due: a second has passed. Answers how long the sleep may be at the most
     * (a tick ends it too), GW_LIFE_IDLE while there is nothing to look after. */
    int (*look)(void *owner, bool is_due);
    /* What was watched under this address is readable. */
    void (*take)(void *owner, void *address);
};

struct gw_life {
    struct gw_waker waker;
    const struct gw_life_ops *ops;
    void *owner;
    bool has_thread;
    atomic_bool is_stopping;
    pthread_t thread;
};

/* name: the back end's, for the message. */
int gw_life_start(struct gw_life *life, const char *name, const struct gw_life_ops *ops,
                  void *owner);
void gw_life_stop(struct gw_life *life);

#endif
