/* SPDX-License-Identifier: Apache-2.0 */
/* Data channels: who gets one, what is settled, and what of its records and chunks opens. */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "tests/transport/link/pair.h"
#include "transport/link/gcm.h"
#include "transport/link/private.h"

static const struct gw_chunk_name chunk_name = {
    .migration_id = {1, 2, 3}, .volume = 7, .length = 65536, .offset = 1ull << 40};

/* A joined lane of a fresh session. */
static void open_all(struct pair *pair, struct lane *lane, const char *transport)
{
    pair_open(pair, transport);
    lane_open(pair, lane, 0);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(lane->errors[i].code, 0, "end %u: %s", i, lane->errors[i].text);
    lane_join(lane);
}

static void close_all(struct pair *pair, struct lane *lane)
{
    lane_close(lane);
    pair_free(pair);
}

ON_EACH_TRANSPORT(seal, records_and_chunks_open_on_the_other_end)
{
    static uint8_t plain[65536], sealed[65536], opened[65536];
    uint8_t record[64], tag[GW_SEAL_TAG_SIZE], text[64];
    struct pair pair;
    struct lane lane;
    uint32_t length;

    open_all(&pair, &lane, transport);
    for (unsigned round = 0; round < 1000; round++) {
        for (unsigned from = 0; from < 2; from++) {
            cr_assert_eq(gw_seal_record(lane.seals[from], &round, sizeof(round), record), 0);
            cr_assert_eq(gw_seal_open_record(lane.seals[1 - from], record,
                                             sizeof(round) + GW_SEAL_TAG_SIZE, text, &length),
                         0, "%s", gw_error_message());
            cr_assert_eq(length, sizeof(round));
            cr_assert_arr_eq(text, &round, sizeof(round));
        }
    }
    RAND_bytes(plain, sizeof(plain));
    for (unsigned from = 0; from < 2; from++) {
        cr_assert_eq(gw_seal_chunk(lane.seals[from], &chunk_name, plain, sealed, tag), 0);
        cr_assert(memcmp(plain, sealed, sizeof(plain)) != 0);
        cr_assert_eq(gw_seal_open_chunk(lane.seals[1 - from], &chunk_name, sealed, opened, tag), 0,
                     "%s", gw_error_message());
        cr_assert_arr_eq(plain, opened, sizeof(plain));
    }
    close_all(&pair, &lane);
}

/* ---- who gets a channel ---- */

/* A connection request of the test's own making. The rc of gw_connect; the other end admits. */
static int knock(struct pair *pair, const struct gw_hello *hello, struct gw_error *admission)
{
    uint8_t bytes[GW_HELLO_MAX];
    struct lane lane = {0};
    struct gw_connect_options options = {
        .peer = pair->address, .hello = bytes, .hello_length = GW_HELLO_MAX};
    int rc;

    gw_hello_write(hello, bytes);
    lane_prepare(pair, &lane);
    options.channel = (struct gw_channel_options){.domain = lane.domains[DIALLING],
                                                  .poller = lane.pollers[DIALLING],
                                                  .number = hello->channel_number,
                                                  .timeout_ms = 5000};
    lane_admit_start(&lane);
    rc = gw_connect(pair->transport, &options, &lane.channels[DIALLING]);
    lane_admit_finish(&lane);
    *admission = lane.errors[ACCEPTING];
    cr_assert_eq(rc == 0, lane.seals[ACCEPTING] != NULL);
    lane_close(&lane);
    return rc;
}

static struct gw_hello hello_of(struct pair *pair, uint32_t number)
{
    struct gw_hello hello = {.role = GW_HELLO_DATA, .channel_number = number};

    memcpy(hello.link_id, gw_control_link_id(pair->ends[DIALLING].control), GW_ID_SIZE);
    return hello;
}

