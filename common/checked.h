/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and offsets from a peer or a disk are added and multiplied through these. */
#ifndef GODWIT_COMMON_CHECKED_H
#define GODWIT_COMMON_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True, with the sum or product in *out, when it fits. */
static inline bool gw_add_fits(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool gw_mul_fits(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

/* True when [offset, offset + length) lies within [0, size). An empty range at size does. */
static inline bool gw_range_fits(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

static inline bool gw_is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* Alignments are powers of two. gw_align_up must not be given values within alignment of 2^64. */
static inline uint64_t gw_align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

static inline uint64_t gw_align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t gw_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t gw_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#define GW_ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* The struct that embeds the member that pointer points to. */
#define gw_container_of(pointer, type, member)                                                     \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#endif
