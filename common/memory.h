/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page-aligned memory for the data path, and tests of memory for zeroes.
 * Errors: -ENOMEM.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_COMMON_MEMORY_H
#define GODWIT_COMMON_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Anonymous shared memory (so that it may be registered and survive a fork), page aligned,
 * advised to use huge pages, from the node that the calling thread prefers (topology.h). The caller releases it with gw_memory_free and the same size. */
int gw_memory_new(size_t size, void **out);
void gw_memory_free(void *memory, size_t size);

/* True when length bytes are all zero. memory is 8-byte aligned, length a multiple of 8. */
bool gw_memory_is_zero(const void *memory, size_t length);

#endif
