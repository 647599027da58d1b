/* SPDX-License-Identifier: Apache-2.0 */
/* The public interface of libgodwit (include/godwit), in terms of what the commands use. */
#include <godwit/copy.h>

#include <errno.h>

#include "agent/here.h"
#include "agent/paths.h"
#include "common/clock.h"

struct embedded {
    const struct gw_copy_options *options;
    bool is_cancelled;
};

static int set_text(json_t *request, const char *key, const char *value)
{
    if (value && json_object_set_new(request, key, json_string(value)) != 0)
        return gw_fail(-EINVAL, "%s: '%s' is not UTF-8 text", key, value);
    return 0;
}

static int set_path(json_t *request, const char *key, const char *value)
{
    char path[PATH_MAX];
    int error = gw_path_absolute(value, path, sizeof(path));

    return error ? error : set_text(request, key, path);
}

static void set_networks(json_t *request, const char *const *networks)
{
    json_t *list = json_array();

    for (; networks && *networks; networks++)
        json_array_append_new(list, json_string(*networks));
    json_object_set_new(request, "trusted_networks", list);
}

static int fill_request(const struct gw_copy_options *options, json_t *request)
{
    int error;

    if (!options->source || (!options->target && !options->host))
        return gw_fail(-EINVAL, "a copy needs a source and a target");
    error = set_path(request, "source", options->source);
    if (!error && options->host)
        error = set_text(request, "target", options->target);
    else if (!error)
        error = set_path(request, "target", options->target);
    if (!error)
        error = set_text(request, "to", options->host);
    if (!error)
        error = set_text(request, "format", options->format);
    if (!error && options->psk) {
        json_t *credentials = json_object();

        error = set_path(credentials, "psk", options->psk);
        json_object_set_new(request, "credentials", credentials);
    }
    json_object_set_new(request, "preallocate", json_boolean(options->is_fixed));
    json_object_set_new(request, "verify", json_boolean(options->verify));
    if (options->channels)
        json_object_set_new(request, "channels", json_integer(options->channels));
    set_networks(request, options->trusted_networks);
    return error;
}

static int tick(const struct gw_progress_data *data, void *context)
{
    struct embedded *embedded = context;
    const struct gw_copy_status status = {
        .bytes_total = data->bytes_total,
        .bytes_done = data->bytes_done,
        .bytes_sent = data->bytes_sent,
        .bytes_zero = data->bytes_zero,
        .rate = data->rate,
        .elapsed_seconds =
            data->started_ns ? (double)(gw_clock_ns() - data->started_ns) / (double)GW_NS_PER_S : 0,
    };

    if (!embedded->options->progress ||
        embedded->options->progress(&status, embedded->options->context) == 0)
        return 0;
    embedded->is_cancelled = true;
    return 1;
}

int gw_copy(const struct gw_copy_options *options)
{
    struct embedded embedded = {.options = options};
    json_t *request = json_pack("{s:s}", "request", "copy");
    const struct gw_here_options here = {.request = request, .tick = tick, .context = &embedded};
    struct gw_progress_data last;
    struct gw_result result;
    int error;

    if (!request)
        return gw_fail(-ENOMEM, "out of memory");
    error = fill_request(options, request);
    if (!error)
        error = gw_here_run(&here, &result, &last);
    json_decref(request);
    if (error)
        return error;
    if (result.exit_code != GW_EXIT_DONE)
        error = gw_fail(embedded.is_cancelled                ? -ECANCELED
                        : result.exit_code == GW_EXIT_USAGE  ? -EINVAL
                        : result.exit_code == GW_EXIT_VERIFY ? -EBADMSG
                                                             : -EIO,
                        "%s", result.message);
    gw_result_free(&result);
    return error;
}
