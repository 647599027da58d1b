/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes what wire.h draws. */
#include "transport/fabric/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

#define PREFIX_SIZE 3u

static_assert(PREFIX_SIZE + GW_HELLO_MAX == FABRIC_CONNECT_DATA_MAX, "a hello fills a request");
static_assert(GW_WIRE_VERSION <= UINT8_MAX, "the wire version is one byte here");

static void encode_prefix(unsigned last, uint8_t *to)
{
    to[0] = 'g';
    to[1] = GW_WIRE_VERSION;
    to[2] = (uint8_t)last;
}

static bool has_prefix(const uint8_t *from, uint32_t length)
{
    return length >= PREFIX_SIZE && from[0] == 'g';
}

uint32_t gw_fabric_request_encode(const void *hello, uint32_t length,
                                  uint8_t to[FABRIC_CONNECT_DATA_MAX])
{
    assert(length <= GW_HELLO_MAX);
    encode_prefix(length, to);
    if (length)
        memcpy(to + PREFIX_SIZE, hello, length);
    return PREFIX_SIZE + length;
}

int gw_fabric_request_decode(const uint8_t *from, uint32_t length, struct fabric_request *out)
{
    memset(out, 0, sizeof(*out));
    if (!has_prefix(from, length))
        return gw_fail(-EPROTO, "a connection request that is not godwit's");
    out->version = from[1];
    if (out->version != GW_WIRE_VERSION)
        return 0;
    if (from[2] > GW_HELLO_MAX || from[2] > length - PREFIX_SIZE)
        return gw_fail(-EPROTO, "a connection request whose hello has %u bytes, at most %u",
                       from[2], (unsigned)gw_min(GW_HELLO_MAX, length - PREFIX_SIZE));
    out->hello_length = from[2];
    memcpy(out->hello, from + PREFIX_SIZE, out->hello_length);
    return 0;
}

uint32_t gw_fabric_answer_encode(enum fabric_verdict verdict, const char *reason,
                                 uint8_t to[FABRIC_CONNECT_DATA_MAX])
{
    uint32_t length = (uint32_t)strnlen(reason, FABRIC_CONNECT_DATA_MAX - PREFIX_SIZE);

    encode_prefix(verdict, to);
    memcpy(to + PREFIX_SIZE, reason, length);
    return PREFIX_SIZE + length;
}

int gw_fabric_answer_decode(const uint8_t *from, uint32_t length, struct fabric_answer *out)
{
    uint32_t count;

    memset(out, 0, sizeof(*out));
    if (!has_prefix(from, length))
        return gw_fail(-EPROTO, "what answers there is not godwit");
    out->version = from[1];
    if (from[2] > FABRIC_OTHER_VERSION)
        return gw_fail(-EPROTO, "an answer with verdict %u", from[2]);
    out->verdict = (enum fabric_verdict)from[2];
    count = (uint32_t)gw_min(length, FABRIC_CONNECT_DATA_MAX) - PREFIX_SIZE;
    for (uint32_t i = 0; i < count && from[PREFIX_SIZE + i]; i++) {
        uint8_t byte = from[PREFIX_SIZE + i];

        out->reason[i] = byte >= ' ' && byte != 0x7f ? (char)byte : '?';
    }
    return 0;
}
