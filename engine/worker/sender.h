/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two halves of the source's data path: sender.c (all lanes of a migration, for the control
 * thread) and sender-lane.c (one lane, on its worker). Private to engine/worker.
 * Errors: as path.h.
 * Threads: as path.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_SENDER_H
#define GODWIT_ENGINE_WORKER_SENDER_H

#include "engine/worker/events.h"
#include "engine/worker/landing.h"
#include "engine/worker/lane.h"
#include "engine/worker/window.h"

#define GW_SENDER_RING     (8u << 20) /* local buffer of a lane; the target's ring may be smaller */
#define GW_SENDER_RING_MAX (16u << 20) /* of the target's that is believed; the rest lies unused */
#define GW_SENDER_BATCH    64u         /* pieces claimed at once */

struct gw_sender {
    uint8_t migration_id[GW_ID_SIZE];
    struct gw_source_volume *volumes[GW_VOLUMES_MAX];
    _Atomic(struct gw_round *) round;
    struct gw_events events;
    struct gw_sender_lane *lanes; /* the control thread's list */
    struct gw_path_stats past;    /* of lanes that are gone */
    struct gw_window_set windows;
    atomic_uint closing;              /* windows that lanes are to give up */
    uint32_t last_window;             /* number of the newest */
    bool has_windows[GW_VOLUMES_MAX]; /* one was opened, some time */
};

enum gw_sender_entry_state { GW_ENTRY_READING, GW_ENTRY_READY, GW_ENTRY_POSTED };

/* One entry of a record, from claim to acknowledgement. */
struct gw_sender_entry {
    struct gw_write write;
    struct gw_io io;
    struct gw_sender_lane *lane;
    struct gw_piece piece;
    enum gw_sender_entry_state state;
    enum gw_entry_kind kind;
    bool is_final; /* digest or seal is made, zeroes were looked for */
    bool has_digest;
    bool is_op_out;                /* gw_write posted, done not yet run */
    struct gw_lane_window *window; /* direct bytes go by it; NULL: the volume's whole region */
    uint32_t position;             /* in the ring */
    uint64_t ring_end;             /* the head of places after this entry */
    const void *bytes;             /* what is digested, sealed or sent */
    int error;
    uint8_t digest[GW_DIGEST_SIZE];
};

struct gw_sender_record {
    struct gw_send send;
    uint64_t entry_end; /* entries before this one are in records up to this one */
    uint64_t sent_ns;
    uint64_t ring_used; /* how much of the ring was on its way then; 0: it has no data */
    bool is_op_out;
    uint8_t message[GW_MESSAGE_MAX];
};

struct gw_sender_lane {
    struct gw_lane_talk talk;
    struct gw_sender *sender;
    struct gw_sender_lane *next;
    struct gw_domain *domain;
    uint32_t number;
    atomic_bool has_regions; /* the control thread reads it for status */
    struct gw_lane_counters counters;

    uint8_t *ring, *plain;         /* GW_SENDER_RING bytes each; plain only for sealed lanes */
    struct gw_io_memory io_memory; /* the one of the two that files are read into */
    struct gw_region *ring_region; /* NULL where the transport wants none */
    struct gw_landing places;      /* in both rings */
    uint64_t ring_key;
    struct gw_record_region direct[GW_VOLUMES_MAX];
    bool has_direct[GW_VOLUMES_MAX];

    struct gw_piece batch[GW_SENDER_BATCH];
    unsigned batch_next, batch_count;

    /* Cursors that only grow: freed <= acked <= posted <= claimed; slot = cursor %
     * GW_ENTRIES_OUT_MAX. */
    struct gw_sender_entry *entries;
    uint64_t freed, acked, posted, claimed;
    unsigned reading; /* reads in flight */

    /* Records: 1 is the first; applied <= sent; the open one is sent + 1. */
    struct gw_sender_record *records;
    uint64_t applied, sent;
    _Atomic uint64_t waiting_since_ns; /* for an acknowledgement, since the last one; 0: for none */
    atomic_bool is_asked;              /* the next record goes out even if it is empty */
    uint32_t open_length;              /* plain bytes of the open record; 0: not begun */
    uint64_t open_bytes;               /* data bytes that it describes */
    unsigned open_count;
    bool is_open_sealed; /* sealed, waits for the channel to take it */
    uint32_t sealed_length;
    uint8_t open_plain[GW_SEAL_RECORD_MAX];

    /* Windows, where the transport is_rdma. */
    struct gw_lane_windows windows;
    _Atomic uint32_t newest_window;   /* that the target told; the control thread reads it */
    uint32_t refused[GW_WINDOWS_MAX]; /* told, but gone here: to be said */
    unsigned refused_count;
    struct gw_send closed_send;
    uint32_t closed[GW_RECORD_ENTRIES_MAX]; /* what closed_message says */
    unsigned closed_count;
    bool is_closed_sealed, is_closed_out;
    uint8_t closed_message[GW_MESSAGE_MAX];
};

extern const struct gw_lane_ops gw_sender_lane_ops;

/* On the worker, for a dead lane: waits for its reads, then gives back what the peer does not have.
 */
int gw_sender_lane_give_back(struct gw_sender_lane *lane, uint64_t applied);
void gw_sender_lane_free(struct gw_sender_lane *lane);

static inline bool gw_sender_lane_needs_region(const struct gw_sender_lane *lane)
{
    return lane->domain->transport->ops->needs_local_region;
}

/* sender-window.c, on the worker: takes the keys of windows; says which windows the lane has given
 * up (true when it did something; *error kills the lane); the lane is dead: gives up all. */
int gw_sender_lane_take_windows(struct gw_sender_lane *lane, const uint8_t *record, unsigned count);
bool gw_sender_lane_say_closed(struct gw_sender_lane *lane, int *error);
void gw_sender_lane_forget_windows(struct gw_sender_lane *lane);

#endif
