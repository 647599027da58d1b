/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of a channel: messages in the order of their arrival, lent one at a time, their
 * receives posted again in batches. What the peer writes is seen by the device alone. */
#include <errno.h>

#include "transport/verbs/channel.h"

#define BUFFER_SIZE (GW_SEND_HEADER_SIZE + GW_MESSAGE_MAX)

static int post_receives(struct verbs_channel *channel, const uint8_t *buffers, unsigned count)
{
    struct verbs_receiver *receiver = &channel->receiver;
    struct ibv_recv_wr requests[VERBS_RECEIVE_DEPTH], *bad;
    struct ibv_sge pieces[VERBS_RECEIVE_DEPTH];
    int error;

    for (unsigned i = 0; i < count; i++) {
        pieces[i] =
            (struct ibv_sge){.addr = (uintptr_t)(receiver->buffers + buffers[i] * BUFFER_SIZE),
                             .length = BUFFER_SIZE,
                             .lkey = channel->mr->lkey};
        requests[i] = (struct ibv_recv_wr){.wr_id = gw_verbs_channel_wr_id(channel) |
                                                    VERBS_WR_RECEIVE | buffers[i],
                                           .next = i + 1 < count ? &requests[i + 1] : NULL,
                                           .sg_list = &pieces[i],
                                           .num_sge = 1};
    }
    error = ibv_post_recv(channel->qp, requests, &bad);
    if (error)
        return gw_fail_errno(-error, "the receive queue does not take its buffers");
    receiver->posted += count;
    return 0;
}

int gw_verbs_receiver_open(struct verbs_channel *channel)
{
    uint8_t buffers[VERBS_RECEIVE_DEPTH];

    for (unsigned i = 0; i < VERBS_RECEIVE_DEPTH; i++)
        buffers[i] = (uint8_t)i;
    return post_receives(channel, buffers, VERBS_RECEIVE_DEPTH);
}

void gw_verbs_receiver_repost(struct verbs_channel *channel)
{
    struct verbs_receiver *receiver = &channel->receiver;
    unsigned count = receiver->spent_count;

    if (!count || channel->error.code)
        return;
    receiver->spent_count = 0;
    if (post_receives(channel, receiver->spent, count) != 0) {
        gw_verbs_channel_kill(channel, -EIO);
        return;
    }
    /* Only now: the peer may use a credit at once. */
    for (; receiver->spent_messages; receiver->spent_messages--)
        gw_credit_freed(&channel->credit);
}

static int judge(struct verbs_channel *channel, const uint8_t *buffer, uint32_t length,
                 struct gw_send_header *header)
{
    int error = gw_send_header_decode(buffer, length, header);

    if (!error && header->type > GW_SEND_CREDIT)
        error = gw_fail(-EPROTO, "the peer sent a message of type %u", header->type);
    if (!error)
        error = gw_credit_take(&channel->credit, header->credits, header->type == GW_SEND_MESSAGE);
    if (!error && header->written < channel->receiver.written)
        error = gw_fail(-EPROTO, "the peer says that it has written less than before");
    return error;
}

void gw_verbs_receiver_take(struct verbs_channel *channel, unsigned buffer, uint32_t length)
{
    struct verbs_receiver *receiver = &channel->receiver;
    struct gw_send_header header;
    int error;

    if (receiver->is_deaf)
        return;
    error = judge(channel, receiver->buffers + buffer * BUFFER_SIZE, length, &header);
    if (error) {
        receiver->is_deaf = true;
        gw_verbs_channel_kill(channel, error);
        return;
    }
    gw_verbs_count(&channel->info.bytes_received,
                   header.written - receiver->written + header.length);
    receiver->written = header.written;
    if (header.type == GW_SEND_CREDIT) {
        receiver->spent[receiver->spent_count++] = (uint8_t)buffer;
        return;
    }
    gw_verbs_count(&channel->info.messages_received, 1);
    receiver->lengths[buffer] = header.length;
    receiver->arrived[(receiver->first + receiver->count) % VERBS_RECEIVE_DEPTH] = (uint8_t)buffer;
    receiver->count++;
}

/* The owner has finished with the message that was lent to it. */
static void take_back(struct verbs_channel *channel)
{
    struct verbs_receiver *receiver = &channel->receiver;

    receiver->has_lent = false;
    receiver->spent[receiver->spent_count++] = receiver->arrived[receiver->first];
    receiver->first = (receiver->first + 1) % VERBS_RECEIVE_DEPTH;
    receiver->count--;
    receiver->spent_messages++;
    if (receiver->spent_count >= VERBS_REPOST_AT)
        gw_verbs_receiver_repost(channel);
}

int gw_verbs_recv(struct gw_channel *base, struct gw_message *out)
{
    struct verbs_channel *channel = gw_verbs_channel_of(base);
    struct verbs_receiver *receiver = &channel->receiver;
    unsigned buffer;

    if (receiver->has_lent)
        take_back(channel);
    if (receiver->count == 0) {
        if (channel->error.code && gw_verbs_channel_is_drained(channel))
            return gw_error_raise(&channel->error);
        return -EAGAIN;
    }
    buffer = receiver->arrived[receiver->first];
    out->data = receiver->buffers + buffer * BUFFER_SIZE + GW_SEND_HEADER_SIZE;
    out->length = receiver->lengths[buffer];
    receiver->has_lent = true;
    return 0;
}
