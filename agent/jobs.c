/* SPDX-License-Identifier: Apache-2.0 */
/* The table of migrations and its queue. What a migration does is the engine's. */
#include "agent/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "agent/snapshot.h"
#include "common/clock.h"
#include "common/log.h"
#include "engine/handover/handover.h"
#include "engine/session/named.h"

#define WHAT_MAX 512u

enum job_state { JOB_QUEUED, JOB_RUNNING, JOB_ENDED };

struct gw_job {
    struct gw_jobs *jobs;
    struct gw_job *next;
    char id[GW_JOB_ID_SIZE];
    enum gw_job_kind kind;
    enum job_state state; /* this and what follows: under the table's lock */
    unsigned references;
    bool is_cancelled;
    struct gw_job_request *request; /* NULL for incoming ones */
    char what[WHAT_MAX];
    char peer[256];
    char epoch[GW_EPOCH_TEXT_MAX]; /* of its move, once the journal has it */
    struct gw_progress progress;
    struct gw_result result;
    uint64_t submitted_ns, ended_ns;
};

struct gw_jobs {
    pthread_mutex_t lock;   /* protects the table and its jobs; above progress and history */
    pthread_cond_t changed; /* a job ended, began or was cancelled; monotonic clock */
    struct gw_job *first;   /* oldest first */
    struct gw_jobs_options options;
    unsigned thread_count; /* of outgoing jobs */
    bool is_stopping;
};

static const char *state_name(enum job_state state)
{
    static const char *const names[] = {"queued", "running", "ended"};

    return names[state];
}

static void record(struct gw_job *job)
{
    json_t *epoch = job->epoch[0] ? json_pack("{s:s}", "epoch", job->epoch) : NULL;
    const struct gw_history_entry entry = {
        .id = job->id,
        .kind = gw_job_kind_name(job->kind),
        .what = job->what,
        .peer = job->peer,
        .state = state_name(job->state),
        .message = job->result.message,
        .exit_code = (int)job->result.exit_code,
        .detail = job->result.detail ? job->result.detail : epoch,
        .submitted_ns = job->submitted_ns,
        .ended_ns = job->ended_ns,
        .owner_pid = getpid(),
    };

    if (gw_history_put(job->jobs->options.history, &entry) != 0)
        gw_log(GW_LOG_WARNING, "%s", gw_error_message());
    json_decref(epoch);
}

/* Under the lock: who has that move in hand, or NULL. */
static struct gw_job *find_running(struct gw_jobs *jobs, const struct gw_journal_entry *entry)
{
    enum gw_job_kind kind = entry->side == GW_SIDE_SOURCE ? GW_JOB_MOVE : GW_JOB_SERVE;

    for (struct gw_job *job = jobs->first; job; job = job->next) {
        struct gw_progress_data data;

        if (job->kind != kind || job->state != JOB_RUNNING)
            continue;
        gw_progress_get(&job->progress, &data);
        if (strcmp(data.epoch, entry->epoch) == 0)
            return job;
    }
    return NULL;
}

/* A move in doubt, or one whose agent died, has come to its end. */
static void settle(struct gw_jobs *jobs, const struct gw_journal_entry *entry,
                   enum gw_handover_state state)
{
    bool is_moved = state == GW_HANDOVER_HANDED_OVER || state == GW_HANDOVER_DONE ||
                    state == GW_HANDOVER_RUNNING;
    const struct gw_history_end end = {
        .epoch = entry->epoch,
        .kind = gw_job_kind_name(entry->side == GW_SIDE_SOURCE ? GW_JOB_MOVE : GW_JOB_SERVE),
        .message = gw_handover_state_meaning(state),
        .exit_code = is_moved ? GW_EXIT_DONE : GW_EXIT_FAILED,
        .doubt_code = GW_EXIT_IN_DOUBT,
        .ended_ns = gw_clock_wall_ns(),
    };

    if (gw_history_settle(jobs->options.history, &end) != 0)
        gw_log(GW_LOG_WARNING, "%s", gw_error_message());
}

