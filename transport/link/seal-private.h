/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a seal, shared by join.c (which makes one) and seal.c (which uses it).
 * Errors: as seal.h says.
 * Order: as seal.h says.
 * Threads: as seal.h says.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_SEAL_PRIVATE_H
#define GODWIT_TRANSPORT_LINK_SEAL_PRIVATE_H

#include "transport/link/gcm.h"
#include "transport/link/private.h"
#include "transport/link/seal.h"

struct gw_seal {
    uint32_t number;
    enum gw_key_side side; /* of this host on this channel */
    uint8_t link_id[GW_ID_SIZE];
    uint8_t nonces[3 * GW_NONCE_SIZE]; /* the session's two, the request's */
    uint8_t my_proof_key[GW_EXPORT_SIZE], their_proof_key[GW_EXPORT_SIZE];
    bool trusts_addresses; /* this host trusts both addresses of the channel */
    bool is_joined, is_clear, is_broken;
    struct gw_gcm record_out, record_in, chunk_out, chunk_in;
};

/* Derives every key of the channel that hello names. */
int gw_seal_new(struct gw_control *control, const struct gw_hello *hello, enum gw_key_side side,
                struct gw_seal **out);

#endif
