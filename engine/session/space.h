/* SPDX-License-Identifier: Apache-2.0 */
/*
 * space: is there room for the disks of an offer, asked before the first byte is written? Disks that
 * share a file system are counted together.
 *
 * Errors: -ENOSPC (the file system or a quota is too full) and -EFBIG (files may not become that
 *   large here) with the figures and the way out.
 * Threads: one per object.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_SPACE_H
#define GODWIT_ENGINE_SESSION_SPACE_H

#include <sys/types.h>

#include "engine/session/offer.h"

#define GW_SPACE_WARNING_MAX 300u

struct gw_space_place {
    dev_t device;
    uint64_t needed, grown; /* what will be written; what its thin disks may become */
};

/* Begins as zeroed memory. */
struct gw_space {
    unsigned count;
    struct gw_space_place places[GW_VOLUMES_MAX];
};

/* Adds a disk that is to become the file path. warning (GW_SPACE_WARNING_MAX bytes) is "" or says
 * that a thin disk which fits now may fill its place later. */
int gw_space_add(struct gw_space *space, const struct gw_offered_volume *offered, const char *path,
                 char *warning);

#endif
