/* SPDX-License-Identifier: Apache-2.0 */
/*
 * offer: the volumes that a source offers, as both sides write and read them (docs/protocol.md).
 * Errors: -EPROTO with the member for what is missing or out of bounds.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_OFFER_H
#define GODWIT_ENGINE_SESSION_OFFER_H

#include <jansson.h>

#include "engine/image/image.h"
#include "engine/migration.h"
#include "engine/volume/checkpoint.h"
#include "engine/volume/volume.h"

#define GW_VOLUME_SIZE_MAX (64ull << 40) /* bytes: the largest VHDX */
#define GW_FILLED_MAX      128u          /* ranges of a memory that an offer lists */

struct gw_offered_volume {
    enum gw_volume_kind kind;
    char name[GW_VOLUME_NAME_MAX];
    char file_name[256];         /* the image's name on the source, without its folder */
    char target[4096];           /* what the user asked for, or "" */
    uint64_t size, data_bytes;   /* data_bytes: allocated on the source, for the check of space */
    enum gw_image_format format; /* GW_IMAGE_PROBE when foreign says which */
    char foreign[16];            /* a format that goes through NBD at both ends ("qcow2"), or "" */
    bool is_fixed;
    bool is_continued; /* the target's own: an unfinished image of an earlier attempt is there */
    bool is_finished;  /* the target's own: that attempt has given it its final name */
    uint64_t already_bytes; /* the target's own: what that image takes */
    /* What tells the source's content from every other, as text: it is compared when an attempt goes
     * on with an earlier one, and else means nothing. */
    char source[GW_CHECKPOINT_SOURCE_MAX];
    bool is_name_journalled; /* the target's own, see gw_disk_target_options */
    uint32_t block_size, logical_sector_size, physical_sector_size;
    bool has_disk_id, has_data_id;
    uint8_t disk_id[16], data_id[16]; /* of a VHDX; the latter is what children know it by */
};

json_t *gw_offer_volume(const struct gw_offered_volume *volume);
/* What the offer calls the disk's format. */
const char *gw_offer_format(const struct gw_offered_volume *volume);
/* The other way round: sets format and foreign. -EINVAL for a name of none. */
int gw_offer_set_format(const char *name, struct gw_offered_volume *out);
int gw_offer_parse_volume(const json_t *object, struct gw_offered_volume *out);

/* Logs and notes the warnings in the target's list of what its volumes became. */
void gw_offer_note_warnings(const json_t *volumes, struct gw_progress *progress);

/* Where a memory holds data, roughly: [[offset, length], ...], small gaps left out. NULL when that
 * cannot be told. */
json_t *gw_offer_filled(struct gw_source_volume *ram);
/* The target makes those pages ready. No list in the offer is fine. */
int gw_offer_populate(const json_t *object, struct gw_target_volume *ram);
/* The target allocates them, of memory of which it did not allocate all. */
int gw_offer_set_aside(const json_t *object, struct gw_target_volume *ram);

#endif
