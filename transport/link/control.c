/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control session: makes one (dial or admit, TLS, hellos), carries frames, keeps what data
 * channels need of it. What a data channel does with its keys is seal.c's business.
 */
#include "transport/link/control.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "transport/link/frame.h"
#include "transport/link/greeting.h"
#include "transport/link/private.h"
#include "transport/link/wire.h"

#define DEFAULT_TIMEOUT_MS 10000
#define SEND_TIMEOUT_MS    10000 /* without any progress */
#define LEAVE_TIMEOUT_MS   50
#define ALIVE_BURST        64 /* signs of life that one receive takes */
#define CLOSE_TIMEOUT_MS   1000
#define BACKLOG_MAX        (2ull * GW_CONTROL_FRAME_MAX) /* taken in while a send is blocked */
#define NUMBER_WORDS       ((GW_CHANNEL_LAST + 64) / 64)

struct gw_control {
    struct gw_wire wire;
    struct gw_tls *tls;
    struct gw_frame_reader reader;
    struct gw_peer peer;
    struct gw_address local;
    struct gw_greeting mine, theirs;
    uint8_t link_id[GW_ID_SIZE];
    uint8_t nonces[2 * GW_NONCE_SIZE];
    const struct gw_network *trusted;
    unsigned trusted_count;
    bool is_dialling;
    bool has_refused; /* the peer's greeting, and told it why */
    char peer_text[GW_ADDRESS_TEXT_MAX];
    struct gw_error death;
    bool is_lost; /* it died with its channel, or of the peer's silence */
    int send_timeout_ms;
    int alive_ms;            /* between signs of life */
    bool has_promised;       /* this side, to speak again soon */
    uint64_t told_ns;        /* when this side last said that it lives */
    uint64_t heard_until_ns; /* until when the peer promised to speak again; 0: no promise */
    /* Taken channel numbers, one bit each; any thread. */
    _Atomic uint64_t numbers[NUMBER_WORDS];
};

static uint64_t deadline_of(int timeout_ms)
{
    return timeout_ms < 0 ? GW_WIRE_FOREVER : gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
}

/* The first cause stays; every later call answers the same. */
static int die(struct gw_control *control, int error)
{
    if (!control->death.code) {
        gw_fail(error, "%s: %s", control->peer_text, gw_error_message());
        gw_error_take(error, &control->death);
        control->is_lost = (control->wire.death.code != 0 || error == -ETIMEDOUT) &&
                           error != -EACCES && error != -ESHUTDOWN;
    }
    return gw_error_raise(&control->death);
}

/* ---- frames ---- */

/* 1: a frame is complete; 0: more must come. */
static int take_frame(struct gw_control *control)
{
    void *into;
    size_t room, got;
    int rc;

    for (;;) {
        rc = gw_frame_want(&control->reader, &into, &room);
        if (rc)
            return rc;
        rc = gw_tls_read(control->tls, into, room, &got);
        if (rc)
            return rc == -EAGAIN ? 0 : rc;
        rc = gw_frame_add(&control->reader, got);
        if (rc)
            return rc;
    }
}

/* Until a frame is complete: 0. -ETIMEDOUT, without a message, leaves the session alive. */
static int await_frame(struct gw_control *control, uint64_t deadline)
{
    int rc;

    for (;;) {
        rc = take_frame(control);
        if (rc)
            return rc == 1 ? 0 : rc;
        rc = gw_wire_post(&control->wire, control->tls, true);
        if (rc == 0 || rc == -EAGAIN || control->wire.death.code)
            rc = gw_wire_pump(&control->wire, control->tls);
        if (rc == 0)
            rc = gw_wire_wait(&control->wire, deadline);
        if (rc < 0)
            return rc;
    }
}

/* While a send is blocked: takes in what comes, so that two ends that both send go on. A channel
 * that died is given the chance to say why first. */
static int wait_for_room(struct gw_control *control, uint64_t *deadline)
{
    uint64_t before = control->wire.done_count;
    int rc = 0;

    if (gw_tls_fed(control->tls) < BACKLOG_MAX)
        rc = gw_wire_pump(&control->wire, control->tls);
    if (rc == 0 && control->wire.done_count == before)
        rc = gw_wire_wait(&control->wire, *deadline);
    if (control->wire.done_count != before)
        *deadline = deadline_of(control->send_timeout_ms);
    return rc < 0 ? rc : 0;
}

