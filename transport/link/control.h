/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control: the authenticated conversation with a peer. TLS 1.3 over memory BIOs, carried in the
 * sends of one channel of whatever transport; there is no plaintext mode.
 *
 * Errors: 0 or -errno. -EACCES with a message when the peer is refused or refuses us (wrong key,
 *   unknown certificate, oneself); -EPROTO for what is not our protocol; -ETIMEDOUT; -ECONNRESET
 *   and others when the channel died; -ESHUTDOWN when the peer closed the session in order. Every
 *   call after one of these answers the same. A send that answers -EINVAL or -EMSGSIZE (not JSON,
 *   too long) and a receive that answers -ETIMEDOUT leave the session whole; a receive on a session
 *   that died of a timeout answers -ECONNRESET.
 * Order: frames arrive whole and in order.
 * Threads: one thread (the session's) uses a control. gw_seal_dial, gw_seal_admit,
 *   gw_control_peer, _link_id and _local may be called by any while the control is open.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_TRANSPORT_LINK_CONTROL_H
#define GODWIT_TRANSPORT_LINK_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/link/credentials.h"
#include "transport/transport.h"

#define GW_CONTROL_FRAME_MAX (4u << 20) /* bytes of one frame, JSON or raw */
#define GW_ID_SIZE           16u        /* instance, link and migration ids: random bytes */

#define GW_ALIVE_EVERY_MS 3000 /* a side that waits says that it lives */
/* A side that says nothing for that share of the interval is taken for dead: 10 s. */
#define GW_ALIVE_PERCENT 333

/* REJOIN is a control session that goes on with a migration of an earlier one. */
enum gw_hello_role {
    GW_HELLO_CONTROL = 1,
    GW_HELLO_DATA = 2,
    GW_HELLO_REJOIN = 3,
    GW_HELLO_ASK = 4
};

/* What a connection request says of itself in its private data. Untrusted until proven. */
struct gw_hello {
    enum gw_hello_role role;
    uint8_t
        link_id[GW_ID_SIZE]; /* chosen by the dialling side for control; names the link for data */
    uint32_t channel_number; /* data: 1 to 65535, never reused in a session */
    uint8_t nonce[16];       /* fresh for every request */
    uint8_t ticket[12];      /* data: shows that the sender has the session's keys; see seal.h */
};
int gw_hello_parse(const struct gw_request *request, struct gw_hello *out); /* -EPROTO */

struct gw_control_options {
    const struct gw_credentials *credentials; /* lent until close */
    uint8_t instance_id[GW_ID_SIZE];  /* of this agent; a peer with the same one is oneself */
    const struct gw_network *trusted; /* networks where clear bulk data is allowed; lent */
    unsigned trusted_count;
    int timeout_ms;          /* for the whole establishment */
    enum gw_hello_role role; /* dialling: what its hello says; 0: GW_HELLO_CONTROL */
    int alive_ms;            /* between signs of life; 0: GW_ALIVE_EVERY_MS */
};

struct gw_peer {
    char name[128];   /* PSK identity or certificate subject, as proven */
    char version[32]; /* godwit version text, for messages */
    uint8_t instance_id[GW_ID_SIZE];
    struct gw_address address;
    bool trusts_addresses; /* of this session, for clear bulk data; what it says, for people */
};

struct gw_control;

/* Dials peer with transport, proves both sides, exchanges instance ids. */
int gw_control_connect(struct gw_transport *transport, const struct gw_address *peer,
                       const struct gw_control_options *options, struct gw_control **out);
/* The other end, for a request whose hello says GW_HELLO_CONTROL, _REJOIN or _ASK. Takes over the
 * request. */
int gw_control_accept(struct gw_request *request, const struct gw_control_options *options,
                      struct gw_control **out);
void gw_control_close(
    struct gw_control *control); /* sends what is queued (at most 1 s), close_notify */

const struct gw_peer *gw_control_peer(const struct gw_control *control);
const uint8_t *gw_control_link_id(const struct gw_control *control);
const struct gw_address *gw_control_local(const struct gw_control *control);
struct gw_transport *gw_control_transport(const struct gw_control *control);

/* One frame. send blocks until the transport has taken all of it (10 s without progress:
 * -ETIMEDOUT, and the session is over); up to 8 MiB that the peer sends meanwhile are taken in, so
 * that two ends that both send go on. The JSON value is lent. */
int gw_control_send(struct gw_control *control, const json_t *message);
int gw_control_send_bytes(struct gw_control *control, const void *bytes, uint32_t length);

/* The next frame: a JSON object in *message (caller decrefs), or, when it is raw, *message is NULL
 * and *bytes is lent until the next receive. timeout_ms 0 polls, -1 waits for ever. -ETIMEDOUT. */
struct gw_control_frame {
    json_t *message;
    const void *bytes;
    uint32_t length;
};
int gw_control_receive(struct gw_control *control, int timeout_ms, struct gw_control_frame *out);
/* Signs of life, for a side that does nothing but wait: call it often, after receive(0) found
 * nothing. It tells the peer every few seconds that this side lives, and answers -ECONNRESET, for
 * ever, when the peer promised to speak and did not. Never waits. */
int gw_control_keep_alive(struct gw_control *control);
/* Before this side does anything else that may take seconds: takes its last promise back. The
 * thread's error message stays. */
void gw_control_leave(struct gw_control *control);
/* True once the way to the peer is lost: the channel died, or the peer fell silent. False when the
 * session was ended by either side, in order or for a fault. */
bool gw_control_is_lost(const struct gw_control *control);
/* Takes the way to the peer for lost, though the channel says nothing: every call answers
 * -ECONNRESET from now on, with the calling thread's message. */
void gw_control_give_up(struct gw_control *control);
/* How long a send may be blocked without any progress; 10 s before the first call. */
void gw_control_set_patience(struct gw_control *control, int timeout_ms);
/* For poll(2): readable when gw_control_receive(0) may have a frame. Call receive(0) until
 * -ETIMEDOUT between arming and sleeping. */
int gw_control_arm(struct gw_control *control);

#endif
