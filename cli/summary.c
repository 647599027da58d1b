/* SPDX-License-Identifier: Apache-2.0 */
/* Prints results. The engine's detail is shown as it is: what this file does not know by name is in
 * the JSON all the same. */
#include "cli/summary.h"

#include <stdio.h>
#include <string.h>

#include "agent/run.h"
#include "agent/snapshot.h"
#include "cli/meter.h"
#include "common/clock.h"

static void print_json(const struct gw_summary *summary)
{
    json_t *object =
        json_pack("{s:s, s:i, s:s}", "event", "ended", "exit_code", (int)summary->exit_code,
                  "verdict", gw_exit_verdict(summary->exit_code));

    json_object_set_new(object, "command", json_string(summary->command));
    json_object_set_new(object, "job", summary->job ? json_string(summary->job) : json_null());
    json_object_set_new(object, "error",
                        summary->message && *summary->message ? gw_json_text(summary->message)
                                                              : json_null());
    json_object_set_new(object, "detail",
                        summary->detail ? json_deep_copy(summary->detail) : json_null());
    if (summary->progress)
        json_object_set_new(object, "progress", gw_snapshot_new(summary->progress));
    json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(object);
}

/* What arrived where: the engine's list "volumes" of objects with a name and a path on the target.
 */
static void print_volumes(const json_t *detail)
{
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(detail, "volumes"), i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        const char *path = json_string_value(json_object_get(item, "path"));
        const char *warning = json_string_value(json_object_get(item, "warning"));

        if (name && path)
            printf("  %-12s %s\n", name, path);
        if (warning)
            printf("  warning      %s\n", warning);
    }
}

static void print_numbers(const struct gw_progress_data *data)
{
    uint64_t elapsed = data->ended_ns > data->started_ns ? data->ended_ns - data->started_ns : 0;
    double seconds = (double)elapsed / (double)GW_NS_PER_S;
    char sent[32], zero[32], rate[32];

    if (!data->started_ns)
        return;
    if (!data->bytes_sent && !data->bytes_zero)
        printf("  time         %.1f s\n", seconds);
    else
        printf("  sent         %s in %.1f s, %s/s; %s were zero\n",
               gw_size_text(data->bytes_sent, sent, sizeof(sent)), seconds,
               gw_size_text(seconds > 0 ? (uint64_t)((double)data->bytes_sent / seconds) : 0, rate,
                            sizeof(rate)),
               gw_size_text(data->bytes_zero, zero, sizeof(zero)));
    if (data->round)
        printf("  rounds       %u\n", data->round);
    if (data->transport[0])
        printf("  transport    %s%s%s, %u channels\n", data->transport, data->path[0] ? ", " : "",
               data->path, data->channel_count);
}

/* The pause and, where the engine split it, its parts: the object "pause" of names and
 * milliseconds. */
static void print_pause(const struct gw_summary *summary)
{
    const char *name, *separator = " (";
    json_t *parts = json_object_get(summary->detail, "pause"), *value;

    if (!summary->progress || !summary->progress->pause_ns)
        return;
    printf("  pause        %.1f ms", (double)summary->progress->pause_ns / (double)GW_NS_PER_MS);
    json_object_foreach(parts, name, value)
    {
        if (!json_is_number(value))
            continue;
        printf("%s%s %.1f", separator, name, json_number_value(value));
        separator = ", ";
    }
    puts(separator[0] == ',' ? ")" : "");
}

static void print_blocked(const json_t *detail)
{
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(detail, "blocked"), i, item)
    {
        const char *reason = json_string_value(item);

        if (reason)
            fprintf(stderr, "  - %s\n", reason);
    }
}

void gw_summary_print(const struct gw_summary *summary, bool is_json)
{
    bool is_done = summary->exit_code == GW_EXIT_DONE;

    if (summary->message && *summary->message && !is_done)
        fprintf(stderr, "godwit %s: %s\n", summary->command, summary->message);
    if (is_json) {
        print_json(summary);
        return;
    }
    if (!is_done)
        print_blocked(summary->detail);
    if (is_done) {
        print_volumes(summary->detail);
        if (summary->progress)
            print_numbers(summary->progress);
        print_pause(summary);
    }
    if (is_done)
        printf("%s: %s\n", summary->command, gw_exit_verdict(summary->exit_code));
    else if (summary->progress)
        fprintf(stderr, "%s: %s\n", summary->command, gw_exit_verdict(summary->exit_code));
}
