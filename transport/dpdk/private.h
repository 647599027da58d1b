/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a core. Who owns which part:
 *   core.c      life, opening, timers, what leaves next
 *   sender.c    ops, segments, what was sent and what became of it (loss recovery)
 *   receiver.c  what arrived: replays, placement, messages, acknowledgements
 *   path.c      how long datagrams may be
 *   cc.c        how many bytes may be on their way
 */
#ifndef GODWIT_TRANSPORT_DPDK_PRIVATE_H
#define GODWIT_TRANSPORT_DPDK_PRIVATE_H

#include <assert.h>

#include "common/checked.h"
#include "common/clock.h"
#include "transport/dpdk/cc.h"
#include "transport/dpdk/core.h"
#include "transport/dpdk/tag.h"
#include "transport/dpdk/wire-private.h"

#define DPDK_SEGMENTS  8192u  /* sent or to be received and not yet settled */
#define DPDK_SENT      16384u /* datagrams whose fate is remembered */
#define DPDK_REPLAY    16384u /* packet numbers below the largest that can still be taken */
#define DPDK_MESSAGES  128u   /* buffers for messages; part of the protocol */
#define DPDK_PARTS_MAX 8u
#define DPDK_WHOLE     0xffu /* in place of a part's number: the segment as it is */
#define DPDK_BASE      (DPDK_DATAGRAM_MIN - DPDK_HEADER_SIZE) /* payload that every path carries */
#define DPDK_NONE      UINT64_MAX
#define DPDK_ACK_BITS  (DPDK_ACK_BYTES * 8)

#define DPDK_FIRST_RTT_NS   (100 * GW_NS_PER_MS)
#define DPDK_ACK_DELAY_NS   50000u
#define DPDK_ACK_EVERY      16u
#define DPDK_ACK_EVERY_HOLE 4u /* datagrams, while something is missing */
#define DPDK_PTO_MIN_NS     (2 * GW_NS_PER_MS)
#define DPDK_PTO_MAX_NS     (200 * GW_NS_PER_MS)
#define DPDK_SETUP_MIN_NS   (20 * GW_NS_PER_MS)
#define DPDK_SETUP_MAX_NS   (500 * GW_NS_PER_MS)
#define DPDK_ABSENT_NS      GW_NS_PER_S /* this end itself was not run for so long */

static_assert(UINT64_MAX % DPDK_SEGMENTS == DPDK_SEGMENTS - 1 &&
                  UINT64_MAX % DPDK_SENT == DPDK_SENT - 1 &&
                  UINT64_MAX % DPDK_REPLAY == DPDK_REPLAY - 1 &&
                  UINT64_MAX % DPDK_MESSAGES == DPDK_MESSAGES - 1,
              "rings are powers of two, so that numbers may wrap");
static_assert((DPDK_DATAGRAM_MAX - DPDK_HEADER_SIZE + DPDK_BASE - 1) / DPDK_BASE <= DPDK_PARTS_MAX,
              "the longest segment can be cut for the shortest path");
static_assert(DPDK_ACK_BYTES % 8 == 0 && DPDK_ACK_BYTES * 8 < DPDK_REPLAY,
              "acknowledgements are read from the replay window");

/* A piece of an op, cut when it was first sent. */
struct dpdk_segment {
    struct gw_op *op; /* NULL: settled */
    uint64_t message; /* number of the message, where the op is one */
    uint32_t at;      /* where in the op */
    uint16_t length;
    uint8_t parts;   /* 1, or more after it was cut again */
    uint8_t missing; /* parts that the peer is not known to have, one bit each */
    uint8_t waiting; /* parts of those that are to be sent again */
    bool is_queued;  /* in sender.lost */
};

enum dpdk_fate { DPDK_SETTLED = 0, DPDK_OUT, DPDK_LOST };

/* A datagram that the peer is to acknowledge. */
struct dpdk_sent {
    uint64_t number;
    uint64_t sent_ns;
    uint64_t segment; /* DPDK_NONE: a probe */
    uint16_t length;
    uint8_t part;
    uint8_t fate; /* enum dpdk_fate */
};

