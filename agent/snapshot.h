/* SPDX-License-Identifier: Apache-2.0 */
/*
 * snapshot: a migration's progress as JSON, for the admin socket and for scripts. Keys are
 * documented in docs/admin-protocol.md.
 * Errors: NULL when memory is short.
 * Threads: any.
 * Units: as the keys say: bytes, ms, percent.
 */
#ifndef GODWIT_AGENT_SNAPSHOT_H
#define GODWIT_AGENT_SNAPSHOT_H

#include "engine/migration.h"

/* A new text; bytes that are not UTF-8 (paths may have them) become '?'. */
json_t *gw_json_text(const char *text);
/* A new object; the caller decrefs. */
json_t *gw_snapshot_new(const struct gw_progress_data *data);
/* The other way. What is missing or of the wrong type reads as zero. started_ns is set so that the
 * elapsed time counts on here. */
void gw_snapshot_read(const json_t *object, struct gw_progress_data *out);

#endif
