/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a core: opening, what arrives, what leaves next, silence, the end. */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "transport/dpdk/private.h"

#define CLOSES         3u
#define KEEPALIVES     5u /* in the time after which silence is death */
#define FROM_DIALLING  "dial"
#define FROM_ANSWERING "answer"

static_assert(DPDK_SECRET_MIN <= GW_SECRET_MAX, "the link's secret is long enough");

/* The keys of OPEN and ACCEPT: the secret's alone, since no more is known yet. */
static int derive_setup(struct dpdk_core *core)
{
    static const char *const contexts[] = {"open", "accept"};
    struct dpdk_tag_key *keys[] = {&core->setup_send_key, &core->setup_receive_key};

    for (unsigned i = 0; i < 2; i++) {
        const char *context = contexts[core->is_dialling ? i : 1 - i];
        struct dpdk_tag_secret secret = {.secret = core->secret,
                                         .secret_length = core->secret_length,
                                         .context = context,
                                         .context_length = (uint32_t)strlen(context)};
        int rc = gw_dpdk_tag_derive(&secret, keys[i]);

        if (rc)
            return rc;
    }
    return 0;
}

/* The keys of everything else, bound to both ends' nonces, ids and incarnations: what belongs to
 * another life of the channel has another key. Then the secret is forgotten. */
static int derive_keys(struct dpdk_core *core)
{
    static const char *const names[] = {FROM_DIALLING, FROM_ANSWERING};
    struct dpdk_tag_key *keys[] = {&core->send_key, &core->receive_key};
    uint8_t context[8 + 2 * DPDK_NONCE_SIZE + 16] = {0};
    const uint8_t *first = core->is_dialling ? core->nonce : core->peer_nonce;
    const uint8_t *second = core->is_dialling ? core->peer_nonce : core->nonce;
    struct dpdk_tag_secret secret = {.secret = core->secret,
                                     .secret_length = core->secret_length,
                                     .context = context,
                                     .context_length = sizeof(context)};

    memcpy(context + 8, first, DPDK_NONCE_SIZE);
    memcpy(context + 8 + DPDK_NONCE_SIZE, second, DPDK_NONCE_SIZE);
    gw_put_le32(context + 40, core->is_dialling ? core->id : core->peer_id);
    gw_put_le32(context + 44, core->is_dialling ? core->incarnation : core->peer_incarnation);
    gw_put_le32(context + 48, core->is_dialling ? core->peer_id : core->id);
    gw_put_le32(context + 52, core->is_dialling ? core->peer_incarnation : core->incarnation);
    for (unsigned i = 0; i < 2; i++) {
        const char *name = names[core->is_dialling ? i : 1 - i];
        int rc;

        memset(context, 0, 8);
        memcpy(context, name, strlen(name));
        rc = gw_dpdk_tag_derive(&secret, keys[i]);
        if (rc)
            return rc;
    }
    OPENSSL_cleanse(core->secret, sizeof(core->secret));
    return 0;
}

static int make(const struct dpdk_core_options *options, bool is_dialling, struct dpdk_core **out)
{
    struct dpdk_core *core;
    int rc;

    if (options->secret_length < DPDK_SECRET_MIN || options->secret_length > GW_SECRET_MAX)
        return gw_fail(-EINVAL, "dpdk: a secret of %u bytes; the link gives %u to %u",
                       options->secret_length, DPDK_SECRET_MIN, GW_SECRET_MAX);
    if (options->max_length < DPDK_DATAGRAM_MIN || options->max_length > DPDK_DATAGRAM_MAX)
        return gw_fail(-EINVAL, "dpdk: datagrams of %u bytes; %u to %u are possible",
                       options->max_length, DPDK_DATAGRAM_MIN, DPDK_DATAGRAM_MAX);
    assert(options->incarnation != 0 && options->regions);
    core = calloc(1, sizeof(*core));
    if (!core)
        return gw_fail(-ENOMEM, "dpdk: no memory for a channel (%zu bytes)", sizeof(*core));
    core->state = DPDK_OPENING;
    core->is_dialling = is_dialling;
    core->regions = options->regions;
    core->number = options->number;
    core->id = options->id;
    core->incarnation = options->incarnation;
    core->port = options->port;
    core->max_length = options->max_length;
    core->dead_ns = options->dead_ns ? options->dead_ns : DPDK_DEAD_NS;
    core->explain_silence = options->explain_silence;
    core->context = options->context;
    core->secret_length = options->secret_length;
    memcpy(core->secret, options->secret, options->secret_length);
    memcpy(core->nonce, options->nonce, DPDK_NONCE_SIZE);
    core->alive_ns = core->turn_ns = options->now_ns;
    core->setup_next_ns = options->now_ns;
    core->setup_wait_ns = DPDK_SETUP_MIN_NS;
    core->ticked_ns = DPDK_NONE;
    core->path.next_ns = DPDK_NONE;
    core->path.length = DPDK_DATAGRAM_MIN;
    gw_dpdk_sender_init(core);
    gw_dpdk_receiver_init(core);
    rc = derive_setup(core);
    if (rc) {
        gw_dpdk_core_free(core);
        return rc;
    }
    *out = core;
    return 0;
}

