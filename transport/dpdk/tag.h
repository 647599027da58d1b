/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tag: what proves that a datagram comes from the peer, unaltered. Cheap enough for every datagram,
 * header and payload (docs/dpdk-protocol.md says why, and how much a forger can hope for):
 *
 *   tag = SipHash-2-4(k, first 24 bytes of the header | NH(K, rest of it up to the tag | payload))
 *
 * NH is the universal hash of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC: Fast and
 * Secure Message Authentication", CRYPTO 1999; RFC 4418), 32-bit words, two passes, with a key as
 * long as the longest datagram. SipHash-2-4 (Aumasson, Bernstein, INDOCRYPT 2012) is the
 * pseudo-random function over it, and takes as many words as it must: length and packet number, which
 * is the nonce, are among those 24 bytes.
 *
 * Errors: -EIO when OpenSSL derives no key.
 * Threads: any, on keys that are not being made.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_DPDK_TAG_H
#define GODWIT_TRANSPORT_DPDK_TAG_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/dpdk/wire.h"

#define DPDK_NH_BLOCK  32u /* the payload is hashed as if zeros filled its last block */
#define DPDK_NH_SHIFT  16u /* how much further into the key the second pass begins */
#define DPDK_NH_PASSES 2u
#define DPDK_NH_KEY_SIZE                                                                           \
    (DPDK_NH_BLOCK +                                                                               \
     (DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE + DPDK_NH_BLOCK - 1) / DPDK_NH_BLOCK * DPDK_NH_BLOCK +  \
     DPDK_NH_SHIFT * (DPDK_NH_PASSES - 1))

/* Of one direction. */
struct dpdk_tag_key {
    uint64_t siphash[2];
    uint32_t nh[DPDK_NH_KEY_SIZE / 4];
};

struct dpdk_tag_secret {
    const uint8_t *secret;
    uint32_t secret_length;
    const void *context; /* what the key is bound to besides, at most 128 bytes */
    uint32_t context_length;
};

/* HKDF with SHA-512 (RFC 5869). */
int gw_dpdk_tag_derive(const struct dpdk_tag_secret *secret, struct dpdk_tag_key *out);

/* length at most DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE. */
uint64_t gw_dpdk_tag(const struct dpdk_tag_key *key, const uint8_t *header, const void *payload,
                     uint32_t length);
/* True when the datagram, at least DPDK_HEADER_SIZE long, bears its tag. */
bool gw_dpdk_tag_is_right(const struct dpdk_tag_key *key, const uint8_t *datagram, uint32_t length);

/* The parts, for tests. */
uint64_t gw_dpdk_siphash(const uint64_t key[2], const uint64_t *words, unsigned count);
/* NH of header and payload without vector instructions: what the tag must agree with. */
void gw_dpdk_nh_plain(const struct dpdk_tag_key *key, const uint8_t *header, const void *payload,
                      uint32_t length, uint64_t out[DPDK_NH_PASSES]);

#endif
