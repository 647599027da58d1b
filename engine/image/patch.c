/* SPDX-License-Identifier: Apache-2.0 */
/* A sorted list of changed pages. It does not know what is in them. */
#include "engine/image/patch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

static unsigned find(const struct gw_patches *patches, uint64_t page)
{
    unsigned i = 0;

    while (i < patches->count && patches->pages[i].offset < page)
        i++;
    return i;
}

static int get_page(struct gw_patches *patches, const struct gw_image_file *file, uint64_t offset,
                    uint8_t **out)
{
    unsigned at = find(patches, offset);
    uint8_t *bytes;
    int error;

    if (at < patches->count && patches->pages[at].offset == offset) {
        *out = patches->pages[at].bytes;
        return 0;
    }
    if (patches->count == GW_PATCH_PAGES_MAX || offset >= file->size)
        return gw_fail(-EFBIG, "%s: too much would change in its copy", file->path);
    /* It is written from where it lies, perhaps with O_DIRECT. */
    bytes = aligned_alloc(GW_PATCH_PAGE, GW_PATCH_PAGE);
    if (!bytes)
        return gw_fail(-ENOMEM, "no memory for a page of %s", file->path);
    memset(bytes, 0, GW_PATCH_PAGE);
    error =
        gw_image_file_read(file, offset, bytes, (size_t)gw_min(GW_PATCH_PAGE, file->size - offset));
    if (error) {
        free(bytes);
        return error;
    }
    memmove(&patches->pages[at + 1], &patches->pages[at],
            (patches->count - at) * sizeof(patches->pages[0]));
    patches->pages[at] = (struct gw_patch_page){offset, bytes};
    patches->count++;
    *out = bytes;
    return 0;
}

int gw_patches_put(struct gw_patches *patches, const struct gw_image_file *file, uint64_t offset,
                   const void *bytes, size_t length)
{
    const uint8_t *from = bytes;

    while (length > 0) {
        size_t within = (size_t)(offset % GW_PATCH_PAGE);
        size_t piece = (size_t)gw_min(length, GW_PATCH_PAGE - within);
        uint8_t *page;
        int error = get_page(patches, file, offset - within, &page);

        if (error)
            return error;
        memcpy(page + within, from, piece);
        from += piece;
        offset += piece;
        length -= piece;
    }
    return 0;
}

const struct gw_patch_page *gw_patches_find(const struct gw_patches *patches, uint64_t offset)
{
    unsigned at = find(patches, gw_align_down(offset, GW_PATCH_PAGE));

    return at < patches->count ? &patches->pages[at] : NULL;
}

void gw_patches_free(struct gw_patches *patches)
{
    for (unsigned i = 0; i < patches->count; i++)
        free(patches->pages[i].bytes);
    patches->count = 0;
}
