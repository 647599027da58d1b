/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC-32C, polynomial 0x1EDC6F41 reflected (0x82F63B78), four bits at a time: tables are read once,
 * at opening, so a small constant table is enough.
 */
#include "engine/image/vhdx/vhdx.h"

static const uint32_t nibbles[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t gw_vhdx_checksum_add(uint32_t sum, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        sum ^= bytes[i];
        sum = sum >> 4 ^ nibbles[sum & 15];
        sum = sum >> 4 ^ nibbles[sum & 15];
    }
    return sum;
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
