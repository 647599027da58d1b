/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.3 with OpenSSL over memory BIOs: one suite, no tickets, no resumption, no early data, and
 * both sides proven. Says in words why a side was refused; the words for alerts are in tls-words.c.
 */
#include "transport/link/tls.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/tls1.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/link/private.h"
#include "transport/link/tls-words.h"

#define SUITE        "TLS_AES_256_GCM_SHA384"
#define EXPORT_LABEL "EXPERIMENTAL godwit link"
#define TEXT_MAX     128u

static const unsigned char suite_id[] = {0x13, 0x02};

struct gw_tls {
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    const struct gw_credentials *credentials;
    bool is_dialling;
    /* Protects ssl: any thread may export keys while the session's own reads and writes. Leaf. */
    pthread_mutex_t lock;
    char name[TEXT_MAX]; /* the identity of the key in use, or the peer's certificate */
    char words[GW_ERROR_TEXT_MAX / 2]; /* why this side refused the peer; "" when it did not */
};

__attribute__((format(printf, 2, 3))) static void refuse(struct gw_tls *tls, const char *format,
                                                         ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(tls->words, sizeof(tls->words), format, args);
    va_end(args);
}

/* What a peer claims is shown to people: only printable ASCII survives. */
static void make_printable(char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

/* A TLS 1.3 external key is handed to OpenSSL as a session that never was (RFC 8446
 * section 4.2.11). */
static SSL_SESSION *session_of(SSL *ssl, const struct gw_psk *psk)
{
    SSL_SESSION *session = SSL_SESSION_new();
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite_id);

    if (session && cipher && SSL_SESSION_set1_master_key(session, psk->key, GW_PSK_SIZE) == 1 &&
        SSL_SESSION_set_cipher(session, cipher) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1)
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

/* The dialling side's key. Called again after a HelloRetryRequest. 0 ends the handshake. */
static int use_psk(SSL *ssl, const EVP_MD *digest, const unsigned char **id, size_t *id_length,
                   SSL_SESSION **session)
{
    struct gw_tls *tls = SSL_get_app_data(ssl);
    const struct gw_psk *psk = &tls->credentials->psks[0];

    *session = session_of(ssl, psk);
    if (!*session)
        return 0;
    *id = (const unsigned char *)psk->name;
    *id_length = strlen(psk->name);
    snprintf(tls->name, sizeof(tls->name), "%s", psk->name);
    return 1;
}

/* The accepting side's. look_at_client_hello has refused unknown names before; 0 ends the handshake
 * all the same, because a NULL session would let it go on without a key. */
static int find_psk(SSL *ssl, const unsigned char *id, size_t id_length, SSL_SESSION **session)
{
    struct gw_tls *tls = SSL_get_app_data(ssl);
    const struct gw_psk *psk = gw_credentials_psk(tls->credentials, id, id_length);

    if (!psk)
        return 0;
    *session = session_of(ssl, psk);
    if (!*session)
        return 0;
    snprintf(tls->name, sizeof(tls->name), "%s", psk->name);
    return 1;
}

/* The name of the first key that a ClientHello offers (RFC 8446 section 4.2.11). */
static bool first_identity(const uint8_t *extension, size_t length, const uint8_t **name,
                           size_t *name_length)
{
    size_t list;

    if (length < 4)
        return false;
    list = gw_get_be16(extension);
    *name_length = gw_get_be16(extension + 2);
    if (list > length - 2 || list < 2 || *name_length > list - 2 || *name_length == 0)
        return false;
    *name = extension + 4;
    return true;
}

/* Runs on the accepting side before anything is answered. It is here that the two sides find out
 * that one holds a key and the other a certificate, and each is told by an alert that can mean
 * nothing else. */
static int look_at_client_hello(SSL *ssl, int *alert, void *context)
{
    struct gw_tls *tls = SSL_get_app_data(ssl);
    const uint8_t *extension, *name;
    size_t length, name_length;
    bool offers_key = SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &extension, &length) == 1;
    char shown[GW_PSK_NAME_MAX];

    if (tls->credentials->kind != GW_CREDENTIALS_PSK) {
        if (!offers_key)
            return SSL_CLIENT_HELLO_SUCCESS;
        refuse(tls,
               "the peer offers a pre-shared key, this host uses certificates: give both hosts "
               "the same kind of credentials");
        *alert = SSL_AD_UNSUPPORTED_EXTENSION;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!offers_key) {
        refuse(tls,
               "the peer offers no pre-shared key, this host wants one: give both hosts the same "
               "kind of credentials");
        *alert = SSL_AD_INSUFFICIENT_SECURITY;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!first_identity(extension, length, &name, &name_length)) {
        *alert = SSL_AD_DECODE_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (gw_credentials_psk(tls->credentials, name, name_length))
        return SSL_CLIENT_HELLO_SUCCESS;
    snprintf(shown, sizeof(shown), "%.*s", (int)(name_length < 63 ? name_length : 63),
             (const char *)name);
    make_printable(shown);
    refuse(tls,
           "the peer holds a pre-shared key named '%s', which this host does not have: copy the "
           "file made by 'godwit key' to both hosts",
           shown);
    *alert = SSL_AD_UNKNOWN_PSK_IDENTITY;
    return SSL_CLIENT_HELLO_ERROR;
}

static void name_of_certificate(X509 *certificate, char *out, size_t size)
{
    X509_NAME *subject = X509_get_subject_name(certificate);

    if (X509_NAME_get_text_by_NID(subject, NID_commonName, out, (int)size) <= 0)
        X509_NAME_oneline(subject, out, (int)size);
    make_printable(out);
}

static bool is_pinned(const struct gw_credentials *credentials, const uint8_t *digest)
{
    bool found = false;

    for (unsigned i = 0; i < credentials->pin_count; i++)
        found |= CRYPTO_memcmp(credentials->pins[i], digest, GW_FINGERPRINT_SIZE) == 0;
    return found;
}

/* A pinned certificate vouches for itself, but not outside its dates. */
static int verify_pinned(const struct gw_credentials *credentials, X509 *certificate,
                         const uint8_t *digest)
{
    if (!is_pinned(credentials, digest))
        return X509_V_ERR_CERT_REJECTED;
    if (X509_cmp_current_time(X509_get0_notBefore(certificate)) >= 0)
        return X509_V_ERR_CERT_NOT_YET_VALID;
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
        return X509_V_ERR_CERT_HAS_EXPIRED;
    return X509_V_OK;
}

static int verify_certificate(X509_STORE_CTX *store, void *context)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct gw_tls *tls = SSL_get_app_data(ssl);
    X509 *certificate = X509_STORE_CTX_get0_cert(store);
    uint8_t digest[EVP_MAX_MD_SIZE];
    char text[3 * GW_FINGERPRINT_SIZE];
    unsigned length = 0;
    int error;

    if (tls->credentials->kind == GW_CREDENTIALS_PSK) {
        refuse(tls,
               "the peer shows a certificate, this host wants a pre-shared key: give both hosts "
               "the same kind of credentials");
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
        return 0;
    }
    name_of_certificate(certificate, tls->name, sizeof(tls->name));
    if (X509_digest(certificate, EVP_sha256(), digest, &length) != 1) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_OUT_OF_MEM);
        return 0;
    }
    if (tls->credentials->kind == GW_CREDENTIALS_CA)
        error = X509_verify_cert(store) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(store);
    else
        error = verify_pinned(tls->credentials, certificate, digest);
    if (error == X509_V_OK) {
        X509_STORE_CTX_set_error(store, X509_V_OK);
        return 1;
    }
    gw_fingerprint_format(digest, GW_FINGERPRINT_SIZE, text);
    refuse(tls, "the peer's certificate '%s' is not accepted: %s (SHA-256 %s)", tls->name,
           error == X509_V_ERR_CERT_REJECTED ? "its fingerprint is not among the pinned ones"
                                             : X509_verify_cert_error_string(error),
           text);
    X509_STORE_CTX_set_error(store, error);
    return 0;
}

