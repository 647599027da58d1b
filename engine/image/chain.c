/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains of differencing images: opens each parent and checks that it is the one that the child was
 * made on, then reads through all of them. Where a parent may lie is parent.c's; what a file says
 * of its parent is its format's.
 */
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/format.h"
#include "engine/image/text.h"

static int check_identity(const struct gw_image *child, const struct gw_image *parent)
{
    bool is_big_endian = child->link->is_big_endian;
    char wanted[GW_GUID_TEXT], found[GW_GUID_TEXT];

    for (unsigned i = 0; i < child->link->id_count; i++)
        if (memcmp(child->link->ids[i], parent->info.data_id, 16) == 0)
            return 0;
    gw_guid_format(child->link->ids[0], is_big_endian, wanted);
    gw_guid_format(parent->info.data_id, is_big_endian, found);
    return gw_fail(-EUCLEAN,
                   "%s is not the parent that %s was made on, or was written to since: its id is "
                   "%s, the child wants %s; if it is another file, name that one with --parent",
                   parent->file.path, child->file.path, found, wanted);
}

static int check_sectors(const struct gw_image *child, const struct gw_image *parent)
{
    if (child->info.logical_sector_size == parent->info.logical_sector_size)
        return 0;
    return gw_fail(-EUCLEAN,
                   "%s has sectors of %u bytes, its child %s of %u: they do not belong "
                   "together",
                   parent->file.path, parent->info.logical_sector_size, child->file.path,
                   child->info.logical_sector_size);
}

static bool is_same_file(const struct gw_image *image, const struct gw_parent_place *place)
{
    return image->file.device == place->device && image->file.inode == place->inode;
}

static int check_loop(const struct gw_image *top, const struct gw_parent_place *place,
                      const char *child)
{
    unsigned depth = 1;

    for (const struct gw_image *image = top; image; image = image->parent, depth++)
        if (is_same_file(image, place))
            return gw_fail(-ELOOP,
                           "%s names %s as its parent, which is in the chain already: a "
                           "chain that comes back to itself has no content",
                           child, place->path);
    if (depth > GW_IMAGE_CHAIN_MAX)
        return gw_fail(-ELOOP, "%s: the chain has more than %u files", top->file.path,
                       GW_IMAGE_CHAIN_MAX);
    return 0;
}

/* One place that may be the parent of child, the last of the chain so far. */
static int try_place(struct gw_image *top, struct gw_image *child,
                     const struct gw_parent_place *place, struct gw_image **out)
{
    struct gw_image_open_options options = {
        .path = place->path,
        .format = child->info.format, /* never raw: any file would do as that */
        .is_alone = true,
        .is_unlocked = top->file.is_unlocked,
    };
    struct gw_image *parent;
    int rc = check_loop(top, place, child->file.path);

    if (rc == 0)
        rc = gw_image_open(&options, &parent);
    if (rc)
        return rc;
    if (!is_same_file(parent, place))
        rc = gw_fail(-ESTALE, "%s was replaced by another file this moment", place->path);
    if (rc == 0)
        rc = check_identity(child, parent);
    if (rc == 0)
        rc = check_sectors(child, parent);
    if (rc)
        gw_image_close(parent);
    else
        *out = parent;
    return rc;
}

static int open_parent(struct gw_image *top, struct gw_image *child,
                       const struct gw_image_open_options *options, struct gw_image **out)
{
    struct gw_parent_search search = {
        .child = child->file.path,
        .link = child->link,
        .mappings = options->mappings,
        .mapping_count = options->mapping_count,
    };
    struct gw_parent_places places;
    int rc = gw_parent_find(&search, &places);

    if (rc)
        return rc;
    rc = -ENOENT;
    /* A file of the right name in one place may be the wrong one, and in the next the right. */
    for (unsigned i = 0; i < places.count && rc; i++)
        rc = try_place(top, child, &places.list[i], out);
    gw_parent_places_free(&places);
    return rc;
}

int gw_image_chain_open(struct gw_image *image, const struct gw_image_open_options *options)
{
    struct gw_image *last = image;
    uint64_t memory = image->info.memory_max;
    int rc = 0;

    if (image->is_in_use)
        return gw_fail(-ENOTSUP,
                       "%s is a differencing disk: one that a running VM uses cannot be read",
                       image->file.path);
    gw_image_file_use_buffered(&image->file);
    gw_image_info_from_file(image);
    image->info.is_sectored = true;
    while (last->link && rc == 0) {
        rc = open_parent(image, last, options, &last->parent);
        if (rc)
            break;
        last = last->parent;
        memory += last->info.memory_max;
        if (memory > GW_IMAGE_CHAIN_MEMORY_MAX)
            rc = gw_fail(-ENOTSUP, "%s: the tables of its chain need more than %u MiB of memory",
                         image->file.path, GW_IMAGE_CHAIN_MEMORY_MAX >> 20);
    }
    return rc;
}

int gw_image_chain_extent(struct gw_image *image, uint64_t offset, uint64_t end,
                          struct gw_extent *out, struct gw_image_gap *gap)
{
    int rc = image->ops->extent(image, offset, end, out);

    /* What lies behind the end of a smaller parent is in no file. */
    while (rc == 0 && out->kind == GW_EXTENT_ABSENT && image->parent &&
           offset < image->parent->info.virtual_size) {
        image = image->parent;
        end = gw_min(offset + out->length, image->info.virtual_size);
        rc = image->ops->extent(image, offset, end, out);
    }
    if (rc && gap) {
        gap->place = image->ops->entry(image, offset, &gap->end);
        gap->end = gw_min(gap->end, end);
    }
    return rc;
}

int gw_image_chain_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                          struct gw_location *out)
{
    int rc = image->ops->locate(image, offset, length, out);

    while (rc == 0 && out->kind == GW_EXTENT_ABSENT && image->parent &&
           offset < image->parent->info.virtual_size) {
        image = image->parent;
        length = gw_min(out->length, image->info.virtual_size - offset);
        rc = image->ops->locate(image, offset, length, out);
    }
    return rc;
}
