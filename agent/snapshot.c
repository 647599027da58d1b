/* SPDX-License-Identifier: Apache-2.0 */
/* Turns a progress snapshot into JSON and back. */
#include "agent/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

static double to_ms(uint64_t ns)
{
    return (double)ns / (double)GW_NS_PER_MS;
}

static uint64_t elapsed_ns(const struct gw_progress_data *data)
{
    uint64_t end = data->ended_ns ? data->ended_ns : gw_clock_ns();

    return data->started_ns && end > data->started_ns ? end - data->started_ns : 0;
}

json_t *gw_json_text(const char *text)
{
    json_t *value = json_string(text);
    char *copy;

    if (value)
        return value;
    copy = strdup(text);
    if (!copy)
        return NULL;
    for (char *byte = copy; *byte; byte++)
        if (*byte & 0x80)
            *byte = '?';
    value = json_string(copy);
    free(copy);
    return value;
}

static json_t *paths_of(const struct gw_progress_data *data)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < data->volume_count; i++) {
        const struct gw_volume_progress *volume = &data->volumes[i];

        json_array_append_new(list, json_pack("{s:o, s:s, s:I, s:I, s:I, s:I}", "name",
                                              gw_json_text(volume->name), "path", volume->path,
                                              "direct_bytes", (json_int_t)volume->direct_bytes,
                                              "slot_bytes", (json_int_t)volume->slot_bytes,
                                              "sealed_bytes", (json_int_t)volume->sealed_bytes,
                                              "copied_bytes", (json_int_t)volume->copied_bytes));
    }
    return list;
}

json_t *gw_snapshot_new(const struct gw_progress_data *data)
{
    return json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:i, s:i, s:o, s:o, "
                     "s:o, s:o, s:o, s:o}",
                     "phase", gw_phase_name(data->phase), "round", (int)data->round, "bytes_total",
                     (json_int_t)data->bytes_total, "bytes_done", (json_int_t)data->bytes_done,
                     "bytes_sent", (json_int_t)data->bytes_sent, "bytes_zero",
                     (json_int_t)data->bytes_zero, "rate", (json_int_t)data->rate, "dirty_rate",
                     (json_int_t)data->dirty_rate, "predicted_pause_ms",
                     to_ms(data->predicted_pause_ns), "pause_ms", to_ms(data->pause_ns),
                     "elapsed_ms", to_ms(elapsed_ns(data)), "throttle_percent",
                     (int)data->throttle_percent, "channels", (int)data->channel_count, "state",
                     gw_json_text(data->state), "path", gw_json_text(data->path), "transport",
                     gw_json_text(data->transport), "note", gw_json_text(data->note), "paths",
                     paths_of(data), "path_note", gw_json_text(data->path_note));
}

static uint64_t get_count(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (uint64_t)value : 0;
}

static uint64_t get_ns(const json_t *object, const char *key)
{
    double value = json_number_value(json_object_get(object, key));

    return value > 0 && value < 1e12 ? (uint64_t)(value * (double)GW_NS_PER_MS) : 0;
}

static void get_text(const json_t *object, const char *key, char *out, size_t size)
{
    const char *value = json_string_value(json_object_get(object, key));

    snprintf(out, size, "%s", value ? value : "");
}

static enum gw_phase get_phase(const json_t *object)
{
    const char *name = json_string_value(json_object_get(object, "phase"));

    for (int phase = GW_PHASE_PLAN; name && phase <= GW_PHASE_ENDED; phase++)
        if (strcmp(name, gw_phase_name((enum gw_phase)phase)) == 0)
            return (enum gw_phase)phase;
    return GW_PHASE_PLAN;
}

static void get_paths(const json_t *list, struct gw_progress_data *out)
{
    const json_t *item;
    size_t i;

    json_array_foreach(list, i, item)
    {
        struct gw_volume_progress *volume = &out->volumes[out->volume_count];

        if (out->volume_count == GW_VOLUMES_MAX)
            return;
        get_text(item, "name", volume->name, sizeof(volume->name));
        get_text(item, "path", volume->path, sizeof(volume->path));
        volume->direct_bytes = get_count(item, "direct_bytes");
        volume->slot_bytes = get_count(item, "slot_bytes");
        volume->sealed_bytes = get_count(item, "sealed_bytes");
        volume->copied_bytes = get_count(item, "copied_bytes");
        out->volume_count++;
    }
}

void gw_snapshot_read(const json_t *object, struct gw_progress_data *out)
{
    uint64_t now = gw_clock_ns(), elapsed = get_ns(object, "elapsed_ms");

    memset(out, 0, sizeof(*out));
    out->phase = get_phase(object);
    out->round = (uint32_t)get_count(object, "round");
    out->bytes_total = get_count(object, "bytes_total");
    out->bytes_done = get_count(object, "bytes_done");
    out->bytes_sent = get_count(object, "bytes_sent");
    out->bytes_zero = get_count(object, "bytes_zero");
    out->rate = get_count(object, "rate");
    out->dirty_rate = get_count(object, "dirty_rate");
    out->predicted_pause_ns = get_ns(object, "predicted_pause_ms");
    out->pause_ns = get_ns(object, "pause_ms");
    out->started_ns = elapsed && elapsed < now ? now - elapsed : 0;
    out->ended_ns = out->phase == GW_PHASE_ENDED ? now : 0;
    out->throttle_percent = (unsigned)get_count(object, "throttle_percent");
    out->channel_count = (unsigned)get_count(object, "channels");
    get_text(object, "state", out->state, sizeof(out->state));
    get_text(object, "path", out->path, sizeof(out->path));
    get_text(object, "transport", out->transport, sizeof(out->transport));
    get_text(object, "note", out->note, sizeof(out->note));
    get_text(object, "path_note", out->path_note, sizeof(out->path_note));
    get_paths(json_object_get(object, "paths"), out);
}
