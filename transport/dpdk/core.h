/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core: the protocol of one dpdk channel (docs/dpdk-protocol.md). Packets in, packets out, a clock:
 * no I/O, no threads, no DPDK. Whoever drives it (the poller, the simulator) owns the sockets or
 * queues, gives it each datagram that arrived, asks it for each that is to leave, and runs what is
 * done.
 *
 * Life: gw_dpdk_core_dial or gw_dpdk_core_answer makes it, opening. It is open once the peer was
 *   heard with the channel's own keys, and dead after an error, a silence, or the peer's close.
 * One turn of the driver, per channel:
 *     input() for each datagram that arrived
 *     while (output()) put it on the wire
 *     reap()                    runs done()s, which may post again
 *     is_ready() -> the engine calls recv()
 *   and sleep at the most until deadline().
 *
 * Errors: 0 or -errno with a message (common/error.h). Nothing that arrives is an error of
 *   gw_dpdk_core_input: what is not authentic is counted and changes nothing; what an authentic peer
 *   does wrong kills the channel.
 * Order: that of transport.h. Two writes to the same bytes may be placed in either order unless the
 *   peer has answered, in a message, one that was sent between them.
 * Threads: one, the channel's worker. Nothing locks, and nothing is allocated after the core was made.
 * Units: bytes; nanoseconds of any clock that never goes back (a driver that passes a core to another
 *   thread may still come with a time before that: it counts as the last turn's). Lengths of
 *   datagrams are those of the UDP payload.
 */
#ifndef GODWIT_TRANSPORT_DPDK_CORE_H
#define GODWIT_TRANSPORT_DPDK_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "transport/dpdk/wire.h"
#include "transport/region-table.h"
#include "transport/transport.h"

#define DPDK_SECRET_MIN 16u
#define DPDK_DEAD_NS    (10ull * 1000000000u) /* silence of the peer that kills a channel */

struct dpdk_core;

enum dpdk_state {
    DPDK_OPENING = 1,
    DPDK_OPEN,
    DPDK_DEAD,
};

/* Both ends give the same secret, or neither hears the other. */
struct dpdk_core_options {
    struct gw_region_table *regions; /* where the peer may write; lent for the core's life */
    uint32_t number;                 /* the link's channel number, for keys with only_channel */
    const uint8_t *secret;           /* DPDK_SECRET_MIN to GW_SECRET_MAX bytes */
    uint32_t secret_length;
    uint8_t nonce[DPDK_NONCE_SIZE]; /* random, never used twice */
    /* What the peer puts into its datagrams to this end, so that the driver finds the core: an id,
     * unique where the datagrams arrive, and a random number that is this life's own. */
    uint32_t id;
    uint32_t incarnation; /* not 0 */
    uint16_t port;        /* the UDP port that this end's datagrams are to be sent to */
    uint16_t max_length;  /* the longest datagram that this end sends and takes:
                             DPDK_DATAGRAM_MIN to DPDK_DATAGRAM_MAX */
    uint64_t dead_ns;     /* 0: DPDK_DEAD_NS */
    /* Asked once, when the peer's silence kills the channel: the error of what is wrong at this end,
     * with a message, or 0. NULL: nothing is known of this end. */
    int (*explain_silence)(const void *context);
    const void *context;
    uint64_t now_ns;
};

/* The dialling end. hello goes to the listener with the first datagram. */
int gw_dpdk_core_dial(const struct dpdk_core_options *options, const void *hello,
                      uint32_t hello_length, struct dpdk_core **out);
/* The accepting end, for an OPEN that gw_dpdk_open_decode has read. -EACCES: it was not made with
 * this secret. */
int gw_dpdk_core_answer(const struct dpdk_core_options *options, const struct dpdk_open *open,
                        struct dpdk_core **out);
/* Wipes the keys; takes NULL. Ops that were not reaped are forgotten: gw_dpdk_core_close and
 * gw_dpdk_core_reap come first. */
void gw_dpdk_core_free(struct dpdk_core *core);

enum dpdk_state gw_dpdk_core_state(const struct dpdk_core *core);
/* 0 while it lives; then the error that killed it, its message raised anew each time. */
int gw_dpdk_core_error(const struct dpdk_core *core);
/* The UDP port that the peer wants its datagrams at: known from the start where it answered, and
 * once it is open where it dialled. 0 before. */
uint16_t gw_dpdk_core_peer_port(const struct dpdk_core *core);
/* True for the OPEN that this core answers: sent again, and not a new request. */
bool gw_dpdk_core_is_opened_by(const struct dpdk_core *core, const struct dpdk_open *open);

/* As gw_write and gw_send. -EAGAIN while GW_CHANNEL_OPS_MAX ops are not done. Ops' scratch is the
 * core's until done. May be called while it opens: they wait. */
int gw_dpdk_core_write(struct dpdk_core *core, struct gw_write *write);
int gw_dpdk_core_send(struct dpdk_core *core, struct gw_send *send);
/* As gw_recv. Messages that had come whole before the channel died are given first. */
int gw_dpdk_core_recv(struct dpdk_core *core, struct gw_message *out);
/* There is a message to receive, or the channel is dead. */
bool gw_dpdk_core_is_ready(const struct dpdk_core *core);
/* Runs done() of each op that is done; done() may post. Returns how many ran. */
unsigned gw_dpdk_core_reap(struct dpdk_core *core);

/* Marks of an arrived datagram. */
enum dpdk_input_flags {
    DPDK_INPUT_CE = 1, /* its IP header says "congestion experienced" (RFC 3168) */
};
/* A datagram that arrived. */
struct dpdk_input {
    const void *bytes;
    uint32_t length;
    unsigned flags; /* enum dpdk_input_flags */
    bool
        is_authentic; /* out: only then may the driver learn anything from it, such as a changed address */
};
/* Takes datagrams whose id and incarnation are this core's (or ACCEPT and REFUSE while it dials), a few
 * dozen at a time. Places what is to be placed before it returns; the bytes are not kept. */
void gw_dpdk_core_input(struct dpdk_core *core, uint64_t now_ns, struct dpdk_input *inputs,
                        unsigned count);

/* A datagram that is to leave: header, then payload. */
struct dpdk_packet {
    const void *payload;
    uint32_t length; /* of the payload; may be 0 */
    /* The payload must be copied behind the header before it is sealed. Otherwise the driver may
     * have the NIC read it where it lies, which is the caller's memory until its op is done: the
     * driver then sees to it that no NIC reads it later than that (reap() runs the done()s, so drop
     * or finish such packets before it). What is sent again must always be copied: the bytes may
     * change under a NIC that reads them later than the tag was made, and such a datagram is lost. */
    bool must_copy;
};

/* The next datagram that may leave now; false when there is none (ask again at deadline()). Writes
 * DPDK_HEADER_SIZE bytes of header. A datagram that was given counts as sent: one that cannot be put
 * on the wire is a lost one, so ask only for as many as there is room for. Its length is at most
 * max_length of the options. */
bool gw_dpdk_core_output(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                         struct dpdk_packet *out);
/* Looks at the clock alone, for a driver that has no room for datagrams: a channel whose peer fell silent dies
 * all the same. */
void gw_dpdk_core_tick(struct dpdk_core *core, uint64_t now_ns);
/* Puts the tag into header, over it and the payload as it leaves (the copy, where there is one).
 * Each datagram that output gave needs it, before the next output of this core. */
void gw_dpdk_core_seal(const struct dpdk_core *core, uint8_t *header, const void *payload,
                       uint32_t length);
/* When output has something to do at the latest, if nothing arrives and nothing is posted: at most
 * half a second away while the channel lives. A driver that comes a second later than that was away
 * itself, and does not take that time for the peer's silence. */
uint64_t gw_dpdk_core_deadline(const struct dpdk_core *core, uint64_t now_ns);

/* The channel ends with this error, whose message is the thread's last: the driver knows that nothing
 * will come any more. Every op is done with it (run reap). Nothing where it is dead already. */
void gw_dpdk_core_fail(struct dpdk_core *core, int error);
/* Ends the channel: every op is done with -ECANCELED (run reap), and output gives a few last
 * datagrams that tell the peer. They may be left unsent: then its silence tells. */
void gw_dpdk_core_close(struct dpdk_core *core);

struct dpdk_counts {
    uint64_t bytes_sent, bytes_received;       /* of ops, each byte once */
    uint64_t messages_sent, messages_received; /* posted and done; received */
    uint64_t datagrams_sent, datagrams_received;
    uint64_t sent_again;      /* datagrams that repeat what was lost, or not answered in time */
    uint64_t sent_in_vain;    /* of those, had arrived after all */
    uint64_t duplicates;      /* arrived again, placed once */
    uint64_t forged;          /* not authentic: corrupt, foreign, or old (but for an ACCEPT) */
    uint64_t congestion_seen; /* datagrams that arrived marked */
};
struct dpdk_path {
    uint32_t length; /* the longest datagram that the path is known to carry */
    uint64_t round_trip_ns, least_round_trip_ns;
    uint64_t window, in_flight; /* bytes of datagrams */
    uint64_t rate;              /* bytes per second that pacing allows */
};
/* What became of datagrams with parts of ops that were sent since the driver began to send them in another way,
 * and of those between that and the change before. */
struct dpdk_era {
    uint64_t first; /* packet number */
    uint64_t sent;  /* datagrams */
    uint64_t lost;  /* of those, since later ones had arrived, and not arrived after all */
};
struct dpdk_eras {
    struct dpdk_era now, before;
};
void gw_dpdk_core_begin_era(struct dpdk_core *core);
const struct dpdk_eras *gw_dpdk_core_eras(const struct dpdk_core *core);

void gw_dpdk_core_counts(const struct dpdk_core *core, struct dpdk_counts *out);
void gw_dpdk_core_path(const struct dpdk_core *core, struct dpdk_path *out);

#endif
