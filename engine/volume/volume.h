/* SPDX-License-Identifier: Apache-2.0 */
/*
 * volume: what can be moved. Guest RAM, an image file, a block device, a disk behind NBD. Pre-copy
 * and the data path know these two tables only, one for each end.
 *
 * Errors: 0 or -errno with a message that names the volume.
 * Threads: next_extent, locate, read, write, zero, copied and tidy may be called by several workers at
 *   once (on ranges that do not overlap); the rest by the migration's control thread while no
 *   worker is in the volume.
 * Units: bytes. Offsets and lengths are multiples of granularity, but for the end of the volume.
 */
#ifndef GODWIT_ENGINE_VOLUME_VOLUME_H
#define GODWIT_ENGINE_VOLUME_VOLUME_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bitmap.h"
#include "engine/volume/extent.h"

#define GW_VOLUME_NAME_MAX 64u
#define GW_VOLUMES_MAX     64u /* of one migration */

enum gw_volume_kind { GW_VOLUME_DISK, GW_VOLUME_RAM };

struct gw_source_volume;
struct gw_target_volume;

struct gw_source_ops {
    /* The run of one kind that begins at offset, told as far as end at the most, and as far as is cheap
     * to tell; never 0 long. What is asked costs in proportion to what is asked about, not to the run. */
    int (*next_extent)(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out);
    /* Where the bytes are read from; see gw_image_locate. */
    int (*locate)(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out);
    /* GW_BY_CALL locations: reads, blocking. Others answer -ENOTSUP. */
    int (*read)(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length);
    /* Called when bytes of a volume with needs_copy were taken into a slot: these are the bytes
     * that will be sent (the compare tracker keeps their hash). */
    void (*copied)(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length);
    /* Called while those who read have nothing else to do: a short piece of work (under 0.1 ms) that would
     * otherwise be done by close. Returns false when there is none. May be NULL. */
    bool (*tidy)(struct gw_source_volume *volume);
    /* Adds to dirty (one bit per granularity) what was written since the last call, and starts the
     * next period, atomically. -ENOTSUP on volumes at rest. */
    int (*collect)(struct gw_source_volume *volume, struct gw_bitmap *dirty);
    /* Is everything still as it was when the volume was opened? -ESTALE for images at rest. */
    int (*unchanged)(struct gw_source_volume *volume);
    void (*close)(struct gw_source_volume *volume);
};

struct gw_source_volume {
    const struct gw_source_ops *ops;
    enum gw_volume_kind kind;
    char name[GW_VOLUME_NAME_MAX]; /* "ram0", "vda": what people and the peer call it */
    uint64_t size;
    uint32_t granularity; /* of dirty tracking: a page, or 64 KiB */
    /* The bytes must be copied into a slot before they are digested or sent (compare tracker, NBD).
     */
    bool needs_copy;
    /* Pages are taken out of it while it is copied (a balloon that changes, free-page reporting,
     * virtio-mem): what a device has pinned may not be what the guest has, so the bytes are copied. */
    bool is_punched;
    /* The bytes cannot change under us (an image at rest, a stopped guest): digests may be taken in
     * place. */
    bool is_still;
    bool has_node; /* most of the bytes lie on one NUMA node */
    int node;
};

/* Bytes that are allocated, for a progress bar: an estimate when counting takes longer than 100 ms.
 */
uint64_t gw_source_data_bytes(struct gw_source_volume *volume);

struct gw_target_ops {
    /* Where the bytes go. Allocates. -ENOSPC. */
    int (*locate)(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out);
    /* GW_BY_CALL locations: writes, blocking. Others answer -ENOTSUP. */
    int (*write)(struct gw_target_volume *volume, uint64_t offset, const void *from,
                 uint64_t length);
    /* Makes the range read as zeroes. */
    int (*zero)(struct gw_target_volume *volume, uint64_t offset, uint64_t length);
    int (*sync)(struct gw_target_volume *volume);
    /* What was written so far, to be read while nobody writes: the caller closes it before the
     * volume. -ENOTSUP. */
    int (*view)(struct gw_target_volume *volume, struct gw_source_volume **out);
    /* All was written: the image's own switch to a valid one, in the file that it has. It can be read from
     * place then, and nothing is written any more. Does nothing the second time. */
    int (*complete)(struct gw_target_volume *volume);
    /* complete, where that was not done, durably, and then the final name, never over another file's. */
    int (*finish)(struct gw_target_volume *volume);
    /* Removes whatever was made. After finish too, as long as the migration is not committed. */
    void (*abort)(struct gw_target_volume *volume);
    void (*close)(struct gw_target_volume *volume);
};

/* Writes to wherever locate says, blocking. from is page aligned, or the volume takes any. */
int gw_target_write(struct gw_target_volume *volume, uint64_t offset, const void *from,
                    uint64_t length);

/* Whether somebody still wants what is waited for: asked each half second of such a wait, by the thread that waits. 0, or
 * -errno with a message. Lent until the volume is closed; NULL: always. */
struct gw_wanted {
    int (*check)(void *context);
    void *context;
};

/* The view of a volume that has none. */
int gw_target_no_view(struct gw_target_volume *volume, struct gw_source_volume **out);

struct gw_target_volume {
    const struct gw_target_ops *ops;
    enum gw_volume_kind kind;
    char name[GW_VOLUME_NAME_MAX];
    uint64_t size;
    /* The path or URI of what is complete, from which it can be read back before it is finished; NULL where
     * there is none. */
    const char *place;
    /* The whole volume as one mapping that the peer may write into (RAM in clear mode), or NULL. */
    void *memory;
    /* Bytes are taken before write, or the write to where locate says, returns: by call, or into a file
     * that lies in memory. No I/O of it is ever in flight, so the bytes need not stay where they are. */
    bool takes_at_once;
    const char
        *warning; /* what people should know of the place, of up to 200 bytes; NULL: nothing */
    struct gw_wanted wanted; /* what it waits for without a limit ends when it is not */
};

#endif
