/* SPDX-License-Identifier: Apache-2.0 */
/* All lanes of a migration on the source: their life, the round they work on, the account. */
#include "engine/worker/sender.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/memory.h"

int gw_sender_new(const uint8_t *migration_id, struct gw_sender **out)
{
    struct gw_sender *sender = calloc(1, sizeof(*sender));
    int error;

    if (!sender)
        return gw_fail(-ENOMEM, "no memory for a sender");
    memcpy(sender->migration_id, migration_id, GW_ID_SIZE);
    error = gw_events_init(&sender->events);
    if (error) {
        free(sender);
        return error;
    }
    gw_window_set_init(&sender->windows);
    *out = sender;
    return 0;
}

static bool reads_ended(void *argument)
{
    return ((struct gw_sender_lane *)argument)->reading == 0;
}

static void detach_lane(void *argument)
{
    struct gw_sender_lane *lane = argument;

    gw_worker_drain(lane->talk.lane.worker, reads_ended, lane);
    gw_worker_unfix(lane->talk.lane.worker, &lane->io_memory);
    gw_worker_detach(&lane->talk.lane);
    gw_sender_lane_forget_windows(lane);
}

static bool is_domain_used(const struct gw_sender *sender, const struct gw_domain *domain)
{
    for (const struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        if (lane->domain == domain)
            return true;
    return false;
}

static void forget_lane(struct gw_sender *sender, struct gw_sender_lane *lane)
{
    struct gw_sender_lane **link = &sender->lanes;

    while (*link != lane)
        link = &(*link)->next;
    *link = lane->next;
    gw_lane_add_path(&lane->counters, &sender->past);
    /* The domain may be closed next. */
    if (!is_domain_used(sender, lane->domain))
        gw_window_set_leave(&sender->windows, lane->domain);
    gw_sender_lane_free(lane);
}

void gw_sender_free(struct gw_sender *sender)
{
    if (!sender)
        return;
    while (sender->lanes) {
        struct gw_sender_lane *lane = sender->lanes;

        gw_worker_call(lane->talk.lane.worker, detach_lane, lane);
        forget_lane(sender, lane);
    }
    gw_window_set_free(&sender->windows);
    gw_events_free(&sender->events);
    free(sender);
}

void gw_sender_add_volume(struct gw_sender *sender, uint16_t index, struct gw_source_volume *volume)
{
    assert(index < GW_VOLUMES_MAX);
    sender->volumes[index] = volume;
}

/* The ring is registered once, for as long as the lane lives. */
static int make_ring(struct gw_sender_lane *lane)
{
    int error = gw_memory_new(GW_SENDER_RING, (void **)&lane->ring);

    if (error || !gw_sender_lane_needs_region(lane))
        return error;
    error = gw_reg(lane->domain, lane->ring, GW_SENDER_RING, GW_ACCESS_LOCAL_READ, 0,
                   &lane->ring_region);
    if (!error)
        gw_pins_must(lane->sender->windows.pins, GW_SENDER_RING);
    return error;
}

int gw_sender_prepare(struct gw_sender *sender, struct gw_worker *worker, struct gw_domain *domain,
                      struct gw_lane **out)
{
    struct gw_sender_lane *lane = calloc(1, sizeof(*lane));
    int error;

    if (!lane)
        return gw_fail(-ENOMEM, "no memory for a lane");
    lane->talk.lane.ops = &gw_sender_lane_ops;
    lane->talk.lane.worker = worker;
    lane->sender = sender;
    lane->domain = domain;
    error = make_ring(lane);
    if (error) {
        gw_sender_lane_free(lane);
        return error;
    }
    lane->entries = calloc(GW_ENTRIES_OUT_MAX, sizeof(*lane->entries));
    lane->records = calloc(GW_RECORDS_OUT_MAX, sizeof(*lane->records));
    if (!lane->entries || !lane->records) {
        gw_sender_lane_free(lane);
        return gw_fail(-ENOMEM, "no memory for a lane's records");
    }
    *out = &lane->talk.lane;
    return 0;
}

void gw_sender_cancel(struct gw_lane *base)
{
    gw_sender_lane_free(gw_container_of(base, struct gw_sender_lane, talk.lane));
}

struct start {
    struct gw_sender_lane *lane;
    struct gw_channel *channel;
};

static void attach_lane(void *argument)
{
    struct start *start = argument;

    gw_worker_attach(start->lane->talk.lane.worker, &start->lane->talk.lane, start->channel);
}

void gw_sender_start(struct gw_lane *base, struct gw_channel *channel, struct gw_seal *seal)
{
    struct gw_sender_lane *lane = gw_container_of(base, struct gw_sender_lane, talk.lane);
    struct start start = {.lane = lane, .channel = channel};

    lane->talk.seal = seal;
    lane->number = gw_seal_number(seal);
    lane->next = lane->sender->lanes;
    lane->sender->lanes = lane;
    gw_worker_call(base->worker, attach_lane, &start);
}

int gw_sender_event_fd(struct gw_sender *sender)
{
    return sender->events.fd;
}

bool gw_sender_next_event(struct gw_sender *sender, struct gw_path_event *out)
{
    return gw_events_next(&sender->events, out);
}

void gw_sender_begin(struct gw_sender *sender, struct gw_round *round)
{
    bool is_empty = gw_round_is_done(round);

    assert(!atomic_load(&sender->round));
    atomic_store(&sender->round, round);
    if (is_empty)
        gw_events_push(&sender->events, GW_PATH_ROUND_DONE, 0, 0);
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        gw_worker_wake(lane->talk.lane.worker);
}

static void nothing(void *argument)
{
}

void gw_sender_end(struct gw_sender *sender)
{
    atomic_store(&sender->round, NULL);
    /* A worker that has answered a call has left the pump in which it might have read the old
     * value. */
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        gw_worker_call(lane->talk.lane.worker, nothing, NULL);
}

struct bury {
    struct gw_sender_lane *lane;
    uint64_t applied;
    struct gw_error error;
};

static void bury_lane(void *argument)
{
    struct bury *bury = argument;
    int error;

    gw_worker_drain(bury->lane->talk.lane.worker, reads_ended, bury->lane);
    gw_worker_unfix(bury->lane->talk.lane.worker, &bury->lane->io_memory);
    gw_worker_detach(&bury->lane->talk.lane);
    error = gw_sender_lane_give_back(bury->lane, bury->applied);
    gw_sender_lane_forget_windows(bury->lane);
    if (error)
        gw_error_take(error, &bury->error);
}

static struct gw_sender_lane *find_lane(struct gw_sender *sender, uint32_t number)
{
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        if (lane->number == number)
            return lane;
    return NULL;
}

bool gw_sender_has_lane(struct gw_sender *sender, uint32_t number)
{
    return find_lane(sender, number) != NULL;
}

int gw_sender_bury(struct gw_sender *sender, uint32_t number, uint64_t applied)
{
    struct bury bury = {.lane = find_lane(sender, number), .applied = applied};

    if (!bury.lane)
        return gw_fail(-ENOENT, "no channel %u to bury", number);
    gw_worker_call(bury.lane->talk.lane.worker, bury_lane, &bury);
    forget_lane(sender, bury.lane);
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        gw_worker_wake(lane->talk.lane.worker);
    return bury.error.code ? gw_error_raise(&bury.error) : 0;
}

int gw_sender_bury_all(struct gw_sender *sender,
                       uint64_t (*applied)(void *context, uint32_t number), void *context)
{
    struct gw_error first = {0};

    while (sender->lanes) {
        uint32_t number = sender->lanes->number;
        int error = gw_sender_bury(sender, number, applied(context, number));

        if (error && !first.code)
            gw_error_take(error, &first);
    }
    gw_events_forget_lanes(&sender->events);
    return first.code ? gw_error_raise(&first) : 0;
}

void gw_sender_ask(struct gw_sender *sender)
{
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next) {
        atomic_store(&lane->is_asked, true);
        gw_worker_wake(lane->talk.lane.worker);
    }
}

