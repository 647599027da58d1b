/* SPDX-License-Identifier: Apache-2.0 */
/* transport/rdma/inbox.h: what arrives is lent in its order, once, and its buffer becomes free after that. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "transport/rdma/inbox.h"

#define DEPTH (GW_RECEIVES + GW_SPARE_RECEIVES)

static struct gw_credit credit;
static struct gw_inbox inbox;
static uint8_t buffers[GW_INBOX_DEPTH_MAX * GW_SEND_SIZE_MAX];
static struct gw_send_header header;
static uint64_t bytes;

static void init(unsigned depth)
{
    gw_credit_init(&credit);
    gw_inbox_init(&inbox, buffers, depth, &credit);
    inbox.posted = depth;
}

/* As the device does: the bytes are in the buffer, which it no longer has. */
static int arrive(unsigned buffer, struct gw_send_header what, const char *body)
{
    uint8_t *at = gw_inbox_buffer(&inbox, buffer);

    what.length = (uint32_t)strlen(body);
    gw_send_header_encode(&what, at);
    memcpy(at + GW_SEND_HEADER_SIZE, body, what.length);
    inbox.posted--;
    return gw_inbox_take(&inbox, buffer, GW_SEND_HEADER_SIZE + what.length, &header, &bytes);
}

static int message(unsigned buffer, const char *body)
{
    return arrive(buffer, (struct gw_send_header){.type = GW_SEND_MESSAGE}, body);
}

static void expect_lent(const char *body)
{
    struct gw_message out;

    cr_assert(gw_inbox_lend(&inbox, &out));
    cr_assert_eq(out.length, strlen(body));
    cr_assert_eq(memcmp(out.data, body, out.length), 0);
}

Test(inbox, messages_are_lent_in_the_order_of_arrival)
{
    struct gw_message out;

    init(DEPTH);
    cr_assert_not(gw_inbox_lend(&inbox, &out));
    cr_assert_not(gw_inbox_has_message(&inbox));
    cr_assert_eq(message(7, "first"), 0);
    cr_assert_eq(message(2, "second"), 0);
    cr_assert(gw_inbox_has_message(&inbox));
    expect_lent("first");
    cr_assert(gw_inbox_has_message(&inbox));
    gw_inbox_take_back(&inbox);
    expect_lent("second");
    cr_assert_not(gw_inbox_has_message(&inbox), "the one that is lent does not wait");
    gw_inbox_take_back(&inbox);
    cr_assert_not(gw_inbox_lend(&inbox, &out));
    cr_assert_eq(inbox.spent_count, 2);
    cr_assert_eq(inbox.spent[0], 7);
    cr_assert_eq(inbox.spent[1], 2);
}

Test(inbox, credits_are_free_when_receives_are_posted_again_and_not_before)
{
    init(DEPTH);
    for (unsigned i = 0; i < GW_INBOX_REPOST_AT; i++) {
        cr_assert_eq(message(i, "m"), 0);
        expect_lent("m");
        cr_assert_eq(gw_inbox_take_back(&inbox), i + 1 == GW_INBOX_REPOST_AT);
        cr_assert_not(gw_inbox_take_back(&inbox), "it was taken back already");
    }
    cr_assert_eq(credit.to_return, 0);
    gw_inbox_reposted(&inbox);
    cr_assert_eq(credit.to_return, GW_INBOX_REPOST_AT);
    cr_assert_eq(inbox.spent_count, 0);
}

Test(inbox, a_credit_is_spent_at_once_and_gives_no_credit_back)
{
    init(DEPTH);
    credit.may_send = 0;
    cr_assert_eq(arrive(3, (struct gw_send_header){.type = GW_SEND_CREDIT, .credits = 9}, ""), 0);
    cr_assert_eq(credit.may_send, 9);
    cr_assert_eq(inbox.spent_count, 1);
    gw_inbox_reposted(&inbox);
    cr_assert_eq(credit.to_return, 0);
}

