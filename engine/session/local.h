/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local: copies a volume into a new image on the same host, with no transport between.
 * Errors: 0 or -errno; -ECANCELED; a failure leaves no file behind.
 * Threads: blocks the caller and uses a few of its own.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_LOCAL_H
#define GODWIT_ENGINE_SESSION_LOCAL_H

#include "engine/migration.h"
#include "engine/volume/disk.h"

int gw_local_copy(struct gw_source_volume *volume, const struct gw_disk_target_options *options,
                  bool verify, struct gw_progress *progress, json_t *detail);

#endif
