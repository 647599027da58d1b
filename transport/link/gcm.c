/* SPDX-License-Identifier: Apache-2.0 */
/* AES-256-GCM through EVP. What is sealed, and with which key, is seal.c's business. */
#include "transport/link/gcm.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"

#define NONCE_SIZE 12u

static int fail_openssl(const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());

    return gw_fail(-EIO, "AES-256-GCM: %s failed (%s)", what, reason ? reason : "no reason given");
}

int gw_gcm_init(struct gw_gcm *gcm, const uint8_t key[GW_GCM_KEY_SIZE], uint32_t number,
                bool is_sealing)
{
    EVP_CIPHER *cipher;
    int ok;

    memset(gcm, 0, sizeof(*gcm));
    gcm->number = number;
    gcm->context = EVP_CIPHER_CTX_new();
    /* Fetched here so that the operations never look it up. The context keeps a reference. */
    cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    ok = gcm->context && cipher &&
         EVP_CipherInit_ex2(gcm->context, cipher, key, NULL, is_sealing ? 1 : 0, NULL) == 1 &&
         EVP_CIPHER_CTX_get_iv_length(gcm->context) == (int)NONCE_SIZE;
    EVP_CIPHER_free(cipher);
    if (ok)
        return 0;
    gw_gcm_free(gcm);
    return fail_openssl("setting the key");
}

void gw_gcm_free(struct gw_gcm *gcm)
{
    EVP_CIPHER_CTX_free(gcm->context);
    memset(gcm, 0, sizeof(*gcm));
}

/* The nonce of this operation, and everything up to the tag. */
static int run(struct gw_gcm *gcm, const struct gw_gcm_text *text)
{
    uint8_t nonce[NONCE_SIZE];
    int done;

    if (gcm->counter == UINT64_MAX)
        return gw_fail(-EOVERFLOW,
                       "AES-256-GCM: the key of channel %u is used up; a new channel is "
                       "needed",
                       gcm->number);
    gw_put_be32(nonce, gcm->number);
    gw_put_be64(nonce + 4, gcm->counter);
    if (EVP_CipherInit_ex2(gcm->context, NULL, NULL, nonce, -1, NULL) != 1)
        return fail_openssl("setting the nonce");
    if (text->extra_length &&
        EVP_CipherUpdate(gcm->context, NULL, &done, text->extra, (int)text->extra_length) != 1)
        return fail_openssl("additional data");
    if (text->length &&
        (EVP_CipherUpdate(gcm->context, text->out, &done, text->in, (int)text->length) != 1 ||
         done != (int)text->length))
        return fail_openssl("the cipher");
    return 0;
}

int gw_gcm_seal(struct gw_gcm *gcm, const struct gw_gcm_text *text, uint8_t tag[GW_GCM_TAG_SIZE])
{
    uint8_t nothing[16];
    int done, rc = run(gcm, text);

    if (rc)
        return rc;
    /* The counter is spent even if the tag cannot be had: a nonce never serves twice. */
    gcm->counter++;
    if (EVP_CipherFinal_ex(gcm->context, nothing, &done) != 1 ||
        EVP_CIPHER_CTX_ctrl(gcm->context, EVP_CTRL_AEAD_GET_TAG, GW_GCM_TAG_SIZE, tag) != 1)
        return fail_openssl("the tag");
    return 0;
}

int gw_gcm_open(struct gw_gcm *gcm, const struct gw_gcm_text *text,
                const uint8_t tag[GW_GCM_TAG_SIZE])
{
    uint8_t nothing[16], expected[GW_GCM_TAG_SIZE];
    int done, rc = run(gcm, text);

    if (rc)
        return rc;
    memcpy(expected, tag, sizeof(expected));
    if (EVP_CIPHER_CTX_ctrl(gcm->context, EVP_CTRL_AEAD_SET_TAG, GW_GCM_TAG_SIZE, expected) != 1)
        return fail_openssl("the tag");
    if (EVP_CipherFinal_ex(gcm->context, nothing, &done) != 1)
        return gw_fail(-EBADMSG, "forged, altered, replayed or out of order");
    gcm->counter++;
    return 0;
}
