/* SPDX-License-Identifier: Apache-2.0 */
/* godwit bench: asks this host's agent to measure the transports to another one, and prints what it
 * found. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/client.h"
#include "cli/command.h"
#include "cli/task.h"
#include "common/error.h"

#define ANSWER_TIMEOUT_MS 300000

struct context {
    bool is_json;
    const char *socket, *transport;
    long channels, ms;
    uint64_t size; /* of each write; 0: the usual ones */
};

static int number(const char *name, const char *value, long least, long most, long *out)
{
    char *rest;

    *out = strtol(value, &rest, 10);
    if (*rest || rest == value || *out < least || *out > most)
        return gw_fail(-EINVAL, "%s '%s' is not a number from %ld to %ld", name, value, least,
                       most);
    return 0;
}

static int take_size(const char *value, uint64_t *out)
{
    int error = gw_size_parse("size", value, out);

    if (!error && (*out < GW_BENCH_WRITE_MIN || *out > GW_BENCH_WRITE_MAX))
        error = gw_fail(-EINVAL, "size '%s' is not from %u bytes to 1M", value, GW_BENCH_WRITE_MIN);
    return error;
}

static int take(void *context, const char *name, const char *value)
{
    struct context *bench = context;

    if (strcmp(name, "json") == 0)
        bench->is_json = true;
    else if (strcmp(name, "socket") == 0)
        bench->socket = value;
    else if (strcmp(name, "transport") == 0)
        bench->transport = value;
    else if (strcmp(name, "channels") == 0)
        return number(name, value, 1, GW_BENCH_CHANNELS_MAX, &bench->channels);
    else if (strcmp(name, "size") == 0)
        return take_size(value, &bench->size);
    else
        return number(name, value, 10, GW_BENCH_MS_MAX, &bench->ms);
    return 0;
}

static const struct gw_usage_option options[] = {
    {"transport", "NAMES", "only these (with commas); all that both hosts have"},
    {"channels", "N", "of each transport, 1 to 8; 1"},
    {"size", "SIZE", "of each write, 512 to 1M; 4K, 64K and 1M one after the other"},
    {"ms", "N", "milliseconds of writing for each size, 10 to 10000; 1000"},
    {"socket", "PATH", "this host's agent; also GODWIT_SOCKET"},
    {"json", NULL, "one JSON object"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "bench",
    .arguments = "[OPTIONS] HOST",
    .about =
        "Measures each transport between this host's agent and the agent of HOST, which must run\n"
        "with --allow-bench: throughput of writes by size, CPU seconds per GB at both ends, and "
        "the\n"
        "round trip of a message. The bytes are not encrypted, and after each size the target\n"
        "compares a sample of them.",
    .example = "  godwit bench hostb --channels 2",
    .options = options,
    .take = take,
};

static const char *size_text(json_int_t size, char *out, size_t room)
{
    if (size % (1 << 20) == 0)
        snprintf(out, room, "%dM", (int)(size >> 20));
    else if (size % (1 << 10) == 0)
        snprintf(out, room, "%dK", (int)(size >> 10));
    else
        snprintf(out, room, "%d", (int)size);
    return out;
}

static double real(const json_t *object, const char *name)
{
    return json_number_value(json_object_get(object, name));
}

static void print_transport(const json_t *one)
{
    const char *name = json_string_value(json_object_get(one, "transport"));
    const char *error = json_string_value(json_object_get(one, "error"));
    const json_t *times = json_object_get(one, "round_trip_us"), *write;
    char size[16];
    size_t i;

    printf("%s, %d channel%s\n", name ? name : "?",
           (int)json_integer_value(json_object_get(one, "channels")),
           json_integer_value(json_object_get(one, "channels")) == 1 ? "" : "s");
    if (times)
        printf("  round trip of a message  %.1f us (least %.1f, 99 of 100 within %.1f)\n",
               real(times, "median"), real(times, "minimum"), real(times, "p99"));
    if (json_array_size(json_object_get(one, "writes")))
        printf("  %5s %10s %16s %16s  %s\n", "write", "MB/s", "CPU s/GB source", "CPU s/GB target",
               "bytes");
    json_array_foreach(json_object_get(one, "writes"), i, write)
    {
        printf("  %5s %10.1f %16.3f %16.3f  %s\n",
               size_text(json_integer_value(json_object_get(write, "size")), size, sizeof(size)),
               real(write, "bytes_per_second") / 1e6, real(write, "source_cpu_seconds_per_gb"),
               real(write, "target_cpu_seconds_per_gb"),
               json_is_true(json_object_get(write, "verified")) ? "verified" : "WRONG");
    }
    if (error)
        printf("  failed: %s\n", error);
}

static void print_answer(json_t *answer)
{
    const json_t *one;
    size_t i;

    json_array_foreach(json_object_get(answer, "transports"), i, one) print_transport(one);
    json_array_foreach(json_object_get(answer, "passed_over"), i, one)
    {
        printf("%s was passed over: %s\n", json_string_value(json_object_get(one, "transport")),
               json_string_value(json_object_get(one, "reason")));
    }
}

static int ask(const struct context *bench, const char *host, json_t **out)
{
    json_t *request = json_pack("{s:s,s:s}", "request", "bench", "to", host);
    struct gw_client *client;
    int error = gw_client_find(bench->socket, true, &client);

    if (bench->transport)
        json_object_set_new(request, "transport", json_string(bench->transport));
    if (bench->channels)
        json_object_set_new(request, "channels", json_integer(bench->channels));
    if (bench->size)
        json_object_set_new(request, "size", json_integer((json_int_t)bench->size));
    if (bench->ms)
        json_object_set_new(request, "ms", json_integer(bench->ms));
    if (!error) {
        error = gw_client_send(client, request);
        if (!error)
            error = gw_client_receive(client, ANSWER_TIMEOUT_MS, out);
        gw_client_close(client);
    } else if (error == -ENOENT && !bench->socket) {
        error = gw_fail(error, "no agent runs on this host: start one with godwit agent");
    }
    json_decref(request);
    return error;
}

int gw_command_bench(int argc, char **argv)
{
    struct context bench = {.is_json = false};
    json_t *answer = NULL;
    int first, code;

    if (!gw_usage_parse(&usage, argc, argv, &bench, &first, &code))
        return code;
    if (first + 1 != argc)
        return gw_usage_fail(&usage, "one HOST is needed");
    if (ask(&bench, argv[first], &answer)) {
        fprintf(stderr, "godwit bench: %s\n", gw_error_message());
        return GW_EXIT_FAILED;
    }
    code = GW_EXIT_DONE;
    if (!json_is_true(json_object_get(answer, "ok"))) {
        const char *text = json_string_value(json_object_get(answer, "error"));

        fprintf(stderr, "godwit bench: %s\n", text ? text : "the agent's answer is not understood");
        code = (int)json_integer_value(json_object_get(answer, "exit_code"));
        code = code ? code : GW_EXIT_FAILED;
    }
    if (bench.is_json) {
        json_dumpf(answer, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else {
        print_answer(answer);
    }
    json_decref(answer);
    return code;
}
