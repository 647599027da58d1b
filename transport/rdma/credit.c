/* SPDX-License-Identifier: Apache-2.0 */
/* The account of credits that credit.h describes. */
#include "transport/rdma/credit.h"

#include <assert.h>
#include <errno.h>

#include "common/error.h"

#define DUE (GW_RECEIVES / 2)

static_assert((GW_SPARE_RECEIVES + 1) * DUE > GW_RECEIVES, "a receive for every credit");

void gw_credit_init(struct gw_credit *credit)
{
    *credit = (struct gw_credit){.may_send = GW_RECEIVES, .peer_may_send = GW_RECEIVES};
}

void gw_credit_freed(struct gw_credit *credit)
{
    credit->to_return++;
    assert(credit->peer_may_send + credit->to_return <= GW_RECEIVES);
}

unsigned gw_credit_give(struct gw_credit *credit)
{
    unsigned credits = credit->to_return;

    credit->peer_may_send += credits;
    credit->to_return = 0;
    return credits;
}

int gw_credit_take(struct gw_credit *credit, unsigned credits, bool is_message)
{
    if (credits > GW_RECEIVES - credit->may_send)
        return gw_fail(-EPROTO, "the peer gave back %u receives, more than were in use", credits);
    if (is_message && credit->peer_may_send == 0)
        return gw_fail(-EPROTO, "the peer sent more messages than it had been allowed");
    credit->may_send += credits;
    credit->peer_may_send -= is_message;
    return 0;
}

bool gw_credit_is_due(const struct gw_credit *credit)
{
    return credit->to_return >= DUE;
}
