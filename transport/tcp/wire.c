/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes what wire.h draws. It checks each field for itself; whether a write fits its
 * region is the region table's to say. */
#include "transport/tcp/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"

static_assert(sizeof(TCP_MAGIC) - 1 == TCP_MAGIC_SIZE, "the magic fills its field");

void gw_tcp_header_encode(const struct tcp_header *header, uint8_t to[TCP_HEADER_SIZE])
{
    to[0] = (uint8_t)header->type;
    to[1] = 0;
    gw_put_le16(to + 2, header->count);
    gw_put_le32(to + 4, header->length);
    gw_put_le64(to + 8, header->key);
    gw_put_le64(to + 16, header->offset);
}

static void decode_fields(const uint8_t from[TCP_HEADER_SIZE], struct tcp_header *out)
{
    out->type = from[0];
    out->count = gw_get_le16(from + 2);
    out->length = gw_get_le32(from + 4);
    out->key = gw_get_le64(from + 8);
    out->offset = gw_get_le64(from + 16);
}

static int check_message(const struct tcp_header *header)
{
    if (header->count != 0 || header->key != 0 || header->offset != 0)
        return gw_fail(-EPROTO, "the peer sent a message with fields of a write");
    if (header->length > GW_MESSAGE_MAX)
        return gw_fail(-EPROTO, "the peer sent a message of %u bytes, at most %u", header->length,
                       GW_MESSAGE_MAX);
    return 0;
}

static int check_length(uint32_t length)
{
    if (length > GW_WRITE_MAX)
        return gw_fail(-EPROTO, "the peer sent a write of %u bytes, at most %u", length,
                       GW_WRITE_MAX);
    return 0;
}

int gw_tcp_header_decode(const uint8_t from[TCP_HEADER_SIZE], struct tcp_header *out)
{
    decode_fields(from, out);
    if (from[1] != 0)
        return gw_fail(-EPROTO, "the peer sent a frame with flags 0x%x", from[1]);
    if (out->type == TCP_FRAME_MESSAGE)
        return check_message(out);
    if (out->type != TCP_FRAME_WRITES)
        return gw_fail(-EPROTO, "the peer sent a frame of type %u", from[0]);
    if (out->count < 1 || out->count > TCP_BATCH_MAX)
        return gw_fail(-EPROTO, "the peer sent a frame of %u writes, 1 to %u", out->count,
                       TCP_BATCH_MAX);
    return check_length(out->length);
}

int gw_tcp_descriptor_decode(const uint8_t from[TCP_HEADER_SIZE], struct tcp_header *out)
{
    decode_fields(from, out);
    if (from[0] != TCP_FRAME_WRITES || from[1] != 0 || out->count != 0)
        return gw_fail(-EPROTO, "the peer sent a batch whose descriptors are not writes");
    return check_length(out->length);
}

void gw_tcp_preamble_encode(const void *hello, uint32_t length, uint8_t to[TCP_PREAMBLE_SIZE])
{
    memset(to, 0, TCP_PREAMBLE_SIZE);
    memcpy(to, TCP_MAGIC, TCP_MAGIC_SIZE);
    gw_put_le32(to + 8, GW_WIRE_VERSION);
    gw_put_le32(to + 12, length);
    if (length)
        memcpy(to + 16, hello, length);
}

void gw_tcp_answer_encode(enum tcp_verdict verdict, const char *reason, uint8_t to[TCP_ANSWER_SIZE])
{
    memset(to, 0, TCP_ANSWER_SIZE);
    memcpy(to, TCP_MAGIC, TCP_MAGIC_SIZE);
    gw_put_le32(to + 8, GW_WIRE_VERSION);
    gw_put_le32(to + 12, verdict);
    snprintf((char *)to + 16, GW_REASON_MAX, "%s", reason);
}
