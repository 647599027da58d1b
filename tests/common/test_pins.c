/* SPDX-License-Identifier: Apache-2.0 */
/* The account of pinned memory, and the sizes that people write. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "common/checked.h"
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

static void drop_ipc_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    cr_assert_eq(syscall(SYS_capget, &header, data), 0);
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    cr_assert_eq(syscall(SYS_capset, &header, data), 0);
}

/* By the kernel's own figures. */
Test(pins, default_is_half_of_what_is_free_and_within_the_memlock_limit)
{
    struct rlimit limit;
    struct gw_pins pins;
    struct sysinfo info;

    cr_assert_eq(sysinfo(&info), 0);
    drop_ipc_lock();
    cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    limit.rlim_cur = gw_min(limit.rlim_max, 1u << 20);
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    gw_pins_init(&pins, 0);
    cr_assert_eq(pins.limit, limit.rlim_cur);
    if (limit.rlim_max != RLIM_INFINITY)
        return; /* the limit cannot be taken off here */
    limit.rlim_cur = RLIM_INFINITY;
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    gw_pins_init(&pins, 0);
    cr_assert_leq(pins.limit, (uint64_t)info.totalram * info.mem_unit / 2);
    cr_assert_gt(pins.limit, (uint64_t)info.freeram * info.mem_unit / 4);
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
