/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes what wire.h draws. */
#include "transport/verbs/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

#define PREFIX_SIZE 4u

static_assert(PREFIX_SIZE + GW_HELLO_MAX == VERBS_REQUEST_SIZE, "a hello fills the request");
static_assert(GW_WIRE_VERSION <= UINT8_MAX, "the wire version is one byte here");
static_assert(VERBS_ANSWER_MAX - PREFIX_SIZE < GW_REASON_MAX, "a reason fits with its terminator");

static void encode_prefix(unsigned last, uint8_t *to)
{
    to[0] = 'g';
    to[1] = 'w';
    to[2] = GW_WIRE_VERSION;
    to[3] = (uint8_t)last;
}

static bool has_prefix(const uint8_t *from, uint32_t length)
{
    return length >= PREFIX_SIZE && from[0] == 'g' && from[1] == 'w';
}

void gw_verbs_request_encode(const void *hello, uint32_t length, uint8_t to[VERBS_REQUEST_SIZE])
{
    memset(to, 0, VERBS_REQUEST_SIZE);
    encode_prefix(length, to);
    if (length)
        memcpy(to + PREFIX_SIZE, hello, length);
}

int gw_verbs_request_decode(const uint8_t *from, uint32_t length, struct verbs_request *out)
{
    memset(out, 0, sizeof(*out));
    if (!has_prefix(from, length))
        return gw_fail(-EPROTO, "a connection request that is not godwit's");
    out->version = from[2];
    if (out->version != GW_WIRE_VERSION)
        return 0;
    if (from[3] > GW_HELLO_MAX || from[3] > length - PREFIX_SIZE)
        return gw_fail(-EPROTO, "a connection request whose hello has %u bytes, at most %u",
                       from[3], (unsigned)gw_min(GW_HELLO_MAX, length - PREFIX_SIZE));
    out->hello_length = from[3];
    memcpy(out->hello, from + PREFIX_SIZE, out->hello_length);
    return 0;
}

uint32_t gw_verbs_answer_encode(enum verbs_verdict verdict, const char *reason,
                                uint8_t to[VERBS_ANSWER_MAX])
{
    uint32_t length = (uint32_t)strnlen(reason, VERBS_ANSWER_MAX - PREFIX_SIZE);

    encode_prefix(verdict, to);
    memcpy(to + PREFIX_SIZE, reason, length);
    return PREFIX_SIZE + length;
}

int gw_verbs_answer_decode(const uint8_t *from, uint32_t length, struct verbs_answer *out)
{
    uint32_t count;

    memset(out, 0, sizeof(*out));
    if (!has_prefix(from, length))
        return gw_fail(-EPROTO, "what answers there is not godwit");
    out->version = from[2];
    if (from[3] > VERBS_OTHER_VERSION)
        return gw_fail(-EPROTO, "an answer with verdict %u", from[3]);
    out->verdict = (enum verbs_verdict)from[3];
    count = (uint32_t)gw_min(length, VERBS_ANSWER_MAX) - PREFIX_SIZE;
    for (uint32_t i = 0; i < count && from[PREFIX_SIZE + i]; i++) {
        uint8_t byte = from[PREFIX_SIZE + i];

        out->reason[i] = byte >= ' ' && byte != 0x7f ? (char)byte : '?';
    }
    return 0;
}
