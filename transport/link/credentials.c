/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads keys, certificates and fingerprints into ready TLS contexts, and writes new pre-shared
 * keys. How they are used in a handshake is tls.c's business.
 */
#include "transport/link/credentials.h"

#include <ctype.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "transport/link/private.h"

#define FILE_MAX 65536u /* bytes of a pre-shared key file */
#define HEX_MAX  (2 * GW_PSK_SIZE)

static_assert(GW_PSK_SIZE == GW_FINGERPRINT_SIZE, "one hex decoder serves both");

const char *gw_openssl_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    return reason ? reason : "no reason given";
}

void gw_fingerprint_format(const uint8_t *bytes, size_t length, char *text)
{
    for (size_t i = 0; i < length; i++)
        snprintf(text + 3 * i, 4 - (i + 1 == length), "%02X%s", bytes[i],
                 i + 1 < length ? ":" : "");
}

const struct gw_psk *gw_credentials_psk(const struct gw_credentials *credentials, const void *name,
                                        size_t length)
{
    for (unsigned i = 0; i < credentials->psk_count; i++)
        if (strlen(credentials->psks[i].name) == length &&
            memcmp(credentials->psks[i].name, name, length) == 0)
            return &credentials->psks[i];
    return NULL;
}

static bool name_is_good(const char *name, size_t length)
{
    if (length == 0 || length >= GW_PSK_NAME_MAX)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._@-", name[i]))
            return false;
    return true;
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

/* Exactly 32 bytes; single colons between bytes are skipped when they are allowed. */
static bool decode_hex(const char *text, size_t length, bool allow_colons, uint8_t *out)
{
    size_t count = 0;

    for (size_t i = 0; i < length;) {
        if (allow_colons && text[i] == ':' && count > 0 && count < GW_PSK_SIZE) {
            i++;
            if (i < length && text[i] == ':')
                return false;
            continue;
        }
        if (i + 1 >= length || count == GW_PSK_SIZE || hex_value(text[i]) < 0 ||
            hex_value(text[i + 1]) < 0)
            return false;
        out[count++] = (uint8_t)(hex_value(text[i]) << 4 | hex_value(text[i + 1]));
        i += 2;
    }
    return count == GW_PSK_SIZE;
}

/* One line without its newline. Comments and empty lines add nothing. */
static int parse_psk_line(struct gw_credentials *credentials, const char *path, unsigned number,
                          const char *line, size_t length)
{
    struct gw_psk *psk = &credentials->psks[credentials->psk_count];
    const char *colon;
    size_t name_length;

    while (length && isspace((unsigned char)line[length - 1]))
        length--;
    if (length == 0 || line[0] == '#')
        return 0;
    if (credentials->psk_count == GW_PSK_MAX)
        return gw_fail(-EINVAL, "%s: more than %u keys", path, GW_PSK_MAX);
    colon = memchr(line, ':', length);
    name_length = colon ? (size_t)(colon - line) : 0;
    if (!colon || !name_is_good(line, name_length) ||
        !decode_hex(colon + 1, length - name_length - 1, false, psk->key))
        return gw_fail(-EINVAL,
                       "%s, line %u: expected NAME:KEY with a KEY of %u hex digits, as 'godwit key "
                       "NAME' writes it",
                       path, number, HEX_MAX);
    if (gw_credentials_psk(credentials, line, name_length))
        return gw_fail(-EINVAL, "%s, line %u: the name '%.*s' is there twice", path, number,
                       (int)name_length, line);
    memcpy(psk->name, line, name_length);
    psk->name[name_length] = '\0';
    credentials->psk_count++;
    return 0;
}

static int parse_psks(struct gw_credentials *credentials, const char *path, const char *text,
                      size_t length)
{
    unsigned number = 1;
    int rc;

    credentials->psks = calloc(GW_PSK_MAX, sizeof(*credentials->psks));
    if (!credentials->psks)
        return gw_fail(-ENOMEM, "%s: no memory for the keys", path);
    for (size_t i = 0; i < length; number++) {
        const char *end = memchr(text + i, '\n', length - i);
        size_t line_length = end ? (size_t)(end - text) - i : length - i;

        rc = parse_psk_line(credentials, path, number, text + i, line_length);
        if (rc)
            return rc;
        i += line_length + 1;
    }
    if (credentials->psk_count == 0)
        return gw_fail(-EINVAL, "%s: holds no key; 'godwit key NAME > %s' makes one", path, path);
    return 0;
}

static int read_psk_file(const char *path, char *text, size_t *length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    ssize_t got;
    int rc = 0;

    if (fd < 0)
        return gw_fail_errno(-errno, "cannot read the key file %s", path);
    *length = 0;
    while (*length <= FILE_MAX) {
        got = read(fd, text + *length, FILE_MAX + 1 - *length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        *length += (size_t)got;
    }
    if (got < 0)
        rc = gw_fail_errno(-errno, "cannot read the key file %s", path);
    else if (*length > FILE_MAX)
        rc = gw_fail(-EINVAL, "%s: more than %u bytes; this is no key file", path, FILE_MAX);
    else if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && (status.st_mode & S_IWOTH))
        rc = gw_fail(-EACCES, "%s: everybody may write this key file; chmod 600 %s", path, path);
    else if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
             (status.st_mode & (S_IRWXG | S_IRWXO)))
        gw_log(GW_LOG_WARNING, "others than its owner may read the key file %s; chmod 600 %s", path,
               path);
    close(fd);
    return rc;
}

