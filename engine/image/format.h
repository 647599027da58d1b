/* SPDX-License-Identifier: Apache-2.0 */
/*
 * format: what each image format gives to image.c. Formats include this and file.h, never one
 * another. Every op is set; those of image.h with the same name say what they do. Ranges are
 * checked and errors of misuse (writing to a read image) are answered before an op is called.
 * Errors: as image.h.
 * Threads: as image.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_IMAGE_FORMAT_H
#define GODWIT_ENGINE_IMAGE_FORMAT_H

#include "engine/image/file.h"
#include "engine/image/image.h"
#include "engine/image/parent.h"
#include "engine/image/patch.h"

struct gw_image_ops {
    int (*extent)(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out);
    int (*locate)(struct gw_image *image, uint64_t offset, uint64_t length,
                  struct gw_location *out);
    int (*zero)(struct gw_image *image, uint64_t offset, uint64_t length);
    int (*refresh)(struct gw_image *image);
    bool (*take_appeared)(struct gw_image *image, uint64_t *offset, uint64_t *length);
    int (*sync)(struct gw_image *image);
    int (*finish)(struct gw_image *image);
    int (*unchanged)(struct gw_image *image);
    /* Adds what inspect tells of this format; faults go into the file's list, which is there. */
    void (*survey)(struct gw_image *image, json_t *report);
    /* Where the file says what is at offset of the disk; *end is where that ceases to speak of the disk. */
    uint64_t (*entry)(const struct gw_image *image, uint64_t offset, uint64_t *end);
    /* Of differencing images: see gw_image_relocate. Others are not asked. */
    int (*relocate)(struct gw_image *image, const char *name, struct gw_patches *patches);
    void (*close)(struct gw_image *image); /* frees the image; its file is closed after */
};

/* The base of every format's image, embedded first. In one that has a link, extent and locate answer
 * ABSENT for what the parent has, and ZERO for what reads as zeroes whatever the parent has. */
struct gw_image {
    const struct gw_image_ops *ops;
    struct gw_image_info info;
    struct gw_image_file file;
    bool is_in_use;
    bool is_made;                /* by create */
    bool is_renamed;             /* as gw_image_create_options.is_renamed */
    bool is_writable;            /* made, and not finished */
    bool has_failed;             /* a flush */
    struct gw_parent_link *link; /* differencing images: what they say; owned by the format */
    struct gw_image *parent;     /* open, owned; NULL when there is none or it was not wanted */
};

/* open: takes over file when it succeeds, and only then. create opens its own. */
int gw_raw_open(struct gw_image_file *file, bool is_in_use, struct gw_image **out);
int gw_raw_create(const struct gw_image_create_options *options, struct gw_image **out);
int gw_vhd_open(struct gw_image_file *file, bool is_in_use, struct gw_image **out);
int gw_vhd_create(const struct gw_image_create_options *options, struct gw_image **out);
int gw_vhdx_open(struct gw_image_file *file, bool is_in_use, struct gw_image **out);
int gw_vhdx_create(const struct gw_image_create_options *options, struct gw_image **out);

/* chain.c: opens the parents of an image that has a link. On failure those that were opened before
 * it stay, the image's to close. */
int gw_image_chain_open(struct gw_image *image, const struct gw_image_open_options *options);
/* What a fault keeps from being told. */
struct gw_image_gap {
    uint64_t place; /* of the entry, in the file that the message names */
    uint64_t end;   /* of the disk: what lies behind can be told */
};
/* As gw_image_extent and gw_image_locate, through all parents. gap is for those who go on behind a fault, set on
 * failure only; or NULL. */
int gw_image_chain_extent(struct gw_image *image, uint64_t offset, uint64_t end,
                          struct gw_extent *out, struct gw_image_gap *gap);
int gw_image_chain_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                          struct gw_location *out);

/* The footer of a VHD, for probing: at both ends, of a fixed one at the end only. */
#define GW_IMAGE_VHD_COOKIE "conectix"
#define GW_IMAGE_VHD_FOOTER 512u

/* What can be told of a VHDX without opening it. */
void gw_vhdx_survey_file(const struct gw_image_file *file, json_t *report);

/* What an unfinished VHDX has in the place of its signature, so that nobody takes it for a raw
 * disk. */
#define GW_IMAGE_UNFINISHED "godwit: unfinished copy\n"

/* A location in the image's data descriptor, or in the buffered one where O_DIRECT cannot be. */
void gw_image_location_set(const struct gw_image *image, uint64_t file_offset, uint64_t length,
                           struct gw_location *out);
/* Fills what every format's info says alike. */
void gw_image_info_from_file(struct gw_image *image);

#endif
