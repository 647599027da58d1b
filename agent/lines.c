/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes bounded lines of JSON. It knows nothing of what they say. */
#include "agent/lines.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/error.h"

int gw_lines_init(struct gw_lines *lines, int fd)
{
    memset(lines, 0, sizeof(*lines));
    lines->fd = fd;
    lines->buffer = malloc(GW_LINE_MAX);
    return lines->buffer ? 0 : gw_fail(-ENOMEM, "out of memory");
}

void gw_lines_free(struct gw_lines *lines)
{
    free(lines->buffer);
    lines->buffer = NULL;
}

static int wait_for(int fd, short events, uint64_t deadline_ns, bool for_ever)
{
    struct pollfd item = {.fd = fd, .events = events};
    int count;

    do
        count = poll(&item, 1, for_ever ? -1 : gw_clock_left_ms(deadline_ns));
    while (count < 0 && errno == EINTR && (for_ever || gw_clock_left_ms(deadline_ns) > 0));
    if (count == 0 || (count < 0 && errno == EINTR))
        return gw_fail(-ETIMEDOUT, "the other end of the admin socket did not answer in time");
    return count < 0 ? gw_fail_errno(-errno, "poll") : 0;
}

static int parse_line(const char *text, size_t length, json_t **out)
{
    json_error_t fault;
    json_t *value = json_loadb(text, length, JSON_REJECT_DUPLICATES, &fault);

    if (!value)
        return gw_fail(-EBADMSG, "not a line of JSON: %s", fault.text);
    if (!json_is_object(value)) {
        json_decref(value);
        return gw_fail(-EBADMSG, "the line is JSON, but not an object");
    }
    *out = value;
    return 0;
}

static int take_line(struct gw_lines *lines, json_t **out)
{
    char *newline = memchr(lines->buffer + lines->scanned, '\n', lines->filled - lines->scanned);
    char *text = lines->buffer + lines->start;

    if (!newline) {
        lines->scanned = lines->filled;
        return -EAGAIN;
    }
    lines->start = lines->scanned = (size_t)(newline - lines->buffer) + 1;
    return parse_line(text, (size_t)(newline - text), out);
}

/* Moves what is left of the buffer to its front, so that a whole line fits behind it. */
static void compact(struct gw_lines *lines)
{
    memmove(lines->buffer, lines->buffer + lines->start, lines->filled - lines->start);
    lines->filled -= lines->start;
    lines->scanned -= lines->start;
    lines->start = 0;
}

int gw_lines_read(struct gw_lines *lines, int timeout_ms, json_t **out)
{
    uint64_t deadline = gw_clock_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * GW_NS_PER_MS;

    for (;;) {
        int error = take_line(lines, out);
        ssize_t got;

        if (error != -EAGAIN)
            return error;
        compact(lines);
        if (lines->filled == GW_LINE_MAX)
            return gw_fail(-EMSGSIZE, "a line is longer than %u bytes", GW_LINE_MAX);
        error = wait_for(lines->fd, POLLIN, deadline, timeout_ms < 0);
        if (error)
            return error;
        got = recv(lines->fd, lines->buffer + lines->filled, GW_LINE_MAX - lines->filled,
                   MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got <= 0)
            return gw_fail(-ECONNRESET, "the other end closed the admin socket");
        lines->filled += (size_t)got;
    }
}

static int write_all(int fd, const char *text, size_t length, uint64_t deadline)
{
    while (length) {
        ssize_t sent = send(fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0) {
            text += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN) {
            int error = wait_for(fd, POLLOUT, deadline, false);

            if (error)
                return error;
        } else if (errno != EINTR) {
            return gw_fail(-ECONNRESET, "the other end closed the admin socket");
        }
    }
    return 0;
}

int gw_lines_write(int fd, const json_t *value, int timeout_ms)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9));
    size_t length;
    int error;

    if (!text)
        return gw_fail(-ENOMEM, "out of memory");
    length = strlen(text);
    if (length + 1 > GW_LINE_MAX) {
        free(text);
        return gw_fail(-EMSGSIZE, "an answer of %zu bytes does not fit a line", length);
    }
    text[length] = '\n'; /* in place of the terminator */
    error = write_all(fd, text, length + 1, gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS);
    free(text);
    return error;
}
