/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes to JSON and back, every member checked. */
#include "engine/session/offer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "engine/session/message.h"
#include "engine/volume/nbd.h"
#include "engine/volume/ram.h"

#define SMALL_GAP (2u << 20) /* between two ranges: they are told as one */

const char *gw_offer_format(const struct gw_offered_volume *volume)
{
    return volume->foreign[0] ? volume->foreign : gw_image_format_name(volume->format);
}

int gw_offer_set_format(const char *name, struct gw_offered_volume *out)
{
    out->foreign[0] = '\0';
    if (!gw_nbd_format_is_known(name))
        return gw_image_format_parse(name, &out->format);
    out->format = GW_IMAGE_PROBE;
    snprintf(out->foreign, sizeof(out->foreign), "%s", name);
    return 0;
}

json_t *gw_offer_volume(const struct gw_offered_volume *volume)
{
    char id[2 * GW_ID_SIZE + 1] = "", data_id[2 * GW_ID_SIZE + 1] = "";
    bool is_ram = volume->kind == GW_VOLUME_RAM;

    if (volume->has_disk_id)
        gw_id_format(volume->disk_id, id);
    if (volume->has_data_id)
        gw_id_format(volume->data_id, data_id);
    return json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:s,s:b,s:i,s:i,s:i,s:s,s:s,s:s}", "kind",
                     is_ram ? "ram" : "disk", "name", volume->name, "file", volume->file_name,
                     "target", volume->target, "size", (json_int_t)volume->size, "data",
                     (json_int_t)volume->data_bytes, "format",
                     is_ram ? "" : gw_offer_format(volume), "fixed", volume->is_fixed, "block_size",
                     (int)volume->block_size, "logical_sector", (int)volume->logical_sector_size,
                     "physical_sector", (int)volume->physical_sector_size, "disk_id", id, "data_id",
                     data_id, "source", volume->source);
}

static int copy_text(const json_t *object, const char *member, char *out, size_t size)
{
    const char *text;
    int error = gw_message_text(object, member, &text);

    if (error)
        return error;
    if (strlen(text) >= size)
        return gw_fail(-EPROTO, "volume: '%s' is longer than %zu bytes", member, size - 1);
    memcpy(out, text, strlen(text) + 1);
    return 0;
}

static int parse_disk(const json_t *object, struct gw_offered_volume *out)
{
    uint64_t block = 0, logical = 0, physical = 0;
    const char *format, *id, *source;
    int error = gw_message_text(object, "format", &format);

    if (!error &&
        (gw_offer_set_format(format, out) || (out->format == GW_IMAGE_PROBE && !out->foreign[0])))
        error = gw_fail(-EPROTO, "volume %s: there is no image format '%.32s'", out->name, format);
    if (!error)
        error = gw_message_bool(object, "fixed", &out->is_fixed);
    if (!error)
        error = gw_message_number(object, "block_size", 256u << 20, &block);
    if (!error)
        error = gw_message_number(object, "logical_sector", 4096, &logical);
    if (!error)
        error = gw_message_number(object, "physical_sector", 4096, &physical);
    if (!error)
        error = gw_message_text(object, "disk_id", &id);
    if (!error && id[0]) {
        out->has_disk_id = true;
        error = gw_id_parse(id, out->disk_id);
    }
    if (!error)
        error = gw_message_text(object, "data_id", &id);
    if (!error && id[0]) {
        out->has_data_id = true;
        error = gw_id_parse(id, out->data_id);
    }
    if (!error)
        error = gw_message_optional_text(object, "source", &source);
    if (!error && source &&
        snprintf(out->source, sizeof(out->source), "%s", source) >= (int)sizeof(out->source))
        error = gw_fail(-EPROTO, "volume %s: 'source' is too long", out->name);
    out->block_size = (uint32_t)block;
    out->logical_sector_size = (uint32_t)logical;
    out->physical_sector_size = (uint32_t)physical;
    return error;
}

