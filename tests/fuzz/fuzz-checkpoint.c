/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: bytes as the journal of an unfinished image, as they are and with the checksum of each
 * slot made right. What is taken may not say what cannot be.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/bytes.h"
#include "engine/volume/checkpoint.h"

#define HEAD    24u /* engine/volume/checkpoint.h */
#define PAYLOAD 40u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const uint8_t *bytes, size_t size)
{
    uint8_t again[GW_CHECKPOINT_SLOT];
    struct gw_checkpoint found, same;
    uint64_t number;

    if (gw_checkpoint_decode(bytes, size, &found, &number))
        return;
    assert(found.durable <= found.size && found.size <= INT64_MAX);
    assert(memchr(found.source, 0, sizeof(found.source)));
    assert(memchr(found.format, 0, sizeof(found.format)));
    gw_checkpoint_encode(&found, number, again);
    assert(gw_checkpoint_decode(again, sizeof(again), &same, NULL) == 0);
    assert(gw_checkpoint_is_same(&found, &same) && found.durable == same.durable);
}

static void mend(uint8_t *slot)
{
    uint32_t length = gw_get_le32(slot + 12) % (GW_CHECKPOINT_SLOT - PAYLOAD + 1);
    uint8_t bytes[GW_CHECKPOINT_SLOT];
    XXH128_canonical_t canonical;

    memcpy(slot, "gwjourn1\1\0\0\0", 12);
    gw_put_le32(slot + 12, length);
    memcpy(bytes, slot, HEAD);
    memcpy(bytes + HEAD, slot + PAYLOAD, length);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, HEAD + length));
    memcpy(slot + HEAD, &canonical, sizeof(canonical));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[GW_CHECKPOINT_SIZE] = {0};

    decode(data, size);
    memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
    mend(bytes);
    mend(bytes + GW_CHECKPOINT_SLOT);
    decode(bytes, sizeof(bytes));
    return 0;
}
