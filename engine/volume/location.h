/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes the bytes of a location that lies in a file, blocking, all of them.
 *
 * Errors: 0 or -errno with a message that gives the file offset.
 * Threads: any, on ranges that do not overlap.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_LOCATION_H
#define GODWIT_ENGINE_VOLUME_LOCATION_H

#include "engine/volume/extent.h"

#define GW_LOCATION_ALIGNMENT 4096u

/* Fills into with from->length bytes; what lies behind the end of the file reads as zeroes. Whole sectors
 * are read, so into has room for the length rounded up to GW_LOCATION_ALIGNMENT. */
int gw_location_read(const struct gw_location *from, void *into);
int gw_location_write(const struct gw_location *to, const void *from);

#endif
