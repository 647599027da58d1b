/* SPDX-License-Identifier: Apache-2.0 */
/* The window of a dpdk channel; cc.h names the papers. */
#include "transport/dpdk/cc.h"

#include "common/checked.h"
#include "common/clock.h"

#define FIRST_UNITS 32u
#define LEAST_UNITS 2u
/* Swift's base target is 25 to 50 us above the hops, in hardware that stamps packets itself. Here
 * both ends are polled by software, and a burst of 32 full datagrams at 10 Gbit/s takes 40 us. */
#define TARGET_NS     300000u
#define QUEUE_NS      100000u /* above the path's own delay, where that is long */
#define SCALING_NS    100000u /* Swift's fs_range: added for the smallest window */
#define SCALING_UNITS 100u    /* and nothing from this window on */
#define EXCESS_NUMBER 4u      /* Swift's beta: 4/5 of the excess */
#define EXCESS_DENOM  5u
#define LEAST_AGE_NS  (10 * GW_NS_PER_S)
/* Who comes late has only seen the others' queue, and aims too high. They give way; then it shows. */
#define FIRST_AGE_NS (GW_NS_PER_S / 20)
#define DRAIN_ROUNDS 2u
/* While competing the pause comes at whole periods of the host's clock, so that channels of one host
 * let go together, and is long enough for others to notice and to follow. */
#define PROBE_NS     GW_NS_PER_S
#define PROBE_MAX_NS (64 * GW_NS_PER_S)
#define PROBE_TRIPS  64u
#define PROBE_ROUNDS 4u
#define EMPTY_COUNT  2u /* pauses in a row: a TCP's queue is empty at times */
#define PROBE_CALM   4u /* rounds: what falls then does not fall because of a loss */
#define LOSS_DATAGRAMS                                                                             \
    4096u                   /* over so many loss is weighed: 1 % hardly ever looks like 2 % there */
#define LOSS_SHARE      50u /* 1/50: 2 % */
#define SHARE_ONE       1024u
#define SHARE_GAIN      16u /* DCTCP's g = 1/16 */
#define START_SAMPLES   8u  /* HyStart++ (RFC 9406) looks at as many */
#define CLEAR_ROUNDS    5u  /* TIMELY's N: after so many clear rounds the increase grows */
#define QUEUE_SCORE_MAX 64u
#define QUEUE_SCORE     16u
#define SQUEEZED        3u    /* times less than lately */
#define HIGH_ROUNDS     1024u /* lately */

void gw_dpdk_cc_init(struct dpdk_cc *cc, uint32_t unit, uint64_t window_max)
{
    *cc = (struct dpdk_cc){.unit = unit,
                           .window_max = window_max,
                           .window = (uint64_t)FIRST_UNITS * unit,
                           .threshold = UINT64_MAX,
                           .least_age_ns = FIRST_AGE_NS,
                           .is_slow_start = true,
                           .least_ns = UINT64_MAX,
                           .round_least_ns = UINT64_MAX,
                           .previous_least_ns = UINT64_MAX,
                           .start_least_ns = UINT64_MAX};
}

static void set_window(struct dpdk_cc *cc, uint64_t window)
{
    cc->window = gw_min(gw_max(window, (uint64_t)LEAST_UNITS * cc->unit), cc->window_max);
}

void gw_dpdk_cc_set_unit(struct dpdk_cc *cc, uint32_t unit)
{
    bool is_first = cc->is_slow_start && cc->smoothed_ns == 0;

    cc->unit = unit;
    set_window(cc, is_first ? (uint64_t)FIRST_UNITS * unit : cc->window);
}

uint64_t gw_dpdk_cc_target_ns(const struct dpdk_cc *cc)
{
    uint64_t units = gw_max(cc->window / cc->unit, 1), scaling = 0;

    if (cc->least_ns == UINT64_MAX)
        return UINT64_MAX;
    /* Between flows of one queue the smaller one gets the higher target, so that they meet. Swift
     * scales with 1/sqrt(window); a line through the same ends does as well and needs no root. */
    if (units < SCALING_UNITS)
        scaling = (uint64_t)SCALING_NS * (SCALING_UNITS - units) / SCALING_UNITS;
    /* On a short path all flows aim for the same delay, whatever each believes the path's own to
     * be: who comes late has only seen it with the others' queue. */
    if (cc->least_ns + QUEUE_NS / 2 <= TARGET_NS)
        return TARGET_NS + scaling;
    return cc->least_ns + gw_max(QUEUE_NS, cc->least_ns / 8) + scaling;
}

