/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: frames as a DPDK port hears them from anybody. The first byte says whether the NIC has
 * looked at the IPv4 checksum (bit 0) and whether ICMPv6's is put right here (bit 1); the rest is the
 * frame. What is read of it lies within it; a question of a
 * neighbour can be answered; a datagram's flow, written anew, is read as the same one.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "transport/dpdk/headers.h"

#define GUARD     64u
#define IP_AT     DPDK_ETHERNET_SIZE
#define ICMPV6_AT (IP_AT + DPDK_IPV6_SIZE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void answer(const struct dpdk_frame *asked)
{
    static const struct dpdk_mac mac = {{2, 0, 0, 0, 0, 1}};
    uint8_t out[DPDK_NEIGHBOR_MAX + GUARD];
    struct dpdk_frame told;
    uint32_t length;

    memset(out, 0x77, sizeof(out));
    length = gw_dpdk_neighbor_tell(&mac, asked, out);
    assert(length <= DPDK_NEIGHBOR_MAX);
    for (unsigned i = length; i < sizeof(out); i++)
        assert(out[i] == 0x77);
    gw_dpdk_frame_read(out, length, true, &told);
    assert(told.kind == DPDK_FRAME_NEIGHBOR_TOLD);
    assert(gw_dpdk_host_is_same(&told.source, &asked->target));
}

static void send_back(const struct dpdk_frame *frame)
{
    struct dpdk_flow flow = {.local = frame->source,
                             .peer = frame->target,
                             .local_mac = frame->source_mac,
                             .local_port = frame->source_port,
                             .peer_port = frame->target_port};
    uint8_t out[DPDK_HEADERS_MAX + 16] = {0};
    struct dpdk_frame again;

    gw_dpdk_headers_write(&flow, 16, 0, out);
    gw_dpdk_headers_finish(&flow, 16, 0, out);
    gw_dpdk_frame_read(out, gw_dpdk_headers_size(&flow) + 16, true, &again);
    assert(again.kind == DPDK_FRAME_UDP && again.payload_length == 16);
    assert(gw_dpdk_host_is_same(&again.source, &frame->source));
    assert(gw_dpdk_host_is_same(&again.target, &frame->target));
    assert(again.source_port == frame->source_port && again.target_port == frame->target_port);
}

/* No change of a solicitation or an advertisement would get past its checksum. */
static void repair(uint8_t *frame, size_t size)
{
    uint32_t length, sum = 58;

    if (size < ICMPV6_AT + 4 || gw_get_be16(frame + 12) != 0x86dd)
        return;
    length = gw_get_be16(frame + IP_AT + 4);
    if (length < 4 || length > size - ICMPV6_AT)
        return;
    sum += length;
    gw_put_be16(frame + ICMPV6_AT + 2, 0);
    for (uint32_t i = 0; i < length + 32; i++)
        sum += (uint32_t)frame[IP_AT + 8 + i] << (i % 2 ? 0 : 8);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    gw_put_be16(frame + ICMPV6_AT + 2, (uint16_t)~sum);
}

static void look_at(const uint8_t *bytes, size_t size, bool is_verified)
{
    struct dpdk_frame frame;

    gw_dpdk_frame_read(bytes, (uint32_t)size, is_verified, &frame);
    switch (frame.kind) {
    case DPDK_FRAME_UDP:
        assert(frame.payload >= DPDK_ETHERNET_SIZE + DPDK_IPV4_SIZE + DPDK_UDP_SIZE);
        assert((uint64_t)frame.payload + frame.payload_length <= size);
        send_back(&frame);
        break;
    case DPDK_FRAME_NEIGHBOR_ASKED:
        answer(&frame);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size == 0 || size > UINT16_MAX)
        return 0;
    if (!(data[0] & 2)) {
        look_at(data + 1, size - 1, data[0] & 1);
        return 0;
    }
    copy = malloc(size - 1 + (size == 1)); /* exact, for the sanitizer */
    if (!copy)
        abort();
    memcpy(copy, data + 1, size - 1);
    repair(copy, size - 1);
    look_at(copy, size - 1, data[0] & 1);
    free(copy);
    return 0;
}
