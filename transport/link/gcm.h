/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gcm: AES-256-GCM in one direction with an implicit counter: what was sealed as the n-th opens
 * only as the n-th. The key is set once; an operation sets the nonce alone and allocates nothing.
 *
 * Errors: -EBADMSG for what does not open (the counter stays); -EOVERFLOW when the counter is used
 *   up; -EIO when OpenSSL fails.
 * Order: opened as sealed.
 * Threads: one at a time.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_GCM_H
#define GODWIT_TRANSPORT_LINK_GCM_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>

#define GW_GCM_KEY_SIZE 32u
#define GW_GCM_TAG_SIZE 16u

struct gw_gcm {
    EVP_CIPHER_CTX *context;
    uint32_t number;  /* first four bytes of every nonce */
    uint64_t counter; /* the rest; of the next operation */
};

/* One operation. out may be in, or must not overlap it. */
struct gw_gcm_text {
    const void *extra; /* authenticated, not sent */
    uint32_t extra_length;
    uint32_t length;
    const void *in;
    void *out;
};

int gw_gcm_init(struct gw_gcm *gcm, const uint8_t key[GW_GCM_KEY_SIZE], uint32_t number,
                bool is_sealing);
void gw_gcm_free(struct gw_gcm *gcm); /* wipes; takes zeroed memory */
int gw_gcm_seal(struct gw_gcm *gcm, const struct gw_gcm_text *text, uint8_t tag[GW_GCM_TAG_SIZE]);
/* On failure out holds garbage. */
int gw_gcm_open(struct gw_gcm *gcm, const struct gw_gcm_text *text,
                const uint8_t tag[GW_GCM_TAG_SIZE]);

#endif