void gw_tls_set_up(SSL_CTX *context, const struct gw_credentials *credentials, bool is_dialling)
{
    int mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    bool has_psk = credentials->kind == GW_CREDENTIALS_PSK;

    /* None of these can fail for constants that this OpenSSL knows. */
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(context, SUITE);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_early_data(context, 0);
    SSL_CTX_set_mode(context, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_cert_verify_callback(context, verify_certificate, NULL);
    /* With a key the accepting side has no certificate and asks for none; the dialling side still
     * verifies, so that a server that answers with a certificate instead is refused. */
    SSL_CTX_set_verify(context, has_psk && !is_dialling ? SSL_VERIFY_NONE : mode, NULL);
    /* The accepting side alone: the dialling side would compare it with that of the key's session.
     */
    if (!is_dialling)
        SSL_CTX_set_session_id_context(context, (const unsigned char *)"godwit", 6);
    if (!is_dialling)
        SSL_CTX_set_client_hello_cb(context, look_at_client_hello, NULL);
    if (has_psk && is_dialling)
        SSL_CTX_set_psk_use_session_callback(context, use_psk);
    if (has_psk && !is_dialling)
        SSL_CTX_set_psk_find_session_callback(context, find_psk);
}

int gw_tls_new(const struct gw_credentials *credentials, bool is_dialling, struct gw_tls **out)
{
    struct gw_tls *tls = calloc(1, sizeof(*tls));

    if (!tls)
        return gw_fail(-ENOMEM, "no memory for a TLS session");
    tls->credentials = credentials;
    tls->is_dialling = is_dialling;
    tls->ssl = SSL_new(is_dialling ? credentials->client : credentials->server);
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (!tls->ssl || !tls->in || !tls->out) {
        BIO_free(tls->in);
        BIO_free(tls->out);
        SSL_free(tls->ssl);
        free(tls);
        return gw_fail(-ENOMEM, "no memory for a TLS session");
    }
    pthread_mutex_init(&tls->lock, NULL);
    SSL_set_bio(tls->ssl, tls->in, tls->out);
    SSL_set_app_data(tls->ssl, tls);
    if (is_dialling)
        SSL_set_connect_state(tls->ssl);
    else
        SSL_set_accept_state(tls->ssl);
    *out = tls;
    return 0;
}

void gw_tls_free(struct gw_tls *tls)
{
    if (!tls)
        return;
    SSL_free(tls->ssl);
    pthread_mutex_destroy(&tls->lock);
    free(tls);
}

int gw_tls_feed(struct gw_tls *tls, const void *bytes, size_t length)
{
    if (length && BIO_write(tls->in, bytes, (int)length) != (int)length)
        return gw_fail(-ENOMEM, "no memory for %zu received bytes", length);
    return 0;
}

size_t gw_tls_fed(const struct gw_tls *tls)
{
    return BIO_ctrl_pending(tls->in);
}

size_t gw_tls_pending(const struct gw_tls *tls)
{
    return BIO_ctrl_pending(tls->out);
}

size_t gw_tls_take(struct gw_tls *tls, void *out, size_t room)
{
    int got = BIO_read(tls->out, out, (int)room);

    return got > 0 ? (size_t)got : 0;
}

/* Turns what OpenSSL says into an errno with a message. */
static int explain(struct gw_tls *tls, int result)
{
    int kind = SSL_get_error(tls->ssl, result);
    unsigned long error = ERR_peek_error();
    struct gw_words_context context = {
        .is_psk = tls->credentials->kind == GW_CREDENTIALS_PSK,
        .is_dialling = tls->is_dialling,
        .psk_name = tls->name,
        .own_fingerprint = tls->credentials->own_fingerprint,
    };

    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
        return -EAGAIN;
    if (kind == SSL_ERROR_ZERO_RETURN)
        return gw_fail(-ESHUTDOWN, "the peer ended the session");
    if (tls->words[0])
        return gw_fail(-EACCES, "%s", tls->words);
    return gw_words_explain(error, &context);
}

/* OpenSSL goes on without a key or a certificate where its callbacks yield nothing; here nobody
 * does. */
static int check_proven(struct gw_tls *tls)
{
    X509 *certificate = SSL_get0_peer_certificate(tls->ssl);

    if (SSL_version(tls->ssl) != TLS1_3_VERSION)
        return gw_fail(-EACCES, "the peer did not settle on TLS 1.3");
    if (tls->credentials->kind == GW_CREDENTIALS_PSK) {
        if (SSL_session_reused(tls->ssl) != 1 || certificate || !tls->name[0])
            return gw_fail(-EACCES, "the peer did not use the pre-shared key");
        return 0;
    }
    if (SSL_session_reused(tls->ssl) || !certificate ||
        SSL_get_verify_result(tls->ssl) != X509_V_OK)
        return gw_fail(-EACCES, "the peer proved nothing by a certificate");
    return 0;
}

int gw_tls_handshake(struct gw_tls *tls)
{
    int result, rc;

    pthread_mutex_lock(&tls->lock);
    ERR_clear_error();
    result = SSL_do_handshake(tls->ssl);
    rc = result == 1 ? check_proven(tls) : explain(tls, result);
    pthread_mutex_unlock(&tls->lock);
    return rc;
}

int gw_tls_write(struct gw_tls *tls, const void *bytes, size_t length)
{
    size_t written;
    int result, rc;

    pthread_mutex_lock(&tls->lock);
    ERR_clear_error();
    result = SSL_write_ex(tls->ssl, bytes, length, &written);
    rc = result == 1 ? 0 : explain(tls, result);
    pthread_mutex_unlock(&tls->lock);
    return rc;
}

int gw_tls_read(struct gw_tls *tls, void *out, size_t room, size_t *got)
{
    int result, rc;

    pthread_mutex_lock(&tls->lock);
    ERR_clear_error();
    result = SSL_read_ex(tls->ssl, out, room, got);
    rc = result == 1 ? 0 : explain(tls, result);
    pthread_mutex_unlock(&tls->lock);
    return rc;
}

void gw_tls_end(struct gw_tls *tls)
{
    pthread_mutex_lock(&tls->lock);
    ERR_clear_error();
    /* 0 (the peer's close_notify has not come) is the usual answer and needs no wait. */
    if (SSL_is_init_finished(tls->ssl) && SSL_shutdown(tls->ssl) < 0)
        ERR_clear_error();
    pthread_mutex_unlock(&tls->lock);
}

const char *gw_tls_peer_name(const struct gw_tls *tls)
{
    return tls->name;
}

int gw_tls_export(struct gw_tls *tls, const void *context, size_t context_length, void *out,
                  size_t length)
{
    int result;

    pthread_mutex_lock(&tls->lock);
    ERR_clear_error();
    result = SSL_export_keying_material(tls->ssl, out, length, EXPORT_LABEL, strlen(EXPORT_LABEL),
                                        context, context_length, 1);
    pthread_mutex_unlock(&tls->lock);
    if (result != 1)
        return gw_fail(-EPROTO, "the TLS session exports no key (%s)", gw_openssl_reason());
    return 0;
}
