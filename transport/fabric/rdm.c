/* SPDX-License-Identifier: Apache-2.0 */
/* Channels over endpoints that do not connect (FI_EP_RDM). fabric.h says how: writes go through such an
 * endpoint, all else over a channel of the tcp back end, whose life is this channel's life. Here is that
 * other channel's part: finding each other, messages out and in, and the end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "transport/fabric/channel.h"

struct rdm_listener {
    struct gw_listener base;
    struct gw_listener *messages;
};

struct rdm_request {
    struct gw_request base;
    struct gw_request *messages;
};

static struct rdm_listener *listener_of(struct gw_listener *base)
{
    return gw_container_of(base, struct rdm_listener, base);
}

static struct rdm_request *request_of(struct gw_request *base)
{
    return gw_container_of(base, struct rdm_request, base);
}

/* ---- listening ---- */

static int port_above(const struct gw_address *address, struct gw_address *out)
{
    unsigned port = gw_address_port(address);

    if (port >= UINT16_MAX)
        return gw_fail(-EINVAL, "fabric: port %u has no port above it for the provider", port);
    *out = *address;
    gw_address_set_port(out, (uint16_t)(port ? port + 1 : 0));
    return 0;
}

int gw_fabric_rdm_listen(struct gw_transport *transport, const struct gw_address *local,
                         struct gw_listener **out)
{
    struct rdm_listener *listener = calloc(1, sizeof(*listener));
    struct gw_address above;
    int error;

    if (!listener)
        return gw_fail(-ENOMEM, "fabric: no memory for a listener");
    listener->base.transport = transport;
    error = port_above(local, &above);
    if (!error)
        error = gw_listen(gw_fabric_transport_of(transport)->messages, &above, &listener->messages);
    if (error) {
        free(listener);
        return error;
    }
    *out = &listener->base;
    return 0;
}

void gw_fabric_rdm_unlisten(struct gw_listener *base)
{
    gw_unlisten(listener_of(base)->messages);
    free(listener_of(base));
}

int gw_fabric_rdm_listener_address(struct gw_listener *base, struct gw_address *out)
{
    int error = gw_listener_address(listener_of(base)->messages, out);

    if (!error)
        gw_address_set_port(out, (uint16_t)(gw_address_port(out) - 1));
    return error;
}

int gw_fabric_rdm_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    const struct fabric_transport *transport = gw_fabric_transport_of(base->transport);
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    struct rdm_request *request = calloc(1, sizeof(*request));
    int error;

    if (!request)
        return gw_fail(-ENOMEM, "fabric: no memory for a request");
    error = gw_next_request(listener_of(base)->messages, timeout_ms, &request->messages);
    while (!error && gw_fabric_is_question(request->messages)) {
        int left_ms;

        gw_fabric_answer(transport, request->messages);
        left_ms = gw_clock_left_ms(deadline_ns);
        /* Whoever asks without end does not keep the caller. */
        error = left_ms > 0
                    ? gw_next_request(listener_of(base)->messages, left_ms, &request->messages)
                    : gw_fail(-ETIMEDOUT, "fabric: no request came within %d ms", timeout_ms);
    }
    if (error) {
        free(request);
        return error;
    }
    request->base = *request->messages;
    request->base.transport = base->transport;
    *out = &request->base;
    return 0;
}

void gw_fabric_rdm_reject(struct gw_request *base, const char *reason)
{
    gw_reject(request_of(base)->messages, reason);
    free(request_of(base));
}

/* ---- connecting ---- */

/* Everything that can fail but the connection itself: once there is one it belongs to the poller's
 * thread. */
static int prepare(const struct gw_channel_options *options, const struct gw_address *local,
                   const struct gw_address *peer, struct fabric_channel **out)
{
    struct fabric_transport *transport = gw_fabric_transport_of(options->domain->transport);
    struct fi_info *info;
    int error = gw_fabric_find(transport, local, peer, &info);

    if (error)
        return error;
    free(info->dest_addr);
    info->dest_addr = NULL;
    info->dest_addrlen = 0;
    error = gw_fabric_channel_new(options, info, out);
    transport->library.freeinfo(info);
    if (!error) {
        error = gw_fabric_poller_watch((*out)->poller, *out);
        if (error)
            gw_fabric_channel_free(*out);
    }
    return error;
}

