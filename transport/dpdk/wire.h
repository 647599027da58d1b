/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The datagrams of a dpdk channel: layout, encoding, and the checks of what a stranger sent that
 * need no key. docs/dpdk-protocol.md draws them. Little endian.
 *
 * A datagram is the UDP payload: a header of 64 bytes, then up to DPDK_DATAGRAM_MAX - 64 bytes.
 *
 *    0  u8   version           DPDK_VERSION
 *    1  u8   kind              enum dpdk_kind
 *    2  u8   part, u8 parts    of a segment that was cut again for a smaller path; 0 of 1 else
 *    4  u32  id                of the receiver's choice
 *    8  u32  incarnation       of the receiver's choice
 *   12  u32  length            of what follows the header
 *   16  u64  packet number     from 1, never used twice in a direction of a channel
 *   24  32 bytes by kind
 *   56  8 bytes tag            over the header before it and the payload
 *
 *            WRITE                MESSAGE                      ACK
 *   24  u64  segment              segment                      first segment not yet received
 *   32  u64  key                  number, from 0               largest packet number received
 *   40  u64  offset in region     u32 offset, u32 total        messages that may be sent, in all
 *   48  u64  0                    0                            u32 delay, u32 marked
 *
 *   ACK's payload is a bitmap of DPDK_ACK_BYTES: bit i, from the lowest of the first byte, is
 *   packet number "largest - 511 + i".
 *   PROBE (24 to 55 are 0) has any payload of zeros: signs of life, and path MTU.
 *   CLOSE (24 to 55 are 0) has none.
 *
 *   OPEN, ACCEPT and REFUSE are DPDK_DATAGRAM_MIN long; their packet number is 0:
 *   24  u32  the sender's id       28  u32  the sender's incarnation
 *   32  16 bytes nonce of the sender (REFUSE: of the OPEN that it answers)
 *   48  u16  UDP port of the sender    50  u16  its max_length
 *   52  u32  wire version of transport.h
 *   64  OPEN: u32 length and bytes of the hello.  REFUSE: u32 length and bytes of the reason.
 *       ACCEPT: the nonce of the OPEN, 16 bytes.
 */
#ifndef GODWIT_TRANSPORT_DPDK_WIRE_H
#define GODWIT_TRANSPORT_DPDK_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/transport.h"

#define DPDK_VERSION     2u
#define DPDK_HEADER_SIZE 64u
#define DPDK_TAG_OFFSET  56u
#define DPDK_TAG_SIZE    8u
/* What every path is taken to carry: IPv6's least MTU, 1280, less its header and UDP's. */
#define DPDK_DATAGRAM_MIN 1232u
/* An MTU of 9216 with IPv4. */
#define DPDK_DATAGRAM_MAX 9188u
#define DPDK_ACK_BYTES    64u
#define DPDK_NONCE_SIZE   16u

enum dpdk_kind {
    DPDK_KIND_OPEN = 1,
    DPDK_KIND_ACCEPT,
    DPDK_KIND_REFUSE,
    DPDK_KIND_WRITE,
    DPDK_KIND_MESSAGE,
    DPDK_KIND_ACK,
    DPDK_KIND_PROBE,
    DPDK_KIND_CLOSE,
};

/* An OPEN that a listener keeps until somebody accepts or rejects it: read, but not yet
 * authenticated, since the secret is known at accept only. */
struct dpdk_open {
    uint32_t id, incarnation; /* of the dialling end */
    uint8_t nonce[DPDK_NONCE_SIZE];
    uint16_t port;
    uint16_t max_length;
    uint32_t wire_version; /* GW_WIRE_VERSION of the sender; another one is to be refused by name */
    uint32_t hello_length;
    uint8_t hello[GW_HELLO_MAX];
    uint8_t datagram[DPDK_DATAGRAM_MIN]; /* as it came, for its tag */
};

/* What any datagram's header says before it is authenticated. */
struct dpdk_name {
    unsigned kind;
    uint32_t id, incarnation;
};

/* -EPROTO, without a message, since anybody may send anything: not of this version and shape. */
int gw_dpdk_name_decode(const void *datagram, uint32_t length, struct dpdk_name *out);
int gw_dpdk_open_decode(const void *datagram, uint32_t length, struct dpdk_open *out);
/* The refusal of an OPEN, DPDK_DATAGRAM_MIN bytes. Nobody can authenticate it, since the secret is
 * not known to who refuses: it names the OPEN's nonce. */
void gw_dpdk_refuse_encode(const struct dpdk_open *open, const char *reason,
                           uint8_t out[DPDK_DATAGRAM_MIN]);

#endif
