/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of a channel: messages in the order of their arrival, lent one at a time, their
 * receives posted again in batches. What the peer writes is seen by the provider alone. */
#include <errno.h>

#include "transport/fabric/channel.h"

#define BUFFER_SIZE (GW_SEND_HEADER_SIZE + GW_MESSAGE_MAX)

static int post_receive(struct fabric_channel *channel, unsigned buffer)
{
    struct fabric_receiver *receiver = &channel->receiver;
    struct fabric_work *work = &receiver->works[buffer];
    ssize_t answer;

    work->index = buffer;
    work->is_receive = true;
    answer = fi_recv(channel->ep, receiver->buffers + buffer * BUFFER_SIZE, BUFFER_SIZE,
                     channel->mr ? fi_mr_desc(channel->mr) : NULL, FI_ADDR_UNSPEC, &work->context);
    if (answer)
        return gw_fail(gw_fabric_errno(answer), "the provider does not take a receive: %s",
                       channel->transport->library.strerror((int)-answer));
    receiver->posted++;
    return 0;
}

int gw_fabric_receiver_open(struct fabric_channel *channel)
{
    int error = 0;

    for (unsigned i = 0; !error && i < FABRIC_RECEIVE_DEPTH; i++)
        error = post_receive(channel, i);
    return error;
}

void gw_fabric_receiver_repost(struct fabric_channel *channel)
{
    struct fabric_receiver *receiver = &channel->receiver;

    if (!receiver->spent_count || channel->error.code)
        return;
    for (unsigned i = 0; i < receiver->spent_count; i++) {
        int error = post_receive(channel, receiver->spent[i]);

        if (error) {
            gw_fabric_channel_kill(channel, error);
            return;
        }
    }
    receiver->spent_count = 0;
    /* Only now: the peer may use a credit at once. */
    for (; receiver->spent_messages; receiver->spent_messages--)
        gw_credit_freed(&channel->credit);
}

static int judge(struct fabric_channel *channel, const uint8_t *buffer, size_t length,
                 struct gw_send_header *header)
{
    int error = gw_send_header_decode(buffer, (uint32_t)length, header);

    if (!error)
        error = gw_credit_take(&channel->credit, header->credits, header->type == GW_SEND_MESSAGE);
    if (!error && header->written < channel->receiver.written)
        error = gw_fail(-EPROTO, "the peer says that it has written less than before");
    return error;
}

static void take_small(struct fabric_channel *channel, enum gw_send_type type,
                       const uint8_t *buffer)
{
    const uint8_t *body = buffer + GW_SEND_HEADER_SIZE;
    int error = 0;

    if (type == GW_SEND_ASK)
        error = gw_fabric_sender_take_ask(channel, body);
    else if (type == GW_SEND_TELL)
        error = gw_fabric_sender_take_tell(channel, body);
    if (error) {
        channel->receiver.is_deaf = true;
        gw_fabric_channel_kill(channel, error);
    }
}

void gw_fabric_receiver_take(struct fabric_channel *channel, unsigned buffer, size_t length)
{
    struct fabric_receiver *receiver = &channel->receiver;
    struct gw_send_header header;
    int error;

    if (receiver->is_deaf)
        return;
    error = judge(channel, receiver->buffers + buffer * BUFFER_SIZE, length, &header);
    if (error) {
        receiver->is_deaf = true;
        gw_fabric_channel_kill(channel, error);
        return;
    }
    gw_fabric_count(&channel->info.bytes_received,
                    header.written - receiver->written +
                        (header.type == GW_SEND_MESSAGE ? header.length : 0));
    receiver->written = header.written;
    if (header.type != GW_SEND_MESSAGE) {
        receiver->spent[receiver->spent_count++] = (uint8_t)buffer;
        take_small(channel, header.type, receiver->buffers + buffer * BUFFER_SIZE);
        return;
    }
    gw_fabric_count(&channel->info.messages_received, 1);
    receiver->lengths[buffer] = header.length;
    receiver->arrived[(receiver->first + receiver->count) % FABRIC_RECEIVE_DEPTH] = (uint8_t)buffer;
    receiver->count++;
}

/* The owner has finished with the message that was lent to it. */
static void take_back(struct fabric_channel *channel)
{
    struct fabric_receiver *receiver = &channel->receiver;

    receiver->has_lent = false;
    receiver->spent[receiver->spent_count++] = receiver->arrived[receiver->first];
    receiver->first = (receiver->first + 1) % FABRIC_RECEIVE_DEPTH;
    receiver->count--;
    receiver->spent_messages++;
    if (receiver->spent_count >= FABRIC_REPOST_AT)
        gw_fabric_receiver_repost(channel);
}

int gw_fabric_recv(struct gw_channel *base, struct gw_message *out)
{
    struct fabric_channel *channel = gw_fabric_channel_of(base);
    struct fabric_receiver *receiver = &channel->receiver;
    unsigned buffer;

    if (receiver->has_lent)
        take_back(channel);
    if (receiver->count == 0) {
        if (channel->error.code && gw_fabric_channel_is_drained(channel))
            return gw_error_raise(&channel->error);
        return -EAGAIN;
    }
    buffer = receiver->arrived[receiver->first];
    out->data = receiver->buffers + buffer * BUFFER_SIZE + GW_SEND_HEADER_SIZE;
    out->length = receiver->lengths[buffer];
    receiver->has_lent = true;
    return 0;
}
