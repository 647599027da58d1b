/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC-32C, polynomial 0x1EDC6F41 reflected (0x82F63B78): by the processor where it can (SSE 4.2),
 * else four bits at a time. Tables and logs are read once, at opening, so a small constant table is
 * enough for the others.
 */
#include "engine/image/vhdx/vhdx.h"

#include <string.h>

static const uint32_t nibbles[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t add_by_nibbles(uint32_t sum, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        sum ^= bytes[i];
        sum = sum >> 4 ^ nibbles[sum & 15];
        sum = sum >> 4 ^ nibbles[sum & 15];
    }
    return sum;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t
add_by_instruction(uint32_t sum, const uint8_t *bytes, size_t length)
{
    uint64_t wide = sum;

    for (; length >= sizeof(wide); bytes += sizeof(wide), length -= sizeof(wide)) {
        uint64_t word;

        memcpy(&word, bytes, sizeof(word));
        wide = __builtin_ia32_crc32di(wide, word);
    }
    return add_by_nibbles((uint32_t)wide, bytes, length);
}
#endif

uint32_t gw_vhdx_checksum_add(uint32_t sum, const uint8_t *bytes, size_t length)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2"))
        return add_by_instruction(sum, bytes, length);
#endif
    return add_by_nibbles(sum, bytes, length);
}

uint32_t gw_vhdx_checksum(const uint8_t *bytes, size_t length, size_t checksum_at)
{
    static const uint8_t zeroes[4];
    uint32_t sum = ~0u;

    sum = gw_vhdx_checksum_add(sum, bytes, checksum_at);
    sum = gw_vhdx_checksum_add(sum, zeroes, sizeof(zeroes));
    sum = gw_vhdx_checksum_add(sum, bytes + checksum_at + 4, length - checksum_at - 4);
    return ~sum;
}