/* Posts what is pending; with is_last waits until all of it is in the transport's hands. */
static int push(struct gw_control *control, bool is_last, uint64_t deadline)
{
    int rc;

    for (;;) {
        rc = gw_wire_post(&control->wire, control->tls, is_last);
        if (rc && rc != -EAGAIN)
            return rc;
        if (rc == 0 && (!is_last || control->wire.busy == 0))
            return 0;
        rc = wait_for_room(control, &deadline);
        if (rc == -ETIMEDOUT && !control->wire.death.code)
            return gw_fail(rc, "the peer takes nothing more");
        if (rc)
            return rc;
    }
}

/* A peer that refuses closes its end, and the write that notices is seldom the read that says why.
 * The session is over: what else has come is dropped. */
static int prefer_reason(struct gw_control *control, int error)
{
    uint8_t dropped[4096];
    struct gw_error first;
    size_t got;
    int rc = error;

    gw_error_take(error, &first);
    while (gw_wire_pump(&control->wire, control->tls) > 0)
        do
            rc = gw_tls_read(control->tls, dropped, sizeof(dropped), &got);
        while (rc == 0);
    if (rc == -EACCES || rc == -ESHUTDOWN)
        return rc;
    return gw_error_raise(&first);
}

static int send_frame(struct gw_control *control, enum gw_frame_type type, const void *bytes,
                      size_t length)
{
    uint8_t first[GW_TLS_WRITE_MAX];
    size_t at = gw_min(length, sizeof(first) - GW_FRAME_HEADER_SIZE);
    int rc;

    if (control->death.code)
        return gw_error_raise(&control->death);
    if (length > GW_CONTROL_FRAME_MAX)
        return gw_fail(-EMSGSIZE, "a frame of %zu bytes is more than %u", length,
                       GW_CONTROL_FRAME_MAX);
    gw_frame_header_write(type, (uint32_t)length, first);
    if (at)
        memcpy(first + GW_FRAME_HEADER_SIZE, bytes, at);
    rc = gw_tls_write(control->tls, first, at + GW_FRAME_HEADER_SIZE);
    while (!rc && at < length) {
        size_t piece = gw_min(length - at, GW_TLS_WRITE_MAX);

        rc = push(control, false, deadline_of(control->send_timeout_ms));
        if (!rc)
            rc = gw_tls_write(control->tls, (const uint8_t *)bytes + at, piece);
        at += piece;
    }
    if (!rc)
        rc = push(control, true, deadline_of(control->send_timeout_ms));
    return rc;
}

static int send_json(struct gw_control *control, const json_t *message)
{
    char *text = json_dumps(message, JSON_COMPACT);
    int rc;

    if (!text)
        return gw_fail(-EINVAL, "a message that cannot be written as JSON");
    rc = send_frame(control, GW_FRAME_JSON, text, strlen(text));
    free(text);
    return rc;
}

int gw_control_send(struct gw_control *control, const json_t *message)
{
    int rc = send_json(control, message);

    /* A message that was refused before its first byte leaves the session whole. */
    return rc && rc != -EINVAL && rc != -EMSGSIZE ? die(control, prefer_reason(control, rc)) : rc;
}

int gw_control_send_bytes(struct gw_control *control, const void *bytes, uint32_t length)
{
    int rc = send_frame(control, GW_FRAME_BYTES, bytes, length);

    return rc && rc != -EMSGSIZE ? die(control, prefer_reason(control, rc)) : rc;
}

static int finish_frame(struct gw_control *control, struct gw_control_frame *out)
{
    struct gw_control_frame frame = {.bytes = control->reader.body,
                                     .length = control->reader.length};
    int rc = 0;

    if (gw_frame_type(&control->reader) == GW_FRAME_JSON) {
        rc = gw_frame_parse(frame.bytes, frame.length, &frame.message);
        frame.bytes = NULL;
        frame.length = 0;
    }
    gw_frame_next(&control->reader);
    if (!rc)
        *out = frame;
    return rc;
}

