/* SPDX-License-Identifier: Apache-2.0 */
/* Sends. Posted ops wait in one list; a burst frames as many of them as one sendmsg may carry:
 * batches of writes under one header, messages, and at its end perhaps writes whose payload goes a
 * faster way than by copying. Ops are finished in the order of posting. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "common/checked.h"
#include "transport/tcp/tcp.h"

static_assert(TCP_BURST_HEADERS >= TCP_BATCH_MAX, "a whole batch fits into a burst");
static_assert(TCP_BURST_VECTORS > TCP_BATCH_MAX, "a whole batch fits into a burst");
static_assert(TCP_BATCH_MAX <= UINT8_MAX, "completes[] counts the ops of a batch");

void gw_tcp_sender_init(struct tcp_channel *channel)
{
    struct tcp_sender *sender = &channel->sender;

    sender->is_writable = true;
    gw_op_queue_init(&sender->ops);
}

void gw_tcp_sender_destroy(struct tcp_channel *channel)
{
    gw_tcp_splicer_close(&channel->sender.splicer);
}

static bool has_burst(const struct tcp_sender *sender)
{
    return sender->burst.at < sender->burst.count;
}

static bool can_send(const struct tcp_channel *channel)
{
    const struct tcp_sender *sender = &channel->sender;

    return !channel->error.code && sender->is_writable && (has_burst(sender) || sender->unframed);
}

/* The kernel no longer needs the memory of the first op, which it has taken whole. */
static bool first_is_finished(const struct tcp_sender *sender)
{
    return gw_tcp_zerocopy_has_finished(&sender->zerocopy, (uint32_t)sender->ops.first->scratch[1]);
}

static bool can_finish(const struct tcp_channel *channel)
{
    const struct tcp_sender *sender = &channel->sender;

    if (channel->error.code)
        return sender->ops.count > 0;
    return sender->zerocopy.has_news || (sender->sent > 0 && first_is_finished(sender));
}

bool gw_tcp_sender_can_run(const struct tcp_channel *channel)
{
    return can_send(channel) || can_finish(channel);
}

/* ---- framing ---- */

static struct gw_write *as_write(struct gw_op *op)
{
    return op && op->scratch[0] == TCP_OP_WRITE ? gw_container_of(op, struct gw_write, op) : NULL;
}

static void add_vector(struct tcp_burst *burst, const void *memory, size_t length,
                       uint8_t completes)
{
    burst->vectors[burst->count] = (struct iovec){(void *)memory, length};
    burst->completes[burst->count++] = completes;
}

static void frame_message(struct tcp_sender *sender)
{
    struct tcp_burst *burst = &sender->burst;
    struct gw_send *send = gw_container_of(sender->unframed, struct gw_send, op);
    const struct tcp_header header = {.type = TCP_FRAME_MESSAGE, .length = send->length};

    gw_tcp_header_encode(&header, burst->headers[burst->header_count]);
    add_vector(burst, burst->headers[burst->header_count++], TCP_HEADER_SIZE, send->length == 0);
    if (send->length)
        add_vector(burst, send->message, send->length, 1);
    sender->unframed = send->op.next;
}

static enum tcp_method method_of(const struct tcp_sender *sender, const struct gw_write *write)
{
    if (write->length < TCP_LARGE_WRITE)
        return TCP_COPY;
    if (write->flags & GW_POST_STABLE && sender->splicer.is_usable)
        return TCP_SPLICE;
    return sender->zerocopy.is_usable ? TCP_ZEROCOPY : TCP_COPY;
}

/* How many of the next ops make one frame of writes that go the same way. */
static unsigned batch_length(const struct tcp_sender *sender, enum tcp_method method)
{
    const struct tcp_burst *burst = &sender->burst;
    unsigned room = (unsigned)gw_min(TCP_BURST_HEADERS - burst->header_count,
                                     TCP_BURST_VECTORS - burst->count - 1);
    struct gw_write *write = as_write(sender->unframed);
    unsigned count = 0;
    uint64_t bytes = 0;

    while (write && count < gw_min(room, TCP_BATCH_MAX) && bytes < TCP_FRAME_BYTES &&
           method_of(sender, write) == method) {
        count++;
        bytes += write->length;
        write = as_write(write->op.next);
    }
    return count;
}

