/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake between two memory buffers, with everything on the way in the test's hands. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/transport/link/pair.h"
#include "transport/link/private.h"
#include "transport/link/tls.h"

struct wire_test {
    struct pair pair;
    struct gw_credentials *credentials[2];
    struct gw_tls *ends[2];
    int states[2];
    struct gw_error errors[2];
    uint64_t seen;   /* bytes carried */
    uint64_t damage; /* the byte of that number is altered; 0: none */
};

static void begin(struct wire_test *test)
{
    memset(test, 0, sizeof(*test));
    pair_init(&test->pair, "loop");
    pair_make_psk(&test->pair, "a.psk", "lab");
    for (unsigned i = 0; i < 2; i++)
        test->credentials[i] = pair_load_psk(&test->pair, "a.psk");
}

static void end(struct wire_test *test)
{
    for (unsigned i = 0; i < 2; i++) {
        gw_tls_free(test->ends[i]);
        gw_credentials_free(test->credentials[i]);
    }
    pair_free(&test->pair);
}

/* Carries what is pending in small pieces. True when there was something. */
static bool carry(struct wire_test *test, unsigned from)
{
    uint8_t bytes[700];
    size_t count = gw_tls_take(test->ends[from], bytes, sizeof(bytes));

    for (size_t i = 0; i < count; i++)
        if (++test->seen == test->damage)
            bytes[i] ^= 0x20;
    cr_assert_eq(gw_tls_feed(test->ends[1 - from], bytes, count), 0);
    return count > 0;
}

static void shake(struct wire_test *test)
{
    bool moved = true;

    test->seen = 0;
    for (unsigned i = 0; i < 2; i++) {
        gw_tls_free(test->ends[i]);
        cr_assert_eq(gw_tls_new(test->credentials[i], i == DIALLING, &test->ends[i]), 0);
        test->states[i] = -EAGAIN;
    }
    while (moved) {
        moved = false;
        for (unsigned i = 0; i < 2; i++) {
            if (test->states[i] == -EAGAIN) {
                test->states[i] = gw_tls_handshake(test->ends[i]);
                gw_error_take(test->states[i], &test->errors[i]);
            }
            moved |= carry(test, i);
        }
    }
}

Test(tls, both_ends_finish_and_export_the_same)
{
    struct wire_test test;
    uint8_t keys[2][32], other[32];

    begin(&test);
    shake(&test);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(test.states[i], 0, "end %u: %s", i, test.errors[i].text);
        cr_assert_eq(gw_tls_export(test.ends[i], "context", 7, keys[i], 32), 0);
    }
    cr_assert_arr_eq(keys[0], keys[1], 32);
    gw_tls_export(test.ends[0], "contexu", 7, other, 32);
    cr_assert(memcmp(keys[0], other, 32) != 0);
    shake(&test);
    gw_tls_export(test.ends[0], "context", 7, other, 32);
    cr_assert(memcmp(keys[0], other, 32) != 0, "a new session has new keys");
    end(&test);
}

/* Whatever byte is altered: never two ends that believe different things. */
Test(tls, an_altered_byte_never_splits_the_ends)
{
    struct wire_test test;
    uint64_t total;
    unsigned refused = 0;

    begin(&test);
    shake(&test);
    total = test.seen;
    cr_assert(total > 300);
    for (uint64_t damage = 1; damage <= total; damage++) {
        uint8_t keys[2][32];

        test.damage = damage;
        shake(&test);
        if (test.states[0] || test.states[1]) {
            refused++;
            continue;
        }
        for (unsigned i = 0; i < 2; i++)
            cr_assert_eq(gw_tls_export(test.ends[i], "x", 1, keys[i], 32), 0);
        cr_assert_arr_eq(keys[0], keys[1], 32);
    }
    /* Only the version bytes of unencrypted record headers mean nothing. */
    cr_assert(refused + 16 > total, "%u of %lu", refused, (unsigned long)total);
    end(&test);
}

/* A server that ignores the key and shows a certificate instead, as OpenSSL does by itself when its
 * callback yields nothing. */
