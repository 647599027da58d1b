/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cc: congestion control, how much may be on its way and how fast it leaves. Pure.
 *
 *   Swift (Kumar et al., "Swift: Delay is Simple and Effective for Congestion Control in the
 *   Datacenter", SIGCOMM 2020): additive increase below a target delay, multiplicative decrease in
 *   proportion to the excess above it, a target that grows for small windows. Deciding once a round
 *   trip, on its least delay, since pollers in software are late at times.
 *   DCTCP (Alizadeh et al., SIGCOMM 2010; RFC 8257) where datagrams arrive marked.
 *   Loss alone counts above 2 % only; with a standing queue any loss counts.
 *   Beside senders that fill the queue until it overflows, delay says nothing: a queue that stays
 *   above the target, whatever this side gives way, turns to TCP's own rule (AIMD by loss, RFC
 *   5681) until it is gone (the switch is Copa's: Arun and Balakrishnan, NSDI 2018). Whether it is,
 *   a pause tells, as BBR's ProbeRTT (draft-ietf-ccwg-bbr): what is still there then is not ours.
 *
 * Threads: one.
 * Units: bytes of datagrams, nanoseconds.
 */
#ifndef GODWIT_TRANSPORT_DPDK_CC_H
#define GODWIT_TRANSPORT_DPDK_CC_H

#include <stdbool.h>
#include <stdint.h>

struct dpdk_cc {
    uint32_t unit; /* of a full datagram */
    uint64_t window, window_max;
    uint64_t threshold; /* slow start ends here at the latest */
    bool is_slow_start;

    uint64_t smoothed_ns, deviation_ns; /* RFC 6298; 0: no sample yet */
    uint64_t latest_ns;
    uint64_t least_ns, least_stamp_ns; /* of the last 10 s or so, and when it was seen */
    uint64_t least_age_ns;             /* it is looked for anew after so long without seeing it */

    uint64_t round_end; /* the round is over when this packet number is acknowledged */
    uint64_t round_least_ns, previous_least_ns;
    uint32_t round_acked, round_lost, round_marked; /* datagrams */
    bool was_limited; /* in this round there was more to send than the window allowed */
    uint32_t start_samples;
    uint64_t start_least_ns;

    uint32_t long_acked, long_lost; /* datagrams since loss was last weighed */
    uint32_t marked_share;          /* DCTCP's alpha, of 1024 */
    uint32_t clear_rounds;          /* in a row without a queue */
    uint32_t queue_score;           /* rounds with a standing queue, less those without */
    uint64_t window_high; /* the most without a queue above the target, slowly forgotten */
    bool is_competing, has_yielded;
    uint32_t drain_rounds;  /* left of a pause that lets the queue drain, to see the path's delay */
    uint32_t empty_count;   /* pauses that found no queue, in a row */
    uint32_t calm_rounds;   /* in a row without loss or pause */
    uint64_t next_drain_ns; /* while competing */
    uint64_t drained_least_ns, drained_from_ns; /* in the pause, and the usual delay before */
    uint64_t known_least_ns, drained_slack_ns;  /* before the pause; what still counts as empty */
};

/* What one acknowledgement told. */
struct dpdk_cc_news {
    uint64_t now_ns;
    uint64_t round_trip_ns; /* without the peer's own delay; 0: no sample */
    uint64_t largest;       /* packet number acknowledged */
    uint64_t next;          /* packet number that is sent next */
    uint32_t acked, lost;   /* datagrams */
    uint64_t acked_bytes;
    uint32_t marked; /* datagrams that arrived marked */
};

void gw_dpdk_cc_init(struct dpdk_cc *cc, uint32_t unit, uint64_t window_max);
/* The path carries longer or shorter datagrams now. */
void gw_dpdk_cc_set_unit(struct dpdk_cc *cc, uint32_t unit);
void gw_dpdk_cc_news(struct dpdk_cc *cc, const struct dpdk_cc_news *news);
/* Several probes in a row went unanswered. */
void gw_dpdk_cc_silence(struct dpdk_cc *cc);
/* Bytes that may be on their way, and bytes per second. */
uint64_t gw_dpdk_cc_window(const struct dpdk_cc *cc);
uint64_t gw_dpdk_cc_rate(const struct dpdk_cc *cc);
/* The delay that is aimed for. */
uint64_t gw_dpdk_cc_target_ns(const struct dpdk_cc *cc);

#endif
