/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane: what both ends of a data channel share: the join by proofs, the sealed records, the digest
 * of a chunk, and the account of where CPU time goes. Private to engine/worker.
 *
 * Errors: 0 or -errno with a message; an error ends the lane.
 * Threads: the worker that owns the lane.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_WORKER_LANE_H
#define GODWIT_ENGINE_WORKER_LANE_H

#include <stdatomic.h>

#include "common/error.h"
#include "engine/worker/path.h"
#include "engine/worker/record.h"
#include "engine/worker/worker.h"

/* Counters that the control thread reads while the worker adds. */
struct gw_lane_counters {
    _Atomic uint64_t stage_ns[GW_STAGE_COUNT];
    _Atomic uint64_t data_bytes, zero_bytes, wire_bytes, entries, records;
    struct {
        _Atomic uint64_t direct, slots, sealed, copied;
    } volumes[GW_VOLUMES_MAX];
};

/* Joining and talking: embedded by sender and receiver lanes. */
struct gw_lane_talk {
    struct gw_lane lane;
    struct gw_seal *seal;
    bool is_proof_sent, is_joined;
    struct gw_send proof;
    uint8_t proof_bytes[GW_SEAL_PROOF_SIZE];
};

/* Sends our proof once the channel takes it. Returns -EAGAIN until then, 0 once it is posted. */
int gw_lane_send_proof(struct gw_lane_talk *talk);
/* The peer's first message; is_joined afterwards. */
int gw_lane_check_proof(struct gw_lane_talk *talk, const void *data, uint32_t length);

void gw_lane_digest(const void *bytes, uint64_t length, uint8_t *out);
/* Counts what the processor itself moved: called where it is moved. */
static inline void gw_lane_copied(struct gw_lane_counters *counters, uint16_t volume,
                                  uint64_t bytes)
{
    atomic_fetch_add_explicit(&counters->volumes[volume].copied, bytes, memory_order_relaxed);
}
void gw_lane_account(struct gw_lane_counters *counters, enum gw_stage stage, uint64_t since_ns);
void gw_lane_add_path(const struct gw_lane_counters *counters, struct gw_path_stats *out);

#endif
