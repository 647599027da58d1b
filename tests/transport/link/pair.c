/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends of a link for tests: see pair.h. Keys are made by OpenSSL's own functions. */
#include "tests/transport/link/pair.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/transport/faulty.h"

/* ---- files ---- */

const char *pair_path(struct pair *pair, const char *name)
{
    static _Thread_local char paths[4][160];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", pair->folder, name);
    return path;
}

void pair_write_file(struct pair *pair, const char *name, const char *text, unsigned mode)
{
    int fd = open(pair_path(pair, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    cr_assert_eq(fchmod(fd, mode), 0);
    close(fd);
}

static void remove_folder(const char *folder)
{
    DIR *list = opendir(folder);
    struct dirent *item;
    char path[400];

    while (list && (item = readdir(list))) {
        snprintf(path, sizeof(path), "%s/%s", folder, item->d_name);
        if (item->d_name[0] != '.')
            unlink(path);
    }
    if (list)
        closedir(list);
    rmdir(folder);
}

/* ---- credentials ---- */

void pair_make_psk(struct pair *pair, const char *file, const char *key_name)
{
    FILE *out = fopen(pair_path(pair, file), "w");

    cr_assert_not_null(out);
    cr_assert_eq(gw_psk_write(key_name, out), 0, "%s", gw_error_message());
    fclose(out);
}

struct gw_credentials *pair_load_psk(struct pair *pair, const char *file)
{
    struct gw_credentials_options options = {.psk_path = pair_path(pair, file)};
    struct gw_credentials *credentials;

    cr_assert_eq(gw_credentials_load(&options, &credentials), 0, "%s", gw_error_message());
    return credentials;
}

static void add_extension(X509 *certificate, int id, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, id, value);

    cr_assert_not_null(extension);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
}

static void *read_pem(struct pair *pair, const char *name, const char *suffix, bool is_key)
{
    char file[64];
    FILE *in;
    void *result;

    snprintf(file, sizeof(file), "%s.%s", name, suffix);
    in = fopen(pair_path(pair, file), "r");
    cr_assert_not_null(in, "%s", file);
    result = is_key ? (void *)PEM_read_PrivateKey(in, NULL, NULL, NULL)
                    : (void *)PEM_read_X509(in, NULL, NULL, NULL);
    fclose(in);
    cr_assert_not_null(result);
    return result;
}

static void write_pems(struct pair *pair, const char *name, X509 *certificate, EVP_PKEY *key)
{
    char file[64];
    FILE *out;

    snprintf(file, sizeof(file), "%s.crt", name);
    out = fopen(pair_path(pair, file), "w");
    PEM_write_X509(out, certificate);
    fclose(out);
    snprintf(file, sizeof(file), "%s.key", name);
    out = fopen(pair_path(pair, file), "w");
    PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL);
    fclose(out);
    chmod(pair_path(pair, file), 0600);
}

void pair_make_certificate(struct pair *pair, const char *name, const char *issuer, int valid_days)
{
    static long serial = 1;
    EVP_PKEY *key = EVP_EC_gen("P-256"), *issuer_key = key;
    X509 *certificate = X509_new(), *issuer_certificate = certificate;
    X509_NAME *subject = X509_get_subject_name(certificate);

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), serial++);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -20L * 86400);
    X509_gmtime_adj(X509_getm_notAfter(certificate), valid_days * 86400L);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    if (issuer) {
        issuer_key = read_pem(pair, issuer, "key", true);
        issuer_certificate = read_pem(pair, issuer, "crt", false);
    } else {
        add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    }
    X509_set_issuer_name(certificate, X509_get_subject_name(issuer_certificate));
    cr_assert(X509_sign(certificate, issuer_key, EVP_sha256()) > 0);
    write_pems(pair, name, certificate, key);
    if (issuer) {
        EVP_PKEY_free(issuer_key);
        X509_free(issuer_certificate);
    }
    EVP_PKEY_free(key);
    X509_free(certificate);
}