void gw_jobs_recorded(struct gw_jobs *jobs, const struct gw_journal_entry *entry)
{
    enum gw_handover_state state;
    struct gw_job *job;

    if (gw_handover_state_parse(entry->state, &state) != 0)
        return;
    pthread_mutex_lock(&jobs->lock);
    job = find_running(jobs, entry);
    if (job && !job->epoch[0]) {
        snprintf(job->epoch, sizeof(job->epoch), "%s", entry->epoch);
        record(job);
    }
    pthread_mutex_unlock(&jobs->lock);
    if (!job && gw_handover_is_decided(state))
        settle(jobs, entry, state);
}

int gw_jobs_new(const struct gw_jobs_options *options, struct gw_jobs **out)
{
    struct gw_jobs *jobs = calloc(1, sizeof(*jobs));
    pthread_condattr_t attributes;

    if (!jobs)
        return gw_fail(-ENOMEM, "out of memory");
    jobs->options = *options;
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&jobs->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    *out = jobs;
    return 0;
}

static void free_job(struct gw_job *job)
{
    gw_job_request_free(job->request);
    gw_result_free(&job->result);
    gw_progress_free(&job->progress);
    free(job);
}

static void put_locked(struct gw_job *job)
{
    if (--job->references == 0)
        free_job(job);
}

void gw_job_put(struct gw_job *job)
{
    struct gw_jobs *jobs;

    if (!job)
        return;
    jobs = job->jobs;
    pthread_mutex_lock(&jobs->lock);
    put_locked(job);
    pthread_mutex_unlock(&jobs->lock);
}

void gw_jobs_free(struct gw_jobs *jobs)
{
    if (!jobs)
        return;
    while (jobs->first) {
        struct gw_job *job = jobs->first;

        jobs->first = job->next;
        put_locked(job);
    }
    pthread_cond_destroy(&jobs->changed);
    pthread_mutex_destroy(&jobs->lock);
    free(jobs);
}

static bool is_incoming(const struct gw_job *job)
{
    return job->kind == GW_JOB_SERVE;
}

static unsigned count_running(struct gw_jobs *jobs, enum gw_job_kind kind)
{
    unsigned count = 0;

    for (struct gw_job *job = jobs->first; job; job = job->next)
        count += job->kind == kind && job->state == JOB_RUNNING;
    return count;
}

static unsigned limit_of(const struct gw_jobs *jobs, enum gw_job_kind kind)
{
    const struct gw_limits *limits = &jobs->options.limits;

    switch (kind) {
    case GW_JOB_MOVE:
        return limits->live_out;
    case GW_JOB_COPY:
        return limits->storage_out;
    case GW_JOB_SERVE:
        break; /* what a peer will ask for is not known when its session begins */
    }
    return limits->live_in + limits->storage_in;
}

static bool has_room(struct gw_jobs *jobs, enum gw_job_kind kind)
{
    return count_running(jobs, kind) < limit_of(jobs, kind);
}

/* Drops the oldest ended jobs beyond what is kept. */
static void forget_old(struct gw_jobs *jobs)
{
    unsigned ended = 0;

    for (struct gw_job *job = jobs->first; job; job = job->next)
        ended += job->state == JOB_ENDED;
    for (struct gw_job **link = &jobs->first; *link && ended > GW_JOBS_ENDED_MAX;) {
        struct gw_job *job = *link;

        if (job->state != JOB_ENDED) {
            link = &job->next;
            continue;
        }
        *link = job->next;
        put_locked(job);
        ended--;
    }
}

static void *job_thread(void *argument);

static int start_thread(struct gw_job *job)
{
    pthread_attr_t attributes;
    pthread_t thread;
    int error;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attributes, job_thread, job);
    pthread_attr_destroy(&attributes);
    return error ? gw_fail_errno(-error, "thread for a migration") : 0;
}

