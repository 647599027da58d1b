/* SPDX-License-Identifier: Apache-2.0 */
/* godwit status: what every agent of this user on this host does. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/snapshot.h"
#include "cli/agents.h"
#include "cli/command.h"
#include "cli/meter.h"
#include "common/error.h"

#define WATCH_EVERY_S 1

struct context {
    bool is_watching, is_json, shows_ended;
    const char *socket;
    json_t *agents; /* the answers */
};

static int take(void *context, const char *name, const char *value)
{
    struct context *status = context;

    if (strcmp(name, "watch") == 0)
        status->is_watching = true;
    else if (strcmp(name, "json") == 0)
        status->is_json = true;
    else if (strcmp(name, "all") == 0)
        status->shows_ended = true;
    else
        status->socket = value;
    return 0;
}

static const struct gw_usage_option options[] = {
    {"watch", NULL, "again every second, until Ctrl-C"},
    {"all", NULL, "with what has ended lately, too"},
    {"socket", "PATH", "this agent only; also GODWIT_SOCKET"},
    {"json", NULL, "one JSON object (with --watch: one a line)"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "status",
    .arguments = "[OPTIONS]",
    .about =
        "Shows what the agents of this host do: what runs, what waits, and what is in doubt, with\n"
        "the command that settles it. Private agents of godwit move are among them. The exit code "
        "is 4\n"
        "while something is in doubt.",
    .example = "  godwit status --watch",
    .options = options,
    .take = take,
};

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

/* Which way each volume takes. */
static void print_paths(const struct gw_progress_data *data)
{
    char copied[32];

    for (unsigned i = 0; i < data->volume_count; i++)
        printf("           %s: %s, %s copied here\n", data->volumes[i].name, data->volumes[i].path,
               gw_size_text(data->volumes[i].copied_bytes, copied, sizeof(copied)));
    if (data->path_note[0])
        printf("           %s\n", data->path_note);
}

static void print_job(const json_t *job, bool shows_ended)
{
    const char *state = text_of(job, "state"), *peer = text_of(job, "peer");
    struct gw_progress_data data;
    char line[GW_METER_LINE_MAX];

    if (strcmp(state, "ended") == 0) {
        if (shows_ended)
            printf("  %s %-5s %s%s%s: ended, exit code %d%s%s\n", text_of(job, "job"),
                   text_of(job, "kind"), text_of(job, "what"), *peer ? " > " : "", peer,
                   (int)json_integer_value(json_object_get(job, "exit_code")),
                   *text_of(job, "message") ? ": " : "", text_of(job, "message"));
        return;
    }
    printf("  %s %-5s %s%s%s: %s\n", text_of(job, "job"), text_of(job, "kind"),
           text_of(job, "what"), *peer ? " > " : "", peer, state);
    if (strcmp(state, "running") != 0)
        return;
    gw_snapshot_read(json_object_get(job, "progress"), &data);
    gw_meter_line(&data, line, sizeof(line));
    printf("           %s\n", line);
    if (data.state[0] || data.transport[0])
        printf("           %s%s%s\n", data.state, data.state[0] && data.transport[0] ? "; " : "",
               data.transport);
    print_paths(&data);
    if (data.note[0])
        printf("           %s\n", data.note);
}

/* What waits for an agent, or for a person. */
static void print_waiting(const json_t *answer)
{
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(answer, "partials"), i, item) gw_agents_print_kept(item);
    json_array_foreach(json_object_get(answer, "in_doubt"), i, item) gw_agents_print_doubt(item);
}

/* Whose agent was killed, or ended by its owner. */
static void print_left(const json_t *answer)
{
    const json_t *agent = json_object_get(answer, "agent");
    bool is_private = json_is_true(json_object_get(agent, "private"));

    printf("no agent has %s any more: %sgodwit agent %s--state %s goes on with what it left\n",
           text_of(agent, "state"),
           is_private ? "the next godwit move that starts its own, or " : "",
           is_private ? "--private " : "", text_of(agent, "state"));
    print_waiting(answer);
}

static void print_agent(const json_t *answer, bool shows_ended)
{
    const json_t *agent = json_object_get(answer, "agent"), *item;
    size_t i, active = 0;

    if (json_is_true(json_object_get(agent, "left"))) {
        print_left(answer);
        return;
    }
    printf("%sagent %s, process %d, %s\n",
           json_is_true(json_object_get(agent, "private")) ? "private " : "",
           text_of(agent, "version"), (int)json_integer_value(json_object_get(agent, "pid")),
           text_of(answer, "socket"));
    json_array_foreach(json_object_get(agent, "listen"), i, item)
        printf("  listens on %s\n", json_string_value(item));
    json_array_foreach(json_object_get(agent, "transports"), i, item)
    {
        if (*text_of(item, "variant"))
            printf("  transport %s is over %s\n", text_of(item, "name"), text_of(item, "variant"));
        if (*text_of(item, "reason"))
            printf("  transport %s is not used: %s\n", text_of(item, "name"),
                   text_of(item, "reason"));
    }
    json_array_foreach(json_object_get(answer, "jobs"), i, item)
    {
        active += strcmp(text_of(item, "state"), "ended") != 0;
        print_job(item, shows_ended);
    }
    if (!active)
        puts("  nothing runs");
    print_waiting(answer);
}

static void print_all(const struct context *status)
{
    const json_t *answer;
    size_t i;

    if (status->is_json) {
        json_t *object = json_pack("{s:O}", "agents", status->agents);

        json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(object);
        return;
    }
    if (status->is_watching && isatty(STDOUT_FILENO))
        fputs("\033[H\033[2J", stdout);
    json_array_foreach(status->agents, i, answer) print_agent(answer, status->shows_ended);
    if (!json_array_size(status->agents))
        puts("no agent runs on this host: start one with godwit agent, or godwit move starts its "
             "own");
}

int gw_command_status(int argc, char **argv)
{
    struct context status = {.is_watching = false};
    bool is_in_doubt = false;
    int first, code, error;

    if (!gw_usage_parse(&usage, argc, argv, &status, &first, &code))
        return code;
    if (first < argc)
        return gw_usage_fail(&usage, "'%s' is not expected here", argv[first]);
    do {
        status.agents = json_array();
        error = gw_agents_ask(status.socket, status.agents);
        if (!error && !status.socket)
            gw_agents_add_left(status.agents);
        is_in_doubt = gw_agents_doubts(status.agents) > 0;
        if (!error)
            print_all(&status);
        json_decref(status.agents);
        if (fflush(stdout) != 0)
            break;
    } while (!error && status.is_watching && sleep(WATCH_EVERY_S) == 0);
    if (error)
        fprintf(stderr, "godwit status: %s\n", gw_error_message());
    if (error)
        return GW_EXIT_FAILED;
    return is_in_doubt ? GW_EXIT_IN_DOUBT : GW_EXIT_DONE;
}
