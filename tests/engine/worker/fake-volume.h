/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake-volume: a source volume whose extents a test writes down as a list. It has no bytes.
 *
 * Errors: next_extent answers fail_code at or past fail_at.
 * Threads: next_extent from any, as the round promises to call it under its lock; calls counts.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_ENGINE_WORKER_FAKE_VOLUME_H
#define GODWIT_TESTS_ENGINE_WORKER_FAKE_VOLUME_H

#include "engine/volume/volume.h"

struct fake_volume {
    struct gw_source_volume volume;
    const struct gw_extent *extents; /* in order, without gaps */
    unsigned extent_count;
    uint64_t fail_at;
    int fail_code; /* 0: never */
    uint64_t calls;
    /* collect ORs this in and clears it; NULL: -ENOTSUP. */
    struct gw_bitmap *written;
    int collect_code;
    void (*before_collect)(struct fake_volume *fake); /* or NULL */
    void *context;
};

/* size is where the last extent ends. */
void fake_volume_init(struct fake_volume *fake, enum gw_volume_kind kind, uint32_t granularity,
                      const struct gw_extent *extents, unsigned extent_count);

#endif
