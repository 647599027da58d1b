/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source volumes around another one, which they take over: a disk that is larger than its content,
 * and a file some pages of which are to be others in the copy.
 *
 * Errors: -ENOMEM; the inner volume's.
 * Threads: as volume.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_LAYERED_H
#define GODWIT_ENGINE_VOLUME_LAYERED_H

#include "engine/image/patch.h"
#include "engine/volume/volume.h"

/* size is at least the volume's own; what is behind that is absent. */
int gw_grown_source_new(struct gw_source_volume *inner, uint64_t size,
                        struct gw_source_volume **out);
/* Takes the patches over too, and leaves none in them. */
int gw_patched_source_new(struct gw_source_volume *inner, struct gw_patches *patches,
                          struct gw_source_volume **out);

#endif
