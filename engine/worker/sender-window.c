/* SPDX-License-Identifier: Apache-2.0 */
/* Windows at the source: what the control thread opens and closes, and what a lane does with the
 * keys that its target tells it. */
#include <assert.h>
#include <errno.h>

#include "common/checked.h"
#include "engine/worker/sender.h"

/* ---- the control thread ---- */

void gw_sender_set_pins(struct gw_sender *sender, struct gw_pins *pins)
{
    sender->windows.pins = pins;
}

static bool may_have_windows(const struct gw_sender_lane *lane)
{
    return !lane->talk.lane.is_dead && lane->domain->transport->ops->is_rdma &&
           gw_sender_lane_needs_region(lane);
}

static bool has_windows(const struct gw_sender_lane *lane)
{
    return may_have_windows(lane) && lane->has_regions && gw_seal_is_clear(lane->talk.seal);
}

enum gw_window_use gw_sender_window_use(struct gw_sender *sender)
{
    bool any = false, is_pending = false;

    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next) {
        any |= has_windows(lane);
        is_pending |= may_have_windows(lane) && !lane->has_regions;
    }
    if (any)
        return is_pending ? GW_WINDOWS_PARTLY : GW_WINDOWS_READY;
    return is_pending ? GW_WINDOWS_PENDING : GW_WINDOWS_NONE;
}

bool gw_sender_device_reads(struct gw_sender *sender)
{
    bool any = gw_sender_window_use(sender) != GW_WINDOWS_NONE;

    for (unsigned i = 0; i < GW_VOLUMES_MAX; i++)
        any |= sender->has_windows[i];
    return any;
}

static int locate_window(struct gw_sender *sender, const struct gw_window *window, void **out)
{
    struct gw_source_volume *volume = sender->volumes[window->volume];
    struct gw_location at;
    int error = volume->ops->locate(volume, window->offset, window->length, &at);

    if (error)
        return error;
    if (at.where != GW_IN_MEMORY || at.length < window->length)
        return gw_fail(-EINVAL, "%s is not in memory as a whole", volume->name);
    *out = at.memory;
    return 0;
}

int gw_sender_window_open(struct gw_sender *sender, struct gw_window *window)
{
    struct gw_window_entry *entry;
    void *memory;
    int error = locate_window(sender, window, &memory);

    window->number = sender->last_window + 1;
    if (!error)
        error = gw_window_set_add(&sender->windows, window, &entry);
    if (error)
        return error;
    sender->last_window++;
    for (struct gw_sender_lane *lane = sender->lanes; !error && lane; lane = lane->next)
        if (has_windows(lane))
            error = gw_window_register(&sender->windows, entry, lane->domain, memory,
                                       GW_ACCESS_LOCAL_READ);
    if (!error && entry->region_count == 0)
        error = gw_fail(-ENOTCONN, "no channel that a window is for");
    if (error)
        gw_window_set_remove(&sender->windows, entry);
    else
        sender->has_windows[window->volume] = true;
    return error;
}

bool gw_sender_window_is_told(struct gw_sender *sender, uint32_t number)
{
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        if (has_windows(lane) && atomic_load(&lane->newest_window) < number)
            return false;
    return true;
}

static void wake_lanes(struct gw_sender *sender)
{
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        gw_worker_wake(lane->talk.lane.worker);
}

void gw_sender_set_horizon(struct gw_sender *sender, uint16_t volume, uint64_t horizon)
{
    struct gw_round *round = atomic_load(&sender->round);

    if (gw_round_set_horizon(round, volume, horizon))
        gw_events_push(&sender->events, GW_PATH_ROUND_DONE, 0, 0);
    wake_lanes(sender);
}

void gw_sender_window_close(struct gw_sender *sender, uint32_t number)
{
    struct gw_window_entry *entry;

    pthread_mutex_lock(&sender->windows.lock);
    entry = gw_window_set_find(&sender->windows, number);
    /* It may have gone with the last channel of its domain. */
    if (entry)
        entry->is_closing = true;
    atomic_fetch_add(&sender->closing, 1);
    pthread_mutex_unlock(&sender->windows.lock);
    wake_lanes(sender);
}

bool gw_sender_window_is_left(struct gw_sender *sender, uint32_t number)
{
    struct gw_window_entry *entry;
    bool is_left;

    pthread_mutex_lock(&sender->windows.lock);
    entry = gw_window_set_find(&sender->windows, number);
    is_left = !entry || (entry->is_closing && entry->holders == 0);
    pthread_mutex_unlock(&sender->windows.lock);
    return is_left;
}

