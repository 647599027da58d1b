/* SPDX-License-Identifier: Apache-2.0 */
/* Builds and judges the first messages of a session. Sends nothing. */
#include "transport/link/greeting.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

static_assert(GW_ID_SIZE == 16, "every id of a greeting is 16 bytes");

static void to_hex(const uint8_t *bytes, char *out)
{
    for (unsigned i = 0; i < 16; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int get_id(const json_t *message, const char *key, uint8_t *out)
{
    const json_t *value = json_object_get(message, key);
    const char *text = json_string_value(value);

    if (!text || json_string_length(value) != 32)
        return gw_fail(-EPROTO, "the peer's hello has no proper \"%s\"", key);
    for (unsigned i = 0; i < 16; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return gw_fail(-EPROTO, "the peer's hello has no proper \"%s\"", key);
        out[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

/* Text of the peer for people to read: bounded, and no control characters that a terminal obeys. */
static void copy_printable(const char *text, char *out, size_t size)
{
    size_t i;

    for (i = 0; text[i] && i + 1 < size; i++)
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    out[i] = '\0';
}

json_t *gw_greeting_to_json(const struct gw_greeting *greeting)
{
    char instance[33], link[33], nonce[33];

    to_hex(greeting->instance_id, instance);
    to_hex(greeting->link_id, link);
    to_hex(greeting->nonce, nonce);
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:b}", "godwit", GODWIT_VERSION, "protocol",
                     (int)GW_PROTOCOL_VERSION, "instance", instance, "link", link, "nonce", nonce,
                     "trusts", greeting->trusts_addresses);
}

int gw_greeting_check(const struct gw_greeting *mine, const json_t *message,
                      struct gw_greeting *out)
{
    const char *version = json_string_value(json_object_get(message, "godwit"));
    const json_t *protocol = json_object_get(message, "protocol");
    const json_t *trusts = json_object_get(message, "trusts");
    struct gw_greeting theirs = {0};
    int rc;

    if (!version || !json_is_integer(protocol))
        return gw_fail(-EPROTO, "the peer's hello names no version");
    copy_printable(version, theirs.version, sizeof(theirs.version));
    if (json_integer_value(protocol) != GW_PROTOCOL_VERSION)
        return gw_fail(
            -EACCES,
            "the peer runs godwit %s, which speaks protocol %lld; this host runs godwit %s "
            "with protocol %u: install the same version on both",
            theirs.version, (long long)json_integer_value(protocol), GODWIT_VERSION,
            GW_PROTOCOL_VERSION);
    rc = get_id(message, "instance", theirs.instance_id);
    if (!rc)
        rc = get_id(message, "link", theirs.link_id);
    if (!rc)
        rc = get_id(message, "nonce", theirs.nonce);
    if (!rc && !json_is_boolean(trusts))
        rc = gw_fail(-EPROTO, "the peer's hello has no proper \"trusts\"");
    if (rc)
        return rc;
    theirs.trusts_addresses = json_is_true(trusts);
    if (CRYPTO_memcmp(theirs.instance_id, mine->instance_id, GW_ID_SIZE) == 0)
        return gw_fail(-EACCES,
                       "the peer is this same agent (same instance id): name another host");
    if (CRYPTO_memcmp(theirs.link_id, mine->link_id, GW_ID_SIZE) != 0)
        return gw_fail(-EACCES, "the peer means another link: the request was altered on the way");
    *out = theirs;
    return 0;
}

json_t *gw_verdict_to_json(const struct gw_error *refusal)
{
    if (refusal)
        return json_pack("{s:s}", "refused", refusal->text);
    return json_pack("{s:b}", "ready", 1);
}

int gw_verdict_check(const json_t *message)
{
    const char *why = json_string_value(json_object_get(message, "refused"));
    char text[256];

    if (json_is_true(json_object_get(message, "ready")))
        return 0;
    if (!why)
        return gw_fail(-EPROTO, "the peer's verdict is neither ready nor refused");
    copy_printable(why, text, sizeof(text));
    return gw_fail(-EACCES, "the peer refused: it says \"%s\"", text);
}
