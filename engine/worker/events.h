/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events: what lanes tell the control thread. A bounded queue with an eventfd. Private to
 * engine/worker.
 * Errors: -errno from init.
 * Threads: push from any worker, next from the control thread; one lock (leaf).
 */
#ifndef GODWIT_ENGINE_WORKER_EVENTS_H
#define GODWIT_ENGINE_WORKER_EVENTS_H

#include <pthread.h>

#include "engine/worker/path.h"

/* One join per lane, one death, one failure, one end of a round: never more than this wait. */
#define GW_EVENTS_MAX (4u * GW_LANES_MAX)

struct gw_events {
    pthread_mutex_t lock; /* protects the queue; leaf */
    int fd;
    struct gw_path_event queue[GW_EVENTS_MAX];
    unsigned first, count;
};

int gw_events_init(struct gw_events *events);
void gw_events_free(struct gw_events *events);
/* error is taken from the calling thread's message when code is not 0. A full queue drops the
 * event: the first ones, which say the cause, are there. */
void gw_events_push(struct gw_events *events, enum gw_path_event_kind kind, uint32_t number,
                    int code);
/* Drops what lanes said of themselves (LANE_DEAD, JOINED): they are gone, and their numbers may come
 * again. */
void gw_events_forget_lanes(struct gw_events *events);
/* Makes the descriptor readable and queues nothing: there is something new to look at. */
void gw_events_wake(struct gw_events *events);
bool gw_events_next(struct gw_events *events, struct gw_path_event *out);

#endif
