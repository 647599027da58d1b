/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dpdk protocol's core, one promise a test: the tag against OpenSSL's SipHash and against NH as
 * the paper writes it, opening, refusal, bounds, credits, path MTU, marks.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <string.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "tests/transport/dpdk/sim.h"
#include "transport/dpdk/tag.h"
#include "transport/dpdk/wire-private.h"

static struct dpdk_tag_key derive(uint8_t seed)
{
    uint8_t secret[GW_SECRET_MAX];
    struct dpdk_tag_secret options = {
        .secret = secret, .secret_length = sizeof(secret), .context = "test", .context_length = 4};
    struct dpdk_tag_key key;

    memset(secret, seed, sizeof(secret));
    cr_assert_eq(gw_dpdk_tag_derive(&options, &key), 0);
    return key;
}

static uint64_t openssl_siphash(const uint64_t key[2], const void *bytes, size_t length)
{
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(mac);
    size_t size = 8, out_length;
    OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                           OSSL_PARAM_construct_end()};
    uint8_t key_bytes[16], out[8];

    gw_put_le64(key_bytes, key[0]);
    gw_put_le64(key_bytes + 8, key[1]);
    cr_assert_eq(EVP_MAC_init(context, key_bytes, sizeof(key_bytes), params), 1);
    cr_assert_eq(EVP_MAC_update(context, bytes, length), 1);
    cr_assert_eq(EVP_MAC_final(context, out, &out_length, sizeof(out)), 1);
    EVP_MAC_CTX_free(context);
    EVP_MAC_free(mac);
    return gw_get_le64(out);
}

Test(dpdk_tag, siphash_is_openssls)
{
    uint64_t words[16], key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    uint8_t bytes[sizeof(words)];

    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    for (unsigned i = 0; i < 16; i++)
        words[i] = gw_get_le64(bytes + (size_t)i * 8);
    for (unsigned count = 0; count <= 16; count++)
        cr_assert_eq(gw_dpdk_siphash(key, words, count),
                     openssl_siphash(key, bytes, (size_t)count * 8), "%u words", count);
}

/* The formula of the UMAC paper, section 3, with words of 32 bits and a Toeplitz shift. */
Test(dpdk_tag, nh_is_the_papers)
{
    struct dpdk_tag_key key = derive(1);
    uint8_t header[DPDK_HEADER_SIZE], text[32 + DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE + 32];
    uint8_t *payload = text + 32;
    static const uint32_t lengths[] = {0, 1, 7, 31, 32, 33, 63, 64, 65, 1168, 1408, 8908, 9124};

    for (unsigned l = 0; l < GW_ARRAY_LENGTH(lengths); l++) {
        uint64_t expected[2] = {0}, plain[2];

        memset(text, 0, sizeof(text));
        for (uint32_t i = 0; i < sizeof(header); i++)
            header[i] = (uint8_t)(i * 13 + l);
        memcpy(text, header + 24, 32);
        for (uint32_t i = 0; i < lengths[l]; i++)
            payload[i] = (uint8_t)(i * 31 + l);
        for (uint32_t i = 0; i < 8 + (lengths[l] + 31) / 32 * 8; i += 2)
            for (unsigned pass = 0; pass < 2; pass++) {
                uint32_t a = gw_get_le32(text + (size_t)i * 4) + key.nh[i + pass * 4];
                uint32_t b = gw_get_le32(text + (size_t)i * 4 + 4) + key.nh[i + 1 + pass * 4];

                expected[pass] += (uint64_t)a * b;
            }
        gw_dpdk_nh_plain(&key, header, payload, lengths[l], plain);
        cr_assert_arr_eq(plain, expected, sizeof(plain), "%u bytes", lengths[l]);
    }
}