static void begin(struct fabric_channel *channel, struct gw_channel *messages,
                  const struct gw_address *peer)
{
    struct gw_channel_info info;

    channel->rdm->messages = messages;
    gw_channel_info(messages, &info);
    channel->rdm->host = info.peer;
    gw_fabric_channel_describe(channel, &info.local, peer);
    gw_fabric_life_add(channel->transport, channel); /* it watches no descriptor: cannot fail */
    gw_fabric_poller_offer(channel->poller, channel);
}

static struct gw_channel_options options_for(const struct gw_channel_options *options)
{
    struct gw_channel_options inner = *options;

    inner.domain = gw_fabric_domain_of(options->domain)->messages;
    inner.poller = gw_fabric_poller_of(options->poller)->messages;
    return inner;
}

/* A port that a firewall closes costs one dial its wait. */
static int agree(struct fabric_transport *transport, const struct gw_connect_options *options)
{
    int timeout_ms = (int)gw_min(options->channel.timeout_ms, FABRIC_AGREE_MS);
    int error = gw_fabric_agree(transport, options, timeout_ms);
    struct gw_error kept;

    if (error == 0 || error == -EXDEV)
        gw_fabric_trust(transport, &options->peer, FABRIC_MUTE);
    if (error == 0 || error == -EXDEV)
        return error;
    gw_error_take(error, &kept);
    if (error == -ETIMEDOUT)
        gw_fabric_doubt(transport, &options->peer, FABRIC_MUTE);
    return gw_fail(error, "fabric %s: %.300s; the agent there has to use that provider, too",
                   transport->provider, kept.text);
}

int gw_fabric_rdm_connect(struct gw_transport *base, const struct gw_connect_options *options,
                          struct gw_channel **out)
{
    struct fabric_transport *transport = gw_fabric_transport_of(base);
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)options->channel.timeout_ms * GW_NS_PER_MS;
    struct gw_connect_options inner = *options;
    struct fabric_channel *channel;
    struct gw_channel *connected;
    int error = port_above(&options->peer, &inner.peer);

    if (!error)
        error = gw_fabric_check_doubt(transport, &options->peer, options->channel.number != 0);
    if (!error)
        error = agree(transport, options);
    if (!error)
        error = prepare(&options->channel, options->local, &options->peer, &channel);
    if (error)
        return error;
    inner.channel = options_for(&options->channel);
    inner.channel.timeout_ms = gw_clock_left_ms(deadline_ns);
    error = gw_connect(transport->messages, &inner, &connected);
    if (error) {
        gw_fabric_channel_free(channel);
        return error;
    }
    begin(channel, connected, &options->peer);
    *out = &channel->base;
    return 0;
}

int gw_fabric_rdm_accept(struct gw_request *base, const struct gw_channel_options *options,
                         struct gw_channel **out)
{
    struct rdm_request *request = request_of(base);
    struct gw_channel_options inner = options_for(options);
    struct gw_address local = base->local, peer = base->peer;
    struct fabric_channel *channel;
    struct gw_channel *accepted;
    struct gw_error kept;
    int error;

    gw_address_set_port(&local, 0);
    error = prepare(options, &local, NULL, &channel);
    if (error) {
        gw_error_take(error, &kept);
        gw_fabric_rdm_reject(base, kept.text);
        return gw_error_raise(&kept);
    }
    error = gw_accept(request->messages, &inner, &accepted);
    free(request);
    if (error) {
        gw_fabric_channel_free(channel);
        return error;
    }
    begin(channel, accepted, &peer);
    *out = &channel->base;
    return 0;
}

/* ---- an endpoint, and where it is ---- */

int gw_fabric_rdm_open(struct fabric_channel *channel, const struct fi_info *info)
{
    struct fi_av_attr addresses = {.type = FI_AV_UNSPEC, .count = 1};
    struct fabric_rdm *rdm = channel->rdm = calloc(1, sizeof(*rdm));
    int answer;

    if (!rdm)
        return gw_fail(-ENOMEM, "fabric: no memory for a channel");
    rdm->format = info->addr_format;
    answer = fi_av_open(channel->domain->domain, &addresses, &rdm->av, NULL);
    if (answer == 0)
        answer = fi_ep_bind(channel->ep, &rdm->av->fid, 0);
    return answer ? gw_fabric_fail(channel->transport, answer, "no address vector") : 0;
}

