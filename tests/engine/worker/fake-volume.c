/* SPDX-License-Identifier: Apache-2.0 */
/* Answers from the list. Whatever a round must not call is an error. */
#include "tests/engine/worker/fake-volume.h"

#include <errno.h>
#include <stdio.h>

#include "common/checked.h"
#include "common/error.h"

static struct fake_volume *of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct fake_volume, volume);
}

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    struct fake_volume *fake = of(volume);

    fake->calls++;
    if (fake->fail_code && offset >= fake->fail_at)
        return gw_fail(fake->fail_code, "the fake volume breaks at %llu",
                       (unsigned long long)offset);
    for (unsigned i = 0; i < fake->extent_count; i++) {
        const struct gw_extent *extent = &fake->extents[i];

        if (offset >= extent->offset && offset < extent->offset + extent->length) {
            *out =
                (struct gw_extent){.offset = offset,
                                   .length = gw_min(extent->offset + extent->length, end) - offset,
                                   .kind = extent->kind};
            return 0;
        }
    }
    return gw_fail(-EINVAL, "asked for an extent at %llu, past the end",
                   (unsigned long long)offset);
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    return gw_fail(-ENOTSUP, "the fake volume has no bytes");
}

static int read_bytes(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return gw_fail(-ENOTSUP, "the fake volume has no bytes");
}

static void copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length)
{
}

static int collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    struct fake_volume *fake = of(volume);

    if (fake->before_collect)
        fake->before_collect(fake);
    if (fake->collect_code)
        return gw_fail(fake->collect_code, "the fake tracker breaks");
    if (!fake->written)
        return gw_fail(-ENOTSUP, "the fake volume is at rest");
    gw_bitmap_merge(dirty, fake->written);
    gw_bitmap_clear_all(fake->written);
    return 0;
}

static int unchanged(struct gw_source_volume *volume)
{
    return 0;
}

static void close_volume(struct gw_source_volume *volume)
{
}

static const struct gw_source_ops ops = {
    .next_extent = next_extent,
    .locate = locate,
    .read = read_bytes,
    .copied = copied,
    .collect = collect,
    .unchanged = unchanged,
    .close = close_volume,
};

void fake_volume_init(struct fake_volume *fake, enum gw_volume_kind kind, uint32_t granularity,
                      const struct gw_extent *extents, unsigned extent_count)
{
    const struct gw_extent *last = &extents[extent_count - 1];

    *fake = (struct fake_volume){
        .volume = {.ops = &ops,
                   .kind = kind,
                   .size = last->offset + last->length,
                   .granularity = granularity,
                   .is_still = true},
        .extents = extents,
        .extent_count = extent_count,
    };
    snprintf(fake->volume.name, sizeof(fake->volume.name), "fake");
}
