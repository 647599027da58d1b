/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes the records of a measurement field by field. */
#include "engine/worker/bench-record.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"

/* Type included; 0: there is no such type. */
static const uint32_t sizes[] = {
    [GW_BENCH_RECORD_READY] = 17,  [GW_BENCH_RECORD_MARK] = 5,
    [GW_BENCH_RECORD_MARKED] = 17, [GW_BENCH_RECORD_CHECK] = 5 + GW_DIGEST_SIZE,
    [GW_BENCH_RECORD_CHECKED] = 5,
};

_Static_assert(5 + GW_DIGEST_SIZE <= GW_BENCH_RECORD_MAX, "the longest record fits");

uint32_t gw_bench_record_encode(const struct gw_bench_record *record, uint8_t *out)
{
    out[0] = (uint8_t)record->type;
    switch (record->type) {
    case GW_BENCH_RECORD_READY:
        gw_put_le64(out + 1, record->key);
        gw_put_le64(out + 9, record->length);
        break;
    case GW_BENCH_RECORD_MARK:
        gw_put_le32(out + 1, record->number);
        break;
    case GW_BENCH_RECORD_MARKED:
        gw_put_le32(out + 1, record->number);
        gw_put_le64(out + 5, record->cpu_ns);
        gw_put_le32(out + 13, record->worker);
        break;
    case GW_BENCH_RECORD_CHECK:
        gw_put_le32(out + 1, record->checked);
        memcpy(out + 5, record->digest, GW_DIGEST_SIZE);
        break;
    case GW_BENCH_RECORD_CHECKED:
        gw_put_le32(out + 1, record->is_equal);
        break;
    }
    return sizes[record->type];
}

static bool comes_from_target(unsigned type)
{
    return type != GW_BENCH_RECORD_MARK && type != GW_BENCH_RECORD_CHECK;
}

static int decode_check(const uint8_t *bytes, struct gw_bench_record *out)
{
    out->checked = gw_get_le32(bytes + 1);
    memcpy(out->digest, bytes + 5, GW_DIGEST_SIZE);
    if (out->checked > GW_BENCH_REGION)
        return gw_fail(-EPROTO, "measurement: a digest of %u bytes, the memory has %u",
                       out->checked, GW_BENCH_REGION);
    return 0;
}

static int decode_ready(const uint8_t *bytes, struct gw_bench_record *out)
{
    out->key = gw_get_le64(bytes + 1);
    out->length = gw_get_le64(bytes + 9);
    /* The same in every version of this protocol; the check relies on it. */
    if (out->length != GW_BENCH_REGION)
        return gw_fail(-EPROTO,
                       "measurement: the target's memory has another size than this host's");
    return 0;
}

static int decode_number(const uint8_t *bytes, struct gw_bench_record *out)
{
    out->number = gw_get_le32(bytes + 1);
    if (out->type == GW_BENCH_RECORD_MARKED) {
        out->cpu_ns = gw_get_le64(bytes + 5);
        out->worker = gw_get_le32(bytes + 13);
    }
    return out->number ? 0 : gw_fail(-EPROTO, "measurement: mark 0");
}

static int decode_checked(const uint8_t *bytes, struct gw_bench_record *out)
{
    uint32_t value = gw_get_le32(bytes + 1);

    out->is_equal = value == 1;
    return value <= 1 ? 0 : gw_fail(-EPROTO, "measurement: a verdict of %u", value);
}

int gw_bench_record_decode(const uint8_t *bytes, uint32_t length, bool is_from_target,
                           struct gw_bench_record *out)
{
    static int (*const decoders[])(const uint8_t *, struct gw_bench_record *) = {
        [GW_BENCH_RECORD_READY] = decode_ready,     [GW_BENCH_RECORD_MARK] = decode_number,
        [GW_BENCH_RECORD_MARKED] = decode_number,   [GW_BENCH_RECORD_CHECK] = decode_check,
        [GW_BENCH_RECORD_CHECKED] = decode_checked,
    };
    struct gw_bench_record record = {0};
    unsigned type = length ? bytes[0] : 0;
    int error;

    if (type < GW_BENCH_RECORD_READY || type >= GW_ARRAY_LENGTH(decoders) ||
        comes_from_target(type) != is_from_target)
        return gw_fail(-EPROTO, "measurement: a record of %u bytes and type %u", length, type);
    if (length != sizes[type])
        return gw_fail(-EPROTO, "measurement: %u bytes of type %u, which has %u", length, type,
                       sizes[type]);
    record.type = (enum gw_bench_record_type)type;
    error = decoders[type](bytes, &record);
    if (!error)
        *out = record;
    return error;
}
