/* SPDX-License-Identifier: Apache-2.0 */
/* godwit history: what was migrated, from the agent and from the private agents' common file. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/client.h"
#include "agent/history.h"
#include "agent/paths.h"
#include "cli/agents.h"
#include "cli/command.h"
#include "common/error.h"

#define LIMIT_DEFAULT 20

struct context {
    bool is_json;
    const char *socket;
    long limit;
};

static int take(void *context, const char *name, const char *value)
{
    struct context *history = context;
    char *rest;

    if (strcmp(name, "json") == 0) {
        history->is_json = true;
    } else if (strcmp(name, "socket") == 0) {
        history->socket = value;
    } else {
        history->limit = strtol(value, &rest, 10);
        if (*rest || rest == value || history->limit < 1 || history->limit > (long)GW_HISTORY_MAX)
            return gw_fail(-EINVAL, "limit '%s' is not a number from 1 to %u", value,
                           GW_HISTORY_MAX);
    }
    return 0;
}

static const struct gw_usage_option options[] = {
    {"limit", "N", "at most so many; 20"},
    {"socket", "PATH", "this agent's only; also GODWIT_SOCKET"},
    {"json", NULL, "one JSON object"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "history",
    .arguments = "[OPTIONS]",
    .about =
        "Shows what this host migrated, newest first: through its agent, and through the private\n"
        "agents that godwit move started. A copy that ran in the command itself leaves no trace. "
        "What\n"
        "is in doubt now comes last, with the command that settles it; the exit code is 4 then.",
    .example = "  godwit history --limit 5",
    .options = options,
    .take = take,
};

static int ask_agent(const struct context *history, json_t **out)
{
    struct gw_client *client;
    json_t *request, *answer;
    int error = gw_client_find(history->socket, false, &client);

    if (error)
        return error;
    request = json_pack("{s:s, s:I}", "request", "history", "limit", (json_int_t)history->limit);
    error = gw_client_ask(client, request, &answer);
    json_decref(request);
    gw_client_close(client);
    if (error)
        return error;
    if (json_is_array(json_object_get(answer, "history"))) {
        *out = json_incref(json_object_get(answer, "history"));
    } else {
        const char *text = json_string_value(json_object_get(answer, "error"));

        error = gw_fail(-EIO, "%s", text ? text : "the agent's answer is not understood");
    }
    json_decref(answer);
    return error;
}

/* The private agents' file, when there is one. */
static int read_private(const struct context *history, json_t **out)
{
    char home[PATH_MAX], path[PATH_MAX];
    struct gw_history *file;
    int error = gw_path_state_home(home, sizeof(home));

    if (!error)
        error = gw_path_join(home, "history.db", path, sizeof(path));
    if (error || access(path, R_OK) != 0)
        return error;
    error = gw_history_open(path, &file);
    if (error)
        return error;
    error = gw_history_list(file, (unsigned)history->limit, out);
    gw_history_close(file);
    return error;
}

static int compare_entries(const void *a, const void *b)
{
    json_int_t first = json_integer_value(json_object_get(*(json_t *const *)a, "submitted_ms"));
    json_int_t second = json_integer_value(json_object_get(*(json_t *const *)b, "submitted_ms"));

    return (first < second) - (first > second);
}

/* One list, newest first, each migration once (an agent may have the state home as its folder). */
static json_t *merge(json_t *first, json_t *second, size_t limit)
{
    size_t count = 0, most = json_array_size(first) + json_array_size(second), i;
    json_t **entries = calloc(most + 1, sizeof(*entries)), *list = json_array(), *entry;

    json_array_foreach(first, i, entry) entries[count++] = entry;
    json_array_foreach(second, i, entry) entries[count++] = entry;
    qsort(entries, count, sizeof(*entries), compare_entries);
    for (i = 0; i < count && json_array_size(list) < limit; i++) {
        bool is_known = false;

        for (size_t k = 0; k < i && !is_known; k++)
            is_known =
                json_equal(json_object_get(entries[k], "job"), json_object_get(entries[i], "job"));
        if (!is_known)
            json_array_append(list, entries[i]);
    }
    free(entries);
    return list;
}

static void print_entry(const json_t *entry)
{
    static const char *const keys[] = {"job", "kind", "what", "peer", "state", "message"};
    const char *texts[6];
    time_t when = (time_t)(json_integer_value(json_object_get(entry, "submitted_ms")) / 1000);
    char date[32];
    struct tm local;

    for (int i = 0; i < 6; i++) {
        texts[i] = json_string_value(json_object_get(entry, keys[i]));
        if (!texts[i])
            texts[i] = "";
    }
    strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", localtime_r(&when, &local));
    printf("%s %s %-5s %s%s%s: %s, exit code %d%s%s\n", date, texts[0], texts[1], texts[2],
           *texts[3] ? " > " : "", texts[3], texts[4],
           (int)json_integer_value(json_object_get(entry, "exit_code")), *texts[5] ? ": " : "",
           texts[5]);
}

/* in_doubt: what is in doubt now, whatever the entries said when they ended. */
static void print_list(const json_t *list, const json_t *in_doubt, bool is_json)
{
    const json_t *entry;
    size_t i;

    if (is_json) {
        json_t *object = json_pack("{s:O, s:O}", "history", list, "in_doubt", in_doubt);

        json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(object);
        return;
    }
    json_array_foreach(list, i, entry) print_entry(entry);
    if (!json_array_size(list))
        puts("nothing was migrated yet");
    json_array_foreach(in_doubt, i, entry) gw_agents_print_doubt(entry);
}

/* A new list of the moves that are in doubt now. */
static json_t *ask_doubts(const struct context *history)
{
    json_t *agents = json_array(), *list = json_array(), *answer, *item;
    size_t i, j;

    if (!history->socket)
        gw_agents_add_left(agents);
    if (gw_agents_ask(history->socket, agents) == 0)
        json_array_foreach(agents, i, answer)
            json_array_foreach(json_object_get(answer, "in_doubt"), j,
                               item) if (json_is_true(json_object_get(item, "is_in_doubt")))
                json_array_append(list, item);
    json_decref(agents);
    return list;
}

int gw_command_history(int argc, char **argv)
{
    struct context history = {.limit = LIMIT_DEFAULT};
    json_t *agents = NULL, *private = NULL, *list, *in_doubt;
    int first, code, error;

    if (!gw_usage_parse(&usage, argc, argv, &history, &first, &code))
        return code;
    if (first < argc)
        return gw_usage_fail(&usage, "'%s' is not expected here", argv[first]);
    error = ask_agent(&history, &agents);
    if (error == -ENOENT && !history.socket)
        error = 0;
    if (!error && !history.socket)
        error = read_private(&history, &private);
    if (error) {
        fprintf(stderr, "godwit history: %s\n", gw_error_message());
    } else {
        list = merge(agents, private, (size_t)history.limit);
        in_doubt = ask_doubts(&history);
        print_list(list, in_doubt, history.is_json);
        code = json_array_size(in_doubt) ? GW_EXIT_IN_DOUBT : GW_EXIT_DONE;
        json_decref(in_doubt);
        json_decref(list);
    }
    json_decref(agents);
    json_decref(private);
    return error ? GW_EXIT_FAILED : code;
}
