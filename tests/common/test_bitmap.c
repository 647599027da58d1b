/* SPDX-License-Identifier: Apache-2.0 */
/* The set of small integers, beside a plain array of booleans. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "common/bitmap.h"

#define BITS 517u /* not a multiple of a word, so that the last word is a part of one */

static struct gw_bitmap bitmap;
static bool model[BITS];

static void setup(void)
{
    cr_assert_eq(gw_bitmap_init(&bitmap, BITS), 0);
    memset(model, 0, sizeof(model));
}

static void teardown(void)
{
    gw_bitmap_free(&bitmap);
}

TestSuite(bitmap, .init = setup, .fini = teardown, .timeout = 60);

static void compare_with_model(void)
{
    uint64_t first = 0, count = 0, from = 0, total = 0;

    for (unsigned bit = 0; bit < BITS; bit++) {
        cr_assert_eq(gw_bitmap_test(&bitmap, bit), model[bit], "bit %u", bit);
        total += model[bit];
    }
    cr_assert_eq(gw_bitmap_count(&bitmap), total);
    while (gw_bitmap_next_run(&bitmap, from, &first, &count)) {
        cr_assert(count > 0 && first >= from && first + count <= BITS);
        for (uint64_t bit = from; bit < first; bit++)
            cr_assert_not(model[bit], "bit %lu lies before the run", bit);
        for (uint64_t bit = first; bit < first + count; bit++)
            cr_assert(model[bit], "bit %lu lies in the run", bit);
        cr_assert(first + count == BITS || !model[first + count], "the run ends too early");
        from = first + count;
    }
    for (uint64_t bit = from; bit < BITS; bit++)
        cr_assert_not(model[bit], "bit %lu lies behind the last run", bit);
}

Test(bitmap, is_empty_at_first)
{
    compare_with_model();
}

Test(bitmap, follows_a_model)
{
    srand(20);
    for (unsigned step = 0; step < 400; step++) {
        uint64_t first = (uint64_t)rand() % BITS;
        uint64_t count = (uint64_t)rand() % (BITS - first + 1);
        bool value = rand() & 1;

        if (step & 1)
            count = count % 5;
        if (value)
            gw_bitmap_set_range(&bitmap, first, count);
        else
            gw_bitmap_clear_range(&bitmap, first, count);
        for (uint64_t bit = first; bit < first + count; bit++)
            model[bit] = value;
        compare_with_model();
    }
}

Test(bitmap, takes_whole_range_and_last_bit)
{
    gw_bitmap_set_range(&bitmap, 0, BITS);
    memset(model, true, sizeof(model));
    compare_with_model();
    gw_bitmap_clear_all(&bitmap);
    memset(model, false, sizeof(model));
    compare_with_model();
    gw_bitmap_set_range(&bitmap, BITS - 1, 1);
    model[BITS - 1] = true;
    compare_with_model();
}

Test(bitmap, takes_an_empty_range_at_its_end)
{
    gw_bitmap_set_range(&bitmap, BITS, 0);
    gw_bitmap_clear_range(&bitmap, BITS, 0);
    compare_with_model();
}

Test(bitmap, run_search_behind_the_end_finds_nothing)
{
    uint64_t first, count;

    gw_bitmap_set_range(&bitmap, 0, BITS);
    cr_assert_not(gw_bitmap_next_run(&bitmap, BITS, &first, &count));
    cr_assert_not(gw_bitmap_next_run(&bitmap, UINT64_MAX, &first, &count));
}

Test(bitmap, merges)
{
    struct gw_bitmap other;

    cr_assert_eq(gw_bitmap_init(&other, BITS), 0);
    gw_bitmap_set_range(&bitmap, 10, 80);
    gw_bitmap_set_range(&other, 60, 100);
    gw_bitmap_merge(&bitmap, &other);
    memset(model + 10, true, 150);
    compare_with_model();
    gw_bitmap_free(&other);
}

Test(bitmap, of_no_bits)
{
    struct gw_bitmap none;
    uint64_t first, count;

    cr_assert_eq(gw_bitmap_init(&none, 0), 0);
    cr_assert_eq(gw_bitmap_count(&none), 0);
    cr_assert_not(gw_bitmap_next_run(&none, 0, &first, &count));
    gw_bitmap_free(&none);
    gw_bitmap_free(&none);
}
