/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dials and admits data channels. What is checked here is checked before the peer has a channel:
 * link, ticket, number. That the channel itself belongs is proven by its first messages (seal.c).
 */
#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/link/seal-private.h"

static_assert(GW_EXPORT_SIZE <= GW_SECRET_MAX, "the transport's secret is one exported key");

static int write_ticket(struct gw_control *control, const struct gw_hello *hello,
                        uint8_t out[GW_TICKET_SIZE])
{
    uint8_t key[GW_EXPORT_SIZE], digest[EVP_MAX_MD_SIZE];
    uint8_t claim[4 + GW_ID_SIZE + GW_NONCE_SIZE];
    unsigned length = 0;
    int rc = gw_control_key(control, hello->channel_number, GW_KEY_TICKET, GW_SIDE_DIALLING, key);

    if (rc)
        return rc;
    gw_put_le32(claim, hello->channel_number);
    memcpy(claim + 4, hello->link_id, GW_ID_SIZE);
    memcpy(claim + 4 + GW_ID_SIZE, hello->nonce, GW_NONCE_SIZE);
    if (!HMAC(EVP_sha256(), key, sizeof(key), claim, sizeof(claim), digest, &length) ||
        length < GW_TICKET_SIZE)
        rc = gw_fail(-EIO, "OpenSSL computes no HMAC (%s)", gw_openssl_reason());
    else
        memcpy(out, digest, GW_TICKET_SIZE);
    OPENSSL_cleanse(key, sizeof(key));
    return rc;
}

static void note_trust(struct gw_control *control, struct gw_channel *channel, struct gw_seal *seal)
{
    struct gw_channel_info info;

    gw_channel_info(channel, &info);
    seal->trusts_addresses = gw_control_trusts(control, &info.local, &info.peer);
}

int gw_seal_dial(struct gw_control *control, const struct gw_connect_options *options,
                 struct gw_channel **channel, struct gw_seal **out)
{
    struct gw_connect_options connect = *options;
    struct gw_hello hello = {.role = GW_HELLO_DATA, .channel_number = options->channel.number};
    uint8_t bytes[GW_HELLO_MAX], secret[GW_EXPORT_SIZE];
    struct gw_seal *seal = NULL;
    int rc = gw_control_take_number(control, &hello.channel_number);

    if (rc)
        return rc;
    memcpy(hello.link_id, gw_control_link_id(control), GW_ID_SIZE);
    if (RAND_bytes(hello.nonce, GW_NONCE_SIZE) != 1)
        return gw_fail(-EIO, "OpenSSL gives no random bytes (%s)", gw_openssl_reason());
    rc = write_ticket(control, &hello, hello.ticket);
    if (!rc)
        rc = gw_control_key(control, hello.channel_number, GW_KEY_TRANSPORT, GW_SIDE_BOTH, secret);
    if (!rc)
        rc = gw_seal_new(control, &hello, GW_SIDE_DIALLING, &seal);
    if (!rc) {
        gw_hello_write(&hello, bytes);
        connect.hello = bytes;
        connect.hello_length = sizeof(bytes);
        connect.channel.number = hello.channel_number;
        connect.channel.secret = secret;
        connect.channel.secret_length = sizeof(secret);
        rc = gw_connect(options->channel.domain->transport, &connect, channel);
    }
    OPENSSL_cleanse(secret, sizeof(secret));
    if (rc) {
        gw_seal_free(seal);
        return rc;
    }
    note_trust(control, *channel, seal);
    *out = seal;
    return 0;
}

/* Everything that can be said against a request before it is accepted. */
static int judge(struct gw_control *control, const struct gw_request *request,
                 struct gw_hello *hello)
{
    uint8_t ticket[GW_TICKET_SIZE];
    int rc = gw_hello_parse(request, hello);

    if (rc)
        return rc;
    if (hello->role != GW_HELLO_DATA)
        return gw_fail(-EACCES, "a control session where a data channel was expected");
    if (CRYPTO_memcmp(hello->link_id, gw_control_link_id(control), GW_ID_SIZE) != 0)
        return gw_fail(-EACCES, "channel %u belongs to another session", hello->channel_number);
    rc = write_ticket(control, hello, ticket);
    if (rc)
        return rc;
    if (CRYPTO_memcmp(hello->ticket, ticket, GW_TICKET_SIZE) != 0)
        return gw_fail(-EACCES, "channel %u: a stranger who does not hold this session's keys",
                       hello->channel_number);
    rc = gw_control_take_number(control, &hello->channel_number);
    return rc == -EEXIST ? -EACCES : rc;
}

static int reject(struct gw_request *request, int error)
{
    struct gw_error cause;

    gw_error_take(error, &cause);
    gw_reject(request, cause.text);
    return gw_error_raise(&cause);
}

int gw_seal_examine(struct gw_control *control, struct gw_request *request)
{
    struct gw_hello hello;
    int rc = judge(control, request, &hello);

    return rc ? reject(request, rc) : 0;
}

int gw_seal_admit(struct gw_control *control, struct gw_request *request,
                  const struct gw_channel_options *options, struct gw_channel **channel,
                  struct gw_seal **out)
{
    int rc = gw_seal_examine(control, request);

    return rc ? rc : gw_seal_accept(control, request, options, channel, out);
}

int gw_seal_accept(struct gw_control *control, struct gw_request *request,
                   const struct gw_channel_options *options, struct gw_channel **channel,
                   struct gw_seal **out)
{
    struct gw_channel_options accept = *options;
    uint8_t secret[GW_EXPORT_SIZE];
    struct gw_seal *seal = NULL;
    struct gw_hello hello;
    int rc = gw_hello_parse(request, &hello);

    if (!rc)
        rc = gw_control_key(control, hello.channel_number, GW_KEY_TRANSPORT, GW_SIDE_BOTH, secret);
    if (!rc)
        rc = gw_seal_new(control, &hello, GW_SIDE_ACCEPTING, &seal);
    if (rc)
        return reject(request, rc);
    accept.number = hello.channel_number;
    accept.secret = secret;
    accept.secret_length = sizeof(secret);
    rc = gw_accept(request, &accept, channel);
    OPENSSL_cleanse(secret, sizeof(secret));
    if (rc) {
        gw_seal_free(seal);
        return rc;
    }
    note_trust(control, *channel, seal);
    *out = seal;
    return 0;
}
