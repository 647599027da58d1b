/* SPDX-License-Identifier: Apache-2.0 */
/*
 * credit: who may send how many messages, so that a SEND never meets a queue without a receive
 * (header.h has the rules). Pure bookkeeping of one channel.
 *
 * Errors: -EPROTO when the peer's account cannot be right.
 * Threads: the channel's.
 * Units: messages.
 */
#ifndef GODWIT_TRANSPORT_RDMA_CREDIT_H
#define GODWIT_TRANSPORT_RDMA_CREDIT_H

#include <stdbool.h>

#define GW_RECEIVES       32u /* messages that the peer may have sent and this side not taken */
#define GW_SPARE_RECEIVES 2u  /* for credits on their way; see gw_credit_is_due */

struct gw_credit {
    unsigned may_send;  /* messages that this side may send */
    unsigned to_return; /* receives that are free again and that the peer has not been told of */
    unsigned peer_may_send; /* what the peer may send, credits on their way to it included */
};

void gw_credit_init(struct gw_credit *credit);
/* A receive of a message is free again. */
void gw_credit_freed(struct gw_credit *credit);
/* A header goes out: the credits that it carries. */
unsigned gw_credit_give(struct gw_credit *credit);
/* A header came in with so many credits; is_message: it took one of this side's receives. */
int gw_credit_take(struct gw_credit *credit, unsigned credits, bool is_message);
/* A credit message should be sent if no message goes out anyway. Since each gives back half of all
 * credits or more, and there are no more than all, at most two of them are on their way. */
bool gw_credit_is_due(const struct gw_credit *credit);

#endif
