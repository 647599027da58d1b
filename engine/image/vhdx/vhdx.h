/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhdx: the parts of the VHDX format, for one another. Nothing outside this folder includes it.
 *
 * Errors: 0 or -errno with a message that names the file, the structure and the way out.
 * Threads: the BAT may be asked by several threads at once (its own lock); the rest is one
 *   thread's.
 * Units: bytes; block and page numbers are called that.
 *
 * Memory of one image, all of it within GW_IMAGE_MEMORY_MAX: BAT pages, bitmaps of blocks that are
 * present and that appeared, a bitmap of the file's used MiB, and what a log replay changed.
 */
#ifndef GODWIT_ENGINE_IMAGE_VHDX_VHDX_H
#define GODWIT_ENGINE_IMAGE_VHDX_VHDX_H

#include <assert.h>
#include <pthread.h>

#include "common/bitmap.h"
#include "engine/image/format.h"
#include "engine/image/vhdx/layout.h"

#define GW_VHDX_BAT_PAGE      (64u << 10) /* regions are whole MiB, so every page is whole */
#define GW_VHDX_BAT_CACHE_MAX 384u        /* pages: 24 MiB */
#define GW_VHDX_OVERLAY_MAX   2048u       /* 4 KiB sectors with content: 8 MiB */
#define GW_VHDX_BITMAP_PAGE   (64u << 10) /* of a sector bitmap block */
#define GW_VHDX_BITMAP_CACHE  32u         /* pages: 2 MiB */
#define GW_VHDX_PUTS_MAX      32768u
#define GW_VHDX_LOG_MAX       (16ull << 20)
#define GW_VHDX_FILE_MIB_MAX                                                                       \
    (1ull << 27) /* files beyond 128 TiB are refused: one bit for each MiB */
#define GW_VHDX_BLOCKS_MAX (VHDX_VIRTUAL_SIZE_MAX / VHDX_BLOCK_SIZE_MIN)
#define GW_VHDX_FREE_MAX   4096u /* blocks given back and not yet used again */

/* What belongs to images in use (appeared) and what to those at rest (log, sector bitmaps) never
 * meet in one. */
#define GW_VHDX_MEMORY_COMMON                                                                      \
    ((uint64_t)GW_VHDX_BAT_PAGE * GW_VHDX_BAT_CACHE_MAX + /* BAT pages */                          \
     GW_VHDX_BLOCKS_MAX / 8 +                             /* present */                            \
     GW_VHDX_FILE_MIB_MAX / 8 +                           /* used */                               \
     (2u << 20))                                          /* everything else */
static_assert(GW_VHDX_MEMORY_COMMON + GW_VHDX_BLOCKS_MAX / 8 <= GW_IMAGE_MEMORY_MAX,
              "a VHDX in use must fit its memory");
static_assert(GW_VHDX_MEMORY_COMMON + GW_VHDX_OVERLAY_MAX * VHDX_LOG_SECTOR +
                      GW_VHDX_BITMAP_PAGE * GW_VHDX_BITMAP_CACHE <=
                  GW_IMAGE_MEMORY_MAX,
              "a VHDX at rest must fit its memory");
static_assert(GW_VHDX_LOG_MAX <= (uint64_t)GW_VHDX_BAT_PAGE * GW_VHDX_BAT_CACHE_MAX,
              "the log is read before the BAT cache exists");

struct gw_vhdx_range {
    uint64_t offset, length;
};

struct gw_vhdx_header {
    uint64_t sequence;
    uint8_t file_guid[16], data_guid[16], log_guid[16];
    uint16_t log_version, version;
    struct gw_vhdx_range log;
};

/* One 4 KiB sector that a replayed log changed. Sorted by offset. */
struct gw_vhdx_patch {
    uint64_t offset;
    uint8_t *bytes; /* NULL: zeroes */
};

struct gw_vhdx_overlay {
    uint32_t count, data_count; /* all; those with bytes */
    uint32_t put_count;         /* how often a sector was laid over, the same one again included */
    struct gw_vhdx_patch *patches;
};

/* Pages of sector bitmap blocks, each in the slot that its place in the file gives it. */
struct gw_vhdx_bitmap_slot {
    uint64_t offset; /* file; 0: empty */
    uint8_t *bytes;
};

struct gw_vhdx_bat_slot {
    uint64_t page;
    bool is_loaded, is_dirty;
    uint8_t *bytes;
};

struct gw_vhdx_bat {
    pthread_mutex_t lock; /* everything below; the only lock of an image */
    bool has_lock;
    uint64_t entry_count, page_count;
    uint32_t slot_count;
    struct gw_vhdx_bat_slot *slots;
    struct gw_bitmap seen;     /* by page: was loaded before */
    struct gw_bitmap present;  /* by block: has a place in the file */
    struct gw_bitmap appeared; /* by block: got one after its page was first seen */
    struct gw_bitmap used;     /* by MiB of the file: belongs to a block */
    struct gw_vhdx_range hole; /* pages of a table at rest known to have no byte in the file */
    struct gw_vhdx_bitmap_slot bitmaps[GW_VHDX_BITMAP_CACHE]; /* differencing images */
};

