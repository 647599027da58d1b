/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs: channels over RC queue pairs, connected by librdmacm. The inner header of the back end;
 * wire.h says what is on the wire.
 *
 *   device   an RDMA device in use: librdmacm's context of it, which all share
 *   domain   a protection domain on one device
 *   queue    a completion queue of a poller on one device, with its completion channel
 *   channel  a connection identifier, its queue pair, and registered memory for its messages
 *
 * Posted ops wait in a list until the send queue, credits and message slots have room (send.c). A
 * work request that is not signalled is complete when a later one is: sequence numbers in the
 * wr_id say how far the send queue has come. Completions are absorbed first (absorb.c), which only
 * changes counters and lists, and done() runs afterwards from gw_poll or gw_close.
 *
 * A wr_id names the channel by slot and generation, never by address: what a completion queue still
 * holds of a channel that is gone meets an empty slot.
 *
 * Death: the first cause is kept in channel->error; the queue pair goes to the error state, and the
 * channel is dead for its owner once everything posted was flushed, so that memory given back by
 * done() is no longer read, and what had arrived before is still delivered.
 *
 * Threads, besides transport.h's: one thread of the transport (life.c) takes the events of
 * connections and devices, and once a second tells pollers to look after their channels. It only
 * sets bits in channel->news and wakes the poller.
 * Locks: transport.lock (devices, list of connected channels) before poller.lock (queues, slots).
 *   Neither is taken on the data path, except poller.lock for completions of a channel that is not
 *   yet handed over to its poller's thread.
 */
#ifndef GODWIT_TRANSPORT_VERBS_VERBS_H
#define GODWIT_TRANSPORT_VERBS_VERBS_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#include "common/checked.h"
#include "common/error.h"
#include "transport/figures.h"
#include "transport/rdma/inbox.h"
#include "transport/rdma/life.h"
#include "transport/rdma/vector.h"
#include "transport/ring.h"
#include "transport/transport.h"

#define VERBS_SEND_DEPTH     256u /* work requests in a send queue */
#define VERBS_DEPTH_LEAST    128u /* so many a device must have: several times VERBS_SIGNAL_EVERY */
#define VERBS_RESERVED_SENDS 3u   /* of them for a credit, a keepalive and the last of all */
#define VERBS_RECEIVE_DEPTH  (GW_RECEIVES + GW_SPARE_RECEIVES)
#define VERBS_INLINE_MAX     128u       /* bytes asked for; a device may give more or less */
#define VERBS_SEND_BYTES     (8u << 20) /* in a send queue; a larger write goes alone */
#define VERBS_SIGNAL_BYTES   (1u << 20)
#define VERBS_CHAIN_MAX      64u   /* work requests under one doorbell */
#define VERBS_SIGNAL_EVERY   32u   /* and at the end of each chain */
#define VERBS_SLOTS          1024u /* channels of one poller */
#define VERBS_QUEUE_CHANNELS 8u    /* channels that a new completion queue has room for */
#define VERBS_ABSORB_MAX     4096u /* completions of one queue in one poll */
#define VERBS_BACKLOG        256

/* A wr_id, from the low bits: sequence number or number of the receive, what it is, slot,
 * generation. */
#define VERBS_SEQUENCE_MASK    ((1u << 21) - 1)
#define VERBS_WR_RECEIVE       (1ull << 21)
#define VERBS_WR_SLOT_AT       22
#define VERBS_WR_GENERATION_AT 32

/* Times. An unanswered packet is sent again 6 times (7 would be for ever on soft-RoCE); the wait is
 * 4.096 us * 2^18, about 1.07 s, or up to four times that as the device likes: a peer that is gone is
 * known after about 7.5 s. */
#define VERBS_ACK_TIMEOUT 18u
#define VERBS_RETRIES     6u
#define VERBS_RNR_RETRIES 1u /* it never happens between two that count their credits */
#define VERBS_FLUSH_TICKS 2u /* then a queue pair that does not flush is destroyed as it is */

struct verbs_channel;

/* Stays in the list when nobody uses it any more, until it is removed or the transport ends. */
struct verbs_device {
    struct verbs_device *next;
    struct ibv_context *context;
    struct rdma_cm_id
        *keeper; /* bound to an address of the device, so that its context stays in use */
    struct ibv_device_attr attributes;
    unsigned users;
    struct gw_vectors vectors; /* of the completion queues on it; under transport.lock */
    bool is_prepared;          /* attributes are known, its events are watched */
    bool is_removed;           /* it is going: nobody begins to use it */
};

struct verbs_transport {
    struct gw_transport base;
    pthread_mutex_t lock;
    struct verbs_device *devices;
    struct gw_ring connected;                     /* all channels that life.c watches */
    struct rdma_event_channel *connection_events; /* theirs; NULL until a device is in use */
    struct gw_life life;
};

struct verbs_domain {
    struct gw_domain base;
    pthread_mutex_t lock; /* binding, which a first channel may do; rank: before all others */
    struct verbs_device *device; /* NULL until an address decides */
    struct ibv_pd *pd;
    bool has_local;
    struct gw_address local;
};

struct verbs_region {
    struct gw_region base;
    struct ibv_mr *mr;
    uint64_t start; /* the device's address of memory's first byte */
    void *alias;    /* another mapping of the same pages, see transport/rdma/writable.h, or NULL */
    uint64_t alias_size;
};

struct verbs_queue {
    struct verbs_queue *next;
    struct verbs_device *device;
    struct ibv_comp_channel *events;
    struct ibv_cq *cq;
    int vector;                  /* of the device */
    unsigned capacity, reserved; /* completions; reserved under poller.lock */
    bool is_armed;
};

