/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two halves of the target's data path: receiver.c (all lanes of a migration, for the control
 * thread) and receiver-lane.c (one lane, on its worker). Private to engine/worker.
 * Errors: as path.h.
 * Threads: as path.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_RECEIVER_H
#define GODWIT_ENGINE_WORKER_RECEIVER_H

#include "engine/worker/events.h"
#include "engine/worker/lane.h"
#include "engine/worker/window.h"

#define GW_RECEIVER_RING    (8u << 20) /* landing ring of a lane */
#define GW_RECEIVER_PLAIN   (GW_RECEIVER_RING + GW_CHUNK_MAX)
#define GW_RECEIVER_DOMAINS 16u
#define GW_RECEIVER_WRITES  512u /* writes of a lane in the kernel at once */

/* A volume's memory as one domain knows it. */
struct gw_receiver_region {
    struct gw_domain *domain;
    struct gw_region *region;
    uint16_t volume;
};

struct gw_receiver {
    uint8_t migration_id[GW_ID_SIZE];
    struct gw_target_volume *volumes[GW_VOLUMES_MAX];
    struct gw_receiver_region regions[GW_RECEIVER_DOMAINS * GW_VOLUMES_MAX];
    unsigned region_count;
    struct gw_window_set windows;
    atomic_bool has_left; /* a window may have lost its last lane */
    uint32_t last_window; /* number of the newest */
    struct gw_events events;
    struct gw_receiver_lane *lanes;        /* the control thread's list */
    struct gw_receiver_lane *closed_lanes; /* have no channel any more, but memory */
    struct gw_path_stats past;
};

struct gw_receiver_write {
    struct gw_io io;
    struct gw_receiver_lane *lane;
    uint64_t sequence; /* of the record it belongs to */
    uint16_t volume;
    struct gw_receiver_write *next_free;
};

struct gw_receiver_lane {
    struct gw_lane_talk talk;
    struct gw_receiver *receiver;
    struct gw_receiver_lane *next;
    struct gw_domain *domain;
    uint32_t number;
    bool allow_direct;
    bool is_admitted; /* the control thread's: it has its regions */
    struct gw_lane_counters counters;

    /* ring: GW_RECEIVER_RING bytes. plain: GW_RECEIVER_PLAIN bytes of the worker's own, which the peer
     * cannot reach: for sealed lanes, and where a device could change the ring while it is looked at.
     * An entry has the same position there as in the ring; behind that is one chunk, hot. */
    uint8_t *ring, *plain;
    struct gw_io_memory io_memory; /* the one of the two that files are written from */
    struct gw_region *ring_region;

    struct gw_receiver_write *writes, *free_writes;
    unsigned writes_out;

    /* Records: applied <= received; told: the newest number that was acknowledged. */
    uint64_t received, applied, told;
    unsigned pending[GW_RECORDS_OUT_MAX]; /* writes of a record that have not ended */
    bool may_tell_regions;                /* registered, or none to register */
    bool are_regions_sent;
    struct gw_lane_windows windows;
    bool has_untold; /* windows whose keys are to be told */
    bool is_send_out;
    struct gw_send send;
    bool is_sealed; /* message holds a sealed record that the channel has not taken yet */
    uint8_t message[GW_MESSAGE_MAX];
};

extern const struct gw_lane_ops gw_receiver_lane_ops;

static inline bool gw_receiver_lane_is_rdma(const struct gw_receiver_lane *lane)
{
    return lane->domain->transport->ops->is_rdma;
}

/* receiver-window.c. On the worker: encodes the keys that the source has not heard yet, 0 when there
 * are none; takes what the source says it is done with; may direct bytes of the entry be there? */
uint32_t gw_receiver_lane_write_windows(struct gw_receiver_lane *lane, uint8_t *out);
int gw_receiver_lane_take_closed(struct gw_receiver_lane *lane, const uint8_t *record,
                                 unsigned count);
bool gw_receiver_lane_has_window(const struct gw_receiver_lane *lane,
                                 const struct gw_record_entry *entry);
void gw_receiver_lane_forget_windows(struct gw_receiver_lane *lane);
/* The control thread: windows that are open, for a lane that has turned out clear. */
void gw_receiver_lane_give_windows(struct gw_receiver_lane *lane);
/* Ends a window that every lane has left; false when there is none. */
bool gw_receiver_next_closed(struct gw_receiver *receiver, uint32_t *number);

#endif
