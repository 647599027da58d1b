/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record: what travels in the sealed messages of a data channel beside the bulk bytes. Pure
 * encoding and decoding, little endian, bounds checked; docs/protocol.md has the drawing.
 *
 *   source -> target   EXTENTS  what was written where: up to GW_RECORD_ENTRIES_MAX entries
 *   target -> source   REGIONS  the landing ring and the RAM regions of this channel, with their keys
 *   target -> source   APPLIED  cumulative: every record up to this number is in its volume
 *   target -> source   WINDOWS  windows of RAM that this channel may write into, with their keys
 *   source -> target   CLOSED   windows that this channel writes into no more
 *
 * Errors: -EPROTO with a message, nothing stored.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_RECORD_H
#define GODWIT_ENGINE_WORKER_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/volume/volume.h"
#include "transport/link/seal.h"

#define GW_DIGEST_SIZE        16u /* XXH3-128, canonical (big endian) form; or an AES-256-GCM tag */
#define GW_RECORD_HEADER_SIZE 4u
#define GW_RECORD_ENTRY_SIZE  40u
#define GW_RECORD_ENTRIES_MAX 96u
#define GW_RECORDS_OUT_MAX    64u   /* records sent and not yet applied, per channel */
#define GW_ENTRIES_OUT_MAX    2048u /* entries of those */
#define GW_CHUNK_MAX          (256u << 10)
#define GW_RING_ALIGNMENT     4096u

_Static_assert(GW_RECORD_HEADER_SIZE + GW_RECORD_ENTRIES_MAX * GW_RECORD_ENTRY_SIZE <=
                   GW_SEAL_RECORD_MAX,
               "a full record fits one message");
_Static_assert(GW_ENTRIES_OUT_MAX >= GW_RECORD_ENTRIES_MAX, "a full record may be out");

enum gw_record_type {
    GW_RECORD_EXTENTS = 1,
    GW_RECORD_REGIONS = 2,
    GW_RECORD_APPLIED = 3,
    GW_RECORD_WINDOWS = 4,
    GW_RECORD_CLOSED = 5,
};

enum gw_entry_kind {
    GW_ENTRY_RING = 1,   /* bytes lie in the landing ring at position */
    GW_ENTRY_DIRECT = 2, /* bytes were written into their final place */
    GW_ENTRY_ZERO = 3,   /* the range reads as zeroes */
};

struct gw_record_entry {
    enum gw_entry_kind kind;
    bool has_digest; /* always for RING; for DIRECT when the bytes held still */
    uint16_t volume;
    uint32_t position; /* in the ring */
    uint64_t offset, length;
    uint8_t digest[GW_DIGEST_SIZE];
};

/* A region of this channel. volume GW_RECORD_RING names the landing ring. */
#define GW_RECORD_RING 0xffffu
struct gw_record_region {
    uint16_t volume;
    uint64_t key, length;
};

/* A window by the number that the source gave it, and its key in this channel's domain. */
struct gw_record_window {
    uint32_t number; /* from 1 */
    uint64_t key;
};

/* Encoders write into out (GW_SEAL_RECORD_MAX bytes) and return the length. */
uint32_t gw_record_begin(uint8_t *out);
uint32_t gw_record_append(uint8_t *out, uint32_t length, const struct gw_record_entry *entry);
uint32_t gw_record_regions(uint8_t *out, const struct gw_record_region *regions, unsigned count);
uint32_t gw_record_applied(uint8_t *out, uint64_t sequence);
/* Both: at most GW_RECORD_ENTRIES_MAX. */
uint32_t gw_record_windows(uint8_t *out, const struct gw_record_window *windows, unsigned count);
uint32_t gw_record_closed(uint8_t *out, const uint32_t *numbers, unsigned count);

/* Decoders. The type first, then the one that fits it. */
int gw_record_type(const uint8_t *record, uint32_t length, enum gw_record_type *out,
                   unsigned *count);
int gw_record_entry(const uint8_t *record, unsigned index, struct gw_record_entry *out);
int gw_record_region(const uint8_t *record, unsigned index, struct gw_record_region *out);
uint64_t gw_record_applied_sequence(const uint8_t *record);
int gw_record_window(const uint8_t *record, unsigned index, struct gw_record_window *out);
int gw_record_closed_number(const uint8_t *record, unsigned index, uint32_t *out);

#endif
