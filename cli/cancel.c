/* SPDX-License-Identifier: Apache-2.0 */
/* godwit cancel: asks the agent that runs a migration to end it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/client.h"
#include "agent/here.h"
#include "agent/resume.h"
#include "cli/command.h"
#include "common/error.h"

struct context {
    bool is_json;
    const char *socket;
    const char *job;
    bool has_answer;
    int code;
    char text[GW_ERROR_TEXT_MAX];
};

static int take(void *context, const char *name, const char *value)
{
    struct context *cancel = context;

    if (strcmp(name, "json") == 0)
        cancel->is_json = true;
    else
        cancel->socket = value;
    return 0;
}

static const struct gw_usage_option options[] = {
    {"socket", "PATH", "ask this agent only; also GODWIT_SOCKET"},
    {"json", NULL, "the result as one JSON object"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "cancel",
    .arguments = "JOB [OPTIONS]",
    .about =
        "Ends a migration that waits or runs; the VM runs on at its source. JOB is what move, "
        "copy\n"
        "and status print; its first four digits are enough. After the point of no return it is\n"
        "refused, with exit code 4.",
    .example = "  godwit cancel 3f9a",
    .options = options,
    .take = take,
};

/* Stops at the first agent that knows the job. */
static int ask(struct gw_client *client, void *context)
{
    struct context *cancel = context;
    json_t *request = json_pack("{s:s, s:s}", "request", "cancel", "job", cancel->job), *answer;
    const char *text;
    int error = gw_client_ask(client, request, &answer);

    json_decref(request);
    if (error)
        return 0;
    text = json_string_value(json_object_get(answer, "error"));
    snprintf(cancel->text, sizeof(cancel->text), "%s", text ? text : "");
    cancel->code = (int)json_integer_value(json_object_get(answer, "exit_code"));
    cancel->has_answer = !json_is_true(json_object_get(answer, "unknown"));
    json_decref(answer);
    return cancel->has_answer ? 1 : 0;
}

/* What a copy left that ran in a command of its own. -ENOENT. */
static int cancel_here(const char *job)
{
    struct gw_here_state state;
    int error = gw_here_state_open(&state);

    if (error)
        return -ENOENT;
    error = gw_resume_cancel(&state.environment, job);
    gw_here_state_close(&state);
    return error;
}

static int run(struct context *cancel)
{
    struct gw_client *client;
    int error = gw_client_find(cancel->socket, false, &client);

    if (!error) {
        ask(client, cancel);
        gw_client_close(client);
    } else if (error != -ENOENT || cancel->socket) {
        return error;
    }
    if (!cancel->has_answer && !cancel->socket)
        error = gw_client_each_private(ask, cancel);
    if (error < 0 && error != -ENOENT)
        return error;
    if (!cancel->has_answer && !cancel->socket) {
        error = cancel_here(cancel->job);
        if (error != -ENOENT)
            return error;
    }
    if (!cancel->has_answer)
        return gw_fail(-ENOENT, "no migration '%.16s' runs here: see godwit status", cancel->job);
    return cancel->code ? gw_fail(-EIO, "%s", cancel->text) : 0;
}

int gw_command_cancel(int argc, char **argv)
{
    struct context cancel = {.is_json = false};
    int first, code;
    json_t *object;

    if (!gw_usage_parse(&usage, argc, argv, &cancel, &first, &code))
        return code;
    if (argc - first != 1 || !argv[first][0])
        return gw_usage_fail(&usage, "expected one JOB");
    cancel.job = argv[first];
    code = GW_EXIT_DONE;
    if (run(&cancel) != 0) {
        code = cancel.code ? cancel.code : GW_EXIT_FAILED;
        fprintf(stderr, "godwit cancel: %s\n", gw_error_message());
    } else if (!cancel.is_json) {
        printf("%s: cancelled\n", cancel.job);
    }
    if (cancel.is_json) {
        object = json_pack("{s:s, s:i, s:s?}", "job", cancel.job, "exit_code", code, "error",
                           code ? gw_error_message() : NULL);
        json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(object);
    }
    return code;
}
