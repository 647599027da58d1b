/* SPDX-License-Identifier: Apache-2.0 */
/* NH, SipHash-2-4 and the derivation of their keys. */
#include "transport/dpdk/tag.h"

#include <assert.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define CONTEXT_MAX 128u
#define SIP_BYTES   24u /* of the header; the block behind them is NH's */
#define SHIFT_WORDS (DPDK_NH_SHIFT / 4)
#define BLOCK_WORDS (DPDK_NH_BLOCK / 4)
#define KEY_BYTES   (16u + DPDK_NH_KEY_SIZE)

static_assert(KEY_BYTES <= 255 * 64, "RFC 5869: HKDF-SHA-512 gives no more");
static_assert(SIP_BYTES % 8 == 0, "SipHash takes whole words");
static_assert(SIP_BYTES + DPDK_NH_BLOCK == DPDK_TAG_OFFSET, "all of the header is hashed");

int gw_dpdk_tag_derive(const struct dpdk_tag_secret *secret, struct dpdk_tag_key *out)
{
    /* OpenSSL's parameters are not const. */
    char digest[] = "SHA512", salt[] = "godwit dpdk 1";
    uint8_t bytes[KEY_BYTES], context[CONTEXT_MAX], key[GW_SECRET_MAX];
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *derivation = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM params[5];
    const char *reason;
    int ok;

    assert(secret->secret_length <= sizeof(key) && secret->context_length <= sizeof(context));
    memcpy(key, secret->secret, secret->secret_length);
    memcpy(context, secret->context, secret->context_length);
    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
    params[1] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key, secret->secret_length);
    params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, sizeof(salt) - 1);
    params[3] =
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, context, secret->context_length);
    params[4] = OSSL_PARAM_construct_end();
    ok = derivation && EVP_KDF_derive(derivation, bytes, sizeof(bytes), params) == 1;
    EVP_KDF_CTX_free(derivation);
    EVP_KDF_free(kdf);
    for (unsigned i = 0; ok && i < 2; i++)
        out->siphash[i] = gw_get_le64(bytes + i * 8);
    for (unsigned i = 0; ok && i < DPDK_NH_KEY_SIZE / 4; i++)
        out->nh[i] = gw_get_le32(bytes + 16 + (size_t)i * 4);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    OPENSSL_cleanse(key, sizeof(key));
    if (ok)
        return 0;
    reason = ERR_reason_error_string(ERR_peek_last_error());
    return gw_fail(-EIO, "dpdk: OpenSSL derives no key (%s)", reason ? reason : "no reason given");
}

static inline uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    sip_round(v);
    v[0] ^= word;
}

static inline void sip_begin(uint64_t v[4], const uint64_t key[2])
{
    v[0] = key[0] ^ 0x736f6d6570736575u;
    v[1] = key[1] ^ 0x646f72616e646f6du;
    v[2] = key[0] ^ 0x6c7967656e657261u;
    v[3] = key[1] ^ 0x7465646279746573u;
}

/* Whole words only: the last word holds nothing but the length. */
static inline uint64_t sip_end(uint64_t v[4], unsigned word_count)
{
    sip_word(v, (uint64_t)(word_count * 8 & 0xff) << 56);
    v[2] ^= 0xff;
    for (unsigned i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t gw_dpdk_siphash(const uint64_t key[2], const uint64_t *words, unsigned count)
{
    uint64_t v[4];

    sip_begin(v, key);
    for (unsigned i = 0; i < count; i++)
        sip_word(v, words[i]);
    return sip_end(v, count);
}

static inline void take_header(uint64_t v[4], const struct dpdk_tag_key *key, const uint8_t *header)
{
    sip_begin(v, key->siphash);
    for (unsigned i = 0; i < SIP_BYTES; i += 8)
        sip_word(v, gw_get_le64(header + i));
}

/* The tag, of a state that has taken the header. */
static inline uint64_t finish(uint64_t v[4], const uint64_t hashed[DPDK_NH_PASSES])
{
    for (unsigned i = 0; i < DPDK_NH_PASSES; i++)
        sip_word(v, hashed[i]);
    return sip_end(v, SIP_BYTES / 8 + DPDK_NH_PASSES);
}

/* One block of eight words for both passes, as the paper pairs them: (1, 2), (3, 4), ... */
static void hash_block(const uint32_t *key, const uint8_t *block, uint64_t sums[DPDK_NH_PASSES])
{
    for (unsigned i = 0; i < BLOCK_WORDS; i += 2) {
        uint32_t first = gw_get_le32(block + (size_t)i * 4);
        uint32_t second = gw_get_le32(block + (size_t)i * 4 + 4);

        for (unsigned pass = 0; pass < DPDK_NH_PASSES; pass++) {
            const uint32_t *k = key + pass * SHIFT_WORDS + i;

            sums[pass] += (uint64_t)(uint32_t)(first + k[0]) * (uint32_t)(second + k[1]);
        }
    }
}

/* The payload from there on; its key begins behind the header's block. */
static void hash_rest(const struct dpdk_tag_key *key, const uint8_t *payload, uint32_t from,
                      uint32_t length, uint64_t sums[DPDK_NH_PASSES])
{
    const uint32_t *k = key->nh + BLOCK_WORDS;
    uint8_t last[DPDK_NH_BLOCK] = {0};

    for (; length - from >= DPDK_NH_BLOCK; from += DPDK_NH_BLOCK)
        hash_block(k + from / 4, payload + from, sums);
    if (from == length)
        return;
    memcpy(last, payload + from, length - from);
    hash_block(k + from / 4, last, sums);
}

void gw_dpdk_nh_plain(const struct dpdk_tag_key *key, const uint8_t *header, const void *payload,
                      uint32_t length, uint64_t out[DPDK_NH_PASSES])
{
    memset(out, 0, DPDK_NH_PASSES * sizeof(out[0]));
    hash_block(key->nh, header + SIP_BYTES, out);
    hash_rest(key, payload, 0, length, out);
}

#if defined(__x86_64__)
static __attribute__((target("avx2"))) inline uint64_t add_lanes(__m256i sums)
{
    __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));

    return (uint64_t)_mm_extract_epi64(half, 0) + (uint64_t)_mm_extract_epi64(half, 1);
}

