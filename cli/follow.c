/* SPDX-License-Identifier: Apache-2.0 */
/* Shows progress until the end, and lets Ctrl-C detach (agent) or cancel (here). */
#include "cli/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "agent/here.h"
#include "agent/snapshot.h"
#include "cli/meter.h"
#include "cli/summary.h"
#include "common/clock.h"

/* From here on SIGINT arrives on the descriptor, in place of ending the process. */
static int catch_interrupt(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    return signalfd(-1, &signals, SFD_CLOEXEC);
}

static void print_ways(const struct gw_task *task, const char *job, const char *first)
{
    fprintf(stderr, "%s %s %s goes on; watch it: godwit status --watch; end it: godwit cancel %s\n",
            first, task->command, job, job);
}

int gw_follow_detached(const struct gw_task *task, const char *job)
{
    json_t *object;

    if (!task->is_json) {
        print_ways(task, job, "started:");
        puts(job);
        return GW_EXIT_DONE;
    }
    object = json_pack("{s:s, s:s, s:s, s:i}", "event", "detached", "command", task->command, "job",
                       job, "exit_code", 0);
    json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
    return GW_EXIT_DONE;
}

static int print_end(const struct gw_task *task, const char *job, const json_t *end)
{
    const json_t *progress = json_object_get(end, "progress");
    struct gw_progress_data data;
    struct gw_summary summary = {
        .command = task->command,
        .job = job,
        .exit_code = (enum gw_exit)json_integer_value(json_object_get(end, "exit_code")),
        .message = json_string_value(json_object_get(end, "message")),
        .detail = json_object_get(end, "detail"),
        .progress = &data,
    };

    gw_snapshot_read(progress, &data);
    if (!data.ended_ns)
        data.ended_ns = gw_clock_ns();
    gw_summary_print(&summary, task->is_json);
    return (int)summary.exit_code;
}

/* The agent went away in the middle. */
static int print_lost(const struct gw_task *task, const char *job)
{
    char text[GW_ERROR_TEXT_MAX];
    struct gw_summary summary = {
        .command = task->command,
        .job = job,
        .exit_code = GW_EXIT_IN_DOUBT,
        .message = text,
    };

    snprintf(text, sizeof(text),
             "the agent ended before it told how %s ended: start it again and ask godwit status",
             job);
    gw_summary_print(&summary, task->is_json);
    return (int)summary.exit_code;
}

/* One line of the agent. True when it was the last. */
static bool take_line(const struct gw_task *task, struct gw_meter *meter, const char *job,
                      json_t *line, int *code)
{
    const char *event = json_string_value(json_object_get(line, "event"));
    struct gw_progress_data data;

    if (event && strcmp(event, "progress") == 0) {
        gw_snapshot_read(json_object_get(line, "progress"), &data);
        gw_meter_show(meter, &data);
        return false;
    }
    gw_meter_end(meter);
    *code =
        event && strcmp(event, "ended") == 0 ? print_end(task, job, line) : print_lost(task, job);
    return true;
}

static bool drain(const struct gw_task *task, struct gw_client *client, struct gw_meter *meter,
                  const char *job, int *code)
{
    do {
        json_t *line;
        bool is_last;

        if (gw_client_receive(client, 1000, &line) != 0) {
            gw_meter_end(meter);
            *code = print_lost(task, job);
            return true;
        }
        is_last = take_line(task, meter, job, line, code);
        json_decref(line);
        if (is_last)
            return true;
    } while (gw_client_has_line(client));
    return false;
}

int gw_follow_job(const struct gw_task *task, struct gw_client *client, const char *job)
{
    struct pollfd items[2] = {
        {.fd = gw_client_fd(client), .events = POLLIN},
        {.fd = catch_interrupt(), .events = POLLIN},
    };
    json_t *request = json_pack("{s:s, s:s}", "request", "watch", "job", job);
    int code = GW_EXIT_FAILED, error = gw_client_send(client, request);
    struct gw_meter meter;

    json_decref(request);
    if (error)
        return print_lost(task, job);
    gw_meter_init(&meter, task->is_json, task->wants_progress);
    for (;;) {
        if (poll(items, 2, -1) < 0 && errno != EINTR)
            break;
        if (items[1].revents & POLLIN) {
            gw_meter_end(&meter);
            print_ways(task, job, "detached:");
            code = GW_TASK_DETACHED;
            break;
        }
        if (items[0].revents && drain(task, client, &meter, job, &code))
            break;
    }
    close(items[1].fd);
    return code;
}

struct here {
    struct gw_meter meter;
    int interrupt_fd;
    bool is_cancelled;
};

/* One Ctrl-C cancels; the copy still takes a moment to end. */
static int tick(const struct gw_progress_data *data, void *context)
{
    struct here *here = context;
    struct pollfd item = {.fd = here->interrupt_fd, .events = POLLIN};

    gw_meter_show(&here->meter, data);
    if (here->is_cancelled || poll(&item, 1, 0) <= 0)
        return 0;
    here->is_cancelled = true;
    return 1;
}

int gw_follow_here(const struct gw_task *task)
{
    struct here here = {.interrupt_fd = catch_interrupt()};
    const struct gw_here_options options = {
        .request = task->request,
        .settings = task->credentials.settings.items,
        .setting_count = task->credentials.settings.count,
        .keeps = true,
        .tick = tick,
        .context = &here,
    };
    struct gw_result result = {.exit_code = GW_EXIT_FAILED};
    struct gw_progress_data last;
    struct gw_summary summary = {.command = task->command};
    int error;

    gw_meter_init(&here.meter, task->is_json, task->wants_progress);
    error = gw_here_run(&options, &result, &last);
    gw_meter_end(&here.meter);
    close(here.interrupt_fd);
    summary.exit_code = result.exit_code;
    summary.detail = result.detail;
    summary.message = error ? gw_error_message() : result.message;
    summary.progress = error ? NULL : &last;
    gw_summary_print(&summary, task->is_json);
    gw_result_free(&result);
    return (int)summary.exit_code;
}