/* TLS that finds the stream altered leaves an alert. It goes out if it can at once. */
static void tell_why(struct gw_control *control)
{
    struct gw_channel *ready;

    if (!control->wire.death.code && gw_tls_pending(control->tls) > 0 &&
        gw_wire_post(&control->wire, control->tls, true) == 0)
        gw_poll(control->wire.poller, &ready, 1);
}

/* A host that is gone lets its channel die of ETIMEDOUT; whoever receives would take that for "nothing
 * yet" and wait for ever. */
static int dead_receive(const struct gw_control *control)
{
    int rc = gw_error_raise(&control->death);

    return rc == -ETIMEDOUT ? -ECONNRESET : rc;
}

/* ---- signs of life ---- */

static void take_alive(struct gw_control *control)
{
    uint32_t within_ms = gw_get_le32(control->reader.body);

    control->heard_until_ns = within_ms ? gw_clock_ns() + within_ms * GW_NS_PER_MS : 0;
    gw_frame_next(&control->reader);
}

/* The next frame that is for the caller. */
static int await_message(struct gw_control *control, uint64_t deadline)
{
    for (unsigned i = 0; i < ALIVE_BURST; i++) {
        int rc = await_frame(control, deadline);

        if (rc || gw_frame_type(&control->reader) != GW_FRAME_ALIVE)
            return rc;
        take_alive(control);
    }
    return -ETIMEDOUT;
}

/* What the channel does not take now goes with what is sent next. */
static int tell_alive(struct gw_control *control, uint32_t within_ms)
{
    uint8_t frame[GW_FRAME_HEADER_SIZE + GW_FRAME_ALIVE_SIZE];
    int rc;

    gw_frame_header_write(GW_FRAME_ALIVE, GW_FRAME_ALIVE_SIZE, frame);
    gw_put_le32(frame + GW_FRAME_HEADER_SIZE, within_ms);
    control->has_promised = within_ms != 0;
    control->told_ns = within_ms ? gw_clock_ns() : 0;
    rc = gw_tls_write(control->tls, frame, sizeof(frame));
    if (!rc)
        rc = gw_wire_post(&control->wire, control->tls, true);
    return rc && rc != -EAGAIN ? die(control, rc) : 0;
}

int gw_control_keep_alive(struct gw_control *control)
{
    uint64_t now = gw_clock_ns();

    if (control->death.code)
        return dead_receive(control);
    if (control->heard_until_ns && now > control->heard_until_ns) {
        die(control, gw_fail(-ETIMEDOUT, "the peer is silent"));
        return dead_receive(control);
    }
    /* Whoever has just begun to wait has most often been answered before this says anything. */
    if (!control->told_ns)
        control->told_ns = now;
    if (now - control->told_ns < (uint64_t)control->alive_ms * GW_NS_PER_MS)
        return 0;
    /* One that the channel has not taken yet says as much as two. */
    if (control->wire.busy > 0 || gw_tls_pending(control->tls) > 0)
        return 0;
    return tell_alive(control, (uint32_t)control->alive_ms * GW_ALIVE_PERCENT / 100)
               ? dead_receive(control)
               : 0;
}

void gw_control_leave(struct gw_control *control)
{
    struct gw_error kept;

    control->told_ns = 0;
    if (control->death.code || !control->has_promised)
        return;
    /* Whoever leaves in trouble keeps its words. Nobody polls for a while, so it has to go now. */
    gw_error_take(-EINVAL, &kept);
    if (tell_alive(control, 0) == 0)
        push(control, true, deadline_of(LEAVE_TIMEOUT_MS));
    gw_error_raise(&kept);
}

bool gw_control_is_lost(const struct gw_control *control)
{
    return control->is_lost;
}

void gw_control_give_up(struct gw_control *control)
{
    die(control, -ETIMEDOUT);
}

void gw_control_set_patience(struct gw_control *control, int timeout_ms)
{
    control->send_timeout_ms = timeout_ms;
}

/* ---- receiving ---- */

int gw_control_receive(struct gw_control *control, int timeout_ms, struct gw_control_frame *out)
{
    int rc;

    if (control->death.code)
        return dead_receive(control);
    rc = await_message(control, deadline_of(timeout_ms));
    if (rc == -ETIMEDOUT && !control->wire.death.code)
        return gw_fail(rc, "%s: no message within %d ms", control->peer_text, timeout_ms);
    if (!rc)
        rc = finish_frame(control, out);
    if (!rc)
        return 0;
    die(control, rc);
    tell_why(control);
    return dead_receive(control);
}

