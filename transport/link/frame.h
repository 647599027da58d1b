/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame: the control session's frames inside the TLS stream, whatever pieces they arrive in.
 *
 *   u32 length (little endian, of what follows the type), u8 type, bytes
 *
 * type 1 is a JSON object in UTF-8, type 2 raw bytes; length is at most GW_CONTROL_FRAME_MAX. Type 3
 * is a sign of life: u32 milliseconds until the next one at the latest, 0 when none is promised.
 *
 * Errors: -EPROTO with a message for what is no frame of ours; the stream is lost then. -ENOMEM.
 * Threads: one at a time.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_FRAME_H
#define GODWIT_TRANSPORT_LINK_FRAME_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define GW_FRAME_HEADER_SIZE 5u
#define GW_JSON_DEPTH_MAX    32u     /* nested objects and arrays */
#define GW_JSON_VALUES_MAX   131072u /* values in one object: what it may cost in memory */

#define GW_FRAME_ALIVE_SIZE 4u

enum gw_frame_type { GW_FRAME_JSON = 1, GW_FRAME_BYTES = 2, GW_FRAME_ALIVE = 3 };

struct gw_frame_reader {
    uint8_t header[GW_FRAME_HEADER_SIZE];
    uint32_t have; /* bytes of the header and the body so far */
    uint32_t length;
    uint8_t *body; /* grows as bytes arrive, so that a length alone costs nothing */
    size_t room;
};

void gw_frame_header_write(enum gw_frame_type type, uint32_t length, uint8_t *out);

/* Zeroed memory is a reader. */
void gw_frame_reader_free(struct gw_frame_reader *reader);
/* Where the next bytes go, and how many at most (never 0 while no frame is complete). */
int gw_frame_want(struct gw_frame_reader *reader, void **out, size_t *room);
/* count bytes are there. 1: a frame is complete; 0: more is wanted. */
int gw_frame_add(struct gw_frame_reader *reader, size_t count);
enum gw_frame_type gw_frame_type(const struct gw_frame_reader *reader);
/* Makes room for the next frame; the body stays lent until the next gw_frame_want. */
void gw_frame_next(struct gw_frame_reader *reader);

/* Bytes of a peer as a JSON object: bounded in depth and values, no duplicate keys. */
int gw_frame_parse(const void *bytes, size_t length, json_t **out);

#endif