/* Allocation in a new file. Under the BAT's lock. */
struct gw_vhdx_writer {
    uint64_t next_offset; /* where the next new block goes */
    uint64_t file_end;    /* the file's length now, for some blocks in advance */
    uint32_t free_count;
    uint64_t *free_offsets;
};

struct gw_vhdx {
    struct gw_image base;
    struct gw_vhdx_header header;
    struct gw_vhdx_overlay overlay;
    uint64_t file_size; /* as it is after the replay: what lies behind the file's end is zeroes */
    struct gw_vhdx_range bat_region, metadata_region;
    struct gw_vhdx_range locator; /* of a differencing image, within the metadata */
    uint32_t range_count;         /* regions and the log: where no block may lie */
    struct gw_vhdx_range *ranges;
    uint64_t block_count, chunk_ratio;
    struct gw_vhdx_bat bat;
    struct gw_vhdx_writer writer;
};

static inline struct gw_vhdx *gw_vhdx_of(struct gw_image *image)
{
    return (struct gw_vhdx *)(void *)((char *)image - offsetof(struct gw_vhdx, base));
}

/* checksum.c: CRC-32C (Castagnoli). Over a structure whose own checksum field counts as 0. */
uint32_t gw_vhdx_checksum(const uint8_t *bytes, size_t length, size_t checksum_at);
/* In pieces: begin with ~0, end by inverting. */
uint32_t gw_vhdx_checksum_add(uint32_t sum, const uint8_t *bytes, size_t length);

/* header.c */
int gw_vhdx_identifier_check(const struct gw_image_file *file);
int gw_vhdx_header_read(const struct gw_image_file *file, struct gw_vhdx_header *out);
void gw_vhdx_identifier_encode(uint8_t *out); /* VHDX_IDENTIFIER_SIZE zeroed bytes */
bool gw_vhdx_header_decode(const uint8_t *bytes, struct gw_vhdx_header *out); /* is it valid? */
void gw_vhdx_header_encode(const struct gw_vhdx_header *header, uint8_t *out);
bool gw_vhdx_has_log(const struct gw_vhdx_header *header);
int gw_vhdx_guid_new(uint8_t guid[16]);

/* log.c: finds the active sequence and keeps what it changes in the overlay. */
int gw_vhdx_log_replay(struct gw_vhdx *vhdx);

/* overlay.c: sectors that the log changed, over the file. */
#define GW_VHDX_LOG_WAY_OUT                                                                        \
    "open it once with the program that wrote it, or run 'qemu-img check -r all' on it"
/* bytes: a sector, or NULL for zeroes. */
int gw_vhdx_overlay_put(struct gw_vhdx *vhdx, uint64_t offset, const uint8_t *bytes);
/* Does the log leave alone what it may not change: the header, and what a caller reads from the
 * file itself? */
int gw_vhdx_overlay_check(const struct gw_vhdx *vhdx);
bool gw_vhdx_overlay_touches(const struct gw_vhdx *vhdx, uint64_t offset, uint64_t length);
void gw_vhdx_overlay_free(struct gw_vhdx_overlay *overlay);
/* Reads tables as they are after the replay. */
int gw_vhdx_read(const struct gw_vhdx *vhdx, uint64_t offset, void *into, size_t length);

/* region.c */
int gw_vhdx_regions_read(struct gw_vhdx *vhdx);
bool gw_vhdx_regions_are_valid(const uint8_t *table);
void gw_vhdx_regions_encode(const struct gw_vhdx *vhdx, uint8_t *out);
bool gw_vhdx_is_in_table(const struct gw_vhdx *vhdx, uint64_t offset, uint64_t length);

/* locator.c: fills link from the bytes of the item. */
int gw_vhdx_locator_decode(const char *path, const uint8_t *item, size_t length,
                           struct gw_parent_link *link);

/* survey.c */
void gw_vhdx_survey(struct gw_image *image, json_t *report);

/* relocate.c */
int gw_vhdx_relocate(struct gw_image *image, const char *name, struct gw_patches *patches);

/* metadata.c: fills base.info, and base.link of a differencing image. */
int gw_vhdx_metadata_read(struct gw_vhdx *vhdx);
/* Of an entry of the metadata table; "unknown". */
const char *gw_vhdx_item_name(const uint8_t *entry);
/* The table and, behind it, the items: out has VHDX_METADATA_TABLE_SIZE + 4096 zeroed bytes. */
#define GW_VHDX_METADATA_BYTES (VHDX_METADATA_TABLE_SIZE + 4096u)
void gw_vhdx_metadata_encode(const struct gw_vhdx *vhdx, uint8_t *out);
/* block_count and chunk_ratio from info, and how many BAT entries they need. */
uint64_t gw_vhdx_geometry(struct gw_vhdx *vhdx);

