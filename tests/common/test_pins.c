/* SPDX-License-Identifier: Apache-2.0 */
/* The account of pinned memory, and the sizes that people write. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "common/error.h"
#include "common/pins.h"

Test(pins, takes_up_to_the_limit_and_not_a_byte_more)
{
    struct gw_pins pins;

    gw_pins_init(&pins, 8192);
    cr_assert_eq(gw_pins_take(&pins, 4096), 0);
    cr_assert_eq(gw_pins_take(&pins, 4097), -ENOMEM);
    cr_assert(strstr(gw_error_message(), "--pin-limit"), "%s", gw_error_message());
    cr_assert_eq(gw_pins_take(&pins, 4096), 0);
    cr_assert_eq(gw_pins_take(&pins, UINT64_MAX), -ENOMEM);
    gw_pins_give(&pins, 8192);
    cr_assert_eq(gw_pins_take(&pins, 8192), 0);
}

Test(pins, what_must_be_counts_beyond_the_limit)
{
    struct gw_pins pins;

    gw_pins_init(&pins, 4096);
    gw_pins_must(&pins, 8192);
    cr_assert_eq(gw_pins_take(&pins, 1), -ENOMEM);
    gw_pins_give(&pins, 8192);
    cr_assert_eq(gw_pins_take(&pins, 4096), 0);
}

Test(pins, no_account_is_no_limit)
{
    cr_assert_eq(gw_pins_take(NULL, UINT64_MAX), 0);
    gw_pins_give(NULL, UINT64_MAX);
}

Test(pins, default_is_something)
{
    struct gw_pins pins;

    gw_pins_init(&pins, 0);
    cr_assert_gt(pins.limit, 0);
}

Test(pins, reads_sizes)
{
    uint64_t size;

    cr_assert(gw_pins_parse("4096", &size) == 0 && size == 4096);
    cr_assert(gw_pins_parse("3K", &size) == 0 && size == 3 << 10);
    cr_assert(gw_pins_parse("512M", &size) == 0 && size == 512ull << 20);
    cr_assert(gw_pins_parse("8G", &size) == 0 && size == 8ull << 30);
    cr_assert(gw_pins_parse("2T", &size) == 0 && size == 2ull << 40);
}

Test(pins, refuses_what_is_no_size)
{
    static const char *const texts[] = {
        "", "M", "0", "-1G", "1X", "1GB", "8 G", "1.5G", "99999999999999999999", "16777216T"};
    uint64_t size;

    for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        cr_assert_eq(gw_pins_parse(texts[i], &size), -EINVAL, "%s", texts[i]);
}
