/* SPDX-License-Identifier: Apache-2.0 */
/* Who is refused, and whether both ends learn why. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/transport/link/pair.h"

/* Both ends failed, with this error and these words. */
static void expect(struct pair *pair, const char *dialling_words, const char *accepting_words)
{
    cr_assert_null(pair->ends[DIALLING].control);
    cr_assert_null(pair->ends[ACCEPTING].control);
    cr_assert_eq(pair->ends[DIALLING].error.code, -EACCES, "dialling: %d %s",
                 pair->ends[DIALLING].error.code, pair->ends[DIALLING].error.text);
    cr_assert_eq(pair->ends[ACCEPTING].error.code, -EACCES, "accepting: %d %s",
                 pair->ends[ACCEPTING].error.code, pair->ends[ACCEPTING].error.text);
    cr_words_contain(pair->ends[DIALLING].error.text, dialling_words);
    cr_words_contain(pair->ends[ACCEPTING].error.text, accepting_words);
    cr_words_contain(pair->ends[DIALLING].error.text, "127.0.0.1");
}

static void expect_open(struct pair *pair)
{
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pair->ends[i].error.code, 0, "end %u: %s", i, pair->ends[i].error.text);
}

ON_EACH_TRANSPORT(refusal, another_key_of_the_same_name)
{
    struct pair pair;

    pair_init(&pair, transport);
    pair_make_psk(&pair, "a.psk", "lab");
    pair_make_psk(&pair, "b.psk", "lab");
    pair.ends[DIALLING].credentials = pair_load_psk(&pair, "a.psk");
    pair.ends[ACCEPTING].credentials = pair_load_psk(&pair, "b.psk");
    pair_connect(&pair);
    expect(
        &pair,
        "the peer refused the pre-shared key 'lab': it holds another pre-shared key of this name",
        "the peer holds another pre-shared key than this host under the same name; copy the file");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, a_key_of_an_unknown_name)
{
    struct pair pair;

    pair_init(&pair, transport);
    pair_make_psk(&pair, "a.psk", "lab");
    pair_make_psk(&pair, "b.psk", "office");
    pair.ends[DIALLING].credentials = pair_load_psk(&pair, "a.psk");
    pair.ends[ACCEPTING].credentials = pair_load_psk(&pair, "b.psk");
    pair_connect(&pair);
    expect(&pair,
           "the peer refused the pre-shared key 'lab': it has no pre-shared key of this name",
           "the peer holds a pre-shared key named 'lab', which this host does not have");
    pair_free(&pair);
}

Test(refusal, no_credentials_at_all)
{
    struct pair pair;

    pair_init(&pair, "loop");
    pair.timeout_ms = 200;
    pair_connect(&pair);
    cr_assert_eq(pair.ends[DIALLING].error.code, -EINVAL);
    cr_words_contain(pair.ends[DIALLING].error.text, "no credentials");
    pair_free(&pair);
}

Test(refusal, several_keys_are_told_apart_by_name)
{
    struct pair pair;
    char text[512], a[128], b[128];
    FILE *in;

    pair_init(&pair, "loop");
    pair_make_psk(&pair, "a.psk", "lab");
    pair_make_psk(&pair, "b.psk", "office");
    in = fopen(pair_path(&pair, "a.psk"), "r");
    cr_assert(fgets(a, sizeof(a), in) && fgets(a, sizeof(a), in));
    fclose(in);
    in = fopen(pair_path(&pair, "b.psk"), "r");
    cr_assert(fgets(b, sizeof(b), in) && fgets(b, sizeof(b), in));
    fclose(in);
    snprintf(text, sizeof(text), "# two\n\n%s%s", b, a);
    pair_write_file(&pair, "both.psk", text, 0600);
    pair.ends[DIALLING].credentials = pair_load_psk(&pair, "a.psk");
    pair.ends[ACCEPTING].credentials = pair_load_psk(&pair, "both.psk");
    pair_connect(&pair);
    expect_open(&pair);
    cr_assert_str_eq(gw_control_peer(pair.ends[ACCEPTING].control)->name, "lab");
    pair_free(&pair);
}

/* ---- certificates ---- */

static void make_ca_pair(struct pair *pair, const char *transport)
{
    pair_init(pair, transport);
    pair_make_certificate(pair, "ca", NULL, 30);
    pair_make_certificate(pair, "other-ca", NULL, 30);
    pair_make_certificate(pair, "hosta", "ca", 30);
    pair_make_certificate(pair, "hostb", "ca", 30);
}

