/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers, and the zero test at every length and place of one bit. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "common/memory.h"

TestSuite(memory, .timeout = 60);

Test(memory, is_aligned_and_zero)
{
    void *memory = NULL;

    cr_assert_eq(gw_memory_new(3 * 4096, &memory), 0);
    cr_assert_eq((uintptr_t)memory % 4096, 0);
    cr_assert(gw_memory_is_zero(memory, 3 * 4096));
    memset(memory, 0xff, 3 * 4096);
    gw_memory_free(memory, 3 * 4096);
    gw_memory_free(NULL, 4096);
}

Test(memory, refuses_what_does_not_fit)
{
    void *memory = &memory;

    cr_assert_eq(gw_memory_new(SIZE_MAX / 2, &memory), -12); /* ENOMEM */
    cr_assert_eq(memory, &memory, "out is set only on success");
}

Test(memory, zero_test_finds_any_one_bit)
{
    static uint64_t words[160];

    for (size_t length = 0; length <= 160; length += 7)
        for (size_t at = 0; at < 160; at++) {
            ((unsigned char *)words)[at * 8 + at % 8] = (unsigned char)(1 << at % 8);
            cr_assert_eq(gw_memory_is_zero(words, length * 8), at >= length,
                         "length %zu, bit in word %zu", length, at);
            words[at] = 0;
        }
}
