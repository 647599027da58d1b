/* SPDX-License-Identifier: Apache-2.0 */
/*
 * windows: the messages about windows of guest RAM between both ends' control threads, and what is
 * shown of the ways that bytes take. Private to engine/session.
 *
 * Errors: 0 or -errno with a message.
 * Order: a source begins before a round and ends after it; in between it steps about every 10 ms.
 * Threads: the migration's control thread.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_WINDOWS_H
#define GODWIT_ENGINE_SESSION_WINDOWS_H

#include "engine/session/source.h"

struct gw_serve;

int gw_source_windows_begin(struct gw_source *source, struct gw_round *round);
int gw_source_windows_step(struct gw_source *source);
/* A round that is done waits for this: nothing is being registered, the guest may be stopped. */
bool gw_source_windows_are_settled(const struct gw_source *source);
void gw_source_windows_end(struct gw_source *source);
/* 1 when the message was about windows, 0 when not, or -errno. The caller frees it. */
int gw_source_windows_hear(struct gw_source *source, const json_t *message);

/* The target: a message of type "window"; the keys of a window have ended. */
int gw_serve_window(struct gw_serve *serve, const json_t *message);
int gw_serve_window_closed(struct gw_serve *serve, uint32_t number);

/* How each volume travels, into progress. Its lock is taken. */
void gw_paths_of_source(struct gw_source *source, const struct gw_path_stats *stats);
void gw_paths_of_target(struct gw_serve *serve, const struct gw_path_stats *stats);

#endif