struct gw_credentials *pair_load_ca(struct pair *pair, const char *name, const char *ca)
{
    char certificate[64], key[64], ca_file[64];
    struct gw_credentials_options options;
    struct gw_credentials *credentials;

    snprintf(certificate, sizeof(certificate), "%s.crt", name);
    snprintf(key, sizeof(key), "%s.key", name);
    snprintf(ca_file, sizeof(ca_file), "%s.crt", ca);
    options = (struct gw_credentials_options){.certificate_path = pair_path(pair, certificate),
                                              .key_path = pair_path(pair, key),
                                              .ca_path = pair_path(pair, ca_file)};
    cr_assert_eq(gw_credentials_load(&options, &credentials), 0, "%s", gw_error_message());
    return credentials;
}

void pair_fingerprint(struct pair *pair, const char *name, char out[96])
{
    X509 *certificate = read_pem(pair, name, "crt", false);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length;

    X509_digest(certificate, EVP_sha256(), digest, &length);
    for (unsigned i = 0; i < 32; i++)
        sprintf(out + 3 * i, "%02x%s", digest[i], i < 31 ? ":" : "");
    X509_free(certificate);
}

struct gw_credentials *pair_load_pinned(struct pair *pair, const char *name,
                                        const char *const *peers, unsigned count)
{
    char certificate[64], key[64], texts[4][96];
    const char *fingerprints[4];
    struct gw_credentials_options options;
    struct gw_credentials *credentials;

    for (unsigned i = 0; i < count; i++) {
        pair_fingerprint(pair, peers[i], texts[i]);
        fingerprints[i] = texts[i];
    }
    snprintf(certificate, sizeof(certificate), "%s.crt", name);
    snprintf(key, sizeof(key), "%s.key", name);
    options = (struct gw_credentials_options){.certificate_path = pair_path(pair, certificate),
                                              .key_path = pair_path(pair, key),
                                              .fingerprints = fingerprints,
                                              .fingerprint_count = count};
    cr_assert_eq(gw_credentials_load(&options, &credentials), 0, "%s", gw_error_message());
    return credentials;
}

/* ---- sessions ---- */

void pair_init(struct pair *pair, const char *transport)
{
    struct gw_transport *inner;
    struct gw_address any;

    memset(pair, 0, sizeof(*pair));
    strcpy(pair->folder, "/tmp/godwit-link-test-XXXXXX");
    cr_assert_not_null(mkdtemp(pair->folder));
    if (strcmp(transport, "faulty") == 0) {
        cr_assert_eq(gw_transport_new("tcp", NULL, &inner), 0, "%s", gw_error_message());
        cr_assert_eq(gw_faulty_new(inner, &pair->transport), 0, "%s", gw_error_message());
    } else {
        cr_assert_eq(gw_transport_new(transport, NULL, &pair->transport), 0, "%s",
                     gw_error_message());
    }
    cr_assert_eq(gw_address_parse("127.0.0.1:0", 0, &any), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listen(pair->transport, &any, &pair->listener), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listener_address(pair->listener, &pair->address), 0);
    for (unsigned i = 0; i < 2; i++)
        memset(pair->ends[i].instance_id, (int)(0x11 * (i + 1)), GW_ID_SIZE);
    pair->timeout_ms = 5000;
}

void pair_free(struct pair *pair)
{
    for (unsigned i = 0; i < 2; i++) {
        gw_control_close(pair->ends[i].control);
        gw_credentials_free(pair->ends[i].credentials);
    }
    gw_unlisten(pair->listener);
    gw_transport_free(pair->transport);
    remove_folder(pair->folder);
}

struct gw_request *pair_next_request(struct pair *pair)
{
    struct gw_request *request;

    cr_assert_eq(gw_next_request(pair->listener, 5000, &request), 0, "%s", gw_error_message());
    return request;
}

static struct gw_control_options options_of(struct pair *pair, struct end *end)
{
    struct gw_control_options options = {.credentials = end->credentials,
                                         .trusted = end->trusted,
                                         .trusted_count = end->trusted_count,
                                         .alive_ms = PAIR_ALIVE_MS,
                                         .timeout_ms = pair->timeout_ms};

