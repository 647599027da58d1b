/* SPDX-License-Identifier: Apache-2.0 */
/* Alerts of the peer and faults found here, as sentences. Decides nothing about the session. */
#include "transport/link/tls-words.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "common/error.h"

#define COPY_KEY "copy the file made by 'godwit key' to both hosts"

/* What the peer's alert says about this host's key. */
static const char *words_of_psk_alert(int alert)
{
    switch (alert) {
    case SSL_AD_DECRYPT_ERROR:
    case SSL_AD_ILLEGAL_PARAMETER:
        return "it holds another pre-shared key of this name; " COPY_KEY;
    case SSL_AD_UNKNOWN_PSK_IDENTITY:
        return "it has no pre-shared key of this name; " COPY_KEY;
    case SSL_AD_UNSUPPORTED_EXTENSION:
        return "it uses certificates, this host a pre-shared key; give both hosts the same kind of "
               "credentials";
    default:
        return NULL;
    }
}

static const char *words_of_certificate_alert(int alert)
{
    switch (alert) {
    case SSL_AD_INSUFFICIENT_SECURITY:
        return "it wants a pre-shared key, this host uses certificates; give both hosts the same "
               "kind "
               "of credentials";
    case SSL_AD_UNKNOWN_CA:
        return "it does not know the CA of this host's certificate";
    case SSL_AD_BAD_CERTIFICATE:
        return "it does not accept this host's certificate; if it pins fingerprints, give it this "
               "one";
    case SSL_AD_CERTIFICATE_EXPIRED:
        return "this host's certificate has expired, or one of the two clocks is wrong";
    case SSL_AD_CERTIFICATE_REVOKED:
        return "this host's certificate has been revoked";
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
        return "this host's certificate is not meant for this use; it needs both serverAuth and "
               "clientAuth, or no extended key usage at all";
    case SSL_AD_CERTIFICATE_UNKNOWN:
        return "it finds this host's certificate unacceptable";
    case SSL_AD_CERTIFICATE_REQUIRED:
        return "it got no certificate from this host";
    case SSL_AD_DECRYPT_ERROR:
        return "this host's signature does not fit its certificate";
    default:
        return NULL;
    }
}

static const char *words_of_any_alert(int alert)
{
    switch (alert) {
    case SSL_AD_PROTOCOL_VERSION:
        return "it does not speak TLS 1.3";
    case SSL_AD_HANDSHAKE_FAILURE:
        return "it found no common way to prove who we are; give both hosts the same kind of "
               "credentials";
    case SSL_AD_BAD_RECORD_MAC:
        return "what it received had been altered on the way";
    case SSL_AD_INTERNAL_ERROR:
        return "it met an error of its own; see its log";
    default:
        return "for a reason that only its log tells";
    }
}

static int explain_alert(int alert, const struct gw_words_context *context)
{
    const char *words =
        context->is_psk ? words_of_psk_alert(alert) : words_of_certificate_alert(alert);

    if (!words)
        words = words_of_any_alert(alert);
    if (context->is_psk && context->is_dialling && context->psk_name[0])
        return gw_fail(-EACCES, "the peer refused the pre-shared key '%s': %s (%s)",
                       context->psk_name, words, SSL_alert_desc_string_long(alert));
    if (alert == SSL_AD_BAD_CERTIFICATE && !context->is_psk)
        return gw_fail(-EACCES, "the peer refused: %s: %s (%s)", words, context->own_fingerprint,
                       SSL_alert_desc_string_long(alert));
    return gw_fail(-EACCES, "the peer refused: %s (%s)", words, SSL_alert_desc_string_long(alert));
}

int gw_words_explain(unsigned long error, const struct gw_words_context *context)
{
    int reason = ERR_GET_REASON(error);
    const char *text = ERR_reason_error_string(error);

    if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET &&
        reason < SSL_AD_REASON_OFFSET + 256)
        return explain_alert(reason - SSL_AD_REASON_OFFSET, context);
    if (ERR_GET_LIB(error) == ERR_LIB_SSL) {
        switch (reason) {
        case SSL_R_BINDER_DOES_NOT_VERIFY:
            return gw_fail(-EACCES, "the peer holds another pre-shared key than this host under "
                                    "the same name; " COPY_KEY);
        case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
            return gw_fail(-EACCES, "the peer showed no certificate");
        case SSL_R_UNSUPPORTED_PROTOCOL:
        case SSL_R_VERSION_TOO_LOW:
        case SSL_R_VERSION_TOO_HIGH:
            return gw_fail(-EPROTO, "the peer does not speak TLS 1.3");
        case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
            return gw_fail(-EPROTO, "the peer's bytes have been altered on the way (%s)", text);
        default:
            break;
        }
    }
    return gw_fail(-EPROTO, "the peer sent what is not TLS 1.3 as godwit speaks it (%s)",
                   text ? text : "cut short");
}
