/* SPDX-License-Identifier: Apache-2.0 */
/*
 * header: what a SEND of a channel begins with, where a device delivers messages into posted
 * receives. All integers are little endian.
 *
 *    0  u8  type      1 message, 2 credit, 3 ask, 4 tell
 *    1  u8  0
 *    2  u16 credits   receives that are free again
 *    4  u32 length    of what follows: a message of at most 4096; credit: 0; ask: 8; tell: 24
 *    8  u64 written   bytes of all writes that this side has posted before it
 *   16
 *
 * Each side has 32 receives for messages, and two for credits. A message needs a credit: both sides
 * begin with 32, and get them back in the headers of the other side's messages, or in a credit of
 * its own once 16 or more are free. A credit needs none, and never more than two are on their way.
 * Ask and tell are of fabric alone, need none either, and of each at most one is on its way.
 *
 * Errors: -EPROTO with the field that is wrong. Everything here is pure.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_RDMA_HEADER_H
#define GODWIT_TRANSPORT_RDMA_HEADER_H

#include <stdint.h>

#include "transport/transport.h"

#define GW_SEND_HEADER_SIZE 16u
#define GW_SEND_SIZE_MAX    (GW_SEND_HEADER_SIZE + GW_MESSAGE_MAX)
#define GW_SEND_ASK_SIZE    8u /* u64 key of a region, as the peer's gw_region has it */
#define GW_SEND_TELL_SIZE                                                                          \
    24u /* u64 that key, u64 address of its first byte, u64 the device's key */

enum gw_send_type { GW_SEND_MESSAGE = 1, GW_SEND_CREDIT = 2, GW_SEND_ASK = 3, GW_SEND_TELL = 4 };

struct gw_send_header {
    enum gw_send_type type;
    unsigned credits;
    uint32_t length;
    uint64_t written;
};

void gw_send_header_encode(const struct gw_send_header *header, uint8_t to[GW_SEND_HEADER_SIZE]);
/* from holds length bytes that arrived as one message, header included. */
int gw_send_header_decode(const uint8_t *from, uint32_t length, struct gw_send_header *out);

#endif
