/* SPDX-License-Identifier: Apache-2.0 */
/* Takes completions out of a channel's queue and notes them at its entries. It runs no done(). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transport/fabric/channel.h"

#define BATCH 32

static void note_receive(struct fabric_channel *channel, struct fabric_work *work,
                         const struct fi_cq_msg_entry *entry)
{
    channel->receiver.inbox.posted--;
    /* Of the peer's writes nothing is heard, unless it adds data, which nobody here does. */
    if (entry->flags & FI_REMOTE_WRITE) {
        gw_fabric_channel_kill(
            channel, gw_fail(-EPROTO, "the peer wrote with data for the completion queue"));
        return;
    }
    gw_fabric_receiver_take(channel, work->index, entry->len);
}

static void note(struct fabric_channel *channel, const struct fi_cq_msg_entry *entry)
{
    struct fabric_work *work = entry->op_context;

    if (!work) {
        gw_fabric_channel_kill(channel,
                               gw_fail(-EPROTO, "the peer did what nobody here does (0x%llx)",
                                       (unsigned long long)entry->flags));
    } else if (work->is_receive) {
        note_receive(channel, work, entry);
    } else {
        work->is_complete = true;
        if (channel->rdm)
            gw_fabric_rdm_trust(channel);
        gw_fabric_sender_advance(&channel->sender);
    }
}

static int explain(struct fabric_channel *channel, const struct fabric_work *work,
                   const struct fi_cq_err_entry *entry)
{
    char text[160] = "";

    if (work->is_receive && (entry->err == FI_ETRUNC || entry->err == FI_EMSGSIZE))
        return gw_fail(-EPROTO, "the peer sent a message of more than %u bytes", GW_MESSAGE_MAX);
    /* Without an endpoint ofi_rxm has nobody to ask for the words, and does not look. */
    if (entry->prov_errno && channel->ep)
        fi_cq_strerror(channel->cq, entry->prov_errno, entry->err_data, text, sizeof(text));
    text[sizeof(text) - 1] = 0;
    if (entry->err == FI_ETIMEDOUT)
        return gw_fail(-ETIMEDOUT, "the peer does not answer (%s)", text);
    return gw_fail(-ECONNRESET, "%s failed: %s%s%s", work->is_receive ? "a receive" : "a request",
                   channel->transport->library.strerror(entry->err), text[0] ? ", " : "", text);
}

/* Whether it says that nobody is reached at the peer's endpoint. What else ends requests, a connection
 * that is cut or a peer that is gone, says nothing of the next one. */
static bool is_unreached(const struct fi_cq_err_entry *entry)
{
    return entry->err == FI_ETIMEDOUT || entry->err == FI_EHOSTUNREACH ||
           entry->err == FI_ECONNREFUSED;
}

/* False when there was none. */
static bool note_failure(struct fabric_channel *channel)
{
    struct fi_cq_err_entry entry = {0};
    struct fabric_work *work;

    if (fi_cq_readerr(channel->cq, &entry, 0) != 1)
        return false;
    work = entry.op_context;
    if (!work)
        return true;
    if (work->is_receive) {
        channel->receiver.inbox.posted--;
    } else {
        work->is_complete = work->is_failed = true;
        gw_fabric_sender_advance(&channel->sender);
    }
    if (channel->rdm)
        gw_fabric_rdm_hear_out(channel);
    if (!work->is_receive && is_unreached(&entry))
        gw_fabric_rdm_doubt(channel);
    if (entry.err == FI_ECANCELED)
        gw_fabric_channel_kill_unexplained(channel);
    else
        gw_fabric_channel_kill(channel, explain(channel, work, &entry));
    return true;
}

bool gw_fabric_absorb(struct fabric_channel *channel)
{
    struct fi_cq_msg_entry entries[BATCH];

    for (unsigned taken = 0; taken < FABRIC_ABSORB_MAX; taken += BATCH) {
        ssize_t count = fi_cq_read(channel->cq, entries, BATCH);

        for (ssize_t i = 0; i < count; i++)
            note(channel, &entries[i]);
        if (count == -FI_EAVAIL && note_failure(channel))
            continue;
        if (count < 0 && count != -FI_EAGAIN && count != -FI_EAVAIL)
            gw_fabric_channel_kill(channel,
                                   gw_fail(-EIO, "the completion queue failed: %s",
                                           channel->transport->library.strerror((int)-count)));
        if (count < BATCH)
            return false;
    }
    return true;
}
