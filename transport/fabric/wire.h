/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What fabric channels say to each other when they connect. A provider of connected endpoints carries
 * at least 55 bytes with a request and as many with its answer (verbs: the 56 of rdmacm, less one of
 * libfabric's own).
 *
 * Data of a connection request:              Data of an acceptance or a refusal:
 *    0  u8 'g'                                  0  u8 'g'
 *    1  u8 wire version                         1  u8 wire version
 *    2  u8 length of the hello                  2  u8 verdict (0 accepted, 1 refused, 2 other version)
 *    3  hello, at most 52 bytes                 3  refused: reason, text, at most 52 bytes
 *
 * What a message begins with is in transport/rdma/header.h.
 *
 * Errors: -EPROTO with the field that is wrong. Everything here is pure.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_FABRIC_WIRE_H
#define GODWIT_TRANSPORT_FABRIC_WIRE_H

#include <stdint.h>

#include "transport/transport.h"

#define FABRIC_CONNECT_DATA_MAX 55u

struct fabric_request {
    unsigned version;      /* of the peer; the rest is there only when it is GW_WIRE_VERSION */
    uint32_t hello_length; /* at most GW_HELLO_MAX */
    uint8_t hello[GW_HELLO_MAX];
};

enum fabric_verdict { FABRIC_ACCEPTED = 0, FABRIC_REFUSED = 1, FABRIC_OTHER_VERSION = 2 };

struct fabric_answer {
    unsigned version;
    enum fabric_verdict verdict;
    char reason[FABRIC_CONNECT_DATA_MAX]; /* printable */
};

/* Both return the length, at most FABRIC_CONNECT_DATA_MAX; a longer reason is cut. */
uint32_t gw_fabric_request_encode(const void *hello, uint32_t length,
                                  uint8_t to[FABRIC_CONNECT_DATA_MAX]);
uint32_t gw_fabric_answer_encode(enum fabric_verdict verdict, const char *reason,
                                 uint8_t to[FABRIC_CONNECT_DATA_MAX]);
/* Bytes behind the end, which a device may fill up with, are ignored. */
int gw_fabric_request_decode(const uint8_t *from, uint32_t length, struct fabric_request *out);
int gw_fabric_answer_decode(const uint8_t *from, uint32_t length, struct fabric_answer *out);

#endif
