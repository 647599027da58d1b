/* SPDX-License-Identifier: Apache-2.0 */
/* Answers one request of a command. It reads nothing from the connection. */
#include "agent/admin-requests.h"

#include <errno.h>
#include <string.h>

#include "agent/lines.h"
#include "agent/resume.h"
#include "agent/settle.h"
#include "agent/snapshot.h"
#include "common/checked.h"

struct request_kind {
    const char *name;
    int (*answer)(const struct gw_admin_options *options, int fd, json_t *request);
};

static int send_answer(int fd, json_t *answer)
{
    int error;

    if (!answer)
        answer = json_pack("{s:b, s:s, s:i}", "ok", 0, "error", "out of memory", "exit_code",
                           (int)GW_EXIT_FAILED);
    error = gw_lines_write(fd, answer, GW_ADMIN_WRITE_MS);
    json_decref(answer);
    if (error != -EMSGSIZE)
        return error;
    answer = json_pack("{s:b, s:s, s:i}", "ok", 0, "error",
                       "the answer is too long: ask for less (--limit)", "exit_code",
                       (int)GW_EXIT_FAILED);
    error = gw_lines_write(fd, answer, GW_ADMIN_WRITE_MS);
    json_decref(answer);
    return error;
}

static int send_error(int fd, int error)
{
    enum gw_exit code = GW_EXIT_FAILED;

    if (error == -EINVAL)
        code = GW_EXIT_USAGE;
    return send_answer(fd, json_pack("{s:b, s:o, s:i}", "ok", 0, "error",
                                     gw_json_text(gw_error_message()), "exit_code", (int)code));
}

static int answer_submit(const struct gw_admin_options *options, int fd, json_t *text)
{
    struct gw_job_request *request;
    struct gw_job *job;
    int error = gw_job_request_parse(text, &request);

    if (!error)
        error = gw_jobs_submit(options->jobs, request, &job);
    if (error)
        return send_error(fd, error);
    error = send_answer(fd, json_pack("{s:b, s:s}", "ok", 1, "job", gw_job_id(job)));
    gw_job_put(job);
    return error;
}

static int answer_resume(const struct gw_admin_options *options, int fd, json_t *request)
{
    json_t *which = json_object_get(request, "move"), *text;
    int error = which && !json_is_string(which)
                    ? gw_fail(-EINVAL, "request: 'move' is not a text")
                    : gw_resume_request(options->environment, json_string_value(which), &text);

    if (error == -ESTALE)
        return send_answer(fd, json_pack("{s:b, s:o, s:i}", "ok", 0, "error",
                                         gw_json_text(gw_error_message()), "exit_code",
                                         (int)GW_EXIT_BLOCKED));
    if (error)
        return send_error(fd, error);
    error = answer_submit(options, fd, text);
    json_decref(text);
    return error;
}

static int find_job(const struct gw_admin_options *options, json_t *request, struct gw_job **out)
{
    const char *id = json_string_value(json_object_get(request, "job"));

    if (!id)
        return gw_fail(-EINVAL, "request: 'job' is missing");
    return gw_jobs_find(options->jobs, id, out);
}

/* Snapshots until the end, then the whole description. */
static int watch(struct gw_job *job, int fd)
{
    struct gw_progress_data data;
    json_t *last;
    int error = 0;

    while (!error && !gw_job_wait(job, GW_ADMIN_WATCH_MS)) {
        gw_progress_get(gw_job_progress(job), &data);
        error =
            send_answer(fd, json_pack("{s:b, s:s, s:s, s:o}", "ok", 1, "event", "progress", "job",
                                      gw_job_id(job), "progress", gw_snapshot_new(&data)));
    }
    if (error)
        return error;
    last = gw_job_describe(job);
    if (last) {
        json_object_set_new(last, "ok", json_true());
        json_object_set_new(last, "event", json_string("ended"));
    }
    return send_answer(fd, last);
}

static int answer_watch(const struct gw_admin_options *options, int fd, json_t *request)
{
    struct gw_job *job;
    int error = find_job(options, request, &job);

    if (error)
        return send_error(fd, error);
    error = watch(job, fd);
    gw_job_put(job);
    return error;
}

static int answer_cancel(const struct gw_admin_options *options, int fd, json_t *request)
{
    struct gw_job *job;
    json_t *answer;
    int error = find_job(options, request, &job);

    if (error == -ENOENT) {
        json_t *which = json_object_get(request, "job");

        error = gw_resume_cancel(options->environment, json_string_value(which));
        if (error == 0)
            return send_answer(fd, json_pack("{s:b, s:O}", "ok", 1, "job", which));
    }
    if (error == -ENOENT)
        return send_answer(fd, json_pack("{s:b, s:b, s:o, s:i}", "ok", 0, "unknown", 1, "error",
                                         gw_json_text(gw_error_message()), "exit_code",
                                         (int)GW_EXIT_FAILED));
    if (error)
        return send_error(fd, error);
    error = gw_job_cancel(job);
    if (error == -EBUSY)
        answer = json_pack("{s:b, s:o, s:i}", "ok", 0, "error", gw_json_text(gw_error_message()),
                           "exit_code", (int)GW_EXIT_IN_DOUBT);
    else if (error)
        answer = json_pack("{s:b, s:o, s:i}", "ok", 0, "error", gw_json_text(gw_error_message()),
                           "exit_code", (int)GW_EXIT_FAILED);
    else
        answer = json_pack("{s:b, s:s}", "ok", 1, "job", gw_job_id(job));
    gw_job_put(job);
    return send_answer(fd, answer);
}