/* It may have been settled between its own end and this one. */
static void look_again(struct gw_job *job)
{
    enum gw_journal_side side = is_incoming(job) ? GW_SIDE_TARGET : GW_SIDE_SOURCE;
    struct gw_journal *journal = job->jobs->options.environment->journal;
    enum gw_handover_state state;
    struct gw_journal_entry entry;

    if (job->result.exit_code != GW_EXIT_IN_DOUBT || !job->epoch[0] ||
        gw_journal_find(journal, job->epoch, side, &entry) != 0)
        return;
    if (gw_handover_state_parse(entry.state, &state) == 0 && gw_handover_is_decided(state))
        settle(job->jobs, &entry, state);
    gw_journal_entry_free(&entry);
}

static void end_locked(struct gw_job *job, struct gw_result *result)
{
    job->result = *result;
    job->state = JOB_ENDED;
    job->ended_ns = gw_clock_wall_ns();
    if (job->epoch[0] && job->result.detail)
        json_object_set_new(job->result.detail, "epoch", json_string(job->epoch));
    record(job);
    look_again(job);
    if (result->exit_code != GW_EXIT_DONE)
        gw_log(GW_LOG_WARNING, "%s %s: %s: %s", gw_job_kind_name(job->kind), job->id,
               gw_exit_verdict(result->exit_code), result->message);
    pthread_cond_broadcast(&job->jobs->changed);
}

static void end_queued(struct gw_job *job, const char *why)
{
    struct gw_result result = {.exit_code = GW_EXIT_FAILED};

    snprintf(result.message, sizeof(result.message), "%s", why);
    end_locked(job, &result);
}

/* Starts what waits and has room, oldest first. */
static void start_some(struct gw_jobs *jobs)
{
    for (struct gw_job *job = jobs->first; job && !jobs->is_stopping; job = job->next) {
        if (job->state != JOB_QUEUED || is_incoming(job) || !has_room(jobs, job->kind))
            continue;
        job->state = JOB_RUNNING;
        job->references++;
        jobs->thread_count++;
        if (start_thread(job) != 0) {
            jobs->thread_count--;
            end_queued(job, gw_error_message());
            put_locked(job);
            continue;
        }
        record(job);
        pthread_cond_broadcast(&jobs->changed);
    }
}

static void *job_thread(void *argument)
{
    struct gw_job *job = argument;
    struct gw_jobs *jobs = job->jobs;
    struct gw_result result;

    gw_request_run(jobs->options.environment, job->request, &job->progress, &result);
    pthread_mutex_lock(&jobs->lock);
    end_locked(job, &result);
    start_some(jobs);
    forget_old(jobs);
    put_locked(job);
    jobs->thread_count--;
    pthread_cond_broadcast(&jobs->changed);
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}

static int new_job(struct gw_jobs *jobs, enum gw_job_kind kind, struct gw_job **out)
{
    struct gw_job *job = calloc(1, sizeof(*job));
    unsigned char number[4];
    int error;

    if (!job)
        return gw_fail(-ENOMEM, "out of memory");
    error = gw_progress_init(&job->progress);
    if (error) {
        free(job);
        return error;
    }
    if (getrandom(number, sizeof(number), 0) != sizeof(number)) {
        free_job(job);
        return gw_fail_errno(-errno, "random number");
    }
    snprintf(job->id, sizeof(job->id), "%02x%02x%02x%02x", number[0], number[1], number[2],
             number[3]);
    job->jobs = jobs;
    job->kind = kind;
    job->submitted_ns = gw_clock_wall_ns();
    *out = job;
    return 0;
}

/* Adds to the end of the table, counted for the table and for the caller. */
static void append(struct gw_jobs *jobs, struct gw_job *job)
{
    struct gw_job **link = &jobs->first;

    while (*link)
        link = &(*link)->next;
    *link = job;
    job->references = 2;
    record(job);
}

static int check_open(struct gw_jobs *jobs)
{
    unsigned queued = 0;

    if (jobs->is_stopping)
        return gw_fail(-ESHUTDOWN, "the agent is ending and takes no more work");
    for (struct gw_job *job = jobs->first; job; job = job->next)
        queued += job->state == JOB_QUEUED;
    if (queued >= GW_JOBS_QUEUED_MAX)
        return gw_fail(-EBUSY, "the queue is full: %u migrations wait", queued);
    return 0;
}

