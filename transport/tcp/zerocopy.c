/* SPDX-License-Identifier: Apache-2.0 */
/* MSG_ZEROCOPY for large writes that are not stable: the kernel pins the pages and says when it has
 * finished with them (Documentation/networking/msg_zerocopy.rst), and done() waits for that.
 * Whether it pays is decided at run time: a path that copies anyway (loopback, veth, some virtual
 * NICs) says so in the first notifications, and the channel goes back to copying for good. */
#include <errno.h>
#include <time.h>
#include <linux/errqueue.h>
#include <string.h>
#include <sys/socket.h>

#include "transport/tcp/tcp.h"

#define OPEN_CALLS_MAX 64u /* bits of finished */

void gw_tcp_zerocopy_open(struct tcp_channel *channel)
{
    const int on = 1;

    channel->sender.zerocopy.is_usable =
        setsockopt(channel->fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) == 0;
}

bool gw_tcp_zerocopy_is_open(const struct tcp_zerocopy *zerocopy)
{
    return zerocopy->next != zerocopy->first_open;
}

bool gw_tcp_zerocopy_has_finished(const struct tcp_zerocopy *zerocopy, uint32_t below)
{
    return (int32_t)(zerocopy->first_open - below) >= 0;
}

ssize_t gw_tcp_zerocopy_send(struct tcp_channel *channel, const struct msghdr *message, int flags)
{
    struct tcp_zerocopy *zerocopy = &channel->sender.zerocopy;
    ssize_t sent;

    if (!zerocopy->is_usable || zerocopy->next - zerocopy->first_open == OPEN_CALLS_MAX)
        return sendmsg(channel->fd, message, flags);
    sent = sendmsg(channel->fd, message, flags | MSG_ZEROCOPY);
    if (sent >= 0)
        zerocopy->next++;
    else if (errno == ENOBUFS) /* net.core.optmem_max or RLIMIT_MEMLOCK is used up for now */
        sent = sendmsg(channel->fd, message, flags);
    return sent;
}

/* Calls low to high are finished. The numbers wrap. */
static void note(struct tcp_zerocopy *zerocopy, uint32_t low, uint32_t high)
{
    for (uint32_t bit = 0; bit < OPEN_CALLS_MAX; bit++)
        if (zerocopy->first_open + bit - low <= high - low)
            zerocopy->finished |= 1ull << bit;
    while (zerocopy->finished & 1 && gw_tcp_zerocopy_is_open(zerocopy)) {
        zerocopy->finished >>= 1;
        zerocopy->first_open++;
    }
}

void gw_tcp_zerocopy_collect(struct tcp_channel *channel)
{
    struct tcp_zerocopy *zerocopy = &channel->sender.zerocopy;

    zerocopy->has_news = false;
    while (gw_tcp_zerocopy_is_open(zerocopy)) {
        char control[128];
        struct msghdr message = {.msg_control = control, .msg_controllen = sizeof(control)};

        if (recvmsg(channel->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return;
        for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part;
             part = CMSG_NXTHDR(&message, part)) {
            struct sock_extended_err cause;

            memcpy(&cause, CMSG_DATA(part), sizeof(cause));
            if (cause.ee_origin != SO_EE_ORIGIN_ZEROCOPY || cause.ee_errno != 0)
                continue;
            if (cause.ee_code & SO_EE_CODE_ZEROCOPY_COPIED)
                zerocopy->is_usable = false;
            note(zerocopy, cause.ee_info, cause.ee_data);
        }
    }
}