static void write_setup(struct dpdk_core *core, const void *hello, uint32_t hello_length)
{
    struct dpdk_setup setup = {.kind = core->is_dialling ? DPDK_KIND_OPEN : DPDK_KIND_ACCEPT,
                               .to_id = core->peer_id,
                               .to_incarnation = core->peer_incarnation,
                               .id = core->id,
                               .incarnation = core->incarnation,
                               .port = core->port,
                               .max_length = core->max_length,
                               .text = hello,
                               .text_length = hello_length};

    memcpy(setup.nonce, core->nonce, DPDK_NONCE_SIZE);
    memcpy(setup.answered, core->peer_nonce, DPDK_NONCE_SIZE);
    gw_dpdk_setup_encode(&setup, core->setup);
}

int gw_dpdk_core_dial(const struct dpdk_core_options *options, const void *hello,
                      uint32_t hello_length, struct dpdk_core **out)
{
    int rc;

    assert(hello_length <= GW_HELLO_MAX);
    rc = make(options, true, out);
    if (rc)
        return rc;
    write_setup(*out, hello, hello_length);
    return 0;
}

/* What the peer said of itself when it opened. */
static void meet(struct dpdk_core *core, uint32_t id, uint32_t incarnation,
                 const uint8_t nonce[DPDK_NONCE_SIZE], uint16_t port)
{
    core->peer_id = id;
    core->peer_incarnation = incarnation;
    core->peer_port = port;
    memcpy(core->peer_nonce, nonce, DPDK_NONCE_SIZE);
}

int gw_dpdk_core_answer(const struct dpdk_core_options *options, const struct dpdk_open *open,
                        struct dpdk_core **out)
{
    struct dpdk_core *core;
    int rc = make(options, false, &core);

    if (rc)
        return rc;
    if (!gw_dpdk_tag_is_right(&core->setup_receive_key, open->datagram, DPDK_DATAGRAM_MIN)) {
        gw_dpdk_core_free(core);
        return gw_fail(-EACCES, "dpdk: the request was not made with this channel's secret");
    }
    meet(core, open->id, open->incarnation, open->nonce, open->port);
    core->path.max = (uint32_t)gw_min(core->max_length, open->max_length);
    rc = derive_keys(core);
    if (rc) {
        gw_dpdk_core_free(core);
        return rc;
    }
    write_setup(core, NULL, 0);
    *out = core;
    return 0;
}

void gw_dpdk_core_free(struct dpdk_core *core)
{
    if (!core)
        return;
    OPENSSL_cleanse(core->secret, sizeof(core->secret));
    OPENSSL_cleanse(&core->setup_send_key, sizeof(core->setup_send_key));
    OPENSSL_cleanse(&core->setup_receive_key, sizeof(core->setup_receive_key));
    OPENSSL_cleanse(&core->send_key, sizeof(core->send_key));
    OPENSSL_cleanse(&core->receive_key, sizeof(core->receive_key));
    free(core);
}

enum dpdk_state gw_dpdk_core_state(const struct dpdk_core *core)
{
    return core->state;
}

int gw_dpdk_core_error(const struct dpdk_core *core)
{
    return core->state == DPDK_DEAD ? gw_error_raise(&core->error) : 0;
}

uint16_t gw_dpdk_core_peer_port(const struct dpdk_core *core)
{
    return core->peer_port;
}

