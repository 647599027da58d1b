/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify: one digest for the whole content of a volume, the same for every format: both sides
 * compute it of what lies on their own medium, and compare.
 *
 * The digest is an XXH3-128 over, for each 64 KiB granule that is not zero, its number (little
 * endian) and its own XXH3-128; then the size. So holes cost nothing, and a granule in another
 * place is noticed.
 *
 * Errors: 0 or -errno with a message; -EBADMSG names the volume whose digests differ.
 * Threads: one per volume.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_VERIFY_H
#define GODWIT_ENGINE_SESSION_VERIFY_H

#include "engine/volume/volume.h"

#define GW_VERIFY_GRANULE (64u << 10)
#define GW_VERIFY_SIZE    16u

/* Reads all of it; nothing may write to it meanwhile. */
int gw_verify_source(struct gw_source_volume *volume, uint8_t *digest);
/* The bytes of a range into a buffer, which has room for length and 4096 more. */
int gw_verify_read(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                   uint8_t *into);
/* A walk over the granules of a volume that are not wholly within a hole, in order. */
struct gw_verify_walk {
    struct gw_source_volume *volume;
    uint64_t offset, end; /* where it is; where it ends, at most the volume's size */
    uint64_t granule;
    struct gw_extent extent; /* zeroed at first */
};

/* Reads the next one into the buffer, which has room for a granule and 4096 more. *length is 0 where
 * there is none; walk->offset is behind what was looked at. */
int gw_verify_next(struct gw_verify_walk *walk, uint8_t *buffer, uint64_t *offset,
                   uint64_t *length);
int gw_verify_memory(const void *memory, uint64_t size, uint8_t *digest);
/* Of a target of ram.h. What was never written is not touched: that would allocate it. */
int gw_verify_ram(const struct gw_target_volume *ram, uint8_t *digest);

#endif
