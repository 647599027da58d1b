/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire: carries the bytes of a TLS session in the messages of one channel. A byte stream: records
 * and messages do not match.
 *
 * Errors: as the channel's; a dead channel answers the same error for ever, after everything that
 *   came before its death has been fed to the session.
 * Threads: one at a time.
 * Units: bytes; deadlines are gw_clock_ns values, GW_WIRE_FOREVER for none.
 */
#ifndef GODWIT_TRANSPORT_LINK_WIRE_H
#define GODWIT_TRANSPORT_LINK_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "transport/link/tls.h"
#include "transport/transport.h"

#define GW_WIRE_FOREVER UINT64_MAX
#define GW_WIRE_SENDS   64u /* messages in flight */

struct gw_wire;

struct gw_wire_send {
    struct gw_send send;
    struct gw_wire *wire;
    struct gw_wire_send *next_free;
    uint8_t bytes[GW_MESSAGE_MAX];
};

struct gw_wire {
    struct gw_domain *domain;
    struct gw_poller *poller;
    struct gw_channel *channel; /* set by the owner once connected; closed by gw_wire_close */
    struct gw_wire_send *sends, *free_sends, *stalled;
    unsigned busy;       /* messages posted and not done */
    uint64_t done_count; /* ever */
    struct gw_error death;
};

int gw_wire_open(struct gw_wire *wire, struct gw_transport *transport,
                 const struct gw_address *local);
void gw_wire_close(struct gw_wire *wire); /* takes zeroed memory too */

/* Posts what the session has pending: full messages, and with is_last the rest as well. -EAGAIN:
 * some is left because every message is in flight. */
int gw_wire_post(struct gw_wire *wire, struct gw_tls *tls, bool is_last);
/* Feeds what has arrived to the session, at most about 256 KiB. 1: something came; 0: nothing. */
int gw_wire_pump(struct gw_wire *wire, struct gw_tls *tls);
/* Sleeps until there may be something to pump or to post. -ETIMEDOUT without a message. */
int gw_wire_wait(struct gw_wire *wire, uint64_t deadline);

#endif
