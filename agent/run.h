/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run: one parsed request, run by the thread that calls: in an agent's job, or in a command that
 * copies by itself. The same code for both.
 *
 * Errors: never returned; the result has the exit code and the message.
 * Threads: as the engine's runs.
 * Units: none.
 */
#ifndef GODWIT_AGENT_RUN_H
#define GODWIT_AGENT_RUN_H

#include "agent/request.h"
#include "common/error.h"
#include "engine/migration.h"

/* How an agent that has no room refuses a session. The other end's agent waits and tries again. */
#define GW_BUSY_TEXT "this host is busy"

struct gw_result {
    enum gw_exit exit_code;
    json_t *detail; /* may be NULL */
    char message[GW_ERROR_TEXT_MAX];
};

/* base is lent; the request's own credentials and networks replace or join the base's. */
void gw_request_run(const struct gw_environment *base, const struct gw_job_request *request,
                    struct gw_progress *progress, struct gw_result *out);
/* Calls with base as the request's run would have it. */
int gw_request_call(const struct gw_environment *base, const struct gw_job_request *request,
                    void (*call)(const struct gw_environment *environment, void *context),
                    void *context);
/* Keeps the outcome of a run that returned error, with the thread's message. Takes over detail. */
void gw_result_take(struct gw_outcome *outcome, int error, struct gw_result *out);
void gw_result_free(struct gw_result *result);
/* "done", "failed, the source runs on", ... for people. */
const char *gw_exit_verdict(enum gw_exit exit_code);

#endif
