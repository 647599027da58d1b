/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lines: JSON objects, one a line, over a UNIX socket: the admin protocol's framing, for both of
 * its ends. docs/admin-protocol.md lists the requests.
 *
 * Errors: -ETIMEDOUT; -ECONNRESET when the other end is gone; -EMSGSIZE for a line beyond
 *   GW_LINE_MAX; -EBADMSG for a line that is not one JSON object. After any but -ETIMEDOUT the
 *   stream is of no more use.
 * Order: lines arrive whole, in order.
 * Threads: one per object.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_AGENT_LINES_H
#define GODWIT_AGENT_LINES_H

#include <jansson.h>
#include <stddef.h>

#define GW_LINE_MAX (1u << 20) /* a request or an answer, its newline included */

struct gw_lines {
    int fd; /* lent */
    size_t filled, scanned, start;
    char *buffer;
};

int gw_lines_init(struct gw_lines *lines, int fd);
void gw_lines_free(struct gw_lines *lines);
/* The next object; the caller decrefs. timeout_ms -1 waits for ever. */
int gw_lines_read(struct gw_lines *lines, int timeout_ms, json_t **out);
/* Writes the value (lent) and a newline. The other end has timeout_ms to make room for it. */
int gw_lines_write(int fd, const json_t *value, int timeout_ms);

#endif
