/* SPDX-License-Identifier: Apache-2.0 */
/* godwit resolve: a person's word about a move in doubt, given to the agent that has it, or to the
 * state folder of an agent that does not run. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/client.h"
#include "agent/left.h"
#include "agent/settle.h"
#include "agent/snapshot.h"
#include "cli/command.h"
#include "common/error.h"

struct context {
    bool is_json, is_yes;
    const char *socket, *state, *move, *keep;
    bool is_confirmed;
    json_t *answer; /* of the agent that knows the move, or the last one that does not */
    bool is_known;
};

static int take(void *context, const char *name, const char *value)
{
    struct context *resolve = context;

    if (strcmp(name, "json") == 0)
        resolve->is_json = true;
    else if (strcmp(name, "yes") == 0)
        resolve->is_yes = true;
    else if (strcmp(name, "socket") == 0)
        resolve->socket = value;
    else if (strcmp(name, "state") == 0)
        resolve->state = value;
    else if (strcmp(value, "source") == 0 || strcmp(value, "target") == 0)
        resolve->keep = value;
    else
        return gw_fail(-EINVAL, "keep '%s' is neither source nor target", value);
    return 0;
}

static const struct gw_usage_option options[] = {
    {"keep", "SIDE", "source or target: the host that has the VM from now on"},
    {"yes", NULL, "do not ask; needed where there is no terminal"},
    {"state", "DIR", "the state folder of an agent that does not run; the usual ones"},
    {"socket", "PATH", "ask this agent only; also GODWIT_SOCKET"},
    {"json", NULL, "the result as one JSON object"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "resolve",
    .arguments = "MOVE --keep SIDE [OPTIONS]",
    .about =
        "Settles a move in doubt by your word, on either host. MOVE is the number that status "
        "shows,\n"
        "or the VM's name. Wait instead if the other host may come back: then the two settle it.\n"
        "Before you say so, make certain that the host that you give up cannot run the VM any "
        "more:\n"
        "power it off. If it runs it, there are two. And what the guest wrote there is lost.",
    .example = "  godwit resolve 3f9a12c4ab01 --keep source",
    .options = options,
    .take = take,
};

static json_t *make_request(const struct context *resolve)
{
    return json_pack("{s:s, s:s, s:s, s:b}", "request", "resolve", "move", resolve->move, "keep",
                     resolve->keep, "confirmed", (int)resolve->is_confirmed);
}

static void keep_answer(struct context *resolve, json_t *answer)
{
    json_decref(resolve->answer);
    resolve->answer = answer;
    resolve->is_known = !json_is_true(json_object_get(answer, "unknown"));
}

/* Stops at the first agent that knows the move. */
static int ask(struct gw_client *client, void *context)
{
    struct context *resolve = context;
    json_t *request = make_request(resolve), *answer;
    int error = gw_client_send(client, request);

    json_decref(request);
    if (!error)
        error = gw_client_receive(client, GW_SETTLE_TIMEOUT_MS, &answer);
    if (error)
        return 0;
    keep_answer(resolve, answer);
    return resolve->is_known ? 1 : 0;
}

/* The folder of an agent that does not run. -ENOENT: it knows no such move. */
static int settle_in(struct context *resolve, const char *folder)
{
    json_t *request = make_request(resolve), *answer;
    int error = gw_settle_here(folder, request, &answer);

    json_decref(request);
    if (!error)
        keep_answer(resolve, answer);
    return error;
}

/* What agents that do not run have left. Whose agent does run has answered itself. */
static int settle_left(const char *folder, void *context)
{
    struct context *resolve = context;
    int error = settle_in(resolve, folder);

    if (error && error != -ENOENT && error != -EBUSY)
        fprintf(stderr, "godwit resolve: %s\n", gw_error_message());
    return resolve->is_known ? 1 : 0;
}

/* Whoever knows the move answers: the agent, a private agent, or a folder without one. */
static int ask_all(struct context *resolve)
{
    struct gw_client *client;
    int error;

    resolve->is_known = false;
    if (resolve->state)
        return settle_in(resolve, resolve->state);
    error = gw_client_find(resolve->socket, false, &client);
    if (!error) {
        ask(client, resolve);
        gw_client_close(client);
    } else if (error != -ENOENT || resolve->socket) {
        return error;
    }
    if (!resolve->is_known && !resolve->socket)
        gw_client_each_private(ask, resolve);
    if (!resolve->is_known && !resolve->socket)
        gw_left_each(settle_left, resolve);
    return 0;
}

/* What the agent said, as an error of this thread. */
static int judge(const struct context *resolve, int *code)
{
    const char *text = json_string_value(json_object_get(resolve->answer, "error"));

    *code = GW_EXIT_FAILED;
    if (!resolve->answer)
        return gw_fail(-ENOENT, "no agent runs on this host, and none has left a move '%.64s'",
                       resolve->move);
    *code = (int)json_integer_value(json_object_get(resolve->answer, "exit_code"));
    return *code == GW_EXIT_DONE ? 0 : gw_fail(-EIO, "%s", text ? text : "it was refused");
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static void warn(const struct context *resolve)
{
    const json_t *move = json_object_get(resolve->answer, "move");
    bool is_source = strcmp(text_of(move, "side"), "source") == 0;
    bool keeps_this = strcmp(text_of(move, "side"), resolve->keep) == 0;
    const char *given_up = strcmp(resolve->keep, "source") == 0 ? "target" : "source";

    fprintf(stderr, "Move %.12s of %s: this host is the %s%s%s.\n%s: %s.\n\n",
            text_of(move, "epoch"), text_of(move, "vm"), text_of(move, "side"),
            is_source ? ", the target is " : "", text_of(move, "peer"), text_of(move, "state"),
            text_of(move, "meaning"));
    fprintf(stderr,
            "You give up the %s%s.\n"
            "1. Fence it first: power it off, or make certain otherwise that the VM does not and\n"
            "   will not run there. If it runs there%s, there are two.\n"
            "2. What the guest has written there is lost.\n\n",
            given_up, keeps_this ? "" : ", this host",
            keeps_this ? "" : " (nothing is fenced when this host cannot be reached by the other)");
}

/* False with *code when nothing is to be done. */
static bool confirm(const struct context *resolve, int *code)
{
    char line[16] = "";

    if (resolve->is_yes)
        return true;
    if (!isatty(STDIN_FILENO)) {
        fprintf(stderr, "godwit resolve: there is no terminal to ask on: give --yes if you are "
                        "certain\n");
        *code = GW_EXIT_USAGE;
        return false;
    }
    fprintf(stderr, "Keep the %s? Write yes: ", resolve->keep);
    if (fgets(line, sizeof(line), stdin) && strcmp(line, "yes\n") == 0)
        return true;
    fprintf(stderr, "Nothing was changed.\n");
    *code = GW_EXIT_IN_DOUBT;
    return false;
}

static void print(const struct context *resolve, int code)
{
    const json_t *move = json_object_get(resolve->answer, "move");
    json_t *object;

    if (!resolve->is_json) {
        if (code == GW_EXIT_DONE)
            printf("%.12s: %s: %s\n", text_of(move, "epoch"), text_of(move, "state"),
                   text_of(move, "meaning"));
        return;
    }
    object = json_pack("{s:s, s:i, s:o, s:O?}", "keep", resolve->keep, "exit_code", code, "error",
                       code ? gw_json_text(gw_error_message()) : json_null(), "move", move);
    json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
}

static int run(struct context *resolve)
{
    int code, error = ask_all(resolve);

    if (error)
        code = GW_EXIT_FAILED;
    else
        error = judge(resolve, &code);
    if (!error) {
        warn(resolve);
        if (!confirm(resolve, &code))
            return code;
        resolve->is_confirmed = true;
        code = GW_EXIT_FAILED;
        error = ask_all(resolve);
        if (!error)
            error = judge(resolve, &code);
    }
    if (error)
        fprintf(stderr, "godwit resolve: %s\n", gw_error_message());
    print(resolve, code);
    return code;
}

int gw_command_resolve(int argc, char **argv)
{
    struct context resolve = {.is_json = false};
    int first, code;

    if (!gw_usage_parse(&usage, argc, argv, &resolve, &first, &code))
        return code;
    if (argc - first != 1 || !argv[first][0])
        return gw_usage_fail(&usage, "expected one MOVE");
    if (!resolve.keep)
        return gw_usage_fail(&usage, "--keep source or --keep target is missing");
    resolve.move = argv[first];
    code = run(&resolve);
    json_decref(resolve.answer);
    return code;
}