bool gw_sender_is_answered(struct gw_sender *sender)
{
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        if (lane->talk.lane.is_dead || atomic_load(&lane->is_asked) ||
            atomic_load(&lane->waiting_since_ns) != 0)
            return false;
    return true;
}

bool gw_sender_find_stalled(struct gw_sender *sender, uint64_t before_ns, uint32_t *number)
{
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next) {
        uint64_t since = atomic_load_explicit(&lane->waiting_since_ns, memory_order_relaxed);

        if (since == 0 || since >= before_ns || lane->talk.lane.is_dead)
            continue;
        *number = lane->number;
        return true;
    }
    return false;
}

unsigned gw_sender_lane_count(struct gw_sender *sender)
{
    unsigned count = 0;

    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        count += !lane->talk.lane.is_dead;
    return count;
}

void gw_sender_stats(struct gw_sender *sender, struct gw_path_stats *out)
{
    *out = sender->past;
    for (struct gw_sender_lane *lane = sender->lanes; lane; lane = lane->next)
        gw_lane_add_path(&lane->counters, out);
}

const char *gw_sender_volume_name(const struct gw_sender *sender, uint16_t index)
{
    return sender->volumes[index] ? sender->volumes[index]->name : NULL;
}

const char *gw_sender_path(struct gw_sender *sender, uint16_t index)
{
    struct gw_sender_lane *lane = sender->lanes;

    if (!lane || !lane->has_regions)
        return "none";
    if (!gw_seal_is_clear(lane->talk.seal))
        return "sealed";
    if (gw_sender_lane_needs_region(lane))
        return sender->has_windows[index] && !sender->volumes[index]->is_punched ? "direct"
                                                                                 : "slots";
    return lane->has_direct[index] && !sender->volumes[index]->needs_copy ? "direct" : "slots";
}

struct describe {
    struct gw_sender_lane *lane;
    struct gw_channel_info info;
};

static void describe_lane(void *argument)
{
    struct describe *describe = argument;

    if (describe->lane->talk.lane.channel)
        gw_channel_info(describe->lane->talk.lane.channel, &describe->info);
}

void gw_sender_describe(struct gw_sender *sender, char *out, uint32_t size)
{
    struct describe describe = {.lane = sender->lanes};

    if (describe.lane)
        gw_worker_call(describe.lane->talk.lane.worker, describe_lane, &describe);
    snprintf(out, size, "%s", describe.info.description);
}
