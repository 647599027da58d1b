/* SPDX-License-Identifier: Apache-2.0 */
/* Sums, products, ranges and alignments at their edges. */
#include <criterion/criterion.h>

#include "common/checked.h"

TestSuite(checked, .timeout = 30);

Test(checked, sums)
{
    uint64_t out = 1;

    cr_assert(gw_add_fits(UINT64_MAX - 1, 1, &out));
    cr_assert_eq(out, UINT64_MAX);
    cr_assert_not(gw_add_fits(UINT64_MAX, 1, &out));
}

Test(checked, products)
{
    uint64_t out = 1;

    cr_assert(gw_mul_fits(1ull << 32, (1ull << 32) - 1, &out));
    cr_assert_eq(out, 0xffffffff00000000ull);
    cr_assert_not(gw_mul_fits(1ull << 32, 1ull << 32, &out));
    cr_assert(gw_mul_fits(0, UINT64_MAX, &out));
    cr_assert_eq(out, 0);
}

Test(checked, ranges)
{
    cr_assert(gw_range_fits(0, 10, 10));
    cr_assert(gw_range_fits(10, 0, 10));
    cr_assert_not(gw_range_fits(11, 0, 10));
    cr_assert_not(gw_range_fits(1, 10, 10));
    cr_assert_not(gw_range_fits(1, UINT64_MAX, 10));
    cr_assert_not(gw_range_fits(UINT64_MAX, UINT64_MAX, UINT64_MAX));
    cr_assert(gw_range_fits(0, 0, 0));
}

Test(checked, powers_of_two)
{
    cr_assert_not(gw_is_power_of_two(0));
    cr_assert(gw_is_power_of_two(1));
    cr_assert_not(gw_is_power_of_two(3));
    cr_assert(gw_is_power_of_two(1ull << 63));
}

Test(checked, alignments)
{
    cr_assert_eq(gw_align_down(4097, 4096), 4096);
    cr_assert_eq(gw_align_down(4096, 4096), 4096);
    cr_assert_eq(gw_align_up(4097, 4096), 8192);
    cr_assert_eq(gw_align_up(4096, 4096), 4096);
    cr_assert_eq(gw_align_up(0, 4096), 0);
}

struct outer {
    char before;
    int member;
};

Test(checked, container_of)
{
    struct outer outer;

    cr_assert_eq(gw_container_of(&outer.member, struct outer, member), &outer);
}
