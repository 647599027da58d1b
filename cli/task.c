/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a request from options and decides where it runs. Watching it is follow.c's. */
#include "cli/task.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/client.h"
#include "agent/paths.h"
#include "agent/private.h"
#include "agent/request.h"
#include "cli/follow.h"
#include "cli/summary.h"
#include "common/checked.h"
#include "common/error.h"

int gw_task_init(struct gw_task *task, const char *command)
{
    memset(task, 0, sizeof(*task));
    task->command = command;
    gw_agent_options_init(&task->credentials);
    task->request = json_pack("{s:s}", "request", command);
    return task->request ? 0 : gw_fail(-ENOMEM, "out of memory");
}

void gw_task_free(struct gw_task *task)
{
    json_decref(task->request);
    gw_agent_options_free(&task->credentials);
}

int gw_task_set_text(struct gw_task *task, const char *key, const char *value)
{
    json_t *text = json_string(value);

    if (!text || json_object_set_new(task->request, key, text) != 0)
        return gw_fail(-EINVAL, "'%s' is not UTF-8 text", value);
    return *value ? 0 : gw_fail(-EINVAL, "%s: the value is empty", key);
}

int gw_task_set_path(struct gw_task *task, const char *key, const char *value)
{
    char path[PATH_MAX];
    int error;

    if (!*value)
        return gw_fail(-EINVAL, "%s: the path is empty", key);
    error = gw_path_absolute(value, path, sizeof(path));
    return error ? error : gw_task_set_text(task, key, path);
}

int gw_task_set_flag(struct gw_task *task, const char *key)
{
    return json_object_set_new(task->request, key, json_true());
}

int gw_task_set_number(struct gw_task *task, const char *key, const char *value)
{
    char *rest;
    long number;

    errno = 0;
    number = strtol(value, &rest, 10);
    if (errno || *rest || rest == value || number < 1)
        return gw_fail(-EINVAL, "%s: '%s' is not a number from 1 up", key, value);
    return json_object_set_new(task->request, key, json_integer(number));
}

int gw_size_parse(const char *name, const char *value, uint64_t *out)
{
    static const char units[] = "KMGT";
    unsigned long long number;
    const char *unit;
    uint64_t size;
    char *rest;

    errno = 0;
    number = strtoull(value, &rest, 10);
    unit = *rest ? strchr(units, toupper((unsigned char)*rest)) : NULL;
    if (errno || rest == value || !isdigit((unsigned char)*value) || number == 0 ||
        (*rest && (!unit || rest[1])) ||
        !gw_mul_fits(number, unit ? 1024ull << 10 * (unit - units) : 1, &size) || size > INT64_MAX)
        return gw_fail(-EINVAL, "%s: '%s' is no size: write bytes, or 512K, 20G, 4T", name, value);
    *out = size;
    return 0;
}

int gw_task_set_size(struct gw_task *task, const char *key, const char *value)
{
    uint64_t size;
    int error = gw_size_parse(key, value, &size);

    return error ? error : json_object_set_new(task->request, key, json_integer((json_int_t)size));
}

int gw_task_set_mapping(struct gw_task *task, const char *key, const char *value)
{
    const char *equals = strrchr(value, '=');
    json_t *map = json_object_get(task->request, key);
    char from[PATH_MAX];

    if (!equals || equals == value || !equals[1] || (size_t)(equals - value) >= sizeof(from))
        return gw_fail(-EINVAL, "'%s' is not OLD=NEW", value);
    memcpy(from, value, (size_t)(equals - value));
    from[equals - value] = '\0';
    if (!map) {
        map = json_object();
        json_object_set_new(task->request, key, map);
    }
    if (json_object_get(map, from))
        return gw_fail(-EINVAL, "'%s' is given twice", from);
    if (json_object_set_new(map, from, json_string(equals + 1)) != 0)
        return gw_fail(-EINVAL, "'%s' is not UTF-8 text", value);
    return 0;
}

/* The credentials go into the request, and besides to the private agent, which recovers with them.
 */
static int take_credential(struct gw_task *task, const char *name, const char *value)
{
    json_t *object = json_object_get(task->request, "credentials");
    char path[PATH_MAX];
    bool is_path = strcmp(name, "fingerprint") != 0;
    int error = 0;

    if (is_path)
        error = gw_path_absolute(value, path, sizeof(path));
    if (error)
        return error;
    if (is_path)
        value = path;
    if (!object) {
        object = json_object();
        json_object_set_new(task->request, "credentials", object);
    }
    if (is_path) {
        json_object_set_new(object, name, json_string(value));
    } else {
        json_t *list = json_object_get(object, "fingerprints");

        if (!list) {
            list = json_array();
            json_object_set_new(object, "fingerprints", list);
        }
        json_array_append_new(list, json_string(value));
    }
    return gw_agent_options_set(&task->credentials, name, value);
}

static int take_network(struct gw_task *task, const char *value)
{
    json_t *list = json_object_get(task->request, "trusted_networks");

    if (!list) {
        list = json_array();
        json_object_set_new(task->request, "trusted_networks", list);
    }
    json_array_append_new(list, json_string(value));
    return gw_agent_options_set(&task->credentials, "trusted-network", value);
}

