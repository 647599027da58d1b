/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inspect: what is in an image, as JSON: type, sizes, identifiers, tables, chain, allocation, and
 * everything that is wrong with it. A damaged image is described as far as it can be: the walk goes on
 * behind a block that is wrong.
 * An image that is in use is looked at, too: no lock is taken, so that its VM can start or go on meanwhile,
 * and the report says that it may be changing ("in_use").
 *
 * Errors: 0 with a report, also of a damaged image ("sound": false); -errno with a message only
 *   when the file cannot be read at all.
 * Threads: any; nothing is shared.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_IMAGE_INSPECT_H
#define GODWIT_ENGINE_IMAGE_INSPECT_H

#include <assert.h>
#include <jansson.h>

#include "engine/image/image.h"

#define GW_INSPECT_EXTENTS_MAX 1000000u /* of a map */

static_assert(GW_INSPECT_EXTENTS_MAX * sizeof(struct gw_extent) < GW_IMAGE_MEMORY_MAX,
              "an image is not to cost more memory by its map than by its tables");

/* What lies where, in order; runs that are alike are told as one. What a fault keeps from being known
 * is in none. */
struct gw_inspect_map {
    struct gw_extent *list; /* the caller frees it */
    uint64_t count;
    uint64_t left_out; /* beyond the first GW_INSPECT_EXTENTS_MAX */
    bool is_cut;       /* some were left out, or a fault hides some */
};

struct gw_inspect_options {
    struct gw_image_open_options open; /* path, format, mappings */
    struct gw_inspect_map *map;        /* filled, whatever is answered; or NULL: not wanted */
};

/* The caller frees the report; the map is not in it. */
int gw_image_inspect(const struct gw_inspect_options *options, json_t **out);

#endif