struct dpdk_sender {
    struct gw_op *posted, *posted_last; /* not yet cut to the end */
    uint32_t cut_at;                    /* of the first of them */
    struct gw_op *done, *done_last;     /* to be reaped */
    unsigned op_count;                  /* posted and not reaped */
    uint64_t messages_cut, messages_allowed;

    uint64_t segment_first, segment_next;
    uint64_t number_next, number_oldest; /* none before number_oldest is DPDK_OUT */
    uint64_t in_flight;                  /* bytes of datagrams that are DPDK_OUT */
    unsigned out_count;

    uint32_t lost[DPDK_SEGMENTS]; /* ring of segments to be sent again, by their lower bits */
    uint64_t lost_first, lost_next;

    /* RACK (RFC 8985): what was sent before a datagram that has arrived, by more than the
     * reordering that was seen, is lost. */
    uint64_t rack_sent_ns, rack_number;
    uint64_t loss_timer_ns; /* DPDK_NONE: off */
    uint32_t reorder_steps; /* of a quarter of the round trip */
    uint64_t reorder_stamp; /* packet number after which one step is taken back */

    uint64_t progress_ns; /* the probe timeout runs from here */
    unsigned pto_count;
    unsigned probes_due; /* datagrams that leave whatever the window says */
    bool is_ping_due;
    bool is_blocked; /* the next op is a message that the peer has no room for */
    unsigned blocked_count;

    struct dpdk_eras eras;
    uint64_t pace_next_ns, pace_ns_per_kib;
    uint32_t marked_seen;  /* the peer's count */
    uint64_t eliciting_ns; /* when something was last sent that the peer acknowledges */
    struct dpdk_sent sent[DPDK_SENT];
    uint64_t unsettled[DPDK_SENT / 64]; /* of those: DPDK_OUT, or DPDK_LOST and perhaps just late */
    struct dpdk_segment segments[DPDK_SEGMENTS];
};

struct dpdk_inbox {
    uint64_t number;       /* of the message in it, where is_used */
    uint64_t last_segment; /* DPDK_NONE: not yet known */
    uint32_t total;
    bool is_used;
    uint8_t bytes[GW_MESSAGE_MAX];
};

struct dpdk_receiver {
    uint64_t largest, largest_ns; /* packet number; 0: none */
    uint64_t replay[DPDK_REPLAY / 64];
    uint64_t expected;               /* first segment that is not whole */
    uint8_t received[DPDK_SEGMENTS]; /* parts of the segments from there on; 0xff: whole */
    uint64_t given;                  /* messages given to the engine */
    uint64_t freed;                  /* of those, whose buffer is free again */
    uint64_t told;                   /* messages that the last acknowledgement allowed */
    uint32_t marked;
    unsigned to_acknowledge; /* datagrams since the last acknowledgement */
    uint64_t ack_due_ns;     /* DPDK_NONE: nothing to acknowledge */
    uint64_t bitmap[DPDK_ACK_BYTES / 8];
    struct gw_region_grip grip; /* while datagrams are taken */
    struct dpdk_inbox inboxes[DPDK_MESSAGES];
};

/* RFC 8899 (DPLPMTUD). */
struct dpdk_path_search {
    uint32_t length;  /* known good */
    uint32_t max;     /* agreed */
    uint32_t probing; /* 0: nothing is being tried */
    bool is_climbing; /* max did not get through: step by step */
    unsigned tries;
    uint64_t number; /* of the probe on its way; 0: none */
    uint64_t sent_ns;
    uint64_t next_ns;     /* when to probe next; DPDK_NONE: never */
    uint64_t wait_ns;     /* until max is tried again */
    unsigned silent_ptos; /* since a datagram longer than the least was acknowledged */
};

