/* SPDX-License-Identifier: Apache-2.0 */
/*
 * greeting: the first messages inside TLS, one each way, and each side's verdict on the other's.
 *
 *   {"godwit":"0.1.0","protocol":1,"instance":HEX,"link":HEX,"nonce":HEX,"trusts":true}
 *   {"ready":true}  or  {"refused":"why"}
 *
 * Errors: -EACCES (oneself, another protocol, another link, refused by the peer), -EPROTO
 *   (malformed), with messages that begin "the peer".
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TRANSPORT_LINK_GREETING_H
#define GODWIT_TRANSPORT_LINK_GREETING_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "transport/link/control.h"

#define GW_PROTOCOL_VERSION 1u /* of what is said inside the session */

struct gw_greeting {
    uint8_t instance_id[GW_ID_SIZE];
    uint8_t link_id[GW_ID_SIZE];
    uint8_t nonce[16];
    bool trusts_addresses; /* of the control session, for clear bulk data; for people only */
    char version[32];      /* received only; printable */
};

json_t *gw_greeting_to_json(const struct gw_greeting *greeting); /* NULL: no memory */
/* Reads the peer's and checks it against one's own. */
int gw_greeting_check(const struct gw_greeting *mine, const json_t *message,
                      struct gw_greeting *out);

json_t *gw_verdict_to_json(const struct gw_error *refusal); /* NULL refusal: ready */
int gw_verdict_check(const json_t *message);

#endif