int gw_jobs_submit(struct gw_jobs *jobs, struct gw_job_request *request, struct gw_job **out)
{
    struct gw_job *job;
    int error = new_job(jobs, request->kind, &job);

    if (error) {
        gw_job_request_free(request);
        return error;
    }
    job->request = request;
    snprintf(job->what, sizeof(job->what), "%s", request->what);
    snprintf(job->peer, sizeof(job->peer), "%s", request->peer);
    pthread_mutex_lock(&jobs->lock);
    error = check_open(jobs);
    if (!error) {
        append(jobs, job);
        start_some(jobs);
        *out = job;
    }
    pthread_mutex_unlock(&jobs->lock);
    if (error)
        free_job(job);
    return error;
}

bool gw_jobs_is_full(struct gw_jobs *jobs)
{
    bool is_full;

    pthread_mutex_lock(&jobs->lock);
    is_full = jobs->is_stopping || !has_room(jobs, GW_JOB_SERVE);
    pthread_mutex_unlock(&jobs->lock);
    return is_full;
}

int gw_jobs_enter(struct gw_jobs *jobs, const char *name, const char *address, struct gw_job **out)
{
    struct gw_job *job;
    int error = new_job(jobs, GW_JOB_SERVE, &job);

    if (error)
        return error;
    snprintf(job->what, sizeof(job->what), "from %s", name);
    snprintf(job->peer, sizeof(job->peer), "%s", address);
    pthread_mutex_lock(&jobs->lock);
    error = check_open(jobs);
    if (error) {
        pthread_mutex_unlock(&jobs->lock);
        free_job(job);
        return error;
    }
    append(jobs, job);
    while (!has_room(jobs, GW_JOB_SERVE) && !jobs->is_stopping && !job->is_cancelled)
        pthread_cond_wait(&jobs->changed, &jobs->lock);
    if (jobs->is_stopping || job->is_cancelled) {
        error = gw_fail(-ECANCELED, "cancelled before this host had room");
        if (job->state != JOB_ENDED)
            end_queued(job, gw_error_message());
        put_locked(job);
    } else {
        job->state = JOB_RUNNING;
        record(job);
        *out = job;
    }
    pthread_mutex_unlock(&jobs->lock);
    return error;
}

void gw_jobs_leave(struct gw_job *job, struct gw_result *result)
{
    struct gw_jobs *jobs = job->jobs;

    pthread_mutex_lock(&jobs->lock);
    end_locked(job, result);
    forget_old(jobs);
    put_locked(job);
    pthread_mutex_unlock(&jobs->lock);
}

int gw_jobs_find(struct gw_jobs *jobs, const char *id, struct gw_job **out)
{
    struct gw_job *found = NULL;
    unsigned matches = 0;

    pthread_mutex_lock(&jobs->lock);
    for (struct gw_job *job = jobs->first; job; job = job->next) {
        if (!gw_named_is(job->id, NULL, id))
            continue;
        found = job;
        matches++;
    }
    if (matches == 1) {
        found->references++;
        *out = found;
    }
    pthread_mutex_unlock(&jobs->lock);
    if (matches > 1)
        return gw_fail(-EINVAL, "more than one migration begins with '%.16s': give more digits",
                       id);
    return matches ? 0 : gw_fail(-ENOENT, "no migration '%.16s' here: see godwit status", id);
}

const char *gw_job_id(const struct gw_job *job)
{
    return job->id;
}

struct gw_progress *gw_job_progress(struct gw_job *job)
{
    return &job->progress;
}

static int cancel_locked(struct gw_job *job)
{
    job->is_cancelled = true;
    if (job->state == JOB_ENDED)
        return gw_fail(-ENOENT, "migration %s has ended already", job->id);
    if (job->state == JOB_RUNNING)
        return gw_progress_cancel(&job->progress);
    end_queued(job, "cancelled before it began");
    return 0;
}

