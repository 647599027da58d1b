/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What inspect wants to know of a VHDX: every structure as it lies in the file, also of one that
 * cannot be opened, and how many blocks are in which state. Which entries are wrong is told by who
 * walks the disk.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "common/json.h"
#include "engine/image/text.h"
#include "engine/image/vhdx/vhdx.h"

static json_t *guid_text(const uint8_t *guid)
{
    char text[GW_GUID_TEXT];

    gw_guid_format(guid, false, text);
    return json_string(text);
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static void survey_identifier(const struct gw_image_file *file, json_t *vhdx)
{
    uint8_t bytes[VHDX_IDENTIFIER_CREATOR + 2 * VHDX_CREATOR_CHARACTERS];
    size_t length = VHDX_IDENTIFIER_CREATOR;
    char *text;
    int rc;

    if (gw_image_file_read(file, 0, bytes, sizeof(bytes)))
        return;
    while (length < sizeof(bytes) && (bytes[length] || bytes[length + 1]))
        length += 2;
    rc = gw_text_from_utf16(bytes + VHDX_IDENTIFIER_CREATOR, length - VHDX_IDENTIFIER_CREATOR,
                            false, &text);
    if (rc == -ENOMEM)
        gw_json_left_out();
    if (rc)
        return;
    json_object_set_new(vhdx, "creator", json_string(text));
    free(text);
}

static void survey_headers(const struct gw_image_file *file, json_t *vhdx)
{
    static const uint64_t places[] = {VHDX_HEADER_1_OFFSET, VHDX_HEADER_2_OFFSET};
    struct gw_vhdx_header headers[2] = {0};
    json_t *list = json_array();
    bool is_valid[2] = {false};

    for (int i = 0; i < 2; i++) {
        uint8_t bytes[VHDX_HEADER_SIZE];
        json_t *entry = json_pack("{s:o}", "offset", number(places[i]));

        is_valid[i] = gw_image_file_read(file, places[i], bytes, sizeof(bytes)) == 0 &&
                      gw_vhdx_header_decode(bytes, &headers[i]);
        json_object_set_new(entry, "valid", json_boolean(is_valid[i]));
        if (is_valid[i]) {
            json_object_set_new(entry, "sequence", number(headers[i].sequence));
            json_object_set_new(entry, "version", number(headers[i].version));
            json_object_set_new(entry, "file_write_guid", guid_text(headers[i].file_guid));
            json_object_set_new(entry, "data_write_guid", guid_text(headers[i].data_guid));
            json_object_set_new(entry, "log_guid", guid_text(headers[i].log_guid));
            json_object_set_new(entry, "log_offset", number(headers[i].log.offset));
            json_object_set_new(entry, "log_length", number(headers[i].log.length));
        }
        json_array_append_new(list, entry);
    }
    json_object_set_new(vhdx, "headers", list);
    for (int i = 0; i < 2; i++)
        if (!is_valid[i])
            gw_faults_add(file->faults, places[i], is_valid[!i],
                          "the header is damaged (signature or checksum)");
}

static void survey_regions(const struct gw_image_file *file, json_t *vhdx)
{
    static const uint64_t places[] = {VHDX_REGION_1_OFFSET, VHDX_REGION_2_OFFSET};
    uint8_t *table = malloc(VHDX_REGION_TABLE_SIZE);
    bool is_valid[2] = {false};
    json_t *list;

    if (!table) {
        gw_json_left_out();
        return;
    }
    list = json_array();
    for (int i = 1; i >= 0; i--)
        is_valid[i] = gw_image_file_read(file, places[i], table, VHDX_REGION_TABLE_SIZE) == 0 &&
                      gw_vhdx_regions_are_valid(table);
    for (int i = 0; i < 2; i++)
        if (!is_valid[i])
            gw_faults_add(file->faults, places[i], is_valid[!i],
                          "the region table is damaged (signature or checksum)");
    if ((is_valid[0] || is_valid[1]) &&
        gw_image_file_read(file, places[!is_valid[0]], table, VHDX_REGION_TABLE_SIZE) == 0) {
        uint32_t count =
            (uint32_t)gw_min(gw_get_le32(table + VHDX_REGION_COUNT), VHDX_REGION_COUNT_MAX);

        for (uint32_t i = 0; i < count; i++) {
            const uint8_t *entry = table + VHDX_REGION_ENTRIES + i * VHDX_REGION_ENTRY_SIZE;
            const char *name = memcmp(entry, gw_vhdx_guid_bat, 16) == 0 ? "block allocation table"
                               : memcmp(entry, gw_vhdx_guid_metadata, 16) == 0 ? "metadata"
                                                                               : "unknown";

            json_array_append_new(
                list,
                json_pack("{s:s,s:o,s:o,s:o,s:b}", "name", name, "guid", guid_text(entry), "offset",
                          number(gw_get_le64(entry + VHDX_REGION_ENTRY_OFFSET)), "length",
                          number(gw_get_le32(entry + VHDX_REGION_ENTRY_LENGTH)), "required",
                          (int)(gw_get_le32(entry + VHDX_REGION_ENTRY_REQUIRED) & 1)));
        }
    }
    json_object_set_new(vhdx, "regions", list);
    free(table);
}

void gw_vhdx_survey_file(const struct gw_image_file *file, json_t *report)
{
    json_t *vhdx = json_object();

    survey_identifier(file, vhdx);
    survey_headers(file, vhdx);
    survey_regions(file, vhdx);
    json_object_set_new(report, "vhdx", vhdx);
}

static void survey_metadata(const struct gw_vhdx *vhdx, json_t *out)
{
    uint8_t *table = malloc(VHDX_METADATA_TABLE_SIZE);
    json_t *list;

    if (!table) {
        gw_json_left_out();
        return;
    }
    list = json_array();
    if (gw_vhdx_read(vhdx, vhdx->metadata_region.offset, table, VHDX_METADATA_TABLE_SIZE) == 0) {
        uint32_t count =
            (uint32_t)gw_min(gw_get_le16(table + VHDX_METADATA_COUNT), VHDX_METADATA_COUNT_MAX);

        for (uint32_t i = 0; i < count; i++) {
            const uint8_t *entry = table + VHDX_METADATA_ENTRIES + i * VHDX_METADATA_ENTRY_SIZE;
            uint32_t flags = gw_get_le32(entry + VHDX_METADATA_ENTRY_FLAGS);

            json_array_append_new(
                list, json_pack("{s:s,s:o,s:o,s:o,s:b,s:b}", "name", gw_vhdx_item_name(entry),
                                "guid", guid_text(entry), "offset",
                                number(vhdx->metadata_region.offset +
                                       gw_get_le32(entry + VHDX_METADATA_ENTRY_OFFSET)),
                                "length", number(gw_get_le32(entry + VHDX_METADATA_ENTRY_LENGTH)),
                                "user", (int)(flags & VHDX_METADATA_IS_USER), "required",
                                (int)(flags & VHDX_METADATA_IS_REQUIRED) != 0));
        }
    }
    json_object_set_new(out, "metadata", list);
    free(table);
}

static void survey_blocks(struct gw_vhdx *vhdx, json_t *out)
{
    static const char *const names[8] = {"not_present",   "undefined",        "zero",
                                         "unmapped",      "reserved_4",       "unmapped_v095",
                                         "fully_present", "partially_present"};
    uint64_t counts[8] = {0}, damaged = 0, entry;
    json_t *states = json_object();

    pthread_mutex_lock(&vhdx->bat.lock);
    for (uint64_t block = 0, next; block < vhdx->block_count; block = next) {
        int rc = gw_vhdx_bat_get(vhdx, block, &entry);

        if (rc == -ENOMEM) {
            gw_json_left_out();
            break;
        }
        next = gw_max(gw_vhdx_bat_skip_hole(vhdx, block), block + 1);
        *(rc ? &damaged : &counts[entry & VHDX_BAT_STATE_MASK]) += next - block;
    }
    pthread_mutex_unlock(&vhdx->bat.lock);
    for (int i = 0; i < 8; i++)
        if (counts[i])
            json_object_set_new(states, names[i], number(counts[i]));
    if (damaged)
        json_object_set_new(states, "damaged", number(damaged));
    json_object_set_new(out, "block_count", number(vhdx->block_count));
    json_object_set_new(out, "blocks", states);
}

void gw_vhdx_survey(struct gw_image *image, json_t *report)
{
    struct gw_vhdx *vhdx = gw_vhdx_of(image);
    json_t *out = json_object_get(report, "vhdx");
    bool has_log = gw_vhdx_has_log(&vhdx->header);

    json_object_set_new(
        out, "log",
        json_pack("{s:s,s:o,s:o,s:o}", "state", has_log ? "to be replayed" : "empty", "offset",
                  number(vhdx->header.log.offset), "length", number(vhdx->header.log.length),
                  "changed_sectors", number(vhdx->overlay.count)));
    survey_metadata(vhdx, out);
    survey_blocks(vhdx, out);
}
