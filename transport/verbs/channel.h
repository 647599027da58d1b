/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel of the verbs back end: what it consists of, and what its files do for each other.
 * verbs.h says how they work together.
 *
 * Errors, Order, Threads, Units: transport/transport.h; functions are the owner's unless they say
 * otherwise.
 */
#ifndef GODWIT_TRANSPORT_VERBS_CHANNEL_H
#define GODWIT_TRANSPORT_VERBS_CHANNEL_H

#include "transport/verbs/verbs.h"
#include "transport/verbs/wire.h"

enum verbs_news {
    VERBS_NEWS_TICK = 1,
    VERBS_NEWS_DISCONNECTED = 2,
    VERBS_NEWS_REMOVED = 4,
    VERBS_NEWS_PORT = 8,
    VERBS_NEWS_ACCESS = 16,
    VERBS_NEWS_FATAL = 32,
};

enum verbs_op_kind { VERBS_OP_WRITE, VERBS_OP_SEND };
/* What an op's scratch holds. */
enum verbs_scratch { VERBS_KIND, VERBS_SEQUENCE, VERBS_USES_SLOT };

struct verbs_sender {
    struct gw_op_queue ops;
    struct gw_op *waiting; /* the first that is not in the send queue */
    unsigned waiting_count;
    unsigned depth;
    uint32_t inline_max;
    uint32_t next;      /* sequence number of the next work request */
    uint32_t completed; /* all before it are complete */
    uint32_t failed;    /* is_broken: from this one on they failed */
    bool is_broken;
    unsigned unsignalled; /* since the last signalled one */
    uint32_t unsignalled_bytes;
    uint64_t queued_bytes; /* of writes in the send queue */
    unsigned next_slot, busy_slots;
    uint64_t written;
    uint8_t *headers; /* one for each entry of the send queue */
    uint8_t *slots;   /* GW_RECEIVES messages */
};

struct verbs_channel {
    struct gw_channel base;
    struct verbs_poller *poller;
    struct verbs_queue *queue;
    struct gw_ring_link link;
    struct gw_ring_link life_link; /* of transport.connected */
    unsigned slot;
    uint32_t generation;
    struct rdma_event_channel *events; /* its own until it is connected */
    struct rdma_cm_id *id;
    struct ibv_qp *qp; /* NULL once destroyed */
    unsigned port;
    uint32_t number;
    bool is_connected;
    bool is_flushing; /* the queue pair is in the error state, or gone */
    unsigned flush_ticks;
    unsigned activity, activity_before; /* counts what was posted and completed; at the last tick */
    _Atomic unsigned news;
    struct gw_error error; /* code 0 while it lives */
    struct gw_credit credit;
    struct verbs_sender sender;
    struct gw_inbox inbox;
    void *memory; /* of sender and inbox */
    size_t memory_size;
    struct ibv_mr *mr;
    struct gw_channel_info info;
};

static inline struct verbs_channel *gw_verbs_channel_of(struct gw_channel *base)
{
    return gw_container_of(base, struct verbs_channel, base);
}

/* ---- absorb.c ---- */
/* Takes what the queue holds, at most VERBS_ABSORB_MAX; true when there may be more. */
bool gw_verbs_absorb(struct verbs_poller *poller, struct verbs_queue *queue);

/* ---- channel.c ---- */
/* Everything but the connection; id's device is known. Takes over id and events on success. */
int gw_verbs_channel_new(const struct gw_channel_options *options, struct rdma_cm_id *id,
                         struct rdma_event_channel *events, struct verbs_channel **out);
/* Once it is established: reads the path, watches over it, hands it to its poller. */
int gw_verbs_channel_start(struct verbs_channel *channel);
void gw_verbs_channel_free(struct verbs_channel *channel); /* not started, or closed */
/* What a wr_id of this channel begins with. */
uint64_t gw_verbs_channel_wr_id(const struct verbs_channel *channel);
/* Puts the queue pair into the error state and tells the peer, if that was not done. */
void gw_verbs_channel_end(struct verbs_channel *channel);
/* Notes the first cause of death, whose message is the thread's last gw_fail, and ends the queue
 * pair. The peer is told. */
void gw_verbs_channel_kill(struct verbs_channel *channel, int error);
/* The queue pair was flushed and nobody has said why. */
void gw_verbs_channel_kill_unexplained(struct verbs_channel *channel);
void gw_verbs_channel_hear_news(struct verbs_channel *channel, unsigned news);
/* Nothing that was posted is in the device any more. */
bool gw_verbs_channel_is_drained(const struct verbs_channel *channel);
void gw_verbs_close(struct gw_channel *channel);
void gw_verbs_info(struct gw_channel *channel, struct gw_channel_info *out);

/* ---- send.c ---- */
int gw_verbs_write(struct gw_channel *channel, struct gw_write *write);
int gw_verbs_send(struct gw_channel *channel, struct gw_send *send);
void gw_verbs_sender_run(struct verbs_channel *channel);    /* posts what has room */
void gw_verbs_sender_finish(struct verbs_channel *channel); /* runs done() of what is finished */
void gw_verbs_sender_cancel(struct verbs_channel *channel, int status); /* done() of everything */
void gw_verbs_sender_keep_alive(struct verbs_channel *channel);
void gw_verbs_sender_post_last(struct verbs_channel *channel); /* its completion is the last */

/* ---- receive.c ---- */
int gw_verbs_receiver_open(struct verbs_channel *channel); /* posts every receive */
void gw_verbs_receiver_take(struct verbs_channel *channel, unsigned buffer, uint32_t length);
void gw_verbs_receiver_repost(struct verbs_channel *channel);
int gw_verbs_recv(struct gw_channel *channel, struct gw_message *out);

/* ---- words.c ---- */
/* What a work request that failed means, said with gw_fail. */
int gw_verbs_explain_send(enum ibv_wc_status status);
int gw_verbs_explain_receive(enum ibv_wc_status status);

#endif
