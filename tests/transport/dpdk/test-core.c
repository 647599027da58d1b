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
    uint8_t payload[DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE + 32] = {0};
    static const uint32_t lengths[] = {1, 7, 31, 32, 33, 63, 64, 65, 1168, 1408, 8908, 9124};

    for (unsigned l = 0; l < GW_ARRAY_LENGTH(lengths); l++) {
        uint64_t expected[2] = {0}, fast[2], plain[2];

        memset(payload, 0, sizeof(payload));
        for (uint32_t i = 0; i < lengths[l]; i++)
            payload[i] = (uint8_t)(i * 31 + l);
        for (uint32_t i = 0; i < (lengths[l] + 31) / 32 * 8; i += 2)
            for (unsigned pass = 0; pass < 2; pass++) {
                uint32_t a = gw_get_le32(payload + (size_t)i * 4) + key.nh[i + pass * 4];
                uint32_t b = gw_get_le32(payload + (size_t)i * 4 + 4) + key.nh[i + 1 + pass * 4];

                expected[pass] += (uint64_t)a * b;
            }
        gw_dpdk_nh(&key, payload, lengths[l], fast);
        gw_dpdk_nh_plain(&key, payload, lengths[l], plain);
        cr_assert_arr_eq(fast, expected, sizeof(fast), "%u bytes", lengths[l]);
        cr_assert_arr_eq(plain, expected, sizeof(plain), "%u bytes", lengths[l]);
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
    struct dpdk_core *core = dial(secret, datagram);
    struct dpdk_open open;

    cr_assert_eq(gw_dpdk_open_decode(datagram, sizeof(datagram), &open), 0);
    gw_dpdk_refuse_encode(&open, "no room\n", refusal);
    refusal[32] ^= 1; /* the nonce of another OPEN */
    cr_assert_not(gw_dpdk_core_input(core, sim.now_ns, refusal, sizeof(refusal), 0));
    cr_assert_eq(gw_dpdk_core_state(core), DPDK_OPENING);
    refusal[32] ^= 1;
    cr_assert(gw_dpdk_core_input(core, sim.now_ns, refusal, sizeof(refusal), 0));
    cr_assert_eq(gw_dpdk_core_error(core), -ECONNREFUSED);
    cr_assert_str_eq(gw_error_message(), "the peer refused: no room?");
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
