/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a measured channel, on their workers. Which tasks there are, and for which transport,
 * is decided in engine/session/bench.c. */
#include "engine/worker/bench-lane.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "engine/worker/lane.h"

#define WRITES_MAX  64u        /* posted and not done */
#define BATCH       (1u << 20) /* bytes between two marks */
#define MARKS_MAX   4u         /* marks that the target has not answered */
#define RECORDS_MAX 8u         /* of ours, sealed and not done */
#define CHECK_BYTES (1u << 20)

_Static_assert(MARKS_MAX < RECORDS_MAX, "a mark has room while the marks before it are out");
_Static_assert(CHECK_BYTES <= GW_BENCH_REGION, "what is checked is in the memory");

struct bench_lane;

struct outgoing {
    struct gw_send send;
    struct bench_lane *lane;
    bool is_posted;
    uint8_t bytes[GW_BENCH_RECORD_MAX + GW_SEAL_TAG_SIZE];
};

struct slot {
    struct gw_write write;
    struct bench_lane *lane;
    struct slot *next_free;
};

struct bench_lane {
    struct gw_lane_talk talk;
    bool is_source, is_started, is_told;
    uint8_t *memory;
    struct gw_region *region; /* NULL on a source whose transport needs none */
    /* Sealed in order, so posted in order: a ring. */
    struct outgoing records[RECORDS_MAX];
    unsigned record_first, record_count;
    uint64_t deadline_ns; /* target */

    /* Source, on the worker. */
    struct slot slots[WRITES_MAX], *free_slots;
    uint64_t remote_key;
    struct gw_bench_task *task;
    bool is_running, is_ending; /* the task's first mark came back; its last one is out */
    uint32_t sent_marks, seen_marks;
    uint64_t position, batch_bytes, began_ns, began_cpu_ns, far_began_ns;

    pthread_mutex_t lock; /* protects is_busy and error; leaf */
    pthread_cond_t ended;
    bool is_busy;
    struct gw_error error;
};

static struct bench_lane *of(struct gw_lane *base)
{
    return gw_container_of(base, struct bench_lane, talk.lane);
}

/* ---- records ---- */

static void record_done(struct gw_op *op, int status)
{
    struct bench_lane *lane = gw_container_of(op, struct outgoing, send.op)->lane;

    /* Ops of one channel end in the order in which they were posted. */
    lane->record_first = (lane->record_first + 1) % RECORDS_MAX;
    lane->record_count--;
}

static int queue_record(struct bench_lane *lane, const struct gw_bench_record *record)
{
    struct outgoing *out = &lane->records[(lane->record_first + lane->record_count) % RECORDS_MAX];
    uint8_t plain[GW_BENCH_RECORD_MAX];
    uint32_t length = gw_bench_record_encode(record, plain);

    if (lane->record_count == RECORDS_MAX)
        return gw_fail(-EPROTO, "the peer asks faster than it reads the answers");
    out->lane = lane;
    out->is_posted = false;
    out->send = (struct gw_send){
        .op.done = record_done, .message = out->bytes, .length = length + GW_SEAL_TAG_SIZE};
    lane->record_count++;
    return gw_seal_record(lane->talk.seal, plain, length, out->bytes);
}

static int post_records(struct bench_lane *lane, bool *any)
{
    for (unsigned i = 0; i < lane->record_count; i++) {
        struct outgoing *out = &lane->records[(lane->record_first + i) % RECORDS_MAX];
        int error;

        if (out->is_posted)
            continue;
        out->is_posted = true;
        error = gw_send(lane->talk.lane.channel, &out->send);
        if (error) {
            out->is_posted = false;
            return error == -EAGAIN ? 0 : error;
        }
        *any = true;
        i = (unsigned)-1; /* done may have run, and moved the ring */
    }
    return 0;
}

static bool all_posted(const struct bench_lane *lane)
{
    for (unsigned i = 0; i < lane->record_count; i++)
        if (!lane->records[(lane->record_first + i) % RECORDS_MAX].is_posted)
            return false;
    return true;
}

static int queue_mark(struct bench_lane *lane)
{
    struct gw_bench_record mark = {.type = GW_BENCH_RECORD_MARK, .number = ++lane->sent_marks};

    lane->batch_bytes = 0;
    return queue_record(lane, &mark);
}

/* ---- the target ---- */

static int tell_ready(struct bench_lane *lane)
{
    struct gw_bench_record ready = {
        .type = GW_BENCH_RECORD_READY, .key = lane->region->key, .length = lane->region->length};

    lane->is_told = true;
    return queue_record(lane, &ready);
}

