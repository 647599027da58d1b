/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edges: a target that is written in place, and does not look like a disk before it is one. A file has another name
 * until it is whole; a block device and an NBD export have none. So their first MiB and their last one or two, where
 * boot sectors, partition tables, superblocks and labels lie, are kept in memory until all the rest is durable; until
 * then they are zeroes where they belong. Private to engine/volume.
 *
 * Order: the first write of anything zeroes both, durably; complete writes what belongs there behind a sync of the
 *   rest, the last MiB before the first. abort and close zero them again where this attempt wrote them and no finish came:
 *   only if the place, which complete let go, holds just what was written there. finish makes it a disk for good.
 * Errors: -errno with a message that names the volume.
 * Threads: as volume.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_EDGES_H
#define GODWIT_ENGINE_VOLUME_EDGES_H

#include "engine/volume/location.h"
#include "engine/volume/volume.h"

struct gw_edges_options {
    /* Opens the place once more, to be written. -EBUSY when somebody uses it meanwhile, -ESTALE when it is known to
     * be another one, or to have been written to. */
    int (*reopen)(struct gw_target_volume *inner);
    /* What is there now, after a reopen. into has room for length rounded up to GW_LOCATION_ALIGNMENT. */
    int (*read)(struct gw_target_volume *inner, uint64_t offset, void *into, uint64_t length);
    const char *path; /* what people call the place; lent until close */
};

/* Takes over inner, that writes the place itself; when it fails, inner is closed. */
int gw_edges_target_new(struct gw_target_volume *inner, const struct gw_edges_options *options,
                        struct gw_target_volume **out);

#endif
