/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers that do not behave: garbage, silence, death in the middle, and one that holds the right key
 * and speaks TLS, but sends what no godwit would.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/transport/link/pair.h"
#include "transport/link/frame.h"
#include "transport/link/greeting.h"
#include "transport/link/private.h"
#include "transport/link/wire.h"

/* The dialling end, in the test's own hands; the accepting one runs gw_control_accept. */
struct puppet {
    struct pair pair;
    struct gw_wire wire;
    struct gw_tls *tls;
    pthread_t thread;
    uint64_t started_ns;
};

static void *accept_control(void *context)
{
    struct pair *pair = context;
    struct end *end = &pair->ends[ACCEPTING];
    struct gw_control_options options = {.credentials = end->credentials,
                                         .timeout_ms = pair->timeout_ms};
    struct gw_request *request = NULL;
    int rc = gw_next_request(pair->listener, 5000, &request);

    memcpy(options.instance_id, end->instance_id, GW_ID_SIZE);
    if (!rc)
        rc = gw_control_accept(request, &options, &end->control);
    gw_error_take(rc, &end->error);
    return NULL;
}

static void knock(struct puppet *puppet, const char *transport, int timeout_ms)
{
    struct pair *pair = &puppet->pair;
    struct gw_hello hello = {.role = GW_HELLO_CONTROL};
    uint8_t bytes[GW_HELLO_MAX];
    struct gw_connect_options options = {.hello = bytes, .hello_length = sizeof(bytes)};

    memset(puppet, 0, sizeof(*puppet));
    pair_init(pair, transport);
    pair->timeout_ms = timeout_ms;
    pair_make_psk(pair, "lab.psk", "lab");
    for (unsigned i = 0; i < 2; i++)
        pair->ends[i].credentials = pair_load_psk(pair, "lab.psk");
    pthread_create(&puppet->thread, NULL, accept_control, pair);
    puppet->started_ns = gw_clock_ns();
    gw_hello_write(&hello, bytes);
    cr_assert_eq(gw_wire_open(&puppet->wire, pair->transport, NULL), 0);
    options.peer = pair->address;
    options.channel = (struct gw_channel_options){
        .domain = puppet->wire.domain, .poller = puppet->wire.poller, .timeout_ms = 5000};
    cr_assert_eq(gw_connect(pair->transport, &options, &puppet->wire.channel), 0, "%s",
                 gw_error_message());
    cr_assert_eq(gw_tls_new(pair->ends[DIALLING].credentials, true, &puppet->tls), 0);
}

/* One round of carrying both ways, at most 100 ms. */
static int carry(struct puppet *puppet)
{
    int rc = gw_wire_post(&puppet->wire, puppet->tls, true);

    if (rc == 0 || rc == -EAGAIN)
        rc = gw_wire_pump(&puppet->wire, puppet->tls);
    if (rc == 0)
        rc = gw_wire_wait(&puppet->wire, gw_clock_ns() + 100 * GW_NS_PER_MS);
    return rc == -ETIMEDOUT ? 0 : rc;
}

static void shake(struct puppet *puppet)
{
    int rc;

    while ((rc = gw_tls_handshake(puppet->tls)) == -EAGAIN)
        cr_assert(carry(puppet) >= 0, "%s", gw_error_message());
    cr_assert_eq(rc, 0, "%s", gw_error_message());
}

static void say(struct puppet *puppet, enum gw_frame_type type, const void *bytes, size_t length)
{
    uint8_t header[GW_FRAME_HEADER_SIZE];

    gw_frame_header_write(type, (uint32_t)length, header);
    cr_assert_eq(gw_tls_write(puppet->tls, header, sizeof(header)), 0);
    for (size_t at = 0; at < length; at += 16384)
        cr_assert_eq(gw_tls_write(puppet->tls, (const char *)bytes + at,
                                  length - at < 16384 ? length - at : 16384),
                     0);
    carry(puppet);
}

static void say_json(struct puppet *puppet, json_t *message)
{
    char *text = json_dumps(message, 0);

    say(puppet, GW_FRAME_JSON, text, strlen(text));
    free(text);
    json_decref(message);
}

/* A session that is established, with the puppet at one end. */
static void greet(struct puppet *puppet)
{
    struct gw_greeting greeting = {.instance_id = {9}};
    int rounds = 0;

    shake(puppet);
    say_json(puppet, gw_greeting_to_json(&greeting));
    say_json(puppet, gw_verdict_to_json(NULL));
    while (!puppet->pair.ends[ACCEPTING].control && rounds++ < 50)
        carry(puppet);
    pthread_join(puppet->thread, NULL);
    cr_assert_eq(puppet->pair.ends[ACCEPTING].error.code, 0, "%s",
                 puppet->pair.ends[ACCEPTING].error.text);
}

