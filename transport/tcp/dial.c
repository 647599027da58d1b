/* SPDX-License-Identifier: Apache-2.0 */
/* Connects: address, socket, preamble, answer, all within one deadline. */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "transport/tcp/tcp.h"

/* The kernel would only say that an argument is invalid. */
static int check_family(const struct gw_address *local, const struct gw_address *peer)
{
    char from[GW_ADDRESS_TEXT_MAX], to[GW_ADDRESS_TEXT_MAX];
    bool is_ipv6 = peer->storage.ss_family == AF_INET6;

    if (local->storage.ss_family == peer->storage.ss_family)
        return 0;
    return gw_fail(-EXDEV,
                   "tcp: no way leads from %s (%s) to %s (%s): name both hosts by addresses of one "
                   "family",
                   gw_address_format(local, from, sizeof(from)), is_ipv6 ? "IPv4" : "IPv6",
                   gw_address_format(peer, to, sizeof(to)), is_ipv6 ? "IPv6" : "IPv4");
}

static int open_socket(const struct gw_connect_options *options, int *out_fd)
{
    struct tcp_domain *domain = gw_container_of(options->channel.domain, struct tcp_domain, base);
    const struct gw_address *local = options->local;
    struct gw_address rail;
    int fd = socket(options->peer.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error;

    if (fd < 0)
        return gw_fail_errno(-errno, "tcp: no socket");
    if (!local && domain->has_local) {
        rail = domain->local;
        gw_address_set_port(&rail, 0);
        local = &rail;
    }
    error = local ? check_family(local, &options->peer) : 0;
    if (!error && local)
        error = gw_tcp_socket_bind(fd, local);
    if (error) {
        close(fd);
        return error;
    }
    *out_fd = fd;
    return 0;
}

static int wait_connected(int fd, const char *peer, uint64_t deadline_ns)
{
    struct pollfd descriptor = {.fd = fd, .events = POLLOUT};
    int cause = 0, count;
    socklen_t size = sizeof(cause);

    do
        count = poll(&descriptor, 1, gw_clock_left_ms(deadline_ns));
    while ((count < 0 && errno == EINTR) || (count == 0 && gw_clock_left_ms(deadline_ns) > 0));
    if (count <= 0)
        return gw_fail(-ETIMEDOUT, "tcp: %s did not answer in time", peer);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &size) != 0)
        cause = errno;
    return cause ? gw_fail_errno(-cause, "tcp: %s", peer) : 0;
}

static int introduce(int fd, const struct gw_connect_options *options, uint64_t deadline_ns)
{
    uint8_t preamble[TCP_PREAMBLE_SIZE];
    char peer[GW_ADDRESS_TEXT_MAX];
    int error;

    gw_address_format(&options->peer, peer, sizeof(peer));
    if (connect(fd, (const struct sockaddr *)&options->peer.storage, options->peer.length) != 0 &&
        errno != EINPROGRESS)
        return gw_fail_errno(-errno, "tcp: %s", peer);
    error = wait_connected(fd, peer, deadline_ns);
    if (error)
        return error;
    gw_tcp_preamble_encode(options->hello, options->hello_length, preamble);
    error = gw_tcp_send_all(fd, preamble, sizeof(preamble), deadline_ns);
    /* A peer that refused at once may have closed before the preamble was sent: its answer counts.
     */
    if (error && error != -EPIPE && error != -ECONNRESET)
        return error;
    return gw_tcp_receive_answer(fd, peer, deadline_ns);
}

int gw_tcp_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                   struct gw_channel **out)
{
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)options->channel.timeout_ms * GW_NS_PER_MS;
    char congestion[TCP_CONGESTION_MAX];
    struct tcp_channel *channel;
    int fd = -1, error = open_socket(options, &fd);

    if (error)
        return error;
    error = gw_tcp_socket_prepare(fd, options->channel.congestion, congestion);
    if (!error)
        error = introduce(fd, options, deadline_ns);
    if (!error)
        error = gw_tcp_channel_new(&options->channel, fd, &channel);
    if (error) {
        close(fd);
        return error;
    }
    error = gw_tcp_channel_start(channel);
    if (error)
        return error;
    *out = &channel->base;
    return 0;
}