static void told(struct gw_op *op, int status)
{
}

void gw_fabric_rdm_tell(struct fabric_channel *channel)
{
    struct fabric_rdm *rdm = channel->rdm;
    uint8_t name[FABRIC_NAME_MAX];
    size_t length = sizeof(name);
    int answer = fi_getname(&channel->ep->fid, name, &length);

    if (answer) {
        gw_fabric_channel_kill(channel, gw_fail(-EIO, "the endpoint has no address: %s",
                                                channel->transport->library.strerror(-answer)));
        return;
    }
    rdm->address = (struct gw_send){.op = {.done = told}, .message = rdm->address_bytes};
    rdm->address.length =
        gw_fabric_name_encode(rdm->format, name, (uint32_t)length, rdm->address_bytes);
    rdm->has_told = gw_send(rdm->messages, &rdm->address) == 0;
}

static bool has_our_form(const struct fabric_channel *channel, const struct fabric_name *name)
{
    uint8_t own[FABRIC_NAME_MAX];
    size_t length = sizeof(own);

    if (name->format != channel->rdm->format)
        return false;
    if (name->format == FI_ADDR_STR)
        return name->bytes[name->length - 1] == 0;
    return fi_getname(&channel->ep->fid, own, &length) == 0 && name->length == length;
}

/* An address of the host that is at the other end of the messages, where that can be told. */
static int judge(const struct fabric_channel *channel, const struct fabric_name *name)
{
    struct gw_address said = {0};

    if (!has_our_form(channel, name))
        return gw_fail(-EPROTO, "the peer's endpoint has an address of another form");
    if (!channel->transport->has_ip_addresses)
        return 0;
    memcpy(&said.storage, name->bytes, name->length);
    said.length = name->length;
    if (!gw_address_same_host(&said, &channel->rdm->host))
        return gw_fail(-EPROTO, "the peer says that its endpoint is on another host");
    return 0;
}

static int take_name(struct fabric_channel *channel, const struct gw_message *message)
{
    struct fabric_name name;
    int error = gw_fabric_name_decode(message->data, message->length, &name);

    if (!error)
        error = judge(channel, &name);
    if (!error && fi_av_insert(channel->rdm->av, name.bytes, 1, &channel->peer, 0, NULL) != 1)
        error = gw_fail(-EPROTO, "the provider does not take the address of the peer's endpoint");
    channel->rdm->knows_peer = error == 0;
    return error;
}

/* ---- messages out ---- */

static void complete(struct fabric_rdm_send *send, int status)
{
    send->work->is_complete = true;
    send->work->is_failed = status != 0;
    gw_fabric_sender_advance(send->sender);
}

static void header_done(struct gw_op *op, int status)
{
    struct fabric_rdm_send *send = gw_container_of(op, struct fabric_rdm_send, header.op);

    if (send->body.length == 0)
        complete(send, status);
}

static void body_done(struct gw_op *op, int status)
{
    complete(gw_container_of(op, struct fabric_rdm_send, body.op), status);
}

ssize_t gw_fabric_rdm_post(struct fabric_channel *channel, struct fabric_work *work,
                           const uint8_t *bytes, size_t length)
{
    struct fabric_sender *sender = &channel->sender;
    struct fabric_rdm_send *send = &channel->rdm->sends[work - sender->works];

    *send = (struct fabric_rdm_send){
        .sender = sender,
        .work = work,
        .header = {.op = {.done = header_done}, .message = bytes, .length = GW_SEND_HEADER_SIZE},
        .body = {.op = {.done = body_done},
                 .message = bytes + GW_SEND_HEADER_SIZE,
                 .length = (uint32_t)(length - GW_SEND_HEADER_SIZE)}};
    send->header.flags = send->body.length ? GW_POST_MORE : 0;
    /* A channel that is dead is noticed where messages come in: what had arrived is taken first. */
    if (gw_send(channel->rdm->messages, &send->header) != 0)
        return -FI_EAGAIN;
    if (send->body.length && gw_send(channel->rdm->messages, &send->body) != 0)
        gw_fabric_channel_kill_unexplained(channel);
    return 0;
}

