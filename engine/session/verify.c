/* SPDX-License-Identifier: Apache-2.0 */
/* Whole-volume digests. They compare content, never layout. */
#include "engine/session/verify.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "common/fault.h"
#include "common/memory.h"
#include "engine/volume/location.h"
#include "engine/volume/ram.h"

struct digest {
    XXH3_state_t *state;
    uint64_t size;
};

static int begin(struct digest *digest, uint64_t size)
{
    digest->size = size;
    digest->state = XXH3_createState();
    if (!digest->state)
        return gw_fail(-ENOMEM, "no memory for a digest");
    XXH3_128bits_reset(digest->state);
    return 0;
}

/* One granule; the last of a volume may be short. Zeroes count as absent. */
static void add(struct digest *digest, uint64_t index, const uint8_t *bytes, uint64_t length)
{
    uint8_t item[8 + GW_VERIFY_SIZE];
    XXH128_canonical_t canonical;
    bool is_zero = length % sizeof(uint64_t) == 0 && gw_memory_is_zero(bytes, length);

    for (uint64_t i = 0; !is_zero && length % sizeof(uint64_t) && i < length && !bytes[i]; i++)
        is_zero = i + 1 == length;
    if (is_zero)
        return;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    gw_put_le64(item, index);
    memcpy(item + 8, &canonical, GW_VERIFY_SIZE);
    XXH3_128bits_update(digest->state, item, sizeof(item));
}

static void end(struct digest *digest, uint8_t *out)
{
    XXH128_canonical_t canonical;
    uint8_t size[8];

    gw_put_le64(size, digest->size);
    XXH3_128bits_update(digest->state, size, sizeof(size));
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(digest->state));
    memcpy(out, &canonical, GW_VERIFY_SIZE);
    XXH3_freeState(digest->state);
}

/* What is digested, for a call that may lose its memory. */
struct subject {
    struct digest digest;
    const uint8_t *memory;
    const struct gw_target_volume *ram; /* that the memory is of, whose holes stay holes; or NULL */
    struct gw_source_volume *volume;
    uint8_t *buffer;
};

static int touch_memory(void *context)
{
    struct subject *subject = context;
    uint64_t size = subject->digest.size;

    for (uint64_t at = 0; at < size; at += GW_VERIFY_GRANULE) {
        if (subject->ram)
            at = gw_align_down(gw_ram_target_skip_hole(subject->ram, at), GW_VERIFY_GRANULE);
        if (at < size)
            add(&subject->digest, at / GW_VERIFY_GRANULE, subject->memory + at,
                gw_min(GW_VERIFY_GRANULE, size - at));
    }
    return 0;
}

static int digest_memory(struct subject *subject, uint64_t size, uint8_t *out)
{
    int error = begin(&subject->digest, size);

    if (error)
        return error;
    error = gw_fault_run("RAM", touch_memory, subject);
    end(&subject->digest, out);
    return error;
}

int gw_verify_memory(const void *memory, uint64_t size, uint8_t *out)
{
    struct subject subject = {.memory = memory};

    return digest_memory(&subject, size, out);
}

int gw_verify_ram(const struct gw_target_volume *ram, uint8_t *out)
{
    struct subject subject = {.memory = ram->memory, .ram = ram};

    return digest_memory(&subject, ram->size, out);
}

/* The bytes of one location into the granule's buffer. */
static int read_location(const struct gw_location *from, uint8_t *into)
{
    if (from->kind != GW_EXTENT_DATA) {
        memset(into, 0, from->length);
        return 0;
    }
    if (from->where == GW_IN_MEMORY) {
        memcpy(into, from->memory, from->length);
        return 0;
    }
    return gw_location_read(from, into);
}

int gw_verify_read(struct gw_source_volume *volume, uint64_t offset, uint64_t length, uint8_t *into)
{
    uint64_t moved = 0;
    int error = 0;

    while (!error && moved < length) {
        struct gw_location from;

        error = volume->ops->locate(volume, offset + moved, length - moved, &from);
        if (error)
            break;
        from.length = gw_min(from.length, length - moved);
        error = from.where == GW_BY_CALL && from.kind == GW_EXTENT_DATA
                    ? volume->ops->read(volume, offset + moved, into + moved, from.length)
                    : read_location(&from, into + moved);
        moved += from.length;
    }
    return error;
}

int gw_verify_next(struct gw_verify_walk *walk, uint8_t *buffer, uint64_t *offset, uint64_t *length)
{
    const struct gw_extent *extent = &walk->extent;
    int error;

    while (walk->offset < walk->end) {
        uint64_t left;

        *offset = walk->offset;
        *length = gw_min(walk->granule, walk->end - walk->offset);
        /* Once for each extent: a look for holes costs more the longer the run of data is. */
        if (walk->offset >= extent->offset + extent->length) {
            error = walk->volume->ops->next_extent(walk->volume, walk->offset, walk->end,
                                                   &walk->extent);
            if (error)
                return error;
        }
        left = extent->offset + extent->length - walk->offset;
        if (extent->kind == GW_EXTENT_DATA || left < *length) {
            walk->offset += *length;
            return gw_verify_read(walk->volume, *offset, *length, buffer);
        }
        walk->offset += gw_max(gw_align_down(left, walk->granule), *length);
    }
    *length = 0;
    return 0;
}

static int touch_volume(void *context)
{
    struct subject *subject = context;
    struct gw_verify_walk walk = {
        .volume = subject->volume, .end = subject->volume->size, .granule = GW_VERIFY_GRANULE};
    uint64_t offset, length;
    int error;

    while ((error = gw_verify_next(&walk, subject->buffer, &offset, &length)) == 0 && length > 0)
        add(&subject->digest, offset / GW_VERIFY_GRANULE, subject->buffer, length);
    return error;
}

int gw_verify_source(struct gw_source_volume *volume, uint8_t *out)
{
    struct subject subject = {.volume = volume};
    void *buffer;
    int error = gw_memory_new(GW_VERIFY_GRANULE + 4096, &buffer);

    if (error)
        return error;
    subject.buffer = buffer;
    error = begin(&subject.digest, volume->size);
    if (!error) {
        error = gw_fault_run(volume->name, touch_volume, &subject);
        end(&subject.digest, out);
    }
    gw_memory_free(buffer, GW_VERIFY_GRANULE + 4096);
    return error;
}
