/* SPDX-License-Identifier: Apache-2.0 */
/* Measures every transport that a target shares with this host: the order of things and the figures.
 * The lanes are engine/worker/bench-lane.c. */
#include <errno.h>
#include <stdlib.h>

#include "common/checked.h"
#include "common/clock.h"
#include "engine/session/source.h"
#include "engine/worker/bench-lane.h"

#define PINGS      300u
#define SLACK_MS   20000 /* beyond the time that was asked for */
#define MS_DEFAULT 1000u

_Static_assert(GW_BENCH_CHANNELS_MAX == GW_BENCH_LANES_MAX, "the target lets as many in");

static const uint32_t usual_sizes[] = {4096, 65536, GW_BENCH_WRITE_MAX};

struct bench {
    struct gw_source *source;
    const struct gw_bench_request *request;
    struct gw_lane *lanes[GW_BENCH_LANES_MAX];
    struct gw_bench_task tasks[GW_BENCH_LANES_MAX];
    unsigned lane_count;
};

/* ---- channels ---- */

static int prepare(void *context, struct gw_worker *worker, struct gw_domain *domain,
                   struct gw_lane **out)
{
    return gw_bench_source_prepare(worker, domain, out);
}

static void start(void *context, struct gw_lane *lane, struct gw_channel *channel,
                  struct gw_seal *seal)
{
    struct bench *bench = context;

    gw_bench_start(lane, channel, seal);
    bench->lanes[bench->lane_count++] = lane;
}

static int dial(struct bench *bench, struct gw_way *way, struct gw_way_rail *rail)
{
    const struct gw_dialled what = {.control = bench->source->control,
                                    .prepare = prepare,
                                    .cancel = gw_bench_free,
                                    .start = start,
                                    .context = bench};

    return gw_link_dial_rail(&bench->source->link, way, rail, &what);
}

static void hang_up(struct bench *bench)
{
    while (bench->lane_count > 0)
        gw_bench_free(bench->lanes[--bench->lane_count]);
}

/* ---- figures ---- */

static int run_tasks(struct bench *bench, const struct gw_bench_task *task, unsigned lanes)
{
    int error = gw_source_check_cancel(bench->source);

    for (unsigned i = 0; !error && i < lanes; i++) {
        bench->tasks[i] = *task;
        gw_bench_begin(bench->lanes[i], &bench->tasks[i]);
    }
    for (unsigned i = 0; !error && i < lanes; i++)
        error = gw_bench_wait(bench->lanes[i], (int)(task->duration_ns / GW_NS_PER_MS) + SLACK_MS);
    return error;
}

static uint32_t milliseconds(const struct bench *bench)
{
    uint32_t asked = bench->request->milliseconds;

    return asked ? (uint32_t)gw_min(asked, GW_BENCH_MS_MAX) : MS_DEFAULT;
}

/* Lanes that share a worker have all seen its time. */
static uint64_t cpu_of(const struct bench *bench, bool is_near)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < bench->lane_count; i++) {
        const struct gw_bench_task *task = &bench->tasks[i];
        uint64_t own = is_near ? task->near_cpu_ns : task->far_cpu_ns;
        bool is_counted = false;

        for (unsigned j = 0; j < bench->lane_count; j++) {
            const struct gw_bench_task *other = &bench->tasks[j];
            uint64_t time = is_near ? other->near_cpu_ns : other->far_cpu_ns;
            bool is_same = is_near ? bench->lanes[i]->worker == bench->lanes[j]->worker
                                   : task->far_worker == other->far_worker;

            /* The longest of a worker's counts, of two alike the first. */
            is_counted |= is_same && (time > own || (time == own && j < i));
        }
        sum += is_counted ? 0 : own;
    }
    return sum;
}

static int measure_writes(struct bench *bench, uint32_t size, json_t *list)
{
    struct gw_bench_task task = {.kind = GW_BENCH_WRITE, .size = size};
    uint64_t bytes = 0, elapsed = 1, near, far;
    bool is_equal = true;
    int error;

    task.duration_ns = milliseconds(bench) * GW_NS_PER_MS;
    error = run_tasks(bench, &task, bench->lane_count);
    for (unsigned i = 0; !error && i < bench->lane_count; i++) {
        bytes += bench->tasks[i].bytes;
        elapsed = gw_max(elapsed, bench->tasks[i].elapsed_ns);
    }
    near = cpu_of(bench, true);
    far = cpu_of(bench, false);
    task = (struct gw_bench_task){.kind = GW_BENCH_CHECK, .size = size};
    if (!error)
        error = run_tasks(bench, &task, bench->lane_count);
    for (unsigned i = 0; !error && i < bench->lane_count; i++)
        is_equal &= bench->tasks[i].is_equal;
    if (error)
        return error;
    json_array_append_new(
        list, json_pack("{s:I,s:I,s:f,s:f,s:f,s:f,s:b}", "size", (json_int_t)size, "bytes",
                        (json_int_t)bytes, "seconds", (double)elapsed / 1e9, "bytes_per_second",
                        (double)bytes * 1e9 / (double)elapsed, "source_cpu_seconds_per_gb",
                        (double)near / (double)gw_max(bytes, 1), "target_cpu_seconds_per_gb",
                        (double)far / (double)gw_max(bytes, 1), "verified", (int)is_equal));
    return is_equal ? 0
                    : gw_fail(-EBADMSG, "the bytes that arrived are not those that were written");
}

