/* SPDX-License-Identifier: Apache-2.0 */
/*
 * patch: pages of a file as they are to be in a copy of it. The file itself is never changed.
 *
 * Errors: 0 or -errno with a message.
 * Threads: put by one, before anybody looks; find by any.
 * Units: bytes, file offsets.
 */
#ifndef GODWIT_ENGINE_IMAGE_PATCH_H
#define GODWIT_ENGINE_IMAGE_PATCH_H

#include <stddef.h>
#include <stdint.h>

#include "engine/image/file.h"

#define GW_PATCH_PAGE      4096u /* O_DIRECT may read right up to one */
#define GW_PATCH_PAGES_MAX 64u

struct gw_patch_page {
    uint64_t offset;
    uint8_t *bytes;
};

struct gw_patches {
    unsigned count;
    struct gw_patch_page pages[GW_PATCH_PAGES_MAX]; /* sorted */
};

/* What is not put over in a page stays as it is in the file. */
int gw_patches_put(struct gw_patches *patches, const struct gw_image_file *file, uint64_t offset,
                   const void *bytes, size_t length);
/* The page that has offset, or else the first one behind it; NULL when there is none. */
const struct gw_patch_page *gw_patches_find(const struct gw_patches *patches, uint64_t offset);
void gw_patches_free(struct gw_patches *patches);

#endif