static int answer(struct bench_lane *lane, const struct gw_bench_record *asked)
{
    struct gw_bench_record marked = {.type = GW_BENCH_RECORD_MARKED,
                                     .number = asked->number,
                                     .cpu_ns = gw_clock_thread_ns(),
                                     .worker = (uint32_t)gettid()};
    struct gw_bench_record checked = {.type = GW_BENCH_RECORD_CHECKED};
    uint8_t digest[GW_DIGEST_SIZE];

    if (gw_clock_ns() > lane->deadline_ns)
        return gw_fail(-ETIMEDOUT, "a measurement takes at most %d s", GW_BENCH_SESSION_S);
    if (asked->type == GW_BENCH_RECORD_MARK)
        return queue_record(lane, &marked);
    gw_lane_digest(lane->memory, asked->checked, digest);
    checked.is_equal = memcmp(digest, asked->digest, sizeof(digest)) == 0;
    return queue_record(lane, &checked);
}

/* ---- the source ---- */

/* The task is over; the lane may get another. */
static void end_task(struct bench_lane *lane, int error)
{
    pthread_mutex_lock(&lane->lock);
    lane->task = NULL;
    lane->is_busy = false;
    if (error && !lane->error.code)
        gw_error_take(error, &lane->error);
    pthread_cond_broadcast(&lane->ended);
    pthread_mutex_unlock(&lane->lock);
}

static void write_done(struct gw_op *op, int status)
{
    struct slot *slot = gw_container_of(op, struct slot, write.op);

    slot->next_free = slot->lane->free_slots;
    slot->lane->free_slots = slot;
}

/* Posts one write of the task; -EAGAIN when the channel or the slots are full. */
static int post_write(struct bench_lane *lane, uint64_t limit, bool has_more)
{
    uint64_t left = limit - lane->position;
    uint32_t length = (uint32_t)gw_min(lane->task->size, left);
    struct slot *slot = lane->free_slots;
    int error;

    if (!slot)
        return -EAGAIN;
    slot->write = (struct gw_write){
        .op.done = write_done,
        .local = lane->memory + lane->position,
        .length = length,
        .flags = GW_POST_STABLE | (has_more ? GW_POST_MORE : 0),
        .region = lane->region,
        .remote_key = lane->remote_key,
        .remote_offset = lane->position,
    };
    lane->free_slots = slot->next_free;
    error = gw_write(lane->talk.lane.channel, &slot->write);
    if (error) {
        slot->next_free = lane->free_slots;
        lane->free_slots = slot;
        return error;
    }
    lane->position += length;
    lane->batch_bytes += length;
    lane->task->bytes += length;
    return 0;
}

/* Writes around the memory until the time is up. */
static int pump_writes(struct bench_lane *lane, bool *any)
{
    struct gw_bench_task *task = lane->task;
    int error = 0;

    while (!error && lane->sent_marks - lane->seen_marks < MARKS_MAX && all_posted(lane)) {
        if (gw_clock_ns() - lane->began_ns >= task->duration_ns) {
            lane->is_ending = true;
            return queue_mark(lane);
        }
        while (!error && lane->batch_bytes < BATCH) {
            bool has_more = lane->batch_bytes + task->size < BATCH && lane->free_slots &&
                            lane->free_slots->next_free;

            if (lane->position == GW_BENCH_REGION)
                lane->position = 0;
            error = post_write(lane, GW_BENCH_REGION, has_more);
            *any |= error == 0;
        }
        if (!error)
            error = queue_mark(lane);
        if (!error)
            error = post_records(lane, any);
    }
    return error == -EAGAIN ? 0 : error;
}

static int pump_check(struct bench_lane *lane, bool *any)
{
    struct gw_bench_record check = {.type = GW_BENCH_RECORD_CHECK, .checked = CHECK_BYTES};
    int error = 0;

    while (!error && lane->position < CHECK_BYTES) {
        error = post_write(lane, CHECK_BYTES, false);
        *any |= error == 0;
    }
    if (error)
        return error == -EAGAIN ? 0 : error;
    lane->is_ending = true;
    gw_lane_digest(lane->memory, CHECK_BYTES, check.digest);
    return queue_record(lane, &check);
}

