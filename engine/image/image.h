/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image: what a disk file means. A format turns ranges of the virtual disk into ranges of the file;
 * the bytes themselves are read and written by the caller (workers with io_uring).
 *
 * Errors: 0 or -errno with a message that names the file. A malformed image is -EUCLEAN, a kind
 * that is not supported -ENOTSUP. Everything read from a file is untrusted: no image makes these
 * functions touch other files than engine/image/parent.h allows, loop, or take more than
 * GW_IMAGE_MEMORY_MAX bytes (a chain: GW_IMAGE_CHAIN_MEMORY_MAX).
 *
 * Order (writing): create → locate/zero, in any order, writing the bytes there → sync as often as
 * wanted → finish. Data and tables are durable before what makes them valid: a VHDX becomes one only
 * in finish: killed at any moment before, it cannot be opened, neither as VHDX nor, by probing, as
 * raw. A raw file has no mark of its own: it is made under another name and renamed when it is
 * finished.
 *
 * Threads: extent, locate and zero may be called from several threads at once; the rest from one.
 *
 * Units: bytes; offsets of the virtual disk unless they say "file".
 */
#ifndef GODWIT_ENGINE_IMAGE_IMAGE_H
#define GODWIT_ENGINE_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "engine/image/parent.h"
#include "engine/image/patch.h"
#include "engine/volume/extent.h"

#define GW_IMAGE_MEMORY_MAX       (64u << 20)
#define GW_IMAGE_CHAIN_MAX        64u /* files of a chain */
#define GW_IMAGE_CHAIN_MEMORY_MAX (512u << 20)

enum gw_image_format { GW_IMAGE_PROBE, GW_IMAGE_RAW, GW_IMAGE_VHDX, GW_IMAGE_VHD };

struct gw_image_info {
    enum gw_image_format format;
    bool is_fixed;        /* VHDX, VHD: all blocks allocated */
    bool is_block_device; /* raw */
    bool is_memory_file;  /* on tmpfs or the like: reads and writes are copies that never wait */
    uint64_t virtual_size;
    uint64_t file_size;
    uint32_t block_size;          /* VHDX and dynamic VHD; else 0 */
    uint32_t logical_sector_size; /* 512 or 4096 */
    uint32_t physical_sector_size;
    uint32_t memory_alignment; /* what O_DIRECT asks of buffers (statx DIOALIGN), at least 512 */
    uint32_t file_alignment;   /* and of file offsets and lengths */
    uint8_t disk_id[16];       /* VHDX virtual disk id ("page 83 data") */
    uint8_t data_id[16];       /* what children name as their parent: VHDX DataWriteGuid, VHD id */
    bool is_differencing;      /* has a parent */
    bool is_sectored;          /* extents and places begin at any sector, not at pages of 4 KiB */
    uint64_t memory_max;       /* what its tables may take, at most */
};

struct gw_image_open_options {
    const char *path;
    enum gw_image_format format; /* GW_IMAGE_PROBE: by content, else raw */
    /* The image is open in QEMU, which writes it meanwhile: no lock is taken, changes are no error,
     * and gw_image_refresh follows the growing tables. Otherwise the image locks that QEMU takes
     * are respected (-EBUSY) and held. */
    bool is_in_use;
    /* To look, not to copy: it is read as one at rest, no lock is taken, and none of another process
     * minded, so that it stays free for whoever wants it. What is read may be half changed. */
    bool is_unlocked;
    bool is_direct; /* open O_DIRECT if the file system can; a chain is read buffered */
    /* A differencing image is opened with its parents, found as engine/image/parent.h says; with
     * is_alone without them (what they have reads as ABSENT). */
    bool is_alone;
    const struct gw_parent_mapping *mappings;
    unsigned mapping_count;
    /* To look, not to copy: faults that leave something to look at are gathered and do not end the
     * opening; survey gets what the format finds before it can be opened. Both or none; lent, the
     * former until close. */
    struct gw_faults *faults;
    json_t *survey;
};

