/* SPDX-License-Identifier: Apache-2.0 */
/* Both layers are one: pages over the inner volume, and nothing behind its end. */
#include "engine/volume/layered.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

struct layered {
    struct gw_source_volume volume;
    struct gw_source_volume *inner;
    struct gw_patches patches;
};

static struct layered *of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct layered, volume);
}

/* The page at offset, or NULL and *length cut before the next one. */
static const struct gw_patch_page *page_at(const struct layered *layered, uint64_t offset,
                                           uint64_t *length)
{
    const struct gw_patch_page *page = gw_patches_find(&layered->patches, offset);

    if (!page)
        return NULL;
    if (page->offset > offset) {
        *length = gw_min(*length, page->offset - offset);
        return NULL;
    }
    *length = gw_min(*length, page->offset + GW_PATCH_PAGE - offset);
    return page;
}

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    struct layered *layered = of(volume);
    uint64_t length = end - offset;
    int error = 0;

    if (offset >= layered->inner->size || page_at(layered, offset, &length)) {
        bool is_behind = offset >= layered->inner->size;

        *out = (struct gw_extent){offset, length, is_behind ? GW_EXTENT_ABSENT : GW_EXTENT_DATA};
        return 0;
    }
    error = layered->inner->ops->next_extent(layered->inner, offset,
                                             gw_min(offset + length, layered->inner->size), out);
    return error;
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    struct layered *layered = of(volume);
    const struct gw_patch_page *page;

    if (offset >= layered->inner->size) {
        *out = (struct gw_location){.kind = GW_EXTENT_ABSENT, .length = length, .fd = -1};
        return 0;
    }
    length = gw_min(length, layered->inner->size - offset);
    page = page_at(layered, offset, &length);
    if (!page)
        return layered->inner->ops->locate(layered->inner, offset, length, out);
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA,
        .where = GW_IN_MEMORY,
        .length = length,
        .memory = page->bytes + (offset - page->offset),
    };
    return 0;
}

static int read_bytes(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return of(volume)->inner->ops->read(of(volume)->inner, offset, into, length);
}

static void copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length)
{
    of(volume)->inner->ops->copied(of(volume)->inner, offset, bytes, length);
}

static int collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    return of(volume)->inner->ops->collect(of(volume)->inner, dirty);
}

static int unchanged(struct gw_source_volume *volume)
{
    return of(volume)->inner->ops->unchanged(of(volume)->inner);
}

static void close_layered(struct gw_source_volume *volume)
{
    struct layered *layered = of(volume);

    layered->inner->ops->close(layered->inner);
    gw_patches_free(&layered->patches);
    free(layered);
}

static const struct gw_source_ops ops = {
    .next_extent = next_extent,
    .locate = locate,
    .read = read_bytes,
    .copied = copied,
    .collect = collect,
    .unchanged = unchanged,
    .close = close_layered,
};

static int layered_new(struct gw_source_volume *inner, struct layered **out)
{
    struct layered *layered = calloc(1, sizeof(*layered));

    if (!layered)
        return gw_fail(-ENOMEM, "no memory for a volume");
    layered->volume = *inner;
    layered->volume.ops = &ops;
    layered->inner = inner;
    *out = layered;
    return 0;
}

int gw_grown_source_new(struct gw_source_volume *inner, uint64_t size,
                        struct gw_source_volume **out)
{
    struct layered *layered;
    int error = layered_new(inner, &layered);

    if (error)
        return error;
    layered->volume.size = size;
    *out = &layered->volume;
    return 0;
}

int gw_patched_source_new(struct gw_source_volume *inner, struct gw_patches *patches,
                          struct gw_source_volume **out)
{
    struct layered *layered;
    int error = layered_new(inner, &layered);

    if (error)
        return error;
    layered->patches = *patches;
    patches->count = 0;
    *out = &layered->volume;
    return 0;
}
