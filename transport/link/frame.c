/* SPDX-License-Identifier: Apache-2.0 */
/* Takes frames apart that come from a peer, in any pieces, within bounds. It knows nothing of their
 * meaning. */
#include "transport/link/frame.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/link/control.h"

#define FIRST_ROOM 4096u

void gw_frame_header_write(enum gw_frame_type type, uint32_t length, uint8_t *out)
{
    gw_put_le32(out, length);
    out[4] = (uint8_t)type;
}

void gw_frame_reader_free(struct gw_frame_reader *reader)
{
    free(reader->body);
    memset(reader, 0, sizeof(*reader));
}

int gw_frame_want(struct gw_frame_reader *reader, void **out, size_t *room)
{
    uint32_t have_body;

    if (reader->have < GW_FRAME_HEADER_SIZE) {
        *out = reader->header + reader->have;
        *room = GW_FRAME_HEADER_SIZE - reader->have;
        return 0;
    }
    have_body = reader->have - GW_FRAME_HEADER_SIZE;
    if (have_body == reader->room) {
        size_t bigger = reader->room ? 4 * reader->room : FIRST_ROOM;
        uint8_t *body;

        if (bigger > reader->length)
            bigger = reader->length;
        body = realloc(reader->body, bigger);
        if (!body)
            return gw_fail(-ENOMEM, "no memory for a frame of %u bytes", reader->length);
        reader->body = body;
        reader->room = bigger;
    }
    *out = reader->body + have_body;
    *room = (reader->room < reader->length ? reader->room : reader->length) - have_body;
    return 0;
}

int gw_frame_add(struct gw_frame_reader *reader, size_t count)
{
    bool had_header = reader->have >= GW_FRAME_HEADER_SIZE;

    reader->have += (uint32_t)count;
    if (!had_header && reader->have == GW_FRAME_HEADER_SIZE) {
        uint8_t type = reader->header[4];

        reader->length = gw_get_le32(reader->header);
        if (type == GW_FRAME_ALIVE && reader->length != GW_FRAME_ALIVE_SIZE)
            return gw_fail(-EPROTO, "the peer sent a sign of life of %u bytes", reader->length);
        if (type != GW_FRAME_JSON && type != GW_FRAME_BYTES && type != GW_FRAME_ALIVE)
            return gw_fail(-EPROTO, "the peer sent a frame of the unknown type %u", type);
        if (reader->length > GW_CONTROL_FRAME_MAX)
            return gw_fail(-EPROTO, "the peer sent a frame of %u bytes, more than %u",
                           reader->length, GW_CONTROL_FRAME_MAX);
    }
    return reader->have >= GW_FRAME_HEADER_SIZE &&
           reader->have - GW_FRAME_HEADER_SIZE == reader->length;
}

enum gw_frame_type gw_frame_type(const struct gw_frame_reader *reader)
{
    return (enum gw_frame_type)reader->header[4];
}

void gw_frame_next(struct gw_frame_reader *reader)
{
    reader->have = 0;
    reader->length = 0;
}

/* Counts before anything is built, because the parser's own limit on depth is far beyond ours and
 * it has none on the number of values. */
static int check_bounds(const uint8_t *bytes, size_t length)
{
    unsigned depth = 0, values = 0;
    bool in_string = false;

    for (size_t i = 0; i < length; i++) {
        uint8_t c = bytes[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            continue;
        }
        if (c == '"')
            in_string = true;
        else if (c == '[' || c == '{')
            depth++, values++;
        else if (c == ',')
            values++;
        else if ((c == ']' || c == '}') && depth > 0)
            depth--;
        if (depth > GW_JSON_DEPTH_MAX)
            return gw_fail(-EPROTO, "the peer's message is nested deeper than %u",
                           GW_JSON_DEPTH_MAX);
        if (values > GW_JSON_VALUES_MAX)
            return gw_fail(-EPROTO, "the peer's message has more than %u values",
                           GW_JSON_VALUES_MAX);
    }
    return 0;
}

int gw_frame_parse(const void *bytes, size_t length, json_t **out)
{
    json_error_t error;
    json_t *value;
    int rc = check_bounds(bytes, length);

    if (rc)
        return rc;
    value = json_loadb(bytes, length, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        return gw_fail(-EPROTO, "the peer's message is no JSON (%s, at byte %d)", error.text,
                       error.position);
    if (!json_is_object(value)) {
        json_decref(value);
        return gw_fail(-EPROTO, "the peer's message is no JSON object");
    }
    *out = value;
    return 0;
}