Test(inbox, bytes_of_writes_and_messages_are_counted_once)
{
    struct gw_send_header said = {.type = GW_SEND_MESSAGE, .written = 1000};

    init(DEPTH);
    cr_assert_eq(arrive(0, said, "four"), 0);
    cr_assert_eq(bytes, 1004);
    cr_assert_eq(arrive(1, said, "four"), 0);
    cr_assert_eq(bytes, 4);
    said.type = GW_SEND_CREDIT;
    said.written = 1500;
    cr_assert_eq(arrive(2, said, ""), 0);
    cr_assert_eq(bytes, 500);
}

static void expect_deaf(unsigned buffer, struct gw_send_header what, const char *body)
{
    cr_assert_eq(arrive(buffer, what, body), -EPROTO);
    cr_assert(inbox.is_deaf);
    cr_assert_eq(inbox.count, 0);
}

Test(inbox, what_breaks_the_rules_makes_it_deaf)
{
    init(DEPTH);
    expect_deaf(0, (struct gw_send_header){.type = GW_SEND_CREDIT, .credits = 1}, "");
    init(DEPTH);
    cr_assert_eq(arrive(0, (struct gw_send_header){.type = GW_SEND_CREDIT, .written = 2}, ""), 0);
    expect_deaf(1, (struct gw_send_header){.type = GW_SEND_CREDIT, .written = 1}, "");
    init(DEPTH);
    expect_deaf(0, (struct gw_send_header){.type = GW_SEND_CREDIT}, "a body");
}

Test(inbox, more_messages_than_credits_make_it_deaf)
{
    init(DEPTH);
    for (unsigned i = 0; i < GW_RECEIVES; i++)
        cr_assert_eq(message(i, "m"), 0);
    cr_assert_eq(message(GW_RECEIVES, "m"), -EPROTO);
    cr_assert(inbox.is_deaf);
    cr_assert_eq(inbox.count, GW_RECEIVES, "what came before is still there");
    expect_lent("m");
}

Test(inbox, an_ask_is_understood_only_where_there_is_a_receive_for_it)
{
    const struct gw_send_header ask = {.type = GW_SEND_ASK};

    init(GW_INBOX_DEPTH_MAX);
    cr_assert_eq(arrive(GW_INBOX_DEPTH_MAX - 1, ask, "8 bytes."), 0);
    cr_assert_eq(header.type, GW_SEND_ASK);
    cr_assert_eq(inbox.spent_count, 1);
    init(DEPTH);
    expect_deaf(0, ask, "8 bytes.");
}

/* A peer that uses every credit, an owner that takes and gives back at its own pace: each message comes
 * out once, in order, and no buffer is in two places. */
Test(inbox, nothing_is_lost_or_lent_twice_in_the_long_run)
{
    for (unsigned seed = 1; seed <= 50; seed++) {
        unsigned state = seed, sent = 0, got = 0, has[GW_INBOX_DEPTH_MAX], count = DEPTH;

        init(DEPTH);
        for (unsigned i = 0; i < DEPTH; i++)
            has[i] = i;
        while (got < 1000) {
            char body[16], wanted[16];

            state = state * 1103515245u + 12345;
            if (state >> 16 & 1 && credit.peer_may_send && sent < 1000) {
                unsigned at = (state >> 20) % count, buffer = has[at];

                has[at] = has[--count];
                snprintf(body, sizeof(body), "%u", sent++);
                cr_assert_eq(message(buffer, body), 0, "%s", gw_error_message());
            } else {
                bool is_due = gw_inbox_take_back(&inbox);

                if (is_due || inbox.spent_count == DEPTH || !gw_inbox_has_message(&inbox)) {
                    for (unsigned i = 0; i < inbox.spent_count; i++)
                        has[count++] = inbox.spent[i];
                    gw_inbox_reposted(&inbox);
                    gw_credit_give(&credit);
                }
                snprintf(wanted, sizeof(wanted), "%u", got);
                if (gw_inbox_has_message(&inbox)) {
                    expect_lent(wanted);
                    got++;
                }
            }
            cr_assert_leq(count, DEPTH);
        }
    }
}