uint64_t gw_dpdk_cc_window(const struct dpdk_cc *cc)
{
    uint64_t drained = (uint64_t)(cc->is_competing ? LEAST_UNITS : LEAST_UNITS * 2) * cc->unit;

    return cc->drain_rounds ? gw_min(cc->window, drained) : cc->window;
}

uint64_t gw_dpdk_cc_rate(const struct dpdk_cc *cc)
{
    uint64_t window = gw_dpdk_cc_window(cc);

    if (cc->smoothed_ns == 0)
        return window * 1000; /* as if the round trip were 1 ms */
    /* Ahead of window / round trip, so that pacing never is what limits. */
    window = cc->is_slow_start ? window * 2 : window + window / 4;
    return (uint64_t)((double)window * (double)GW_NS_PER_S / (double)cc->smoothed_ns);
}

static void take_sample(struct dpdk_cc *cc, uint64_t now_ns, uint64_t sample)
{
    uint64_t off;

    cc->latest_ns = sample;
    if (cc->smoothed_ns == 0) {
        cc->smoothed_ns = sample;
        cc->deviation_ns = sample / 2;
    } else {
        off = cc->smoothed_ns > sample ? cc->smoothed_ns - sample : sample - cc->smoothed_ns;
        cc->deviation_ns += off / 4;
        cc->deviation_ns -= cc->deviation_ns / 4;
        cc->smoothed_ns = gw_max(cc->smoothed_ns - cc->smoothed_ns / 8 + sample / 8, 1);
    }
    if (sample <= cc->least_ns) {
        cc->least_ns = sample;
        cc->least_stamp_ns = now_ns;
    }
    cc->round_least_ns = gw_min(cc->round_least_ns, sample);
    cc->start_least_ns = gw_min(cc->start_least_ns, sample);
    cc->start_samples++;
}

static void leave_slow_start(struct dpdk_cc *cc)
{
    cc->is_slow_start = false;
    cc->threshold = cc->window;
}

static void grow_from_start(struct dpdk_cc *cc, const struct dpdk_cc_news *news)
{
    if (cc->was_limited)
        set_window(cc, cc->window + news->acked_bytes);
    if (cc->window >= cc->threshold)
        leave_slow_start(cc);
    if (cc->start_samples < START_SAMPLES)
        return;
    if (cc->start_least_ns > gw_dpdk_cc_target_ns(cc))
        leave_slow_start(cc);
    cc->start_samples = 0;
    cc->start_least_ns = UINT64_MAX;
}

/* Once 2 % or more of many datagrams are gone: that many are not lost by accident. */
static bool is_lossy(struct dpdk_cc *cc)
{
    uint64_t all = (uint64_t)cc->long_acked + cc->long_lost;
    bool is;

    if (all < LOSS_DATAGRAMS)
        return false;
    is = (uint64_t)cc->long_lost * LOSS_SHARE > all;
    cc->long_acked = cc->long_lost = 0;
    return is;
}

static void weigh_marks(struct dpdk_cc *cc)
{
    uint32_t all = cc->round_acked + cc->round_lost;
    uint32_t share =
        all ? (uint32_t)gw_min((uint64_t)cc->round_marked * SHARE_ONE / all, SHARE_ONE) : 0;

    cc->marked_share = cc->marked_share - cc->marked_share / SHARE_GAIN + share / SHARE_GAIN;
    if (cc->round_marked == 0)
        return;
    cc->is_slow_start = false;
    set_window(cc, cc->window - cc->window * gw_max(cc->marked_share, 1) / (2 * SHARE_ONE));
}

static void increase(struct dpdk_cc *cc, uint64_t delay_ns)
{
    uint64_t step = cc->unit;

    /* Far below what the path holds: faster and faster, as TIMELY's hyperactive increase. */
    if (!cc->is_competing && delay_ns < cc->least_ns + QUEUE_NS / 4)
        cc->clear_rounds++;
    else
        cc->clear_rounds = 0;
    step <<= gw_min(cc->clear_rounds / CLEAR_ROUNDS, 16);
    set_window(cc, cc->window + gw_max(gw_min(step, cc->window / 8), cc->unit));
}