ON_EACH_TRANSPORT(refusal, certificates_of_one_ca_open_a_session)
{
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair.ends[DIALLING].credentials = pair_load_ca(&pair, "hosta", "ca");
    pair.ends[ACCEPTING].credentials = pair_load_ca(&pair, "hostb", "ca");
    pair_connect(&pair);
    expect_open(&pair);
    cr_assert_str_eq(gw_control_peer(pair.ends[DIALLING].control)->name, "hostb");
    cr_assert_str_eq(gw_control_peer(pair.ends[ACCEPTING].control)->name, "hosta");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, a_dialling_certificate_of_another_ca)
{
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_certificate(&pair, "stranger", "other-ca", 30);
    pair.ends[DIALLING].credentials = pair_load_ca(&pair, "stranger", "ca");
    pair.ends[ACCEPTING].credentials = pair_load_ca(&pair, "hostb", "ca");
    pair_connect(&pair);
    expect(&pair, "the peer refused: it does not know the CA of this host's certificate",
           "the peer's certificate 'stranger' is not accepted: unable to get local issuer");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, an_accepting_certificate_of_another_ca)
{
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_certificate(&pair, "stranger", "other-ca", 30);
    pair.ends[DIALLING].credentials = pair_load_ca(&pair, "hosta", "ca");
    pair.ends[ACCEPTING].credentials = pair_load_ca(&pair, "stranger", "ca");
    pair_connect(&pair);
    expect(&pair, "the peer's certificate 'stranger' is not accepted",
           "the peer refused: it does not know the CA of this host's certificate");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, an_expired_certificate)
{
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_certificate(&pair, "old", "ca", -2);
    pair.ends[DIALLING].credentials = pair_load_ca(&pair, "old", "ca");
    pair.ends[ACCEPTING].credentials = pair_load_ca(&pair, "hostb", "ca");
    pair_connect(&pair);
    expect(&pair, "the peer refused: this host's certificate has expired",
           "the peer's certificate 'old' is not accepted: certificate has expired");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, pinned_self_signed_certificates_open_a_session)
{
    static const char *const a[] = {"alpha"}, *const b[] = {"ca", "beta"};
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_certificate(&pair, "alpha", NULL, 30);
    pair_make_certificate(&pair, "beta", NULL, 30);
    pair.ends[DIALLING].credentials = pair_load_pinned(&pair, "alpha", b, 2);
    pair.ends[ACCEPTING].credentials = pair_load_pinned(&pair, "beta", a, 1);
    pair_connect(&pair);
    expect_open(&pair);
    cr_assert_str_eq(gw_control_peer(pair.ends[DIALLING].control)->name, "beta");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, a_certificate_that_is_not_pinned)
{
    static const char *const a[] = {"alpha"}, *const b[] = {"beta"};
    struct pair pair;
    char fingerprint[96], upper[96];

    make_ca_pair(&pair, transport);
    pair_make_certificate(&pair, "alpha", NULL, 30);
    pair_make_certificate(&pair, "beta", NULL, 30);
    pair_make_certificate(&pair, "gamma", NULL, 30);
    pair.ends[DIALLING].credentials = pair_load_pinned(&pair, "gamma", b, 1);
    pair.ends[ACCEPTING].credentials = pair_load_pinned(&pair, "beta", a, 1);
    pair_connect(&pair);
    expect(&pair, "the peer refused: it does not accept this host's certificate",
           "the peer's certificate 'gamma' is not accepted: its fingerprint is not among");
    pair_fingerprint(&pair, "gamma", fingerprint);
    for (unsigned i = 0; i < sizeof(upper); i++)
        upper[i] = (char)(fingerprint[i] >= 'a' ? fingerprint[i] - 32 : fingerprint[i]);
    cr_words_contain(pair.ends[DIALLING].error.text, upper);
    cr_words_contain(pair.ends[ACCEPTING].error.text, upper);
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, a_pinned_certificate_that_expired)
{
    static const char *const a[] = {"alpha"}, *const b[] = {"beta"};
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_certificate(&pair, "alpha", NULL, -1);
    pair_make_certificate(&pair, "beta", NULL, 30);
    pair.ends[DIALLING].credentials = pair_load_pinned(&pair, "alpha", b, 1);
    pair.ends[ACCEPTING].credentials = pair_load_pinned(&pair, "beta", a, 1);
    pair_connect(&pair);
    expect(&pair, "this host's certificate has expired", "certificate has expired");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, a_key_against_certificates)
{
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_psk(&pair, "a.psk", "lab");
    pair.ends[DIALLING].credentials = pair_load_psk(&pair, "a.psk");
    pair.ends[ACCEPTING].credentials = pair_load_ca(&pair, "hostb", "ca");
    pair_connect(&pair);
    expect(&pair, "it uses certificates, this host a pre-shared key",
           "the peer offers a pre-shared key, this host uses certificates");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, certificates_against_a_key)
{
    struct pair pair;

    make_ca_pair(&pair, transport);
    pair_make_psk(&pair, "a.psk", "lab");
    pair.ends[DIALLING].credentials = pair_load_ca(&pair, "hosta", "ca");
    pair.ends[ACCEPTING].credentials = pair_load_psk(&pair, "a.psk");
    pair_connect(&pair);
    expect(&pair, "it wants a pre-shared key, this host uses certificates",
           "the peer offers no pre-shared key, this host wants one");
    pair_free(&pair);
}

ON_EACH_TRANSPORT(refusal, oneself)
{
    struct pair pair;

    pair_init(&pair, transport);
    pair_make_psk(&pair, "a.psk", "lab");
    for (unsigned i = 0; i < 2; i++) {
        pair.ends[i].credentials = pair_load_psk(&pair, "a.psk");
        memset(pair.ends[i].instance_id, 0x55, GW_ID_SIZE);
    }
    pair_connect(&pair);
    expect(&pair, "the peer is this same agent", "the peer is this same agent");
    pair_free(&pair);
}
