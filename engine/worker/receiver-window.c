/* SPDX-License-Identifier: Apache-2.0 */
/* Windows at the target: registered for the lanes that may have them, told to the source on each of
 * their channels, and ended when each has said that it writes there no more. */
#include <errno.h>

#include "common/checked.h"
#include "common/log.h"
#include "engine/worker/receiver.h"

/* ---- the control thread ---- */

void gw_receiver_set_pins(struct gw_receiver *receiver, struct gw_pins *pins)
{
    receiver->windows.pins = pins;
}

static bool has_windows(const struct gw_receiver_lane *lane)
{
    return lane->is_admitted && !lane->talk.lane.is_dead && gw_receiver_lane_is_rdma(lane);
}

/* The source is not believed. */
static int check_window(const struct gw_receiver *receiver, const struct gw_window *window)
{
    const struct gw_target_volume *volume =
        window->volume < GW_VOLUMES_MAX ? receiver->volumes[window->volume] : NULL;

    if (!volume || !volume->memory)
        return gw_fail(-EPROTO, "a window of volume %u, which is no memory", window->volume);
    if (window->length == 0 || window->length > GW_WINDOW_MAX || window->offset % GW_WINDOW_PAGE ||
        !gw_range_fits(window->offset, window->length, volume->size) ||
        (window->length % GW_WINDOW_PAGE && window->offset + window->length != volume->size))
        return gw_fail(-EPROTO, "%s: a window of %llu bytes at %llu", volume->name,
                       (unsigned long long)window->length, (unsigned long long)window->offset);
    if (window->number <= receiver->last_window)
        return gw_fail(-EPROTO, "window %u comes after window %u", window->number,
                       receiver->last_window);
    return 0;
}

struct give {
    struct gw_receiver_lane *lane;
    uint32_t number;
};

static void give_window(void *argument)
{
    struct give *give = argument;
    struct gw_receiver_lane *lane = give->lane;

    /* Without memory for it the lane goes without the window. */
    if (gw_lane_windows_hold(&lane->windows, &lane->receiver->windows, give->number, lane->domain))
        lane->has_untold = true;
}

static int give(struct gw_receiver_lane *lane, struct gw_window_entry *entry)
{
    struct give argument = {.lane = lane, .number = entry->window.number};
    char *memory = lane->receiver->volumes[entry->window.volume]->memory;
    int error = gw_window_register(&lane->receiver->windows, entry, lane->domain,
                                   memory + entry->window.offset, GW_ACCESS_REMOTE_WRITE);

    if (!error)
        gw_worker_call(lane->talk.lane.worker, give_window, &argument);
    return error;
}

int gw_receiver_window_open(struct gw_receiver *receiver, const struct gw_window *window)
{
    struct gw_window_entry *entry;
    int error = check_window(receiver, window);

    if (!error)
        error = gw_window_set_add(&receiver->windows, window, &entry);
    if (error)
        return error;
    receiver->last_window = window->number;
    /* In every domain first, so that no lane hears of a window that others cannot have. */
    for (struct gw_receiver_lane *lane = receiver->lanes; !error && lane; lane = lane->next)
        if (has_windows(lane))
            error = gw_window_register(&receiver->windows, entry, lane->domain,
                                       (char *)receiver->volumes[window->volume]->memory +
                                           window->offset,
                                       GW_ACCESS_REMOTE_WRITE);
    if (!error && entry->region_count == 0)
        error = gw_fail(-ENOTCONN, "no channel that a window is for");
    if (error) {
        gw_window_set_remove(&receiver->windows, entry);
        return error;
    }
    for (struct gw_receiver_lane *lane = receiver->lanes; lane; lane = lane->next)
        if (has_windows(lane))
            give(lane, entry);
    return 0;
}

void gw_receiver_lane_give_windows(struct gw_receiver_lane *lane)
{
    struct gw_window_set *set = &lane->receiver->windows;
    uint32_t number = 0;

    /* In the order of their numbers, which is how the source wants to hear of them. */
    for (;;) {
        struct gw_window_entry *next = NULL;

        for (struct gw_window_entry *entry = set->first; entry; entry = entry->next)
            if (entry->window.number > number && !entry->is_closing &&
                (!next || entry->window.number < next->window.number))
                next = entry;
        if (!next)
            return;
        number = next->window.number;
        if (give(lane, next)) {
            gw_log(GW_LOG_WARNING, "channel %u goes without the windows that are open: %s",
                   lane->number, gw_error_message());
            return;
        }
    }
}

bool gw_receiver_next_closed(struct gw_receiver *receiver, uint32_t *number)
{
    struct gw_window_entry *left = NULL;

    if (!atomic_exchange(&receiver->has_left, false))
        return false;
    pthread_mutex_lock(&receiver->windows.lock);
    for (struct gw_window_entry *entry = receiver->windows.first; entry; entry = entry->next)
        if (entry->is_closing && entry->holders == 0)
            left = entry;
    pthread_mutex_unlock(&receiver->windows.lock);
    if (!left)
        return false;
    /* There may be more. */
    atomic_store(&receiver->has_left, true);
    *number = left->window.number;
    gw_window_set_remove(&receiver->windows, left);
    return true;
}

/* ---- lanes ---- */

uint32_t gw_receiver_lane_write_windows(struct gw_receiver_lane *lane, uint8_t *out)
{
    struct gw_record_window told[GW_RECORD_ENTRIES_MAX];
    uint32_t after = 0;
    unsigned count = 0;

    if (!lane->has_untold)
        return 0;
    for (; count < GW_RECORD_ENTRIES_MAX; count++) {
        struct gw_lane_window *next = NULL;

        for (unsigned i = 0; i < lane->windows.count; i++) {
            struct gw_lane_window *window = lane->windows.list[i];

            if (!window->is_told && window->window.number > after &&
                (!next || window->window.number < next->window.number))
                next = window;
        }
        if (!next)
            break;
        next->is_told = true;
        after = next->window.number;
        told[count] = (struct gw_record_window){.number = after, .key = next->region->key};
    }
    lane->has_untold = count == GW_RECORD_ENTRIES_MAX;
    return count > 0 ? gw_record_windows(out, told, count) : 0;
}

int gw_receiver_lane_take_closed(struct gw_receiver_lane *lane, const uint8_t *record,
                                 unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct gw_lane_window *window;
        uint32_t number;
        int error = gw_record_closed_number(record, i, &number);

        if (error)
            return error;
        window = gw_lane_windows_number(&lane->windows, number);
        if (!window || !window->is_told)
            return gw_fail(-EPROTO, "the source closed window %u, which it was not told", number);
        /* Nobody takes it up any more: the source closes a window for all. */
        atomic_store(&window->entry->is_closing, true);
        gw_lane_windows_release(&lane->windows, &lane->receiver->windows, window);
    }
    atomic_store(&lane->receiver->has_left, true);
    gw_events_wake(&lane->receiver->events);
    return 0;
}

bool gw_receiver_lane_has_window(const struct gw_receiver_lane *lane,
                                 const struct gw_record_entry *entry)
{
    const struct gw_lane_window *window =
        gw_lane_windows_find(&lane->windows, entry->volume, entry->offset);

    return window && entry->offset + entry->length <= window->window.offset + window->window.length;
}

void gw_receiver_lane_forget_windows(struct gw_receiver_lane *lane)
{
    gw_lane_windows_release_all(&lane->windows, &lane->receiver->windows);
    /* Those that the others have left already are free now. */
    atomic_store(&lane->receiver->has_left, true);
    gw_events_wake(&lane->receiver->events);
}