    memcpy(options.instance_id, end->instance_id, GW_ID_SIZE);
    return options;
}

static void *accept_control(void *context)
{
    struct pair *pair = context;
    struct end *end = &pair->ends[ACCEPTING];
    struct gw_control_options options = options_of(pair, end);
    struct gw_request *request = NULL;
    int rc = gw_next_request(pair->listener, pair->timeout_ms, &request);

    if (!rc)
        rc = gw_control_accept(request, &options, &end->control);
    gw_error_take(rc, &end->error);
    return NULL;
}

void pair_connect(struct pair *pair)
{
    struct end *end = &pair->ends[DIALLING];
    struct gw_control_options options = options_of(pair, end);
    pthread_t thread;
    int rc;

    pthread_create(&thread, NULL, accept_control, pair);
    rc = gw_control_connect(pair->transport, &pair->address, &options, &end->control);
    gw_error_take(rc, &end->error);
    pthread_join(thread, NULL);
}

void pair_open(struct pair *pair, const char *transport)
{
    pair_init(pair, transport);
    pair_make_psk(pair, "lab.psk", "lab");
    for (unsigned i = 0; i < 2; i++)
        pair->ends[i].credentials = pair_load_psk(pair, "lab.psk");
    pair_connect(pair);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pair->ends[i].error.code, 0, "end %u: %s", i, pair->ends[i].error.text);
}

/* ---- data channels ---- */

static void *admit_lane(void *context)
{
    struct lane *lane = context;
    struct gw_channel_options options = {
        .domain = lane->domains[ACCEPTING], .poller = lane->pollers[ACCEPTING], .timeout_ms = 5000};
    struct gw_request *request = NULL;
    int rc = gw_next_request(lane->pair->listener, 5000, &request);

    if (!rc)
        rc = gw_seal_admit(lane->pair->ends[ACCEPTING].control, request, &options,
                           &lane->channels[ACCEPTING], &lane->seals[ACCEPTING]);
    gw_error_take(rc, &lane->errors[ACCEPTING]);
    return NULL;
}

void lane_prepare(struct pair *pair, struct lane *lane)
{
    memset(lane, 0, sizeof(*lane));
    lane->pair = pair;
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(gw_domain_open(pair->transport, NULL, &lane->domains[i]), 0);
        cr_assert_eq(gw_poller_open(pair->transport, &lane->pollers[i]), 0);
    }
}

void lane_admit_start(struct lane *lane)
{
    pthread_create(&lane->admission, NULL, admit_lane, lane);
}

void lane_admit_finish(struct lane *lane)
{
    pthread_join(lane->admission, NULL);
}

void lane_open(struct pair *pair, struct lane *lane, uint32_t number)
{
    struct gw_connect_options options = {.peer = pair->address};
    int rc;

    lane_prepare(pair, lane);
    options.channel = (struct gw_channel_options){.domain = lane->domains[DIALLING],
                                                  .poller = lane->pollers[DIALLING],
                                                  .number = number,
                                                  .timeout_ms = 5000};
    lane_admit_start(lane);
    rc = gw_seal_dial(pair->ends[DIALLING].control, &options, &lane->channels[DIALLING],
                      &lane->seals[DIALLING]);
    gw_error_take(rc, &lane->errors[DIALLING]);
    lane_admit_finish(lane);
}

void lane_close(struct lane *lane)
{
    for (unsigned i = 0; i < 2; i++) {
        if (lane->channels[i])
            gw_close(lane->channels[i]);
        gw_seal_free(lane->seals[i]);
        gw_poller_close(lane->pollers[i]);
        gw_domain_close(lane->domains[i]);
    }
}

void lane_join(struct lane *lane)
{
    uint8_t proof[GW_SEAL_PROOF_SIZE];

    for (unsigned i = 0; i < 2; i++) {
        gw_seal_proof(lane->seals[i], proof);
        cr_assert_eq(gw_seal_check(lane->seals[1 - i], proof, sizeof(proof)), 0, "%s",
                     gw_error_message());
    }
}