/* SipHash of the header's first 24 bytes and of what NH gives for the rest. */
Test(dpdk_tag, tag_is_siphash_of_header_and_nh)
{
    enum { HEADER_WORDS = 3 };
    struct dpdk_tag_key key = derive(1);
    uint8_t header[DPDK_HEADER_SIZE], payload[DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE];
    uint64_t words[HEADER_WORDS + DPDK_NH_PASSES];

    for (uint32_t i = 0; i < sizeof(header); i++)
        header[i] = (uint8_t)(i * 13 + 1);
    for (uint32_t i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)(i * 31 + i / 256);
    for (unsigned i = 0; i < HEADER_WORDS; i++)
        words[i] = gw_get_le64(header + (size_t)i * 8);
    for (uint32_t length = 0; length <= sizeof(payload); length += length < 2048 ? 1 : 97) {
        gw_dpdk_nh_plain(&key, header, payload, length, words + HEADER_WORDS);
        cr_assert_eq(gw_dpdk_tag(&key, header, payload, length),
                     gw_dpdk_siphash(key.siphash, words, GW_ARRAY_LENGTH(words)), "%u bytes",
                     length);
    }
}

Test(dpdk_tag, every_bit_counts)
{
    struct dpdk_tag_key key = derive(1), other = derive(2);
    uint8_t datagram[DPDK_HEADER_SIZE + 100];
    uint32_t length = sizeof(datagram);

    for (uint32_t i = 0; i < length; i++)
        datagram[i] = (uint8_t)i;
    gw_put_le64(datagram + DPDK_TAG_OFFSET, gw_dpdk_tag(&key, datagram, datagram + 64, 100));
    cr_assert(gw_dpdk_tag_is_right(&key, datagram, length));
    cr_assert_not(gw_dpdk_tag_is_right(&other, datagram, length));
    for (uint32_t bit = 0; bit < length * 8; bit++) {
        datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_not(gw_dpdk_tag_is_right(&key, datagram, length), "bit %u", bit);
        datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* Two ends on a plain wire, and one region of 1000 bytes at the second. */
static struct sim sim;
static struct sim_link links[2];
static struct sim_end ends[2];
static uint8_t memory[1000];
static struct gw_region region = {
    .memory = memory, .length = sizeof(memory), .access = GW_ACCESS_REMOTE_WRITE};
static int statuses[GW_CHANNEL_OPS_MAX + 1];
static unsigned dones;

static void done(struct gw_op *op, int status)
{
    (void)op;
    statuses[dones++] = status;
}

static void set_up(void)
{
    sim_init(&sim, 1);
    for (unsigned i = 0; i < 2; i++) {
        sim_link_init(&links[i]);
        sim_end_init(&sim, &ends[i], &links[i]);
    }
    cr_assert_eq(gw_region_table_add(&ends[1].regions, &region, 7), 0);
    sim_connect(&ends[0], &ends[1], 8972, 8972);
}

static void tear_down(void)
{
    for (unsigned i = 0; i < 2; i++)
        sim_disconnect(&ends[i]);
    gw_region_table_remove(&ends[1].regions, &region);
    for (unsigned i = 0; i < 2; i++)
        sim_end_free(&ends[i]);
    sim_free(&sim);
}

static bool never(struct sim *s)
{
    (void)s;
    return false;
}

static void run_ms(uint64_t duration_ms)
{
    sim_run(&sim, sim.now_ns + duration_ms * SIM_MS, never);
}

static void write_to(struct gw_write *write, uint64_t key, uint64_t offset, uint32_t length)
{
    static const uint8_t bytes[4096] = {1, 2, 3};

    *write = (struct gw_write){.op = {.done = done},
                               .local = bytes,
                               .length = length,
                               .remote_key = key,
                               .remote_offset = offset};
    cr_assert_eq(gw_dpdk_core_write(ends[0].core, write), 0);
    sim_wake(&ends[0]);
}

TestSuite(dpdk_core, .init = set_up, .fini = tear_down);

Test(dpdk_core, opens_and_finds_the_path)
{
    struct dpdk_path path;

    run_ms(20);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(gw_dpdk_core_state(ends[i].core), DPDK_OPEN);
        cr_assert_eq(gw_dpdk_core_peer_port(ends[i].core), 4791);
        gw_dpdk_core_path(ends[i].core, &path);
        cr_assert_eq(path.length, 8972);
    }
}

Test(dpdk_core, climbs_to_what_the_path_carries)
{
    struct dpdk_path path;

    links[0].mtu = 1472;
    run_ms(100);
    gw_dpdk_core_path(ends[0].core, &path);
    cr_assert_eq(path.length, 1472);
    gw_dpdk_core_path(ends[1].core, &path);
    cr_assert_eq(path.length, 8972);
    links[0].mtu = 8972;
    run_ms(10000);
    gw_dpdk_core_path(ends[0].core, &path);
    cr_assert_eq(path.length, 8972, "and is tried again");
}

static void expect_refused(uint64_t key, uint64_t offset, uint32_t length)
{
    struct gw_write write;

    write_to(&write, key, offset, length);
    run_ms(50);
    cr_assert_eq(gw_dpdk_core_error(ends[1].core), -EPROTO);
    cr_assert_eq(gw_dpdk_core_error(ends[0].core), -ECONNRESET);
    cr_assert_eq(dones, 1);
    cr_assert_eq(statuses[0], -ECONNRESET);
    for (unsigned i = 0; i < sizeof(memory); i++)
        cr_assert_eq(memory[i], 0);
}

Test(dpdk_core, refuses_a_write_past_the_end)
{
    expect_refused(region.key, 999, 2);
}

Test(dpdk_core, refuses_an_offset_that_wraps)
{
    expect_refused(region.key, UINT64_MAX, 2);
}

Test(dpdk_core, refuses_a_key_that_nobody_gave)
{
    expect_refused(region.key + (1u << 20), 0, 2);
}

Test(dpdk_core, refuses_a_key_of_another_channel)
{
    gw_region_table_remove(&ends[1].regions, &region);
    cr_assert_eq(gw_region_table_add(&ends[1].regions, &region, 8), 0);
    expect_refused(region.key, 0, 2);
}

Test(dpdk_core, a_write_of_nothing_is_done)
{
    struct gw_write write;

    write_to(&write, region.key, 1000, 0);
    run_ms(50);
    cr_assert_eq(dones, 1);
    cr_assert_eq(statuses[0], 0);
}

/* More messages than the receiver has room for wait at the sender, and none is lost. */
Test(dpdk_core, messages_wait_for_room)
{
    static struct gw_send sends[GW_CHANNEL_OPS_MAX + 1];
    struct gw_message message;
    unsigned received = 0, before;

    for (unsigned i = 0; i < GW_CHANNEL_OPS_MAX; i++) {
        sends[i] = (struct gw_send){
            .op = {.done = done}, .message = &sends[i], .length = sizeof(sends[i].length)};
        cr_assert_eq(gw_dpdk_core_send(ends[0].core, &sends[i]), 0);
    }
    sends[GW_CHANNEL_OPS_MAX] = sends[0];
    cr_assert_eq(gw_dpdk_core_send(ends[0].core, &sends[GW_CHANNEL_OPS_MAX]), -EAGAIN);
    sim_wake(&ends[0]);
    run_ms(30000);
    before = dones;
    cr_assert(before > 0 && before < GW_CHANNEL_OPS_MAX, "%u done without room", before);
    cr_assert_eq(gw_dpdk_core_state(ends[0].core), DPDK_OPEN, "waiting is no silence");
    for (unsigned turn = 0; turn < 100 && received < GW_CHANNEL_OPS_MAX; turn++) {
        while (gw_dpdk_core_recv(ends[1].core, &message) == 0)
            received++;
        sim_wake(&ends[1]);
        run_ms(20);
    }
    cr_assert_eq(received, GW_CHANNEL_OPS_MAX);
    cr_assert_eq(dones, GW_CHANNEL_OPS_MAX);
}

Test(dpdk_core, messages_that_came_are_received_after_the_end)
{
    struct gw_send send = {.op = {.done = done}, .message = "last", .length = 4};
    struct gw_message message;

    cr_assert_eq(gw_dpdk_core_send(ends[0].core, &send), 0);
    sim_wake(&ends[0]);
    run_ms(50);
    sim_disconnect(&ends[0]);
    run_ms(50);
    cr_assert_eq(gw_dpdk_core_state(ends[1].core), DPDK_DEAD);
    cr_assert_eq(gw_dpdk_core_recv(ends[1].core, &message), 0);
    cr_assert_eq(message.length, 4);
    cr_assert_eq(gw_dpdk_core_recv(ends[1].core, &message), -ECONNRESET);
    cr_assert_eq(gw_dpdk_core_recv(ends[1].core, &message), -ECONNRESET, "every time");
}

/* An end that is not run for longer than the other may be silent does not take that for silence. */
Test(dpdk_core, own_absence_is_no_silence)
{
    run_ms(50);
    sim.now_ns += 60 * SIM_SECOND;
    run_ms(3000);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(gw_dpdk_core_state(ends[i].core), DPDK_OPEN);
}

static uint8_t accept_bytes[DPDK_DATAGRAM_MIN];

static void keep_accept(struct sim *s, struct sim_end *from, const uint8_t *bytes, uint32_t length)
{
    (void)s;
    (void)from;
    if (bytes[1] == DPDK_KIND_ACCEPT)
        memcpy(accept_bytes, bytes, length);
}

static bool take_at(struct sim_end *end, uint64_t now_ns, const uint8_t *bytes, uint32_t length)
{
    struct dpdk_input input = {.bytes = bytes, .length = length};

    gw_dpdk_core_input(end->core, now_ns, &input, 1);
    return input.is_authentic;
}

static bool take(struct sim_end *end, const uint8_t *bytes, uint32_t length)
{
    return take_at(end, sim.now_ns, bytes, length);
}

/* Whoever heard the ACCEPT may send it again, from anywhere and at any time. */
Test(dpdk_core, an_accept_that_comes_again_proves_nothing)
{
    struct dpdk_counts counts;
    uint8_t header[DPDK_HEADER_SIZE];
    struct dpdk_packet packet;

    sim.overhear = keep_accept;
    run_ms(50);
    cr_assert_eq(accept_bytes[1], DPDK_KIND_ACCEPT);
    cr_assert_not(take(&ends[0], accept_bytes, sizeof(accept_bytes)));
    cr_assert_eq(gw_dpdk_core_state(ends[0].core), DPDK_OPEN);
    cr_assert_not(gw_dpdk_core_output(ends[0].core, sim.now_ns, header, &packet), "an answer");
    gw_dpdk_core_counts(ends[0].core, &counts);
    cr_assert_eq(counts.forged, 0, "it was the peer that made it");
}

/* Its keys would be made of a secret that was wiped. */
Test(dpdk_core, an_accept_that_comes_again_wakes_no_dead_channel)
{
    struct gw_write write;

    sim.overhear = keep_accept;
    run_ms(50);
    links[0].down_until_ns = links[1].down_until_ns = UINT64_MAX;
    write_to(&write, region.key, 0, 100);
    run_ms(20000);
    cr_assert_eq(gw_dpdk_core_error(ends[0].core), -ETIMEDOUT);
    cr_assert_not(take(&ends[0], accept_bytes, sizeof(accept_bytes)));
    cr_assert_eq(gw_dpdk_core_state(ends[0].core), DPDK_DEAD);
    cr_assert_eq(gw_dpdk_core_error(ends[0].core), -ETIMEDOUT);
    cr_assert_eq(dones, 1);
}

/* A datagram as the first end would send it, had it lost its mind. */
static uint32_t seal_by_peer(struct dpdk_header *header, const void *payload,
                             uint8_t datagram[DPDK_DATAGRAM_MAX])
{
    header->parts = 1;
    header->id = ends[1].id;
    header->incarnation = ends[1].incarnation;
    gw_dpdk_header_encode(header, datagram);
    memcpy(datagram + DPDK_HEADER_SIZE, payload, header->length);
    gw_dpdk_core_seal(ends[0].core, datagram, payload, header->length);
    return DPDK_HEADER_SIZE + header->length;
}

/* The ring that remembers packet numbers is used again, and what is new is not taken for a replay. */
Test(dpdk_core, takes_each_packet_number_once)
{
    static const struct {
        uint64_t number;
        bool is_new;
    } steps[] = {{1000, true},  {9000, true},   {1000, false},  {17390, true},
                 {17384, true}, {17384, false}, {1006, false},  {1007, true},
                 {1007, false}, {90000, true},  {17390, false}, {90000, false}};
    uint8_t datagram[DPDK_DATAGRAM_MAX];

    run_ms(50);
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(steps); i++) {
        struct dpdk_header header = {.kind = DPDK_KIND_PROBE, .number = steps[i].number};

        cr_assert_eq(take(&ends[1], datagram, seal_by_peer(&header, "", datagram)), steps[i].is_new,
                     "step %u: %llu", i, (unsigned long long)steps[i].number);
    }
}

