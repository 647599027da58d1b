/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the source and describes the targets. Nothing is copied and nothing made here. */
#include "engine/session/copy-plan.h"

#include <assert.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/session/content.h"
#include "engine/session/parts.h"
#include "engine/volume/disk.h"
#include "engine/volume/layered.h"
#include "engine/volume/nbd.h"

static_assert(GW_IMAGE_CHAIN_MAX <= GW_VOLUMES_MAX, "a chain must fit a plan");

static int set_file_name(const char *path, struct gw_offered_volume *out)
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof(copy), "%s", path);
    if (snprintf(out->file_name, sizeof(out->file_name), "%s", basename(copy)) >=
        (int)sizeof(out->file_name))
        return gw_fail(-ENAMETOOLONG, "'%s' is too long a name", path);
    return 0;
}

static bool is_named(const char *path, const char *ending)
{
    const char *dot = strrchr(path, '.');

    return dot && strcasecmp(dot, ending) == 0;
}

static int choose_format(const struct gw_copy_request *request, const struct gw_endpoint *source,
                         struct gw_offered_volume *out)
{
    int error = 0;

    if (request->target_format)
        error = gw_offer_set_format(request->target_format, out);
    else if (gw_nbd_is_uri(out->target))
        error = gw_offer_set_format("raw", out);
    else if (source->info.format == GW_IMAGE_VHD && !source->foreign[0])
        error = gw_offer_set_format("vhdx", out); /* VHD is not written */
    if (!error && (is_named(out->target, ".vhd") || is_named(out->target, ".avhd")))
        return gw_fail(-EINVAL,
                       "'%s': godwit does not write VHD: give a name that ends in .vhdx, or ask "
                       "for --format raw and a name that says so",
                       out->target);
    return error;
}

static int choose_sectors(const struct gw_copy_request *request, const struct gw_endpoint *source,
                          struct gw_offered_volume *out)
{
    bool is_plain = source->info.format == GW_IMAGE_RAW && !source->info.is_block_device;
    uint32_t wanted = request->sector_size;

    if (!wanted)
        return 0;
    if (out->format != GW_IMAGE_VHDX)
        return gw_fail(-EINVAL, "a sector size is VHDX's: the target is %s", gw_offer_format(out));
    out->logical_sector_size = wanted;
    out->physical_sector_size = (uint32_t)gw_max(out->physical_sector_size, wanted);
    return gw_content_allows_sectors(source->volume,
                                     is_plain ? 0 : source->info.logical_sector_size, wanted);
}

static int choose_blocks(const struct gw_copy_request *request, const struct gw_endpoint *source,
                         struct gw_offered_volume *out)
{
    const char *from =
        source->foreign[0] ? source->foreign : gw_image_format_name(source->info.format);

    if (request->block_size && out->format != GW_IMAGE_VHDX)
        return gw_fail(-EINVAL, "a block size is VHDX's: the target is %s", gw_offer_format(out));
    if (request->block_size)
        out->block_size = request->block_size;
    else if (strcmp(gw_offer_format(out), from) != 0)
        out->block_size = 0; /* blocks are the format's own */
    return 0;
}

/* What is asked for is done, or refused before the first byte. */
static int choose_space(const struct gw_copy_request *request, struct gw_offered_volume *out)
{
    const char *format = gw_offer_format(out);
    bool is_uri = gw_nbd_is_uri(out->target);

    if (request->is_fixed && is_uri)
        return gw_fail(-EINVAL,
                       "%s: an NBD server has its own way to store a disk, whose space is not "
                       "taken from here: leave --preallocate away",
                       out->target);
    if (request->is_fixed && out->foreign[0] && !gw_nbd_can_preallocate(out->foreign))
        return gw_fail(-EINVAL,
                       "the space of a %s image cannot be taken beforehand: leave --preallocate "
                       "away, or ask for another --format",
                       format);
    /* That the source's is taken means nothing to those. */
    if (out->foreign[0] || is_uri)
        out->is_fixed = request->is_fixed;
    if (request->new_id && out->format != GW_IMAGE_VHDX)
        return gw_fail(-EINVAL, "new identifiers are VHDX's: the target is %s", format);
    return 0;
}

/* A VHDX keeps its identity, and what it is called as a parent as long as its content is the same;
 * what becomes one gets a new one. */
