/* SPDX-License-Identifier: Apache-2.0 */
/*
 * content: may a disk's content be given sectors of another size?
 * Errors: -EINVAL with the reason; else what reading fails with.
 * Threads: any, while nobody writes the volume. Units: bytes.
 */
#ifndef GODWIT_ENGINE_SESSION_CONTENT_H
#define GODWIT_ENGINE_SESSION_CONTENT_H

#include "engine/volume/volume.h"

/* Reads a range through locate, whatever it consists of. length is at most 64 KiB. */
int gw_content_read(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length);

/* Partition tables and boot sectors count in sectors: a disk that has one may not change. from: 0
 * when the old size is not known (a plain file). */
int gw_content_allows_sectors(struct gw_source_volume *volume, uint32_t from, uint32_t to);

#endif
