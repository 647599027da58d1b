/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel of the fabric back end: what it consists of, and what its files do for each other.
 * fabric.h says how they work together.
 *
 * Errors, Order, Threads, Units: transport/transport.h; functions are the owner's unless they say
 * otherwise.
 */
#ifndef GODWIT_TRANSPORT_FABRIC_CHANNEL_H
#define GODWIT_TRANSPORT_FABRIC_CHANNEL_H

#include "transport/fabric/fabric.h"
#include "transport/fabric/wire.h"

/* A message without a body of the owner's: credit, ask, tell. */
#define FABRIC_SMALL_SIZE (GW_SEND_HEADER_SIZE + GW_SEND_TELL_SIZE)

enum fabric_news {
    FABRIC_NEWS_TICK = 1,
    FABRIC_NEWS_DISCONNECTED = 2,
};

enum fabric_op_kind { FABRIC_OP_WRITE, FABRIC_OP_SEND };
/* What an op's scratch holds. */
enum fabric_scratch { FABRIC_KIND, FABRIC_SEQUENCE };

/* A request that the provider has, or a message that the other channel has. Its address is the request's context, and a provider with
 * FI_CONTEXT writes into it. */
struct fabric_work {
    struct fi_context2 context;
    unsigned index; /* of a receive: which buffer */
    bool is_receive;
    bool is_complete, is_failed;
};

struct fabric_sender {
    struct gw_op_queue ops;
    struct gw_op *waiting; /* the first that the provider does not have */
    unsigned waiting_count;
    unsigned depth;
    uint32_t next;      /* sequence number of the next work request */
    uint32_t completed; /* all before it are complete */
    uint32_t fence;     /* all writes have a smaller one */
    uint64_t queued_bytes;
    unsigned next_slot, busy_slots;
    uint64_t written;
    uint64_t asked;           /* the key that the peer was asked for, or 0 */
    struct fabric_place tell; /* to be told; key 0: nothing */
    unsigned next_place;
    struct fabric_place places[FABRIC_PLACES];
    uint8_t *headers; /* of all but messages: one for each entry of works */
    uint8_t *slots;   /* GW_RECEIVES headers with messages */
    struct fabric_work works[FABRIC_SEND_DEPTH];
};

struct fabric_receiver {
    struct gw_inbox inbox;
    struct fabric_work works[FABRIC_RECEIVE_DEPTH];
};

/* One message on its way out; lent to the channel of messages. */
struct fabric_rdm_send {
    struct gw_send header, body;
    struct fabric_sender *sender;
    struct fabric_work *work;
};

/* What a channel has besides where endpoints do not connect: rdm.c. */
struct fabric_rdm {
    struct gw_channel *messages; /* NULL once it is closed */
    struct fid_av *av;
    uint32_t format;        /* of the addresses of endpoints (FI_ADDR_*) */
    struct gw_address host; /* at the other end of messages */
    bool has_told, knows_peer, has_header;
    bool has_written; /* one write is complete */
    unsigned stuck_ticks;
    uint32_t completed; /* of the sender, at the last tick */
    unsigned buffer;    /* has_header: which one is being filled */
    unsigned free_count;
    uint8_t free_buffers[FABRIC_RECEIVE_DEPTH];
    struct gw_send address;
    uint8_t address_bytes[FABRIC_NAME_SIZE_MAX];
    struct fabric_rdm_send sends[FABRIC_SEND_DEPTH];
};

struct fabric_channel {
    struct gw_channel base;
    struct fabric_transport *transport;
    struct fabric_domain *domain;
    struct fabric_poller *poller;
    struct gw_ring_link link;
    struct gw_ring_link life_link; /* of transport.connected */
    struct fid_eq *eq;
    struct fid_cq *cq;
    struct fid_ep *ep;      /* NULL once closed */
    struct fabric_rdm *rdm; /* NULL where the endpoint is connected */
    fi_addr_t peer;         /* of the endpoint's address vector; FI_ADDR_UNSPEC without one */
    int eq_fd, cq_fd;       /* -1 where there is nothing to wait on */
    uint64_t write_flags;
    bool is_connected, is_ended;
    bool is_refused; /* the provider takes requests later, and has none that would wake anybody */
    unsigned end_ticks;
    _Atomic unsigned news;
    struct gw_error error; /* code 0 while it lives */
    struct gw_credit credit;
    struct fabric_sender sender;
    struct fabric_receiver receiver;
    void *memory; /* of sender and receiver */
    size_t memory_size;
    struct fid_mr *mr; /* of memory; may be NULL */
    struct gw_channel_info info;
};