/* Carries until the accepting end has given up, and compares its reason. */
static void expect(struct puppet *puppet, int code, const char *words)
{
    struct gw_error *error = &puppet->pair.ends[ACCEPTING].error;

    while (puppet->wire.channel && carry(puppet) >= 0)
        ;
    pthread_join(puppet->thread, NULL);
    cr_assert_eq(error->code, code, "%d: %s", error->code, error->text);
    cr_words_contain(error->text, words);
}

static void end(struct puppet *puppet)
{
    gw_wire_close(&puppet->wire);
    gw_tls_free(puppet->tls);
    pair_free(&puppet->pair);
}

ON_EACH_TRANSPORT(intruder, garbage_is_refused)
{
    static const char garbage[] = "GET / HTTP/1.1\r\nHost: hostb\r\n\r\n";
    struct gw_wire_send *send;
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    send = puppet.wire.free_sends;
    puppet.wire.free_sends = send->next_free;
    puppet.wire.busy++;
    memcpy(send->bytes, garbage, sizeof(garbage));
    send->send.length = sizeof(garbage);
    cr_assert_eq(gw_send(puppet.wire.channel, &send->send), 0);
    expect(&puppet, -EPROTO, "the peer sent what is not TLS 1.3");
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, silence_times_out)
{
    struct puppet puppet;

    knock(&puppet, transport, 300);
    expect(&puppet, -ETIMEDOUT, "the peer did not finish the handshake in time");
    cr_assert(gw_clock_ns() - puppet.started_ns < 3 * GW_NS_PER_S);
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, silence_after_the_handshake_times_out)
{
    struct puppet puppet;

    knock(&puppet, transport, 500);
    shake(&puppet);
    expect(&puppet, -ETIMEDOUT, "the peer did not finish the handshake in time");
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, death_in_the_handshake_is_an_error)
{
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    cr_assert_eq(gw_tls_handshake(puppet.tls), -EAGAIN);
    carry(&puppet);
    gw_wire_close(&puppet.wire);
    pthread_join(puppet.thread, NULL);
    cr_assert_eq(puppet.pair.ends[ACCEPTING].error.code, -ECONNRESET, "%d %s",
                 puppet.pair.ends[ACCEPTING].error.code, puppet.pair.ends[ACCEPTING].error.text);
    cr_assert(gw_clock_ns() - puppet.started_ns < 3 * GW_NS_PER_S, "it waited for its timeout");
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, death_of_an_open_session_is_an_error_for_ever)
{
    struct gw_control_frame frame;
    struct puppet puppet;
    struct gw_control *control;

    knock(&puppet, transport, 5000);
    greet(&puppet);
    control = puppet.pair.ends[ACCEPTING].control;
    gw_wire_close(&puppet.wire);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(gw_control_receive(control, 2000, &frame), -ECONNRESET, "%s",
                     gw_error_message());
    cr_assert_eq(gw_control_send_bytes(control, "x", 1), -ECONNRESET);
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, raw_bytes_instead_of_a_greeting)
{
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    shake(&puppet);
    say(&puppet, GW_FRAME_BYTES, "hello", 5);
    expect(&puppet, -EPROTO, "the peer began with raw bytes");
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, another_link_id_inside_tls_is_refused)
{
    struct gw_greeting greeting = {.instance_id = {9}, .link_id = {1}};
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    shake(&puppet);
    say_json(&puppet, gw_greeting_to_json(&greeting));
    expect(&puppet, -EACCES, "the peer means another link");
    end(&puppet);
}

/* The other end is told, in a frame that any version can read. */
ON_EACH_TRANSPORT(intruder, another_protocol_is_refused_on_both_ends)
{
    struct gw_greeting greeting = {.instance_id = {9}};
    json_t *message = gw_greeting_to_json(&greeting);
    char text[4096] = {0};
    struct puppet puppet;
    size_t got, at = 0;

    knock(&puppet, transport, 5000);
    shake(&puppet);
    json_object_set_new(message, "protocol", json_integer(99));
    say_json(&puppet, message);
    for (int rounds = 0; rounds < 50 && !memmem(text, sizeof(text), "refused", 7); rounds++) {
        carry(&puppet);
        while (gw_tls_read(puppet.tls, text + at, sizeof(text) - 1 - at, &got) == 0)
            at += got;
    }
    cr_assert_not_null(memmem(text, sizeof(text), "speaks protocol 99", 18));
    gw_tls_end(puppet.tls);
    expect(&puppet, -EACCES, "install the same version on both");
    end(&puppet);
}

