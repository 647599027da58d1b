/* SPDX-License-Identifier: Apache-2.0 */
/*
 * place: a folder for one test, in memory or on a real file system, and files in it. Comparisons
 * are made by other programs (cmp, qemu-img).
 *
 * Errors: a failed assertion of the test; a place that cannot be had skips the test with the
 *   reason.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_ENGINE_VOLUME_PLACE_H
#define GODWIT_TESTS_ENGINE_VOLUME_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/volume/extent.h"

struct place {
    char folder[64];
    bool is_mount;
};

void place_in_memory(struct place *place); /* tmpfs */
void place_on_disk(struct place *place);   /* neither tmpfs nor the like */
/* A tmpfs of that size, in a mount namespace of this process. Needs root. */
void place_small(struct place *place, uint64_t size);
void place_end(struct place *place); /* removes everything */

/* FOLDER/name; the text lives until the third call after this one. */
const char *place_path(const struct place *place, const char *name);
/* Names in the folder. */
unsigned place_count(const struct place *place);
bool place_has(const struct place *place, const char *name);
/* A new file with bytes that follow from seed and the offset; no page of it is zero. */
void place_fill(const char *path, uint64_t offset, uint64_t length, unsigned seed);
void place_truncate(const char *path, uint64_t size);
uint64_t place_allocated(const char *path); /* bytes that the file takes */
uint8_t place_byte(unsigned seed, uint64_t offset);

/* Writes the bytes that place_fill writes as a worker does: where locate says, in pieces aligned for O_DIRECT. */
void place_write(int (*locate)(void *context, uint64_t offset, uint64_t length,
                               struct gw_location *out),
                 void *context, uint64_t offset, uint64_t length, unsigned seed);

/* Runs a program (text as for sh) and returns its exit code. */
int place_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool place_same(const char *path, const char *other); /* cmp */

#endif