struct gw_image_create_options {
    const char *path;            /* must not exist (-EEXIST), unless it is a block device (raw) */
    enum gw_image_format format; /* RAW or VHDX */
    bool is_fixed;
    uint64_t virtual_size;
    uint32_t block_size;           /* VHDX: a power of two, 1 to 256 MiB; 0 for 32 MiB */
    uint32_t logical_sector_size;  /* 0 for 512 */
    uint32_t physical_sector_size; /* 0 for 4096 */
    const uint8_t *disk_id;        /* 16 bytes to keep, or NULL for a new one */
    const uint8_t *data_id;        /* what children name as their parent, likewise */
    bool is_direct;
    /* path is an unfinished image of an earlier create with the same options, which is gone on
     * with; it may be in the state that a crash left. What was written to it need not be there: the
     * caller compares. -ENOTSUP for a format that cannot (gw_image_can_continue); -EUCLEAN: its
     * tables cannot be relied on. A failure leaves the file. */
    bool is_continued;
    /* The caller gives the finished file another name, and makes that durable: finish leaves the
     * folder alone. */
    bool is_renamed;
};

struct gw_image;

int gw_image_open(const struct gw_image_open_options *options, struct gw_image **out);
bool gw_image_can_continue(enum gw_image_format format);
int gw_image_create(const struct gw_image_create_options *options, struct gw_image **out);
/* Closes; an unfinished new image stays on disk, invalid, for the caller to unlink. Takes NULL. */
void gw_image_close(struct gw_image *image);
const struct gw_image_info *gw_image_info(const struct gw_image *image);
const char *gw_image_path(const struct gw_image *image);
/* Differencing images: the open parent (NULL when opened alone) and what the file says of it. Both
 * are NULL for others. */
struct gw_image *gw_image_parent(const struct gw_image *image);
const struct gw_parent_link *gw_image_link(const struct gw_image *image);

/* What a copy of the image's file has to have in other pages than the file, so that its parent is
 * the file of that name beside it. No pages when the image says so already. */
int gw_image_relocate(struct gw_image *image, const char *name, struct gw_patches *patches);

/* The run of one kind that begins at offset, told as far as end at the most (offset < end <=
 * virtual_size), and as far as is cheap to tell; never 0 long. ABSENT and ZERO both read as zeroes;
 * ABSENT is not allocated. */
int gw_image_extent(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out);

/* Where in the file the bytes at offset lie, for at most length: the piece may be shorter, the
 * caller asks again for the rest. Reading a range that is not DATA gives kind ZERO or ABSENT and no
 * file range. On an image made by gw_image_create the range is allocated, and the kind is DATA
 * always; -ENOSPC, -EFBIG. What is written to the end of the disk may be rounded up to
 * file_alignment (with zeroes): finish cuts a raw file to its size. On a block device rounding must
 * stay within it. */
int gw_image_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                    struct gw_location *out);

/* The bytes of the range, wherever they are, through the page cache. For images that are sectored:
 * of others locate gives larger pieces. */
int gw_image_read(struct gw_image *image, uint64_t offset, void *into, uint64_t length);

/* Makes the range read as zeroes: nothing for what was never allocated, else punched or written. A
 * block device keeps what was on it before: there, ABSENT ranges must be zeroed as ZERO ones are.
 */
int gw_image_zero(struct gw_image *image, uint64_t offset, uint64_t length);

/* is_in_use images: reads the tables again, for writes that QEMU completed before the call. Then
 * gw_image_take_appeared gives, range by range until it is false, what got its place in the file
 * since it was last looked at. The caller adds these ranges to what is dirty: QEMU may have
 * completed, and reported as dirty in an earlier round, a write whose place the file did not show
 * yet then (a second write into a VHDX block that is just being allocated;
 * engine/image/vhdx/bat.c). */
int gw_image_refresh(struct gw_image *image);
bool gw_image_take_appeared(struct gw_image *image, uint64_t *offset, uint64_t *length);

/* Everything written so far is durable (data, then metadata). When it fails, the image can never be
 * finished: a later flush that succeeds would prove nothing. */
int gw_image_sync(struct gw_image *image);
/* The one durable switch to a valid image. Afterwards only reads and close. */
int gw_image_finish(struct gw_image *image);
/* Has the file changed since it was opened (size, mtime, inode, VHDX sequence number)? -ESTALE says
 * what. */
int gw_image_unchanged(struct gw_image *image);

const char *gw_image_format_name(enum gw_image_format format); /* "raw", "vhdx", "vhd" */
int gw_image_format_parse(const char *name, enum gw_image_format *out);

#endif
