/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a request with its own credentials and waits for a busy peer. It knows no queue. */
#include "agent/run.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define BUSY_RETRY_MS 2000

struct dressed {
    struct gw_environment environment;
    struct gw_credentials *own;
};

static int dress(const struct gw_environment *base, const struct gw_job_request *request,
                 struct dressed *out)
{
    struct gw_environment *environment = &out->environment;

    *environment = *base;
    out->own = NULL;
    for (unsigned i = 0; i < request->trusted_count; i++) {
        if (environment->trusted_count == GW_TRUSTED_MAX)
            return gw_fail(-EINVAL, "more than %u trusted networks", GW_TRUSTED_MAX);
        environment->trusted[environment->trusted_count++] = request->trusted[i];
    }
    if (request->has_credentials) {
        int error = gw_credentials_load(&request->credentials, &out->own);

        if (error)
            return error;
        environment->credentials = out->own;
    }
    if (request->peer[0] && !environment->credentials)
        return gw_fail(-EINVAL,
                       "no credentials for %s: give --psk FILE (godwit key NAME > FILE), or "
                       "--cert, --key and --ca or --fingerprint",
                       request->peer);
    if (request->kind == GW_JOB_MOVE && !environment->journal)
        return gw_fail(-EINVAL, "a move needs a journal, and here is none");
    return 0;
}

static bool is_busy(int error)
{
    return error == -ECONNREFUSED && strstr(gw_error_message(), GW_BUSY_TEXT);
}

/* False when the migration was cancelled meanwhile. */
static bool wait_for_room(const struct gw_job_request *request, struct gw_progress *progress)
{
    struct pollfd item = {.fd = progress->cancel_fd, .events = POLLIN};

    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_PLAN;
    progress->data.ended_ns = 0;
    snprintf(progress->data.note, sizeof(progress->data.note), "waits: %s is busy", request->peer);
    pthread_mutex_unlock(&progress->lock);
    return poll(&item, 1, BUSY_RETRY_MS) == 0;
}

static int run_once(const struct gw_environment *environment, const struct gw_job_request *request,
                    struct gw_progress *progress, struct gw_outcome *outcome)
{
    if (request->kind == GW_JOB_MOVE)
        return gw_move_run(environment, &request->move, progress, outcome);
    return gw_copy_run(environment, &request->copy, progress, outcome);
}

void gw_result_take(struct gw_outcome *outcome, int error, struct gw_result *out)
{
    memset(out, 0, sizeof(*out));
    out->exit_code = outcome->exit_code;
    out->detail = outcome->detail;
    outcome->detail = NULL;
    if (!error)
        return;
    if (out->exit_code == GW_EXIT_DONE)
        out->exit_code = error == -EINVAL ? GW_EXIT_USAGE : GW_EXIT_FAILED;
    snprintf(out->message, sizeof(out->message), "%s", gw_error_message());
}

void gw_request_run(const struct gw_environment *base, const struct gw_job_request *request,
                    struct gw_progress *progress, struct gw_result *out)
{
    struct gw_outcome outcome = {.exit_code = GW_EXIT_DONE};
    struct dressed dressed;
    int error = dress(base, request, &dressed);

    while (!error) {
        error = run_once(&dressed.environment, request, progress, &outcome);
        if (!is_busy(error))
            break;
        gw_outcome_free(&outcome);
        outcome = (struct gw_outcome){.exit_code = GW_EXIT_FAILED};
        if (!wait_for_room(request, progress)) {
            error = gw_fail(-ECANCELED, "cancelled while %s was busy", request->peer);
            break;
        }
        outcome.exit_code = GW_EXIT_DONE;
        error = 0;
    }
    gw_result_take(&outcome, error, out);
    gw_credentials_free(dressed.own);
}

int gw_request_call(const struct gw_environment *base, const struct gw_job_request *request,
                    void (*call)(const struct gw_environment *environment, void *context),
                    void *context)
{
    struct dressed dressed;
    int error = dress(base, request, &dressed);

    if (!error)
        call(&dressed.environment, context);
    gw_credentials_free(dressed.own);
    return error;
}

void gw_result_free(struct gw_result *result)
{
    json_decref(result->detail);
    result->detail = NULL;
}

const char *gw_exit_verdict(enum gw_exit exit_code)
{
    switch (exit_code) {
    case GW_EXIT_DONE:
        return "done";
    case GW_EXIT_FAILED:
        return "failed; the source is as it was";
    case GW_EXIT_USAGE:
        return "not understood; nothing was changed";
    case GW_EXIT_BLOCKED:
        return "blocked by a check; nothing was changed";
    case GW_EXIT_IN_DOUBT:
        return "in doubt; paused on both hosts until it is settled";
    case GW_EXIT_VERIFY:
        return "verification failed; the target's copy was not declared valid";
    }
    return "unknown";
}
