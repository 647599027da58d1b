/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes what connect.h says. */
#include "transport/rdma/connect.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

static_assert(GW_WIRE_VERSION <= UINT8_MAX, "the wire version is one byte here");

/* Magic, version, and the byte that says what follows. */
static uint32_t prefix_size(const struct gw_connect_form *form)
{
    return (uint32_t)strlen(form->magic) + 2;
}

static void encode_prefix(const struct gw_connect_form *form, unsigned last, uint8_t *to)
{
    size_t magic = strlen(form->magic);

    memcpy(to, form->magic, magic);
    to[magic] = GW_WIRE_VERSION;
    to[magic + 1] = (uint8_t)last;
}

static bool has_prefix(const struct gw_connect_form *form, const uint8_t *from, uint32_t length)
{
    return length >= prefix_size(form) && memcmp(from, form->magic, strlen(form->magic)) == 0;
}

uint32_t gw_connect_request_encode(const struct gw_connect_form *form, const void *hello,
                                   uint32_t length, uint8_t *to)
{
    uint32_t prefix = prefix_size(form);

    assert(length <= GW_HELLO_MAX && prefix + GW_HELLO_MAX <= form->request_max);
    memset(to, 0, form->request_max);
    encode_prefix(form, length, to);
    if (length)
        memcpy(to + prefix, hello, length);
    return prefix + length;
}

int gw_connect_request_decode(const struct gw_connect_form *form, const uint8_t *from,
                              uint32_t length, struct gw_connect_request *out)
{
    uint32_t prefix = prefix_size(form), said;

    memset(out, 0, sizeof(*out));
    if (!has_prefix(form, from, length))
        return gw_fail(-EPROTO, "a connection request that is not godwit's");
    out->version = from[prefix - 2];
    if (out->version != GW_WIRE_VERSION)
        return 0;
    said = from[prefix - 1];
    if (said > GW_HELLO_MAX || said > length - prefix)
        return gw_fail(-EPROTO, "a connection request whose hello has %u bytes, at most %u", said,
                       (unsigned)gw_min(GW_HELLO_MAX, length - prefix));
    out->hello_length = said;
    memcpy(out->hello, from + prefix, said);
    return 0;
}

uint32_t gw_connect_answer_encode(const struct gw_connect_form *form,
                                  enum gw_connect_verdict verdict, const char *reason, uint8_t *to)
{
    uint32_t prefix = prefix_size(form);
    uint32_t length = (uint32_t)strnlen(reason, form->answer_max - prefix);

    encode_prefix(form, verdict, to);
    memcpy(to + prefix, reason, length);
    return prefix + length;
}

int gw_connect_answer_decode(const struct gw_connect_form *form, const uint8_t *from,
                             uint32_t length, struct gw_connect_answer *out)
{
    uint32_t prefix = prefix_size(form), count;

    assert(form->answer_max - prefix < sizeof(out->reason));
    memset(out, 0, sizeof(*out));
    if (!has_prefix(form, from, length))
        return gw_fail(-EPROTO, "what answers there is not godwit");
    out->version = from[prefix - 2];
    if (from[prefix - 1] > GW_CONNECT_OTHER_VERSION)
        return gw_fail(-EPROTO, "an answer with verdict %u", from[prefix - 1]);
    out->verdict = (enum gw_connect_verdict)from[prefix - 1];
    count = (uint32_t)gw_min(length, form->answer_max) - prefix;
    for (uint32_t i = 0; i < count && from[prefix + i]; i++) {
        uint8_t byte = from[prefix + i];

        out->reason[i] = byte >= ' ' && byte != 0x7f ? (char)byte : '?';
    }
    return 0;
}
