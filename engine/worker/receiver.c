/* SPDX-License-Identifier: Apache-2.0 */
/* All lanes of a migration on the target: their life, the registered memory, the account. */
#include "engine/worker/receiver.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/log.h"
#include "common/memory.h"

int gw_receiver_new(const uint8_t *migration_id, struct gw_receiver **out)
{
    struct gw_receiver *receiver = calloc(1, sizeof(*receiver));
    int error;

    if (!receiver)
        return gw_fail(-ENOMEM, "no memory for a receiver");
    memcpy(receiver->migration_id, migration_id, GW_ID_SIZE);
    error = gw_events_init(&receiver->events);
    if (error) {
        free(receiver);
        return error;
    }
    gw_window_set_init(&receiver->windows);
    *out = receiver;
    return 0;
}

static void free_lane(struct gw_receiver_lane *lane)
{
    if (lane->ring_region && gw_receiver_lane_is_rdma(lane))
        gw_pins_give(lane->receiver->windows.pins, GW_RECEIVER_RING);
    gw_unreg(lane->ring_region);
    gw_memory_free(lane->ring, GW_RECEIVER_RING);
    gw_memory_free(lane->plain, GW_RECEIVER_PLAIN);
    gw_seal_free(lane->talk.seal);
    free(lane->writes);
    free(lane);
}

static bool writes_ended(void *argument)
{
    return ((struct gw_receiver_lane *)argument)->writes_out == 0;
}

static void detach_lane(void *argument)
{
    struct gw_receiver_lane *lane = argument;

    gw_worker_detach(&lane->talk.lane);
    gw_worker_drain(lane->talk.lane.worker, writes_ended, lane);
    gw_worker_unfix(lane->talk.lane.worker, &lane->io_memory);
    gw_receiver_lane_forget_windows(lane);
}

static bool is_domain_used(const struct gw_receiver *receiver, const struct gw_domain *domain)
{
    for (const struct gw_receiver_lane *lane = receiver->lanes; lane; lane = lane->next)
        if (lane->domain == domain)
            return true;
    return false;
}

/* Closes the lane's channel and takes it out; what it has registered stays until free_lane. */
static void remove_lane(struct gw_receiver *receiver, struct gw_receiver_lane *lane)
{
    struct gw_receiver_lane **link = &receiver->lanes;

    while (*link != lane)
        link = &(*link)->next;
    *link = lane->next;
    gw_worker_call(lane->talk.lane.worker, detach_lane, lane);
    gw_lane_add_path(&lane->counters, &receiver->past);
}

void gw_receiver_close(struct gw_receiver *receiver)
{
    while (receiver->lanes) {
        struct gw_receiver_lane *lane = receiver->lanes;

        remove_lane(receiver, lane);
        lane->next = receiver->closed_lanes;
        receiver->closed_lanes = lane;
    }
}

void gw_receiver_free(struct gw_receiver *receiver)
{
    if (!receiver)
        return;
    gw_receiver_close(receiver);
    while (receiver->closed_lanes) {
        struct gw_receiver_lane *lane = receiver->closed_lanes;

        receiver->closed_lanes = lane->next;
        free_lane(lane);
    }
    gw_window_set_free(&receiver->windows);
    for (unsigned i = 0; i < receiver->region_count; i++)
        gw_unreg(receiver->regions[i].region);
    gw_events_free(&receiver->events);
    free(receiver);
}

void gw_receiver_add_volume(struct gw_receiver *receiver, uint16_t index,
                            struct gw_target_volume *volume)
{
    assert(index < GW_VOLUMES_MAX);
    receiver->volumes[index] = volume;
}

static bool is_registered(const struct gw_receiver *receiver, const struct gw_domain *domain,
                          uint16_t volume)
{
    for (unsigned i = 0; i < receiver->region_count; i++)
        if (receiver->regions[i].domain == domain && receiver->regions[i].volume == volume)
            return true;
    return false;
}

static int register_volumes(struct gw_receiver *receiver, struct gw_domain *domain)
{
    for (uint16_t index = 0; index < GW_VOLUMES_MAX; index++) {
        struct gw_target_volume *volume = receiver->volumes[index];
        struct gw_receiver_region *entry = &receiver->regions[receiver->region_count];
        int error;

        if (!volume || !volume->memory || is_registered(receiver, domain, index))
            continue;
        if (receiver->region_count == GW_ARRAY_LENGTH(receiver->regions))
            return gw_fail(-E2BIG, "more than %u rails", GW_RECEIVER_DOMAINS);
        error =
            gw_reg(domain, volume->memory, volume->size, GW_ACCESS_REMOTE_WRITE, 0, &entry->region);
        if (error)
            return error;
        entry->domain = domain;
        entry->volume = index;
        receiver->region_count++;
    }
    return 0;
}

static int fill_lane(struct gw_receiver_lane *lane)
{
    int error = gw_memory_new(GW_RECEIVER_RING, (void **)&lane->ring);

    if (error)
        return error;
    lane->writes = calloc(GW_RECEIVER_WRITES, sizeof(*lane->writes));
    if (!lane->writes)
        return gw_fail(-ENOMEM, "no memory for a lane's writes");
    for (unsigned i = 0; i < GW_RECEIVER_WRITES; i++) {
        lane->writes[i].next_free = lane->free_writes;
        lane->free_writes = &lane->writes[i];
    }
    error = gw_reg(lane->domain, lane->ring, GW_RECEIVER_RING, GW_ACCESS_REMOTE_WRITE, lane->number,
                   &lane->ring_region);
    if (!error && gw_receiver_lane_is_rdma(lane))
        gw_pins_must(lane->receiver->windows.pins, GW_RECEIVER_RING);
    return error;
}