static int load_psks(struct gw_credentials *credentials, const char *path)
{
    char *text = malloc(FILE_MAX + 1);
    size_t length = 0;
    int rc;

    if (!text)
        return gw_fail(-ENOMEM, "%s: no memory to read it", path);
    rc = read_psk_file(path, text, &length);
    if (!rc)
        rc = parse_psks(credentials, path, text, length);
    OPENSSL_cleanse(text, FILE_MAX + 1);
    free(text);
    return rc;
}

static int load_pins(struct gw_credentials *credentials,
                     const struct gw_credentials_options *options)
{
    if (options->fingerprint_count > GW_FINGERPRINT_MAX)
        return gw_fail(-EINVAL, "more than %u pinned fingerprints", GW_FINGERPRINT_MAX);
    credentials->pins = calloc(options->fingerprint_count, sizeof(*credentials->pins));
    if (!credentials->pins)
        return gw_fail(-ENOMEM, "no memory for fingerprints");
    for (unsigned i = 0; i < options->fingerprint_count; i++) {
        const char *text = options->fingerprints[i];

        if (!decode_hex(text, strlen(text), true, credentials->pins[i]))
            return gw_fail(-EINVAL,
                           "'%s' is no SHA-256 fingerprint; 'openssl x509 -in CERTIFICATE -noout "
                           "-fingerprint -sha256' prints one",
                           text);
    }
    credentials->pin_count = options->fingerprint_count;
    return 0;
}

/* An encrypted key must fail, never ask on the terminal. */
static int refuse_passphrase(char *buffer, int size, int is_writing, void *context)
{
    return -1;
}

static int check_key_file(const char *path)
{
    struct stat status;

    if (access(path, R_OK) != 0 || stat(path, &status) != 0)
        return gw_fail_errno(-errno, "cannot read the private key %s", path);
    if (S_ISREG(status.st_mode) && (status.st_mode & (S_IROTH | S_IWOTH)))
        return gw_fail(-EACCES, "%s: everybody may read this private key; chmod 600 %s", path,
                       path);
    return 0;
}

static int use_certificate(SSL_CTX *context, const struct gw_credentials_options *options)
{
    ERR_clear_error();
    SSL_CTX_set_default_passwd_cb(context, refuse_passphrase);
    if (SSL_CTX_use_certificate_chain_file(context, options->certificate_path) != 1)
        return gw_fail(-EINVAL, "%s: no certificate in PEM form (%s)", options->certificate_path,
                       gw_openssl_reason());
    if (SSL_CTX_use_PrivateKey_file(context, options->key_path, SSL_FILETYPE_PEM) != 1)
        return gw_fail(-EINVAL,
                       "%s: no private key in PEM form that belongs to %s; keys with a passphrase "
                       "are not supported (%s)",
                       options->key_path, options->certificate_path, gw_openssl_reason());
    if (options->ca_path && SSL_CTX_load_verify_file(context, options->ca_path) != 1)
        return gw_fail(-EINVAL, "%s: no CA certificates in PEM form (%s)", options->ca_path,
                       gw_openssl_reason());
    return 0;
}

static int look_at_own_certificate(struct gw_credentials *credentials, const char *path)
{
    X509 *certificate = SSL_CTX_get0_certificate(credentials->client);
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;

    if (X509_digest(certificate, EVP_sha256(), digest, &length) != 1)
        return gw_fail(-EINVAL, "%s: cannot be hashed (%s)", path, gw_openssl_reason());
    gw_fingerprint_format(digest, GW_FINGERPRINT_SIZE, credentials->own_fingerprint);
    if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
        gw_log(GW_LOG_WARNING, "the certificate %s has expired: peers will refuse it", path);
    return 0;
}

