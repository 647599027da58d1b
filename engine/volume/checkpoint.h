/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checkpoint: how much of an unfinished image is durable, in a small file of its own beside it
 * (PATH.godwit-EPOCH.journal beside PATH.godwit-EPOCH.part), so that a later attempt can go on.
 *
 * The file is two slots of 8 KiB that are written in turn, each with a number and an XXH3-128: a
 * record that was torn is not valid, and the one before it stands. It never grows.
 *
 *   slot   0  magic "gwjourn1"      8  u32 version, 1       12  u32 length of the payload
 *         16  u64 number           24  XXH3-128 of bytes 0 to 24 and of the payload (canonical)
 *         40  payload
 *   payload 0  u64 durable          8  u64 size            16  u32 block, 20 logical, 24 physical
 *         28  u8 is_fixed          29  format, 15 bytes     44  u32 length of source, then source
 *
 * Rule: a record is written after a sync of the image has returned, never before. It holds no
 * digests: what is trusted is read back and compared with what the source holds (session/compare.h),
 * which a digest of what was once written could not show.
 *
 * Errors: -ENOENT: there is none. -EUCLEAN: no slot is valid. Others from the system, with a message.
 * Threads: one writer.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_CHECKPOINT_H
#define GODWIT_ENGINE_VOLUME_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_CHECKPOINT_SLOT       8192u
#define GW_CHECKPOINT_SIZE       (2 * GW_CHECKPOINT_SLOT) /* of the file, always */
#define GW_CHECKPOINT_SOURCE_MAX 4608u                    /* a path and what tells its file apart */

struct gw_checkpoint {
    char source[GW_CHECKPOINT_SOURCE_MAX]; /* what the source says of itself; compared, not read */
    char format[16];
    bool is_fixed;
    uint64_t size; /* of the disk */
    uint32_t block_size, logical_sector_size, physical_sector_size;
    uint64_t durable; /* of the disk, from its start */
};

/* Are these of the same copy, however far each came? */
bool gw_checkpoint_is_same(const struct gw_checkpoint *one, const struct gw_checkpoint *other);

/* The newest valid record of a file's bytes. -EUCLEAN. number may be NULL. */
int gw_checkpoint_decode(const uint8_t *bytes, size_t length, struct gw_checkpoint *out,
                         uint64_t *number);
/* One slot, GW_CHECKPOINT_SLOT bytes. */
void gw_checkpoint_encode(const struct gw_checkpoint *checkpoint, uint64_t number, uint8_t *slot);

int gw_checkpoint_read(const char *path, struct gw_checkpoint *out);
/* Adds a record, or makes the file. Durable when it returns, the file's name too. */
int gw_checkpoint_write(const char *path, const struct gw_checkpoint *checkpoint);

#endif
