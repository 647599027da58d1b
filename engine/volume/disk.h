/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image file or block device as a volume, at rest or in use by a hypervisor.
 *
 * Errors: -errno with a message that names the file.
 * Threads: as volume.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_DISK_H
#define GODWIT_ENGINE_VOLUME_DISK_H

#include "engine/image/image.h"
#include "engine/volume/volume.h"

#define GW_DISK_GRANULARITY (64u << 10)

/* Who knows what a running hypervisor has written. collect adds what was written since the last
 * call and clears it, atomically, as gw_source_ops.collect; every write that it reports is in the
 * file. */
struct gw_disk_dirty {
    int (*collect)(void *context, struct gw_bitmap *dirty);
    void *context;
};

struct gw_disk_source_options {
    const char *name, *path;
    enum gw_image_format format;
    const struct gw_disk_dirty *dirty;        /* in use: lent until close; NULL: at rest, locked */
    const struct gw_parent_mapping *mappings; /* where parents are: engine/image/parent.h */
    unsigned mapping_count;
};

int gw_disk_source_open(const struct gw_disk_source_options *options,
                        struct gw_source_volume **out);
/* An open image as a volume, which is lent and stays open: for looking at an unfinished one. Only what
 * next_extent calls data may be located. */
int gw_disk_source_view(const char *name, struct gw_image *image, struct gw_source_volume **out);
const struct gw_image_info *gw_disk_source_info(const struct gw_source_volume *volume);
struct gw_image *gw_disk_source_image(struct gw_source_volume *volume); /* lent */

/* What a new image is to be; travels in the offer. */
struct gw_disk_target_options {
    const char *name;
    const char *path;  /* final name; nothing may be there */
    const char *epoch; /* part of the name until the end */
    enum gw_image_format format;
    bool is_fixed;
    uint64_t size;
    uint32_t block_size, logical_sector_size, physical_sector_size;
    const uint8_t *disk_id, *data_id; /* 16 bytes or NULL */
    bool is_continued; /* PATH.godwit-EPOCH.part is there, unfinished, and is gone on with */
    /* PATH is there, finished by an earlier attempt: it is read only, to be compared, and abort leaves it. A write is
     * -EEXIST. */
    bool is_finished;
    /* The caller has both names in its journal, and gives the file the final one again if a power
     * cut took it: finish leaves the folder to be synced later. */
    bool is_name_journalled;
};

/* Writes PATH.godwit-EPOCH.part; finish makes it valid, renames it to PATH, never over an existing
 * file, and syncs the folder. abort removes whichever is there. A block device is written as it is, but for what makes
 * it look like a disk, which comes last (edges.h). */
int gw_disk_target_create(const struct gw_disk_target_options *options,
                          struct gw_target_volume **out);

/* Drops what it is given: for measuring the data path. */
int gw_null_target_create(const char *name, uint64_t size, struct gw_target_volume **out);

#endif
