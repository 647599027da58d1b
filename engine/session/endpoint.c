/* SPDX-License-Identifier: Apache-2.0 */
/* Chooses the volume that serves a place. */
#include "engine/session/endpoint.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/session/verify.h"
#include "engine/volume/disk.h"
#include "engine/volume/nbd.h"

static int open_export(const char *uri, const char *format, struct gw_endpoint *out)
{
    if (format && strcmp(format, "raw") != 0)
        return gw_fail(
            -EINVAL,
            "%s: an NBD server gives the bytes of a disk, not an image: leave the source's "
            "format away",
            uri);
    return gw_nbd_source_open_uri(uri, &out->volume);
}

static int open_foreign(const char *path, const char *format, struct gw_endpoint *out)
{
    struct gw_nbd_image image;
    int error = gw_nbd_image_check(path, format, &image);

    if (!error)
        error = gw_nbd_source_open_image(path, format, &out->volume);
    if (error)
        return error;
    snprintf(out->foreign, sizeof(out->foreign), "%s", format);
    out->info.block_size = image.cluster_size;
    return 0;
}

static int open_image(const struct gw_endpoint_options *from, struct gw_endpoint *out)
{
    struct gw_parent_mapping mappings[GW_DISKS_MAX];
    struct gw_disk_source_options options = {.name = "disk",
                                             .path = from->place,
                                             .mappings = mappings,
                                             .mapping_count = from->mapping_count};
    int error = from->format ? gw_image_format_parse(from->format, &options.format) : 0;

    for (unsigned i = 0; i < from->mapping_count; i++)
        mappings[i] =
            (struct gw_parent_mapping){.from = from->mappings[i].from, .to = from->mappings[i].to};
    if (!error)
        error = gw_disk_source_open(&options, &out->volume);
    if (!error)
        out->info = *gw_disk_source_info(out->volume);
    return error;
}

int gw_endpoint_open(const char *place, const char *format, struct gw_endpoint *out)
{
    struct gw_endpoint_options options = {.place = place, .format = format};

    return gw_endpoint_open_with(&options, out);
}

int gw_endpoint_open_with(const struct gw_endpoint_options *options, struct gw_endpoint *out)
{
    const char *place = options->place, *format = options->format, *foreign = NULL;
    int error;

    *out = (struct gw_endpoint){
        .info = {.format = GW_IMAGE_RAW, .logical_sector_size = 512, .physical_sector_size = 512}};
    if (gw_nbd_is_uri(place)) {
        error = open_export(place, format, out);
    } else {
        if (!format)
            foreign = gw_nbd_format_probe(place);
        else if (gw_nbd_format_is_known(format))
            foreign = format;
        error = foreign ? open_foreign(place, foreign, out) : open_image(options, out);
    }
    if (!error)
        out->info.virtual_size = out->volume->size;
    return error;
}

static int make_foreign(const struct gw_offered_volume *offered, const char *path,
                        const char *epoch, struct gw_wanted wanted, struct gw_target_volume **out)
{
    struct gw_nbd_target_options options = {
        .wanted = wanted,
        .name = offered->name,
        .path = path,
        .epoch = epoch,
        .format = offered->foreign,
        .size = offered->size,
        .cluster_size = offered->block_size,
        .is_fixed = offered->is_fixed,
        .is_in_pause = offered->is_name_journalled,
    };

    return gw_nbd_target_create(&options, out);
}

static int make_image(const struct gw_offered_volume *offered, const char *path, const char *epoch,
                      struct gw_target_volume **out)
{
    struct gw_disk_target_options options = {
        .name = offered->name,
        .path = path,
        .epoch = epoch,
        .format = offered->format,
        .is_fixed = offered->is_fixed,
        .size = offered->size,
        .block_size = offered->block_size,
        .logical_sector_size = offered->logical_sector_size,
        .physical_sector_size = offered->physical_sector_size,
        .disk_id = offered->has_disk_id ? offered->disk_id : NULL,
        .is_continued = offered->is_continued,
        .is_finished = offered->is_finished,
        .is_name_journalled = offered->is_name_journalled,
        .data_id = offered->has_data_id ? offered->data_id : NULL,
    };

    return gw_disk_target_create(&options, out);
}

static int make(const struct gw_offered_volume *offered, const char *place, const char *epoch,
                struct gw_wanted wanted, struct gw_target_volume **out)
{
    if (!gw_nbd_is_uri(place))
        return offered->foreign[0] ? make_foreign(offered, place, epoch, wanted, out)
                                   : make_image(offered, place, epoch, out);
    if (offered->foreign[0] || offered->format != GW_IMAGE_RAW)
        return gw_fail(
            -EINVAL,
            "%s: an NBD server takes the bytes of a disk, not a %s image: ask for format "
            "raw",
            place, gw_offer_format(offered));
    return gw_nbd_target_open_uri(offered->name, place, offered->size, out);
}

int gw_endpoint_make(const struct gw_offered_volume *offered, const char *place, const char *epoch,
                     struct gw_wanted wanted, struct gw_target_volume **out)
{
    int error = make(offered, place, epoch, wanted, out);

    if (!error)
        (*out)->wanted = wanted;
    return error;
}

/* May a file of that format have this ending? A VHDX has its own; another disk may have any that is
 * not the name of a format. */
static bool keeps_name(const struct gw_offered_volume *offered, const char *ending)
{
    static const char *const formats[] = {"raw", "vhdx", "vhd", "avhd", "qcow2", "vdi", "vmdk"};
    const char *format = gw_offer_format(offered);

    if (strcasecmp(ending, ".avhdx") == 0)
        return offered->format == GW_IMAGE_VHDX;
    for (size_t i = 0; i < GW_ARRAY_LENGTH(formats); i++)
        if (strcasecmp(ending + 1, formats[i]) == 0)
            return strcmp(format, formats[i]) == 0;
    return offered->format != GW_IMAGE_VHDX;
}

void gw_endpoint_name(const struct gw_offered_volume *offered, char *out, size_t size)
{
    const char *ending = strrchr(offered->file_name, '.');

    if (!ending || keeps_name(offered, ending))
        snprintf(out, size, "%s", offered->file_name);
    else
        snprintf(out, size, "%.*s.%s", (int)(ending - offered->file_name), offered->file_name,
                 gw_offer_format(offered));
}

int gw_endpoint_digest(const char *place, const char *format, uint64_t size, uint8_t *digest)
{
    struct gw_endpoint endpoint;
    int error = gw_endpoint_open(place, format, &endpoint);

    if (error)
        return error;
    /* A device or an export may be larger than the disk that was put on it. */
    endpoint.volume->size = gw_min(endpoint.volume->size, size);
    error = gw_verify_source(endpoint.volume, digest);
    endpoint.volume->ops->close(endpoint.volume);
    return error;
}