bool gw_dpdk_core_is_opened_by(const struct dpdk_core *core, const struct dpdk_open *open)
{
    return !core->is_dialling && memcmp(core->peer_nonce, open->nonce, DPDK_NONCE_SIZE) == 0;
}

static void end(struct dpdk_core *core, int error, int status)
{
    if (core->state == DPDK_DEAD)
        return;
    gw_error_take(error, &core->error);
    if (core->state == DPDK_OPEN || !core->is_dialling) /* else the peer has no keys yet */
        core->closes_left = CLOSES;
    core->state = DPDK_DEAD;
    gw_dpdk_sender_cancel(core, status);
}

void gw_dpdk_die(struct dpdk_core *core, int error)
{
    end(core, error, error);
}

void gw_dpdk_core_fail(struct dpdk_core *core, int error)
{
    end(core, error, error);
    core->closes_left = 0;
}

void gw_dpdk_core_close(struct dpdk_core *core)
{
    end(core, gw_fail(-ECANCELED, "dpdk: the channel was closed"), -ECANCELED);
}

/* Both ends have the keys. */
static void opened(struct dpdk_core *core, uint64_t now_ns)
{
    core->state = DPDK_OPEN;
    core->alive_ns = now_ns;
    gw_dpdk_sender_open(core, now_ns);
    gw_dpdk_path_open(core, core->path.max, now_ns);
}

/* What a datagram proves. */
enum proof { FORGED, AGAIN, PEERS };

static enum proof take_accept(struct dpdk_core *core, uint64_t now_ns, const uint8_t *datagram,
                              uint32_t length)
{
    struct dpdk_setup setup;
    int rc;

    /* Dead is dead: the secret that the keys are made of is gone. */
    if (!core->is_dialling || core->state == DPDK_DEAD ||
        gw_dpdk_accept_decode(datagram, length, &setup) ||
        memcmp(setup.answered, core->nonce, DPDK_NONCE_SIZE) != 0 ||
        !gw_dpdk_tag_is_right(&core->setup_receive_key, datagram, length))
        return FORGED;
    if (core->state == DPDK_OPEN) {
        /* Without traffic so far, the peer does not know yet that it was heard. Anybody may have sent
         * it again: nothing is learned from it. */
        core->sender.is_ping_due |= core->receiver.largest == 0;
        return AGAIN;
    }
    meet(core, setup.id, setup.incarnation, setup.nonce, setup.port);
    core->path.max = (uint32_t)gw_min(core->max_length, setup.max_length);
    rc = derive_keys(core);
    if (rc) {
        gw_dpdk_die(core, rc);
        return PEERS;
    }
    opened(core, now_ns);
    core->sender.is_ping_due = true;
    return PEERS;
}

/* Nobody can prove a refusal: who refuses has no secret. It names the nonce, so that only those can
 * forge it who could hold the datagrams back as well. */
static bool take_refuse(struct dpdk_core *core, const uint8_t *datagram, uint32_t length)
{
    struct dpdk_setup setup;
    char reason[GW_REASON_MAX];

    if (!core->is_dialling || core->state != DPDK_OPENING ||
        gw_dpdk_refuse_decode(datagram, length, &setup, reason) ||
        memcmp(setup.nonce, core->nonce, DPDK_NONCE_SIZE) != 0)
        return false;
    gw_dpdk_die(core, gw_fail(-ECONNREFUSED, "the peer refused: %s", reason));
    return true;
}

static void dispatch(struct dpdk_core *core, uint64_t now_ns, const struct dpdk_header *header,
                     const uint8_t *payload)
{
    switch (header->kind) {
    case DPDK_KIND_WRITE:
    case DPDK_KIND_MESSAGE:
    case DPDK_KIND_PROBE:
        gw_dpdk_receiver_input(core, now_ns, header, payload);
        break;
    case DPDK_KIND_ACK:
        gw_dpdk_sender_acknowledged(core, now_ns, header, payload);
        break;
    default: /* CLOSE */
        gw_dpdk_die(core, gw_fail(-ECONNRESET, "the peer closed the channel"));
        core->closes_left = 0;
        break;
    }
}

/* The time of this turn. One that is before the last turn's was looked at by another thread before it
 * was given the core. If this end was not run for a while: that is no silence of the peer's. */