/* bat.c */
int gw_vhdx_bat_init(struct gw_vhdx *vhdx, uint64_t file_mib);
void gw_vhdx_bat_free(struct gw_vhdx_bat *bat);
/* The entry of a payload block, checked. get and set want the lock held. */
int gw_vhdx_bat_get(struct gw_vhdx *vhdx, uint64_t block, uint64_t *entry);
int gw_vhdx_bat_set(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry);
/* The entry of the sector bitmap block that speaks of block; lock held. */
int gw_vhdx_bat_get_bitmap(struct gw_vhdx *vhdx, uint64_t block, uint64_t *entry);
/* Takes the lock itself. */
int gw_vhdx_bat_lookup(struct gw_vhdx *vhdx, uint64_t block, uint64_t *entry);
/* New images: the first block from this one on that may have a place; block_count if there is none.
 */
uint64_t gw_vhdx_bat_skip(struct gw_vhdx *vhdx, uint64_t block);
/* Images at rest: the first block from this one on whose entry may be other than 0, as far as that
 * is known without reading. Lock held. */
uint64_t gw_vhdx_bat_skip_hole(const struct gw_vhdx *vhdx, uint64_t block);
int gw_vhdx_bat_refresh(struct gw_vhdx *vhdx);
int gw_vhdx_bat_flush(struct gw_vhdx *vhdx);
/* New images that are gone on with: reads every page that has bytes in the file and checks it as one
 * of a foreign image; each gets the entry of every block that has a place. */
int gw_vhdx_bat_take_up(struct gw_vhdx *vhdx,
                        int (*each)(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry));
/* Loads and checks every page, where that is quick. */
int gw_vhdx_bat_check_small(struct gw_vhdx *vhdx);

/* gw_image_ops.entry */
uint64_t gw_vhdx_entry(const struct gw_image *image, uint64_t offset, uint64_t *end);
/* How many bytes of the block belong to the disk (the last one may be cut). */
uint64_t gw_vhdx_block_bytes(const struct gw_vhdx *vhdx, uint64_t block);

static inline bool gw_vhdx_is_present(uint64_t entry)
{
    return (entry & VHDX_BAT_STATE_MASK) == VHDX_BLOCK_FULLY_PRESENT;
}

static inline bool gw_vhdx_is_partly_present(uint64_t entry)
{
    return (entry & VHDX_BAT_STATE_MASK) == VHDX_BLOCK_PARTIALLY_PRESENT;
}

static inline uint64_t gw_vhdx_entry_offset(uint64_t entry)
{
    return entry & VHDX_BAT_OFFSET_MASK;
}

/* bitmap.c: how many bytes of a block that is partly here, from within on and at most length, are
 * alike: here, or in the parent. */
int gw_vhdx_bitmap_run(struct gw_vhdx *vhdx, uint64_t block, struct gw_vhdx_range within,
                       bool *is_here, uint64_t *run);
void gw_vhdx_bitmap_free(struct gw_vhdx_bat *bat);

extern const uint8_t gw_vhdx_guid_bat[16], gw_vhdx_guid_metadata[16];

/* extent.c: reading through the BAT, new images too. */
int gw_vhdx_extent(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out);
int gw_vhdx_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                   struct gw_location *out);

/* allocate.c: blocks of a new image. */
int gw_vhdx_allocate(struct gw_vhdx *vhdx, uint64_t block, uint64_t *file_offset);
int gw_vhdx_zero(struct gw_image *image, uint64_t offset, uint64_t length);

/* create.c */
#define GW_VHDX_LOG_OFFSET      (1ull << 20)
#define GW_VHDX_METADATA_OFFSET (2ull << 20)
#define GW_VHDX_BAT_OFFSET      (3ull << 20)
/* A fixed disk: every block has its place from the start, and the space is reserved. */
int gw_vhdx_fill(struct gw_vhdx *vhdx);
int gw_vhdx_sync(struct gw_image *image);
int gw_vhdx_finish(struct gw_image *image);

/* continue.c: takes up the table of a new image that an earlier attempt left; layout done. -EUCLEAN
 * when it is not one, or cannot be relied on. */
int gw_vhdx_continue(struct gw_vhdx *vhdx);

/* vhdx.c */
extern const struct gw_image_ops gw_vhdx_ops;
void gw_vhdx_free(struct gw_vhdx *vhdx); /* takes NULL and half-built ones; leaves the file open */

#endif
