/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench-record: what travels in the sealed messages of a channel that is measured. Pure encoding and
 * decoding, little endian, each type of one length; docs/protocol.md has the table. Which record may
 * come when is the lane's to know.
 *
 * Errors: -EPROTO with a message, nothing stored.
 * Threads: any.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_WORKER_BENCH_RECORD_H
#define GODWIT_ENGINE_WORKER_BENCH_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/worker/record.h"

#define GW_BENCH_REGION     (8u << 20) /* bytes that the writes of a channel go around in */
#define GW_BENCH_RECORD_MAX 40u        /* the longest record */

enum gw_bench_record_type {
    GW_BENCH_RECORD_READY = 1,   /* target: its memory may be written */
    GW_BENCH_RECORD_MARK = 2,    /* source: everything before is out */
    GW_BENCH_RECORD_MARKED = 3,  /* target: everything before is here */
    GW_BENCH_RECORD_CHECK = 4,   /* source: digest of the first bytes of the memory */
    GW_BENCH_RECORD_CHECKED = 5, /* target: whether its own is the same */
};

/* What a type does not have is 0. */
struct gw_bench_record {
    enum gw_bench_record_type type;
    uint64_t key, length;           /* READY; length is GW_BENCH_REGION */
    uint32_t number;                /* MARK, MARKED: from 1 */
    uint64_t cpu_ns;                /* MARKED: time of the target's worker */
    uint32_t worker;                /* MARKED: which worker that is */
    uint32_t checked;               /* CHECK: bytes, at most GW_BENCH_REGION */
    bool is_equal;                  /* CHECKED */
    uint8_t digest[GW_DIGEST_SIZE]; /* CHECK */
};

/* Writes into out (GW_BENCH_RECORD_MAX bytes) and returns the length. */
uint32_t gw_bench_record_encode(const struct gw_bench_record *record, uint8_t *out);
/* is_from_target: who sent it, and so which types there are. */
int gw_bench_record_decode(const uint8_t *bytes, uint32_t length, bool is_from_target,
                           struct gw_bench_record *out);

#endif