ON_EACH_TRANSPORT(seal, a_stranger_with_the_link_id_gets_no_channel)
{
    struct gw_error admission;
    struct gw_hello hello;
    struct pair pair;

    pair_open(&pair, transport);
    hello = hello_of(&pair, 1);
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    cr_words_contain(gw_error_message(), "a stranger who does not hold this session's keys");
    cr_assert_eq(admission.code, -EACCES);
    cr_words_contain(admission.text, "a stranger who does not hold this session's keys");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(seal, a_stranger_does_not_use_up_a_number)
{
    struct gw_error admission;
    struct gw_hello hello;
    struct pair pair;
    struct lane lane;

    pair_open(&pair, transport);
    hello = hello_of(&pair, 1);
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    lane_open(&pair, &lane, 1);
    cr_assert_eq(lane.errors[ACCEPTING].code, 0, "%s", lane.errors[ACCEPTING].text);
    lane_close(&lane);
    pair_free(&pair);
}

ON_EACH_TRANSPORT(seal, a_channel_of_another_link_is_refused)
{
    struct gw_error admission;
    struct gw_hello hello;
    struct pair pair;

    pair_open(&pair, transport);
    hello = hello_of(&pair, 1);
    hello.link_id[0] ^= 1;
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    cr_words_contain(gw_error_message(), "belongs to another session");
    cr_assert_eq(admission.code, -EACCES);
    pair_free(&pair);
}

ON_EACH_TRANSPORT(seal, a_control_request_is_no_data_channel)
{
    struct gw_error admission;
    struct gw_hello hello = {.role = GW_HELLO_CONTROL};
    struct pair pair;

    pair_open(&pair, transport);
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    cr_assert_eq(admission.code, -EACCES);
    pair_free(&pair);
}

/* The request of a real channel, with its ticket, seen on the wire and sent once more. */
ON_EACH_TRANSPORT(seal, a_replayed_request_is_refused)
{
    uint8_t key[GW_EXPORT_SIZE], digest[32], claim[4 + GW_ID_SIZE + 16];
    struct gw_error admission;
    struct gw_hello hello;
    struct pair pair;
    unsigned length;

    pair_open(&pair, transport);
    hello = hello_of(&pair, 3);
    memset(hello.nonce, 9, sizeof(hello.nonce));
    cr_assert_eq(gw_control_key(pair.ends[0].control, 3, GW_KEY_TICKET, GW_SIDE_DIALLING, key), 0);
    gw_put_le32(claim, 3);
    memcpy(claim + 4, hello.link_id, GW_ID_SIZE);
    memcpy(claim + 4 + GW_ID_SIZE, hello.nonce, 16);
    HMAC(EVP_sha256(), key, sizeof(key), claim, sizeof(claim), digest, &length);
    memcpy(hello.ticket, digest, sizeof(hello.ticket));
    cr_assert_eq(knock(&pair, &hello, &admission), 0, "%s", gw_error_message());
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    cr_words_contain(gw_error_message(), "channel 3 was used before");
    cr_assert_eq(admission.code, -EACCES);
    /* Nor does its ticket open another number or carry another nonce. */
    hello.channel_number = 4;
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    hello.channel_number = 3;
    hello.nonce[0] ^= 1;
    cr_assert_eq(knock(&pair, &hello, &admission), -ECONNREFUSED);
    pair_free(&pair);
}

ON_EACH_TRANSPORT(seal, a_number_serves_once)
{
    struct pair pair;
    struct lane lane;

    pair_open(&pair, transport);
    lane_open(&pair, &lane, 5);
    cr_assert_eq(lane.errors[DIALLING].code, 0, "%s", lane.errors[DIALLING].text);
    cr_assert_eq(gw_seal_number(lane.seals[ACCEPTING]), 5);
    lane_close(&lane);
    /* Both ends take them in any order, each once; the accepting end has seen 5 as well. */
    lane_open(&pair, &lane, 2);
    cr_assert_eq(lane.errors[DIALLING].code, 0, "%s", lane.errors[DIALLING].text);
    lane_close(&lane);
    lane_open(&pair, &lane, 0);
    cr_assert_eq(gw_seal_number(lane.seals[DIALLING]), 1);
    lane_close(&lane);
    lane_open(&pair, &lane, 0);
    cr_assert_eq(gw_seal_number(lane.seals[DIALLING]), 3);
    lane_close(&lane);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t number = 0;

        cr_assert_eq(gw_control_take_number(pair.ends[i].control, &number), 0);
        cr_assert_eq(number, i == DIALLING ? 4 : GW_CHANNEL_LAST, "the ends do not meet");
        number = 5;
        cr_assert_eq(gw_control_take_number(pair.ends[i].control, &number), -EEXIST, "end %u", i);
    }
    pair_free(&pair);
}

/* ---- proofs ---- */

static void trust(struct end *end, const char *network)
{
    cr_assert_eq(gw_network_parse(network, &end->trusted[end->trusted_count++]), 0);
}

