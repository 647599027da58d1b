/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tcp channels say to each other; docs of the wire are here. All integers are little endian.
 *
 * Preamble, connecting side:      Answer, listening side:
 *    0  magic "godwit\r\n"           0  magic "godwit\r\n"
 *    8  u32 wire version             8  u32 wire version
 *   12  u32 hello length             12  u32 verdict (0 accepted, 1 refused, 2 other version)
 *   16  hello, 52 bytes              16  reason, 200 bytes, text that ends with 0
 *   68                              216
 * Magic and version keep their places in every version, and so does the whole answer.
 *
 * After them, in both directions, frames. A frame begins with a header:
 *    0  u8  type        1 writes, 2 message
 *    1  u8  flags       0
 *    2  u16 count       writes: 1 to 64; message: 0
 *    4  u32 length      of the first write (at most 4 MiB) or the message (at most 4096)
 *    8  u64 key         of the region; message: 0
 *   16  u64 offset      in the region; message: 0
 *   24
 * A frame of writes goes on with count - 1 more descriptors of the same layout (type 1, flags 0,
 * count 0), then with the bytes of all its writes in order; a message with its bytes. Anything else
 * ends the channel with -EPROTO.
 */
#ifndef GODWIT_TRANSPORT_TCP_WIRE_H
#define GODWIT_TRANSPORT_TCP_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/transport.h"

#define TCP_MAGIC       "godwit\r\n"
#define TCP_MAGIC_SIZE  8u
#define TCP_HEADER_SIZE 24u
#define TCP_BATCH_MAX   64u

#define TCP_PREAMBLE_SIZE (16u + GW_HELLO_MAX)
#define TCP_ANSWER_SIZE   (16u + GW_REASON_MAX)

enum tcp_frame_type { TCP_FRAME_WRITES = 1, TCP_FRAME_MESSAGE = 2 };
enum tcp_verdict { TCP_ACCEPTED = 0, TCP_REFUSED = 1, TCP_OTHER_VERSION = 2 };

struct tcp_header {
    enum tcp_frame_type type;
    uint16_t count;
    uint32_t length;
    uint64_t key, offset;
};

void gw_tcp_header_encode(const struct tcp_header *header, uint8_t to[TCP_HEADER_SIZE]);
/* -EPROTO with the field that is wrong. */
int gw_tcp_header_decode(const uint8_t from[TCP_HEADER_SIZE], struct tcp_header *out);
/* As above for the descriptors behind the header of a batch. */
int gw_tcp_descriptor_decode(const uint8_t from[TCP_HEADER_SIZE], struct tcp_header *out);

void gw_tcp_preamble_encode(const void *hello, uint32_t length, uint8_t to[TCP_PREAMBLE_SIZE]);
void gw_tcp_answer_encode(enum tcp_verdict verdict, const char *reason,
                          uint8_t to[TCP_ANSWER_SIZE]);

#endif
