/* SPDX-License-Identifier: Apache-2.0 */
/* The messages about windows. Which windows there are is decided by engine/precopy/windows.c, and
 * they are registered by engine/worker. */
#include "engine/session/windows.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/session/serve.h"

/* ---- source ---- */

static int ask(void *context, const struct gw_window *window)
{
    struct gw_source *source = context;

    return gw_message_send(source->control,
                           json_pack("{s:s,s:I,s:i,s:I,s:I}", "type", "window", "window",
                                     (json_int_t)window->number, "volume", (int)window->volume,
                                     "offset", (json_int_t)window->offset, "length",
                                     (json_int_t)window->length));
}

int gw_source_windows_begin(struct gw_source *source, struct gw_round *round)
{
    struct gw_windows_options options = {.sender = source->sender, .ask = ask, .context = source};
    int error = source->windows ? 0 : gw_windows_new(&options, &source->windows);

    if (!error)
        gw_windows_begin(source->windows, round);
    return error;
}

static bool is_guest_stopped(const struct gw_source *source)
{
    return source->is_stopped && *source->is_stopped;
}

int gw_source_windows_step(struct gw_source *source)
{
    return is_guest_stopped(source) ? 0 : gw_windows_step(source->windows);
}

bool gw_source_windows_are_settled(const struct gw_source *source)
{
    return is_guest_stopped(source) || gw_windows_is_settled(source->windows);
}

void gw_source_windows_end(struct gw_source *source)
{
    gw_windows_end(source->windows);
}

static int hear_answer(struct gw_source *source, const json_t *message, uint32_t number)
{
    const char *reason = NULL;
    bool is_open, is_full = false;
    int error = gw_message_bool(message, "open", &is_open);

    if (!error)
        error = gw_message_bool(message, "full", &is_full);
    if (!error)
        error = gw_message_optional_text(message, "reason", &reason);
    return error ? error
                 : gw_windows_answer(source->windows, number, is_open, is_full,
                                     reason ? reason : "it does not say why");
}

int gw_source_windows_hear(struct gw_source *source, const json_t *message)
{
    bool is_answer = gw_message_is(message, "windowed");
    uint64_t number;
    int error;

    if (!is_answer && !gw_message_is(message, "window-closed"))
        return 0;
    error = gw_message_number(message, "window", UINT32_MAX, &number);
    if (!error && !source->windows)
        error = gw_fail(-EPROTO, "the target speaks of windows, and there are none");
    if (error)
        return error;
    if (!is_answer) {
        gw_windows_closed(source->windows, (uint32_t)number);
        return 1;
    }
    error = hear_answer(source, message, (uint32_t)number);
    return error ? error : 1;
}

/* ---- target ---- */

int gw_serve_window(struct gw_serve *serve, const json_t *message)
{
    uint64_t number, volume, offset, length;
    struct gw_window window;
    int error = gw_message_number(message, "window", UINT32_MAX, &number);

    if (!error)
        error = gw_message_number(message, "volume", GW_VOLUMES_MAX - 1, &volume);
    if (!error)
        error = gw_message_number(message, "offset", INT64_MAX, &offset);
    if (!error)
        error = gw_message_number(message, "length", INT64_MAX, &length);
    if (error)
        return error;
    window = (struct gw_window){
        .number = (uint32_t)number, .volume = (uint16_t)volume, .offset = offset, .length = length};
    error = gw_receiver_window_open(serve->receiver, &window);
    if (error == -EPROTO)
        return error;
    if (!error)
        return gw_message_send(serve->control, json_pack("{s:s,s:I,s:b}", "type", "windowed",
                                                         "window", (json_int_t)number, "open", 1));
    return gw_message_send(serve->control,
                           json_pack("{s:s,s:I,s:b,s:b,s:s}", "type", "windowed", "window",
                                     (json_int_t)number, "open", 0, "full", error == -ENOMEM,
                                     "reason", gw_error_message()));
}

int gw_serve_window_closed(struct gw_serve *serve, uint32_t number)
{
    return gw_message_send(serve->control, json_pack("{s:s,s:I}", "type", "window-closed", "window",
                                                     (json_int_t)number));
}

/* ---- what is shown ---- */

static void fill(struct gw_volume_progress *out, const char *name, const char *path,
                 const struct gw_volume_stats *stats)
{
    snprintf(out->name, sizeof(out->name), "%s", name);
    snprintf(out->path, sizeof(out->path), "%s", path);
    out->direct_bytes = stats->direct;
    out->slot_bytes = stats->slots;
    out->sealed_bytes = stats->sealed;
    out->copied_bytes = stats->copied;
}

void gw_paths_of_source(struct gw_source *source, const struct gw_path_stats *stats)
{
    struct gw_progress_data *data = &source->progress->data;
    const char *note = source->windows ? gw_windows_note(source->windows) : "";
    const char *name;

    pthread_mutex_lock(&source->progress->lock);
    data->volume_count = 0;
    for (uint16_t i = 0; i < GW_VOLUMES_MAX; i++)
        if ((name = gw_sender_volume_name(source->sender, i)))
            fill(&data->volumes[data->volume_count++], name, gw_sender_path(source->sender, i),
                 &stats->volumes[i]);
    if (note[0])
        snprintf(data->path_note, sizeof(data->path_note), "%s", note);
    pthread_mutex_unlock(&source->progress->lock);
}

/* The way that most bytes took. */
static const char *main_path(const struct gw_volume_stats *stats)
{
    if (stats->sealed > stats->slots && stats->sealed > stats->direct)
        return "sealed";
    if (!stats->direct && !stats->slots)
        return "none";
    return stats->direct > stats->slots ? "direct" : "slots";
}

void gw_paths_of_target(struct gw_serve *serve, const struct gw_path_stats *stats)
{
    struct gw_progress_data *data = &serve->progress->data;

    pthread_mutex_lock(&serve->progress->lock);
    data->volume_count = 0;
    for (unsigned i = 0; i < serve->volume_count; i++)
        if (serve->volumes[i])
            fill(&data->volumes[data->volume_count++], serve->volumes[i]->name,
                 main_path(&stats->volumes[i]), &stats->volumes[i]);
    pthread_mutex_unlock(&serve->progress->lock);
}