/* What comes behind it in the same burst is placed no more. */
Test(dpdk_core, a_burst_that_breaks_a_rule_ends_there)
{
    struct dpdk_header header = {
        .kind = DPDK_KIND_WRITE, .length = 5, .number = 1000, .fields = {[DPDK_KEY] = 1}};
    static uint8_t datagrams[2][DPDK_DATAGRAM_MAX];
    struct dpdk_input inputs[2];

    run_ms(50);
    for (unsigned i = 0; i < 2; i++) {
        inputs[i].bytes = datagrams[i];
        inputs[i].length = seal_by_peer(&header, "bytes", datagrams[i]);
        inputs[i].flags = 0;
        header.number++;
        header.fields[DPDK_SEGMENT]++;
        header.fields[DPDK_KEY] = region.key;
    }
    gw_dpdk_core_input(ends[1].core, sim.now_ns, inputs, 2);
    cr_assert(inputs[0].is_authentic && inputs[1].is_authentic);
    cr_assert_eq(gw_dpdk_core_error(ends[1].core), -EPROTO);
    for (unsigned i = 0; i < sizeof(memory); i++)
        cr_assert_eq(memory[i], 0);
}

/* The engine looks at what it was given, and nobody changes it meanwhile. */
Test(dpdk_core, refuses_a_message_again_that_was_received)
{
    struct gw_send send = {.op = {.done = done}, .message = "truth", .length = 5};
    struct dpdk_header header = {.kind = DPDK_KIND_MESSAGE,
                                 .length = 5,
                                 .number = 1000,
                                 .fields = {[DPDK_SEGMENT] = 1, [DPDK_OFFSET] = 5ull << 32}};
    uint8_t datagram[DPDK_DATAGRAM_MAX];
    struct gw_message message;

    cr_assert_eq(gw_dpdk_core_send(ends[0].core, &send), 0);
    sim_wake(&ends[0]);
    run_ms(50);
    cr_assert_eq(gw_dpdk_core_recv(ends[1].core, &message), 0);
    cr_assert(take(&ends[1], datagram, seal_by_peer(&header, "a lie", datagram)));
    cr_assert_arr_eq(message.data, "truth", 5);
    cr_assert_eq(gw_dpdk_core_error(ends[1].core), -EPROTO);
}

