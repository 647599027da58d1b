/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks that godwit does not read or write itself, as volumes. In use: through an NBD export of the
 * hypervisor. As a target, and at rest: through a qemu-nbd of its own for formats that it knows by
 * name, or through whatever NBD server a URI names.
 *
 * Errors: -errno with a message that names the volume or the file.
 * Threads: as volume.h; the thread that opens an image or creates a target must live as long as
 *   the volume.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_NBD_H
#define GODWIT_ENGINE_VOLUME_NBD_H

#include "engine/volume/disk.h"
#include "engine/volume/volume.h"

/* May an image of that format be made and served here? An allow-list: the name may be a peer's. */
bool gw_nbd_format_is_known(const char *format);
/* The format that the file at path begins as, when it is one of those; else NULL. */
const char *gw_nbd_format_probe(const char *path);

/* What the header of an image says. */
struct gw_nbd_image {
    uint64_t virtual_size;
    uint32_t cluster_size;
};
/* -EUCLEAN for what is no such image; -ENOTSUP for one that names other files, is encrypted, or
 * holds what a copy would lose (snapshots). */
int gw_nbd_image_check(const char *path, const char *format, struct gw_nbd_image *out);
/* Writes the name that the image at path will have into it, where its format keeps that (VMDK). */
int gw_nbd_image_rename(const char *path, const char *format, const char *name);
/* Can an image of that format have all of its space taken beforehand? */
bool gw_nbd_can_preallocate(const char *format);
/* For qemu-img create -o. cluster_size 0: the format's own choice; some take no other. is_fixed: only where the
 * format can be. */
void gw_nbd_create_options(const char *name, uint32_t cluster_size, bool is_fixed, char *out,
                           size_t size);

struct gw_nbd_source_options {
    const char *name;
    const char *socket, *export; /* the server may be told to drop the export before the close */
    uint64_t size;               /* what the disk must have: -ESTALE */
    const struct gw_disk_dirty *dirty; /* lent until close; NULL: at rest */
    /* Beside the hypervisor, which gives no export of this disk: a qemu-nbd of our own on the same
     * image, in place of socket and export. It knows the image's tables as they were when it
     * began; so after each collect settle has the hypervisor write out its own, and a new one
     * begins. What changes later is dirty. Both are lent until close. */
    const char *path, *format;
    int (*settle)(void *context);
    void *settle_context;
};

int gw_nbd_source_open(const struct gw_nbd_source_options *options, struct gw_source_volume **out);
/* An image file at rest, read-only, as the hypervisor would read it. */
int gw_nbd_source_open_image(const char *path, const char *format, struct gw_source_volume **out);

/* "nbd://...", "nbds://...", "nbd+unix://...", "nbds+unix://..." */
bool gw_nbd_is_uri(const char *text);
/* The export that the URI names, as it is. What the server does not tell of counts as data. */
int gw_nbd_source_open_uri(const char *uri, struct gw_source_volume **out);
/* Writes into the export that the URI names, from its begin; it has at least size bytes (-ENOSPC).
 * There is no name to be kept until the end: what was there is gone with the first byte. */
int gw_nbd_target_open_uri(const char *name, const char *uri, uint64_t size,
                           struct gw_target_volume **out);

struct gw_nbd_target_options {
    const char *name;
    const char *path;   /* final name; nothing may be there */
    const char *epoch;  /* part of the name until the end */
    const char *format; /* -ENOTSUP unless gw_nbd_format_is_known */
    uint64_t size;
    uint32_t cluster_size;   /* 0 for the format's own choice; some take no other */
    bool is_fixed;           /* all of its space is taken: -ENOTSUP unless gw_nbd_can_preallocate */
    struct gw_wanted wanted; /* of the volume, while it is made, too */
    bool is_in_pause; /* a guest stands still while it is finished: without the check of qemu-img */
};

/* Makes PATH.godwit-EPOCH.part with qemu-img and writes it through a qemu-nbd. finish ends that,
 * has the image checked, renames it to PATH, never over an existing file, and syncs the folder.
 * abort removes whichever is there. */
int gw_nbd_target_create(const struct gw_nbd_target_options *options,
                         struct gw_target_volume **out);

#endif
