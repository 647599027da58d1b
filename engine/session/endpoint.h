/* SPDX-License-Identifier: Apache-2.0 */
/*
 * endpoint: what a copy reads from and writes to, whatever it is: an image in a format of godwit's
 * own, one that goes through qemu-nbd, a block device, or an NBD export that a URI names.
 *
 * Errors: 0 or -errno with a message that names the place.
 * Threads: one per object; the thread that opens or makes one must live as long as the volume.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_ENDPOINT_H
#define GODWIT_ENGINE_SESSION_ENDPOINT_H

#include "engine/migration.h"
#include "engine/session/offer.h"
#include "engine/volume/volume.h"

struct gw_endpoint {
    struct gw_source_volume *volume; /* the caller closes it */
    struct gw_image_info info;
    char foreign[16]; /* as gw_offered_volume.foreign */
};

struct gw_endpoint_options {
    const char *place, *format;
    const struct gw_mapping *mappings; /* where parents of a differencing image are */
    unsigned mapping_count;
};

int gw_endpoint_open_with(const struct gw_endpoint_options *options, struct gw_endpoint *out);
/* format NULL: as the content says. */
int gw_endpoint_open(const char *place, const char *format, struct gw_endpoint *out);
/* The target of a disk that was offered. epoch is part of its name until it is finished. wanted: while it is made, and
 * from then on. */
int gw_endpoint_make(const struct gw_offered_volume *offered, const char *place, const char *epoch,
                     struct gw_wanted wanted, struct gw_target_volume **out);
/* The name that the image gets in a folder: its own, with the ending of its new format when that
 * differs. */
void gw_endpoint_name(const struct gw_offered_volume *offered, char *out, size_t size);
/* Reads back a disk of size bytes that was made at place in that format, past the page cache where
 * that can be; see verify.h. */
int gw_endpoint_digest(const char *place, const char *format, uint64_t size, uint8_t *digest);

#endif