/* More than one option is a list, as commas make one. */
static int take_transport(struct gw_task *task, const char *value)
{
    const char *before = json_string_value(json_object_get(task->request, "transport"));
    char list[256];

    if (snprintf(list, sizeof(list), "%s%s%s", before ? before : "", before ? "," : "", value) >=
        (int)sizeof(list))
        return gw_fail(-EINVAL, "transport: '%.32s...' is too long", value);
    if (gw_task_set_text(task, "transport", list))
        return -EINVAL;
    return gw_agent_options_set(&task->credentials, "transport", value);
}

/* 0, which gw_task_set_number does not take, means something here. */
static int take_reconnect(struct gw_task *task, const char *value)
{
    int error = gw_agent_options_set(&task->credentials, "reconnect-timeout", value);

    if (error)
        return error;
    return json_object_set_new(task->request, "reconnect_s",
                               json_integer(task->credentials.reconnect_s));
}

int gw_task_take(struct gw_task *task, const char *name, const char *value)
{
    static const char *const credentials[] = {"psk", "cert", "key", "ca", "fingerprint"};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(credentials); i++)
        if (strcmp(name, credentials[i]) == 0)
            return take_credential(task, name, value);
    if (strcmp(name, "trusted-network") == 0)
        return take_network(task, value);
    if (strcmp(name, "channels") == 0)
        return gw_task_set_number(task, "channels", value);
    if (strcmp(name, "congestion") == 0)
        return gw_task_set_text(task, "congestion", value);
    if (strcmp(name, "transport") == 0)
        return take_transport(task, value);
    if (strcmp(name, "transport-option") == 0 || strcmp(name, "provider") == 0)
        return gw_agent_options_set(&task->credentials, name, value);
    if (strcmp(name, "reconnect-timeout") == 0)
        return take_reconnect(task, value);
    if (strcmp(name, "stall-timeout") == 0)
        return gw_task_set_number(task, "stall_s", value);
    if (strcmp(name, "verify") == 0)
        return gw_task_set_flag(task, "verify");
    if (strcmp(name, "socket") == 0)
        task->socket = value;
    else if (strcmp(name, "detach") == 0)
        task->is_detached = true;
    else if (strcmp(name, "progress") == 0)
        task->wants_progress = true;
    else if (strcmp(name, "json") == 0)
        task->is_json = true;
    else
        return gw_fail(-ENOENT, "there is no option '--%s'", name);
    return 0;
}

static int fail(const struct gw_task *task, enum gw_exit code, const char *text)
{
    struct gw_summary summary = {.command = task->command, .exit_code = code, .message = text};

    gw_summary_print(&summary, task->is_json);
    return (int)code;
}

int gw_task_submit(struct gw_task *task, struct gw_client *client)
{
    json_t *answer;
    const char *job, *text;
    int code, error = gw_client_ask(client, task->request, &answer);

    if (error)
        return fail(task, GW_EXIT_FAILED, gw_error_message());
    job = json_string_value(json_object_get(answer, "job"));
    text = json_string_value(json_object_get(answer, "error"));
    if (!json_is_true(json_object_get(answer, "ok")) || !job) {
        code = (int)json_integer_value(json_object_get(answer, "exit_code"));
        code = fail(task, code ? (enum gw_exit)code : GW_EXIT_FAILED,
                    text ? text : "the agent's answer is not understood");
    } else if (task->is_detached) {
        code = gw_follow_detached(task, job);
    } else {
        code = gw_follow_job(task, client, job);
    }
    json_decref(answer);
    return code;
}

/* No agent answers: is that final? Where a socket was named, it is. */
static bool is_absent(const struct gw_task *task, int error)
{
    const char *named = getenv("GODWIT_SOCKET");

    return error == -ENOENT && !task->socket && !(named && *named);
}

static int run_without_agent(struct gw_task *task)
{
    const char *allow_volatile = getenv("GODWIT_ALLOW_VOLATILE_STATE");
    struct gw_client *client;
    int code;

    if (task->may_run_here && !task->is_detached)
        return gw_follow_here(task);
    task->credentials.allow_volatile_state = allow_volatile && strcmp(allow_volatile, "1") == 0;
    if (gw_private_start(&task->credentials, &client) != 0)
        return fail(task, GW_EXIT_FAILED, gw_error_message());
    code = gw_task_submit(task, client);
    gw_client_close(client);
    return code;
}

int gw_task_run(const struct gw_usage *usage, struct gw_task *task)
{
    struct gw_job_request *request;
    struct gw_client *client;
    int code, error = gw_job_request_parse(task->request, &request);

    if (error == -EINVAL)
        return gw_usage_fail(usage, "%s", gw_error_message());
    if (error)
        return fail(task, GW_EXIT_FAILED, gw_error_message());
    /* A copy on this host needs neither an agent nor a network, but queues where there is an agent.
     */
    error = gw_client_find(task->socket, request->peer[0] != '\0', &client);
    if (!error) {
        gw_job_request_free(request);
        code = gw_task_submit(task, client);
        gw_client_close(client);
        return code;
    }
    if (is_absent(task, error) && request->peer[0] && !request->has_credentials)
        code =
            gw_usage_fail(usage, "no agent runs here, so say who you are: --psk FILE (godwit key "
                                 "NAME > FILE makes one), or --cert, --key and --ca or "
                                 "--fingerprint");
    else if (is_absent(task, error))
        code = run_without_agent(task);
    else
        code = fail(task, GW_EXIT_FAILED, gw_error_message());
    gw_job_request_free(request);
    return code;
}
