/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-lane: a data channel that is measured instead of used. The target gives it memory that
 * writes go into, and answers marks; the source writes, asks and takes the time. The records are in
 * docs/protocol.md.
 *
 * Errors: 0 or -errno with a message, among them the one that killed the channel.
 * Order: prepare → the channel is dialled or admitted with the lane as context → start → (source)
 *   begin → wait, again and again → free. Free instead of start when there was no channel.
 * Threads: the control thread; the measuring itself is done on the lane's worker.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_WORKER_BENCH_LANE_H
#define GODWIT_ENGINE_WORKER_BENCH_LANE_H

#include "engine/worker/bench-record.h"
#include "engine/worker/worker.h"
#include "transport/link/seal.h"

#define GW_BENCH_LANES_MAX 8u /* channels of one session */
#define GW_BENCH_PINGS_MAX 1000u
#define GW_BENCH_SESSION_S 120 /* longer than this no target plays along */

enum gw_bench_kind {
    GW_BENCH_WRITE, /* writes of size bytes for duration_ns */
    GW_BENCH_PING,  /* count marks there and back, one at a time */
    GW_BENCH_CHECK, /* fresh random bytes in writes of size bytes; the target digests them */
};

struct gw_bench_task {
    enum gw_bench_kind kind;
    uint32_t size, count;
    uint64_t duration_ns;
    /* Results. From the first post until the target had everything. */
    uint64_t bytes, elapsed_ns;
    uint64_t near_cpu_ns, far_cpu_ns; /* of the workers' threads at both ends */
    uint32_t far_worker;              /* lanes with the same number share a worker there */
    uint64_t ping_ns[GW_BENCH_PINGS_MAX];
    uint32_t ping_count;
    bool is_equal; /* what arrived was what was sent */
};

/* The target's end; number is the channel's. */
int gw_bench_target_prepare(struct gw_worker *worker, struct gw_domain *domain, uint32_t number,
                            struct gw_lane **out);
/* The source's end. */
int gw_bench_source_prepare(struct gw_worker *worker, struct gw_domain *domain,
                            struct gw_lane **out);
/* Takes over channel and seal. */
void gw_bench_start(struct gw_lane *lane, struct gw_channel *channel, struct gw_seal *seal);
void gw_bench_free(struct gw_lane *lane);

/* task is lent until wait has returned. One at a time on a lane. */
void gw_bench_begin(struct gw_lane *lane, struct gw_bench_task *task);
int gw_bench_wait(struct gw_lane *lane, int timeout_ms); /* -ETIMEDOUT: free the lane */

#endif
