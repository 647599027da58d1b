/* SPDX-License-Identifier: Apache-2.0 */
/* The connecting side's half of the opening talk, which may block until its deadline. The listening
 * half, which must serve many strangers at once, is in listen.c. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/clock.h"
#include "transport/tcp/tcp.h"

static int wait_for(int fd, short events, uint64_t deadline_ns)
{
    struct pollfd descriptor = {.fd = fd, .events = events};

    for (;;) {
        int count = poll(&descriptor, 1, gw_clock_left_ms(deadline_ns));

        if (count > 0)
            return 0;
        if (count < 0 && errno != EINTR)
            return gw_fail_errno(-errno, "tcp: poll");
        if (count == 0 && gw_clock_left_ms(deadline_ns) == 0)
            return gw_fail(-ETIMEDOUT, "tcp: the peer did not answer in time");
    }
}

int gw_tcp_send_all(int fd, const void *bytes, size_t size, uint64_t deadline_ns)
{
    const char *at = bytes;

    while (size > 0) {
        ssize_t count = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        int error;

        if (count > 0) {
            at += count;
            size -= (size_t)count;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return gw_fail_errno(-errno, "tcp: sending the preamble");
        error = wait_for(fd, POLLOUT, deadline_ns);
        if (error)
            return error;
    }
    return 0;
}

static int judge(const uint8_t answer[TCP_ANSWER_SIZE], const char *peer)
{
    uint32_t version = gw_get_le32(answer + 8), verdict = gw_get_le32(answer + 12);
    char reason[GW_REASON_MAX + 1] = "";

    memcpy(reason, answer + 16, GW_REASON_MAX);
    for (char *at = reason; *at; at++)
        if (*at < ' ' || *at == 0x7f)
            *at = '?'; /* the text goes to a terminal */
    if (verdict == TCP_OTHER_VERSION || version != GW_WIRE_VERSION)
        return gw_fail(-EPROTO,
                       "%s speaks wire version %u, this side %u: install the same godwit on both",
                       peer, version, GW_WIRE_VERSION);
    if (verdict == TCP_REFUSED)
        return gw_fail(-ECONNREFUSED, "%s refused: %s", peer, reason);
    if (verdict != TCP_ACCEPTED)
        return gw_fail(-EPROTO, "%s gave the verdict %u, which has no meaning", peer, verdict);
    return 0;
}

int gw_tcp_receive_answer(int fd, const char *peer, uint64_t deadline_ns)
{
    uint8_t answer[TCP_ANSWER_SIZE];
    size_t have = 0;

    while (have < sizeof(answer)) {
        ssize_t count;
        int error = wait_for(fd, POLLIN, deadline_ns);

        if (error)
            return error == -ETIMEDOUT ? gw_fail(error, "%s did not answer in time", peer) : error;
        count = recv(fd, answer + have, sizeof(answer) - have, MSG_DONTWAIT);
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (count < 0 && errno != ECONNRESET)
            return gw_fail_errno(-errno, "%s", peer);
        if (count <= 0)
            return gw_fail(-ECONNREFUSED, "%s closed the connection before it answered", peer);
        have += (size_t)count;
        /* Something else that listens there shows at its first bytes. */
        if (memcmp(answer, TCP_MAGIC, gw_min(have, TCP_MAGIC_SIZE)) != 0)
            return gw_fail(-EPROTO, "%s is not a godwit", peer);
    }
    return judge(answer, peer);
}