/* A poller that looked at its clock, and was then given a core by the thread that had it. */
Test(dpdk_core, a_turn_that_looked_at_the_clock_too_early_is_no_round_trip)
{
    struct gw_send send = {.op = {.done = done}, .message = "late", .length = 4};
    uint8_t datagram[DPDK_DATAGRAM_MAX];
    struct dpdk_packet packet;
    struct dpdk_path path;

    run_ms(50);
    cr_assert_eq(gw_dpdk_core_send(ends[0].core, &send), 0);
    /* There and back in no time, and before it went. */
    for (unsigned i = 0; i < 2; i++) {
        uint64_t now_ns = sim.now_ns + 10 * SIM_MS;

        cr_assert(gw_dpdk_core_output(ends[i].core, now_ns, datagram, &packet));
        memcpy(datagram + DPDK_HEADER_SIZE, packet.payload, packet.length);
        gw_dpdk_core_seal(ends[i].core, datagram, packet.payload, packet.length);
        cr_assert(take_at(&ends[1 - i], i == 0 ? now_ns : sim.now_ns, datagram,
                          DPDK_HEADER_SIZE + packet.length));
    }
    cr_assert_eq(gw_dpdk_core_reap(ends[0].core), 1);
    gw_dpdk_core_path(ends[0].core, &path);
    cr_assert_lt(path.round_trip_ns, SIM_SECOND);
}

