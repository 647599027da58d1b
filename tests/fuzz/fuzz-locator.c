/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: bytes as a VHDX parent locator, and its paths looked up beneath an empty folder:
 * nothing may ever be found, whatever they say.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/image/vhdx/vhdx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder in which nothing can be: /proc has no files that anybody can make. */
#define CHILD "/proc/self/map_files/child.vhdx"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gw_parent_link *link;

    /* What the metadata table makes sure of. */
    if (size < VHDX_LOCATOR_HEADER_SIZE || size > VHDX_METADATA_ITEM_MAX)
        return 0;
    link = calloc(1, sizeof(*link));
    if (!link)
        abort();
    if (gw_vhdx_locator_decode("fuzz", data, size, link) == 0) {
        struct gw_parent_search search = {.child = CHILD, .link = link};
        struct gw_parent_places places;

        assert(link->id_count > 0 && link->path_count > 0);
        assert(gw_parent_find(&search, &places) != 0);
        gw_parent_is_beside(link, "base.vhdx");
    }
    gw_parent_link_free(link);
    return 0;
}
