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
 * version, and so does the whole answer. transport/rdma/connect.h encodes and decodes them.
 *
 * What a SEND begins with is in transport/rdma/header.h.
 */
#ifndef GODWIT_TRANSPORT_VERBS_WIRE_H
#define GODWIT_TRANSPORT_VERBS_WIRE_H

#include "transport/rdma/connect.h"

#define VERBS_REQUEST_SIZE 56u  /* rdma_connect(3): all that a request may carry */
#define VERBS_ANSWER_MAX   148u /* rdma_reject(3) */

static const struct gw_connect_form gw_verbs_form = {
    .magic = "gw", .request_max = VERBS_REQUEST_SIZE, .answer_max = VERBS_ANSWER_MAX};

#endif
