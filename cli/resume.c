/* SPDX-License-Identifier: Apache-2.0 */
/* godwit resume: goes on with a move or a copy that was lost; or lists what can be gone on with. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/client.h"
#include "agent/here.h"
#include "agent/resume.h"
#include "cli/agents.h"
#include "cli/follow.h"
#include "cli/task.h"
#include "common/error.h"
#include "engine/session/named.h"

struct resume {
    struct gw_task task;
    bool lists;
};

static int take(void *context, const char *name, const char *value)
{
    struct resume *resume = context;

    if (strcmp(name, "list") == 0) {
        resume->lists = true;
        return 0;
    }
    return gw_task_take(&resume->task, name, value);
}

static const struct gw_usage_option options[] = {
    {"list", NULL, "show what can be resumed, and do nothing"},
    {"socket", "PATH", "admin socket of the agent to use; also GODWIT_SOCKET"},
    {"detach", NULL, "start it in the agent and come back at once"},
    {"progress", NULL, "with --json: progress, too, one object a line"},
    {"json", NULL, "the result as one JSON object on standard output"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "resume",
    .arguments = "[ID|VM|SOURCE] [OPTIONS]",
    .about =
        "Goes on with a move or a copy that ended because an agent or the command died, a host\n"
        "was lost, or the link stayed away for too long. What the target has of its disks is\n"
        "compared with the source and not sent again; memory is. With the options of the move\n"
        "or copy itself. Without an argument the only one is meant. godwit cancel ID removes\n"
        "what is kept.",
    .example = "  godwit resume --list\n  godwit resume web1",
    .options = options,
    .take = take,
};

/* What is kept on this side: by the agents, and by copies that ran in a command of their own ("here"). */
static json_t *find_all(const struct gw_task *task)
{
    json_t *agents = json_array(), *list = json_array(), *agent, *item;
    struct gw_here_state state;
    size_t i, j;

    if (gw_agents_ask(task->socket, agents))
        json_array_clear(agents);
    json_array_foreach(agents, i, agent)
    {
        json_array_foreach(json_object_get(agent, "partials"), j, item)
            json_array_append(list, item);
    }
    json_decref(agents);
    if (!task->socket && gw_here_state_open(&state) == 0) {
        json_t *partials = gw_partials_describe(&state.environment);

        json_array_foreach(partials, i, item)
        {
            json_object_set_new(item, "here", json_true());
            json_array_append(list, item);
        }
        json_decref(partials);
        gw_here_state_close(&state);
    }
    for (i = json_array_size(list); i > 0; i--)
        if (strcmp(json_string_value(json_object_get(json_array_get(list, i - 1), "side")),
                   "source") != 0)
            json_array_remove(list, i - 1);
    return list;
}

static int print_list(const struct gw_task *task, const json_t *list)
{
    const json_t *item;
    size_t i;

    if (task->is_json) {
        json_t *object = json_pack("{s:O}", "kept", list);

        json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(object);
        return GW_EXIT_DONE;
    }
    json_array_foreach((json_t *)list, i, item) gw_agents_print_kept(item);
    if (!json_array_size(list))
        puts("nothing is kept that could be resumed");
    return GW_EXIT_DONE;
}

static bool is_meant(const json_t *item, const char *which)
{
    return !which || gw_named_is(json_string_value(json_object_get(item, "epoch")),
                                 json_string_value(json_object_get(item, "vm")), which);
}

/* The one that is meant, or NULL: then the agent says what is wrong. */
static const json_t *choose(const json_t *list, const char *which, unsigned *matches)
{
    const json_t *item, *found = NULL;
    size_t i;

    *matches = 0;
    json_array_foreach((json_t *)list, i, item)
    {
        if (!is_meant(item, which) || json_is_false(json_object_get(item, "kept")))
            continue;
        found = item;
        (*matches)++;
    }
    return *matches == 1 ? found : NULL;
}

static int run_here(struct gw_task *task, const char *epoch)
{
    struct gw_here_state state;
    json_t *text = NULL;
    int error = gw_here_state_open(&state);

    if (!error) {
        error = gw_resume_request(&state.environment, epoch, &text);
        gw_here_state_close(&state);
    }
    if (error) {
        fprintf(stderr, "godwit resume: %s\n", gw_error_message());
        return GW_EXIT_FAILED;
    }
    json_decref(task->request);
    task->request = text;
    return gw_follow_here(task);
}

static int run_in_agent(struct gw_task *task)
{
    struct gw_client *client;
    int code;

    if (gw_client_find(task->socket, false, &client)) {
        fprintf(stderr, "godwit resume: %s\n", gw_error_message());
        return GW_EXIT_FAILED;
    }
    code = gw_task_submit(task, client);
    gw_client_close(client);
    return code;
}

static int run(struct resume *resume, const char *which)
{
    json_t *list = find_all(&resume->task);
    const json_t *found;
    unsigned matches;
    int code;

    if (resume->lists) {
        code = print_list(&resume->task, list);
        json_decref(list);
        return code;
    }
    found = choose(list, which, &matches);
    if (matches > 1) {
        fprintf(stderr, "godwit resume: more than one fits: say which\n");
        print_list(&resume->task, list);
        code = GW_EXIT_USAGE;
    } else if (found && json_is_true(json_object_get(found, "here"))) {
        code = run_here(&resume->task, json_string_value(json_object_get(found, "epoch")));
    } else {
        code = run_in_agent(&resume->task);
    }
    json_decref(list);
    return code;
}

int gw_command_resume(int argc, char **argv)
{
    struct resume resume = {.lists = false};
    int first, code = GW_EXIT_FAILED;

    if (gw_task_init(&resume.task, "resume") != 0)
        return code;
    if (gw_usage_parse(&usage, argc, argv, &resume, &first, &code)) {
        const char *which = argc > first ? argv[first] : NULL;

        if (argc - first > 1)
            code = gw_usage_fail(&usage, "expected one ID, VM or SOURCE at most");
        else if (which && gw_named_check(which))
            code = gw_usage_fail(&usage, "%s", gw_error_message());
        else if (which && gw_task_set_text(&resume.task, "move", which))
            code = gw_usage_fail(&usage, "%s", gw_error_message());
        else
            code = run(&resume, which);
    }
    gw_task_free(&resume.task);
    return code;
}
