/* SPDX-License-Identifier: Apache-2.0 */
/* The life and death of a channel; what it does while it lives is in send.c and receive.c. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/checked.h"
#include "transport/tcp/tcp.h"

struct tcp_channel *gw_tcp_channel_of(struct gw_channel *base)
{
    return gw_container_of(base, struct tcp_channel, base);
}

int gw_tcp_channel_new(const struct gw_channel_options *options, int fd, struct tcp_channel **out)
{
    struct tcp_channel *channel = calloc(1, sizeof(*channel));
    socklen_t size = TCP_CONGESTION_MAX - 1;

    if (!channel)
        return gw_fail(-ENOMEM, "tcp: no memory for a channel");
    channel->base.domain = options->domain;
    channel->base.context = options->context;
    channel->poller = gw_container_of(options->poller, struct tcp_poller, base);
    channel->number = options->number;
    channel->fd = fd;
    channel->receiver.is_open = true;
    channel->receiver.is_readable = true;
    gw_tcp_socket_names(fd, &channel->info.local, &channel->info.peer);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, channel->congestion, &size) != 0)
        channel->congestion[0] = '\0';
    gw_tcp_sender_init(channel);
    *out = channel;
    return 0;
}

int gw_tcp_channel_start(struct tcp_channel *channel)
{
    return gw_tcp_poller_add(channel->poller, channel);
}

void gw_tcp_channel_free(struct tcp_channel *channel)
{
    gw_tcp_sender_destroy(channel);
    close(channel->fd);
    free(channel);
}

void gw_tcp_channel_kill(struct tcp_channel *channel, int error)
{
    char peer[GW_ADDRESS_TEXT_MAX];

    if (error == -EPROTO) /* the peer learns of it at once, not when the owner closes */
        shutdown(channel->fd, SHUT_RDWR);
    if (channel->error.code)
        return;
    gw_address_format(&channel->info.peer, peer, sizeof(peer));
    channel->error.code = error;
    snprintf(channel->error.text, sizeof(channel->error.text), "tcp %s: %.400s", peer,
             gw_error_message());
}

void gw_tcp_close(struct gw_channel *base)
{
    struct tcp_channel *channel = gw_tcp_channel_of(base);
    struct tcp_sender *sender = &channel->sender;

    assert(!channel->poller->channels.is_served);
    gw_tcp_poller_remove(channel->poller, channel);
    if (sender->ops.count > sender->sent || gw_tcp_zerocopy_is_open(&sender->zerocopy)) {
        /* What is in the kernel refers to memory that its owner gets back now: it is dropped, and
         * the peer sees a reset instead of a stream that ends within a frame. */
        const struct linger none = {.l_onoff = 1, .l_linger = 0};

        setsockopt(channel->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    }
    /* So that a done() that posts again is refused. */
    gw_fail(-ECANCELED, "the channel was closed");
    gw_tcp_channel_kill(channel, -ECANCELED);
    gw_tcp_sender_cancel(channel, -ECANCELED);
    gw_tcp_channel_free(channel);
}

/* The fastest ways that this channel has used and not given up. */
static const char *method_name(const struct tcp_sender *sender)
{
    bool splices = sender->splicer.is_usable && sender->used_methods & 1u << TCP_SPLICE;
    bool pins = sender->zerocopy.is_usable && sender->used_methods & 1u << TCP_ZEROCOPY;

    if (splices)
        return pins ? "vmsplice+zerocopy" : "vmsplice";
    return pins ? "zerocopy" : "send";
}

void gw_tcp_info(struct gw_channel *base, struct gw_channel_info *out)
{
    struct tcp_channel *channel = gw_tcp_channel_of(base);
    char local[GW_ADDRESS_TEXT_MAX], peer[GW_ADDRESS_TEXT_MAX];

    gw_figures_read(&channel->info, out);
    gw_address_format(&out->local, local, sizeof(local));
    gw_address_format(&out->peer, peer, sizeof(peer));
    snprintf(out->description, sizeof(out->description), "tcp %.47s > %.47s, %s, %s", local, peer,
             channel->congestion, method_name(&channel->sender));
}
