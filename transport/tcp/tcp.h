/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp: channels over TCP sockets, one socket each, received straight into the destination memory.
 * The inner header of the back end; wire.h says what is on the wire.
 *
 * A channel has two halves. send.c turns posted ops into bursts (headers and payloads under one
 * sendmsg) and tries the faster ways to hand payloads to the kernel (splice.c, zerocopy.c).
 * receive.c is a state machine whose every read is one readv of [rest of the payload][next header].
 *
 * Death: the first cause is kept in channel->error. Sending ends at once; reading goes on until
 * what the kernel had received is used up, so that a peer's last words arrive, unless the cause
 * came from reading.
 *
 * Errors, Order, Threads, Units: transport/transport.h. No mutex on the data path; the region table
 * is shared with control threads by atomics, the poller's list of new channels too.
 */
#ifndef GODWIT_TRANSPORT_TCP_TCP_H
#define GODWIT_TRANSPORT_TCP_TCP_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/error.h"
#include "transport/figures.h"
#include "transport/region-table.h"
#include "transport/ring.h"
#include "transport/tcp/wire.h"
#include "transport/transport.h"
#include "transport/waker.h"

#define TCP_MESSAGES_MAX   16u        /* received and not yet taken; then reading stops */
#define TCP_POLL_BYTES     (2u << 20) /* received, and sent, per channel and poll */
#define TCP_SEND_BYTES     (1u << 20) /* one system call sends at most */
#define TCP_FRAME_BYTES    (1u << 20) /* a batch is closed when it has reached this */
#define TCP_BURST_VECTORS  256u
#define TCP_BURST_HEADERS  128u /* headers and descriptors in one burst */
#define TCP_EVENTS_MAX     64
#define TCP_LARGE_WRITE    (64u << 10) /* from here on the ways without a copy are tried */
#define TCP_CONGESTION_MAX 16          /* TCP_CA_NAME_MAX of the kernel */

#define TCP_DEAD_PEER_MS 10000u /* a peer that answers nothing for so long is gone */
#define TCP_WATCH_S      1      /* how often watch.c is asked */

struct tcp_domain {
    struct gw_domain base;
    bool has_local;
    struct gw_address local;
    struct gw_region_table table;
};

struct tcp_poller {
    struct gw_poller base;
    struct gw_waker waker; /* woken when work is left over */
    struct gw_ring channels;
    int watch_fd; /* a timer: look for peers that are gone */
};

/* One write of the frame that is being received. */
struct tcp_place {
    uint64_t key;
    char *memory; /* valid only while key is held */
    uint32_t length;
};

enum tcp_receive_state { TCP_AT_HEADER, TCP_AT_DESCRIPTORS, TCP_AT_PAYLOAD, TCP_AT_MESSAGE };

struct tcp_receiver {
    enum tcp_receive_state state;
    bool is_readable; /* since the last event the socket was not seen empty */
    bool is_open;     /* no end of stream, no error */
    bool has_hung_up; /* the event said so: a short read is no proof of emptiness */
    bool has_lent;
    unsigned count, current; /* writes of this frame; the one that is being filled */
    uint32_t done;           /* bytes of the current write, descriptors or message that are here */
    uint32_t header_done;
    uint8_t header[TCP_HEADER_SIZE];
    uint8_t descriptors[(TCP_BATCH_MAX - 1) * TCP_HEADER_SIZE];
    struct tcp_place places[TCP_BATCH_MAX];
    unsigned first_message, message_count; /* of the ring; the first may be lent */
    uint32_t message_length;               /* of the one that is being received */
    uint32_t lengths[TCP_MESSAGES_MAX];
    uint8_t messages[TCP_MESSAGES_MAX][GW_MESSAGE_MAX];
};

enum tcp_method { TCP_COPY = 0, TCP_SPLICE = 1, TCP_ZEROCOPY = 2 };

/* What one or a few system calls send: vectors of headers and payloads, and how many ops are
 * complete once each vector is sent. The vectors from special on are payloads that go by method. */
struct tcp_burst {
    struct iovec vectors[TCP_BURST_VECTORS];
    uint8_t completes[TCP_BURST_VECTORS];
    unsigned count, at, special;
    enum tcp_method method;
    unsigned header_count;
    uint8_t headers[TCP_BURST_HEADERS][TCP_HEADER_SIZE];
};

struct tcp_splicer {
    bool is_open;
    atomic_bool is_usable; /* others ask how a channel sends */
    int read_fd, write_fd; /* of the pipe */
    uint32_t in_pipe;      /* bytes between vmsplice and splice */
};

/* MSG_ZEROCOPY numbers its calls from 0; the kernel reports which are finished. */
struct tcp_zerocopy {
    atomic_bool is_usable;
    bool has_news;       /* an event says that the error queue holds something */
    uint32_t next;       /* number of the next call */
    uint32_t first_open; /* every call below it is finished */
    uint64_t finished;   /* bit i: call first_open + i is finished */
};

/* Its ops, oldest first: sent ones, those in the burst, those not yet framed. */
struct tcp_sender {
    bool is_writable;
    struct gw_op_queue ops;
    struct gw_op *unsent;     /* the first that the kernel has not taken whole */
    struct gw_op *unframed;   /* the first that no burst holds */
    unsigned sent;            /* those before unsent */
    atomic_uint used_methods; /* bits by enum tcp_method, for people to read */
    bool has_fast_ways;       /* splicer and zerocopy were opened, at the first large write */
    struct tcp_burst burst;
    struct tcp_splicer splicer;
    struct tcp_zerocopy zerocopy;
};

