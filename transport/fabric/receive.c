/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of a channel: receives are posted to the provider, again in batches, and what
 * arrived goes into the inbox. What the peer writes is seen by the provider alone. */
#include <errno.h>

#include "transport/fabric/channel.h"

static int post_receive(struct fabric_channel *channel, unsigned buffer)
{
    struct gw_inbox *inbox = &channel->receiver.inbox;
    struct fabric_work *work = &channel->receiver.works[buffer];
    ssize_t answer;

    work->index = buffer;
    work->is_receive = true;
    answer = fi_recv(channel->ep, gw_inbox_buffer(inbox, buffer), GW_SEND_SIZE_MAX,
                     channel->mr ? fi_mr_desc(channel->mr) : NULL, FI_ADDR_UNSPEC, &work->context);
    if (answer)
        return gw_fail(gw_fabric_errno(answer), "the provider does not take a receive: %s",
                       channel->transport->library.strerror((int)-answer));
    inbox->posted++;
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
    struct gw_inbox *inbox = &channel->receiver.inbox;

    if (!inbox->spent_count || channel->error.code)
        return;
    for (unsigned i = 0; i < inbox->spent_count; i++) {
        int error = post_receive(channel, inbox->spent[i]);

        if (error) {
            gw_fabric_channel_kill(channel, error);
            return;
        }
    }
    gw_inbox_reposted(inbox);
}

static int take_small(struct fabric_channel *channel, enum gw_send_type type, const uint8_t *body)
{
    if (type == GW_SEND_ASK)
        return gw_fabric_sender_take_ask(channel, body);
    return type == GW_SEND_TELL ? gw_fabric_sender_take_tell(channel, body) : 0;
}

void gw_fabric_receiver_take(struct fabric_channel *channel, unsigned buffer, size_t length)
{
    struct gw_inbox *inbox = &channel->receiver.inbox;
    struct gw_send_header header;
    uint64_t bytes;
    int error;

    if (inbox->is_deaf)
        return;
    error = gw_inbox_take(inbox, buffer, length, &header, &bytes);
    if (!error) {
        gw_figure_add(&channel->info.bytes_received, bytes);
        gw_figure_add(&channel->info.messages_received, header.type == GW_SEND_MESSAGE);
        error =
            take_small(channel, header.type, gw_inbox_buffer(inbox, buffer) + GW_SEND_HEADER_SIZE);
    }
    if (error) {
        inbox->is_deaf = true;
        gw_fabric_channel_kill(channel, error);
    }
}

int gw_fabric_recv(struct gw_channel *base, struct gw_message *out)
{
    struct fabric_channel *channel = gw_fabric_channel_of(base);

    if (gw_inbox_take_back(&channel->receiver.inbox))
        gw_fabric_receiver_repost(channel);
    if (gw_inbox_lend(&channel->receiver.inbox, out))
        return 0;
    if (channel->error.code && gw_fabric_channel_is_drained(channel))
        return gw_error_raise(&channel->error);
    return -EAGAIN;
}
