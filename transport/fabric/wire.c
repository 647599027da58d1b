/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes the address of an endpoint that wire.h draws. */
#include "transport/fabric/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"

#define PREFIX_SIZE (FABRIC_NAME_SIZE_MAX - FABRIC_NAME_MAX)

uint32_t gw_fabric_name_encode(uint32_t format, const uint8_t *name, uint32_t length,
                               uint8_t to[FABRIC_NAME_SIZE_MAX])
{
    assert(length <= FABRIC_NAME_MAX);
    memset(to, 0, PREFIX_SIZE);
    to[0] = 'g';
    to[1] = GW_WIRE_VERSION;
    gw_put_le32(to + 4, format);
    memcpy(to + PREFIX_SIZE, name, length);
    return PREFIX_SIZE + length;
}

int gw_fabric_name_decode(const uint8_t *from, uint32_t length, struct fabric_name *out)
{
    memset(out, 0, sizeof(*out));
    if (length <= PREFIX_SIZE || length > FABRIC_NAME_SIZE_MAX || from[0] != 'g' ||
        from[1] != GW_WIRE_VERSION || gw_get_le16(from + 2) != 0)
        return gw_fail(-EPROTO, "the peer did not begin with where its endpoint is");
    out->format = gw_get_le32(from + 4);
    out->length = length - PREFIX_SIZE;
    memcpy(out->bytes, from + PREFIX_SIZE, out->length);
    return 0;
}
