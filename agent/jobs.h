/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jobs: the migrations of one agent: what waits, what runs, what ended lately. Outgoing ones are
 * queued by kind; incoming ones enter from their session's thread.
 *
 * Errors: 0 or -errno with a message; -ENOENT for an id that no job has; -EBUSY for a queue that
 *   is full and for a cancel that comes too late; -ESHUTDOWN once stopped.
 * Threads: any. Each outgoing job runs on a thread of its own. One lock for the table (rank: above
 *   a progress's lock and the history's). A job is counted: whoever got one puts it back.
 * Units: milliseconds; wall-clock nanoseconds since 1970.
 */
#ifndef GODWIT_AGENT_JOBS_H
#define GODWIT_AGENT_JOBS_H

#include "agent/history.h"
#include "agent/options.h"
#include "agent/run.h"

#define GW_JOBS_QUEUED_MAX 256u
#define GW_JOBS_ENDED_MAX  64u /* kept for those who ask afterwards; the history has them all */
#define GW_JOB_ID_SIZE     9u  /* eight hex digits */

struct gw_jobs;
struct gw_job;

struct gw_jobs_options {
    struct gw_limits limits;
    const struct gw_environment *environment; /* lent */
    struct gw_history *history;               /* lent */
};

int gw_jobs_new(const struct gw_jobs_options *options, struct gw_jobs **out);
/* After gw_jobs_stop, and after every job was put back. Takes NULL. */
void gw_jobs_free(struct gw_jobs *jobs);

/* Queues the request, which is taken over whatever the outcome. *out is counted for the caller. */
int gw_jobs_submit(struct gw_jobs *jobs, struct gw_job_request *request, struct gw_job **out);

/* Is there no room for one more incoming session? */
bool gw_jobs_is_full(struct gw_jobs *jobs);
/* An incoming session of an authenticated peer. Waits for room; -ECANCELED when it was cancelled or
 * the agent stops before there was any. Every enter that succeeded has its leave, which puts job
 * back. */
int gw_jobs_enter(struct gw_jobs *jobs, const char *name, const char *address, struct gw_job **out);
/* Takes over the result. */
void gw_jobs_leave(struct gw_job *job, struct gw_result *result);

/* The journal has a new record: which job it is of is remembered with the job; the end of a move that
 * nobody has in hand any more goes to the history. */
void gw_jobs_recorded(struct gw_jobs *jobs, const struct gw_journal_entry *entry);
/* By id or the first digits of one that no other job shares (engine/session/named.h). */
int gw_jobs_find(struct gw_jobs *jobs, const char *id, struct gw_job **out);
void gw_job_put(struct gw_job *job);
const char *gw_job_id(const struct gw_job *job);
struct gw_progress *gw_job_progress(struct gw_job *job);
int gw_job_cancel(struct gw_job *job);
/* Waits for the end; true once it is there. */
bool gw_job_wait(struct gw_job *job, int timeout_ms);
/* A new object: job, kind, what, peer, state, progress, and, once ended, exit_code, message,
 * detail. */
json_t *gw_job_describe(struct gw_job *job);
json_t *gw_jobs_describe(struct gw_jobs *jobs);
/* How many wait or run. */
unsigned gw_jobs_active(struct gw_jobs *jobs);
/* No new ones; cancels all that can be cancelled and waits for the rest, at most timeout_ms.
 * -ETIMEDOUT when some run on. */
int gw_jobs_stop(struct gw_jobs *jobs, int timeout_ms);

#endif
