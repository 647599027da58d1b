/* SPDX-License-Identifier: Apache-2.0 */
/* What inspect wants to know of a VHD: its footer's words, and what the entries of its table are. Which
 * of them are wrong is told by who walks the disk. */
#include <errno.h>
#include <stdlib.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/json.h"
#include "engine/image/vhd/vhd.h"

#define OVERLAP_MAX (1u << 20) /* entries that are compared with one another */

static int compare(const void *a, const void *b)
{
    uint64_t one = *(const uint64_t *)a, two = *(const uint64_t *)b;

    return (one > two) - (one < two);
}

/* Two blocks at one place: nobody looks for that while reading. */
static void find_overlaps(const struct gw_vhd *vhd, uint64_t *places, uint64_t count)
{
    uint64_t length = vhd->bitmap_size + (uint64_t)vhd->base.info.block_size;

    qsort(places, count, sizeof(*places), compare);
    for (uint64_t i = 1; i < count; i++)
        if (places[i] < places[i - 1] + length)
            gw_faults_add(vhd->base.file.faults, places[i], false,
                          "two blocks of the disk overlap here");
}

static void survey_blocks(struct gw_vhd *vhd, json_t *out)
{
    uint64_t count = gw_min(vhd->block_count, OVERLAP_MAX), present = 0, damaged = 0, kept = 0;
    uint64_t *places = calloc(count ? count : 1, sizeof(*places));

    for (uint64_t block = 0; block < vhd->block_count; block++) {
        uint64_t place;
        int rc = gw_vhd_block_find(vhd, block, &place);

        if (rc == -ENOMEM) {
            gw_json_left_out();
            break;
        }
        damaged += rc != 0;
        present += rc == 0 && place != 0;
        if (rc == 0 && place && places && kept < count)
            places[kept++] = place - vhd->bitmap_size;
    }
    if (places)
        find_overlaps(vhd, places, kept);
    else
        gw_json_left_out();
    free(places);
    json_object_set_new(out, "block_count", json_integer((json_int_t)vhd->block_count));
    json_object_set_new(out, "blocks",
                        json_pack("{s:I,s:I}", "present", (json_int_t)present, "not_present",
                                  (json_int_t)(vhd->block_count - present - damaged)));
    if (damaged)
        json_object_set_new(json_object_get(out, "blocks"), "damaged",
                            json_integer((json_int_t)damaged));
}

void gw_vhd_survey(struct gw_image *image, json_t *report)
{
    struct gw_vhd *vhd = gw_vhd_of(image);
    json_t *out = json_pack("{s:s,s:I,s:b,s:I}", "creator", vhd->footer.creator, "footer_offset",
                            vhd->is_copy_used ? (json_int_t)0 : (json_int_t)vhd->footer_offset,
                            "saved_state", vhd->footer.has_saved_state, "geometry_size",
                            (json_int_t)vhd->footer.geometry_size);

    if (vhd->is_copy_used)
        gw_faults_add(image->file.faults, image->file.size - gw_min(image->file.size, 512), false,
                      "the footer at the end is missing or damaged; the copy at the beginning is "
                      "read");
    if (vhd->footer.has_saved_state)
        gw_faults_add(image->file.faults, VHD_FOOTER_SAVED, true,
                      "the disk belongs to a VM that was saved while it ran");
    if (vhd->footer.type != VHD_FIXED)
        survey_blocks(vhd, out);
    json_object_set_new(report, "vhd", out);
}
