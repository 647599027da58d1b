/* SPDX-License-Identifier: Apache-2.0 */
/* The account of pinned memory. It pins nothing itself. */
#include "common/pins.h"

#include <assert.h>
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"

#define MIB (1ull << 20)

static bool ignores_limits(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

    _Static_assert(CAP_IPC_LOCK < 32, "it is in the first word");
    return syscall(SYS_capget, &header, data) == 0 && data[0].effective & 1u << CAP_IPC_LOCK;
}

static uint64_t available_memory(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

uint64_t gw_pins_default_limit(void)
{
    uint64_t limit = available_memory() / 2;
    struct rlimit rlimit;

    if (getrlimit(RLIMIT_MEMLOCK, &rlimit) == 0 && rlimit.rlim_cur != RLIM_INFINITY &&
        !ignores_limits())
        limit = gw_min(limit, rlimit.rlim_cur);
    return gw_max(limit, 1);
}

void gw_pins_init(struct gw_pins *pins, uint64_t limit)
{
    pins->limit = limit ? limit : gw_pins_default_limit();
    atomic_store(&pins->used, 0);
}

int gw_pins_take(struct gw_pins *pins, uint64_t bytes)
{
    uint64_t used, sum;

    if (!pins)
        return 0;
    used = atomic_load(&pins->used);
    do {
        if (!gw_add_fits(used, bytes, &sum) || sum > pins->limit)
            return gw_fail(-ENOMEM,
                           "%llu MiB more would be pinned, and %llu of the %llu MiB allowed are: "
                           "raise --pin-limit (and LimitMEMLOCK= of the service)",
                           (unsigned long long)(gw_align_up(bytes, MIB) / MIB),
                           (unsigned long long)(used / MIB),
                           (unsigned long long)(pins->limit / MIB));
    } while (!atomic_compare_exchange_weak(&pins->used, &used, sum));
    return 0;
}

void gw_pins_must(struct gw_pins *pins, uint64_t bytes)
{
    if (pins)
        atomic_fetch_add(&pins->used, bytes);
}

void gw_pins_give(struct gw_pins *pins, uint64_t bytes)
{
    uint64_t before;

    if (!pins)
        return;
    before = atomic_fetch_sub(&pins->used, bytes);
    assert(before >= bytes);
}

int gw_pins_parse(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    unsigned long long value;
    const char *unit;
    char *end;
    unsigned shift = 0;

    errno = 0;
    value = strtoull(text, &end, 10);
    unit = *end ? strchr(units, *end) : NULL;
    if (unit)
        shift = 10 * (unsigned)(unit - units + 1);
    if (errno || end == text || text[0] == '-' || (*end && (!unit || end[1])) || value == 0 ||
        value > UINT64_MAX >> shift)
        return gw_fail(-EINVAL, "pin-limit: '%.32s' is not a size such as 512M or 8G", text);
    *out = value << shift;
    return 0;
}
