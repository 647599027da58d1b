/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions over a transport that fails on command: they end with a reason, soon, on both ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "tests/transport/faulty.h"
#include "tests/transport/link/pair.h"

static void prepare(struct pair *pair)
{
    pair_init(pair, "faulty");
    pair_make_psk(pair, "lab.psk", "lab");
    for (unsigned i = 0; i < 2; i++)
        pair->ends[i].credentials = pair_load_psk(pair, "lab.psk");
}

/* The link dies after each number of messages. Either both ends know that there is no session, or
 * the one that believes in it finds out with its next call. */
Test(faults, the_link_dies_at_every_step_of_the_establishment)
{
    unsigned established = 0;

    for (uint64_t ops = 0; ops < 12; ops++) {
        struct gw_control_frame frame;
        struct pair pair;
        uint64_t started = gw_clock_ns();

        prepare(&pair);
        gw_faulty_drop_after(pair.transport, ops);
        pair_connect(&pair);
        for (unsigned i = 0; i < 2; i++) {
            int rc = pair.ends[i].error.code;

            if (rc == 0)
                established++;
            cr_assert(rc == 0 || rc == -ECONNRESET || rc == -EPIPE, "%lu: end %u: %d %s",
                      (unsigned long)ops, i, rc, pair.ends[i].error.text);
        }
        if (!pair.ends[0].control != !pair.ends[1].control) {
            struct end *end = &pair.ends[pair.ends[1].control != NULL];

            cr_assert_neq(gw_control_receive(end->control, 2000, &frame), 0);
            cr_assert_neq(gw_control_receive(end->control, 2000, &frame), -ETIMEDOUT);
        }
        cr_assert(gw_clock_ns() - started < 4 * GW_NS_PER_S, "%lu: too slow", (unsigned long)ops);
        pair_free(&pair);
    }
    cr_assert(established > 0 && established < 24, "the loop did not cross the establishment");
}

Test(faults, a_corrupted_message_of_the_handshake_is_refused)
{
    struct pair pair;

    prepare(&pair);
    gw_faulty_corrupt_messages(pair.transport, 1);
    pair_connect(&pair);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_null(pair.ends[i].control);
        cr_assert(pair.ends[i].error.code == -EPROTO || pair.ends[i].error.code == -EACCES,
                  "end %u: %d %s", i, pair.ends[i].error.code, pair.ends[i].error.text);
    }
    pair_free(&pair);
}

Test(faults, a_corrupted_message_of_a_session_ends_it_on_both_ends)
{
    struct gw_control_frame frame;
    struct pair pair;

    prepare(&pair);
    pair_connect(&pair);
    cr_assert_eq(pair.ends[0].error.code, 0, "%s", pair.ends[0].error.text);
    gw_faulty_corrupt_messages(pair.transport, 1);
    cr_assert_eq(gw_control_send_bytes(pair.ends[0].control, "commit", 6), 0);
    cr_assert_eq(gw_control_receive(pair.ends[1].control, 2000, &frame), -EPROTO, "%s",
                 gw_error_message());
    cr_words_contain(gw_error_message(), "altered on the way");
    cr_assert_eq(gw_control_receive(pair.ends[0].control, 2000, &frame), -EACCES, "%s",
                 gw_error_message());
    cr_words_contain(gw_error_message(), "altered on the way");
    pair_free(&pair);
}

Test(faults, a_slow_link_only_takes_longer)
{
    struct gw_control_frame frame;
    struct pair pair;

    prepare(&pair);
    gw_faulty_delay(pair.transport, 20);
    pair_connect(&pair);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pair.ends[i].error.code, 0, "end %u: %s", i, pair.ends[i].error.text);
    cr_assert_eq(gw_control_send_bytes(pair.ends[0].control, "late", 4), 0);
    cr_assert_eq(gw_control_receive(pair.ends[1].control, 2000, &frame), 0);
    pair_free(&pair);
}

Test(faults, a_dropped_link_ends_both_sessions)
{
    struct gw_control_frame frame;
    struct pair pair;

    prepare(&pair);
    pair_connect(&pair);
    cr_assert_eq(pair.ends[0].error.code, 0, "%s", pair.ends[0].error.text);
    gw_faulty_drop_all(pair.transport);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(gw_control_receive(pair.ends[i].control, 2000, &frame), -ECONNRESET, "%s",
                     gw_error_message());
        cr_assert_eq(gw_control_send_bytes(pair.ends[i].control, "x", 1), -ECONNRESET);
    }
    pair_free(&pair);
}
