/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of a channel: receives are posted to the device, again in batches, and what
 * arrived goes into the inbox. What the peer writes is seen by the device alone. */
#include <errno.h>

#include "transport/verbs/channel.h"

static int post_receives(struct verbs_channel *channel, const uint8_t *buffers, unsigned count)
{
    struct ibv_recv_wr requests[VERBS_RECEIVE_DEPTH], *bad;
    struct ibv_sge pieces[VERBS_RECEIVE_DEPTH];
    int error;

    for (unsigned i = 0; i < count; i++) {
        pieces[i] =
            (struct ibv_sge){.addr = (uintptr_t)gw_inbox_buffer(&channel->inbox, buffers[i]),
                             .length = GW_SEND_SIZE_MAX,
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
    channel->inbox.posted += count;
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
    struct gw_inbox *inbox = &channel->inbox;

    if (!inbox->spent_count || channel->error.code)
        return;
    if (post_receives(channel, inbox->spent, inbox->spent_count) != 0)
        gw_verbs_channel_kill(channel, -EIO);
    else
        gw_inbox_reposted(inbox);
}

void gw_verbs_receiver_take(struct verbs_channel *channel, unsigned buffer, uint32_t length)
{
    struct gw_send_header header;
    uint64_t bytes;
    int error;

    if (channel->inbox.is_deaf)
        return;
    error = gw_inbox_take(&channel->inbox, buffer, length, &header, &bytes);
    if (error) {
        gw_verbs_channel_kill(channel, error);
        return;
    }
    gw_figure_add(&channel->info.bytes_received, bytes);
    gw_figure_add(&channel->info.messages_received, header.type == GW_SEND_MESSAGE);
}

int gw_verbs_recv(struct gw_channel *base, struct gw_message *out)
{
    struct verbs_channel *channel = gw_verbs_channel_of(base);

    if (gw_inbox_take_back(&channel->inbox))
        gw_verbs_receiver_repost(channel);
    if (gw_inbox_lend(&channel->inbox, out))
        return 0;
    if (channel->error.code && gw_verbs_channel_is_drained(channel))
        return gw_error_raise(&channel->error);
    return -EAGAIN;
}
