/* SPDX-License-Identifier: Apache-2.0 */
/* When payload is copied: after losses, as long as that lessens them. */
#include <criterion/criterion.h>

#include "common/checked.h"
#include "transport/dpdk/copies.h"

#define STEP_NS GW_NS_PER_MS
#define STEPS   20000u /* 20 s */
#define LAG_MAX 100u

/* Of 1000 datagrams that leave each ms so many are lost, whatever is done, and so many more while they are not
 * copied; each loss is found so many ms later. */
struct stream {
    unsigned lost_anyway, lost_in_place, lag;
    struct dpdk_copies copies;
    struct dpdk_eras eras;
    uint64_t step;
    struct {
        uint64_t step; /* in which they left */
        unsigned lost;
    } to_find[LAG_MAX + 1];
};

static void find_lost(struct stream *stream, uint64_t step, unsigned lost)
{
    if (step >= stream->eras.now.first)
        stream->eras.now.lost += lost;
    else if (step >= stream->eras.before.first)
        stream->eras.before.lost += lost;
}

/* One ms; true when what leaves is copied. (An era begins with a step, in place of a packet number.) */
static bool step(struct stream *stream)
{
    unsigned place = (unsigned)(++stream->step % (stream->lag + 1));

    if (gw_dpdk_copies_note(&stream->copies, stream->step * STEP_NS, &stream->eras)) {
        stream->eras.before = stream->eras.now;
        stream->eras.now = (struct dpdk_era){.first = stream->step};
    }
    find_lost(stream, stream->to_find[place].step, stream->to_find[place].lost);
    stream->to_find[place].step = stream->step;
    stream->to_find[place].lost =
        stream->lost_anyway + (stream->copies.is_copying ? 0 : stream->lost_in_place);
    stream->eras.now.sent += 1000;
    return stream->copies.is_copying;
}

/* In how many of STEPS ms they are copied. */
static unsigned steps_copied(unsigned lost_anyway, unsigned lost_in_place, unsigned lag)
{
    struct stream stream = {.lost_anyway = lost_anyway, .lost_in_place = lost_in_place, .lag = lag};
    unsigned copied = 0;

    for (unsigned i = 0; i < STEPS; i++)
        copied += step(&stream);
    return copied;
}

Test(dpdk_copies, nothing_lost_nothing_copied)
{
    cr_assert_eq(steps_copied(0, 0, 1), 0);
}

Test(dpdk_copies, what_copies_prevent_has_them_made)
{
    static const unsigned lags[] = {0, 2, 20, LAG_MAX};

    for (unsigned i = 0; i < GW_ARRAY_LENGTH(lags); i++) {
        /* What is copied for a second is tried in place until the next loss is found. */
        unsigned least = STEPS * 1000 / (1000 + 2 * (lags[i] + 2));

        cr_assert_geq(steps_copied(0, 20, lags[i]), least, "lag %u", lags[i]);
        cr_assert_geq(steps_copied(0, 100, lags[i]), least, "lag %u", lags[i]);
        cr_assert_geq(steps_copied(5, 20, lags[i]), least, "lag %u", lags[i]);
    }
}

Test(dpdk_copies, what_copies_do_not_prevent_has_them_made_seldom)
{
    static const unsigned lags[] = {0, 2, 20, LAG_MAX};

    for (unsigned i = 0; i < GW_ARRAY_LENGTH(lags); i++) {
        unsigned copied = steps_copied(10, 0, lags[i]);

        cr_assert(copied > 0 && copied < STEPS / 20, "lag %u: %u", lags[i], copied);
        copied = steps_copied(10, 2, lags[i]);
        cr_assert(copied > 0 && copied < STEPS / 20, "lag %u: %u", lags[i], copied);
    }
}

/* A guest that begins to write is found out, after a while in which a lossy network had nothing copied. */
Test(dpdk_copies, is_tried_again)
{
    struct stream stream = {.lost_anyway = 10, .lag = 1};
    unsigned copied = 0;

    for (unsigned i = 0; i < 60000; i++) {
        stream.lost_in_place = i > 5000 ? 40 : 0;
        copied += step(&stream) && i > 40000;
    }
    cr_assert_gt(copied, 18000);
}

Test(dpdk_copies, what_comes_late_was_no_loss)
{
    struct dpdk_copies copies = {0};
    struct dpdk_eras eras = {.now = {.sent = 200, .lost = 3}};

    cr_assert(gw_dpdk_copies_note(&copies, 2, &eras) && copies.is_copying);
    eras =
        (struct dpdk_eras){.before = {.sent = 200, .lost = 1}, .now = {.first = 200, .sent = 10}};
    cr_assert(!gw_dpdk_copies_note(&copies, 3, &eras) && copies.is_copying);
    eras.before.lost = 0;
    cr_assert(gw_dpdk_copies_note(&copies, 4, &eras) && !copies.is_copying);
}