int gw_control_arm(struct gw_control *control)
{
    return gw_poller_arm(control->wire.poller);
}

/* ---- establishment ---- */

static int handshake(struct gw_control *control, uint64_t deadline)
{
    for (;;) {
        int rc = gw_tls_handshake(control->tls);

        /* What a failed handshake leaves to be sent is an alert, which linger sends. */
        if (rc && rc != -EAGAIN)
            return rc;
        if (rc == 0)
            return push(control, true, deadline);
        rc = gw_wire_post(&control->wire, control->tls, true);
        if (rc == 0 || rc == -EAGAIN || control->wire.death.code)
            rc = gw_wire_pump(&control->wire, control->tls);
        if (rc == 0)
            rc = gw_wire_wait(&control->wire, deadline);
        if (rc < 0)
            return rc;
    }
}

static int receive_json(struct gw_control *control, uint64_t deadline, json_t **out)
{
    struct gw_control_frame frame;
    int rc = await_frame(control, deadline);

    if (!rc)
        rc = finish_frame(control, &frame);
    if (!rc && !frame.message)
        rc = gw_fail(-EPROTO, "the peer began with raw bytes");
    if (!rc)
        *out = frame.message;
    return rc;
}

/* The hellos, then each side's verdict on the other's: both learn why. */
static int greet(struct gw_control *control, uint64_t deadline)
{
    struct gw_error refusal = {0};
    json_t *message = gw_greeting_to_json(&control->mine);
    int rc = message ? send_json(control, message) : gw_fail(-ENOMEM, "no memory for a hello");

    json_decref(message);
    message = NULL;
    if (!rc)
        rc = receive_json(control, deadline, &message);
    if (rc)
        return rc;
    rc = gw_greeting_check(&control->mine, message, &control->theirs);
    json_decref(message);
    gw_error_take(rc, &refusal);
    message = gw_verdict_to_json(rc ? &refusal : NULL);
    rc = message ? send_json(control, message) : gw_fail(-ENOMEM, "no memory for a verdict");
    json_decref(message);
    message = NULL;
    control->has_refused = refusal.code != 0;
    if (refusal.code)
        return gw_error_raise(&refusal);
    if (!rc)
        rc = receive_json(control, deadline, &message);
    if (rc)
        return rc;
    rc = gw_verdict_check(message);
    json_decref(message);
    return rc;
}

static void remember_peer(struct gw_control *control)
{
    const uint8_t *first = control->is_dialling ? control->mine.nonce : control->theirs.nonce;
    const uint8_t *second = control->is_dialling ? control->theirs.nonce : control->mine.nonce;

    memcpy(control->nonces, first, GW_NONCE_SIZE);
    memcpy(control->nonces + GW_NONCE_SIZE, second, GW_NONCE_SIZE);
    snprintf(control->peer.name, sizeof(control->peer.name), "%s", gw_tls_peer_name(control->tls));
    memcpy(control->peer.version, control->theirs.version, sizeof(control->peer.version));
    memcpy(control->peer.instance_id, control->theirs.instance_id, GW_ID_SIZE);
    control->peer.trusts_addresses = control->theirs.trusts_addresses;
}

/* After this side refused: lets the peer read why before the channel is cut, until it ends by
 * itself. */
static void linger(struct gw_control *control)
{
    uint64_t deadline = deadline_of(CLOSE_TIMEOUT_MS);
    uint8_t dropped[1024];
    size_t got;
    int rc = 0;

    if (control->has_refused)
        gw_tls_end(control->tls);
    while (rc >= 0) {
        rc = gw_wire_post(&control->wire, control->tls, true);
        if (rc && rc != -EAGAIN)
            return;
        rc = gw_wire_pump(&control->wire, control->tls);
        if (gw_tls_fed(control->tls) > BACKLOG_MAX)
            return;
        if (rc == 0)
            rc = gw_wire_wait(&control->wire, deadline);
        if (!control->has_refused || rc < 0)
            continue;
        do
            rc = gw_tls_read(control->tls, dropped, sizeof(dropped), &got);
        while (rc == 0);
        rc = rc == -EAGAIN ? 0 : rc;
    }
}