static int take_marked(struct bench_lane *lane, const struct gw_bench_record *record)
{
    struct gw_bench_task *task = lane->task;
    uint64_t now = gw_clock_ns(), cpu = gw_clock_thread_ns(), far = record->cpu_ns;

    if (!task || record->number != lane->seen_marks + 1 || lane->seen_marks == lane->sent_marks)
        return gw_fail(-EPROTO, "a mark came back that was not sent");
    lane->seen_marks++;
    if (!lane->is_running) {
        lane->is_running = true;
        lane->began_ns = now;
        lane->began_cpu_ns = cpu;
        lane->far_began_ns = far;
        return task->kind == GW_BENCH_PING ? queue_mark(lane) : 0;
    }
    if (task->kind == GW_BENCH_PING) {
        task->ping_ns[task->ping_count++] = now - lane->began_ns;
        lane->began_ns = now;
        if (task->ping_count < task->count)
            return queue_mark(lane);
        end_task(lane, 0);
        return 0;
    }
    if (!lane->is_ending || lane->seen_marks != lane->sent_marks)
        return 0;
    task->elapsed_ns = now - lane->began_ns;
    task->near_cpu_ns = cpu - lane->began_cpu_ns;
    task->far_cpu_ns = far - lane->far_began_ns;
    task->far_worker = record->worker;
    end_task(lane, 0);
    return 0;
}

static int take_answer(struct bench_lane *lane, const struct gw_bench_record *record)
{
    struct gw_bench_task *task = lane->task;

    if (record->type == GW_BENCH_RECORD_READY && !lane->is_told) {
        lane->remote_key = record->key;
        lane->is_told = true;
        return 0;
    }
    if (record->type == GW_BENCH_RECORD_MARKED)
        return take_marked(lane, record);
    if (record->type == GW_BENCH_RECORD_CHECKED && task && lane->is_ending &&
        task->kind == GW_BENCH_CHECK) {
        task->is_equal = record->is_equal;
        end_task(lane, 0);
        return 0;
    }
    return gw_fail(-EPROTO, "the target answers what it was not asked");
}

/* ---- the worker's calls ---- */

static int message(struct gw_lane *base, const void *data, uint32_t length)
{
    struct bench_lane *lane = of(base);
    uint8_t plain[GW_MESSAGE_MAX];
    struct gw_bench_record record;
    int error;

    if (!lane->talk.is_joined)
        return gw_lane_check_proof(&lane->talk, data, length);
    error = gw_seal_open_record(lane->talk.seal, data, length, plain, &length);
    if (!error)
        error = gw_bench_record_decode(plain, length, lane->is_source, &record);
    if (error)
        return error;
    return lane->is_source ? take_answer(lane, &record) : answer(lane, &record);
}

static int pump_task(struct bench_lane *lane, bool *any)
{
    if (!lane->task || !lane->is_told || lane->is_ending)
        return 0;
    if (lane->task->kind == GW_BENCH_CHECK)
        return pump_check(lane, any);
    if (!lane->is_running)
        return lane->sent_marks == lane->seen_marks ? queue_mark(lane) : 0;
    return lane->task->kind == GW_BENCH_WRITE ? pump_writes(lane, any) : 0;
}

static bool pump(struct gw_lane *base, int *error)
{
    struct bench_lane *lane = of(base);
    bool any = false;

    *error = gw_lane_send_proof(&lane->talk);
    if (*error == -EAGAIN)
        *error = 0;
    if (*error || !lane->talk.is_joined)
        return false;
    if (!lane->is_source && !lane->is_told)
        *error = tell_ready(lane);
    if (!*error && lane->is_source)
        *error = pump_task(lane, &any);
    if (!*error)
        *error = post_records(lane, &any);
    return any;
}

static void dead(struct gw_lane *base, int error)
{
    /* The source hangs up between two transports. */
    if (!of(base)->is_source && error != -ECONNRESET && error != -EPIPE)
        gw_log(GW_LOG_WARNING, "a measured channel: %s", gw_error_message());
    end_task(of(base), error);
}

static const struct gw_lane_ops bench_ops = {.message = message, .pump = pump, .dead = dead};

/* ---- the control thread's calls ---- */

static int prepare(struct gw_worker *worker, bool is_source, struct bench_lane **out)
{
    struct bench_lane *lane = calloc(1, sizeof(*lane));
    int error;

    if (!lane)
        return gw_fail(-ENOMEM, "no memory for a measurement");
    lane->talk.lane.ops = &bench_ops;
    lane->talk.lane.worker = worker;
    lane->is_source = is_source;
    pthread_mutex_init(&lane->lock, NULL);
    pthread_cond_init(&lane->ended, NULL);
    for (unsigned i = 0; i < WRITES_MAX; i++) {
        lane->slots[i].lane = lane;
        lane->slots[i].next_free = lane->free_slots;
        lane->free_slots = &lane->slots[i];
    }
    error = gw_memory_new(GW_BENCH_REGION, (void **)&lane->memory);
    if (error) {
        gw_bench_free(&lane->talk.lane);
        return error;
    }
    *out = lane;
    return 0;
}