/* A session with networks trusted, and one lane whose proofs are not yet exchanged. */
static void open_trusting(struct pair *pair, struct lane *lane, const char *dialling,
                          const char *accepting)
{
    pair_init(pair, "tcp");
    pair_make_psk(pair, "lab.psk", "lab");
    for (unsigned i = 0; i < 2; i++)
        pair->ends[i].credentials = pair_load_psk(pair, "lab.psk");
    if (dialling)
        trust(&pair->ends[DIALLING], dialling);
    if (accepting)
        trust(&pair->ends[ACCEPTING], accepting);
    pair_connect(pair);
    cr_assert_eq(pair->ends[DIALLING].error.code, 0, "%s", pair->ends[DIALLING].error.text);
    lane_open(pair, lane, 0);
    cr_assert_eq(lane->errors[ACCEPTING].code, 0, "%s", lane->errors[ACCEPTING].text);
}

static void expect_clear(const char *dialling, const char *accepting, bool is_clear)
{
    struct pair pair;
    struct lane lane;

    open_trusting(&pair, &lane, dialling, accepting);
    for (unsigned i = 0; i < 2; i++)
        cr_assert(!gw_seal_is_clear(lane.seals[i]), "nothing is clear before the proof");
    lane_join(&lane);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(gw_seal_is_clear(lane.seals[i]), is_clear);
    cr_assert_eq(gw_control_peer(pair.ends[DIALLING].control)->trusts_addresses,
                 accepting != NULL && strncmp(accepting, "127", 3) == 0);
    close_all(&pair, &lane);
}

Test(seal, clear_needs_both_sides_to_trust_both_addresses)
{
    expect_clear("127.0.0.0/8", "127.0.0.0/8", true);
    expect_clear("127.0.0.0/8", NULL, false);
    expect_clear(NULL, "127.0.0.0/8", false);
    expect_clear(NULL, NULL, false);
    expect_clear("127.0.0.0/8", "192.0.2.0/24", false);
}

/* A man in the middle turns "I do not trust" into "I trust", or the other way round. */
Test(seal, an_altered_flag_is_refused)
{
    for (unsigned trusting = 0; trusting < 2; trusting++) {
        for (unsigned from = 0; from < 2; from++) {
            uint8_t proof[GW_SEAL_PROOF_SIZE];
            struct pair pair;
            struct lane lane;

            open_trusting(&pair, &lane, trusting ? "127.0.0.0/8" : NULL,
                          trusting ? "127.0.0.0/8" : NULL);
            gw_seal_proof(lane.seals[from], proof);
            cr_assert_eq(proof[0], trusting);
            proof[0] ^= 1;
            cr_assert_eq(gw_seal_check(lane.seals[1 - from], proof, sizeof(proof)), -EACCES);
            cr_words_contain(gw_error_message(), "proof is false");
            cr_assert(!gw_seal_is_clear(lane.seals[1 - from]));
            close_all(&pair, &lane);
        }
    }
}

/* What changes one byte of a proof, or its length, makes it false; the proof itself is right. */
Test(seal, an_altered_proof_is_refused)
{
    struct pair pair;

    pair_open(&pair, "loop");
    for (unsigned i = 0; i <= GW_SEAL_PROOF_SIZE; i++) {
        uint8_t proof[GW_SEAL_PROOF_SIZE + 1] = {0};
        struct lane lane;

        lane_open(&pair, &lane, 0);
        gw_seal_proof(lane.seals[DIALLING], proof);
        if (i < GW_SEAL_PROOF_SIZE)
            proof[i] ^= 0x80;
        cr_assert_eq(gw_seal_check(lane.seals[ACCEPTING], proof,
                                   GW_SEAL_PROOF_SIZE - (i == GW_SEAL_PROOF_SIZE)),
                     -EACCES, "byte %u", i);
        /* After a false one the right one is too late. */
        gw_seal_proof(lane.seals[DIALLING], proof);
        cr_assert_eq(gw_seal_check(lane.seals[ACCEPTING], proof, GW_SEAL_PROOF_SIZE), -EACCES);
        lane_close(&lane);
    }
    pair_free(&pair);
}

Test(seal, ones_own_proof_sent_back_is_refused)
{
    uint8_t proof[GW_SEAL_PROOF_SIZE];
    struct pair pair;
    struct lane lane;

    pair_open(&pair, "loop");
    lane_open(&pair, &lane, 0);
    gw_seal_proof(lane.seals[DIALLING], proof);
    cr_assert_eq(gw_seal_check(lane.seals[DIALLING], proof, sizeof(proof)), -EACCES);
    close_all(&pair, &lane);
}

