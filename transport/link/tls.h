/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls: one TLS 1.3 session between memory buffers. Bytes of the peer are fed in, bytes for the
 * peer are taken out; it knows no channel. Both sides are authenticated when gw_tls_handshake has
 * returned 0, and there is no way to get there without.
 *
 * Errors: -EAGAIN wants more bytes of the peer. -EACCES: refused by this side or by the peer, with
 *   words that begin "the peer". -EPROTO: not TLS 1.3 as godwit speaks it. -ESHUTDOWN: the peer
 *   ended the session in order. After any of these but -EAGAIN take what is pending once more (it
 *   holds the alert that tells the peer), then free.
 * Threads: one uses a session; gw_tls_export may be called by any beside it.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_TLS_H
#define GODWIT_TRANSPORT_LINK_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/link/credentials.h"

#define GW_TLS_WRITE_MAX 16384u /* bytes of one record: one gw_tls_write */

struct gw_tls;

/* credentials are lent until gw_tls_free. */
int gw_tls_new(const struct gw_credentials *credentials, bool is_dialling, struct gw_tls **out);
void gw_tls_free(struct gw_tls *tls); /* takes NULL */

int gw_tls_feed(struct gw_tls *tls, const void *bytes, size_t length); /* -ENOMEM */
size_t gw_tls_fed(const struct gw_tls *tls);     /* bytes fed and not yet used */
size_t gw_tls_pending(const struct gw_tls *tls); /* bytes that wait to be taken */
size_t gw_tls_take(struct gw_tls *tls, void *out, size_t room);

int gw_tls_handshake(struct gw_tls *tls);
int gw_tls_write(struct gw_tls *tls, const void *bytes, size_t length);
int gw_tls_read(struct gw_tls *tls, void *out, size_t room, size_t *got);
void gw_tls_end(struct gw_tls *tls); /* leaves a close_notify to be taken */

/* After the handshake: who the peer proved to be, printable. */
const char *gw_tls_peer_name(const struct gw_tls *tls);
/* RFC 8446 section 7.5, label "EXPERIMENTAL godwit link". */
int gw_tls_export(struct gw_tls *tls, const void *context, size_t context_length, void *out,
                  size_t length);

#endif
