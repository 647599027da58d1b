/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fixed-size set of small integers: dirty pages, dirty disk granules.
 * Errors: -ENOMEM from gw_bitmap_new.
 * Threads: one at a time.
 * Units: bits; what a bit stands for is the owner's business.
 */
#ifndef GODWIT_COMMON_BITMAP_H
#define GODWIT_COMMON_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

struct gw_bitmap {
    uint64_t bit_count;
    uint64_t *words;
};

int gw_bitmap_init(struct gw_bitmap *bitmap, uint64_t bit_count); /* all clear */
void gw_bitmap_free(struct gw_bitmap *bitmap);                    /* takes zeroed memory too */
bool gw_bitmap_test(const struct gw_bitmap *bitmap, uint64_t bit);
void gw_bitmap_set_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count);
void gw_bitmap_clear_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count);
void gw_bitmap_clear_all(struct gw_bitmap *bitmap);
/* Adds every bit of from, which has the same size. */
void gw_bitmap_merge(struct gw_bitmap *into, const struct gw_bitmap *from);
uint64_t gw_bitmap_count(const struct gw_bitmap *bitmap);
/* The first run of set bits at or after from. False when there is none. */
bool gw_bitmap_next_run(const struct gw_bitmap *bitmap, uint64_t from, uint64_t *first,
                        uint64_t *count);

#endif
