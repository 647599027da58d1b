/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work: what the two engines of a simulated channel do with it, and whether the channel kept its
 * promises: every byte right and in place before the message that tells of it; messages in order and
 * whole; done exactly once; memory that was given back is never read again, and memory that was
 * delivered never written again.
 *
 * Threads: one.
 */
#ifndef GODWIT_TESTS_TRANSPORT_DPDK_WORK_H
#define GODWIT_TESTS_TRANSPORT_DPDK_WORK_H

#include "tests/transport/dpdk/sim.h"

#define WORK_MEMORY (1u << 18) /* of each end's region */
#define WORK_OPS    2000u

struct work_op {
    union {
        struct gw_write write;
        struct gw_send send;
    };
    struct work *work;
    bool is_message, is_loose, is_posted, is_done;
    int status;
    uint8_t *bytes; /* what it sends: scribbled over once it is done */
    uint32_t length;
    uint64_t offset;
    uint64_t seed; /* of its bytes */
};

/* One direction. */
struct work {
    struct sim_end *from, *to;
    uint8_t *memory; /* of to; zero, or scribbled over after it was looked at */
    struct gw_region region;
    struct gw_region loose; /* a page of to that is written to over and over, and may end before */
    bool has_loose_ended;
    struct work_op *ops;
    unsigned op_count, posted, done, checked; /* checked: ops that the receiver has looked at */
    unsigned wrong;                           /* promises broken */
    bool is_ending;                           /* done()s may tell of an error now */
    const char *fault;
};

/* Plans op_count ops of all sizes, largest_write at most; the region is registered at to. */
void work_init(struct work *work, struct sim_end *from, struct sim_end *to, unsigned op_count,
               uint32_t largest_write);
void work_free(struct work *work);
/* Posts what it can. */
void work_post(struct work *work);
/* Receives what has come, and looks at what it tells of. */
void work_receive(struct work *work);
/* Everything was posted, done and received. */
bool work_is_over(const struct work *work);
/* At the end: done exactly once each, and nothing was touched behind the receiver's back. */
void work_check(struct work *work);

#endif