/* The channel is up; proves, greets. */
static int establish(struct gw_control *control, const struct gw_control_options *options,
                     uint64_t deadline)
{
    struct gw_channel_info info;
    int rc;

    gw_channel_info(control->wire.channel, &info);
    control->local = info.local;
    control->peer.address = info.peer;
    gw_address_format(&info.peer, control->peer_text, sizeof(control->peer_text));
    memcpy(control->mine.instance_id, options->instance_id, GW_ID_SIZE);
    memcpy(control->mine.link_id, control->link_id, GW_ID_SIZE);
    control->mine.trusts_addresses = gw_control_trusts(control, &info.local, &info.peer);
    rc = gw_tls_new(options->credentials, control->is_dialling, &control->tls);
    if (rc)
        return rc;
    rc = handshake(control, deadline);
    if (!rc)
        rc = greet(control, deadline);
    if (rc == -ETIMEDOUT && !control->wire.death.code)
        rc = gw_fail(rc, "the peer did not finish the handshake in time");
    if (rc && control->wire.death.code)
        rc = prefer_reason(control, rc);
    if (rc) {
        rc = die(control, rc);
        if (control->has_refused || gw_tls_pending(control->tls) > 0)
            linger(control);
        return gw_error_raise(&control->death);
    }
    remember_peer(control);
    return 0;
}

static int control_new(const struct gw_control_options *options, bool is_dialling,
                       struct gw_control **out)
{
    struct gw_control *control;

    if (!options->credentials)
        return gw_fail(-EINVAL, "no credentials: there is no session without proof");
    control = calloc(1, sizeof(*control));
    if (!control)
        return gw_fail(-ENOMEM, "no memory for a control session");
    control->is_dialling = is_dialling;
    control->send_timeout_ms = SEND_TIMEOUT_MS;
    control->alive_ms = options->alive_ms > 0 ? options->alive_ms : GW_ALIVE_EVERY_MS;
    control->trusted = options->trusted;
    control->trusted_count = options->trusted_count;
    if (RAND_bytes(control->mine.nonce, GW_NONCE_SIZE) != 1 ||
        (is_dialling && RAND_bytes(control->link_id, GW_ID_SIZE) != 1)) {
        free(control);
        return gw_fail(-EIO, "OpenSSL gives no random bytes (%s)", gw_openssl_reason());
    }
    *out = control;
    return 0;
}

static void control_free(struct gw_control *control)
{
    gw_wire_close(&control->wire);
    gw_tls_free(control->tls);
    gw_frame_reader_free(&control->reader);
    OPENSSL_cleanse(control, sizeof(*control));
    free(control);
}

/* Closing may leave messages of its own; the cause is what counts. */
static int give_up(struct gw_control *control, int error)
{
    struct gw_error cause;

    gw_error_take(error, &cause);
    if (control)
        control_free(control);
    return gw_error_raise(&cause);
}

int gw_control_connect(struct gw_transport *transport, const struct gw_address *peer,
                       const struct gw_control_options *options, struct gw_control **out)
{
    int timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    uint64_t deadline = deadline_of(timeout_ms);
    struct gw_hello hello = {.role = options->role ? options->role : GW_HELLO_CONTROL};
    struct gw_connect_options connect = {.peer = *peer, .hello_length = GW_HELLO_MAX};
    uint8_t bytes[GW_HELLO_MAX];
    struct gw_control *control;
    int rc = control_new(options, true, &control);

    if (rc)
        return rc;
    memcpy(hello.link_id, control->link_id, GW_ID_SIZE);
    memcpy(hello.nonce, control->mine.nonce, GW_NONCE_SIZE);
    gw_hello_write(&hello, bytes);
    connect.hello = bytes;
    rc = gw_wire_open(&control->wire, transport, NULL);
    if (!rc) {
        connect.channel = (struct gw_channel_options){.domain = control->wire.domain,
                                                      .poller = control->wire.poller,
                                                      .context = control,
                                                      .timeout_ms = timeout_ms};
        rc = gw_connect(transport, &connect, &control->wire.channel);
    }
    if (!rc)
        rc = establish(control, options, deadline);
    if (rc)
        return give_up(control, rc);
    *out = control;
    return 0;
}

