/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of transport/link share with each other and nobody else: the inside of
 * credentials, and what a seal needs from a control.
 *
 * Errors: 0 or -errno with a message.
 * Order: none.
 * Threads: any, except where a function says more.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_PRIVATE_H
#define GODWIT_TRANSPORT_LINK_PRIVATE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/link/control.h"

#define GW_PSK_SIZE         32u
#define GW_FINGERPRINT_SIZE 32u
#define GW_NONCE_SIZE       16u
#define GW_TICKET_SIZE      12u
#define GW_EXPORT_SIZE      32u    /* bytes of one exported key */
#define GW_CHANNEL_LAST     65535u /* highest number of a data channel */

struct gw_psk {
    char name[GW_PSK_NAME_MAX];
    uint8_t key[GW_PSK_SIZE];
};

enum gw_credentials_kind { GW_CREDENTIALS_PSK, GW_CREDENTIALS_CA, GW_CREDENTIALS_PINNED };

struct gw_credentials {
    enum gw_credentials_kind kind;
    SSL_CTX *client, *server;
    unsigned psk_count;
    struct gw_psk *psks;
    unsigned pin_count;
    uint8_t (*pins)[GW_FINGERPRINT_SIZE];
    char own_fingerprint[3 * GW_FINGERPRINT_SIZE]; /* of this host's certificate, for messages */
};

/* The key of this name, which need not be terminated; NULL when there is none. */
const struct gw_psk *gw_credentials_psk(const struct gw_credentials *credentials, const void *name,
                                        size_t length);
/* Writes AB:CD:... with its terminator; text has room for 3 * length. */
void gw_fingerprint_format(const uint8_t *bytes, size_t length, char *text);
/* The newest text of OpenSSL's error queue; never NULL. */
const char *gw_openssl_reason(void);

/* Sets what tls.c wants on a new SSL_CTX: versions, suite, callbacks. */
void gw_tls_set_up(SSL_CTX *context, const struct gw_credentials *credentials, bool is_dialling);

/* The private data of a connection request. */
void gw_hello_write(const struct gw_hello *hello, uint8_t out[GW_HELLO_MAX]);

/* What a data channel takes from its session. Any thread. */
enum gw_key_use {
    GW_KEY_TICKET = 1,
    GW_KEY_PROOF = 2,
    GW_KEY_RECORD = 3,
    GW_KEY_CHUNK = 4,
    GW_KEY_TRANSPORT = 5,
};
/* The two ends of a data channel: the one that sends with a key. */
enum gw_key_side { GW_SIDE_DIALLING = 1, GW_SIDE_ACCEPTING = 2, GW_SIDE_BOTH = 3 };
int gw_control_key(struct gw_control *control, uint32_t number, enum gw_key_use use,
                   enum gw_key_side side, uint8_t out[GW_EXPORT_SIZE]);
/* Takes a channel number for good; *number 0 asks for one that was never taken, from 1 up on the
 * end that dialled the session, from GW_CHANNEL_LAST down on the other. -EEXIST when it was taken
 * before, -ENOSPC when none is left, -EINVAL beyond GW_CHANNEL_LAST. */
int gw_control_take_number(struct gw_control *control, uint32_t *number);
/* True when the networks that this host trusts contain both. */
bool gw_control_trusts(const struct gw_control *control, const struct gw_address *local,
                       const struct gw_address *peer);
/* The nonces that both ends told each other inside TLS: the session's dialling end first. */
const uint8_t *gw_control_nonces(const struct gw_control *control); /* 2 * GW_NONCE_SIZE */

#endif
