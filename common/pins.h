/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pins: how much memory this process may have pinned for devices, and how much it has. Pinned pages
 * cannot be swapped or moved, and the kernel counts them against RLIMIT_MEMLOCK; what is asked for
 * here is refused with words before the kernel refuses it without.
 *
 * Errors: -ENOMEM with the limit, the need and the mend; nothing is taken.
 * Order: init → take, give …
 * Threads: take and give from any thread.
 * Units: bytes. Memory that is registered in two domains is pinned, and counted, twice.
 */
#ifndef GODWIT_COMMON_PINS_H
#define GODWIT_COMMON_PINS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gw_pins {
    uint64_t limit;
    _Atomic uint64_t used;
};

/* limit 0: gw_pins_default_limit. */
/* "512M", "8G", "1T"; at least 1. -EINVAL. */
int gw_pins_parse(const char *text, uint64_t *out);
void gw_pins_init(struct gw_pins *pins, uint64_t limit);
/* Half of the memory that is free now; less when RLIMIT_MEMLOCK says so and the process has no
 * CAP_IPC_LOCK, which ignores it. */
uint64_t gw_pins_default_limit(void);
/* NULL is a budget without a limit. Must: counted even beyond the limit, for buffers without which
 * nothing works. */
int gw_pins_take(struct gw_pins *pins, uint64_t bytes);
void gw_pins_must(struct gw_pins *pins, uint64_t bytes);
void gw_pins_give(struct gw_pins *pins, uint64_t bytes);

#endif
