/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edges: a target that is written in place, and does not look like a disk before it is one. A file has another name
 * until it is whole; a block device and an NBD export have none. So their first MiB and their last one or two, where
 * boot sectors, partition tables, superblocks and labels lie, are kept in memory until all the rest is durable; until
 * then they are zeroes where they belong. Private to engine/volume.
 *
 * Order: the first write of anything zeroes both, durably; complete writes what belongs there behind a sync of the
 *   rest, the last MiB before the first. abort, and a close that no finish came before, zero them again.
 * Errors: -errno with a message that names the volume.
 * Threads: as volume.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_EDGES_H
#define GODWIT_ENGINE_VOLUME_EDGES_H

#include "engine/volume/volume.h"

struct gw_edges_options {
    /* Opens the place once more, to be written, whatever is open. -EBUSY when somebody uses it meanwhile, -ESTALE
     * when it is another one. */
    int (*reopen)(struct gw_target_volume *inner);
    const char *path;  /* what people call the place; lent until close */
    bool is_continued; /* an earlier attempt may have died when it had just written the edges */
};

/* Takes over inner, that writes the place itself; when it fails, inner is closed. */
int gw_edges_target_new(struct gw_target_volume *inner, const struct gw_edges_options *options,
                        struct gw_target_volume **out);

#endif
