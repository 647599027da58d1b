/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inspect: what is in an image, as JSON: type, sizes, identifiers, tables, chain, allocation, and
 * everything that is wrong with it. A damaged image is described as far as it can be.
 *
 * Errors: 0 with a report, also of a damaged image ("sound": false); -errno with a message only
 *   when the file cannot be read at all.
 * Threads: any; nothing is shared.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_IMAGE_INSPECT_H
#define GODWIT_ENGINE_IMAGE_INSPECT_H

#include <jansson.h>

#include "engine/image/image.h"

#define GW_INSPECT_EXTENTS_MAX 1000000u /* of a map; beyond, it is cut and says so */

struct gw_inspect_options {
    struct gw_image_open_options open; /* path, format, mappings */
    bool wants_map;
};

int gw_image_inspect(const struct gw_inspect_options *options, json_t **out);

#endif
