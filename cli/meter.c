/* SPDX-License-Identifier: Apache-2.0 */
/* Renders progress. It asks nobody for it. */
#include "cli/meter.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/snapshot.h"
#include "common/checked.h"
#include "common/clock.h"

#define PIECES_MAX    10u
#define PIECE_SIZE    96u
#define BAR_MIN       10u
#define BAR_MAX       30u
#define WIDTH_DEFAULT 80u
#define WIDTH_MIN     20u

const char *gw_size_text(uint64_t bytes, char *buffer, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    unsigned unit = 0;

    while (value >= 1024 && unit + 1 < GW_ARRAY_LENGTH(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(buffer, size, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return buffer;
}

static unsigned percent_of(const struct gw_progress_data *data)
{
    if (!data->bytes_total)
        return 0;
    if (data->bytes_done >= data->bytes_total)
        return 100;
    return (unsigned)((double)data->bytes_done / (double)data->bytes_total * 100);
}

/* False when nothing can be said. */
static bool seconds_left(const struct gw_progress_data *data, uint64_t *out)
{
    if (!data->rate || data->bytes_done >= data->bytes_total)
        return false;
    *out = (data->bytes_total - data->bytes_done) / data->rate;
    return *out < 100 * 3600;
}

static const char *duration_text(uint64_t seconds, char *buffer, size_t size)
{
    if (seconds >= 3600)
        snprintf(buffer, size, "%u:%02u:%02u", (unsigned)(seconds / 3600),
                 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60));
    else
        snprintf(buffer, size, "%u:%02u", (unsigned)(seconds / 60), (unsigned)(seconds % 60));
    return buffer;
}

struct pieces {
    char text[PIECES_MAX][PIECE_SIZE];
    unsigned count;
};

static void add(struct pieces *pieces, const char *text)
{
    if (pieces->count < PIECES_MAX)
        snprintf(pieces->text[pieces->count++], PIECE_SIZE, "%s", text);
}

/* What a running guest adds. */
static void fill_guest_pieces(const struct gw_progress_data *data, struct pieces *pieces)
{
    char a[32], text[PIECE_SIZE];

    if (data->dirty_rate) {
        snprintf(text, sizeof(text), "dirty %s/s", gw_size_text(data->dirty_rate, a, sizeof(a)));
        add(pieces, text);
    }
    if (data->predicted_pause_ns) {
        snprintf(text, sizeof(text), "pause ~%u ms",
                 (unsigned)(data->predicted_pause_ns / GW_NS_PER_MS));
        add(pieces, text);
    }
    if (data->throttle_percent) {
        snprintf(text, sizeof(text), "guest slowed %u%%", data->throttle_percent);
        add(pieces, text);
    }
    if (data->path[0])
        add(pieces, data->path);
}

/* What can be said, the most important first; the bar comes after the first. */
static void fill_pieces(const struct gw_progress_data *data, struct pieces *pieces)
{
    char a[32], b[32], text[PIECE_SIZE];
    uint64_t left;

    if (data->round)
        snprintf(text, sizeof(text), "%s %u", gw_phase_name(data->phase), data->round);
    else
        snprintf(text, sizeof(text), "%s", gw_phase_name(data->phase));
    add(pieces, text);
    if (data->bytes_total) {
        snprintf(text, sizeof(text), "%u%%", percent_of(data));
        add(pieces, text);
        snprintf(text, sizeof(text), "%s/s", gw_size_text(data->rate, a, sizeof(a)));
        add(pieces, text);
        if (seconds_left(data, &left)) {
            snprintf(text, sizeof(text), "%s left", duration_text(left, a, sizeof(a)));
            add(pieces, text);
        }
        snprintf(text, sizeof(text), "%s of %s", gw_size_text(data->bytes_done, a, sizeof(a)),
                 gw_size_text(data->bytes_total, b, sizeof(b)));
        add(pieces, text);
    }
    fill_guest_pieces(data, pieces);
}

static void draw_bar(unsigned columns, unsigned percent, char *out)
{
    unsigned inner = columns - 2, done = inner * percent / 100;

    *out++ = '[';
    for (unsigned i = 0; i < inner; i++)
        *out++ = i < done ? '=' : i == done ? '>' : ' ';
    *out++ = ']';
    *out = '\0';
}

void gw_meter_bar(const struct gw_progress_data *data, unsigned width, char *out, size_t size)
{
    struct pieces pieces = {.count = 0};
    char bar[BAR_MAX + 1] = "";
    size_t used, columns = 0;
    unsigned shown = 1;

    fill_pieces(data, &pieces);
    if (width >= size)
        width = (unsigned)size - 1;
    used = strlen(pieces.text[0]);
    while (shown < pieces.count && used + 1 + strlen(pieces.text[shown]) <= width)
        used += 1 + strlen(pieces.text[shown++]);
    if (used + 1 + BAR_MIN <= width && data->bytes_total)
        columns = gw_min(width - used - 1, BAR_MAX);
    if (columns)
        draw_bar((unsigned)columns, percent_of(data), bar);
    used = (size_t)snprintf(out, width + 1, "%s%s%s", pieces.text[0], columns ? " " : "", bar);
    for (unsigned i = 1; i < shown && used < width; i++)
        used += (size_t)snprintf(out + used, width + 1 - used, " %s", pieces.text[i]);
}

void gw_meter_line(const struct gw_progress_data *data, char *out, size_t size)
{
    struct pieces pieces = {.count = 0};
    size_t used;

    fill_pieces(data, &pieces);
    used = (size_t)snprintf(out, size, "%s:", pieces.text[0]);
    for (unsigned i = 1; i < pieces.count && used < size; i++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s %s", i > 1 ? "," : "", pieces.text[i]);
}

void gw_meter_init(struct gw_meter *meter, bool is_json, bool wants_progress)
{
    memset(meter, 0, sizeof(*meter));
    if (is_json)
        meter->style = wants_progress ? GW_METER_JSON : GW_METER_NONE;
    else
        meter->style = isatty(STDERR_FILENO) ? GW_METER_BAR : GW_METER_LINES;
}

static unsigned terminal_width(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return WIDTH_DEFAULT;
    return size.ws_col < WIDTH_MIN ? WIDTH_MIN : size.ws_col;
}

static void erase(struct gw_meter *meter)
{
    if (meter->is_drawn)
        fputs("\r\033[K", stderr);
    meter->is_drawn = false;
}

/* A note is a peer's or the engine's text: nothing in it may steer the terminal. */
static void show_note(struct gw_meter *meter, const struct gw_progress_data *data)
{
    if (!data->note[0] || strcmp(meter->note, data->note) == 0)
        return;
    memcpy(meter->note, data->note, sizeof(meter->note));
    erase(meter);
    for (const char *byte = data->note; *byte; byte++)
        fputc((unsigned char)*byte < 0x20 || *byte == 0x7f ? '?' : *byte, stderr);
    fputc('\n', stderr);
}

static void show_json(const struct gw_progress_data *data)
{
    json_t *line = json_pack("{s:s, s:o}", "event", "progress", "progress", gw_snapshot_new(data));

    if (line) {
        json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
        fflush(stdout);
    }
    json_decref(line);
}

void gw_meter_show(struct gw_meter *meter, const struct gw_progress_data *data)
{
    bool is_new_phase = !meter->has_phase || meter->phase != data->phase;
    uint64_t now = gw_clock_ns();
    char line[GW_METER_LINE_MAX];

    if (meter->style == GW_METER_NONE)
        return;
    if (meter->style == GW_METER_JSON) {
        show_json(data);
        return;
    }
    show_note(meter, data);
    if (meter->style == GW_METER_BAR) {
        gw_meter_bar(data, terminal_width() - 1, line, sizeof(line));
        fprintf(stderr, "\r%s\033[K", line);
        meter->is_drawn = true;
    } else if (is_new_phase || now - meter->shown_ns >= GW_METER_LINE_S * GW_NS_PER_S) {
        gw_meter_line(data, line, sizeof(line));
        fprintf(stderr, "%s\n", line);
        meter->shown_ns = now;
    }
    meter->phase = data->phase;
    meter->has_phase = true;
    fflush(stderr);
}

void gw_meter_end(struct gw_meter *meter)
{
    erase(meter);
    fflush(stderr);
}