Test(seal, a_proof_of_another_channel_or_session_is_refused)
{
    uint8_t proof[GW_SEAL_PROOF_SIZE], other[GW_SEAL_PROOF_SIZE];
    struct pair pairs[2];
    struct lane lanes[3];

    pair_open(&pairs[0], "loop");
    pair_open(&pairs[1], "loop");
    lane_open(&pairs[0], &lanes[0], 1);
    lane_open(&pairs[0], &lanes[1], 2);
    lane_open(&pairs[1], &lanes[2], 1);
    gw_seal_proof(lanes[0].seals[DIALLING], proof);
    cr_assert_eq(gw_seal_check(lanes[1].seals[ACCEPTING], proof, sizeof(proof)), -EACCES);
    cr_assert_eq(gw_seal_check(lanes[2].seals[ACCEPTING], proof, sizeof(proof)), -EACCES);
    gw_seal_proof(lanes[2].seals[DIALLING], other);
    cr_assert(memcmp(proof, other, sizeof(proof)) != 0);
    cr_assert_eq(gw_seal_check(lanes[0].seals[ACCEPTING], proof, sizeof(proof)), 0);
    for (unsigned i = 0; i < 3; i++)
        lane_close(&lanes[i]);
    pair_free(&pairs[0]);
    pair_free(&pairs[1]);
}

Test(seal, nothing_is_sealed_or_opened_before_the_proof)
{
    uint8_t bytes[64] = {0}, tag[GW_SEAL_TAG_SIZE] = {0};
    struct gw_chunk_name name = {.length = 16};
    struct pair pair;
    struct lane lane;
    uint32_t length;

    pair_open(&pair, "loop");
    lane_open(&pair, &lane, 0);
    cr_assert_eq(gw_seal_record(lane.seals[0], bytes, 8, bytes), -EINVAL);
    cr_assert_eq(gw_seal_open_record(lane.seals[0], bytes, 32, bytes, &length), -EINVAL);
    cr_assert_eq(gw_seal_chunk(lane.seals[0], &name, bytes, bytes, tag), -EINVAL);
    cr_assert_eq(gw_seal_open_chunk(lane.seals[0], &name, bytes, bytes, tag), -EINVAL);
    close_all(&pair, &lane);
}

/* ---- records ---- */

/* Opens a record that must be refused: out keeps its value, and the seal is of no more use. */
static void expect_broken(struct gw_seal *seal, const uint8_t *sealed, uint32_t length)
{
    uint8_t out[GW_MESSAGE_MAX];
    uint32_t out_length = 77;

    memset(out, 0xee, sizeof(out));
    cr_assert_eq(gw_seal_open_record(seal, sealed, length, out, &out_length), -EBADMSG);
    cr_assert_eq(out_length, 77);
    for (unsigned i = 0; i < sizeof(out); i++)
        cr_assert_eq(out[i], 0xee, "byte %u was written", i);
    cr_assert_eq(gw_seal_open_record(seal, sealed, length, out, &out_length), -EBADMSG);
    cr_assert_eq(gw_seal_record(seal, out, 1, out), -EBADMSG);
}

#define RECORD 40u
static void seal_record(struct lane *lane, unsigned from, uint8_t tone, uint8_t *out)
{
    uint8_t plain[RECORD - GW_SEAL_TAG_SIZE];

    memset(plain, tone, sizeof(plain));
    cr_assert_eq(gw_seal_record(lane->seals[from], plain, sizeof(plain), out), 0);
}

static void open_record(struct lane *lane, unsigned at, const uint8_t *sealed, uint8_t tone)
{
    uint8_t out[RECORD];
    uint32_t length;

    cr_assert_eq(gw_seal_open_record(lane->seals[at], sealed, RECORD, out, &length), 0, "%s",
                 gw_error_message());
    cr_assert_eq(out[0], tone);
}

Test(seal, an_altered_record_breaks_the_channel)
{
    struct pair pair;

    pair_open(&pair, "loop");
    for (unsigned i = 0; i < RECORD; i++) {
        uint8_t sealed[RECORD];
        struct lane lane;

        lane_open(&pair, &lane, 0);
        lane_join(&lane);
        seal_record(&lane, DIALLING, 1, sealed);
        sealed[i] ^= 1;
        expect_broken(lane.seals[ACCEPTING], sealed, RECORD);
        lane_close(&lane);
    }
    pair_free(&pair);
}

