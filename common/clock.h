/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time: monotonic nanoseconds for intervals, thread CPU time for accounts, wall time for people.
 * Errors: none.
 * Threads: any.
 * Units: in the names.
 */
#ifndef GODWIT_COMMON_CLOCK_H
#define GODWIT_COMMON_CLOCK_H

#include <stdint.h>

#define GW_NS_PER_MS 1000000ull
#define GW_NS_PER_S  1000000000ull

uint64_t gw_clock_ns(void);        /* CLOCK_MONOTONIC */
uint64_t gw_clock_thread_ns(void); /* CPU time of the calling thread */
uint64_t gw_clock_wall_ns(void);   /* CLOCK_REALTIME, since 1970 */

/* Milliseconds left until deadline_ns, rounded up, for poll(2): 0 when it has passed. */
int gw_clock_left_ms(uint64_t deadline_ns);

#endif
