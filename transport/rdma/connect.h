/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect: what both sides say to each other when they connect, where the network's own means of
 * connecting carries a few bytes with a request and with its answer.
 *
 *   request   magic, u8 wire version, u8 length of the hello, hello
 *   answer    magic, u8 wire version, u8 verdict, refused: reason, text
 *
 * Back ends differ in the magic, which has one or two bytes, and in how much there is room for:
 * transport/verbs/wire.h and transport/fabric/wire.h draw theirs. The version keeps its place for ever,
 * and so does the whole answer. Bytes behind the end, which a device may fill up with, are ignored.
 *
 * Errors: -EPROTO with the field that is wrong. Everything here is pure.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_RDMA_CONNECT_H
#define GODWIT_TRANSPORT_RDMA_CONNECT_H

#include "transport/transport.h"

/* What one back end's data look like. */
struct gw_connect_form {
    const char *magic;
    uint32_t request_max, answer_max; /* a hello of any length fits; a reason is cut */
};

struct gw_connect_request {
    unsigned version;      /* of the peer; the rest is there only when it is GW_WIRE_VERSION */
    uint32_t hello_length; /* at most GW_HELLO_MAX */
    uint8_t hello[GW_HELLO_MAX];
};

enum gw_connect_verdict {
    GW_CONNECT_ACCEPTED = 0,
    GW_CONNECT_REFUSED = 1,
    GW_CONNECT_OTHER_VERSION = 2
};

struct gw_connect_answer {
    unsigned version;
    enum gw_connect_verdict verdict;
    char reason[GW_REASON_MAX]; /* printable */
};

/* Both return how long it is. to has room for form->request_max bytes, the rest of which are zeroes;
 * or for form->answer_max, the rest of which stay as they are. */
uint32_t gw_connect_request_encode(const struct gw_connect_form *form, const void *hello,
                                   uint32_t length, uint8_t *to);
uint32_t gw_connect_answer_encode(const struct gw_connect_form *form,
                                  enum gw_connect_verdict verdict, const char *reason, uint8_t *to);
int gw_connect_request_decode(const struct gw_connect_form *form, const uint8_t *from,
                              uint32_t length, struct gw_connect_request *out);
int gw_connect_answer_decode(const struct gw_connect_form *form, const uint8_t *from,
                             uint32_t length, struct gw_connect_answer *out);

#endif
