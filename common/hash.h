/* SPDX-License-Identifier: Apache-2.0 */
/* XXH3 in the widest vectors that this CPU has: the library's plain functions are compiled for the
 * oldest one. Chosen at run time, the same digests everywhere. Threads: any. */
#ifndef GODWIT_COMMON_HASH_H
#define GODWIT_COMMON_HASH_H

#include <xxhash.h>

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#endif