struct tcp_channel {
    struct gw_channel base;
    struct tcp_poller *poller;
    struct gw_ring_link link;
    int fd;
    uint32_t number;
    unsigned strikes;      /* of watch.c */
    struct gw_error error; /* code 0 while it lives */
    struct tcp_sender sender;
    struct tcp_receiver receiver;
    struct gw_channel_info info;
    char congestion[TCP_CONGESTION_MAX];
};

enum tcp_op_kind { TCP_OP_WRITE, TCP_OP_SEND };

/* ---- socket.c: options; every function closes nothing ---- */
int gw_tcp_socket_prepare(int fd, const char *congestion, char chosen[TCP_CONGESTION_MAX]);
int gw_tcp_socket_listen(const struct gw_address *local, int *out_fd);
int gw_tcp_socket_bind(int fd, const struct gw_address *local);
void gw_tcp_socket_names(int fd, struct gw_address *local, struct gw_address *peer);

/* ---- preamble.c: sends or receives all of it before the deadline ---- */
int gw_tcp_send_all(int fd, const void *bytes, size_t size, uint64_t deadline_ns);
int gw_tcp_receive_answer(int fd, const char *peer, uint64_t deadline_ns);

/* ---- channel.c ---- */
/* Takes over fd on success. The channel is not yet served. */
int gw_tcp_channel_new(const struct gw_channel_options *options, int fd, struct tcp_channel **out);
/* Gives the channel to its poller; from here on it belongs to the poller's thread. */
int gw_tcp_channel_start(struct tcp_channel *channel);
void gw_tcp_channel_free(struct tcp_channel *channel); /* not started, or closed */
/* Notes the first cause of death; the message is the thread's last gw_fail. */
void gw_tcp_channel_kill(struct tcp_channel *channel, int error);
struct tcp_channel *gw_tcp_channel_of(struct gw_channel *base);
void gw_tcp_close(struct gw_channel *channel);
void gw_tcp_info(struct gw_channel *channel, struct gw_channel_info *out);

/* ---- send.c ---- */
int gw_tcp_write(struct gw_channel *channel, struct gw_write *write);
int gw_tcp_send(struct gw_channel *channel, struct gw_send *send);
void gw_tcp_sender_init(struct tcp_channel *channel);
void gw_tcp_sender_destroy(struct tcp_channel *channel);
bool gw_tcp_sender_can_run(const struct tcp_channel *channel);
void gw_tcp_sender_run(struct tcp_channel *channel);    /* sends what fits, within bounds */
void gw_tcp_sender_finish(struct tcp_channel *channel); /* runs done() of what is finished */
void gw_tcp_sender_cancel(struct tcp_channel *channel, int status); /* done() of everything */

/* ---- splice.c, zerocopy.c: ways to send the vectors of a burst from special on ---- */
void gw_tcp_splicer_open(struct tcp_splicer *splicer);
void gw_tcp_splicer_close(struct tcp_splicer *splicer);
/* Answers as gw_tcp_sender's own copying does: bytes taken, 0 to come again, or what kills the
 * channel. Changes the burst's method when this way does not work for it. */
ssize_t gw_tcp_splicer_send(struct tcp_channel *channel);
void gw_tcp_zerocopy_open(struct tcp_channel *channel);
/* As sendmsg, with MSG_ZEROCOPY where that is of use now. */
ssize_t gw_tcp_zerocopy_send(struct tcp_channel *channel, const struct msghdr *message, int flags);
void gw_tcp_zerocopy_collect(struct tcp_channel *channel); /* reads the kernel's notifications */
bool gw_tcp_zerocopy_is_open(const struct tcp_zerocopy *zerocopy); /* some call is not finished */
bool gw_tcp_zerocopy_has_finished(const struct tcp_zerocopy *zerocopy, uint32_t below);

/* ---- receive.c ---- */
bool gw_tcp_receiver_can_run(const struct tcp_channel *channel);
void gw_tcp_receiver_run(struct tcp_channel *channel);
bool gw_tcp_receiver_has_message(const struct tcp_channel *channel);
int gw_tcp_recv(struct gw_channel *channel, struct gw_message *out);

/* ---- poll.c ---- */
int gw_tcp_open_poller(struct gw_transport *transport, struct gw_poller **out);
void gw_tcp_close_poller(struct gw_poller *poller);
int gw_tcp_poll(struct gw_poller *poller, struct gw_channel **ready, int max);
int gw_tcp_arm(struct gw_poller *poller);
int gw_tcp_poller_add(struct tcp_poller *poller, struct tcp_channel *channel);
void gw_tcp_poller_remove(struct tcp_poller *poller, struct tcp_channel *channel);

/* ---- watch.c ---- */
/* Asked about once a second; strikes is kept for it between the calls and starts at 0. True, with a
 * message, when the host at the other end is gone. */
bool gw_tcp_watch_is_gone(int fd, unsigned *strikes);

/* ---- listen.c, dial.c ---- */
int gw_tcp_listen(struct gw_transport *transport, const struct gw_address *local,
                  struct gw_listener **out);
void gw_tcp_unlisten(struct gw_listener *listener);
int gw_tcp_next_request(struct gw_listener *listener, int timeout_ms, struct gw_request **out);
int gw_tcp_listener_address(struct gw_listener *listener, struct gw_address *out);
int gw_tcp_accept(struct gw_request *request, const struct gw_channel_options *options,
                  struct gw_channel **out);
void gw_tcp_reject(struct gw_request *request, const char *reason);
int gw_tcp_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                   struct gw_channel **out);

static inline void gw_tcp_note_method(struct tcp_sender *sender, enum tcp_method method)
{
    unsigned used = atomic_load_explicit(&sender->used_methods, memory_order_relaxed);

    if (!(used & 1u << method))
        atomic_store_explicit(&sender->used_methods, used | 1u << method, memory_order_relaxed);
}

#endif