struct dpdk_core {
    enum dpdk_state state;
    bool is_dialling;
    struct gw_error error;
    struct gw_region_table *regions;
    uint32_t number;
    uint32_t id, incarnation, peer_id, peer_incarnation;
    uint16_t port, peer_port, max_length;
    uint64_t dead_ns;
    int (*explain_silence)(const void *context);
    const void *context;
    uint8_t nonce[DPDK_NONCE_SIZE], peer_nonce[DPDK_NONCE_SIZE];
    uint8_t secret[GW_SECRET_MAX]; /* until the keys are made */
    uint32_t secret_length;
    uint8_t setup[DPDK_DATAGRAM_MIN]; /* OPEN or ACCEPT */
    uint64_t setup_next_ns, setup_wait_ns;
    unsigned setup_count;
    uint64_t setup_sent_ns;
    unsigned closes_left;
    uint64_t alive_ns; /* the peer was, for sure: it acknowledged what was sent then */
    uint64_t turn_ns;
    uint64_t ticked_ns; /* timers were looked at; DPDK_NONE: something came since */
    struct dpdk_tag_key setup_send_key, setup_receive_key, send_key, receive_key;
    struct dpdk_counts counts;
    struct dpdk_cc cc;
    struct dpdk_path_search path;
    struct dpdk_receiver receiver;
    struct dpdk_sender sender;
};

/* 64 bits of a ring of bits, from a number on; words is a power of two. */
static inline uint64_t gw_dpdk_ring_word(const uint64_t *ring, unsigned words, uint64_t first)
{
    uint64_t at = first / 64 % words, next = (at + 1) % words;
    unsigned shift = first % 64;

    return shift == 0 ? ring[at] : ring[at] >> shift | ring[next] << (64 - shift);
}

/* core.c: kills it with the thread's last message; what was posted is done with error. */
void gw_dpdk_die(struct dpdk_core *core, int error);
/* A header of the next packet number, for the peer. */
struct dpdk_header gw_dpdk_next_header(struct dpdk_core *core, enum dpdk_kind kind);

/* sender.c */
void gw_dpdk_sender_init(struct dpdk_core *core);
void gw_dpdk_sender_open(struct dpdk_core *core, uint64_t now_ns);
void gw_dpdk_sender_cancel(struct dpdk_core *core, int status);
bool gw_dpdk_sender_output(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                           struct dpdk_packet *out);
/* An authentic ACK. */
void gw_dpdk_sender_acknowledged(struct dpdk_core *core, uint64_t now_ns,
                                 const struct dpdk_header *header, const uint8_t *bitmap);
void gw_dpdk_sender_tick(struct dpdk_core *core, uint64_t now_ns);
uint64_t gw_dpdk_sender_deadline(const struct dpdk_core *core);
/* Notes a datagram without segments as sent, and builds it. */
void gw_dpdk_sender_probe(struct dpdk_core *core, uint64_t now_ns, uint32_t length, uint8_t *header,
                          struct dpdk_packet *out);
uint64_t gw_dpdk_sender_pto_ns(const struct dpdk_core *core);

/* receiver.c */
void gw_dpdk_receiver_init(struct dpdk_core *core);
/* The packet number was not taken before. */
bool gw_dpdk_receiver_is_new(const struct dpdk_core *core, uint64_t number);
void gw_dpdk_receiver_take(struct dpdk_core *core, uint64_t now_ns, uint64_t number);
/* Kinds WRITE, MESSAGE and PROBE, authentic. */
void gw_dpdk_receiver_input(struct dpdk_core *core, uint64_t now_ns,
                            const struct dpdk_header *header, const uint8_t *payload);
void gw_dpdk_receiver_ack(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                          struct dpdk_packet *out);

/* path.c */
void gw_dpdk_path_open(struct dpdk_core *core, uint32_t max, uint64_t now_ns);
/* The length of a probe that is due now, or 0. */
uint32_t gw_dpdk_path_due(const struct dpdk_core *core, uint64_t now_ns);
void gw_dpdk_path_probed(struct dpdk_core *core, uint64_t now_ns, uint64_t number);
void gw_dpdk_path_tick(struct dpdk_core *core, uint64_t now_ns);
void gw_dpdk_path_acknowledged(struct dpdk_core *core, uint64_t now_ns,
                               const struct dpdk_sent *sent);
void gw_dpdk_path_lost(struct dpdk_core *core, uint64_t now_ns, const struct dpdk_sent *sent);
/* An acknowledgement told of short datagrams only. */
void gw_dpdk_path_only_short(struct dpdk_core *core, uint64_t now_ns);

#endif
