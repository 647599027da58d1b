/* SPDX-License-Identifier: Apache-2.0 */
/* Compares what is lost of copies with what was lost of bytes that lay where they were. */
#include "transport/dpdk/copies.h"

/* Copies were lost at least half as often. */
static bool lessened_nothing(const struct dpdk_era *in_place, const struct dpdk_era *copied)
{
    return copied->lost > 0 && 2.0 * (double)copied->lost * (double)in_place->sent >=
                                   (double)in_place->lost * (double)copied->sent;
}

/* What was lost in place may be found while copies are sent, and what was not lost as well. */
static bool is_over(struct dpdk_copies *copies, uint64_t now_ns, const struct dpdk_eras *eras)
{
    bool is_late = now_ns >= copies->begun_ns + DPDK_COPY_NS;

    if (eras->before.lost == 0 && eras->now.lost == 0)
        return true;
    if (!is_late && eras->now.lost < DPDK_COPY_LOSSES)
        return false;
    if (!lessened_nothing(&eras->before, &eras->now))
        return is_late;
    copies->spared_until_ns = now_ns + DPDK_SPARE_NS;
    return true;
}

bool gw_dpdk_copies_note(struct dpdk_copies *copies, uint64_t now_ns, const struct dpdk_eras *eras)
{
    bool was_copying = copies->is_copying;

    if (was_copying) {
        copies->is_copying = !is_over(copies, now_ns, eras);
    } else if (eras->now.lost > 0 && now_ns >= copies->spared_until_ns) {
        copies->is_copying = true;
        copies->begun_ns = now_ns;
    }
    return copies->is_copying != was_copying;
}