int gw_control_accept(struct gw_request *request, const struct gw_control_options *options,
                      struct gw_control **out)
{
    int timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    uint64_t deadline = deadline_of(timeout_ms);
    struct gw_channel_options channel = {.timeout_ms = timeout_ms};
    struct gw_control *control = NULL;
    struct gw_error cause;
    struct gw_hello hello;
    int rc = gw_hello_parse(request, &hello);

    if (!rc && hello.role == GW_HELLO_DATA)
        rc = gw_fail(-EPROTO, "a data channel where a control session was expected");
    if (!rc)
        rc = control_new(options, false, &control);
    if (!rc) {
        memcpy(control->link_id, hello.link_id, GW_ID_SIZE);
        rc = gw_wire_open(&control->wire, request->transport, &request->local);
    }
    if (rc) {
        gw_error_take(rc, &cause);
        gw_reject(request, cause.text);
        gw_error_raise(&cause);
        return give_up(control, rc);
    }
    channel.domain = control->wire.domain;
    channel.poller = control->wire.poller;
    channel.context = control;
    rc = gw_accept(request, &channel, &control->wire.channel);
    if (!rc)
        rc = establish(control, options, deadline);
    if (rc)
        return give_up(control, rc);
    *out = control;
    return 0;
}

void gw_control_close(struct gw_control *control)
{
    if (!control)
        return;
    if (!control->death.code) {
        gw_tls_end(control->tls);
        /* The peer that does not take it in time sees a channel that died, as it would anyway. */
        push(control, true, deadline_of(CLOSE_TIMEOUT_MS));
    }
    control_free(control);
}

/* ---- what others ask of a session ---- */

const struct gw_peer *gw_control_peer(const struct gw_control *control)
{
    return &control->peer;
}

const uint8_t *gw_control_link_id(const struct gw_control *control)
{
    return control->link_id;
}

const struct gw_address *gw_control_local(const struct gw_control *control)
{
    return &control->local;
}

struct gw_transport *gw_control_transport(const struct gw_control *control)
{
    return control->wire.domain->transport;
}

const uint8_t *gw_control_nonces(const struct gw_control *control)
{
    return control->nonces;
}

bool gw_control_trusts(const struct gw_control *control, const struct gw_address *local,
                       const struct gw_address *peer)
{
    bool has_local = false, has_peer = false;

    for (unsigned i = 0; i < control->trusted_count; i++) {
        has_local |= gw_network_contains(&control->trusted[i], local);
        has_peer |= gw_network_contains(&control->trusted[i], peer);
    }
    return has_local && has_peer;
}

int gw_control_key(struct gw_control *control, uint32_t number, enum gw_key_use use,
                   enum gw_key_side side, uint8_t out[GW_EXPORT_SIZE])
{
    uint8_t context[GW_ID_SIZE + 6];

    memcpy(context, control->link_id, GW_ID_SIZE);
    gw_put_le32(context + GW_ID_SIZE, number);
    context[GW_ID_SIZE + 4] = (uint8_t)use;
    context[GW_ID_SIZE + 5] = (uint8_t)side;
    return gw_tls_export(control->tls, context, sizeof(context), out, GW_EXPORT_SIZE);
}

static bool take_bit(struct gw_control *control, uint32_t number)
{
    uint64_t bit = 1ull << (number % 64);

    return !(atomic_fetch_or(&control->numbers[number / 64], bit) & bit);
}

int gw_control_take_number(struct gw_control *control, uint32_t *number)
{
    if (*number > GW_CHANNEL_LAST)
        return gw_fail(-EINVAL, "channel %u: numbers end at %u", *number, GW_CHANNEL_LAST);
    if (*number) {
        if (take_bit(control, *number))
            return 0;
        return gw_fail(-EEXIST, "channel %u was used before in this session", *number);
    }
    /* The two ends of a session choose from opposite ends, so that neither is refused for a number
     * that the other has just chosen. */
    for (uint32_t i = 1; i <= GW_CHANNEL_LAST; i++) {
        uint32_t candidate = control->is_dialling ? i : GW_CHANNEL_LAST + 1 - i;

        if (take_bit(control, candidate)) {
            *number = candidate;
            return 0;
        }
    }
    return gw_fail(-ENOSPC, "this session has used all of its %u channels", GW_CHANNEL_LAST);
}
