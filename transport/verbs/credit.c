/* SPDX-License-Identifier: Apache-2.0 */
/* The account of credits that credit.h describes. */
#include "transport/verbs/credit.h"

#include <assert.h>
#include <errno.h>

#include "common/error.h"

#define DUE (VERBS_RECEIVES / 2)

static_assert((VERBS_SPARE_RECEIVES + 1) * DUE > VERBS_RECEIVES, "a receive for every credit");

void gw_verbs_credit_init(struct verbs_credit *credit)
{
    *credit = (struct verbs_credit){.may_send = VERBS_RECEIVES, .peer_may_send = VERBS_RECEIVES};
}

void gw_verbs_credit_freed(struct verbs_credit *credit)
{
    credit->to_return++;
    assert(credit->peer_may_send + credit->to_return <= VERBS_RECEIVES);
}

unsigned gw_verbs_credit_give(struct verbs_credit *credit)
{
    unsigned credits = credit->to_return;

    credit->peer_may_send += credits;
    credit->to_return = 0;
    return credits;
}

int gw_verbs_credit_take(struct verbs_credit *credit, unsigned credits, bool is_message)
{
    if (credits > VERBS_RECEIVES - credit->may_send)
        return gw_fail(-EPROTO, "the peer gave back %u receives, more than were in use", credits);
    if (is_message && credit->peer_may_send == 0)
        return gw_fail(-EPROTO, "the peer sent more messages than it had been allowed");
    credit->may_send += credits;
    credit->peer_may_send -= is_message;
    return 0;
}

bool gw_verbs_credit_is_due(const struct verbs_credit *credit)
{
    return credit->to_return >= DUE;
}