static int load_certificates(struct gw_credentials *credentials,
                             const struct gw_credentials_options *options)
{
    int rc;

    if (access(options->certificate_path, R_OK) != 0)
        return gw_fail_errno(-errno, "cannot read the certificate %s", options->certificate_path);
    if (options->ca_path && access(options->ca_path, R_OK) != 0)
        return gw_fail_errno(-errno, "cannot read the CA certificates %s", options->ca_path);
    rc = check_key_file(options->key_path);
    if (!rc && !options->ca_path)
        rc = load_pins(credentials, options);
    if (!rc)
        rc = use_certificate(credentials->client, options);
    if (!rc)
        rc = use_certificate(credentials->server, options);
    if (!rc)
        rc = look_at_own_certificate(credentials, options->certificate_path);
    return rc;
}

static int check_options(const struct gw_credentials_options *options)
{
    bool has_certificate = options->certificate_path || options->key_path || options->ca_path ||
                           options->fingerprint_count;

    if (options->psk_path)
        return has_certificate
                   ? gw_fail(-EINVAL, "give a pre-shared key or a certificate, not both")
                   : 0;
    if (!has_certificate)
        return gw_fail(-EINVAL,
                       "no credentials: give a pre-shared key file (made by 'godwit key'), "
                       "or a certificate, its key, and a CA or fingerprints");
    if (!options->certificate_path || !options->key_path)
        return gw_fail(-EINVAL, "a certificate and its private key are both needed");
    if (!options->ca_path == !options->fingerprint_count)
        return gw_fail(-EINVAL, "a certificate needs either a CA or fingerprints of the peers");
    return 0;
}

int gw_credentials_load(const struct gw_credentials_options *options, struct gw_credentials **out)
{
    struct gw_credentials *credentials;
    int rc = check_options(options);

    if (rc)
        return rc;
    credentials = calloc(1, sizeof(*credentials));
    if (!credentials)
        return gw_fail(-ENOMEM, "no memory for credentials");
    credentials->kind = options->psk_path  ? GW_CREDENTIALS_PSK
                        : options->ca_path ? GW_CREDENTIALS_CA
                                           : GW_CREDENTIALS_PINNED;
    credentials->client = SSL_CTX_new(TLS_client_method());
    credentials->server = SSL_CTX_new(TLS_server_method());
    if (!credentials->client || !credentials->server) {
        rc = gw_fail(-ENOMEM, "OpenSSL gives no context (%s)", gw_openssl_reason());
        goto err;
    }
    rc = options->psk_path ? load_psks(credentials, options->psk_path)
                           : load_certificates(credentials, options);
    if (rc)
        goto err;
    gw_tls_set_up(credentials->client, credentials, true);
    gw_tls_set_up(credentials->server, credentials, false);
    *out = credentials;
    return 0;
err:
    gw_credentials_free(credentials);
    return rc;
}

void gw_credentials_free(struct gw_credentials *credentials)
{
    if (!credentials)
        return;
    if (credentials->psks)
        OPENSSL_cleanse(credentials->psks, GW_PSK_MAX * sizeof(*credentials->psks));
    free(credentials->psks);
    free(credentials->pins);
    SSL_CTX_free(credentials->client);
    SSL_CTX_free(credentials->server);
    free(credentials);
}

int gw_psk_write(const char *name, FILE *out)
{
    uint8_t key[GW_PSK_SIZE];
    char hex[HEX_MAX + 1];
    struct stat status;
    int fd = fileno(out), rc = 0;

    if (!name_is_good(name, strlen(name)))
        return gw_fail(-EINVAL, "'%s' is no name for a key: 1 to %u letters, digits and \"._@-\"",
                       name, GW_PSK_NAME_MAX - 1);
    if (RAND_bytes(key, sizeof(key)) != 1)
        return gw_fail(-EIO, "OpenSSL gives no random bytes (%s)", gw_openssl_reason());
    /* "godwit key NAME > FILE" makes FILE with the shell's umask. A key belongs to its owner alone;
     * a file that cannot be changed is still written, and reading it warns. */
    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        (status.st_mode & (S_IRWXG | S_IRWXO)) &&
        fchmod(fd, status.st_mode & 07777 & ~(mode_t)(S_IRWXG | S_IRWXO)) != 0)
        gw_log(GW_LOG_WARNING, "others than its owner may read the key file; chmod 600 it");
    for (size_t i = 0; i < sizeof(key); i++)
        snprintf(hex + 2 * i, 3, "%02x", key[i]);
    if (fprintf(out,
                "# godwit pre-shared key: the same file on both hosts, readable by its owner "
                "alone\n%s:%s\n",
                name, hex) < 0 ||
        fflush(out) != 0)
        rc = gw_fail_errno(-EIO, "cannot write the key");
    OPENSSL_cleanse(key, sizeof(key));
    OPENSSL_cleanse(hex, sizeof(hex));
    return rc;
}