static __attribute__((target("avx2"))) inline __m256i pass_block(__m256i words, const uint32_t *key,
                                                                 __m256i sums)
{
    __m256i mixed = _mm256_add_epi32(words, _mm256_loadu_si256((const __m256i *)(const void *)key));

    return _mm256_add_epi64(sums, _mm256_mul_epu32(mixed, _mm256_srli_epi64(mixed, 32)));
}

static __attribute__((target("avx2"))) inline __m256i load(const uint8_t *block)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)block);
}

/* SipHash's words wait for each other, NH's blocks for nothing: the processor does both at once. Four
 * sums, two a pass, so that the additions do not wait either. */
static __attribute__((target("avx2"))) uint64_t tag_avx2(const struct dpdk_tag_key *key,
                                                         const uint8_t *header,
                                                         const uint8_t *payload, uint32_t length)
{
    __m256i first = load(header + SIP_BYTES), second;
    __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                       _mm256_setzero_si256()};
    const uint32_t *k = key->nh;
    uint64_t hashed[DPDK_NH_PASSES], v[4];
    uint32_t at = 0;

    take_header(v, key, header);
    sums[0] = pass_block(first, k, sums[0]);
    sums[1] = pass_block(first, k + SHIFT_WORDS, sums[1]);
    k += BLOCK_WORDS;
    for (; length - at >= 2 * DPDK_NH_BLOCK; at += 2 * DPDK_NH_BLOCK, k += 2 * BLOCK_WORDS) {
        first = load(payload + at);
        second = load(payload + at + DPDK_NH_BLOCK);
        sums[0] = pass_block(first, k, sums[0]);
        sums[1] = pass_block(first, k + SHIFT_WORDS, sums[1]);
        sums[2] = pass_block(second, k + BLOCK_WORDS, sums[2]);
        sums[3] = pass_block(second, k + BLOCK_WORDS + SHIFT_WORDS, sums[3]);
    }
    hashed[0] = add_lanes(_mm256_add_epi64(sums[0], sums[2]));
    hashed[1] = add_lanes(_mm256_add_epi64(sums[1], sums[3]));
    if (at < length)
        hash_rest(key, payload, at, length, hashed);
    return finish(v, hashed);
}
#endif

static __attribute__((noinline)) uint64_t tag_plain(const struct dpdk_tag_key *key,
                                                    const uint8_t *header, const void *payload,
                                                    uint32_t length)
{
    uint64_t hashed[DPDK_NH_PASSES], v[4];

    gw_dpdk_nh_plain(key, header, payload, length, hashed);
    take_header(v, key, header);
    return finish(v, hashed);
}

uint64_t gw_dpdk_tag(const struct dpdk_tag_key *key, const uint8_t *header, const void *payload,
                     uint32_t length)
{
    assert(length <= DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return tag_avx2(key, header, payload, length);
#endif
    return tag_plain(key, header, payload, length);
}

bool gw_dpdk_tag_is_right(const struct dpdk_tag_key *key, const uint8_t *datagram, uint32_t length)
{
    return gw_dpdk_tag(key, datagram, datagram + DPDK_HEADER_SIZE, length - DPDK_HEADER_SIZE) ==
           gw_get_le64(datagram + DPDK_TAG_OFFSET);
}