static uint64_t note_turn(struct dpdk_core *core, uint64_t now_ns)
{
    uint64_t absent = now_ns > core->turn_ns ? now_ns - core->turn_ns : 0;

    core->turn_ns += absent;
    if (absent > DPDK_ABSENT_NS)
        core->alive_ns += absent;
    return core->turn_ns;
}

/* ACCEPT and REFUSE have their own proofs; everything else the key of this life, and a packet number
 * that was not taken before. */
static bool is_traffic(const struct dpdk_core *core, const struct dpdk_header *header,
                       const uint8_t *datagram, uint32_t length)
{
    return header->kind >= DPDK_KIND_WRITE && header->kind <= DPDK_KIND_CLOSE &&
           core->peer_incarnation != 0 && /* else there are no keys */
           gw_dpdk_receiver_is_new(core, header->number) &&
           gw_dpdk_tag_is_right(&core->receive_key, datagram, length);
}

static enum proof take(struct dpdk_core *core, uint64_t now_ns, const struct dpdk_input *input)
{
    const uint8_t *datagram = input->bytes;
    uint32_t length = input->length;
    struct dpdk_header header;

    if (gw_dpdk_header_decode(datagram, length, &header) || header.id != core->id ||
        header.incarnation != core->incarnation)
        return FORGED;
    if (header.kind == DPDK_KIND_ACCEPT)
        return take_accept(core, now_ns, datagram, length);
    if (header.kind == DPDK_KIND_REFUSE)
        return take_refuse(core, datagram, length) ? PEERS : FORGED;
    if (!is_traffic(core, &header, datagram, length))
        return FORGED;
    gw_dpdk_receiver_take(core, now_ns, header.number);
    core->counts.datagrams_received++;
    if (core->state == DPDK_DEAD)
        return PEERS;
    if (core->state == DPDK_OPENING)
        opened(core, now_ns);
    if (input->flags & DPDK_INPUT_CE) {
        core->counts.congestion_seen++;
        core->receiver.marked++;
    }
    dispatch(core, now_ns, &header, datagram + DPDK_HEADER_SIZE);
    return PEERS;
}

void gw_dpdk_core_input(struct dpdk_core *core, uint64_t now_ns, struct dpdk_input *inputs,
                        unsigned count)
{
    now_ns = note_turn(core, now_ns);
    core->ticked_ns = DPDK_NONE;
    for (unsigned i = 0; i < count; i++) {
        enum proof proof = take(core, now_ns, &inputs[i]);

        inputs[i].is_authentic = proof == PEERS;
        core->counts.forged += proof == FORGED;
    }
    gw_region_table_let_go(&core->receiver.grip);
}

struct dpdk_header gw_dpdk_next_header(struct dpdk_core *core, enum dpdk_kind kind)
{
    core->counts.datagrams_sent++;
    return (struct dpdk_header){.kind = kind,
                                .parts = 1,
                                .id = core->peer_id,
                                .incarnation = core->peer_incarnation,
                                .number = core->sender.number_next++};
}

static uint64_t keepalive_at(const struct dpdk_core *core)
{
    return core->sender.eliciting_ns + core->dead_ns / KEEPALIVES;
}

/* Chosen here, once: done() and whoever asks later are told the same. */
static void die_of_silence(struct dpdk_core *core)
{
    int error = core->explain_silence ? core->explain_silence(core->context) : 0;

    if (!error)
        error = gw_fail(-ETIMEDOUT, "dpdk: nothing was heard of the peer for %llu ms",
                        (unsigned long long)(core->dead_ns / GW_NS_PER_MS));
    gw_dpdk_die(core, error);
}

static void tick(struct dpdk_core *core, uint64_t now_ns)
{
    if (now_ns - core->alive_ns > core->dead_ns) {
        die_of_silence(core);
        return;
    }
    if (core->state != DPDK_OPEN)
        return;
    gw_dpdk_sender_tick(core, now_ns);
    gw_dpdk_path_tick(core, now_ns);
    if (now_ns >= keepalive_at(core))
        core->sender.is_ping_due = true;
}