static void decrease(struct dpdk_cc *cc, uint64_t delay_ns, uint64_t target_ns)
{
    uint64_t cut = (uint64_t)((double)cc->window * (double)(delay_ns - target_ns) * EXCESS_NUMBER /
                              EXCESS_DENOM / (double)delay_ns);

    cc->clear_rounds = 0;
    set_window(cc, cc->window - gw_min(cut, cc->window / 2));
}

/* The most that this side had on its way, lately, without a queue above the target. */
static void note_high(struct dpdk_cc *cc, bool is_queued)
{
    cc->window_high -= cc->window_high / HIGH_ROUNDS;
    if (!is_queued)
        cc->window_high = gw_max(cc->window_high, cc->window);
}

/* Somebody else's is a queue that does not go away although this side gave way for many rounds, or
 * gave most of what it had. One around the target is what Swift itself makes: it is above in about
 * every other round. */
static void note_queue(struct dpdk_cc *cc, uint64_t delay_ns, uint64_t target_ns)
{
    bool is_queued = delay_ns > target_ns;
    bool is_squeezed = is_queued && cc->window < cc->window_high / SQUEEZED;
    bool is_filled = is_squeezed || delay_ns > target_ns + (target_ns - cc->least_ns) / 4;

    if (is_filled && cc->queue_score < QUEUE_SCORE_MAX)
        cc->queue_score++;
    if (!is_filled)
        cc->queue_score -= (uint32_t)gw_min(cc->queue_score, 2);
    if (cc->is_competing)
        return;
    note_high(cc, is_queued);
    if (cc->queue_score < QUEUE_SCORE)
        return;
    cc->is_competing = true;
    cc->queue_score = cc->empty_count = 0;
    /* What was given away was taken by somebody else, or was never the cause. */
    set_window(cc, gw_max(cc->window, cc->window_high / 2));
}

/* A loss with a standing queue: once for all that was on its way then, which may be found lost in
 * two rounds. CUBIC's factor (RFC 9438), since that is what most others there do. */
static bool yields_to_loss(struct dpdk_cc *cc, bool is_queued)
{
    cc->has_yielded = cc->round_lost > 0 && is_queued && !cc->has_yielded;
    if (cc->has_yielded)
        set_window(cc, cc->window * 7 / 10);
    return cc->has_yielded;
}

static void weigh_round(struct dpdk_cc *cc)
{
    /* The lesser of two rounds: one late turn of a poller is not congestion. */
    uint64_t delay = gw_min(cc->round_least_ns, cc->previous_least_ns);
    uint64_t target = gw_dpdk_cc_target_ns(cc);
    bool is_queued = delay != UINT64_MAX && delay > target;

    weigh_marks(cc);
    if (is_lossy(cc)) {
        cc->is_slow_start = false;
        set_window(cc, cc->window * 7 / 10);
    }
    if (cc->is_slow_start || delay == UINT64_MAX)
        return;
    note_queue(cc, delay, target);
    if (yields_to_loss(cc, is_queued))
        return;
    if (is_queued && !cc->is_competing)
        decrease(cc, delay, target);
    else if (cc->was_limited && cc->round_marked == 0)
        increase(cc, delay);
}

/* Periods are whole seconds, doubled as often as a long round trip wants, so
 * that they fall together whatever each channel takes its own for. */
static void plan_drain(struct dpdk_cc *cc, uint64_t now_ns)
{
    uint64_t period = PROBE_NS;

    while (period < PROBE_TRIPS * cc->smoothed_ns && period < PROBE_MAX_NS)
        period *= 2;
    cc->next_drain_ns = (now_ns / period + 1) * period;
}

/* Another channel that pauses takes its share of the queue away; a TCP does that after a loss. */
static bool has_company(const struct dpdk_cc *cc, uint64_t now_ns)
{
    return cc->calm_rounds >= PROBE_CALM && now_ns + PROBE_NS / 2 > cc->next_drain_ns &&
           cc->previous_least_ns != UINT64_MAX &&
           cc->round_least_ns < cc->previous_least_ns - cc->previous_least_ns / 4;
}