static void choose_ids(const struct gw_copy_request *request, const struct gw_endpoint *source,
                       struct gw_offered_volume *out)
{
    if (source->foreign[0] || source->info.format != GW_IMAGE_VHDX ||
        out->format != GW_IMAGE_VHDX || request->new_id)
        return;
    out->has_disk_id = true;
    memcpy(out->disk_id, source->info.disk_id, sizeof(out->disk_id));
    out->has_data_id = out->size == source->info.virtual_size;
    memcpy(out->data_id, source->info.data_id, sizeof(out->data_id));
}

static int grow(const struct gw_copy_request *request, struct gw_endpoint *source)
{
    struct gw_source_volume *grown;
    int error;

    if (!request->size || request->size == source->volume->size)
        return 0;
    if (request->size < source->volume->size)
        return gw_fail(-EINVAL,
                       "the disk has %llu bytes and cannot become %llu: shrink its file systems "
                       "and partitions in the guest, and the image with the program that made it",
                       (unsigned long long)source->volume->size, (unsigned long long)request->size);
    if (request->size % 512)
        return gw_fail(-EINVAL, "a disk of %llu bytes has no whole sectors",
                       (unsigned long long)request->size);
    error = gw_grown_source_new(source->volume, request->size, &grown);
    if (!error)
        source->volume = grown;
    return error;
}

/* What the new image is to be, from the old one and the request. */
static int describe(const struct gw_copy_request *request, const struct gw_endpoint *source,
                    struct gw_offered_volume *out)
{
    const struct gw_image_info *info = &source->info;
    int error;

    *out = (struct gw_offered_volume){
        .kind = GW_VOLUME_DISK,
        .size = source->volume->size,
        .data_bytes = gw_source_data_bytes(source->volume),
        .format = source->foreign[0] ? GW_IMAGE_PROBE : info->format,
        .is_fixed = request->is_fixed || (info->is_fixed && !request->is_dynamic),
        .block_size = info->block_size,
        .logical_sector_size = info->logical_sector_size,
        .physical_sector_size = info->physical_sector_size,
    };
    memcpy(out->foreign, source->foreign, sizeof(out->foreign));
    snprintf(out->name, sizeof(out->name), "%s", source->volume->name);
    gw_part_source(request->source_path,
                   source->foreign[0] ? source->foreign : gw_image_format_name(info->format),
                   out->source, sizeof(out->source));
    error =
        set_file_name(gw_nbd_is_uri(request->source_path) ? "disk.raw" : request->source_path, out);
    if (!error &&
        snprintf(out->target, sizeof(out->target), "%s",
                 request->target_path ? request->target_path : "") >= (int)sizeof(out->target))
        error = gw_fail(-ENAMETOOLONG, "'%s' is too long a name", request->target_path);
    if (!error)
        error = choose_format(request, source, out);
    if (!error)
        error = choose_blocks(request, source, out);
    if (!error)
        error = choose_sectors(request, source, out);
    if (!error)
        error = choose_space(request, out);
    if (!error)
        choose_ids(request, source, out);
    return error;
}

static int plan_one(const struct gw_copy_request *request, struct gw_endpoint *source,
                    struct gw_copy_plan *plan)
{
    int error = grow(request, source);

    if (!error)
        error = describe(request, source, &plan->offered[0]);
    if (error)
        return error;
    plan->volumes[plan->count++] = source->volume;
    source->volume = NULL;
    return 0;
}

static int check_chain_request(const struct gw_copy_request *request, const char *path)
{
    bool has_other = request->target_format || request->size || request->block_size ||
                     request->sector_size || request->new_id || request->is_fixed ||
                     request->is_dynamic;

    if (has_other)
        return gw_fail(-EINVAL,
                       "%s is a differencing disk, and its chain is copied file by file, as it is: "
                       "add --flatten to make one new image of it, to which format, sizes and "
                       "identifiers apply",
                       path);
    if (gw_nbd_is_uri(request->target_path))
        return gw_fail(-EINVAL, "%s is a differencing disk: add --flatten to copy it to an export",
                       path);
    return 0;
}

