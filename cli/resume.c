/* SPDX-License-Identifier: Apache-2.0 */
/* godwit resume: goes on with a move that was lost. */
#include <errno.h>
#include <stdio.h>

#include "agent/client.h"
#include "cli/task.h"
#include "common/error.h"

static int take(void *context, const char *name, const char *value)
{
    return gw_task_take(context, name, value);
}

static const struct gw_usage_option options[] = {
    {"socket", "PATH", "admin socket of the agent to use; also GODWIT_SOCKET"},
    {"detach", NULL, "start it in the agent and come back at once"},
    {"progress", NULL, "with --json: progress, too, one object a line"},
    {"json", NULL, "the result as one JSON object on standard output"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "resume",
    .arguments = "[EPOCH|VM] [OPTIONS]",
    .about = "Goes on with a move that ended because an agent died or the link was lost for too "
             "long:\n"
             "what the target had on its disks is not sent again, memory is. With the options of "
             "the\n"
             "move itself. godwit status shows what can be resumed, and godwit cancel removes it.",
    .example = "  godwit resume web1",
    .options = options,
    .take = take,
};

static int run(struct gw_task *task)
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

int gw_command_resume(int argc, char **argv)
{
    struct gw_task task;
    int first, code = GW_EXIT_FAILED;

    if (gw_task_init(&task, "resume") != 0)
        return code;
    if (gw_usage_parse(&usage, argc, argv, &task, &first, &code)) {
        if (argc - first > 1)
            code = gw_usage_fail(&usage, "expected one EPOCH or VM at most");
        else if (argc > first && gw_task_set_text(&task, "move", argv[first]))
            code = gw_usage_fail(&usage, "%s", gw_error_message());
        else
            code = run(&task);
    }
    gw_task_free(&task);
    return code;
}
