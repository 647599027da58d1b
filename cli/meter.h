/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meter: how a person sees a migration run. On a terminal one line that is redrawn in place and
 * fits its width; elsewhere a line for each phase and every few seconds; with --json --progress a
 * JSON line for each snapshot on standard output, and nothing else.
 *
 * Errors: none; what cannot be shown is not.
 * Threads: one.
 * Units: bytes, nanoseconds, columns.
 */
#ifndef GODWIT_CLI_METER_H
#define GODWIT_CLI_METER_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/migration.h"

#define GW_METER_EVERY_MS 200 /* redraw */
#define GW_METER_LINE_S   5   /* plain lines */
#define GW_METER_LINE_MAX 512

enum gw_meter_style { GW_METER_NONE, GW_METER_BAR, GW_METER_LINES, GW_METER_JSON };

struct gw_meter {
    enum gw_meter_style style;
    bool is_drawn; /* a bar stands on the terminal's current line */
    bool has_phase;
    enum gw_phase phase;
    uint64_t shown_ns;
    char note[256];
};

/* Standard error tells whether there is a terminal. */
void gw_meter_init(struct gw_meter *meter, bool is_json, bool wants_progress);
void gw_meter_show(struct gw_meter *meter, const struct gw_progress_data *data);
/* Ends the bar's line, so that other text may follow. */
void gw_meter_end(struct gw_meter *meter);

/* The bar's line, at most width columns; and a plain line. Both are plain ASCII but for the note.
 */
void gw_meter_bar(const struct gw_progress_data *data, unsigned width, char *out, size_t size);
void gw_meter_line(const struct gw_progress_data *data, char *out, size_t size);

/* "1.5 GiB" */
const char *gw_size_text(uint64_t bytes, char *buffer, size_t size);

#endif
