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

#define GW_RECEIVER_RING    (8u << 20) /* landing ring of a lane */
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
    struct gw_events events;
    struct gw_receiver_lane *lanes; /* the control thread's list */
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
    struct gw_lane_counters counters;

    uint8_t *ring, *plain; /* GW_RECEIVER_RING bytes each; plain only for sealed lanes */
    struct gw_region *ring_region;

    struct gw_receiver_write *writes, *free_writes;
    unsigned writes_out;

    /* Records: applied <= received; told: the newest number that was acknowledged. */
    uint64_t received, applied, told;
    unsigned pending[GW_RECORDS_OUT_MAX]; /* writes of a record that have not ended */
    bool are_regions_sent;
    bool is_send_out;
    struct gw_send send;
    bool is_sealed; /* message holds a sealed record that the channel has not taken yet */
    uint8_t message[GW_MESSAGE_MAX];
};

extern const struct gw_lane_ops gw_receiver_lane_ops;

#endif
