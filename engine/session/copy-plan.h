/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy-plan: what a copy reads and what it is to make of it: one image, or each file of a chain.
 *
 * A chain is copied file by file, as bytes, so that everything in the files stays; only the place
 * of a parent is written anew where it would not be beside its child.
 *
 * Errors: 0 or -errno with a message; -EINVAL for what cannot be asked for.
 * Order: make → the volumes are read → free.
 * Threads: the one that makes a plan must live as long as its volumes.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_COPY_PLAN_H
#define GODWIT_ENGINE_SESSION_COPY_PLAN_H

#include "engine/migration.h"
#include "engine/session/endpoint.h"

struct gw_copy_plan {
    unsigned count; /* more than one: a chain, the file without a parent first */
    struct gw_source_volume *volumes[GW_VOLUMES_MAX];
    struct gw_offered_volume *offered; /* of each volume */
};

int gw_copy_plan_make(const struct gw_copy_request *request, struct gw_copy_plan *out);
void gw_copy_plan_free(struct gw_copy_plan *plan);
uint64_t gw_copy_plan_bytes(const struct gw_copy_plan *plan);

#endif