static int answer_status(const struct gw_admin_options *options, int fd, json_t *request)
{
    json_t *answer = options->describe(options->context);

    if (answer) {
        json_object_set_new(answer, "ok", json_true());
        json_object_set_new(answer, "jobs", gw_jobs_describe(options->jobs));
    }
    return send_answer(fd, answer);
}

static int answer_history(const struct gw_admin_options *options, int fd, json_t *request)
{
    json_t *limit = json_object_get(request, "limit"), *list;
    int error;

    if (limit && (!json_is_integer(limit) || json_integer_value(limit) < 1 ||
                  json_integer_value(limit) > GW_HISTORY_MAX))
        return send_error(
            fd, gw_fail(-EINVAL, "request: 'limit' is not a number from 1 to %u", GW_HISTORY_MAX));
    error =
        gw_history_list(options->history, limit ? (unsigned)json_integer_value(limit) : 20, &list);
    if (error)
        return send_error(fd, error);
    return send_answer(fd, json_pack("{s:b, s:o}", "ok", 1, "history", list));
}

static int answer_resolve(const struct gw_admin_options *options, int fd, json_t *request)
{
    return send_answer(fd, gw_settle(options->environment, request));
}

static int parse_bench(json_t *text, struct gw_bench_request *out)
{
    const char *peer = json_string_value(json_object_get(text, "to"));
    json_t *channels = json_object_get(text, "channels"), *ms = json_object_get(text, "ms");
    json_t *size = json_object_get(text, "size");

    *out = (struct gw_bench_request){0};
    if (!peer)
        return gw_fail(-EINVAL, "request: 'to' is missing");
    if (channels && (!json_is_integer(channels) || json_integer_value(channels) < 1 ||
                     json_integer_value(channels) > GW_BENCH_CHANNELS_MAX))
        return gw_fail(-EINVAL, "request: 'channels' is not a number from 1 to %u",
                       GW_BENCH_CHANNELS_MAX);
    if (ms && (!json_is_integer(ms) || json_integer_value(ms) < 10 ||
               json_integer_value(ms) > GW_BENCH_MS_MAX))
        return gw_fail(-EINVAL, "request: 'ms' is not a number from 10 to %u", GW_BENCH_MS_MAX);
    if (size && (!json_is_integer(size) || json_integer_value(size) < GW_BENCH_WRITE_MIN ||
                 json_integer_value(size) > GW_BENCH_WRITE_MAX))
        return gw_fail(-EINVAL, "request: 'size' is not a number from %u to %u", GW_BENCH_WRITE_MIN,
                       GW_BENCH_WRITE_MAX);
    out->write_bytes = (uint32_t)json_integer_value(size);
    out->link.channels = (unsigned)json_integer_value(channels);
    out->milliseconds = (uint32_t)json_integer_value(ms);
    out->link.transports = json_string_value(json_object_get(text, "transport"));
    return gw_address_parse(peer, GW_DEFAULT_PORT, &out->peer);
}

/* Measures on the connection's own thread: it takes seconds, and leaves no trace. */
static int answer_bench(const struct gw_admin_options *options, int fd, json_t *text)
{
    struct gw_bench_request request;
    struct gw_progress progress;
    json_t *answer;
    int error = parse_bench(text, &request);

    if (!error)
        error = gw_progress_init(&progress);
    if (error)
        return send_error(fd, error);
    error = gw_bench_run(options->environment, &request, &progress, &answer);
    gw_progress_free(&progress);
    if (!answer)
        return send_error(fd, error);
    json_object_set_new(answer, "ok", json_boolean(error == 0));
    if (error) {
        json_object_set_new(answer, "error", gw_json_text(gw_error_message()));
        json_object_set_new(answer, "exit_code",
                            json_integer(error == -EBADMSG  ? GW_EXIT_VERIFY
                                         : error == -EINVAL ? GW_EXIT_USAGE
                                                            : GW_EXIT_FAILED));
    }
    return send_answer(fd, answer);
}

static const struct request_kind kinds[] = {
    {"resume", answer_resume}, {"bench", answer_bench},     {"move", answer_submit},
    {"copy", answer_submit},   {"watch", answer_watch},     {"cancel", answer_cancel},
    {"status", answer_status}, {"history", answer_history}, {"resolve", answer_resolve},
};

int gw_admin_answer(const struct gw_admin_options *options, int fd, json_t *request)
{
    const char *name = json_string_value(json_object_get(request, "request"));

    if (!name)
        return send_error(fd, gw_fail(-EINVAL, "request: 'request' is missing"));
    for (size_t i = 0; i < GW_ARRAY_LENGTH(kinds); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return kinds[i].answer(options, fd, request);
    return send_error(fd, gw_fail(-EINVAL, "request '%.32s' does not exist", name));
}
