/* SPDX-License-Identifier: Apache-2.0 */
/* Notices a peer whose host is gone while bytes are on their way to it. TCP_USER_TIMEOUT would do
 * that too, but it also ends a connection whose peer is well and only slow to read (Linux counts a
 * closed window as no progress), and a back-pressure of ten seconds is no fault. So the kernel's
 * own account is looked at once a second: the peer is gone when probes or retransmissions stay
 * unanswered and no acknowledgement of any kind has come for TCP_DEAD_PEER_MS. Idle connections are
 * left to keepalive. */
#include <errno.h>

#include "transport/tcp/tcp.h"

/* A probe that was sent this moment is unanswered too: twice in a row, a second apart, is no
 * accident. */
#define STRIKES 2u

bool gw_tcp_watch_is_gone(int fd, unsigned *strikes)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return false;
    if ((info.tcpi_retransmits == 0 && info.tcpi_probes == 0) ||
        info.tcpi_last_ack_recv < TCP_DEAD_PEER_MS)
        *strikes = 0;
    else
        ++*strikes;
    if (*strikes < STRIKES)
        return false;
    gw_fail(-ETIMEDOUT, "the peer has not answered for %u s", info.tcpi_last_ack_recv / 1000);
    return true;
}