static inline struct fabric_channel *gw_fabric_channel_of(struct gw_channel *base)
{
    return gw_container_of(base, struct fabric_channel, base);
}

/* ---- absorb.c ---- */
/* Takes what the completion queue holds, at most FABRIC_ABSORB_MAX; true when there may be more. */
bool gw_fabric_absorb(struct fabric_channel *channel);

/* ---- channel.c ---- */
/* Everything but the connection. info is lent. */
int gw_fabric_channel_new(const struct gw_channel_options *options, struct fi_info *info,
                          struct fabric_channel **out);
/* The event that connecting or accepting ends with, and what the peer said with it: 0, -ETIMEDOUT
 * without a message, or the error that libfabric reports, positive. */
int gw_fabric_channel_await(struct fabric_channel *channel, uint64_t deadline_ns,
                            uint8_t data[FABRIC_CONNECT_DATA_MAX], uint32_t *length);
/* Once it is connected: hands it to its poller and watches over it. */
int gw_fabric_channel_start(struct fabric_channel *channel, const struct gw_address *local,
                            const struct gw_address *peer);
void gw_fabric_channel_free(struct fabric_channel *channel); /* not started, or closed */
/* Notes the first cause of death, whose message is the thread's last gw_fail, and ends the endpoint.
 * The peer is told. */
void gw_fabric_channel_kill(struct fabric_channel *channel, int error);
/* Requests came back undone and nobody has said why. */
void gw_fabric_channel_kill_unexplained(struct fabric_channel *channel);
void gw_fabric_channel_hear_news(struct fabric_channel *channel, unsigned news);
/* The provider has nothing of this channel any more. */
bool gw_fabric_channel_is_drained(const struct fabric_channel *channel);
void gw_fabric_close(struct gw_channel *channel);
void gw_fabric_info(struct gw_channel *channel, struct gw_channel_info *out);

/* Fills in info, and says that the channel is connected. */
void gw_fabric_channel_describe(struct fabric_channel *channel, const struct gw_address *local,
                                const struct gw_address *peer);

/* ---- rdm.c ---- */
int gw_fabric_rdm_open(struct fabric_channel *channel, const struct fi_info *info);
/* Tells the peer where the endpoint is; again later if it could not be. */
void gw_fabric_rdm_tell(struct fabric_channel *channel);
/* Posts a message, header included; work completes with it. 0 or -FI_EAGAIN. */
ssize_t gw_fabric_rdm_post(struct fabric_channel *channel, struct fabric_work *work,
                           const uint8_t *bytes, size_t length);
void gw_fabric_rdm_receive(struct fabric_channel *channel, unsigned buffer);
void gw_fabric_rdm_absorb(struct fabric_channel *channel);
/* A request failed, which kills the channel: takes every message that has arrived before. */
void gw_fabric_rdm_hear_out(struct fabric_channel *channel);
/* A write is complete. */
void gw_fabric_rdm_trust(struct fabric_channel *channel);
/* The peer's endpoint is not reached; nothing where it was before, or where it is no such channel. */
void gw_fabric_rdm_doubt(struct fabric_channel *channel);
void gw_fabric_rdm_end(struct fabric_channel *channel);
void gw_fabric_rdm_free(struct fabric_channel *channel);

/* ---- send.c ---- */
int gw_fabric_write(struct gw_channel *channel, struct gw_write *write);
int gw_fabric_send(struct gw_channel *channel, struct gw_send *send);
void gw_fabric_sender_run(struct fabric_channel *channel);    /* posts what has room */
void gw_fabric_sender_finish(struct fabric_channel *channel); /* runs done() of what is finished */
void gw_fabric_sender_cancel(struct fabric_channel *channel, int status); /* of everything */
void gw_fabric_sender_advance(struct fabric_sender *sender); /* an entry of works is complete */

/* The peer asks for a region of this side, or tells of one of its own. -EPROTO. */
int gw_fabric_sender_take_ask(struct fabric_channel *channel, const uint8_t *body);
int gw_fabric_sender_take_tell(struct fabric_channel *channel, const uint8_t *body);

/* ---- receive.c ---- */
int gw_fabric_receiver_open(struct fabric_channel *channel); /* posts every receive */
void gw_fabric_receiver_take(struct fabric_channel *channel, unsigned buffer, size_t length);
void gw_fabric_receiver_repost(struct fabric_channel *channel);
int gw_fabric_recv(struct gw_channel *channel, struct gw_message *out);

#endif