static struct dpdk_core_options options_for(const uint8_t *secret)
{
    return (struct dpdk_core_options){.regions = &ends[0].regions,
                                      .secret = secret,
                                      .secret_length = GW_SECRET_MAX,
                                      .id = 9,
                                      .incarnation = 77,
                                      .max_length = 1472,
                                      .now_ns = sim.now_ns};
}

/* A dialling core and the OPEN that it sends. */
static struct dpdk_core *dial(const uint8_t *secret, uint8_t datagram[DPDK_DATAGRAM_MIN])
{
    struct dpdk_core_options options = options_for(secret);
    struct dpdk_packet packet;
    struct dpdk_core *core;

    cr_assert_eq(gw_dpdk_core_dial(&options, "hello", 5, &core), 0);
    cr_assert(gw_dpdk_core_output(core, sim.now_ns, datagram, &packet));
    cr_assert_eq(packet.length, DPDK_DATAGRAM_MIN - DPDK_HEADER_SIZE);
    memcpy(datagram + DPDK_HEADER_SIZE, packet.payload, packet.length);
    gw_dpdk_core_seal(core, datagram, packet.payload, packet.length);
    return core;
}

Test(dpdk_core, answers_only_its_own_secret)
{
    static const uint8_t ours[GW_SECRET_MAX] = {1}, theirs[GW_SECRET_MAX] = {2};
    struct dpdk_core_options options = options_for(ours);
    uint8_t datagram[DPDK_DATAGRAM_MIN];
    struct dpdk_core *dialling = dial(theirs, datagram), *core;
    struct dpdk_open open;

    cr_assert_eq(gw_dpdk_open_decode(datagram, sizeof(datagram), &open), 0);
    cr_assert_eq(open.hello_length, 5);
    cr_assert_arr_eq(open.hello, "hello", 5);
    cr_assert_eq(gw_dpdk_core_answer(&options, &open, &core), -EACCES);
    gw_dpdk_core_free(dialling);
}

