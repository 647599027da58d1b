/* SPDX-License-Identifier: Apache-2.0 */
/* The loops around pread and pwrite: a call that moved a part goes on where it ended. */
#include "engine/volume/location.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"

int gw_location_read(const struct gw_location *from, void *into)
{
    uint64_t moved = 0;

    while (moved < from->length) {
        ssize_t got = pread(from->fd, (char *)into + moved,
                            gw_align_up(from->length - moved, GW_LOCATION_ALIGNMENT),
                            (off_t)(from->file_offset + moved));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return gw_fail_errno(-errno, "read at file offset %llu",
                                 (unsigned long long)(from->file_offset + moved));
        if (got == 0) {
            memset((char *)into + moved, 0, from->length - moved);
            return 0;
        }
        moved += (uint64_t)got;
    }
    return 0;
}

int gw_location_write(const struct gw_location *to, const void *from)
{
    uint64_t moved = 0;

    while (moved < to->length) {
        ssize_t got = pwrite(to->fd, (const char *)from + moved, to->length - moved,
                             (off_t)(to->file_offset + moved));

        if (got < 0 && errno != EINTR)
            return gw_fail_errno(-errno, "write at file offset %llu",
                                 (unsigned long long)(to->file_offset + moved));
        moved += got > 0 ? (uint64_t)got : 0;
    }
    return 0;
}
