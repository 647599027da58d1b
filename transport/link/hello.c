/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The private data of a connection request: 52 bytes, which is all that rdmacm leaves.
 *
 *   0 u8 role, 1 three zeroes, 4 u32 channel number, 8 link id, 24 nonce, 40 ticket
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/link/private.h"

#define AT_NUMBER 4u
#define AT_LINK   8u
#define AT_NONCE  (AT_LINK + GW_ID_SIZE)
#define AT_TICKET (AT_NONCE + GW_NONCE_SIZE)

static_assert(AT_TICKET + GW_TICKET_SIZE == GW_HELLO_MAX, "a hello fills the private data");

void gw_hello_write(const struct gw_hello *hello, uint8_t out[GW_HELLO_MAX])
{
    memset(out, 0, GW_HELLO_MAX);
    out[0] = (uint8_t)hello->role;
    gw_put_le32(out + AT_NUMBER, hello->channel_number);
    memcpy(out + AT_LINK, hello->link_id, GW_ID_SIZE);
    memcpy(out + AT_NONCE, hello->nonce, GW_NONCE_SIZE);
    memcpy(out + AT_TICKET, hello->ticket, GW_TICKET_SIZE);
}

int gw_hello_parse(const struct gw_request *request, struct gw_hello *out)
{
    const uint8_t *bytes = request->hello;
    uint32_t number;

    if (request->hello_length != GW_HELLO_MAX)
        return gw_fail(-EPROTO, "a connection request with %u bytes of its own, not %u",
                       request->hello_length, GW_HELLO_MAX);
    number = gw_get_le32(bytes + AT_NUMBER);
    if (bytes[1] || bytes[2] || bytes[3] ||
        !(((bytes[0] == GW_HELLO_CONTROL || bytes[0] == GW_HELLO_REJOIN ||
            bytes[0] == GW_HELLO_ASK) &&
           number == 0) ||
          (bytes[0] == GW_HELLO_DATA && number >= 1 && number <= GW_CHANNEL_LAST)))
        return gw_fail(-EPROTO, "a connection request for role %u, channel %u, which means nothing",
                       bytes[0], number);
    out->role = (enum gw_hello_role)bytes[0];
    out->channel_number = number;
    memcpy(out->link_id, bytes + AT_LINK, GW_ID_SIZE);
    memcpy(out->nonce, bytes + AT_NONCE, GW_NONCE_SIZE);
    memcpy(out->ticket, bytes + AT_TICKET, GW_TICKET_SIZE);
    return 0;
}
