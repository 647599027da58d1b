/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One data channel's proofs, records and chunks. How the channel comes to be is join.c's business;
 * how AES-256-GCM is run is gcm.c's.
 */
#include "transport/link/seal.h"

#include <assert.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/link/seal-private.h"

#define FLAG_TRUSTS 1u
#define HMAC_SIZE   32u
#define HMAC_AT     (GW_SEAL_PROOF_SIZE - HMAC_SIZE)
#define NAME_SIZE   (GW_ID_SIZE + 16u)
/* side, flags, number, link, the session's nonces, the request's nonce */
#define CLAIM_SIZE (2u + 4u + GW_ID_SIZE + 3u * GW_NONCE_SIZE)

static_assert(GW_SEAL_TAG_SIZE == GW_GCM_TAG_SIZE, "tags of records and chunks are GCM's");
static_assert(GW_EXPORT_SIZE == GW_GCM_KEY_SIZE, "an exported key is an AES-256 key");
static_assert(GW_SEAL_CHUNK_MAX <= INT32_MAX, "EVP counts in int");

static enum gw_key_side other_side(enum gw_key_side side)
{
    return side == GW_SIDE_DIALLING ? GW_SIDE_ACCEPTING : GW_SIDE_DIALLING;
}

static int key_one(struct gw_control *control, struct gw_gcm *gcm, const struct gw_seal *seal,
                   enum gw_key_use use, enum gw_key_side side)
{
    uint8_t key[GW_EXPORT_SIZE];
    int rc = gw_control_key(control, seal->number, use, side, key);

    if (!rc)
        rc = gw_gcm_init(gcm, key, seal->number, side == seal->side);
    OPENSSL_cleanse(key, sizeof(key));
    return rc;
}

int gw_seal_new(struct gw_control *control, const struct gw_hello *hello, enum gw_key_side side,
                struct gw_seal **out)
{
    struct gw_seal *seal = calloc(1, sizeof(*seal));
    enum gw_key_side other = other_side(side);
    int rc;

    if (!seal)
        return gw_fail(-ENOMEM, "no memory for a data channel's keys");
    seal->number = hello->channel_number;
    seal->side = side;
    memcpy(seal->link_id, hello->link_id, GW_ID_SIZE);
    memcpy(seal->nonces, gw_control_nonces(control), 2 * GW_NONCE_SIZE);
    memcpy(seal->nonces + 2 * GW_NONCE_SIZE, hello->nonce, GW_NONCE_SIZE);
    rc = gw_control_key(control, seal->number, GW_KEY_PROOF, side, seal->my_proof_key);
    if (!rc)
        rc = gw_control_key(control, seal->number, GW_KEY_PROOF, other, seal->their_proof_key);
    if (!rc)
        rc = key_one(control, &seal->record_out, seal, GW_KEY_RECORD, side);
    if (!rc)
        rc = key_one(control, &seal->record_in, seal, GW_KEY_RECORD, other);
    if (!rc)
        rc = key_one(control, &seal->chunk_out, seal, GW_KEY_CHUNK, side);
    if (!rc)
        rc = key_one(control, &seal->chunk_in, seal, GW_KEY_CHUNK, other);
    if (rc)
        gw_seal_free(seal);
    else
        *out = seal;
    return rc;
}

void gw_seal_free(struct gw_seal *seal)
{
    if (!seal)
        return;
    gw_gcm_free(&seal->record_out);
    gw_gcm_free(&seal->record_in);
    gw_gcm_free(&seal->chunk_out);
    gw_gcm_free(&seal->chunk_in);
    OPENSSL_cleanse(seal, sizeof(*seal));
    free(seal);
}

/* What a side claims of itself, under a key that only it and its peer have. */
static void prove(const struct gw_seal *seal, enum gw_key_side side, uint8_t flags,
                  uint8_t out[HMAC_SIZE])
{
    const uint8_t *key = side == seal->side ? seal->my_proof_key : seal->their_proof_key;
    uint8_t claim[CLAIM_SIZE];
    unsigned length = 0;

    claim[0] = (uint8_t)side;
    claim[1] = flags;
    gw_put_le32(claim + 2, seal->number);
    memcpy(claim + 6, seal->link_id, GW_ID_SIZE);
    memcpy(claim + 6 + GW_ID_SIZE, seal->nonces, sizeof(seal->nonces));
    /* An HMAC that cannot be computed must not look like one: then it is all zeroes on both sides,
     * and gw_seal_check refuses zeroes. */
    if (!HMAC(EVP_sha256(), key, GW_EXPORT_SIZE, claim, sizeof(claim), out, &length) ||
        length != HMAC_SIZE)
        memset(out, 0, HMAC_SIZE);
}

void gw_seal_proof(struct gw_seal *seal, uint8_t *out)
{
    memset(out, 0, HMAC_AT);
    out[0] = seal->trusts_addresses ? FLAG_TRUSTS : 0;
    prove(seal, seal->side, out[0], out + HMAC_AT);
}

static int break_seal(struct gw_seal *seal, int error)
{
    seal->is_broken = true;
    return error;
}