/* What an authenticated peer may not send: its session ends with the reason. */
static void expect_end(const char *transport, enum gw_frame_type type, const void *bytes,
                       size_t length, const char *words)
{
    struct gw_control_frame frame;
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    greet(&puppet);
    say(&puppet, type, bytes, length);
    cr_assert_eq(gw_control_receive(puppet.pair.ends[ACCEPTING].control, 2000, &frame), -EPROTO,
                 "%s", gw_error_message());
    cr_words_contain(gw_error_message(), words);
    cr_assert_eq(gw_control_receive(puppet.pair.ends[ACCEPTING].control, 2000, &frame), -EPROTO);
    end(&puppet);
}

ON_EACH_TRANSPORT(intruder, deep_json_ends_the_session)
{
    char text[200];

    memset(text, '[', sizeof(text));
    memcpy(text, "{\"a\":", 5);
    expect_end(transport, GW_FRAME_JSON, text, sizeof(text), "nested deeper");
}

ON_EACH_TRANSPORT(intruder, broken_json_ends_the_session)
{
    expect_end(transport, GW_FRAME_JSON, "{\"a\":", 5, "no JSON");
}

ON_EACH_TRANSPORT(intruder, an_unknown_frame_ends_the_session)
{
    expect_end(transport, (enum gw_frame_type)77, "x", 1, "unknown type 77");
}

ON_EACH_TRANSPORT(intruder, an_oversize_frame_ends_the_session)
{
    uint8_t header[GW_FRAME_HEADER_SIZE];
    struct gw_control_frame frame;
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    greet(&puppet);
    gw_frame_header_write(GW_FRAME_BYTES, UINT32_MAX, header);
    cr_assert_eq(gw_tls_write(puppet.tls, header, sizeof(header)), 0);
    carry(&puppet);
    cr_assert_eq(gw_control_receive(puppet.pair.ends[ACCEPTING].control, 2000, &frame), -EPROTO);
    cr_words_contain(gw_error_message(), "4294967295 bytes, more than");
    end(&puppet);
}

/* Bytes slipped into the channel behind TLS's back. */
ON_EACH_TRANSPORT(intruder, bytes_slipped_into_an_open_session_end_it)
{
    struct gw_control_frame frame;
    struct gw_wire_send *send;
    struct puppet puppet;

    knock(&puppet, transport, 5000);
    greet(&puppet);
    send = puppet.wire.free_sends;
    puppet.wire.free_sends = send->next_free;
    puppet.wire.busy++;
    /* A record of application data with nobody's tag. */
    memset(send->bytes, 0x41, 64);
    memcpy(send->bytes, "\x17\x03\x03\x00\x3b", 5);
    send->send.length = 64;
    cr_assert_eq(gw_send(puppet.wire.channel, &send->send), 0);
    carry(&puppet);
    cr_assert_eq(gw_control_receive(puppet.pair.ends[ACCEPTING].control, 2000, &frame), -EPROTO);
    cr_words_contain(gw_error_message(), "altered on the way");
    end(&puppet);
}

/* An end that never reads: the sender must not wait for ever. */
ON_EACH_TRANSPORT(intruder, a_peer_that_takes_nothing_is_given_up)
{
    struct puppet puppet;
    uint8_t *bytes = calloc(1, GW_CONTROL_FRAME_MAX);
    uint64_t started;
    int rc = 0;

    knock(&puppet, transport, 5000);
    greet(&puppet);
    started = gw_clock_ns();
    for (unsigned i = 0; i < 64 && rc == 0; i++)
        rc =
            gw_control_send_bytes(puppet.pair.ends[ACCEPTING].control, bytes, GW_CONTROL_FRAME_MAX);
    cr_assert_eq(rc, -ETIMEDOUT, "%d %s", rc, gw_error_message());
    cr_words_contain(gw_error_message(), "takes nothing more");
    cr_assert(gw_clock_ns() - started < 20 * GW_NS_PER_S);
    cr_assert_eq(gw_control_send_bytes(puppet.pair.ends[ACCEPTING].control, "x", 1), -ETIMEDOUT);
    free(bytes);
    end(&puppet);
}
