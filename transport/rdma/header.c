/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes what header.h draws. Whether credits add up is credit.h's to say. */
#include "transport/rdma/header.h"

#include <errno.h>
#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"

void gw_send_header_encode(const struct gw_send_header *header, uint8_t to[GW_SEND_HEADER_SIZE])
{
    to[0] = (uint8_t)header->type;
    to[1] = 0;
    gw_put_le16(to + 2, (uint16_t)header->credits);
    gw_put_le32(to + 4, header->length);
    gw_put_le64(to + 8, header->written);
}

static bool fits(const struct gw_send_header *header)
{
    switch (header->type) {
    case GW_SEND_CREDIT:
        return header->length == 0;
    case GW_SEND_ASK:
        return header->length == GW_SEND_ASK_SIZE;
    case GW_SEND_TELL:
        return header->length == GW_SEND_TELL_SIZE;
    default:
        return header->length <= GW_MESSAGE_MAX;
    }
}

int gw_send_header_decode(const uint8_t *from, uint32_t length, struct gw_send_header *out)
{
    if (length < GW_SEND_HEADER_SIZE)
        return gw_fail(-EPROTO, "the peer sent a message of %u bytes without a header", length);
    if (from[0] < GW_SEND_MESSAGE || from[0] > GW_SEND_TELL || from[1] != 0)
        return gw_fail(-EPROTO, "the peer sent a message of type %u, flags 0x%x", from[0], from[1]);
    out->type = (enum gw_send_type)from[0];
    out->credits = gw_get_le16(from + 2);
    out->length = gw_get_le32(from + 4);
    out->written = gw_get_le64(from + 8);
    if (!fits(out) || out->length != length - GW_SEND_HEADER_SIZE)
        return gw_fail(-EPROTO, "the peer sent a message of %u bytes whose header says %u", length,
                       out->length);
    return 0;
}