static int check_names(const struct gw_copy_plan *plan)
{
    const struct gw_offered_volume *last = &plan->offered[plan->count];

    for (unsigned i = 0; i < plan->count; i++)
        if (strcasecmp(plan->offered[i].file_name, last->file_name) == 0)
            return gw_fail(-EINVAL,
                           "two files of the chain are named %s and cannot lie in one folder: "
                           "rename one, or add --flatten",
                           last->file_name);
    return 0;
}

/* One file of the chain, as bytes. Its parent, if it has one, is the file before it in the plan. */
static int plan_file(const struct gw_copy_request *request, struct gw_image *image,
                     struct gw_copy_plan *plan)
{
    struct gw_disk_source_options options = {
        .name = "disk", .path = gw_image_path(image), .format = GW_IMAGE_RAW};
    struct gw_offered_volume *offered = &plan->offered[plan->count];
    struct gw_patches patches = {0};
    struct gw_source_volume *volume, *patched;
    const char *folder = request->target_path ? request->target_path : "";
    char name[GW_VOLUME_NAME_MAX];
    int error = set_file_name(options.path, offered);

    if (!error)
        error = check_names(plan);
    if (!error && plan->count > 0)
        error = gw_image_relocate(image, plan->offered[plan->count - 1].file_name, &patches);
    snprintf(name, sizeof(name), "disk%u", plan->count);
    options.name = name;
    if (!error)
        error = gw_disk_source_open(&options, &volume);
    if (error) {
        gw_patches_free(&patches);
        return error;
    }
    error = gw_patched_source_new(volume, &patches, &patched);
    if (error) {
        volume->ops->close(volume);
        gw_patches_free(&patches);
        return error;
    }
    plan->volumes[plan->count++] = patched;
    offered->kind = GW_VOLUME_DISK;
    offered->format = GW_IMAGE_RAW;
    offered->size = patched->size;
    gw_part_source(gw_image_path(image), "raw", offered->source, sizeof(offered->source));
    offered->data_bytes = gw_source_data_bytes(patched);
    snprintf(offered->name, sizeof(offered->name), "%s", name);
    if (snprintf(offered->target, sizeof(offered->target), "%s%s%s", folder,
                 folder[0] && folder[strlen(folder) - 1] != '/' ? "/" : "",
                 offered->file_name) >= (int)sizeof(offered->target))
        return gw_fail(-ENAMETOOLONG, "'%s' is too long a name", folder);
    return 0;
}

static int plan_chain(const struct gw_copy_request *request, struct gw_image *top,
                      struct gw_copy_plan *plan)
{
    struct gw_image *images[GW_IMAGE_CHAIN_MAX + 1];
    unsigned count = 0;
    int error = check_chain_request(request, gw_image_path(top));

    for (struct gw_image *image = top; image && count <= GW_IMAGE_CHAIN_MAX;
         image = gw_image_parent(image))
        images[count++] = image;
    while (count > 0 && !error)
        error = plan_file(request, images[--count], plan);
    return error;
}

int gw_copy_plan_make(const struct gw_copy_request *request, struct gw_copy_plan *out)
{
    struct gw_endpoint_options options = {.place = request->source_path,
                                          .format = request->source_format,
                                          .mappings = request->parents,
                                          .mapping_count = request->parent_count};
    struct gw_endpoint source;
    int error;

    *out = (struct gw_copy_plan){.offered = calloc(GW_VOLUMES_MAX + 1, sizeof(*out->offered))};
    if (!out->offered)
        return gw_fail(-ENOMEM, "no memory for a plan");
    error = gw_endpoint_open_with(&options, &source);
    if (error) {
        gw_copy_plan_free(out);
        return error;
    }
    if (source.info.is_differencing && !request->flatten)
        error = plan_chain(request, gw_disk_source_image(source.volume), out);
    else
        error = plan_one(request, &source, out);
    if (source.volume)
        source.volume->ops->close(source.volume);
    if (error)
        gw_copy_plan_free(out);
    return error;
}

void gw_copy_plan_free(struct gw_copy_plan *plan)
{
    for (unsigned i = 0; i < plan->count; i++)
        plan->volumes[i]->ops->close(plan->volumes[i]);
    free(plan->offered);
    *plan = (struct gw_copy_plan){0};
}

uint64_t gw_copy_plan_bytes(const struct gw_copy_plan *plan)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < plan->count; i++)
        bytes += plan->offered[i].data_bytes;
    return bytes;
}
