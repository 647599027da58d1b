/* SPDX-License-Identifier: Apache-2.0 */
/* A target volume that drops its bytes: what remains of a transfer is the data path itself. */
#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"
#include "engine/volume/disk.h"

#include <errno.h>

static int locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    *out = (struct gw_location){.kind = GW_EXTENT_DATA, .where = GW_BY_CALL, .length = length};
    return 0;
}

static int drop(struct gw_target_volume *volume, uint64_t offset, const void *from, uint64_t length)
{
    return 0;
}

static int zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    return 0;
}

static int nothing(struct gw_target_volume *volume)
{
    return 0;
}

static void forget(struct gw_target_volume *volume)
{
}

static void close_null(struct gw_target_volume *volume)
{
    free(volume);
}

static const struct gw_target_ops ops = {
    .locate = locate,
    .write = drop,
    .zero = zero,
    .sync = nothing,
    .view = gw_target_no_view,
    .complete = nothing,
    .finish = nothing,
    .abort = forget,
    .close = close_null,
};

int gw_null_target_create(const char *name, uint64_t size, struct gw_target_volume **out)
{
    struct gw_target_volume *volume = calloc(1, sizeof(*volume));

    if (!volume)
        return gw_fail(-ENOMEM, "no memory for a volume");
    volume->ops = &ops;
    volume->kind = GW_VOLUME_DISK;
    volume->size = size;
    volume->takes_at_once = true;
    snprintf(volume->name, sizeof(volume->name), "%s", name);
    *out = volume;
    return 0;
}
