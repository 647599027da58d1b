/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: frames of a tcp channel. The first byte of the input chooses: the header of a frame, or a
 * descriptor of a batch. What is accepted is within its bounds, and is the same when it is written.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "transport/tcp/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t from[TCP_HEADER_SIZE] = {0}, again[TCP_HEADER_SIZE];
    struct tcp_header header;
    bool is_header;

    if (size == 0)
        return 0;
    is_header = data[0] % 2;
    memcpy(from, data + 1, size - 1 < sizeof(from) ? size - 1 : sizeof(from));
    if (is_header ? gw_tcp_header_decode(from, &header) : gw_tcp_descriptor_decode(from, &header))
        return 0;
    assert(header.length <= GW_WRITE_MAX);
    if (header.type == TCP_FRAME_MESSAGE)
        assert(is_header && header.length <= GW_MESSAGE_MAX && !header.key && !header.offset);
    else
        assert(header.type == TCP_FRAME_WRITES && header.count <= TCP_BATCH_MAX);
    assert(is_header || header.count == 0);
    assert(header.type == TCP_FRAME_MESSAGE || !is_header || header.count > 0);
    gw_tcp_header_encode(&header, again);
    assert(memcmp(again, from, sizeof(from)) == 0);
    return 0;
}
