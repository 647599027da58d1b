/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: records of a data channel, as the other end might send them. What is accepted is
 * within its bounds, and is the same when it is written and read again. Built with clang and
 * -Dfuzz=true; run by hand: fuzz-record -max_total_time=60 CORPUS.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/worker/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entry(const uint8_t *record, unsigned index)
{
    struct gw_record_entry entry, again;
    uint8_t out[GW_RECORD_HEADER_SIZE + GW_RECORD_ENTRY_SIZE];

    if (gw_record_entry(record, index, &entry))
        return;
    assert(entry.kind >= GW_ENTRY_RING && entry.kind <= GW_ENTRY_ZERO);
    assert(entry.length > 0);
    assert(entry.kind == GW_ENTRY_ZERO || entry.length <= GW_CHUNK_MAX);
    assert(entry.kind != GW_ENTRY_RING || entry.has_digest);
    assert(gw_record_append(out, gw_record_begin(out), &entry) == sizeof(out));
    assert(memcmp(out + GW_RECORD_HEADER_SIZE,
                  record + GW_RECORD_HEADER_SIZE + (size_t)index * GW_RECORD_ENTRY_SIZE,
                  GW_RECORD_ENTRY_SIZE) == 0);
    assert(gw_record_entry(out, 0, &again) == 0);
    assert(again.offset == entry.offset && again.length == entry.length);
}

static void check_region(const uint8_t *record, unsigned index)
{
    struct gw_record_region region;

    if (gw_record_region(record, index, &region) == 0)
        assert(region.volume == GW_RECORD_RING || region.volume < GW_VOLUMES_MAX);
}

static void check_window(const uint8_t *record, unsigned index)
{
    struct gw_record_window window, again;
    uint8_t out[GW_SEAL_RECORD_MAX];

    if (gw_record_window(record, index, &window))
        return;
    assert(window.number > 0);
    gw_record_windows(out, &window, 1);
    assert(gw_record_window(out, 0, &again) == 0);
    assert(again.number == window.number && again.key == window.key);
}

static void check_closed(const uint8_t *record, unsigned index)
{
    uint32_t number, again;
    uint8_t out[GW_SEAL_RECORD_MAX];

    if (gw_record_closed_number(record, index, &number))
        return;
    gw_record_closed(out, &number, 1);
    assert(gw_record_closed_number(out, 0, &again) == 0 && again == number && number > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum gw_record_type type;
    unsigned count;
    uint8_t *record;

    if (size > GW_SEAL_RECORD_MAX)
        return 0;
    /* Its own allocation, so that a read past the end is seen. */
    record = malloc(size + !size);
    memcpy(record, data, size);
    if (gw_record_type(record, (uint32_t)size, &type, &count) == 0) {
        assert(count <= GW_RECORD_ENTRIES_MAX);
        for (unsigned i = 0; i < count; i++)
            if (type == GW_RECORD_EXTENTS)
                check_entry(record, i);
            else if (type == GW_RECORD_REGIONS)
                check_region(record, i);
            else if (type == GW_RECORD_WINDOWS)
                check_window(record, i);
            else if (type == GW_RECORD_CLOSED)
                check_closed(record, i);
        if (type == GW_RECORD_APPLIED)
            assert(count == 1);
        if (type == GW_RECORD_APPLIED)
            gw_record_applied_sequence(record);
    }
    free(record);
    return 0;
}