int gw_seal_check(struct gw_seal *seal, const void *message, uint32_t length)
{
    static const uint8_t zeroes[HMAC_SIZE];
    const uint8_t *bytes = message;
    uint8_t expected[HMAC_SIZE];

    if (seal->is_joined || seal->is_broken)
        return gw_fail(break_seal(seal, -EACCES), "channel %u: a second proof", seal->number);
    if (length != GW_SEAL_PROOF_SIZE || bytes[0] > FLAG_TRUSTS || bytes[1] || bytes[2] || bytes[3])
        return gw_fail(break_seal(seal, -EACCES),
                       "channel %u: the peer began with something else than its proof",
                       seal->number);
    prove(seal, other_side(seal->side), bytes[0], expected);
    if (CRYPTO_memcmp(expected, bytes + HMAC_AT, HMAC_SIZE) != 0 ||
        CRYPTO_memcmp(expected, zeroes, HMAC_SIZE) == 0)
        return gw_fail(break_seal(seal, -EACCES),
                       "channel %u: the peer's proof is false: a stranger, or altered on the way",
                       seal->number);
    seal->is_joined = true;
    seal->is_clear = seal->trusts_addresses && bytes[0] == FLAG_TRUSTS;
    return 0;
}

bool gw_seal_is_clear(const struct gw_seal *seal)
{
    return seal->is_clear;
}

uint32_t gw_seal_number(const struct gw_seal *seal)
{
    return seal->number;
}

static int check_state(const struct gw_seal *seal)
{
    if (seal->is_broken)
        return gw_fail(-EBADMSG, "channel %u: its seal is broken; close it", seal->number);
    if (!seal->is_joined)
        return gw_fail(-EINVAL, "channel %u: the peer's proof was not checked yet", seal->number);
    return 0;
}

int gw_seal_record(struct gw_seal *seal, const void *plain, uint32_t length, void *out)
{
    struct gw_gcm_text text = {.in = plain, .out = out, .length = length};
    int rc = check_state(seal);

    if (rc)
        return rc;
    if (length > GW_SEAL_RECORD_MAX)
        return gw_fail(-EINVAL, "a record of %u bytes is more than %u", length, GW_SEAL_RECORD_MAX);
    return gw_gcm_seal(&seal->record_out, &text, (uint8_t *)out + length);
}

int gw_seal_open_record(struct gw_seal *seal, const void *sealed, uint32_t length, void *out,
                        uint32_t *out_length)
{
    /* Opened here first, so that out never holds what was not proven. */
    uint8_t plain[GW_SEAL_RECORD_MAX];
    struct gw_gcm_text text = {.in = sealed, .out = plain};
    int rc = check_state(seal);

    if (rc)
        return rc;
    if (length < GW_SEAL_TAG_SIZE || length > GW_MESSAGE_MAX)
        return gw_fail(break_seal(seal, -EBADMSG), "channel %u: a record of %u bytes", seal->number,
                       length);
    text.length = length - GW_SEAL_TAG_SIZE;
    rc = gw_gcm_open(&seal->record_in, &text, (const uint8_t *)sealed + text.length);
    if (rc)
        return gw_fail(break_seal(seal, rc), "channel %u: record %llu does not open: %s",
                       seal->number, (unsigned long long)seal->record_in.counter,
                       gw_error_message());
    memcpy(out, plain, text.length);
    *out_length = text.length;
    return 0;
}

static void write_name(const struct gw_chunk_name *name, uint8_t out[NAME_SIZE])
{
    memcpy(out, name->migration_id, GW_ID_SIZE);
    gw_put_le32(out + GW_ID_SIZE, name->volume);
    gw_put_le32(out + GW_ID_SIZE + 4, name->length);
    gw_put_le64(out + GW_ID_SIZE + 8, name->offset);
}

int gw_seal_chunk(struct gw_seal *seal, const struct gw_chunk_name *name, const void *in, void *out,
                  uint8_t *tag)
{
    uint8_t extra[NAME_SIZE];
    struct gw_gcm_text text = {
        .extra = extra, .extra_length = NAME_SIZE, .length = name->length, .in = in, .out = out};
    int rc = check_state(seal);

    if (rc)
        return rc;
    if (name->length > GW_SEAL_CHUNK_MAX)
        return gw_fail(-EINVAL, "a chunk of %u bytes is more than %u", name->length,
                       GW_SEAL_CHUNK_MAX);
    write_name(name, extra);
    return gw_gcm_seal(&seal->chunk_out, &text, tag);
}

int gw_seal_open_chunk(struct gw_seal *seal, const struct gw_chunk_name *name, const void *in,
                       void *out, const uint8_t *tag)
{
    uint8_t extra[NAME_SIZE];
    struct gw_gcm_text text = {
        .extra = extra, .extra_length = NAME_SIZE, .length = name->length, .in = in, .out = out};
    int rc = check_state(seal);

    if (rc)
        return rc;
    if (name->length > GW_SEAL_CHUNK_MAX)
        return gw_fail(-EINVAL, "a chunk of %u bytes is more than %u", name->length,
                       GW_SEAL_CHUNK_MAX);
    write_name(name, extra);
    rc = gw_gcm_open(&seal->chunk_in, &text, tag);
    if (rc)
        return gw_fail(
            break_seal(seal, rc),
            "channel %u: chunk %llu (volume %u, offset %llu, %u bytes) does not open: %s",
            seal->number, (unsigned long long)seal->chunk_in.counter, name->volume,
            (unsigned long long)name->offset, name->length, gw_error_message());
    return 0;
}
