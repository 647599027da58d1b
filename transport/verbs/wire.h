/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What verbs channels say to each other beside the writes. All integers are little endian.
 *
 * Private data of a connection request:     Private data of an acceptance or a refusal:
 *    0  'g' 'w'                                0  'g' 'w'
 *    2  u8 wire version                        2  u8 wire version
 *    3  u8 length of the hello                 3  u8 verdict (0 accepted, 1 refused, 2 other version)
 *    4  hello, 52 bytes                        4  refused: reason, text, at most 144 bytes
 *   56                                       148
 * Devices fill up with zeroes to their own size. The first four bytes keep their places in every
 * version, and so does the whole answer.
 *
 * What a SEND begins with is in transport/rdma/header.h.
 *
 * Errors: -EPROTO with the field that is wrong. Everything here is pure.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_VERBS_WIRE_H
#define GODWIT_TRANSPORT_VERBS_WIRE_H

#include <stdint.h>

#include "transport/transport.h"

#define VERBS_REQUEST_SIZE 56u  /* rdma_connect(3): all that a request may carry */
#define VERBS_ANSWER_MAX   148u /* rdma_reject(3) */

struct verbs_request {
    unsigned version;      /* of the peer; the rest is there only when it is GW_WIRE_VERSION */
    uint32_t hello_length; /* at most GW_HELLO_MAX */
    uint8_t hello[GW_HELLO_MAX];
};

enum verbs_verdict { VERBS_ACCEPTED = 0, VERBS_REFUSED = 1, VERBS_OTHER_VERSION = 2 };

struct verbs_answer {
    unsigned version;
    enum verbs_verdict verdict;
    char reason[GW_REASON_MAX]; /* printable */
};

void gw_verbs_request_encode(const void *hello, uint32_t length, uint8_t to[VERBS_REQUEST_SIZE]);
int gw_verbs_request_decode(const uint8_t *from, uint32_t length, struct verbs_request *out);
/* Returns the length, at most VERBS_ANSWER_MAX; a longer reason is cut. */
uint32_t gw_verbs_answer_encode(enum verbs_verdict verdict, const char *reason,
                                uint8_t to[VERBS_ANSWER_MAX]);
int gw_verbs_answer_decode(const uint8_t *from, uint32_t length, struct verbs_answer *out);

#endif
