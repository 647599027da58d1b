/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of a volume, and where their bytes lie. Units: bytes. */
#ifndef GODWIT_ENGINE_VOLUME_EXTENT_H
#define GODWIT_ENGINE_VOLUME_EXTENT_H

#include <stdbool.h>
#include <stdint.h>

enum gw_extent_kind {
    GW_EXTENT_DATA,   /* bytes to be moved */
    GW_EXTENT_ZERO,   /* allocated or known, and reads as zeroes */
    GW_EXTENT_ABSENT, /* never written: a hole that reads as zeroes */
};

struct gw_extent {
    uint64_t offset, length;
    enum gw_extent_kind kind;
};

enum gw_location_where {
    GW_IN_MEMORY, /* a mapping: memory */
    GW_IN_FILE,   /* fd at file_offset */
    GW_BY_CALL,   /* through the volume's read or write function */
};

struct gw_location {
    enum gw_extent_kind kind; /* where is meaningful for DATA only */
    enum gw_location_where where;
    uint64_t length; /* how many of the bytes asked for this location covers, at least 1 */
    void *memory;
    int fd;
    uint64_t file_offset;
    bool is_memory_file; /* GW_IN_FILE on tmpfs or the like: plain pread and pwrite never wait */
};

#endif