static struct gw_receiver_lane *find_lane(struct gw_receiver *receiver, uint32_t number)
{
    struct gw_receiver_lane *lane = receiver->lanes;

    while (lane && lane->number != number)
        lane = lane->next;
    return lane;
}

static unsigned count_lanes(const struct gw_receiver *receiver)
{
    unsigned count = 0;

    for (const struct gw_receiver_lane *lane = receiver->lanes; lane; lane = lane->next)
        count++;
    return count;
}

int gw_receiver_prepare(struct gw_receiver *receiver, struct gw_worker *worker,
                        struct gw_domain *domain, uint32_t number, bool allow_direct,
                        struct gw_lane **out)
{
    struct gw_receiver_lane *lane;
    int error;

    if (count_lanes(receiver) >= GW_LANES_MAX)
        return gw_fail(-EBUSY, "more than %u data channels in one migration", GW_LANES_MAX);
    lane = calloc(1, sizeof(*lane));
    if (!lane)
        return gw_fail(-ENOMEM, "no memory for a lane");
    lane->talk.lane.ops = &gw_receiver_lane_ops;
    lane->talk.lane.worker = worker;
    lane->receiver = receiver;
    lane->domain = domain;
    lane->number = number;
    lane->allow_direct = allow_direct;
    error = fill_lane(lane);
    if (error) {
        free_lane(lane);
        return error;
    }
    *out = &lane->talk.lane;
    return 0;
}

void gw_receiver_cancel(struct gw_lane *base)
{
    free_lane(gw_container_of(base, struct gw_receiver_lane, talk.lane));
}

struct start {
    struct gw_receiver_lane *lane;
    struct gw_channel *channel;
};

static void attach_lane(void *argument)
{
    struct start *start = argument;

    gw_worker_attach(start->lane->talk.lane.worker, &start->lane->talk.lane, start->channel);
}

void gw_receiver_start(struct gw_lane *base, struct gw_channel *channel, struct gw_seal *seal)
{
    struct gw_receiver_lane *lane = gw_container_of(base, struct gw_receiver_lane, talk.lane);
    struct start start = {.lane = lane, .channel = channel};

    lane->talk.seal = seal;
    lane->next = lane->receiver->lanes;
    lane->receiver->lanes = lane;
    gw_worker_call(base->worker, attach_lane, &start);
}

int gw_receiver_event_fd(struct gw_receiver *receiver)
{
    return receiver->events.fd;
}

static void let_tell(void *argument)
{
    ((struct gw_receiver_lane *)argument)->may_tell_regions = true;
}

/* The lane's channel has proven itself and is clear: now, and not before, guest memory is registered
 * for it. Without, its bytes go through the ring. */
static void admit_lane(struct gw_receiver *receiver, uint32_t number)
{
    struct gw_receiver_lane *lane = find_lane(receiver, number);

    if (!lane || lane->talk.lane.is_dead)
        return;
    lane->is_admitted = true;
    if (gw_receiver_lane_is_rdma(lane))
        gw_receiver_lane_give_windows(lane);
    else if (register_volumes(receiver, lane->domain))
        gw_log(GW_LOG_WARNING, "memory is not registered, its bytes go through the ring: %s",
               gw_error_message());
    gw_worker_call(lane->talk.lane.worker, let_tell, lane);
}

bool gw_receiver_next_event(struct gw_receiver *receiver, struct gw_path_event *out)
{
    while (gw_events_next(&receiver->events, out)) {
        if (out->kind != GW_PATH_JOINED)
            return true;
        admit_lane(receiver, out->number);
    }
    *out = (struct gw_path_event){.kind = GW_PATH_WINDOW_CLOSED};
    return gw_receiver_next_closed(receiver, &out->number);
}

int gw_receiver_bury(struct gw_receiver *receiver, uint32_t number, uint64_t *applied)
{
    struct gw_receiver_lane *lane = find_lane(receiver, number);
    struct gw_domain *domain;

    if (!lane)
        return gw_fail(-ENOENT, "no channel %u to bury", number);
    domain = lane->domain;
    remove_lane(receiver, lane);
    *applied = lane->applied;
    free_lane(lane);
    if (!is_domain_used(receiver, domain))
        gw_window_set_leave(&receiver->windows, domain);
    return 0;
}

void gw_receiver_bury_all(struct gw_receiver *receiver,
                          void (*tell)(void *context, uint32_t number, uint64_t applied),
                          void *context)
{
    while (receiver->lanes) {
        uint32_t number = receiver->lanes->number;
        uint64_t applied = 0;

        gw_receiver_bury(receiver, number, &applied);
        tell(context, number, applied);
    }
    for (unsigned i = 0; i < receiver->region_count; i++)
        gw_unreg(receiver->regions[i].region);
    receiver->region_count = 0;
    gw_events_forget_lanes(&receiver->events);
}

void gw_receiver_stats(struct gw_receiver *receiver, struct gw_path_stats *out)
{
    *out = receiver->past;
    for (struct gw_receiver_lane *lane = receiver->lanes; lane; lane = lane->next)
        gw_lane_add_path(&lane->counters, out);
}