Test(dpdk_core, a_refusal_tells_why)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    uint8_t datagram[DPDK_DATAGRAM_MIN], refusal[DPDK_DATAGRAM_MIN];
    struct dpdk_input input = {.bytes = refusal, .length = sizeof(refusal)};
    struct dpdk_core *core = dial(secret, datagram);
    struct dpdk_open open;

    cr_assert_eq(gw_dpdk_open_decode(datagram, sizeof(datagram), &open), 0);
    gw_dpdk_refuse_encode(&open, "no room\n", refusal);
    refusal[32] ^= 1; /* the nonce of another OPEN */
    gw_dpdk_core_input(core, sim.now_ns, &input, 1);
    cr_assert_not(input.is_authentic);
    cr_assert_eq(gw_dpdk_core_state(core), DPDK_OPENING);
    refusal[32] ^= 1;
    refusal[0]++; /* by who speaks another version */
    gw_dpdk_core_input(core, sim.now_ns, &input, 1);
    cr_assert(input.is_authentic);
    cr_assert_eq(gw_dpdk_core_error(core), -ECONNREFUSED);
    cr_assert_str_eq(gw_error_message(), "the peer refused: no room?");
    gw_dpdk_core_free(core);
}

/* Keys that were never made are no keys. */
Test(dpdk_core, a_channel_that_died_before_it_opened_believes_nothing)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    static const struct dpdk_tag_key zeros;
    struct dpdk_header header = {
        .kind = DPDK_KIND_PROBE, .parts = 1, .id = 9, .incarnation = 77, .number = 1};
    uint8_t datagram[DPDK_DATAGRAM_MIN];
    struct dpdk_input input = {.bytes = datagram, .length = DPDK_HEADER_SIZE};
    struct dpdk_core *core = dial(secret, datagram);

    gw_dpdk_core_close(core);
    gw_dpdk_header_encode(&header, datagram);
    gw_put_le64(datagram + DPDK_TAG_OFFSET, gw_dpdk_tag(&zeros, datagram, NULL, 0));
    gw_dpdk_core_input(core, sim.now_ns, &input, 1);
    cr_assert_not(input.is_authentic);
    gw_dpdk_core_free(core);
}