static bool output_setup(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                         struct dpdk_packet *out)
{
    if (now_ns < core->setup_next_ns)
        return false;
    core->setup_next_ns = now_ns + core->setup_wait_ns;
    core->setup_wait_ns = gw_min(core->setup_wait_ns * 2, DPDK_SETUP_MAX_NS);
    core->counts.datagrams_sent++;
    memcpy(header, core->setup, DPDK_HEADER_SIZE);
    *out = (struct dpdk_packet){.payload = core->setup + DPDK_HEADER_SIZE,
                                .length = DPDK_DATAGRAM_MIN - DPDK_HEADER_SIZE,
                                .must_copy = true};
    return true;
}

static bool output_close(struct dpdk_core *core, uint8_t *header, struct dpdk_packet *out)
{
    struct dpdk_header close;

    if (core->closes_left == 0)
        return false;
    core->closes_left--;
    close = gw_dpdk_next_header(core, DPDK_KIND_CLOSE);
    gw_dpdk_header_encode(&close, header);
    *out = (struct dpdk_packet){.must_copy = true};
    return true;
}

void gw_dpdk_core_tick(struct dpdk_core *core, uint64_t now_ns)
{
    now_ns = note_turn(core, now_ns);
    /* Once for all datagrams of a burst, which leave at the same time. */
    if (core->state == DPDK_DEAD || core->ticked_ns == now_ns)
        return;
    tick(core, now_ns);
    core->ticked_ns = now_ns;
}

bool gw_dpdk_core_output(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                         struct dpdk_packet *out)
{
    uint32_t probe;

    gw_dpdk_core_tick(core, now_ns);
    now_ns = core->turn_ns;
    if (core->state == DPDK_DEAD)
        return output_close(core, header, out);
    if (core->state == DPDK_OPENING)
        return output_setup(core, now_ns, header, out);
    if (now_ns >= core->receiver.ack_due_ns) {
        gw_dpdk_receiver_ack(core, now_ns, header, out);
        return true;
    }
    if (core->sender.is_ping_due) {
        core->sender.is_ping_due = false;
        gw_dpdk_sender_probe(core, now_ns, DPDK_HEADER_SIZE, header, out);
        return true;
    }
    probe = gw_dpdk_path_due(core, now_ns);
    if (probe) {
        gw_dpdk_path_probed(core, now_ns, core->sender.number_next);
        gw_dpdk_sender_probe(core, now_ns, probe, header, out);
        return true;
    }
    return gw_dpdk_sender_output(core, now_ns, header, out);
}

void gw_dpdk_core_seal(const struct dpdk_core *core, uint8_t *header, const void *payload,
                       uint32_t length)
{
    bool is_setup = header[1] == DPDK_KIND_OPEN || header[1] == DPDK_KIND_ACCEPT;
    const struct dpdk_tag_key *key = is_setup ? &core->setup_send_key : &core->send_key;

    gw_put_le64(header + DPDK_TAG_OFFSET, gw_dpdk_tag(key, header, payload, length));
}

uint64_t gw_dpdk_core_deadline(const struct dpdk_core *core, uint64_t now_ns)
{
    /* So often that an absence is one. */
    uint64_t at = gw_min(core->alive_ns + core->dead_ns + 1, now_ns + DPDK_ABSENT_NS / 2);

    if (core->state == DPDK_DEAD)
        return core->closes_left ? now_ns : now_ns + DPDK_ABSENT_NS;
    if (core->state == DPDK_OPENING)
        return gw_max(gw_min(at, core->setup_next_ns), now_ns);
    at = gw_min(at, gw_min(keepalive_at(core), core->receiver.ack_due_ns));
    at = gw_min(at, gw_dpdk_sender_deadline(core));
    if (core->path.number)
        at = gw_min(at, core->path.sent_ns + gw_dpdk_sender_pto_ns(core) + 1);
    else
        at = gw_min(at, core->path.next_ns);
    return gw_max(at, now_ns);
}

void gw_dpdk_core_counts(const struct dpdk_core *core, struct dpdk_counts *out)
{
    *out = core->counts;
}

void gw_dpdk_core_path(const struct dpdk_core *core, struct dpdk_path *out)
{
    *out = (struct dpdk_path){.length = core->path.length,
                              .round_trip_ns = core->cc.smoothed_ns,
                              .least_round_trip_ns = core->cc.smoothed_ns ? core->cc.least_ns : 0,
                              .window = gw_dpdk_cc_window(&core->cc),
                              .in_flight = core->sender.in_flight,
                              .rate = gw_dpdk_cc_rate(&core->cc)};
}
