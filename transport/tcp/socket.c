/* SPDX-License-Identifier: Apache-2.0 */
/* Socket options: no delay, dead peers, congestion control. The sizes of the socket buffers are
 * left to the kernel, which tunes them to the path (setting them would end that). */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/tcp/tcp.h"

#define BACKLOG          256
#define KEEPALIVE_S      2 /* idle time before the first probe, and between probes */
#define KEEPALIVE_PROBES 4

static_assert((KEEPALIVE_PROBES + 1) * KEEPALIVE_S * 1000 == TCP_DEAD_PEER_MS,
              "idle and busy connections are given up after the same time");

static int set_number(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value));
}

/* Whether new interfaces get fq, which paces bbr; without it bbr runs at a fraction of the link. */
static bool has_fair_queue(void)
{
    char name[32] = "";
    int fd = open("/proc/sys/net/core/default_qdisc", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    if (read(fd, name, sizeof(name) - 1) < 0)
        name[0] = '\0';
    close(fd);
    return strcmp(name, "fq\n") == 0;
}

static int set_congestion(int fd, const char *name)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
}

static int choose_congestion(int fd, const char *asked, char chosen[TCP_CONGESTION_MAX])
{
    static const char *const fallbacks[] = {"cubic", "reno"};
    socklen_t size = TCP_CONGESTION_MAX - 1;

    if (asked && set_congestion(fd, asked) != 0)
        return gw_fail_errno(-errno, "tcp: congestion control '%s' was refused", asked);
    memset(chosen, 0, TCP_CONGESTION_MAX);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, chosen, &size) != 0)
        return gw_fail_errno(-errno, "tcp: the congestion control cannot be read");
    if (asked || strcmp(chosen, "bbr") != 0 || has_fair_queue())
        return 0;
    for (unsigned i = 0; i < 2; i++)
        if (set_congestion(fd, fallbacks[i]) == 0) {
            snprintf(chosen, TCP_CONGESTION_MAX, "%s", fallbacks[i]);
            break;
        }
    return 0;
}

int gw_tcp_socket_prepare(int fd, const char *congestion, char chosen[TCP_CONGESTION_MAX])
{
    if (set_number(fd, IPPROTO_TCP, TCP_NODELAY, 1) != 0 ||
        set_number(fd, SOL_SOCKET, SO_KEEPALIVE, 1) != 0 ||
        set_number(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S) != 0 ||
        set_number(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_S) != 0 ||
        set_number(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES) != 0)
        return gw_fail_errno(-errno, "tcp: a socket option was refused");
    return choose_congestion(fd, congestion, chosen);
}

int gw_tcp_socket_bind(int fd, const struct gw_address *local)
{
    char text[GW_ADDRESS_TEXT_MAX];

    if (bind(fd, (const struct sockaddr *)&local->storage, local->length) != 0)
        return gw_fail_errno(-errno, "tcp: cannot use the local address %s",
                             gw_address_format(local, text, sizeof(text)));
    return 0;
}

int gw_tcp_socket_listen(const struct gw_address *local, int *out_fd)
{
    char text[GW_ADDRESS_TEXT_MAX];
    int fd = socket(local->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error;

    if (fd < 0)
        return gw_fail_errno(-errno, "tcp: no socket to listen on");
    error = set_number(fd, SOL_SOCKET, SO_REUSEADDR, 1) != 0
                ? gw_fail_errno(-errno, "tcp: SO_REUSEADDR was refused")
                : gw_tcp_socket_bind(fd, local);
    if (!error && listen(fd, BACKLOG) != 0)
        error = gw_fail_errno(-errno, "tcp: cannot listen on %s",
                              gw_address_format(local, text, sizeof(text)));
    if (error) {
        close(fd);
        return error;
    }
    *out_fd = fd;
    return 0;
}

void gw_tcp_socket_names(int fd, struct gw_address *local, struct gw_address *peer)
{
    memset(local, 0, sizeof(*local));
    memset(peer, 0, sizeof(*peer));
    local->length = peer->length = sizeof(local->storage);
    getsockname(fd, (struct sockaddr *)&local->storage, &local->length);
    getpeername(fd, (struct sockaddr *)&peer->storage, &peer->length);
}
