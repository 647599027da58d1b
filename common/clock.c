/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the kernel's clocks. */
#include "common/clock.h"

#include <limits.h>
#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * GW_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t gw_clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t gw_clock_thread_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t gw_clock_wall_ns(void)
{
    return read_clock(CLOCK_REALTIME);
}

int gw_clock_left_ms(uint64_t deadline_ns)
{
    uint64_t now = gw_clock_ns(), left_ms;

    if (deadline_ns <= now)
        return 0;
    left_ms = (deadline_ns - now + GW_NS_PER_MS - 1) / GW_NS_PER_MS;
    return left_ms > INT_MAX ? INT_MAX : (int)left_ms;
}