Test(seal, a_replayed_record_breaks_the_channel)
{
    uint8_t sealed[RECORD];
    struct pair pair;
    struct lane lane;

    open_all(&pair, &lane, "loop");
    seal_record(&lane, DIALLING, 1, sealed);
    open_record(&lane, ACCEPTING, sealed, 1);
    expect_broken(lane.seals[ACCEPTING], sealed, RECORD);
    close_all(&pair, &lane);
}

Test(seal, a_record_out_of_order_breaks_the_channel)
{
    uint8_t first[RECORD], second[RECORD];
    struct pair pair;
    struct lane lane;

    open_all(&pair, &lane, "loop");
    seal_record(&lane, DIALLING, 1, first);
    seal_record(&lane, DIALLING, 2, second);
    expect_broken(lane.seals[ACCEPTING], second, RECORD);
    close_all(&pair, &lane);
}

Test(seal, a_record_sent_back_breaks_the_channel)
{
    uint8_t sealed[RECORD];
    struct pair pair;
    struct lane lane;

    open_all(&pair, &lane, "loop");
    seal_record(&lane, DIALLING, 1, sealed);
    expect_broken(lane.seals[DIALLING], sealed, RECORD);
    close_all(&pair, &lane);
}

Test(seal, a_record_of_another_channel_breaks_the_channel)
{
    uint8_t sealed[RECORD];
    struct lane lane, other;
    struct pair pair;

    open_all(&pair, &lane, "loop");
    lane_open(&pair, &other, 0);
    lane_join(&other);
    seal_record(&lane, DIALLING, 1, sealed);
    expect_broken(other.seals[ACCEPTING], sealed, RECORD);
    lane_close(&other);
    close_all(&pair, &lane);
}

Test(seal, a_cut_or_stretched_record_breaks_the_channel)
{
    static const uint32_t lengths[] = {0, 1, 15, 16, RECORD - 1, RECORD + 1, GW_MESSAGE_MAX + 1};
    struct pair pair;

    pair_open(&pair, "loop");
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        uint8_t sealed[GW_MESSAGE_MAX + 1] = {0};
        struct lane lane;

        lane_open(&pair, &lane, 0);
        lane_join(&lane);
        seal_record(&lane, DIALLING, 1, sealed);
        expect_broken(lane.seals[ACCEPTING], sealed, lengths[i]);
        lane_close(&lane);
    }
    pair_free(&pair);
}

Test(seal, the_largest_record_fits_and_opens_in_place)
{
    uint8_t bytes[GW_MESSAGE_MAX];
    struct pair pair;
    struct lane lane;
    uint32_t length;

    open_all(&pair, &lane, "loop");
    memset(bytes, 3, sizeof(bytes));
    cr_assert_eq(gw_seal_record(lane.seals[0], bytes, GW_SEAL_RECORD_MAX + 1, bytes), -EINVAL);
    cr_assert_eq(gw_seal_record(lane.seals[0], bytes, GW_SEAL_RECORD_MAX, bytes), 0);
    cr_assert_eq(gw_seal_open_record(lane.seals[1], bytes, GW_MESSAGE_MAX, bytes, &length), 0);
    cr_assert_eq(length, GW_SEAL_RECORD_MAX);
    for (unsigned i = 0; i < length; i++)
        cr_assert_eq(bytes[i], 3);
    cr_assert_eq(gw_seal_record(lane.seals[0], bytes, 0, bytes), 0);
    cr_assert_eq(gw_seal_open_record(lane.seals[1], bytes, GW_SEAL_TAG_SIZE, bytes, &length), 0);
    cr_assert_eq(length, 0);
    close_all(&pair, &lane);
}

/* ---- chunks ---- */

enum fault { NO_FAULT, MIGRATION, VOLUME, OFFSET, LENGTH, TAG, BYTES, REPLAY, ORDER, FAULTS };

