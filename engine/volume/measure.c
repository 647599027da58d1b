/* SPDX-License-Identifier: Apache-2.0 */
/* How much of a volume is allocated; and what volumes of every kind have in common. */
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "engine/volume/location.h"
#include "engine/volume/volume.h"

#define LIMIT_NS (100 * GW_NS_PER_MS)

uint64_t gw_source_data_bytes(struct gw_source_volume *volume)
{
    uint64_t total = 0, offset = 0, deadline = gw_clock_ns() + LIMIT_NS;
    struct gw_extent extent;

    while (offset < volume->size) {
        if (volume->ops->next_extent(volume, offset, volume->size, &extent))
            return volume->size;
        if (extent.kind == GW_EXTENT_DATA)
            total += extent.length;
        offset = extent.offset + extent.length;
        /* The part that was counted stands for the rest. */
        if (gw_clock_ns() > deadline)
            return (uint64_t)((double)total * (double)volume->size / (double)offset);
    }
    return total;
}

int gw_target_write(struct gw_target_volume *volume, uint64_t offset, const void *from,
                    uint64_t length)
{
    const uint8_t *bytes = from;
    struct gw_location to;

    for (uint64_t moved = 0; moved < length; moved += to.length) {
        int error = volume->ops->locate(volume, offset + moved, length - moved, &to);

        if (error)
            return error;
        to.length = gw_min(to.length, length - moved);
        if (to.where == GW_IN_MEMORY)
            memcpy(to.memory, bytes + moved, to.length);
        else if (to.where == GW_IN_FILE)
            error = gw_location_write(&to, bytes + moved);
        else
            error = volume->ops->write(volume, offset + moved, bytes + moved, to.length);
        if (error)
            return error;
    }
    return 0;
}

int gw_target_no_view(struct gw_target_volume *volume, struct gw_source_volume **out)
{
    return gw_fail(-ENOTSUP, "%s cannot be read back here", volume->name);
}