/* A channel as wr_ids name it. */
struct verbs_slot {
    _Atomic(struct verbs_channel *) channel; /* cleared under poller.lock */
    _Atomic uint32_t generation;
    atomic_bool is_started; /* the poller's thread owns the channel */
};

struct verbs_poller {
    struct gw_poller base;
    pthread_mutex_t lock;
    _Atomic(struct verbs_queue *) queues; /* only ever added to */
    struct verbs_slot *slots;             /* VERBS_SLOTS */
    unsigned next_slot;
    struct gw_waker waker;
    struct gw_ring channels;
    bool is_armed;
    /* One chain of work requests on its way to a queue pair. */
    struct ibv_send_wr requests[VERBS_CHAIN_MAX];
    struct ibv_sge pieces[VERBS_CHAIN_MAX][2];
};

static inline struct verbs_poller *gw_verbs_poller_of(struct gw_poller *base)
{
    return gw_container_of(base, struct verbs_poller, base);
}

static inline struct verbs_domain *gw_verbs_domain_of(struct gw_domain *base)
{
    return gw_container_of(base, struct verbs_domain, base);
}

static inline struct verbs_transport *gw_verbs_transport_of(struct gw_transport *base)
{
    return gw_container_of(base, struct verbs_transport, base);
}

/* ---- device.c: devices and domains ---- */
/* -ENODEV, with what to do, when this host has none just now. */
int gw_verbs_look_for_devices(void);
/* The device of a context, taken into use; address is one of its own. */
int gw_verbs_device_get(struct verbs_transport *transport, struct ibv_context *context,
                        const struct gw_address *address, struct verbs_device **out);
/* That librdmacm has opened id's device, whatever becomes of id: otherwise nobody would close it when it is
 * removed, and the removal of a soft-RoCE device would wait for that. */
void gw_verbs_device_know(struct verbs_transport *transport, struct rdma_cm_id *id);
void gw_verbs_device_put(struct verbs_transport *transport, struct verbs_device *device);
/* Frees the devices that are removed and have no users; all: every one. */
void gw_verbs_devices_sweep(struct verbs_transport *transport, bool all);
int gw_verbs_open_domain(struct gw_transport *transport, const struct gw_address *local,
                         struct gw_domain **out);
void gw_verbs_close_domain(struct gw_domain *domain);
/* Makes sure that the domain is on the device of id, whose addresses are resolved. */
int gw_verbs_domain_bind(struct verbs_domain *domain, struct rdma_cm_id *id);
void gw_verbs_address_of(const struct sockaddr *from, struct gw_address *out);

/* ---- region.c ---- */
int gw_verbs_reg(struct gw_domain *domain, void *memory, uint64_t length, unsigned access,
                 uint32_t only_channel, struct gw_region **out);
void gw_verbs_unreg(struct gw_region *region);

/* ---- life.c ---- */
int gw_verbs_life_start(struct verbs_transport *transport);
void gw_verbs_life_stop(struct verbs_transport *transport);
/* Makes sure that there are connection_events. Called with the lock held, when there is a device. */
int gw_verbs_life_open_events(struct verbs_transport *transport);
int gw_verbs_life_add_device(struct verbs_transport *transport, struct verbs_device *device);
void gw_verbs_life_remove_device(struct verbs_transport *transport, struct verbs_device *device);
int gw_verbs_life_add_channel(struct verbs_transport *transport, struct verbs_channel *channel);
void gw_verbs_life_remove_channel(struct verbs_transport *transport, struct verbs_channel *channel);

/* ---- poll.c ---- */
int gw_verbs_open_poller(struct gw_transport *transport, struct gw_poller **out);
void gw_verbs_close_poller(struct gw_poller *poller);
/* A queue with room for one more channel, and a slot for it. */
int gw_verbs_poller_reserve(struct verbs_poller *poller, struct verbs_device *device,
                            struct verbs_channel *channel);
void gw_verbs_poller_release(struct verbs_poller *poller, struct verbs_channel *channel);
/* Hands the channel over to the poller's thread. */
void gw_verbs_poller_start(struct verbs_poller *poller, struct verbs_channel *channel);
void gw_verbs_poller_remove(struct verbs_poller *poller, struct verbs_channel *channel);
int gw_verbs_poll(struct gw_poller *poller, struct gw_channel **ready, int max);
int gw_verbs_arm(struct gw_poller *poller);

/* ---- connect.c, listen.c ---- */
int gw_verbs_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                     struct gw_channel **out);
/* The next event, which the caller acknowledges; -ETIMEDOUT without a message. */
int gw_verbs_event_wait(struct rdma_event_channel *events, uint64_t deadline_ns,
                        struct rdma_cm_event **out);
/* librdmacm makes none while there is no device: -ENODEV. */
int gw_verbs_events_new(struct rdma_event_channel **out);
struct rdma_conn_param gw_verbs_connection(const void *private_data, uint32_t length);
int gw_verbs_listen(struct gw_transport *transport, const struct gw_address *local,
                    struct gw_listener **out);
void gw_verbs_unlisten(struct gw_listener *listener);
int gw_verbs_next_request(struct gw_listener *listener, int timeout_ms, struct gw_request **out);
int gw_verbs_listener_address(struct gw_listener *listener, struct gw_address *out);
int gw_verbs_accept(struct gw_request *request, const struct gw_channel_options *options,
                    struct gw_channel **out);
void gw_verbs_reject(struct gw_request *request, const char *reason);

#endif