/* ---- messages in ---- */

void gw_fabric_rdm_receive(struct fabric_channel *channel, unsigned buffer)
{
    struct fabric_rdm *rdm = channel->rdm;

    rdm->free_buffers[rdm->free_count++] = (uint8_t)buffer;
}

static int take_header(struct fabric_channel *channel, const struct gw_message *message)
{
    struct fabric_rdm *rdm = channel->rdm;

    if (message->length != GW_SEND_HEADER_SIZE)
        return gw_fail(-EPROTO, "the peer sent a message of %u bytes without a header",
                       message->length);
    if (rdm->free_count == 0)
        return gw_fail(-EPROTO, "the peer sent more messages than it had been allowed");
    /* It is this message's from here on: others become free before the body is there. */
    rdm->buffer = rdm->free_buffers[--rdm->free_count];
    channel->receiver.inbox.posted--;
    return 0;
}

/* A message of the back end comes in two of the other channel's: its header, and its body if it has one. */
static int take(struct fabric_channel *channel, const struct gw_message *message)
{
    struct fabric_rdm *rdm = channel->rdm;
    uint32_t before = rdm->has_header ? GW_SEND_HEADER_SIZE : 0;
    int error = rdm->has_header ? 0 : take_header(channel, message);
    uint8_t *at;

    if (error)
        return error;
    at = gw_inbox_buffer(&channel->receiver.inbox, rdm->buffer);
    if (message->length)
        memcpy(at + before, message->data, message->length);
    rdm->has_header = !rdm->has_header && gw_get_le32(at + 4) != 0;
    if (!rdm->has_header)
        gw_fabric_receiver_take(channel, rdm->buffer, before + message->length);
    return 0;
}

/* Returns how many there were. */
static unsigned absorb(struct fabric_channel *channel)
{
    struct gw_message message;
    unsigned count = 0;
    int error = 0;

    while (!channel->error.code) {
        error = gw_recv(channel->rdm->messages, &message);
        if (error)
            break;
        error = channel->rdm->knows_peer ? take(channel, &message) : take_name(channel, &message);
        count++;
        if (error)
            gw_fabric_channel_kill(channel, error);
    }
    if (channel->error.code || error == -EAGAIN)
        return count;
    if (error == -ECONNRESET || error == -EPIPE)
        gw_fabric_channel_kill_unexplained(channel);
    else
        gw_fabric_channel_kill(channel, error);
    return count;
}

void gw_fabric_rdm_absorb(struct fabric_channel *channel)
{
    absorb(channel);
}

void gw_fabric_rdm_hear_out(struct fabric_channel *channel)
{
    /* What the peer was allowed to send bounds it; the other channel holds less than that at once. */
    while (!channel->error.code) {
        /* Channels that this poll has been to may get something as well. */
        gw_waker_tell(&channel->poller->waker);
        gw_poll(channel->poller->messages, NULL, 0);
        if (absorb(channel) == 0)
            return;
    }
}

/* ---- the end ---- */

void gw_fabric_rdm_trust(struct fabric_channel *channel)
{
    if (!channel->rdm->has_written)
        gw_fabric_trust(channel->transport, &channel->rdm->host, FABRIC_TOOK_NO_WRITE);
    channel->rdm->has_written = true;
}

void gw_fabric_rdm_doubt(struct fabric_channel *channel)
{
    if (channel->rdm && !channel->rdm->has_written && !channel->error.code)
        gw_fabric_doubt(channel->transport, &channel->rdm->host, FABRIC_TOOK_NO_WRITE);
}

void gw_fabric_rdm_end(struct fabric_channel *channel)
{
    gw_close(channel->rdm->messages);
    channel->rdm->messages = NULL;
}

void gw_fabric_rdm_free(struct fabric_channel *channel)
{
    if (channel->rdm && channel->rdm->av)
        fi_close(&channel->rdm->av->fid);
    free(channel->rdm);
}
