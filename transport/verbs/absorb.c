/* SPDX-License-Identifier: Apache-2.0 */
/* Takes completions out of a queue and notes them at their channels. It runs no done(): a channel
 * that is being closed may be the reason why another one's completions are taken. */
#include <errno.h>

#include "transport/verbs/channel.h"

#define BATCH 32

static void note_send(struct verbs_channel *channel, const struct ibv_wc *completion)
{
    struct verbs_sender *sender = &channel->sender;
    uint32_t sequence = (uint32_t)completion->wr_id & VERBS_SEQUENCE_MASK;
    /* The part of the sequence number that the wr_id has room for says which of the send queue. */
    uint32_t ahead = (sequence - sender->completed) & VERBS_SEQUENCE_MASK;

    if (ahead >= sender->next - sender->completed)
        return; /* of a queue pair that was given up */
    sequence = sender->completed + ahead;
    sender->completed = sequence + 1;
    if (completion->status == IBV_WC_SUCCESS || sender->is_broken)
        return;
    sender->is_broken = true;
    sender->failed = sequence;
    if (completion->status != IBV_WC_WR_FLUSH_ERR)
        gw_verbs_channel_kill(channel, gw_verbs_explain_send(completion->status));
    else
        gw_verbs_channel_kill_unexplained(channel);
}

static void note_receive(struct verbs_channel *channel, const struct ibv_wc *completion)
{
    channel->inbox.posted--;
    if (completion->status == IBV_WC_SUCCESS)
        gw_verbs_receiver_take(channel, (uint32_t)completion->wr_id & VERBS_SEQUENCE_MASK,
                               completion->byte_len);
    else if (completion->status != IBV_WC_WR_FLUSH_ERR)
        gw_verbs_channel_kill(channel, gw_verbs_explain_receive(completion->status));
    else
        gw_verbs_channel_kill_unexplained(channel);
}

static void note(struct verbs_channel *channel, const struct ibv_wc *completion)
{
    channel->activity++;
    if (completion->wr_id & VERBS_WR_RECEIVE)
        note_receive(channel, completion);
    else
        note_send(channel, completion);
}

static void dispatch(struct verbs_poller *poller, const struct ibv_wc *completion)
{
    struct verbs_slot *slot =
        &poller->slots[completion->wr_id >> VERBS_WR_SLOT_AT & (VERBS_SLOTS - 1)];
    uint32_t generation = (uint32_t)(completion->wr_id >> VERBS_WR_GENERATION_AT);
    struct verbs_channel *channel;

    if (atomic_load_explicit(&slot->is_started, memory_order_acquire)) {
        channel = atomic_load_explicit(&slot->channel, memory_order_relaxed);
        if (channel && channel->generation == generation)
            note(channel, completion);
        return;
    }
    /* A control thread still has the channel, and may be giving it up. */
    pthread_mutex_lock(&poller->lock);
    channel = atomic_load(&slot->channel);
    if (channel && channel->generation == generation)
        note(channel, completion);
    pthread_mutex_unlock(&poller->lock);
}

bool gw_verbs_absorb(struct verbs_poller *poller, struct verbs_queue *queue)
{
    struct ibv_wc completions[BATCH];

    for (unsigned taken = 0; taken < VERBS_ABSORB_MAX; taken += BATCH) {
        int count = ibv_poll_cq(queue->cq, BATCH, completions);

        for (int i = 0; i < count; i++)
            dispatch(poller, &completions[i]);
        if (count < BATCH)
            return false;
    }
    return true;
}
