/* SPDX-License-Identifier: Apache-2.0 */
/* A measurement at the target: who may, how much memory, how long. */
#include <errno.h>

#include "common/clock.h"
#include "engine/session/serve.h"

int gw_serve_bench_offer(struct gw_serve *serve)
{
    if (!serve->environment->allow_bench)
        return gw_fail(-EACCES, "this agent does not let itself be measured: start it with "
                                "--allow-bench, or put allow-bench = true into its configuration");
    serve->is_bench = true;
    serve->bench_end_ns = gw_clock_ns() + GW_BENCH_SESSION_S * GW_NS_PER_S;
    return 0;
}

/* Those of the transport before have been closed by the source. */
static void drop_dead_lanes(struct gw_serve *serve)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < serve->bench_lane_count; i++)
        if (serve->bench_lanes[i]->is_dead)
            gw_bench_free(serve->bench_lanes[i]);
        else
            serve->bench_lanes[kept++] = serve->bench_lanes[i];
    serve->bench_lane_count = kept;
}

int gw_serve_bench_prepare(struct gw_serve *serve, struct gw_worker *worker,
                           struct gw_domain *domain, uint32_t number, struct gw_lane **out)
{
    drop_dead_lanes(serve);
    if (serve->bench_lane_count == GW_SERVE_BENCH_LANES)
        return gw_fail(-EBUSY, "more than %u channels in one measurement", GW_SERVE_BENCH_LANES);
    return gw_bench_target_prepare(worker, domain, number, out);
}

void gw_serve_bench_start(struct gw_serve *serve, struct gw_lane *lane, struct gw_channel *channel,
                          struct gw_seal *seal)
{
    gw_bench_start(lane, channel, seal);
    serve->bench_lanes[serve->bench_lane_count++] = lane;
}

int gw_serve_bench_check(const struct gw_serve *serve)
{
    if (serve->is_bench && gw_clock_ns() > serve->bench_end_ns)
        return gw_fail(-ETIMEDOUT, "a measurement takes at most %d s", GW_BENCH_SESSION_S);
    return 0;
}

void gw_serve_bench_end(struct gw_serve *serve)
{
    while (serve->bench_lane_count > 0)
        gw_bench_free(serve->bench_lanes[--serve->bench_lane_count]);
    gw_workers_free(&serve->workers);
    for (unsigned i = 0; i < serve->domain_count; i++)
        gw_domain_close(serve->domains[i]);
    serve->domain_count = 0;
}
