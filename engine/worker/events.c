/* SPDX-License-Identifier: Apache-2.0 */
/* The queue between workers and the control thread. */
#include "engine/worker/events.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int gw_events_init(struct gw_events *events)
{
    events->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (events->fd < 0)
        return gw_fail_errno(-errno, "no eventfd for the data path");
    pthread_mutex_init(&events->lock, NULL);
    return 0;
}

void gw_events_free(struct gw_events *events)
{
    pthread_mutex_destroy(&events->lock);
    close(events->fd);
}

void gw_events_wake(struct gw_events *events)
{
    uint64_t one = 1;

    if (write(events->fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: the reader has been woken already */
}

void gw_events_push(struct gw_events *events, enum gw_path_event_kind kind, uint32_t number,
                    int code)
{
    pthread_mutex_lock(&events->lock);
    if (events->count < GW_EVENTS_MAX) {
        struct gw_path_event *event =
            &events->queue[(events->first + events->count++) % GW_EVENTS_MAX];

        *event = (struct gw_path_event){.kind = kind, .number = number};
        if (code)
            gw_error_take(code, &event->error);
    }
    pthread_mutex_unlock(&events->lock);
    gw_events_wake(events);
}

void gw_events_forget_lanes(struct gw_events *events)
{
    unsigned count;

    pthread_mutex_lock(&events->lock);
    count = events->count;
    for (unsigned i = 0; i < count; i++) {
        struct gw_path_event event = events->queue[events->first];

        events->first = (events->first + 1) % GW_EVENTS_MAX;
        events->count--;
        if (event.kind != GW_PATH_LANE_DEAD && event.kind != GW_PATH_JOINED)
            events->queue[(events->first + events->count++) % GW_EVENTS_MAX] = event;
    }
    pthread_mutex_unlock(&events->lock);
}

bool gw_events_next(struct gw_events *events, struct gw_path_event *out)
{
    uint64_t count;
    bool found;

    pthread_mutex_lock(&events->lock);
    found = events->count > 0;
    if (found) {
        *out = events->queue[events->first];
        events->first = (events->first + 1) % GW_EVENTS_MAX;
        events->count--;
    } else if (read(events->fd, &count, sizeof(count)) < 0) {
        found = false; /* nothing was signalled since */
    }
    pthread_mutex_unlock(&events->lock);
    return found;
}
