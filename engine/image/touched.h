/* SPDX-License-Identifier: Apache-2.0 */
/*
 * touched: which parts of a file that we made anybody was ever given to write to. The rest is a hole, which
 * need not be asked of the file system: a seek waits for every write that is finding its place.
 *
 * Errors: none; NULL without the memory.
 * Threads: any, for parts that do not overlap.
 * Units: bytes, file offsets.
 */
#ifndef GODWIT_ENGINE_IMAGE_TOUCHED_H
#define GODWIT_ENGINE_IMAGE_TOUCHED_H

#include <stdbool.h>
#include <stdint.h>

struct gw_image_touched;

/* Of the first size bytes; at most 8 MiB of memory, of which only what is set is used. NULL: none. */
struct gw_image_touched *gw_image_touched_new(uint64_t size);
void gw_image_touched_free(struct gw_image_touched *touched); /* takes NULL */
/* Before anybody learns where to write. Takes NULL. */
void gw_image_touched_add(struct gw_image_touched *touched, uint64_t offset, uint64_t length);
/* False only if nothing in the range was ever added: it is a hole. NULL (of a file that was there): true. */
bool gw_image_touched_any(const struct gw_image_touched *touched, uint64_t offset, uint64_t length);

#endif
