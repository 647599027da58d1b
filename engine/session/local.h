/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local: copies a volume into a new image on the same host, with no transport between.
 * Errors: 0 or -errno; -ECANCELED.
 * Order: fill → complete → verify → finish → close, or abort and close.
 * Threads: blocks the caller and uses a few of its own.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_LOCAL_H
#define GODWIT_ENGINE_SESSION_LOCAL_H

#include "engine/migration.h"
#include "engine/session/endpoint.h"

/* To path (or an NBD export's URI), as offered says. */
struct gw_local_options {
    const struct gw_offered_volume *offered;
    const char *path;
    bool verify;
    const char *epoch;      /* of the image's name until it is finished; NULL: a new one */
    uint64_t durable;       /* where offered is continued: what is there, from the start */
    uint64_t *resent_bytes; /* grows by what of that differs from the source; NULL: nobody asks */
    /* Called every so often, or never when that is 0: that much, from the start, is durable now. */
    uint64_t sync_interval_ns;
    int (*checkpoint)(void *context, uint64_t durable);
    void *context;
};

/* All bytes, into an image that has not its final name yet; a failure leaves nothing behind. -EUCLEAN before
 * anything was written: an unfinished image cannot be gone on with. */
int gw_local_fill(struct gw_source_volume *volume, const struct gw_local_options *options,
                  struct gw_progress *progress, struct gw_target_volume **out);
/* With verify: the image, which is complete and has not its name yet, beside its source. After a failure the
 * caller aborts it. */
int gw_local_verify(struct gw_source_volume *volume, const struct gw_target_volume *target,
                    const struct gw_local_options *options);

#endif
