/* SPDX-License-Identifier: Apache-2.0 */
/* What core.c and its neighbours need of the layout (wire.h) besides what drivers do. */
#ifndef GODWIT_TRANSPORT_DPDK_WIRE_PRIVATE_H
#define GODWIT_TRANSPORT_DPDK_WIRE_PRIVATE_H

#include "transport/dpdk/wire.h"

/* What stands in fields, by kind. */
enum dpdk_write_field { DPDK_SEGMENT = 0, DPDK_KEY = 1, DPDK_OFFSET = 2 };
enum dpdk_message_field { DPDK_MESSAGE = 1 }; /* DPDK_OFFSET: u32 offset, u32 total */
enum dpdk_ack_field {
    DPDK_ACK_SEGMENT = 0,
    DPDK_ACK_LARGEST = 1,
    DPDK_ACK_MESSAGES = 2,
    DPDK_ACK_TIMES = 3, /* u32 delay in ns, u32 datagrams that arrived marked */
};

struct dpdk_header {
    unsigned kind;
    uint8_t part, parts;
    uint32_t id, incarnation;
    uint32_t length;
    uint64_t number;
    uint64_t fields[4];
};

/* The tag is left 0. */
void gw_dpdk_header_encode(const struct dpdk_header *header, uint8_t out[DPDK_HEADER_SIZE]);
/* -EPROTO, without a message: the data path drops it. The kind is not looked at. */
int gw_dpdk_header_decode(const uint8_t *datagram, uint32_t length, struct dpdk_header *out);

/* OPEN, ACCEPT and REFUSE. */
struct dpdk_setup {
    unsigned kind;
    uint32_t to_id, to_incarnation; /* 0 in an OPEN */
    uint32_t id, incarnation;
    uint8_t nonce[DPDK_NONCE_SIZE];
    uint16_t port, max_length;
    uint8_t answered[DPDK_NONCE_SIZE]; /* ACCEPT: of the OPEN */
    const char *text;                  /* OPEN: the hello. REFUSE: the reason. For encode only */
    uint32_t text_length;
};

void gw_dpdk_setup_encode(const struct dpdk_setup *setup, uint8_t out[DPDK_DATAGRAM_MIN]);
int gw_dpdk_accept_decode(const uint8_t *datagram, uint32_t length, struct dpdk_setup *out);
/* reason comes printable and terminated. */
int gw_dpdk_refuse_decode(const uint8_t *datagram, uint32_t length, struct dpdk_setup *out,
                          char reason[GW_REASON_MAX]);

#endif