Test(tls, a_server_that_ignores_the_key_is_refused)
{
    struct wire_test test;

    begin(&test);
    pair_make_certificate(&test.pair, "evil", NULL, 30);
    gw_credentials_free(test.credentials[ACCEPTING]);
    test.credentials[ACCEPTING] = pair_load_ca(&test.pair, "evil", "evil");
    SSL_CTX_set_client_hello_cb(test.credentials[ACCEPTING]->server, NULL, NULL);
    SSL_CTX_set_verify(test.credentials[ACCEPTING]->server, SSL_VERIFY_NONE, NULL);
    shake(&test);
    cr_assert_eq(test.states[DIALLING], -EACCES, "%s", test.errors[DIALLING].text);
    cr_words_contain(test.errors[DIALLING].text, "the peer shows a certificate");
    cr_assert_neq(test.states[ACCEPTING], 0);
    end(&test);
}

static int yield_nothing(SSL *ssl, const unsigned char *id, size_t id_length, SSL_SESSION **session)
{
    *session = NULL;
    return 1;
}

/* A server with the right code but a key store that yields nothing has no way on. */
Test(tls, a_key_callback_that_yields_nothing_ends_the_handshake)
{
    struct wire_test test;

    begin(&test);
    SSL_CTX_set_psk_find_session_callback(test.credentials[ACCEPTING]->server, yield_nothing);
    shake(&test);
    cr_assert_neq(test.states[DIALLING], 0);
    cr_assert_neq(test.states[ACCEPTING], 0);
    end(&test);
}

/* Even with a certificate at hand, an accepting end that is set to keys refuses. */
Test(tls, an_accepting_end_set_to_keys_never_falls_back_to_its_certificate)
{
    struct wire_test test;

    begin(&test);
    pair_make_certificate(&test.pair, "a", NULL, 30);
    cr_assert_eq(SSL_CTX_use_certificate_file(test.credentials[ACCEPTING]->server,
                                              pair_path(&test.pair, "a.crt"), SSL_FILETYPE_PEM),
                 1);
    cr_assert_eq(SSL_CTX_use_PrivateKey_file(test.credentials[ACCEPTING]->server,
                                             pair_path(&test.pair, "a.key"), SSL_FILETYPE_PEM),
                 1);
    SSL_CTX_set_psk_find_session_callback(test.credentials[ACCEPTING]->server, yield_nothing);
    /* And a dialling end that would take anything. */
    SSL_CTX_set_cert_verify_callback(test.credentials[DIALLING]->client, NULL, NULL);
    SSL_CTX_set_verify(test.credentials[DIALLING]->client, SSL_VERIFY_NONE, NULL);
    shake(&test);
    cr_assert_eq(test.states[DIALLING], -EACCES, "%s", test.errors[DIALLING].text);
    cr_assert_neq(test.states[ACCEPTING], 0);
    end(&test);
}

Test(tls, an_older_version_is_refused)
{
    struct wire_test test;

    begin(&test);
    SSL_CTX_set_min_proto_version(test.credentials[DIALLING]->client, TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(test.credentials[DIALLING]->client, TLS1_2_VERSION);
    shake(&test);
    cr_assert_neq(test.states[DIALLING], 0);
    cr_assert_neq(test.states[ACCEPTING], 0);
    end(&test);
}

Test(tls, no_tickets_are_given_out)
{
    struct wire_test test;

    begin(&test);
    shake(&test);
    cr_assert_eq(test.states[0] | test.states[1], 0);
    cr_assert_eq(gw_tls_pending(test.ends[ACCEPTING]), 0);
    end(&test);
}

Test(tls, an_altered_record_ends_the_session)
{
    struct wire_test test;
    uint8_t bytes[64];
    size_t got;

    begin(&test);
    shake(&test);
    test.damage = test.seen + 12;
    cr_assert_eq(gw_tls_write(test.ends[DIALLING], "attack at dawn", 14), 0);
    carry(&test, DIALLING);
    cr_assert_eq(gw_tls_read(test.ends[ACCEPTING], bytes, sizeof(bytes), &got), -EPROTO);
    carry(&test, ACCEPTING);
    cr_assert_eq(gw_tls_read(test.ends[DIALLING], bytes, sizeof(bytes), &got), -EACCES);
    cr_words_contain(gw_error_message(), "altered on the way");
    end(&test);
}

Test(tls, an_orderly_end_is_told_from_a_cut)
{
    struct wire_test test;
    uint8_t bytes[64];
    size_t got;

    begin(&test);
    shake(&test);
    cr_assert_eq(gw_tls_read(test.ends[ACCEPTING], bytes, sizeof(bytes), &got), -EAGAIN);
    gw_tls_end(test.ends[DIALLING]);
    carry(&test, DIALLING);
    cr_assert_eq(gw_tls_read(test.ends[ACCEPTING], bytes, sizeof(bytes), &got), -ESHUTDOWN);
    end(&test);
}