static int open_chunk_with(struct lane *lane, enum fault fault)
{
    static uint8_t plain[65536], sealed[2][65536], out[65536];
    struct gw_chunk_name name = chunk_name;
    uint8_t tags[2][GW_SEAL_TAG_SIZE];
    unsigned which = fault == ORDER;

    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(gw_seal_chunk(lane->seals[DIALLING], &name, plain, sealed[i], tags[i]), 0);
    cr_assert(memcmp(sealed[0], sealed[1], sizeof(plain)) != 0,
              "what is sent again is sealed anew");
    if (fault == REPLAY)
        cr_assert_eq(gw_seal_open_chunk(lane->seals[ACCEPTING], &name, sealed[0], out, tags[0]), 0);
    name.migration_id[15] ^= fault == MIGRATION;
    name.volume ^= fault == VOLUME;
    name.offset ^= fault == OFFSET ? 4096 : 0;
    name.length -= fault == LENGTH ? 512 : 0;
    tags[0][0] ^= fault == TAG;
    sealed[0][65535] ^= fault == BYTES;
    return gw_seal_open_chunk(lane->seals[ACCEPTING], &name, sealed[which], out, tags[which]);
}

Test(seal, a_chunk_opens_only_as_what_it_was_sealed)
{
    struct pair pair;

    pair_open(&pair, "loop");
    for (enum fault fault = NO_FAULT; fault < FAULTS; fault++) {
        struct lane lane;

        lane_open(&pair, &lane, 0);
        lane_join(&lane);
        cr_assert_eq(open_chunk_with(&lane, fault), fault ? -EBADMSG : 0, "fault %u", fault);
        if (fault)
            cr_words_contain(gw_error_message(), "does not open");
        lane_close(&lane);
    }
    pair_free(&pair);
}

Test(seal, chunk_sizes_at_their_limits)
{
    uint8_t *bytes = malloc(GW_SEAL_CHUNK_MAX), tag[GW_SEAL_TAG_SIZE];
    struct gw_chunk_name name = {.length = GW_SEAL_CHUNK_MAX};
    struct pair pair;
    struct lane lane;

    open_all(&pair, &lane, "loop");
    memset(bytes, 5, GW_SEAL_CHUNK_MAX);
    cr_assert_eq(gw_seal_chunk(lane.seals[0], &name, bytes, bytes, tag), 0);
    cr_assert_eq(gw_seal_open_chunk(lane.seals[1], &name, bytes, bytes, tag), 0);
    cr_assert(bytes[0] == 5 && bytes[GW_SEAL_CHUNK_MAX - 1] == 5);
    name.length++;
    cr_assert_eq(gw_seal_chunk(lane.seals[0], &name, bytes, bytes, tag), -EINVAL);
    cr_assert_eq(gw_seal_open_chunk(lane.seals[1], &name, bytes, bytes, tag), -EINVAL);
    name.length = 0;
    cr_assert_eq(gw_seal_chunk(lane.seals[0], &name, bytes, bytes, tag), 0);
    cr_assert_eq(gw_seal_open_chunk(lane.seals[1], &name, bytes, bytes, tag), 0);
    free(bytes);
    close_all(&pair, &lane);
}

/* ---- the cipher itself ---- */

/* Against the published vectors of AES-256-GCM (McGrew and Viega, test case 14: a zero key, nonce
 * and block), so that both ends cannot be wrong alike. */
Test(gcm, agrees_with_the_published_vector)
{
    static const uint8_t key[GW_GCM_KEY_SIZE], plain[16];
    static const uint8_t cipher[16] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e,
                                       0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18};
    static const uint8_t expected[16] = {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0,
                                         0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
    uint8_t out[16], tag[GW_GCM_TAG_SIZE];
    struct gw_gcm_text text = {.in = plain, .out = out, .length = sizeof(plain)};
    struct gw_gcm gcm;

    cr_assert_eq(gw_gcm_init(&gcm, key, 0, true), 0);
    cr_assert_eq(gw_gcm_seal(&gcm, &text, tag), 0);
    cr_assert_arr_eq(out, cipher, 16);
    cr_assert_arr_eq(tag, expected, 16);
    cr_assert_eq(gcm.counter, 1);
    gw_gcm_free(&gcm);
}

Test(gcm, a_used_up_counter_is_refused)
{
    static const uint8_t key[GW_GCM_KEY_SIZE];
    uint8_t bytes[16] = {0}, tag[GW_GCM_TAG_SIZE];
    struct gw_gcm_text text = {.in = bytes, .out = bytes, .length = sizeof(bytes)};
    struct gw_gcm gcm;

    cr_assert_eq(gw_gcm_init(&gcm, key, 1, true), 0);
    gcm.counter = UINT64_MAX - 1;
    cr_assert_eq(gw_gcm_seal(&gcm, &text, tag), 0);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(gw_gcm_seal(&gcm, &text, tag), -EOVERFLOW);
    gw_gcm_free(&gcm);
}