static void frame_writes(struct tcp_sender *sender, enum tcp_method method)
{
    struct tcp_burst *burst = &sender->burst;
    unsigned count = batch_length(sender, method);

    add_vector(burst, burst->headers[burst->header_count], (size_t)count * TCP_HEADER_SIZE, 0);
    burst->special = burst->count;
    for (unsigned i = 0; i < count; i++) {
        struct gw_write *write = as_write(sender->unframed);
        const struct tcp_header header = {.type = TCP_FRAME_WRITES,
                                          .count = (uint16_t)(i == 0 ? count : 0),
                                          .length = write->length,
                                          .key = write->remote_key,
                                          .offset = write->remote_offset};

        gw_tcp_header_encode(&header, burst->headers[burst->header_count++]);
        if (write->length)
            add_vector(burst, write->local, write->length, 1);
        else
            burst->completes[burst->count - 1]++; /* no bytes: complete with what is before it */
        sender->unframed = write->op.next;
    }
}

/* Opening them takes system calls, so only channels that carry bulk do it, once. */
static void open_fast_ways(struct tcp_channel *channel)
{
    channel->sender.has_fast_ways = true;
    gw_tcp_splicer_open(&channel->sender.splicer);
    gw_tcp_zerocopy_open(channel);
}

/* Copied frames, and at the end perhaps one whose payload goes another way. */
static void frame_burst(struct tcp_channel *channel)
{
    struct tcp_sender *sender = &channel->sender;
    struct tcp_burst *burst = &sender->burst;

    burst->count = burst->at = burst->header_count = 0;
    burst->method = TCP_COPY;
    while (sender->unframed && burst->count + 2 <= TCP_BURST_VECTORS &&
           burst->header_count < TCP_BURST_HEADERS) {
        const struct gw_write *write = as_write(sender->unframed);

        if (!write) {
            frame_message(sender);
            continue;
        }
        if (write->length >= TCP_LARGE_WRITE && !sender->has_fast_ways)
            open_fast_ways(channel);
        burst->method = method_of(sender, write);
        gw_tcp_note_method(sender, burst->method);
        frame_writes(sender, burst->method);
        if (burst->method != TCP_COPY)
            return;
    }
    burst->special = burst->count;
}

/* ---- handing it to the kernel ---- */

/* Notes that the kernel took size bytes of the burst. */
static void advance(struct tcp_channel *channel, size_t size)
{
    struct tcp_sender *sender = &channel->sender;
    struct tcp_burst *burst = &sender->burst;

    while (size > 0) {
        struct iovec *vector = &burst->vectors[burst->at];

        if (size < vector->iov_len) {
            vector->iov_base = (char *)vector->iov_base + size;
            vector->iov_len -= size;
            return;
        }
        size -= vector->iov_len;
        for (unsigned i = burst->completes[burst->at++]; i > 0; i--) {
            sender->unsent->scratch[1] = sender->zerocopy.next;
            sender->unsent = sender->unsent->next;
            sender->sent++;
        }
    }
}

/* Sends the copied part of the burst, or the special part with MSG_ZEROCOPY: about TCP_FRAME_BYTES,
 * so that a frame with its headers goes in one call, and never more than TCP_SEND_BYTES. */
static ssize_t send_vectors(struct tcp_channel *channel)
{
    struct tcp_burst *burst = &channel->sender.burst;
    struct msghdr message = {.msg_iov = burst->vectors + burst->at};
    bool is_special = burst->at >= burst->special;
    unsigned end = burst->at, limit = is_special ? burst->count : burst->special;
    int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    size_t size = 0, whole = 0;
    ssize_t sent;

    while (end < limit && size < TCP_FRAME_BYTES)
        size += burst->vectors[end++].iov_len;
    message.msg_iovlen = end - burst->at;
    if (size > TCP_SEND_BYTES) {
        whole = burst->vectors[end - 1].iov_len;
        burst->vectors[end - 1].iov_len -= size - TCP_SEND_BYTES;
        size = TCP_SEND_BYTES;
    }
    if (end < burst->count || whole)
        flags |= MSG_MORE;
    sent = is_special ? gw_tcp_zerocopy_send(channel, &message, flags)
                      : sendmsg(channel->fd, &message, flags);
    if (whole)
        burst->vectors[end - 1].iov_len = whole;
    if (sent < 0 && errno == EINTR)
        return 0;
    if (sent < 0 && errno != EAGAIN)
        return gw_fail_errno(-errno, "sending");
    if (sent < 0 || (size_t)sent < size)
        channel->sender.is_writable = false;
    return sent < 0 ? 0 : sent;
}