bool gw_sender_window_is_known(struct gw_sender *sender, uint32_t number)
{
    return gw_window_set_find(&sender->windows, number) != NULL;
}

void gw_sender_window_drop(struct gw_sender *sender, uint32_t number)
{
    struct gw_window_entry *entry = gw_window_set_find(&sender->windows, number);

    if (entry)
        gw_window_set_remove(&sender->windows, entry);
    atomic_fetch_sub(&sender->closing, 1);
}

/* ---- lanes ---- */

int gw_sender_lane_take_windows(struct gw_sender_lane *lane, const uint8_t *record, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct gw_record_window told;
        struct gw_lane_window *window;
        int error = gw_record_window(record, i, &told);

        if (error)
            return error;
        if (!gw_seal_is_clear(lane->talk.seal) || !lane->domain->transport->ops->is_rdma ||
            told.number <= atomic_load(&lane->newest_window))
            return gw_fail(-EPROTO, "the target told window %u out of turn", told.number);
        window =
            gw_lane_windows_hold(&lane->windows, &lane->sender->windows, told.number, lane->domain);
        if (window)
            window->key = told.key;
        else if (lane->refused_count < GW_WINDOWS_MAX)
            lane->refused[lane->refused_count++] = told.number;
        else
            return gw_fail(-EPROTO, "the target tells more windows than there are");
        atomic_store(&lane->newest_window, told.number);
    }
    gw_events_wake(&lane->sender->events);
    return 0;
}

/* Pieces that were claimed before the window closed still go through it. */
static bool is_claimed(const struct gw_sender_lane *lane, const struct gw_window *window)
{
    for (unsigned i = lane->batch_next; i < lane->batch_count; i++) {
        const struct gw_piece *piece = &lane->batch[i];

        if (piece->volume == window->volume && piece->length > 0 &&
            piece->offset < window->offset + window->length &&
            window->offset < piece->offset + piece->length)
            return true;
    }
    return false;
}

/* What the lane is done with: the last of its writes there is acknowledged. */
static void gather_closed(struct gw_sender_lane *lane)
{
    lane->closed_count = 0;
    while (lane->refused_count > 0 && lane->closed_count < GW_RECORD_ENTRIES_MAX)
        lane->closed[lane->closed_count++] = lane->refused[--lane->refused_count];
    if (!atomic_load_explicit(&lane->sender->closing, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < lane->windows.count && lane->closed_count < GW_RECORD_ENTRIES_MAX;
         i++) {
        const struct gw_lane_window *window = lane->windows.list[i];

        if (window->entry->is_closing && window->uses == 0 && !is_claimed(lane, &window->window))
            lane->closed[lane->closed_count++] = window->window.number;
    }
}

static void closed_done(struct gw_op *op, int status)
{
    gw_container_of(op, struct gw_sender_lane, closed_send.op)->is_closed_out = false;
}

/* The record is on its way: behind it nothing of this channel meets these windows. */
static void release_closed(struct gw_sender_lane *lane)
{
    for (unsigned i = 0; i < lane->closed_count; i++) {
        struct gw_lane_window *window = gw_lane_windows_number(&lane->windows, lane->closed[i]);

        if (window && gw_lane_windows_release(&lane->windows, &lane->sender->windows, window))
            gw_events_wake(&lane->sender->events);
    }
}

bool gw_sender_lane_say_closed(struct gw_sender_lane *lane, int *error)
{
    uint8_t plain[GW_SEAL_RECORD_MAX];
    uint32_t length;

    if (!lane->is_closed_sealed) {
        /* Records are opened in the order in which they were sealed. */
        if (lane->is_open_sealed || lane->is_closed_out)
            return false;
        gather_closed(lane);
        if (lane->closed_count == 0)
            return false;
        length = gw_record_closed(plain, lane->closed, lane->closed_count);
        *error = gw_seal_record(lane->talk.seal, plain, length, lane->closed_message);
        if (*error)
            return true;
        lane->is_closed_sealed = true;
        lane->closed_send = (struct gw_send){.op.done = closed_done,
                                             .message = lane->closed_message,
                                             .length = length + GW_SEAL_TAG_SIZE};
    }
    lane->is_closed_out = true;
    *error = gw_send(lane->talk.lane.channel, &lane->closed_send);
    if (*error) {
        lane->is_closed_out = false;
        if (*error == -EAGAIN)
            *error = 0;
        return false;
    }
    lane->is_closed_sealed = false;
    release_closed(lane);
    return true;
}

void gw_sender_lane_forget_windows(struct gw_sender_lane *lane)
{
    gw_lane_windows_release_all(&lane->windows, &lane->sender->windows);
    gw_events_wake(&lane->sender->events);
}
