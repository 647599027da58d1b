/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the formats what they found and walks the extents. What a structure means is theirs. */
#include "engine/image/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/json.h"
#include "engine/image/format.h"
#include "engine/image/text.h"

static void set_number(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_guid(json_t *object, const char *key, const uint8_t *guid, bool is_big_endian)
{
    char text[GW_GUID_TEXT];

    gw_guid_format(guid, is_big_endian, text);
    json_object_set_new(object, key, json_string(text));
}

static const char *type_of(const struct gw_image_info *info)
{
    if (info->format == GW_IMAGE_RAW)
        return info->is_block_device ? "block device" : "plain";
    return info->is_differencing ? "differencing" : info->is_fixed ? "fixed" : "dynamic";
}

static void describe_info(const struct gw_image *image, json_t *report)
{
    const struct gw_image_info *info = &image->info;

    json_object_set_new(report, "format", json_string(gw_image_format_name(info->format)));
    json_object_set_new(report, "type", json_string(type_of(info)));
    set_number(report, "virtual_size", info->virtual_size);
    if (info->block_size)
        set_number(report, "block_size", info->block_size);
    set_number(report, "logical_sector_size", info->logical_sector_size);
    set_number(report, "physical_sector_size", info->physical_sector_size);
    if (info->format == GW_IMAGE_VHDX)
        set_guid(report, "disk_id", info->disk_id, false);
    if (info->format != GW_IMAGE_RAW)
        set_guid(report, "data_id", info->data_id, info->format == GW_IMAGE_VHD);
}

static void describe_link(const struct gw_parent_link *link, json_t *report)
{
    json_t *ids = json_array(), *paths = json_array();
    char text[GW_GUID_TEXT];

    for (unsigned i = 0; i < link->id_count; i++) {
        gw_guid_format(link->ids[i], link->is_big_endian, text);
        json_array_append_new(ids, json_string(text));
    }
    for (unsigned i = 0; i < link->path_count; i++)
        json_array_append_new(paths, json_pack("{s:s,s:s}", "kind", link->paths[i].label, "path",
                                               link->paths[i].text));
    json_object_set_new(report, "parent", json_pack("{s:o,s:o}", "ids", ids, "paths", paths));
}

#define MAP_FIRST 1024u /* extents for which a map begins with room */

/* Room for one more, twice as much as before. */
static int make_room(struct gw_inspect_map *map)
{
    uint64_t room = gw_max(map->count, MAP_FIRST / 2) * 2;
    struct gw_extent *list;

    /* Full at MAP_FIRST and at each double of it. */
    if (map->count > 0 && (map->count < MAP_FIRST || !gw_is_power_of_two(map->count)))
        return 0;
    list = reallocarray(map->list, gw_min(room, GW_INSPECT_EXTENTS_MAX), sizeof(*list));
    if (!list)
        return gw_fail(-ENOMEM, "no memory for a map");
    map->list = list;
    return 0;
}

static int add_extent(struct gw_inspect_map *map, const struct gw_extent *extent)
{
    int rc;

    if (!map || extent->length == 0)
        return 0;
    if (map->count == GW_INSPECT_EXTENTS_MAX) {
        map->left_out++;
        map->is_cut = true;
        return 0;
    }
    rc = make_room(map);
    if (rc == 0)
        map->list[map->count++] = *extent;
    return rc;
}

/* The run at offset, or what a fault hides there (a run of no length) and its end. */
static int next_run(struct gw_image *image, uint64_t at, struct gw_extent *run, uint64_t *end)
{
    struct gw_image_gap gap;
    int rc = gw_image_chain_extent(image, at, image->info.virtual_size, run, &gap);

    *end = rc ? gap.end : at + run->length;
    if (rc == 0 || rc == -ENOMEM)
        return rc;
    gw_faults_add(image->file.faults, gap.place, false, gw_error_message());
    *run = (struct gw_extent){.length = 0};
    return 0;
}

/* Walks the disk through all parents. Runs that are alike are told as one. */
static int walk(struct gw_image *image, struct gw_inspect_map *map, json_t *report)
{
    uint64_t data = 0, end;
    struct gw_extent whole = {0}, run;
    int rc = 0;

    for (uint64_t at = 0; at < image->info.virtual_size && rc == 0; at = end) {
        rc = next_run(image, at, &run, &end);
        if (rc)
            break;
        if (run.kind == GW_EXTENT_DATA)
            data += run.length;
        if (whole.length > 0 && run.length > 0 && whole.kind == run.kind) {
            whole.length += run.length;
            continue;
        }
        if (map && run.length == 0)
            map->is_cut = true;
        rc = add_extent(map, &whole);
        whole = run;
    }
    if (rc == 0)
        rc = add_extent(map, &whole);
    if (rc == 0)
        set_number(report, "data_bytes", data);
    return rc;
}

static void describe_chain(struct gw_image *top, json_t *report)
{
    json_t *chain = json_array();

    for (const struct gw_image *image = top; image; image = image->parent)
        json_array_append_new(chain, json_string(image->file.path));
    json_object_set_new(report, "chain", chain);
}

/* Its parents, if it has any. What is wrong with one of them is a fault, that memory is short is none of
 * the image's: -ENOMEM. */
static int open_parents(const struct gw_inspect_options *options, struct gw_image *image,
                        json_t *report)
{
    struct gw_faults *faults = image->file.faults;
    int rc = image->link ? gw_image_chain_open(image, &options->open) : 0;

    if (rc == -ENOMEM || !image->link)
        return rc;
    if (rc) {
        gw_faults_add(faults, image->link->place, false, gw_error_message());
        gw_image_close(image->parent);
        image->parent = NULL;
        if (options->map)
            options->map->is_cut = true;
        return 0;
    }
    for (struct gw_image *parent = image->parent; parent; parent = parent->parent)
        parent->file.faults = faults;
    describe_chain(image, report);
    return 0;
}

static bool is_any_written(const struct gw_image *image)
{
    for (; image; image = image->parent)
        if (gw_image_file_is_written(&image->file))
            return true;
    return false;
}

/* All parents and all extents, and whether somebody wrote to one of the files when this began or since. */
static int inspect_whole(const struct gw_inspect_options *options, struct gw_image *image,
                         json_t *report)
{
    int rc = open_parents(options, image, report);
    bool is_written = is_any_written(image);

    if (rc == 0)
        rc = walk(image, options->map, report);
    is_written = is_written || gw_image_unchanged(image) == -ESTALE;
    json_object_set_new(report, "in_use", json_boolean(is_written));
    return rc;
}

static void describe_faults(const struct gw_faults *faults, json_t *report)
{
    json_t *wrong = json_array(), *harmless = json_array();

    for (unsigned i = 0; i < faults->count && i < GW_FAULTS_MAX; i++) {
        const struct gw_fault *fault = &faults->list[i];

        json_array_append_new(
            fault->is_harmless ? harmless : wrong,
            json_pack("{s:I,s:s}", "offset", (json_int_t)fault->offset, "text", fault->text));
    }
    json_object_set_new(report, "faults", wrong);
    json_object_set_new(report, "warnings", harmless);
    set_number(report, "fault_count", faults->count - faults->harmless_count);
    json_object_set_new(report, "sound", json_boolean(faults->count == faults->harmless_count));
}

/* Nothing but the file itself. */
static int describe_file(const char *path, json_t *report)
{
    struct stat info;

    if (stat(path, &info))
        return gw_fail_errno(-errno, "cannot look at %s", path);
    json_object_set_new(report, "path", json_string(path));
    if (S_ISREG(info.st_mode)) {
        set_number(report, "file_size", (uint64_t)info.st_size);
        set_number(report, "file_allocated", (uint64_t)info.st_blocks * 512);
    }
    return 0;
}

/* A format that is not known is no damage. */
static bool is_about_content(int rc, const json_t *report)
{
    return rc == -EUCLEAN || (rc == -ENOTSUP && json_object_get(report, "vhdx"));
}

int gw_image_inspect(const struct gw_inspect_options *options, json_t **out)
{
    struct gw_image_open_options open = options->open;
    struct gw_faults *faults = calloc(1, sizeof(*faults));
    unsigned failures = gw_json_failures();
    json_t *report = json_object();
    struct gw_image *image = NULL;
    int rc = faults && report ? describe_file(open.path, report)
                              : gw_fail(-ENOMEM, "no memory for a report");

    open.is_alone = true;
    open.is_unlocked = true;
    open.faults = faults;
    open.survey = report;
    if (rc == 0)
        rc = gw_image_open(&open, &image);
    if (is_about_content(rc, report)) {
        if (faults->count == faults->harmless_count)
            gw_faults_add(faults, 0, false, gw_error_message());
        if (options->map)
            options->map->is_cut = true;
        rc = 0;
    }
    if (image) {
        describe_info(image, report);
        if (image->link)
            describe_link(image->link, report);
        image->ops->survey(image, report);
        rc = inspect_whole(options, image, report);
    }
    gw_image_close(image);
    if (rc == 0)
        describe_faults(faults, report);
    /* A report that lacks something reads like that of another image. */
    if (rc == 0 && gw_json_failures() != failures)
        rc = gw_fail(-ENOMEM, "no memory for a report");
    if (rc == 0) {
        *out = report;
    } else {
        json_decref(report);
    }
    free(faults);
    return rc;
}