static int compare_times(const void *a, const void *b)
{
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;

    return (first > second) - (first < second);
}

static int measure_messages(struct bench *bench, json_t *out)
{
    struct gw_bench_task task = {.kind = GW_BENCH_PING, .count = PINGS};
    struct gw_bench_task *one = &bench->tasks[0];
    int error = run_tasks(bench, &task, 1);

    if (error)
        return error;
    qsort(one->ping_ns, one->ping_count, sizeof(one->ping_ns[0]), compare_times);
    json_object_set_new(out, "round_trip_us",
                        json_pack("{s:i,s:f,s:f,s:f}", "count", (int)one->ping_count, "minimum",
                                  (double)one->ping_ns[0] / 1e3, "median",
                                  (double)one->ping_ns[one->ping_count / 2] / 1e3, "p99",
                                  (double)one->ping_ns[one->ping_count * 99 / 100] / 1e3));
    return 0;
}

static int measure_way(struct bench *bench, struct gw_way *way, json_t *out)
{
    unsigned wanted = bench->request->link.channels ? bench->request->link.channels : 1;
    uint32_t only = bench->request->write_bytes;
    json_t *writes = json_array();
    int error = 0;

    json_object_set_new(out, "writes", writes);
    wanted = (unsigned)gw_min(wanted, GW_BENCH_LANES_MAX);
    for (unsigned i = 0; !error && i < wanted; i++)
        error = dial(bench, way, &way->rails[i % way->rail_count]);
    json_object_set_new(out, "channels", json_integer(bench->lane_count));
    if (!error)
        error = measure_messages(bench, out);
    if (!error && only)
        error = measure_writes(bench, only, writes);
    for (size_t i = 0; !error && !only && i < GW_ARRAY_LENGTH(usual_sizes); i++)
        error = measure_writes(bench, usual_sizes[i], writes);
    hang_up(bench);
    return error;
}

/* A transport that fails is an entry with its reason; bytes that are wrong are an error. */
static int measure_all(struct bench *bench, json_t *list)
{
    struct gw_link *link = &bench->source->link;
    unsigned good = 0;
    int error = 0;

    for (unsigned i = 0; i < link->way_count && error != -EBADMSG && error != -ECANCELED; i++) {
        json_t *one = json_pack("{s:s}", "transport", link->ways[i].transport->ops->name);

        error = measure_way(bench, &link->ways[i], one);
        if (error)
            json_object_set_new(one, "error", json_string(gw_error_message()));
        else
            good++;
        json_array_append_new(list, one);
    }
    return good && error != -EBADMSG && error != -ECANCELED ? 0 : error;
}

static int converse(struct bench *bench, json_t *detail)
{
    struct gw_source *source = bench->source;
    json_t *accepted, *passed, *list = json_array();
    int error = gw_source_exchange(
        source,
        json_pack("{s:s,s:s,s:s}", "type", "offer", "kind", "bench", "epoch", source->epoch),
        "accepted", &accepted);

    json_object_set_new(detail, "transports", list);
    if (error)
        return error;
    error =
        gw_link_find_ways(&source->link, source->control, json_object_get(accepted, "transports"));
    json_decref(accepted);
    if (!error)
        error = measure_all(bench, list);
    passed = gw_link_passed_over(&source->link);
    if (passed)
        json_object_set_new(detail, "passed_over", passed);
    if (!error)
        gw_message_send_type(source->control, "bye");
    return error;
}

int gw_bench_run(const struct gw_environment *environment, const struct gw_bench_request *request,
                 struct gw_progress *progress, json_t **out)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    struct gw_error cause;
    int error;

    *out = json_object();
    if (!bench || !*out) {
        free(bench);
        return gw_fail(-ENOMEM, "no memory for a measurement");
    }
    bench->request = request;
    error =
        gw_source_connect(environment, &request->peer, &request->link, progress, &bench->source);
    if (!error)
        error = converse(bench, *out);
    gw_error_take(error, &cause);
    gw_source_close(bench->source);
    free(bench);
    return error ? gw_error_raise(&cause) : 0;
}
