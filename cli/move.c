/* SPDX-License-Identifier: Apache-2.0 */
/* godwit move: the command line of a move. */
#include <errno.h>
#include <string.h>

#include "cli/task.h"
#include "common/error.h"

static int take(void *context, const char *name, const char *value)
{
    struct gw_task *task = context;

    if (strcmp(name, "qmp") == 0)
        return gw_task_set_path(task, "qmp", value);
    if (strcmp(name, "to") == 0 || strcmp(name, "storage") == 0 || strcmp(name, "tracker") == 0)
        return gw_task_set_text(task, name, value);
    if (strcmp(name, "disk") == 0)
        return gw_task_set_mapping(task, "disks", value);
    if (strcmp(name, "net") == 0)
        return gw_task_set_mapping(task, "nets", value);
    if (strcmp(name, "max-pause") == 0)
        return gw_task_set_number(task, "max_pause_ms", value);
    if (strcmp(name, "sync-every") == 0)
        return gw_task_set_number(task, "sync_every_s", value);
    if (strcmp(name, "pin-limit") == 0)
        return gw_task_set_text(task, "pin_limit", value);
    if (strcmp(name, "no-throttle") == 0)
        return gw_task_set_flag(task, "no_throttle");
    if (strcmp(name, "delete-source") == 0)
        return gw_task_set_flag(task, "delete_source");
    return gw_task_take(task, name, value);
}

static const struct gw_usage_option options[] = {
    {"qmp", "PATH", "the VM's monitor: a QMP UNIX socket that nobody else uses"},
    {"to", "HOST[:PORT]", "the host that takes the VM; an agent listens there, port 13560"},
    {"storage", "DIR", "folder for the disks on the target, within its own storage"},
    {"disk", "NAME=PATH", "where one disk goes on the target (repeatable)"},
    {"net", "OLD=NEW", "a bridge that has another name there (repeatable)"},
    {"max-pause", "MS", "longest pause to aim at; 300"},
    {"no-throttle", NULL, "never slow the guest down to make it converge"},
    {"sync-every", "S", "how much of the disks' first pass a resume repeats at most; 10"},
    {"delete-source", NULL, "remove the renamed images here once the VM runs there"},
    {"pin-limit", "SIZE", "memory registered for RDMA at once (8G, ...); the agent's"},
    {"tracker", "KIND", "how writes to RAM are seen: auto, uffd, softdirty or compare"},
    GW_TASK_OPTIONS,
};

static const struct gw_usage usage = {
    .name = "move",
    .arguments = "--qmp PATH --to HOST[:PORT] [OPTIONS]",
    .about =
        "Moves a running VM: its disks while it runs, then its memory, then a short pause. In "
        "this\n"
        "host's agent, or, where none runs, in a private one that outlives the terminal. Ctrl-C\n"
        "detaches (exit code 130) and the move goes on; godwit cancel ends it.",
    .example = "  godwit move --psk lab.psk --qmp /run/web1.qmp --to 10.77.0.2",
    .options = options,
    .take = take,
};

static int check(int argc, char **argv, int first, const struct gw_task *task)
{
    if (first < argc)
        return gw_usage_fail(&usage, "'%s' is not expected here", argv[first]);
    if (!json_object_get(task->request, "qmp"))
        return gw_usage_fail(&usage, "which VM? --qmp PATH is missing");
    if (!json_object_get(task->request, "to"))
        return gw_usage_fail(&usage, "where to? --to HOST is missing");
    return 0;
}

int gw_command_move(int argc, char **argv)
{
    struct gw_task task;
    int first, code = GW_EXIT_FAILED;

    if (gw_task_init(&task, "move") != 0)
        return code;
    if (gw_usage_parse(&usage, argc, argv, &task, &first, &code)) {
        code = check(argc, argv, first, &task);
        if (!code)
            code = gw_task_run(&usage, &task);
    }
    gw_task_free(&task);
    return code;
}