Test(dpdk_core, an_answer_that_never_comes_is_a_timeout)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    uint8_t datagram[DPDK_DATAGRAM_MIN];
    struct dpdk_core *core = dial(secret, datagram);
    struct dpdk_packet packet;
    uint64_t now = sim.now_ns;
    unsigned opens = 1;

    while (gw_dpdk_core_state(core) == DPDK_OPENING && now < sim.now_ns + 20 * SIM_SECOND) {
        opens += gw_dpdk_core_output(core, now, datagram, &packet);
        now = gw_max(gw_dpdk_core_deadline(core, now), now + 1);
    }
    cr_assert_eq(gw_dpdk_core_error(core), -ETIMEDOUT);
    cr_assert(opens > 10 && opens < 40, "%u OPENs", opens);
    gw_dpdk_core_free(core);
}

static int ask_cable(const void *context)
{
    return *(const bool *)context ? gw_fail(-ENETDOWN, "the cable is broken") : 0;
}

/* What is wrong at this end when the channel dies is what it died of, also once it is mended. */
Test(dpdk_core, a_silence_that_this_end_explains_has_one_error)
{
    static const uint8_t secret[GW_SECRET_MAX] = {1};
    struct dpdk_core_options options = options_for(secret);
    bool is_broken = true;
    struct gw_send send = {.op.done = done, .message = "unheard", .length = 7};
    struct gw_message message;
    uint8_t header[DPDK_HEADER_SIZE];
    struct dpdk_packet packet;
    struct dpdk_core *core;

    options.explain_silence = ask_cable;
    options.context = &is_broken;
    cr_assert_eq(gw_dpdk_core_dial(&options, "hello", 5, &core), 0);
    cr_assert_eq(gw_dpdk_core_send(core, &send), 0);
    for (uint64_t now = sim.now_ns; gw_dpdk_core_state(core) == DPDK_OPENING;
         now = gw_max(gw_dpdk_core_deadline(core, now), now + 1)) {
        cr_assert(now < sim.now_ns + 20 * SIM_SECOND);
        gw_dpdk_core_output(core, now, header, &packet);
    }
    cr_assert_eq(gw_dpdk_core_reap(core), 1);
    cr_assert_eq(statuses[0], -ENETDOWN);
    is_broken = false;
    cr_assert_eq(gw_dpdk_core_error(core), -ENETDOWN);
    cr_assert_str_eq(gw_error_message(), "the cable is broken");
    cr_assert_eq(gw_dpdk_core_recv(core, &message), -ENETDOWN);
    cr_assert_eq(gw_dpdk_core_send(core, &send), -ENETDOWN);
    gw_dpdk_core_free(core);
}

Test(dpdk_core, marks_are_counted_and_slow_it_down)
{
    struct dpdk_counts counts;
    static struct gw_write writes[200];
    struct dpdk_path path;

    run_ms(50);
    links[0].mark_bytes = 1;
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(writes); i++)
        write_to(&writes[i], region.key, 0, 1000);
    run_ms(50);
    gw_dpdk_core_counts(ends[1].core, &counts);
    cr_assert(counts.congestion_seen > 0);
    gw_dpdk_core_path(ends[0].core, &path);
    cr_assert(path.window < 32u * 8972, "window %llu", (unsigned long long)path.window);
    cr_assert_eq(dones, GW_ARRAY_LENGTH(writes));
}
