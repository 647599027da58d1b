/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: records of a measured channel, as the other end might send them. The first byte of the
 * input says from which side. What is accepted is within its bounds, and is the same when it is
 * written and read again.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/worker/bench-record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct gw_bench_record *record, bool is_from_target, const uint8_t *bytes,
                  uint32_t length)
{
    uint8_t out[GW_BENCH_RECORD_MAX];
    struct gw_bench_record again;

    assert(is_from_target ==
           (record->type != GW_BENCH_RECORD_MARK && record->type != GW_BENCH_RECORD_CHECK));
    assert(record->checked <= GW_BENCH_REGION);
    assert(record->type != GW_BENCH_RECORD_READY || record->length == GW_BENCH_REGION);
    assert(gw_bench_record_encode(record, out) == length && memcmp(out, bytes, length) == 0);
    assert(gw_bench_record_decode(out, length, is_from_target, &again) == 0);
    assert(memcmp(&again, record, sizeof(again)) == 0);
    /* Nobody takes a record of its own side. */
    assert(gw_bench_record_decode(out, length, !is_from_target, &again) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gw_bench_record record;
    bool is_from_target;
    uint8_t *bytes;

    if (size == 0 || size > GW_SEAL_RECORD_MAX)
        return 0;
    is_from_target = data[0] % 2;
    /* Its own allocation, so that a read past the end is seen. */
    bytes = malloc(size > 1 ? size - 1 : 1);
    if (!bytes)
        return 0;
    memcpy(bytes, data + 1, size - 1);
    if (gw_bench_record_decode(bytes, (uint32_t)size - 1, is_from_target, &record) == 0)
        check(&record, is_from_target, bytes, (uint32_t)size - 1);
    free(bytes);
    return 0;
}
