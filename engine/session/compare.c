/* SPDX-License-Identifier: Apache-2.0 */
/* Granules, their digests, and which of them differ. Who asks whom is in resume.c and serve.c. */
#include "engine/session/compare.h"

#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/fault.h"
#include "common/hash.h"
#include "common/memory.h"
#include "engine/session/message.h"
#include "transport/link/control.h"

_Static_assert(GW_VERIFY_SIZE == GW_ID_SIZE, "digests are written as ids are");

struct reading {
    struct gw_source_volume *volume;
    uint64_t offset, end;
    uint8_t *buffer;
    struct gw_compare_piece *out;
};

static bool is_zero(const uint8_t *bytes, uint64_t length)
{
    uint64_t whole = length / sizeof(uint64_t) * sizeof(uint64_t);

    for (uint64_t i = whole; i < length; i++)
        if (bytes[i])
            return false;
    return whole == 0 || gw_memory_is_zero(bytes, whole);
}

static void add(struct gw_compare_piece *piece, uint64_t offset, const uint8_t *bytes,
                uint64_t length)
{
    struct gw_compare_granule *granule = &piece->granules[piece->count];
    XXH128_canonical_t canonical;

    if (is_zero(bytes, length))
        return;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    granule->index = offset / GW_COMPARE_GRANULE;
    memcpy(granule->digest, &canonical, GW_VERIFY_SIZE);
    piece->count++;
}

static int read_granules(void *context)
{
    struct reading *reading = context;
    /* What lies behind the end is another matter: it need not be there. */
    struct gw_verify_walk walk = {.volume = reading->volume,
                                  .offset = reading->offset,
                                  .end = reading->end,
                                  .granule = GW_COMPARE_GRANULE};
    uint64_t offset, length = 1;
    int error = 0;

    for (unsigned count = 0; !error && length > 0 && count < GW_COMPARE_MAX; count++) {
        error = gw_verify_next(&walk, reading->buffer, &offset, &length);
        if (!error && length > 0)
            add(reading->out, offset, reading->buffer, length);
    }
    reading->out->end = gw_min(walk.offset, reading->end);
    return error;
}

int gw_compare_read(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                    struct gw_compare_piece *out)
{
    struct reading reading = {.volume = volume, .offset = offset, .end = end, .out = out};
    void *buffer;
    int error = gw_memory_new(GW_COMPARE_GRANULE + 4096, &buffer);

    if (error)
        return error;
    out->count = 0;
    reading.buffer = buffer;
    error = gw_fault_run(volume->name, read_granules, &reading);
    gw_memory_free(buffer, GW_COMPARE_GRANULE + 4096);
    return error;
}

int gw_compare_begin(struct gw_source_volume *volume, struct gw_bitmap *different)
{
    volume->granularity = GW_COMPARE_GRANULE;
    return gw_bitmap_init(different, (volume->size + GW_COMPARE_GRANULE - 1) / GW_COMPARE_GRANULE);
}

static void note(uint64_t index, uint64_t end, const struct gw_source_volume *volume,
                 struct gw_bitmap *different, uint64_t *bytes)
{
    uint64_t offset = index * GW_COMPARE_GRANULE, unit = volume->granularity;
    uint64_t length = gw_min(GW_COMPARE_GRANULE, volume->size - offset);

    if (offset >= end)
        return;
    gw_bitmap_set_range(different, offset / unit, (length + unit - 1) / unit);
    *bytes += length;
}

uint64_t gw_compare_pieces(const struct gw_compare_piece *ours,
                           const struct gw_compare_piece *theirs, uint64_t offset,
                           const struct gw_source_volume *volume, struct gw_bitmap *different,
                           uint64_t *bytes)
{
    uint64_t end = gw_min(ours->end, theirs->end);
    unsigned i = 0, j = 0;

    while (i < ours->count || j < theirs->count) {
        const struct gw_compare_granule *a = i < ours->count ? &ours->granules[i] : NULL;
        const struct gw_compare_granule *b = j < theirs->count ? &theirs->granules[j] : NULL;
        bool is_pair = a && b && a->index == b->index;

        if (is_pair && memcmp(a->digest, b->digest, GW_VERIFY_SIZE) != 0)
            note(a->index, end, volume, different, bytes);
        /* Zeroes on one side alone. */
        else if (!is_pair)
            note(!b || (a && a->index < b->index) ? a->index : b->index, end, volume, different,
                 bytes);
        i += is_pair || (a && (!b || a->index < b->index));
        j += is_pair || (b && (!a || b->index < a->index));
    }
    return gw_max(end, offset);
}

json_t *gw_compare_encode(const struct gw_compare_piece *piece)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < piece->count; i++) {
        char text[2 * GW_ID_SIZE + 1];

        gw_id_format(piece->granules[i].digest, text);
        json_array_append_new(list, json_integer((json_int_t)piece->granules[i].index));
        json_array_append_new(list, json_string(text));
    }
    return json_pack("{s:s,s:I,s:o}", "type", "compared", "end", (json_int_t)piece->end, "granules",
                     list);
}

int gw_compare_decode(const json_t *message, uint64_t offset, uint64_t end,
                      struct gw_compare_piece *out)
{
    uint64_t least = offset / GW_COMPARE_GRANULE;
    json_t *list;
    int error = gw_message_number(message, "end", end, &out->end);

    if (!error)
        error = gw_message_array(message, "granules", 2 * GW_COMPARE_MAX, &list);
    if (error)
        return error;
    out->count = (unsigned)(json_array_size(list) / 2);
    if (out->end <= offset || (out->end < end && out->end % GW_COMPARE_GRANULE) ||
        json_array_size(list) % 2)
        return gw_fail(-EPROTO, "the target compared nothing");
    for (unsigned i = 0; !error && i < out->count; i++) {
        json_int_t index = json_integer_value(json_array_get(list, 2 * i));
        const char *text = json_string_value(json_array_get(list, 2 * i + 1));

        if (index < 0 || (uint64_t)index < least ||
            (uint64_t)index > (out->end - 1) / GW_COMPARE_GRANULE || !text)
            return gw_fail(-EPROTO, "the target compared something else");
        out->granules[i].index = (uint64_t)index;
        least = (uint64_t)index + 1;
        error = gw_id_parse(text, out->granules[i].digest);
    }
    return error;
}

int gw_compare_volumes(struct gw_source_volume *source, struct gw_source_volume *target,
                       uint64_t end, struct gw_bitmap *different, uint64_t *bytes)
{
    struct gw_compare_piece ours, theirs;
    uint64_t offset = 0;
    int error = 0;

    while (!error && offset < end) {
        error = gw_compare_read(source, offset, end, &ours);
        if (!error)
            error = gw_compare_read(target, offset, end, &theirs);
        if (!error)
            offset = gw_compare_pieces(&ours, &theirs, offset, source, different, bytes);
    }
    return error;
}
