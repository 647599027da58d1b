/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal: the secrets of one data channel. It proves that the channel belongs to its link, settles
 * whether bulk bytes travel sealed or clear, seals every record in both directions, and seals
 * chunks.
 *
 * Join: each side's first message on the channel is its proof (gw_seal_proof), each side's first
 *   check is the peer's (gw_seal_check); the HMAC covers role, link, channel number, both nonces
 *   and whether the sender trusts both addresses for clear. The dialling side waits for the answer
 *   before it sends data.
 *
 * Before that, the private data of the connection request carries a ticket: an HMAC over link,
 * number and nonce, so that nobody without the session's keys gets a channel at all.
 *
 * Errors: -EBADMSG for what is forged, altered, replayed, reordered or cut: the channel must be
 *   closed. -EINVAL for lengths beyond the limits, and for records and chunks before the peer's
 *   proof was checked. -EOVERFLOW when a counter is used up. After -EBADMSG or -EACCES a seal
 *   opens and seals nothing more. Nothing is written to out on failure, except that
 *   gw_seal_open_chunk may leave garbage in out: never declare it valid.
 * Order: records are opened in the order in which they were sealed (implicit counters), and so are
 *   chunks.
 * Threads: one seal is used by the one worker that owns the channel.
 * Units: bytes.
 * Keys: from the TLS exporter of the session, with link id and channel number as context, one per
 *   direction and use; never used twice since a channel number is never reused (RFC 8446 section
 *   7.5).
 */
#ifndef GODWIT_TRANSPORT_LINK_SEAL_H
#define GODWIT_TRANSPORT_LINK_SEAL_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/link/control.h"

#define GW_SEAL_TAG_SIZE   16u
#define GW_SEAL_PROOF_SIZE 36u /* flags and HMAC-SHA-256 */
#define GW_SEAL_RECORD_MAX (GW_MESSAGE_MAX - GW_SEAL_TAG_SIZE)
#define GW_SEAL_CHUNK_MAX  GW_WRITE_MAX

struct gw_seal;

/* What a chunk is sealed to besides its bytes. */
struct gw_chunk_name {
    uint8_t migration_id[GW_ID_SIZE];
    uint32_t volume;
    uint32_t length;
    uint64_t offset;
};

/* Dials data channel options->channel.number (0: one that is free) over peer's address (a
 * rail's); on success the channel waits for the proofs, which the worker exchanges. poller, domain
 * and context are the worker's; hello and secret are set here. The number is spent whatever the
 * outcome. -EEXIST when it was used before. */
int gw_seal_dial(struct gw_control *control, const struct gw_connect_options *options,
                 struct gw_channel **channel, struct gw_seal **out);
/* The accepting end, for a request whose hello names this control's link. Checked here, before
 * anything is made for the stranger: the link id, the ticket of the hello and the number (-EACCES).
 * Numbers may come in any order, each once. On failure the request is rejected, and gone. */
int gw_seal_examine(struct gw_control *control, struct gw_request *request);
/* Gives an examined request its channel. Takes over the request. */
int gw_seal_accept(struct gw_control *control, struct gw_request *request,
                   const struct gw_channel_options *options, struct gw_channel **channel,
                   struct gw_seal **out);
/* Both in one. */
int gw_seal_admit(struct gw_control *control, struct gw_request *request,
                  const struct gw_channel_options *options, struct gw_channel **channel,
                  struct gw_seal **out);
void gw_seal_free(struct gw_seal *seal); /* wipes; takes NULL; after the channel is closed */

/* GW_SEAL_PROOF_SIZE bytes for the first send. */
void gw_seal_proof(struct gw_seal *seal, uint8_t *out);
/* The peer's first message. After it gw_seal_is_clear is settled. -EACCES: a stranger or an altered
 * proof. */
int gw_seal_check(struct gw_seal *seal, const void *message, uint32_t length);
/* True when both sides trust both addresses. */
bool gw_seal_is_clear(const struct gw_seal *seal);
uint32_t gw_seal_number(const struct gw_seal *seal);

/* out has room for length + GW_SEAL_TAG_SIZE. length at most GW_SEAL_RECORD_MAX. In place is
 * allowed. */
int gw_seal_record(struct gw_seal *seal, const void *plain, uint32_t length, void *out);
int gw_seal_open_record(struct gw_seal *seal, const void *sealed, uint32_t length, void *out,
                        uint32_t *out_length);
/* AES-256-GCM of name->length bytes, at most GW_SEAL_CHUNK_MAX, from in to out (may not overlap
 * unless equal). The tag is GW_SEAL_TAG_SIZE bytes. */
int gw_seal_chunk(struct gw_seal *seal, const struct gw_chunk_name *name, const void *in, void *out,
                  uint8_t *tag);
int gw_seal_open_chunk(struct gw_seal *seal, const struct gw_chunk_name *name, const void *in,
                       void *out, const uint8_t *tag);

#endif
