/* SPDX-License-Identifier: Apache-2.0 */
/* Control sessions that come to be, and what travels in them. Refusals are in test_refusal.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/rand.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
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

/* ---- signs of life ---- */

/* Both ends wait for that long, or the accepting one alone, which then answers what it found. */
static int wait_both(struct pair *pair, bool is_dialling_too, int wait_ms)
{
    uint64_t end = gw_clock_ns() + (uint64_t)wait_ms * GW_NS_PER_MS;
    struct gw_control_frame frame;
    int error = 0;

    while (!error && gw_clock_ns() < end) {
        for (unsigned i = is_dialling_too ? 0 : 1; i < 2; i++) {
            cr_assert_eq(gw_control_receive(pair->ends[i].control, 0, &frame), -ETIMEDOUT);
            error = gw_control_keep_alive(pair->ends[i].control);
        }
        poll(NULL, 0, 5);
    }
    return error;
}

ON_EACH_TRANSPORT(control, two_that_wait_keep_each_other_alive)
{
    struct pair pair;

    pair_open(&pair, transport);
    cr_assert_eq(wait_both(&pair, true, 10 * PAIR_ALIVE_MS), 0, "%s", gw_error_message());
    pair_free(&pair);
}

ON_EACH_TRANSPORT(control, one_that_breaks_its_promise_is_dead)
{
    struct gw_control_frame frame;
    struct gw_control *control;
    struct pair pair;

    pair_open(&pair, transport);
    control = pair.ends[ACCEPTING].control;
    cr_assert_eq(wait_both(&pair, true, 3 * PAIR_ALIVE_MS), 0, "%s", gw_error_message());
    cr_assert_eq(wait_both(&pair, false, 20 * PAIR_ALIVE_MS), -ECONNRESET);
    cr_assert_not_null(strstr(gw_error_message(), "silent"), "%s", gw_error_message());
    cr_assert(gw_control_is_lost(control));
    cr_assert_eq(gw_control_receive(control, 0, &frame), -ECONNRESET);
    pair_free(&pair);
}

ON_EACH_TRANSPORT(control, one_that_took_its_promise_back_may_be_silent)
{
    struct pair pair;

    pair_open(&pair, transport);
    cr_assert_eq(wait_both(&pair, true, 3 * PAIR_ALIVE_MS), 0, "%s", gw_error_message());
    gw_control_leave(pair.ends[DIALLING].control);
    cr_assert_eq(wait_both(&pair, false, 20 * PAIR_ALIVE_MS), 0, "%s", gw_error_message());
    cr_assert_not(gw_control_is_lost(pair.ends[ACCEPTING].control));
    pair_free(&pair);
}

ON_EACH_TRANSPORT(control, a_session_that_is_ended_in_order_is_not_lost)
{
    struct gw_control_frame frame;
    struct pair pair;

    pair_open(&pair, transport);
    gw_control_close(pair.ends[DIALLING].control);
    pair.ends[DIALLING].control = NULL;
    cr_assert_eq(gw_control_receive(pair.ends[ACCEPTING].control, 2000, &frame), -ESHUTDOWN);
    cr_assert_not(gw_control_is_lost(pair.ends[ACCEPTING].control));
    pair_free(&pair);
}

/* ---- volume ---- */

#define BATCH 10u /* frames that the loop back end holds for a peer that does not poll */

ON_EACH_TRANSPORT(control, thousands_of_frames_arrive_in_order)
{
    struct pair pair;
    struct gw_control_frame frame;

    pair_open(&pair, transport);
    for (unsigned round = 0; round < 400; round++) {
        for (unsigned i = 0; i < BATCH; i++) {
            json_t *message = json_pack("{s:i}", "n", (int)(round * BATCH + i));

            cr_assert_eq(gw_control_send(pair.ends[round % 2].control, message), 0, "%s",
                         gw_error_message());
            json_decref(message);
        }
        for (unsigned i = 0; i < BATCH; i++) {
            cr_assert_eq(gw_control_receive(pair.ends[1 - round % 2].control, 2000, &frame), 0);
            cr_assert_eq(json_integer_value(json_object_get(frame.message, "n")),
                         round * BATCH + i);
            json_decref(frame.message);
        }
    }
    pair_free(&pair);
}

#define BIG (16u << 20)

struct sender {
    struct gw_control *control;
    uint8_t *bytes;
    int rc;
};

static void *send_big(void *context)
{
    struct sender *sender = context;

    for (uint32_t at = 0; at < BIG && sender->rc == 0; at += GW_CONTROL_FRAME_MAX)
        sender->rc =
            gw_control_send_bytes(sender->control, sender->bytes + at, GW_CONTROL_FRAME_MAX);
    return NULL;
}

static void receive_big(struct gw_control *control, const uint8_t *expected)
{
    struct gw_control_frame frame;

    for (uint32_t at = 0; at < BIG; at += GW_CONTROL_FRAME_MAX) {
        cr_assert_eq(gw_control_receive(control, 10000, &frame), 0, "%s", gw_error_message());
        cr_assert_eq(frame.length, GW_CONTROL_FRAME_MAX);
        cr_assert(memcmp(frame.bytes, expected + at, frame.length) == 0);
    }
}

static uint8_t *random_bytes(void)
{
    uint8_t *bytes = malloc(BIG);

    cr_assert_not_null(bytes);
    RAND_bytes(bytes, BIG);
    return bytes;
}

