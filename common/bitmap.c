/* SPDX-License-Identifier: Apache-2.0 */
/* A plain array of 64-bit words; runs are found a word at a time. */
#include "common/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

#define WORD_BITS 64u

static uint64_t word_count(const struct gw_bitmap *bitmap)
{
    return (bitmap->bit_count + WORD_BITS - 1) / WORD_BITS;
}

int gw_bitmap_init(struct gw_bitmap *bitmap, uint64_t bit_count)
{
    uint64_t words = bit_count / WORD_BITS + 1;

    bitmap->words = calloc(words, sizeof(uint64_t));
    if (!bitmap->words)
        return gw_fail(-ENOMEM, "no memory for a bitmap of %llu bits",
                       (unsigned long long)bit_count);
    bitmap->bit_count = bit_count;
    return 0;
}

void gw_bitmap_free(struct gw_bitmap *bitmap)
{
    free(bitmap->words);
    *bitmap = (struct gw_bitmap){0};
}

bool gw_bitmap_test(const struct gw_bitmap *bitmap, uint64_t bit)
{
    assert(bit < bitmap->bit_count);
    return bitmap->words[bit / WORD_BITS] >> (bit % WORD_BITS) & 1;
}

/* The bits of one word that belong to [first, first + count). */
static uint64_t word_mask(uint64_t word, uint64_t first, uint64_t count)
{
    uint64_t begin = word * WORD_BITS;
    uint64_t low = first > begin ? first - begin : 0;
    uint64_t high = gw_min(first + count - begin, WORD_BITS);
    uint64_t mask = ~0ull << low;

    return high == WORD_BITS ? mask : mask & ((1ull << high) - 1);
}

void gw_bitmap_set_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count)
{
    assert(gw_range_fits(first, count, bitmap->bit_count));
    if (count == 0)
        return;
    for (uint64_t word = first / WORD_BITS; word <= (first + count - 1) / WORD_BITS; word++)
        bitmap->words[word] |= word_mask(word, first, count);
}

void gw_bitmap_clear_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count)
{
    assert(gw_range_fits(first, count, bitmap->bit_count));
    if (count == 0)
        return;
    for (uint64_t word = first / WORD_BITS; word <= (first + count - 1) / WORD_BITS; word++)
        bitmap->words[word] &= ~word_mask(word, first, count);
}

void gw_bitmap_clear_all(struct gw_bitmap *bitmap)
{
    memset(bitmap->words, 0, word_count(bitmap) * sizeof(uint64_t));
}

void gw_bitmap_merge(struct gw_bitmap *into, const struct gw_bitmap *from)
{
    assert(into->bit_count == from->bit_count);
    for (uint64_t word = 0; word < word_count(into); word++)
        into->words[word] |= from->words[word];
}

uint64_t gw_bitmap_count(const struct gw_bitmap *bitmap)
{
    uint64_t count = 0;

    for (uint64_t word = 0; word < word_count(bitmap); word++)
        count += (uint64_t)__builtin_popcountll(bitmap->words[word]);
    return count;
}

/* The first bit at or after from that equals wanted, or bit_count. */
static uint64_t find(const struct gw_bitmap *bitmap, uint64_t from, bool wanted)
{
    uint64_t flip = wanted ? 0 : ~0ull;

    for (uint64_t word = from / WORD_BITS; word < word_count(bitmap); word++) {
        uint64_t bits = bitmap->words[word] ^ flip;

        if (word == from / WORD_BITS)
            bits &= ~0ull << (from % WORD_BITS);
        if (bits)
            return gw_min(word * WORD_BITS + (uint64_t)__builtin_ctzll(bits), bitmap->bit_count);
    }
    return bitmap->bit_count;
}

bool gw_bitmap_next_run(const struct gw_bitmap *bitmap, uint64_t from, uint64_t *first,
                        uint64_t *count)
{
    uint64_t begin = from < bitmap->bit_count ? find(bitmap, from, true) : bitmap->bit_count;

    if (begin == bitmap->bit_count)
        return false;
    *first = begin;
    *count = find(bitmap, begin, false) - begin;
    return true;
}