int gw_offer_parse_volume(const json_t *object, struct gw_offered_volume *out)
{
    const char *kind;
    int error = gw_message_text(object, "kind", &kind);

    memset(out, 0, sizeof(*out));
    if (!error && strcmp(kind, "ram") != 0 && strcmp(kind, "disk") != 0)
        error = gw_fail(-EPROTO, "volume of unknown kind '%.32s'", kind);
    if (!error)
        error = copy_text(object, "name", out->name, sizeof(out->name));
    if (!error)
        error = copy_text(object, "file", out->file_name, sizeof(out->file_name));
    if (!error)
        error = copy_text(object, "target", out->target, sizeof(out->target));
    if (!error)
        error = gw_message_number(object, "size", GW_VOLUME_SIZE_MAX, &out->size);
    if (!error)
        error = gw_message_number(object, "data", GW_VOLUME_SIZE_MAX, &out->data_bytes);
    if (error)
        return error;
    if (out->size == 0)
        return gw_fail(-EPROTO, "volume %s has no bytes", out->name);
    out->kind = strcmp(kind, "ram") == 0 ? GW_VOLUME_RAM : GW_VOLUME_DISK;
    return out->kind == GW_VOLUME_RAM ? 0 : parse_disk(object, out);
}

json_t *gw_offer_filled(struct gw_source_volume *ram)
{
    json_t *list = json_array();
    struct gw_extent extent;
    uint64_t begin = 0, end = 0;

    for (uint64_t offset = 0; offset < ram->size; offset = extent.offset + extent.length) {
        if (ram->ops->next_extent(ram, offset, ram->size, &extent)) {
            json_decref(list);
            return NULL;
        }
        if (extent.kind != GW_EXTENT_DATA)
            continue;
        /* The last range that there is room for takes in what follows. */
        if (end > begin && extent.offset - end > SMALL_GAP &&
            json_array_size(list) + 1 < GW_FILLED_MAX) {
            json_array_append_new(list,
                                  json_pack("[I,I]", (json_int_t)begin, (json_int_t)(end - begin)));
            begin = extent.offset;
        } else if (end == begin) {
            begin = extent.offset;
        }
        end = extent.offset + extent.length;
    }
    if (end > begin)
        json_array_append_new(list,
                              json_pack("[I,I]", (json_int_t)begin, (json_int_t)(end - begin)));
    return list;
}

/* Calls what for each range in which the source's memory holds data. No list in the offer is fine. */
static int for_each_filled(const json_t *object, struct gw_target_volume *ram,
                           int (*what)(struct gw_target_volume *ram, uint64_t offset,
                                       uint64_t length))
{
    json_t *list;
    int error = 0;

    if (!json_object_get(object, "filled"))
        return 0;
    error = gw_message_array(object, "filled", GW_FILLED_MAX, &list);
    for (size_t i = 0; !error && i < json_array_size(list); i++) {
        const json_t *range = json_array_get(list, i);
        json_int_t offset = json_integer_value(json_array_get(range, 0));
        json_int_t length = json_integer_value(json_array_get(range, 1));

        if (offset < 0 || length <= 0)
            return gw_fail(-EPROTO, "%s: a range of the offer is out of bounds", ram->name);
        error = what(ram, (uint64_t)offset, (uint64_t)length);
    }
    return error;
}

int gw_offer_populate(const json_t *object, struct gw_target_volume *ram)
{
    return for_each_filled(object, ram, gw_ram_target_populate);
}

int gw_offer_set_aside(const json_t *object, struct gw_target_volume *ram)
{
    return for_each_filled(object, ram, gw_ram_target_set_aside);
}

void gw_offer_note_warnings(const json_t *volumes, struct gw_progress *progress)
{
    const json_t *item;
    size_t index;

    json_array_foreach((json_t *)volumes, index, item)
    {
        const char *warning = json_string_value(json_object_get(item, "warning"));

        if (!warning)
            continue;
        gw_log(GW_LOG_WARNING, "%.300s", warning);
        gw_progress_note(progress, "%.255s", warning);
    }
}
