/* SPDX-License-Identifier: Apache-2.0 */
/* Records of a measurement: what the table in docs/protocol.md says, byte by byte, and what is refused. */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "common/error.h"
#include "engine/worker/bench-record.h"

static const uint8_t ready[] = {1, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0x80, 0, 0, 0, 0, 0};
static const uint8_t mark[] = {2, 4, 3, 2, 1};
static const uint8_t marked[] = {3, 4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1, 0x14, 0x13, 0x12, 0x11};
static const uint8_t check[] = {4, 0, 0, 0x10, 0,  1,  2,  3,  4,  5, 6,
                                7, 8, 9, 10,   11, 12, 13, 14, 15, 16};
static const uint8_t checked[] = {5, 1, 0, 0, 0};

static const struct {
    const uint8_t *bytes;
    uint32_t length;
    bool is_from_target;
} all[] = {
    {ready, sizeof(ready), true},  {mark, sizeof(mark), false},      {marked, sizeof(marked), true},
    {check, sizeof(check), false}, {checked, sizeof(checked), true},
};
#define COUNT (sizeof(all) / sizeof(all[0]))

static struct gw_bench_record decode(unsigned index)
{
    struct gw_bench_record out;

    cr_assert_eq(gw_bench_record_decode(all[index].bytes, all[index].length,
                                        all[index].is_from_target, &out),
                 0, "%s", gw_error_message());
    return out;
}

static void expect_refused(const uint8_t *bytes, uint32_t length, bool is_from_target)
{
    struct gw_bench_record out = {.number = 77};

    cr_assert_eq(gw_bench_record_decode(bytes, length, is_from_target, &out), -EPROTO);
    cr_assert_eq(out.number, 77, "something was stored");
    cr_assert_neq(gw_error_message()[0], '\0');
}

Test(bench_record, records_have_the_documented_bytes)
{
    for (unsigned i = 0; i < COUNT; i++) {
        struct gw_bench_record record = decode(i);
        uint8_t out[GW_BENCH_RECORD_MAX];

        cr_assert_eq(gw_bench_record_encode(&record, out), all[i].length);
        cr_assert_arr_eq(out, all[i].bytes, all[i].length);
    }
    cr_assert_eq(decode(0).key, 0x0102030405060708ull);
    cr_assert_eq(decode(0).length, 8u << 20);
    cr_assert_eq(decode(1).number, 0x01020304);
    cr_assert_eq(decode(2).number, 0x01020304);
    cr_assert_eq(decode(2).cpu_ns, 0x0102030405060708ull);
    cr_assert_eq(decode(2).worker, 0x11121314);
    cr_assert_eq(decode(3).checked, 1u << 20);
    cr_assert_eq(decode(3).digest[15], 16);
    cr_assert(decode(4).is_equal);
}

Test(bench_record, other_lengths_are_refused)
{
    for (unsigned i = 0; i < COUNT; i++) {
        uint8_t bytes[GW_BENCH_RECORD_MAX] = {0};

        memcpy(bytes, all[i].bytes, all[i].length);
        for (uint32_t length = 0; length <= sizeof(bytes); length++)
            if (length != all[i].length)
                expect_refused(bytes, length, all[i].is_from_target);
    }
}

Test(bench_record, records_of_the_other_side_are_refused)
{
    for (unsigned i = 0; i < COUNT; i++)
        expect_refused(all[i].bytes, all[i].length, !all[i].is_from_target);
}

Test(bench_record, unknown_types_are_refused)
{
    uint8_t bytes[5] = {0, 1, 0, 0, 0};

    expect_refused(bytes, sizeof(bytes), true);
    bytes[0] = 6;
    expect_refused(bytes, sizeof(bytes), true);
    bytes[0] = 0xff;
    expect_refused(bytes, sizeof(bytes), false);
}

Test(bench_record, values_out_of_bounds_are_refused)
{
    uint8_t bytes[GW_BENCH_RECORD_MAX];

    memcpy(bytes, ready, sizeof(ready));
    bytes[11] = 0x40;
    expect_refused(bytes, sizeof(ready), true); /* memory of another size */
    memcpy(bytes, check, sizeof(check));
    memcpy(bytes + 1, "\1\0\x80\0", 4);
    expect_refused(bytes, sizeof(check), false); /* a byte more than the memory has */
    memcpy(bytes, mark, sizeof(mark));
    memset(bytes + 1, 0, 4);
    expect_refused(bytes, sizeof(mark), false); /* marks count from 1 */
    memcpy(bytes, checked, sizeof(checked));
    bytes[1] = 2;
    expect_refused(bytes, sizeof(checked), true); /* neither equal nor not */
}