int gw_job_cancel(struct gw_job *job)
{
    int error;

    pthread_mutex_lock(&job->jobs->lock);
    error = cancel_locked(job);
    pthread_mutex_unlock(&job->jobs->lock);
    return error;
}

static bool wait_until(struct gw_jobs *jobs, uint64_t deadline_ns)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ns / GW_NS_PER_S),
        .tv_nsec = (long)(deadline_ns % GW_NS_PER_S),
    };

    return pthread_cond_timedwait(&jobs->changed, &jobs->lock, &until) == 0;
}

bool gw_job_wait(struct gw_job *job, int timeout_ms)
{
    uint64_t deadline = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    bool is_ended;

    pthread_mutex_lock(&job->jobs->lock);
    while (job->state != JOB_ENDED && wait_until(job->jobs, deadline))
        ;
    is_ended = job->state == JOB_ENDED;
    pthread_mutex_unlock(&job->jobs->lock);
    return is_ended;
}

static json_t *describe_locked(struct gw_job *job)
{
    struct gw_progress_data data;
    json_t *object;

    gw_progress_get(&job->progress, &data);
    object = json_pack("{s:s, s:s, s:o, s:o, s:s, s:I, s:o}", "job", job->id, "kind",
                       gw_job_kind_name(job->kind), "what", gw_json_text(job->what), "peer",
                       gw_json_text(job->peer), "state", state_name(job->state), "submitted_ms",
                       (json_int_t)(job->submitted_ns / GW_NS_PER_MS), "progress",
                       gw_snapshot_new(&data));
    if (!object || job->state != JOB_ENDED)
        return object;
    json_object_set_new(object, "exit_code", json_integer((json_int_t)job->result.exit_code));
    json_object_set_new(object, "message", gw_json_text(job->result.message));
    json_object_set_new(object, "ended_ms",
                        json_integer((json_int_t)(job->ended_ns / GW_NS_PER_MS)));
    if (job->result.detail)
        json_object_set_new(object, "detail", json_deep_copy(job->result.detail));
    return object;
}

json_t *gw_job_describe(struct gw_job *job)
{
    json_t *object;

    pthread_mutex_lock(&job->jobs->lock);
    object = describe_locked(job);
    pthread_mutex_unlock(&job->jobs->lock);
    return object;
}

json_t *gw_jobs_describe(struct gw_jobs *jobs)
{
    json_t *list = json_array();

    pthread_mutex_lock(&jobs->lock);
    for (struct gw_job *job = jobs->first; job; job = job->next)
        json_array_append_new(list, describe_locked(job));
    pthread_mutex_unlock(&jobs->lock);
    return list;
}

static unsigned active_locked(struct gw_jobs *jobs)
{
    unsigned count = 0;

    for (struct gw_job *job = jobs->first; job; job = job->next)
        count += job->state != JOB_ENDED;
    return count;
}

unsigned gw_jobs_active(struct gw_jobs *jobs)
{
    unsigned count;

    pthread_mutex_lock(&jobs->lock);
    count = active_locked(jobs);
    pthread_mutex_unlock(&jobs->lock);
    return count;
}

int gw_jobs_stop(struct gw_jobs *jobs, int timeout_ms)
{
    uint64_t deadline = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    int error = 0;

    pthread_mutex_lock(&jobs->lock);
    jobs->is_stopping = true;
    for (struct gw_job *job = jobs->first; job; job = job->next)
        if (job->state != JOB_ENDED && cancel_locked(job) == -EBUSY)
            gw_log(GW_LOG_WARNING, "migration %s is past the point of no return: waiting for it",
                   job->id);
    pthread_cond_broadcast(&jobs->changed);
    while (!error && (active_locked(jobs) || jobs->thread_count))
        if (!wait_until(jobs, deadline))
            error = gw_fail(-ETIMEDOUT, "%u migrations did not end in time", active_locked(jobs));
    pthread_mutex_unlock(&jobs->lock);
    return error;
}
