/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop: both ends of a channel in one process, inside one gw_transport. It proves the interface and
 * lets the engine be measured without a network. Listeners live in a registry of made-up addresses;
 * a write is one memcpy by the sending thread while it polls.
 *
 * Locks: loop_transport.lock (registry, requests) before loop_pair.lock (both ends of one channel).
 * Neither is taken by posting. done() runs without any lock.
 */
#ifndef GODWIT_TRANSPORT_LOOP_LOOP_H
#define GODWIT_TRANSPORT_LOOP_LOOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/error.h"
#include "transport/region-table.h"
#include "transport/ring.h"
#include "transport/transport.h"

#define LOOP_MESSAGES_MAX 32u        /* sent and not yet taken, per direction */
#define LOOP_POLL_BYTES   (2u << 20) /* copied per channel and poll */
#define LOOP_BACKLOG_MAX  256u       /* requests that wait at a listener */

struct loop_transport {
    struct gw_transport base;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a request came, was answered or was given up */
    struct loop_listener *listeners;
    unsigned next_port;
};

struct loop_domain {
    struct gw_domain base;
    struct gw_region_table table;
};

struct loop_poller {
    struct gw_poller base;
    int wake_fd;
    atomic_bool is_armed;
    struct gw_ring channels;
};

/* One end, as the other end sees it; all under the pair's lock. */
struct loop_end {
    struct loop_channel *channel; /* NULL once closed */
    struct gw_error error;        /* code 0 while it lives */
    unsigned first_message, message_count;
    uint32_t lengths[LOOP_MESSAGES_MAX];
    uint8_t messages[LOOP_MESSAGES_MAX][GW_MESSAGE_MAX];
};

struct loop_pair {
    pthread_mutex_t lock;
    unsigned open_ends;
    struct loop_end ends[2];
};

struct loop_channel {
    struct gw_channel base;
    struct loop_poller *poller;
    struct gw_ring_link link;
    struct loop_pair *pair;
    struct loop_end *here, *there;
    uint32_t number;
    bool has_lent;
    atomic_int dead; /* the error, for posting without the lock */
    struct gw_op_queue ops;
    struct gw_channel_info info;
};

int gw_loop_channel_new(const struct gw_channel_options *options, struct loop_channel **out);
void gw_loop_channel_free(struct loop_channel *channel); /* not joined, or closed */
int gw_loop_pair_new(struct loop_channel *a, struct loop_channel *b);
void gw_loop_channel_start(struct loop_channel *channel); /* hands it to its poller */

void gw_loop_close(struct gw_channel *channel);
int gw_loop_write(struct gw_channel *channel, struct gw_write *write);
int gw_loop_send(struct gw_channel *channel, struct gw_send *send);
int gw_loop_recv(struct gw_channel *channel, struct gw_message *out);
int gw_loop_poll(struct gw_poller *poller, struct gw_channel **ready, int max);
int gw_loop_arm(struct gw_poller *poller);
void gw_loop_info(struct gw_channel *channel, struct gw_channel_info *out);

int gw_loop_listen(struct gw_transport *transport, const struct gw_address *local,
                   struct gw_listener **out);
void gw_loop_unlisten(struct gw_listener *listener);
int gw_loop_next_request(struct gw_listener *listener, int timeout_ms, struct gw_request **out);
int gw_loop_listener_address(struct gw_listener *listener, struct gw_address *out);
int gw_loop_accept(struct gw_request *request, const struct gw_channel_options *options,
                   struct gw_channel **out);
void gw_loop_reject(struct gw_request *request, const char *reason);
int gw_loop_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                    struct gw_channel **out);

#endif
