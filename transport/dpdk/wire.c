/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and decoding of a dpdk channel's datagrams, field by field. */
#include "transport/dpdk/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/dpdk/wire-private.h"

#define TEXT_OFFSET 68u /* of the hello or the reason: behind its length */

static_assert(TEXT_OFFSET + GW_REASON_MAX <= DPDK_DATAGRAM_MIN, "a reason fits");
static_assert(TEXT_OFFSET + GW_HELLO_MAX <= DPDK_DATAGRAM_MIN, "a hello fits");
static_assert(DPDK_HEADER_SIZE + DPDK_NONCE_SIZE <= DPDK_DATAGRAM_MIN, "a nonce fits");

void gw_dpdk_header_encode(const struct dpdk_header *header, uint8_t out[DPDK_HEADER_SIZE])
{
    out[0] = DPDK_VERSION;
    out[1] = (uint8_t)header->kind;
    out[2] = header->part;
    out[3] = header->parts;
    gw_put_le32(out + 4, header->id);
    gw_put_le32(out + 8, header->incarnation);
    gw_put_le32(out + 12, header->length);
    gw_put_le64(out + 16, header->number);
    for (unsigned i = 0; i < 4; i++)
        gw_put_le64(out + 24 + (size_t)i * 8, header->fields[i]);
    gw_put_le64(out + DPDK_TAG_OFFSET, 0);
}

int gw_dpdk_header_decode(const uint8_t *datagram, uint32_t length, struct dpdk_header *out)
{
    if (length < DPDK_HEADER_SIZE || length > DPDK_DATAGRAM_MAX)
        return -EPROTO;
    out->kind = datagram[1];
    out->part = datagram[2];
    out->parts = datagram[3];
    out->id = gw_get_le32(datagram + 4);
    out->incarnation = gw_get_le32(datagram + 8);
    out->length = gw_get_le32(datagram + 12);
    out->number = gw_get_le64(datagram + 16);
    for (unsigned i = 0; i < 4; i++)
        out->fields[i] = gw_get_le64(datagram + 24 + (size_t)i * 8);
    /* Another version is refused by name. */
    if (datagram[0] != DPDK_VERSION && out->kind != DPDK_KIND_REFUSE)
        return -EPROTO;
    return out->length == length - DPDK_HEADER_SIZE ? 0 : -EPROTO;
}

int gw_dpdk_name_decode(const void *datagram, uint32_t length, struct dpdk_name *out)
{
    const uint8_t *bytes = datagram;

    if (length < DPDK_HEADER_SIZE || length > DPDK_DATAGRAM_MAX)
        return -EPROTO;
    out->kind = bytes[1];
    if (out->kind < DPDK_KIND_OPEN || out->kind > DPDK_KIND_CLOSE)
        return -EPROTO;
    /* These two keep their places in every version, so that another one can be refused by name. */
    if (bytes[0] != DPDK_VERSION && out->kind != DPDK_KIND_OPEN && out->kind != DPDK_KIND_REFUSE)
        return -EPROTO;
    out->id = gw_get_le32(bytes + 4);
    out->incarnation = gw_get_le32(bytes + 8);
    return 0;
}

void gw_dpdk_setup_encode(const struct dpdk_setup *setup, uint8_t out[DPDK_DATAGRAM_MIN])
{
    struct dpdk_header header = {.kind = setup->kind,
                                 .parts = 1,
                                 .id = setup->to_id,
                                 .incarnation = setup->to_incarnation,
                                 .length = DPDK_DATAGRAM_MIN - DPDK_HEADER_SIZE};

    memset(out, 0, DPDK_DATAGRAM_MIN);
    gw_dpdk_header_encode(&header, out);
    gw_put_le32(out + 24, setup->id);
    gw_put_le32(out + 28, setup->incarnation);
    memcpy(out + 32, setup->nonce, DPDK_NONCE_SIZE);
    gw_put_le16(out + 48, setup->port);
    gw_put_le16(out + 50, setup->max_length);
    gw_put_le32(out + 52, GW_WIRE_VERSION);
    if (setup->kind == DPDK_KIND_ACCEPT) {
        memcpy(out + DPDK_HEADER_SIZE, setup->answered, DPDK_NONCE_SIZE);
        return;
    }
    gw_put_le32(out + DPDK_HEADER_SIZE, setup->text_length);
    if (setup->text_length)
        memcpy(out + TEXT_OFFSET, setup->text, setup->text_length);
}