static void compete(struct dpdk_cc *cc, uint64_t now_ns)
{
    cc->calm_rounds = cc->round_lost ? 0 : cc->calm_rounds + 1;
    if (cc->next_drain_ns == 0)
        plan_drain(cc, now_ns);
    if (now_ns < cc->next_drain_ns && !has_company(cc, now_ns))
        return;
    plan_drain(cc, now_ns);
    cc->calm_rounds = 0;
    cc->drain_rounds = PROBE_ROUNDS;
    cc->drained_from_ns = gw_max(cc->smoothed_ns, 1);
    cc->drained_least_ns = UINT64_MAX;
    if (now_ns - cc->least_stamp_ns > LEAST_AGE_NS)
        cc->least_ns = UINT64_MAX;
    cc->known_least_ns = cc->least_ns;
    /* Two channels' least windows, if all of the wire is this one's. */
    cc->drained_slack_ns =
        (uint64_t)LEAST_UNITS * 2 * cc->unit * cc->drained_from_ns / gw_max(cc->window, cc->unit);
}

/* The pause of one that competes: when the queue went away with it, it was its own. Empty is what
 * it was before at the least; what is the least for the first time proves nothing. The window is
 * then what makes a queue of the target. */
static void note_drained(struct dpdk_cc *cc)
{
    uint64_t target = gw_dpdk_cc_target_ns(cc), slack;

    cc->drained_least_ns = gw_min(cc->drained_least_ns, cc->round_least_ns);
    if (cc->drain_rounds > 0 || target == UINT64_MAX || cc->known_least_ns == UINT64_MAX)
        return;
    slack = gw_min((target - cc->least_ns) / 4 + cc->drained_slack_ns, target - cc->least_ns);
    if (cc->drained_least_ns > cc->known_least_ns + slack ||
        cc->drained_least_ns + slack < cc->known_least_ns)
        cc->empty_count = 0;
    else
        cc->empty_count++;
    if (cc->empty_count < EMPTY_COUNT)
        return;
    cc->is_competing = false;
    cc->queue_score = 0;
    if (target < cc->drained_from_ns)
        set_window(cc,
                   (uint64_t)((double)cc->window * (double)target / (double)cc->drained_from_ns));
    cc->window_high = cc->window;
}

static void end_round(struct dpdk_cc *cc, const struct dpdk_cc_news *news)
{
    if (cc->drain_rounds > 0) {
        cc->drain_rounds--;
        if (cc->is_competing)
            note_drained(cc);
    } else {
        weigh_round(cc);
        if (cc->is_competing)
            compete(cc, news->now_ns);
        else
            cc->next_drain_ns = 0;
    }
    if (!cc->is_slow_start && !cc->is_competing && cc->drain_rounds == 0 &&
        cc->least_ns != UINT64_MAX &&
        news->now_ns - cc->least_stamp_ns >
            gw_max(cc->least_age_ns, PROBE_TRIPS * cc->smoothed_ns)) {
        cc->drain_rounds = DRAIN_ROUNDS;
        cc->least_age_ns = gw_min(cc->least_age_ns * 2, LEAST_AGE_NS);
        cc->least_ns = UINT64_MAX;
    }
    cc->previous_least_ns = cc->round_least_ns;
    cc->round_least_ns = UINT64_MAX;
    cc->round_acked = cc->round_lost = cc->round_marked = 0;
    cc->was_limited = false;
    cc->round_end = news->next;
}

void gw_dpdk_cc_news(struct dpdk_cc *cc, const struct dpdk_cc_news *news)
{
    if (news->round_trip_ns)
        take_sample(cc, news->now_ns, news->round_trip_ns);
    cc->round_acked += news->acked;
    cc->round_lost += news->lost;
    cc->round_marked += news->marked;
    cc->long_acked += news->acked;
    cc->long_lost += news->lost;
    if (cc->is_slow_start)
        grow_from_start(cc, news);
    if (news->largest >= cc->round_end)
        end_round(cc, news);
}

void gw_dpdk_cc_silence(struct dpdk_cc *cc)
{
    cc->threshold = gw_max(cc->window / 2, (uint64_t)LEAST_UNITS * cc->unit);
    cc->is_slow_start = true;
    cc->start_samples = 0;
    cc->start_least_ns = UINT64_MAX;
    set_window(cc, 0);
}