static ssize_t send_some(struct tcp_channel *channel)
{
    const struct tcp_burst *burst = &channel->sender.burst;

    if (burst->at >= burst->special && burst->method == TCP_SPLICE)
        return gw_tcp_splicer_send(channel);
    return send_vectors(channel);
}

void gw_tcp_sender_run(struct tcp_channel *channel)
{
    struct tcp_sender *sender = &channel->sender;
    uint64_t bytes = 0;

    while (can_send(channel) && bytes < TCP_POLL_BYTES) {
        ssize_t sent;

        if (!has_burst(sender))
            frame_burst(channel);
        sent = send_some(channel);
        if (sent < 0) {
            gw_tcp_channel_kill(channel, (int)sent);
            channel->receiver.is_readable = true; /* the peer's last words, or the end, are there */
            return;
        }
        advance(channel, (size_t)sent);
        bytes += (uint64_t)sent;
    }
}

/* ---- finishing ---- */

static void count_sent(struct tcp_channel *channel, struct gw_op *op)
{
    struct gw_write *write = as_write(op);

    if (write) {
        gw_figure_add(&channel->info.bytes_sent, write->length);
    } else {
        gw_figure_add(&channel->info.bytes_sent, gw_container_of(op, struct gw_send, op)->length);
        gw_figure_add(&channel->info.messages_sent, 1);
    }
}

void gw_tcp_sender_finish(struct tcp_channel *channel)
{
    struct tcp_sender *sender = &channel->sender;

    if (sender->zerocopy.has_news)
        gw_tcp_zerocopy_collect(channel);
    /* A done() may post again, and what it posts may be sent at once: it waits for the next call,
     * or this channel could go round here for as long as the peer takes bytes. */
    for (unsigned left = sender->sent; left > 0 && first_is_finished(sender); left--) {
        struct gw_op *op = gw_op_queue_take(&sender->ops);

        sender->sent--;
        count_sent(channel, op);
        op->done(op, 0);
    }
    if (channel->error.code)
        gw_tcp_sender_cancel(channel, channel->error.code);
}

void gw_tcp_sender_cancel(struct tcp_channel *channel, int status)
{
    struct tcp_sender *sender = &channel->sender;

    sender->unframed = sender->unsent = NULL;
    sender->burst.at = sender->burst.count = 0;
    sender->sent = 0;
    gw_op_queue_end(&sender->ops, status);
}

/* ---- posting ---- */

static int post(struct tcp_channel *channel, struct gw_op *op, enum tcp_op_kind kind,
                unsigned flags)
{
    struct tcp_sender *sender = &channel->sender;

    if (channel->error.code)
        return gw_error_raise(&channel->error);
    if (sender->ops.count == GW_CHANNEL_OPS_MAX)
        return -EAGAIN;
    op->scratch[0] = kind;
    gw_op_queue_push(&sender->ops, op);
    if (!sender->unframed)
        sender->unframed = op;
    if (!sender->unsent)
        sender->unsent = op;
    if (!(flags & GW_POST_MORE))
        gw_tcp_sender_run(channel);
    return 0;
}

int gw_tcp_write(struct gw_channel *channel, struct gw_write *write)
{
    return post(gw_tcp_channel_of(channel), &write->op, TCP_OP_WRITE, write->flags);
}

int gw_tcp_send(struct gw_channel *channel, struct gw_send *send)
{
    return post(gw_tcp_channel_of(channel), &send->op, TCP_OP_SEND, send->flags);
}
