/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhd: the parts of the VHD format, for one another. Reading only. Nothing outside this folder
 * includes it.
 *
 * Errors: 0 or -errno with a message that names the file, the structure and the way out.
 * Threads: blocks may be asked for by several threads at once (its own lock); the rest is one
 *   thread's.
 * Units: bytes; block, sector and page numbers are called that.
 */
#ifndef GODWIT_ENGINE_IMAGE_VHD_VHD_H
#define GODWIT_ENGINE_IMAGE_VHD_VHD_H

#include <assert.h>
#include <pthread.h>

#include "engine/image/format.h"
#include "engine/image/vhd/layout.h"

#define GW_VHD_PAGE       (64u << 10) /* of the BAT */
#define GW_VHD_PAGES_MAX  128u        /* 8 MiB */
#define GW_VHD_BITMAPS    64u         /* of one block each, at most 64 KiB */
#define GW_VHD_BITMAP_MAX (VHD_BLOCK_SIZE_MAX / VHD_SECTOR / 8)

static_assert(GW_VHD_PAGE * GW_VHD_PAGES_MAX + GW_VHD_BITMAPS * GW_VHD_BITMAP_MAX <
                  GW_IMAGE_MEMORY_MAX,
              "a VHD must fit its memory");

struct gw_vhd_footer {
    enum vhd_type type;
    uint64_t header_offset, current_size;
    uint64_t geometry_size; /* of cylinders, heads and sectors: what Virtual PC believed */
    uint8_t id[16];
    char creator[5];
    bool has_saved_state;
};

struct gw_vhd_slot {
    bool is_loaded;
    uint64_t number; /* of the page, or of the block whose bitmap it is */
    uint8_t *bytes;
};

struct gw_vhd {
    struct gw_image base;
    struct gw_vhd_footer footer;
    uint64_t footer_offset; /* where the footer at the end is, or would be */
    bool is_copy_used;      /* the footer at the end is damaged */
    uint64_t table_offset, block_count;
    uint32_t bitmap_size; /* of a block, whole sectors */
    pthread_mutex_t lock; /* the slots; leaf */
    bool has_lock;
    struct gw_vhd_slot pages[GW_VHD_PAGES_MAX];
    struct gw_vhd_slot bitmaps[GW_VHD_BITMAPS];
};

static inline struct gw_vhd *gw_vhd_of(struct gw_image *image)
{
    return (struct gw_vhd *)(void *)((char *)image - offsetof(struct gw_vhd, base));
}

/* footer.c: which of the two footers counts. */
int gw_vhd_footer_read(struct gw_vhd *vhd);
/* Ones' complement of the sum of bytes, but for the checksum's own four. */
uint32_t gw_vhd_checksum(const uint8_t *bytes, size_t length, size_t checksum_at);

/* header.c: block size, table and, for differencing disks, what is said of the parent. */
int gw_vhd_header_read(struct gw_vhd *vhd);

/* survey.c */
void gw_vhd_survey(struct gw_image *image, json_t *report);

/* relocate.c */
int gw_vhd_relocate(struct gw_image *image, const char *name, struct gw_patches *patches);

/* block.c */
/* Where the block's data begins in the file; 0 when it has none. Its place is checked. */
int gw_vhd_block_find(struct gw_vhd *vhd, uint64_t block, uint64_t *data_offset);
/* Differencing disks: how many bytes of a block that has a place, from within on and at most
 * length, are alike: here, or in the parent. */
int gw_vhd_block_run(struct gw_vhd *vhd, uint64_t block, uint64_t within, uint64_t length,
                     bool *is_here, uint64_t *run);
/* Of the block's entry in the table, in the file. */
uint64_t gw_vhd_entry_place(const struct gw_vhd *vhd, uint64_t block);
uint64_t gw_vhd_block_bytes(const struct gw_vhd *vhd, uint64_t block);

#endif
