/* SPDX-License-Identifier: Apache-2.0 */
/* Which parts of a new file were given out: against a plain array of what was. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "engine/image/touched.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define TIB ((uint64_t)1 << 40)

TestSuite(touched, .timeout = 60);

Test(touched, nothing_is_known_without_it)
{
    gw_image_touched_add(NULL, 0, 1);
    cr_assert(gw_image_touched_any(NULL, 0, 1));
    gw_image_touched_free(NULL);
}

Test(touched, what_was_given_out_is_never_called_a_hole)
{
    struct gw_image_touched *touched = gw_image_touched_new(200 * MIB + 512);
    static uint8_t given[200 * 256 + 1]; /* pages of 4 KiB */
    unsigned holes = 0;

    cr_assert(touched);
    srand(7);
    for (unsigned turn = 0; turn < 3000; turn++) {
        uint64_t page = (uint64_t)rand() % sizeof(given), count = 1 + (uint64_t)rand() % 2000;
        bool is_any = false;

        if (page + count > sizeof(given))
            count = sizeof(given) - page;
        for (uint64_t i = 0; i < count; i++)
            is_any |= given[page + i];
        /* It may count more as touched, up to its granule, but never less. */
        if (!gw_image_touched_any(touched, page * 4 * KIB, (count - 1) * 4 * KIB + 512)) {
            cr_assert_not(is_any, "turn %u, page %llu", turn, (unsigned long long)page);
            holes++;
        }
        if (turn % 8)
            continue;
        gw_image_touched_add(touched, page * 4 * KIB, 512);
        given[page] = 1;
    }
    cr_assert_gt(holes, 100);
    gw_image_touched_free(touched);
}

Test(touched, neighbours_of_whole_granules_stay_holes)
{
    struct gw_image_touched *touched = gw_image_touched_new(64 * MIB);

    /* Across a word of 64 granules. */
    gw_image_touched_add(touched, 4 * MIB - 64 * KIB, 128 * KIB);
    cr_assert_not(gw_image_touched_any(touched, 0, 4 * MIB - 64 * KIB));
    cr_assert(gw_image_touched_any(touched, 0, 4 * MIB - 64 * KIB + 1));
    cr_assert(gw_image_touched_any(touched, 4 * MIB + 64 * KIB - 1, 1));
    cr_assert_not(gw_image_touched_any(touched, 4 * MIB + 64 * KIB, 60 * MIB - 64 * KIB));
    cr_assert_not(gw_image_touched_any(touched, 0, 0));
    gw_image_touched_free(touched);
}

Test(touched, what_lies_behind_its_end_counts_as_touched)
{
    struct gw_image_touched *touched = gw_image_touched_new(MIB);

    cr_assert_not(gw_image_touched_any(touched, 0, MIB));
    cr_assert(gw_image_touched_any(touched, 0, MIB + 1));
    cr_assert(gw_image_touched_any(touched, UINT64_MAX, 1));
    cr_assert(gw_image_touched_any(touched, 1, UINT64_MAX));
    gw_image_touched_add(touched, UINT64_MAX - 1, 2);
    gw_image_touched_add(touched, MIB - 1, UINT64_MAX);
    cr_assert(gw_image_touched_any(touched, MIB - 1, 1));
    cr_assert_not(gw_image_touched_any(touched, 0, MIB - 64 * KIB));
    gw_image_touched_free(touched);
}

Test(touched, sixty_four_tebibytes_have_larger_granules)
{
    struct gw_image_touched *touched = gw_image_touched_new(64 * TIB);

    cr_assert(touched);
    gw_image_touched_add(touched, 64 * TIB - 1, 1);
    gw_image_touched_add(touched, 5 * TIB, 1);
    cr_assert_not(gw_image_touched_any(touched, 0, 5 * TIB));
    cr_assert(gw_image_touched_any(touched, 5 * TIB, 512));
    cr_assert_not(gw_image_touched_any(touched, 5 * TIB + 16 * MIB, 50 * TIB));
    cr_assert(gw_image_touched_any(touched, 6 * TIB, 58 * TIB));
    gw_image_touched_free(touched);
}
