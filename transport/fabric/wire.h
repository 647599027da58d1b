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
 * transport/rdma/connect.h encodes and decodes them. What a message begins with is in
 * transport/rdma/header.h.
 */
#ifndef GODWIT_TRANSPORT_FABRIC_WIRE_H
#define GODWIT_TRANSPORT_FABRIC_WIRE_H

#include "transport/rdma/connect.h"

#define FABRIC_CONNECT_DATA_MAX 55u

static const struct gw_connect_form gw_fabric_form = {
    .magic = "g", .request_max = FABRIC_CONNECT_DATA_MAX, .answer_max = FABRIC_CONNECT_DATA_MAX};

#endif