static int decode_setup(const uint8_t *datagram, uint32_t length, struct dpdk_setup *out)
{
    if (length != DPDK_DATAGRAM_MIN ||
        gw_get_le32(datagram + 12) != DPDK_DATAGRAM_MIN - DPDK_HEADER_SIZE)
        return gw_fail(-EPROTO, "dpdk: an opening datagram of %u bytes, %u were expected", length,
                       DPDK_DATAGRAM_MIN);
    memset(out, 0, sizeof(*out));
    out->kind = datagram[1];
    out->to_id = gw_get_le32(datagram + 4);
    out->to_incarnation = gw_get_le32(datagram + 8);
    out->id = gw_get_le32(datagram + 24);
    out->incarnation = gw_get_le32(datagram + 28);
    memcpy(out->nonce, datagram + 32, DPDK_NONCE_SIZE);
    out->port = gw_get_le16(datagram + 48);
    out->max_length = gw_get_le16(datagram + 50);
    return 0;
}

int gw_dpdk_open_decode(const void *datagram, uint32_t length, struct dpdk_open *out)
{
    const uint8_t *bytes = datagram;
    struct dpdk_setup setup;
    uint32_t hello_length;
    int rc = decode_setup(bytes, length, &setup);

    if (rc)
        return rc;
    hello_length = gw_get_le32(bytes + DPDK_HEADER_SIZE);
    if (setup.kind != DPDK_KIND_OPEN || setup.incarnation == 0 ||
        setup.max_length < DPDK_DATAGRAM_MIN || setup.max_length > DPDK_DATAGRAM_MAX ||
        hello_length > GW_HELLO_MAX)
        return gw_fail(-EPROTO, "dpdk: an OPEN with a hello of %u bytes and datagrams of %u",
                       hello_length, setup.max_length);
    out->id = setup.id;
    out->incarnation = setup.incarnation;
    memcpy(out->nonce, setup.nonce, sizeof(out->nonce));
    out->port = setup.port;
    out->max_length = setup.max_length;
    out->wire_version = gw_get_le32(bytes + 52);
    out->hello_length = hello_length;
    memset(out->hello, 0, sizeof(out->hello));
    memcpy(out->hello, bytes + TEXT_OFFSET, hello_length);
    memcpy(out->datagram, datagram, DPDK_DATAGRAM_MIN);
    return 0;
}

int gw_dpdk_accept_decode(const uint8_t *datagram, uint32_t length, struct dpdk_setup *out)
{
    int rc = decode_setup(datagram, length, out);

    if (rc)
        return rc;
    if (out->kind != DPDK_KIND_ACCEPT || datagram[0] != DPDK_VERSION || out->incarnation == 0 ||
        out->max_length < DPDK_DATAGRAM_MIN || out->max_length > DPDK_DATAGRAM_MAX)
        return gw_fail(-EPROTO, "dpdk: an ACCEPT with datagrams of %u bytes", out->max_length);
    memcpy(out->answered, datagram + DPDK_HEADER_SIZE, DPDK_NONCE_SIZE);
    return 0;
}

void gw_dpdk_refuse_encode(const struct dpdk_open *open, const char *reason,
                           uint8_t out[DPDK_DATAGRAM_MIN])
{
    struct dpdk_setup setup = {.kind = DPDK_KIND_REFUSE,
                               .to_id = open->id,
                               .to_incarnation = open->incarnation,
                               .text = reason,
                               .text_length = (uint32_t)strnlen(reason, GW_REASON_MAX - 1)};

    memcpy(setup.nonce, open->nonce, sizeof(setup.nonce));
    gw_dpdk_setup_encode(&setup, out);
}

int gw_dpdk_refuse_decode(const uint8_t *datagram, uint32_t length, struct dpdk_setup *out,
                          char reason[GW_REASON_MAX])
{
    uint32_t text_length;
    int rc = decode_setup(datagram, length, out);

    if (rc)
        return rc;
    text_length = gw_get_le32(datagram + DPDK_HEADER_SIZE);
    if (out->kind != DPDK_KIND_REFUSE || text_length >= GW_REASON_MAX)
        return gw_fail(-EPROTO, "dpdk: a REFUSE with a reason of %u bytes", text_length);
    for (uint32_t i = 0; i < text_length; i++) {
        uint8_t c = datagram[TEXT_OFFSET + i];

        reason[i] = c >= ' ' && c < 0x7f ? (char)c : '?';
    }
    reason[text_length] = '\0';
    return 0;
}
