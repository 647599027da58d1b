/* SPDX-License-Identifier: Apache-2.0 */
/* Key files, certificates and fingerprints as people hand them in. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/transport/link/pair.h"

#define HEX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static int load_text(const char *text, unsigned mode)
{
    struct gw_credentials_options options = {0};
    struct gw_credentials *credentials = NULL;
    struct pair pair;
    int rc;

    pair_init(&pair, "loop");
    pair_write_file(&pair, "k.psk", text, mode);
    options.psk_path = pair_path(&pair, "k.psk");
    rc = gw_credentials_load(&options, &credentials);
    cr_assert_eq(rc == 0, credentials != NULL);
    gw_credentials_free(credentials);
    pair_free(&pair);
    return rc;
}

static void expect_bad(const char *text, const char *words)
{
    cr_assert_eq(load_text(text, 0600), -EINVAL, "%s", text);
    cr_words_contain(gw_error_message(), words);
    cr_words_contain(gw_error_message(), "k.psk");
}

Test(credentials, a_written_key_file_is_read_back)
{
    struct gw_credentials *credentials;
    struct pair pair;
    struct stat status;

    pair_init(&pair, "loop");
    umask(022);
    pair_make_psk(&pair, "lab.psk", "lab");
    cr_assert_eq(stat(pair_path(&pair, "lab.psk"), &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0600);
    credentials = pair_load_psk(&pair, "lab.psk");
    gw_credentials_free(credentials);
    pair_free(&pair);
}

Test(credentials, two_keys_differ)
{
    char a[256] = {0}, b[256] = {0};
    FILE *out = fmemopen(a, sizeof(a), "w");

    cr_assert_eq(gw_psk_write("lab", out), 0);
    fclose(out);
    out = fmemopen(b, sizeof(b), "w");
    cr_assert_eq(gw_psk_write("lab", out), 0);
    fclose(out);
    cr_assert(strstr(a, "\nlab:") && strstr(b, "\nlab:"));
    cr_assert_eq(strlen(strstr(a, "\nlab:")), 1 + 4 + 64 + 1);
    cr_assert(strcmp(a, b) != 0);
}

Test(credentials, bad_names_make_no_key)
{
    static const char *const names[] = {
        "",
        "a b",
        "a:b",
        "a\nb",
        "ü",
        "../x",
        "0123456789012345678901234567890123456789012345678901234567890123"};
    char text[256];

    for (unsigned i = 0; i < 7; i++) {
        FILE *out = fmemopen(text, sizeof(text), "w");

        cr_assert_eq(gw_psk_write(names[i], out), -EINVAL, "%s", names[i]);
        fclose(out);
    }
}

Test(credentials, a_key_that_others_may_read_warns, .init = cr_redirect_stderr)
{
    char text[512] = {0};
    FILE *log;

    cr_assert_eq(load_text("lab:" HEX "\n", 0644), 0, "%s", gw_error_message());
    fflush(stderr);
    log = cr_get_redirected_stderr();
    cr_assert(fread(text, 1, sizeof(text) - 1, log) > 0);
    cr_words_contain(text, "warning: others than its owner may read the key file");
}

Test(credentials, a_key_of_ones_own_does_not_warn, .init = cr_redirect_stderr)
{
    cr_assert_eq(load_text("lab:" HEX "\n", 0600), 0);
    fflush(stderr);
    cr_assert_stderr_eq_str("");
}

Test(credentials, a_key_that_everybody_may_write_is_refused)
{
    cr_assert_eq(load_text("lab:" HEX "\n", 0666), -EACCES);
    cr_words_contain(gw_error_message(), "chmod 600");
}

Test(credentials, malformed_key_files_are_refused_by_line)
{
    expect_bad("", "holds no key");
    expect_bad("# only a comment\n", "holds no key");
    expect_bad("lab\n", "line 1: expected NAME:KEY");
    expect_bad("# c\nlab:1234\n", "line 2: expected NAME:KEY");
    expect_bad("lab:" HEX "0\n", "line 1");
    expect_bad("lab:" HEX "00\n", "line 1");
    expect_bad(":" HEX "\n", "line 1");
    expect_bad("la b:" HEX "\n", "line 1");
    expect_bad("lab:g0112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n", "line 1");
    expect_bad("lab:" HEX "\nlab:" HEX "\n", "line 2: the name 'lab' is there twice");
    cr_assert_eq(load_text("lab:" HEX, 0600), 0, "a missing last newline is no fault");
    cr_assert_eq(load_text("lab:" HEX "\r\n", 0600), 0, "nor is a carriage return");
}

Test(credentials, a_missing_key_file_is_named)
{
    struct gw_credentials_options options = {.psk_path = "/nonexistent/lab.psk"};
    struct gw_credentials *credentials;

    cr_assert_eq(gw_credentials_load(&options, &credentials), -ENOENT);
    cr_words_contain(gw_error_message(), "/nonexistent/lab.psk");
}

Test(credentials, a_huge_key_file_is_refused)
{
    struct gw_credentials_options options = {.psk_path = "/dev/zero"};
    struct gw_credentials *credentials;

    cr_assert_eq(gw_credentials_load(&options, &credentials), -EINVAL);
}

Test(credentials, options_that_make_no_sense)
{
    static const char *const pins[] = {HEX};
    static const struct gw_credentials_options cases[] = {
        {0},
        {.psk_path = "a", .ca_path = "b"},
        {.certificate_path = "a"},
        {.certificate_path = "a", .ca_path = "b"},
        {.certificate_path = "a", .key_path = "b"},
        {.certificate_path = "a",
         .key_path = "b",
         .ca_path = "c",
         .fingerprints = pins,
         .fingerprint_count = 1},
    };
    struct gw_credentials *credentials;

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(gw_credentials_load(&cases[i], &credentials), -EINVAL, "case %u", i);
}

static int load_certificate(struct pair *pair, const char *key, const char *pin)
{
    struct gw_credentials_options options = {.certificate_path = pair_path(pair, "a.crt"),
                                             .key_path = pair_path(pair, key),
                                             .fingerprints = &pin,
                                             .fingerprint_count = 1};
    struct gw_credentials *credentials = NULL;
    int rc = gw_credentials_load(&options, &credentials);

    gw_credentials_free(credentials);
    return rc;
}

Test(credentials, certificates_are_checked_when_they_are_loaded)
{
    struct pair pair;

    pair_init(&pair, "loop");
    pair_make_certificate(&pair, "a", NULL, 30);
    pair_make_certificate(&pair, "b", NULL, 30);
    pair_write_file(&pair, "junk.key", "junk", 0600);
    cr_assert_eq(load_certificate(&pair, "a.key", HEX), 0, "%s", gw_error_message());
    cr_assert_eq(load_certificate(&pair, "b.key", HEX), -EINVAL);
    cr_words_contain(gw_error_message(), "b.key");
    cr_assert_eq(load_certificate(&pair, "junk.key", HEX), -EINVAL);
    cr_assert_eq(load_certificate(&pair, "none.key", HEX), -ENOENT);
    cr_assert_eq(load_certificate(&pair, "a.key", "12:34"), -EINVAL);
    cr_words_contain(gw_error_message(), "'12:34' is no SHA-256 fingerprint");
    cr_assert_eq(load_certificate(&pair, "a.key", HEX "00"), -EINVAL);
    cr_assert_eq(load_certificate(&pair, "a.key", HEX ":"), -EINVAL);
    chmod(pair_path(&pair, "a.key"), 0644);
    cr_assert_eq(load_certificate(&pair, "a.key", HEX), -EACCES);
    cr_words_contain(gw_error_message(), "chmod 600");
    pair_free(&pair);
}
