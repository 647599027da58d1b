/* SPDX-License-Identifier: Apache-2.0 */
/* Keeps the books that inbox.h describes. */
#include "transport/rdma/inbox.h"

#include <assert.h>
#include <errno.h>

#include "common/error.h"

static_assert(GW_INBOX_DEPTH_MAX <= UINT8_MAX, "a buffer's number is one byte");

void gw_inbox_init(struct gw_inbox *inbox, uint8_t *buffers, unsigned depth,
                   struct gw_credit *credit)
{
    assert(depth <= GW_INBOX_DEPTH_MAX);
    *inbox = (struct gw_inbox){.buffers = buffers, .depth = depth, .credit = credit};
}

uint8_t *gw_inbox_buffer(const struct gw_inbox *inbox, unsigned buffer)
{
    return inbox->buffers + (size_t)buffer * GW_SEND_SIZE_MAX;
}

static int judge(const struct gw_inbox *inbox, const uint8_t *bytes, size_t length,
                 struct gw_send_header *header)
{
    int error = gw_send_header_decode(bytes, (uint32_t)length, header);

    if (!error && header->type > GW_SEND_CREDIT && inbox->depth < GW_INBOX_DEPTH_MAX)
        error = gw_fail(-EPROTO, "the peer sent a message of type %u", header->type);
    if (!error)
        error = gw_credit_take(inbox->credit, header->credits, header->type == GW_SEND_MESSAGE);
    if (!error && header->written < inbox->written)
        error = gw_fail(-EPROTO, "the peer says that it has written less than before");
    return error;
}

static void spend(struct gw_inbox *inbox, unsigned buffer)
{
    assert(inbox->spent_count < inbox->depth);
    inbox->spent[inbox->spent_count++] = (uint8_t)buffer;
}

int gw_inbox_take(struct gw_inbox *inbox, unsigned buffer, size_t length,
                  struct gw_send_header *header, uint64_t *bytes)
{
    int error;

    assert(!inbox->is_deaf && buffer < inbox->depth && length <= GW_SEND_SIZE_MAX);
    error = judge(inbox, gw_inbox_buffer(inbox, buffer), length, header);
    if (error) {
        inbox->is_deaf = true;
        return error;
    }
    *bytes = header->written - inbox->written;
    inbox->written = header->written;
    if (header->type != GW_SEND_MESSAGE) {
        spend(inbox, buffer);
        return 0;
    }
    *bytes += header->length;
    inbox->lengths[buffer] = header->length;
    inbox->arrived[(inbox->first + inbox->count) % inbox->depth] = (uint8_t)buffer;
    inbox->count++;
    return 0;
}

bool gw_inbox_has_message(const struct gw_inbox *inbox)
{
    return inbox->count > (inbox->has_lent ? 1u : 0u);
}

bool gw_inbox_lend(struct gw_inbox *inbox, struct gw_message *out)
{
    unsigned buffer = inbox->arrived[inbox->first];

    assert(!inbox->has_lent);
    if (inbox->count == 0)
        return false;
    out->data = gw_inbox_buffer(inbox, buffer) + GW_SEND_HEADER_SIZE;
    out->length = inbox->lengths[buffer];
    inbox->has_lent = true;
    return true;
}

bool gw_inbox_take_back(struct gw_inbox *inbox)
{
    if (!inbox->has_lent)
        return false;
    inbox->has_lent = false;
    spend(inbox, inbox->arrived[inbox->first]);
    inbox->first = (inbox->first + 1) % inbox->depth;
    inbox->count--;
    inbox->spent_messages++;
    return inbox->spent_count >= GW_INBOX_REPOST_AT;
}

void gw_inbox_reposted(struct gw_inbox *inbox)
{
    inbox->spent_count = 0;
    /* Only now: the peer may use a credit at once. */
    for (; inbox->spent_messages; inbox->spent_messages--)
        gw_credit_freed(inbox->credit);
}
