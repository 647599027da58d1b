/* SPDX-License-Identifier: Apache-2.0 */
/* Control sessions that come to be, and what travels in them. Refusals are in test_refusal.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/rand.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/transport/link/pair.h"

ON_EACH_TRANSPORT(control, a_shared_key_opens_a_session)
{
    struct pair pair;
    const struct gw_peer *peer;

    pair_open(&pair, transport);
    peer = gw_control_peer(pair.ends[DIALLING].control);
    cr_assert_str_eq(peer->name, "lab");
    cr_assert_str_eq(peer->version, GODWIT_VERSION);
    cr_assert_arr_eq(peer->instance_id, pair.ends[ACCEPTING].instance_id, GW_ID_SIZE);
    peer = gw_control_peer(pair.ends[ACCEPTING].control);
    cr_assert_str_eq(peer->name, "lab");
    cr_assert_arr_eq(peer->instance_id, pair.ends[DIALLING].instance_id, GW_ID_SIZE);
    cr_assert_arr_eq(gw_control_link_id(pair.ends[0].control),
                     gw_control_link_id(pair.ends[1].control), GW_ID_SIZE);
    cr_assert(gw_address_same_host(gw_control_local(pair.ends[ACCEPTING].control), &pair.address));
    pair_free(&pair);
}

ON_EACH_TRANSPORT(control, a_message_arrives_as_it_was_sent)
{
    struct pair pair;
    struct gw_control_frame frame;
    json_t *message = json_pack("{s:s, s:[i,i], s:{}}", "do", "plan", "list", 1, 2, "empty");

    pair_open(&pair, transport);
    cr_assert_eq(gw_control_send(pair.ends[DIALLING].control, message), 0);
    cr_assert_eq(gw_control_receive(pair.ends[ACCEPTING].control, 2000, &frame), 0, "%s",
                 gw_error_message());
    cr_assert(json_equal(frame.message, message));
    json_decref(frame.message);
    cr_assert_eq(gw_control_send_bytes(pair.ends[ACCEPTING].control, "raw", 3), 0);
    cr_assert_eq(gw_control_receive(pair.ends[DIALLING].control, 2000, &frame), 0);
    cr_assert_null(frame.message);
    cr_assert_eq(frame.length, 3);
    cr_assert_arr_eq(frame.bytes, "raw", 3);
    json_decref(message);
    pair_free(&pair);
}
