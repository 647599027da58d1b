/* SPDX-License-Identifier: Apache-2.0 */
/* A bit for each 64 KiB, or for more where the file is large. It asks the file nothing. */
#include "engine/image/touched.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "common/checked.h"

#define GRANULE_MIN  (64u << 10)
#define GRANULES_MAX (1ull << 26)
#define WORD_BITS    64u

struct gw_image_touched {
    uint64_t size, granule;
    _Atomic uint64_t words[];
};

struct gw_image_touched *gw_image_touched_new(uint64_t size)
{
    struct gw_image_touched *touched;
    uint64_t granule = GRANULE_MIN, words;

    while (size / granule >= GRANULES_MAX)
        granule *= 2;
    words = size / granule / WORD_BITS + 1;
    touched = calloc(1, sizeof(*touched) + words * sizeof(touched->words[0]));
    if (!touched)
        return NULL;
    touched->size = size;
    touched->granule = granule;
    return touched;
}

void gw_image_touched_free(struct gw_image_touched *touched)
{
    free(touched);
}

/* The bits of word number that stand for granules first to last. */
static uint64_t mask_of(uint64_t number, uint64_t first, uint64_t last)
{
    uint64_t mask = UINT64_MAX;

    if (number == first / WORD_BITS)
        mask &= UINT64_MAX << first % WORD_BITS;
    if (number == last / WORD_BITS)
        mask &= UINT64_MAX >> (WORD_BITS - 1 - last % WORD_BITS);
    return mask;
}

void gw_image_touched_add(struct gw_image_touched *touched, uint64_t offset, uint64_t length)
{
    uint64_t first, last;

    if (!touched || length == 0 || offset >= touched->size)
        return;
    first = offset / touched->granule;
    last = (offset + gw_min(length, touched->size - offset) - 1) / touched->granule;
    for (uint64_t word = first / WORD_BITS; word <= last / WORD_BITS; word++) {
        uint64_t mask = mask_of(word, first, last);

        if ((atomic_load_explicit(&touched->words[word], memory_order_relaxed) & mask) != mask)
            atomic_fetch_or(&touched->words[word], mask);
    }
}

bool gw_image_touched_any(const struct gw_image_touched *touched, uint64_t offset, uint64_t length)
{
    uint64_t first, last;

    if (!touched || !gw_range_fits(offset, length, touched->size))
        return true;
    if (length == 0)
        return false;
    first = offset / touched->granule;
    last = (offset + length - 1) / touched->granule;
    for (uint64_t word = first / WORD_BITS; word <= last / WORD_BITS; word++)
        if (atomic_load(&touched->words[word]) & mask_of(word, first, last))
            return true;
    return false;
}