ON_EACH_TRANSPORT(control, a_device_state_of_16_mib_arrives_whole)
{
    struct pair pair;
    struct sender sender = {.bytes = random_bytes()};
    pthread_t thread;

    pair_open(&pair, transport);
    sender.control = pair.ends[DIALLING].control;
    pthread_create(&thread, NULL, send_big, &sender);
    receive_big(pair.ends[ACCEPTING].control, sender.bytes);
    pthread_join(thread, NULL);
    cr_assert_eq(sender.rc, 0);
    free(sender.bytes);
    pair_free(&pair);
}

/* Sends, and only then receives. */
static void *send_and_receive(void *context)
{
    struct sender *sender = context;
    struct gw_control_frame frame;

    sender->rc = gw_control_send_bytes(sender->control, sender->bytes, GW_CONTROL_FRAME_MAX);
    if (!sender->rc)
        sender->rc = gw_control_receive(sender->control, 5000, &frame);
    if (!sender->rc)
        memcpy(sender->bytes, frame.bytes, frame.length);
    return NULL;
}

/* Both ends send more than any queue holds before either receives. */
ON_EACH_TRANSPORT(control, two_ends_that_both_send_do_not_lock_each_other)
{
    struct pair pair;
    struct sender senders[2] = {{.bytes = random_bytes()}, {.bytes = random_bytes()}};
    uint8_t first[2] = {senders[0].bytes[GW_CONTROL_FRAME_MAX - 1],
                        (uint8_t)~senders[0].bytes[GW_CONTROL_FRAME_MAX - 1]};
    pthread_t threads[2];

    pair_open(&pair, transport);
    senders[1].bytes[GW_CONTROL_FRAME_MAX - 1] = first[1];
    for (unsigned i = 0; i < 2; i++) {
        senders[i].control = pair.ends[i].control;
        pthread_create(&threads[i], NULL, send_and_receive, &senders[i]);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(senders[i].rc, 0, "end %u: %d", i, senders[i].rc);
        cr_assert_eq(senders[i].bytes[GW_CONTROL_FRAME_MAX - 1], first[1 - i]);
        free(senders[i].bytes);
    }
    pair_free(&pair);
}

ON_EACH_TRANSPORT(control, a_frame_beyond_the_limit_is_refused_and_the_session_lives)
{
    struct pair pair;
    struct gw_control_frame frame;
    uint8_t *bytes = random_bytes();

    pair_open(&pair, transport);
    cr_assert_eq(gw_control_send_bytes(pair.ends[0].control, bytes, GW_CONTROL_FRAME_MAX + 1),
                 -EMSGSIZE);
    cr_assert_eq(gw_control_send_bytes(pair.ends[0].control, bytes, 0), 0);
    cr_assert_eq(gw_control_receive(pair.ends[1].control, 2000, &frame), 0);
    cr_assert_eq(frame.length, 0);
    cr_assert_null(frame.message);
    free(bytes);
    pair_free(&pair);
}

/* ---- waiting ---- */

ON_EACH_TRANSPORT(control, receive_times_out_and_the_session_lives)
{
    struct pair pair;
    struct gw_control_frame frame;
    json_t *message = json_object();

    pair_open(&pair, transport);
    cr_assert_eq(gw_control_receive(pair.ends[0].control, 0, &frame), -ETIMEDOUT);
    cr_assert_eq(gw_control_receive(pair.ends[0].control, 30, &frame), -ETIMEDOUT);
    cr_assert_eq(gw_control_send(pair.ends[1].control, message), 0);
    cr_assert_eq(gw_control_receive(pair.ends[0].control, 2000, &frame), 0, "%s",
                 gw_error_message());
    json_decref(frame.message);
    json_decref(message);
    pair_free(&pair);
}

static void *send_later(void *context)
{
    struct sender *sender = context;

    poll(NULL, 0, 100);
    sender->rc = gw_control_send_bytes(sender->control, "late", 4);
    return NULL;
}

ON_EACH_TRANSPORT(control, an_armed_descriptor_wakes_a_sleeper)
{
    struct pair pair;
    struct gw_control_frame frame;
    struct sender sender = {0};
    struct pollfd item = {.events = POLLIN};
    pthread_t thread;
    int rc;

    pair_open(&pair, transport);
    sender.control = pair.ends[ACCEPTING].control;
    pthread_create(&thread, NULL, send_later, &sender);
    do {
        item.fd = gw_control_arm(pair.ends[DIALLING].control);
        cr_assert(item.fd >= 0);
        rc = gw_control_receive(pair.ends[DIALLING].control, 0, &frame);
        if (rc == -ETIMEDOUT)
            cr_assert_eq(poll(&item, 1, 5000), 1, "the descriptor stayed silent");
    } while (rc == -ETIMEDOUT);
    cr_assert_eq(rc, 0, "%s", gw_error_message());
    cr_assert_eq(frame.length, 4);
    pthread_join(thread, NULL);
    pair_free(&pair);
}

/* ---- ends ---- */

ON_EACH_TRANSPORT(control, an_orderly_end_is_told_after_the_last_frame)
{
    struct pair pair;
    struct gw_control_frame frame;

    pair_open(&pair, transport);
    cr_assert_eq(gw_control_send_bytes(pair.ends[0].control, "last", 4), 0);
    gw_control_close(pair.ends[0].control);
    pair.ends[0].control = NULL;
    cr_assert_eq(gw_control_receive(pair.ends[1].control, 2000, &frame), 0, "%s",
                 gw_error_message());
    cr_assert_arr_eq(frame.bytes, "last", 4);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(gw_control_receive(pair.ends[1].control, 2000, &frame), -ESHUTDOWN);
        cr_words_contain(gw_error_message(), "the peer ended the session");
    }
    cr_assert_eq(gw_control_send_bytes(pair.ends[1].control, "x", 1), -ESHUTDOWN);
    pair_free(&pair);
}