int gw_bench_target_prepare(struct gw_worker *worker, struct gw_domain *domain, uint32_t number,
                            struct gw_lane **out)
{
    struct bench_lane *lane;
    int error = prepare(worker, false, &lane);

    if (error)
        return error;
    lane->deadline_ns = gw_clock_ns() + GW_BENCH_SESSION_S * GW_NS_PER_S;
    error = gw_reg(domain, lane->memory, GW_BENCH_REGION, GW_ACCESS_REMOTE_WRITE, number,
                   &lane->region);
    if (error) {
        gw_bench_free(&lane->talk.lane);
        return error;
    }
    *out = &lane->talk.lane;
    return 0;
}

int gw_bench_source_prepare(struct gw_worker *worker, struct gw_domain *domain,
                            struct gw_lane **out)
{
    struct bench_lane *lane;
    int error = prepare(worker, true, &lane);

    if (error)
        return error;
    if (domain->transport->ops->needs_local_region)
        error =
            gw_reg(domain, lane->memory, GW_BENCH_REGION, GW_ACCESS_LOCAL_READ, 0, &lane->region);
    if (error) {
        gw_bench_free(&lane->talk.lane);
        return error;
    }
    *out = &lane->talk.lane;
    return 0;
}

struct start {
    struct gw_lane *lane;
    struct gw_channel *channel;
};

static void attach(void *argument)
{
    struct start *start = argument;

    gw_worker_attach(start->lane->worker, start->lane, start->channel);
}

void gw_bench_start(struct gw_lane *base, struct gw_channel *channel, struct gw_seal *seal)
{
    struct start start = {.lane = base, .channel = channel};

    of(base)->talk.seal = seal;
    of(base)->is_started = true;
    gw_worker_call(base->worker, attach, &start);
}

static void detach(void *argument)
{
    gw_worker_detach(argument);
}

void gw_bench_free(struct gw_lane *base)
{
    struct bench_lane *lane = of(base);

    if (lane->is_started)
        gw_worker_call(base->worker, detach, base);
    gw_unreg(lane->region);
    gw_memory_free(lane->memory, GW_BENCH_REGION);
    gw_seal_free(lane->talk.seal);
    pthread_cond_destroy(&lane->ended);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

struct begin {
    struct bench_lane *lane;
    struct gw_bench_task *task;
};

static void begin_task(void *argument)
{
    struct begin *begin = argument;
    struct bench_lane *lane = begin->lane;

    lane->task = begin->task;
    lane->is_running = lane->is_ending = false;
    lane->position = lane->batch_bytes = 0;
    if (lane->talk.lane.is_dead)
        end_task(lane, 0);
}

void gw_bench_begin(struct gw_lane *base, struct gw_bench_task *task)
{
    struct begin begin = {.lane = of(base), .task = task};

    task->bytes = task->elapsed_ns = task->ping_count = 0;
    task->is_equal = false;
    task->count = (uint32_t)gw_min(task->count, GW_BENCH_PINGS_MAX);
    /* Nothing is in flight between two tasks. */
    if (task->kind == GW_BENCH_CHECK)
        for (uint32_t at = 0; at < CHECK_BYTES; at += 256)
            if (getrandom(of(base)->memory + at, 256, 0) != 256)
                break;
    of(base)->is_busy = true;
    gw_worker_call(base->worker, begin_task, &begin);
}

int gw_bench_wait(struct gw_lane *base, int timeout_ms)
{
    uint64_t end = gw_clock_wall_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    struct timespec until = {.tv_sec = (time_t)(end / GW_NS_PER_S),
                             .tv_nsec = (long)(end % GW_NS_PER_S)};
    struct bench_lane *lane = of(base);
    int error = 0;

    pthread_mutex_lock(&lane->lock);
    while (lane->is_busy && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&lane->ended, &lane->lock, &until);
    if (lane->is_busy)
        error = gw_fail(-ETIMEDOUT, "the target did not answer for %d s", timeout_ms / 1000);
    else
        error = lane->error.code ? gw_error_raise(&lane->error) : 0;
    pthread_mutex_unlock(&lane->lock);
    return error;
}
