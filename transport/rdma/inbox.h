/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inbox: the receiving half of a channel whose messages a device delivers into posted receives, the
 * device left out: which buffers it has, what arrived in the others, in which order, which message is
 * lent, and which buffers are to be posted again. What the peer's headers say is judged here.
 *
 *   posted → take → arrived → lend → take_back → spent → posted
 *                   └ not a message: spent at once
 *
 * Errors: -EPROTO when a header cannot be right; nothing more is taken in then.
 * Order: init, every buffer posted, then the above.
 * Threads: the channel's.
 * Units: bytes; buffers are named by their numbers.
 */
#ifndef GODWIT_TRANSPORT_RDMA_INBOX_H
#define GODWIT_TRANSPORT_RDMA_INBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "transport/rdma/credit.h"
#include "transport/rdma/header.h"

#define GW_INBOX_SMALL_MAX 2u /* receives for an ask and a tell, where there are such */
#define GW_INBOX_DEPTH_MAX (GW_RECEIVES + GW_SPARE_RECEIVES + GW_INBOX_SMALL_MAX)
#define GW_INBOX_REPOST_AT 8u /* receives that are posted again together */

struct gw_inbox {
    uint8_t *buffers; /* depth, each GW_SEND_SIZE_MAX bytes */
    unsigned depth;
    struct gw_credit *credit;
    unsigned posted; /* buffers that the device has; counted by the back end */
    bool is_deaf;    /* the peer broke the rules: nothing more is taken in */
    bool has_lent;
    unsigned first, count; /* of arrived; the first may be lent */
    uint8_t arrived[GW_INBOX_DEPTH_MAX];
    uint32_t lengths[GW_INBOX_DEPTH_MAX];
    unsigned spent_count, spent_messages; /* to be posted again; those that held messages */
    uint8_t spent[GW_INBOX_DEPTH_MAX];
    uint64_t written; /* as the peer's last header said */
};

/* An ask and a tell are understood where depth is GW_INBOX_DEPTH_MAX, and there alone. Buffers and
 * credit are lent. */
void gw_inbox_init(struct gw_inbox *inbox, uint8_t *buffers, unsigned depth,
                   struct gw_credit *credit);
/* Where a buffer lies. */
uint8_t *gw_inbox_buffer(const struct gw_inbox *inbox, unsigned buffer);
/* Length bytes arrived in the buffer. The header is told, and how many bytes came since the one before
 * it, writes included. Not to be called when is_deaf. -EPROTO. */
int gw_inbox_take(struct gw_inbox *inbox, unsigned buffer, size_t length,
                  struct gw_send_header *header, uint64_t *bytes);
/* A message that is not lent yet waits. */
bool gw_inbox_has_message(const struct gw_inbox *inbox);
/* The next message; the one before it was taken back. False when there is none. */
bool gw_inbox_lend(struct gw_inbox *inbox, struct gw_message *out);
/* The owner has finished with the message that was lent to it, if one was. True when so many are
 * spent that it is time to post them again. */
bool gw_inbox_take_back(struct gw_inbox *inbox);
/* The device has all that were spent: their credits are free. */
void gw_inbox_reposted(struct gw_inbox *inbox);

#endif
