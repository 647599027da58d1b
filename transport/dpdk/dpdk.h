/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dpdk: the back end for NICs without RDMA, past the kernel. The protocol is core.h's; here is what
 * stands between it and the NIC: the port with its queues, who reads them, and whose each datagram is.
 *
 *   transport  one port of a NIC, its addresses, and a thread of its own (service.c)
 *   endpoint   a UDP port: of a poller, or of a listener; whoever reads a datagram from the NIC hands
 *              it to the endpoint that it is for, through a lock-free ring
 *   poller     reads the NIC's queues itself whenever it is polled, and drives its channels to the end
 *              in that turn; a poller that sleeps has its queues read by the port's thread
 *   channel    one core. While it is being made it belongs to the thread that connects, then to its
 *              poller's
 *
 * Errors: 0 or -errno with a message.
 * Order: settings → port → pollers, listeners → channels, and back.
 * Threads: as transport.h. setup_lock of a poller is for control threads alone.
 * Units: bytes, nanoseconds of gw_clock_ns.
 */
#ifndef GODWIT_TRANSPORT_DPDK_DPDK_H
#define GODWIT_TRANSPORT_DPDK_DPDK_H

#include <pthread.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <stdatomic.h>

#include "common/checked.h"
#include "common/error.h"
#include "transport/dpdk/copies.h"
#include "transport/dpdk/core.h"
#include "transport/dpdk/headers.h"
#include "transport/dpdk/port.h"

#define DPDK_BURST         32u
#define DPDK_ENDPOINTS_MAX 256u
#define DPDK_CHANNELS_MAX  256u  /* of one poller */
#define DPDK_INBOX_SIZE    2048u /* datagrams for a poller that others read */
#define DPDK_REQUESTS_SIZE 256u  /* of strangers, for a listener or a channel that is being made */
#define DPDK_NEIGHBORS_MAX 64u
#define DPDK_ANSWERED_MAX  256u

struct dpdk_neighbor {
    struct dpdk_host host;
    struct dpdk_mac mac;
    bool is_known;
    uint64_t since_ns; /* known, or asked for */
};

/* Who has which MAC: only what was asked for is learned. */
struct dpdk_neighbors {
    pthread_mutex_t lock; /* protects all of it; leaf. Taken where a neighbour's frame arrives. */
    pthread_cond_t learned;
    struct dpdk_neighbor list[DPDK_NEIGHBORS_MAX];
    unsigned count;
};

struct dpdk_endpoint {
    uint16_t udp_port;
    bool is_poller;
    int reserve_fd;          /* keeps the kernel from using that port, or -1 */
    int wake_fd;             /* an eventfd */
    _Atomic bool is_waiting; /* for the eventfd */
    struct rte_ring *inbox;
};

/* An OPEN that was read and is being thought about, or was refused. Its sender repeats it. */
struct dpdk_answered {
    uint8_t nonce[DPDK_NONCE_SIZE];
    bool is_refused;
    char reason[GW_REASON_MAX];
};

struct dpdk_transport {
    struct gw_transport base;
    struct dpdk_settings settings;
    struct dpdk_port port;
    struct dpdk_neighbors neighbors;

    pthread_mutex_t lock; /* protects endpoints' and pollers' coming and going, answered; leaf */
    _Atomic(struct dpdk_endpoint *) endpoints[DPDK_ENDPOINTS_MAX];
    _Atomic uint8_t endpoint_of[1u << 16]; /* by UDP port: its place in endpoints; 0: none */
    unsigned next_port;
    struct dpdk_answered answered[DPDK_ANSWERED_MAX];
    unsigned answered_next;
    _Atomic unsigned poller_count; /* places in use, see gw_dpdk_poller_queues */
    bool has_poller[DPDK_ENDPOINTS_MAX];

    pthread_t thread;
    _Atomic bool is_stopping;
    _Atomic unsigned waiting_count; /* pollers that sleep, channels that are being made */
    _Atomic unsigned listener_count;
};

struct dpdk_domain {
    struct gw_domain base;
    struct gw_region_table regions;
};

enum dpdk_slot_state {
    DPDK_SLOT_FREE,
    DPDK_SLOT_SETUP, /* its core belongs to the thread that makes the channel */
    DPDK_SLOT_OPEN,  /* to the poller's thread */
};

struct dpdk_channel {
    struct gw_channel base;
    struct dpdk_core *core;
    struct dpdk_poller *poller;
    struct dpdk_flow flow;
    uint32_t id, incarnation;
    struct dpdk_copies copies; /* the poller's thread */
};

struct dpdk_slot {
    _Atomic unsigned state;
    _Atomic uint32_t incarnation;
    struct dpdk_channel *channel; /* written before the state says so */
};

/* What a poller sends: see outbox.c. */
struct dpdk_outbox {
    struct rte_mbuf *unsent[DPDK_BURST]; /* that the NIC had no room for; in one piece */
    unsigned unsent_count;
    struct rte_mbuf *spare[DPDK_BURST];
    unsigned spare_count;
    uint64_t lent_count; /* datagrams whose payload was not copied, since it was opened */
    struct rte_mempool *lent_pool;
    /* Without bytes of their own: each stands for the payload of one datagram of a burst, in an op's
     * memory. NULL where the driver wants copies. */
    struct rte_mbuf *lent[DPDK_BURST];
    struct rte_mbuf_ext_shared_info lent_info;
};

struct dpdk_poller {
    struct gw_poller base;
    struct dpdk_endpoint endpoint;
    unsigned place; /* among the pollers of the port */
    struct dpdk_slot slots[DPDK_CHANNELS_MAX];
    _Atomic unsigned changes; /* of slots that are open */

    /* The polling thread's. */
    unsigned seen_changes;
    struct dpdk_channel *channels[DPDK_CHANNELS_MAX];
    unsigned channel_count, next_channel, next_report;
    struct dpdk_outbox outbox;
    int epoll_fd, timer_fd;
    unsigned polls_since_arm; /* UINT_MAX: it is not armed */
    /* Datagrams that came and went since then; when there last were many. */
    uint64_t traffic_since_ns, busy_ns;
    unsigned traffic;

    /* Control threads'. */
    pthread_mutex_t setup_lock; /* one thread at a time drives the channels that are being made */
    struct rte_ring *setup_inbox;
    int setup_fd; /* an eventfd: setup_inbox has something */
};

/* A datagram that arrived, for the endpoint that asked. */
struct dpdk_arrival {
    struct rte_mbuf *mbuf;
    struct dpdk_frame frame;
};

static inline struct dpdk_transport *gw_dpdk_transport_of(struct gw_transport *base)
{
    return gw_container_of(base, struct dpdk_transport, base);
}

static inline struct dpdk_channel *gw_dpdk_channel_of(struct gw_channel *base)
{
    return gw_container_of(base, struct dpdk_channel, base);
}

/* ---- neighbors.c ---- */
void gw_dpdk_neighbors_init(struct dpdk_neighbors *neighbors);
void gw_dpdk_neighbors_free(struct dpdk_neighbors *neighbors);
/* The local end and the MACs of a flow whose peer is set. Asks the network, and waits for its answer
 * for at most timeout_ms. -EHOSTUNREACH, -ENETUNREACH. */
int gw_dpdk_route(struct dpdk_transport *transport, struct dpdk_flow *flow, int timeout_ms);
/* A frame of kind NEIGHBOR_ASKED or NEIGHBOR_TOLD. */
void gw_dpdk_neighbor_frame(struct dpdk_transport *transport, const struct dpdk_frame *frame);
bool gw_dpdk_is_local(const struct dpdk_transport *transport, const struct dpdk_host *host);

/* ---- endpoint.c ---- */
/* udp_port 0: one that is free. */
int gw_dpdk_endpoint_open(struct dpdk_transport *transport, bool is_poller, uint16_t udp_port,
                          struct dpdk_endpoint *endpoint);
/* When it returns nobody hands it anything. */
void gw_dpdk_endpoint_close(struct dpdk_transport *transport, struct dpdk_endpoint *endpoint);
int gw_dpdk_ring_new(const char *what, unsigned size, struct rte_ring **out);
void gw_dpdk_ring_free(struct rte_ring *ring); /* and the buffers in it; takes NULL */
/* Every endpoint that waits. */
void gw_dpdk_wake_all(struct dpdk_transport *transport);
/* Reads one burst from a queue of the NIC, unless somebody else does. What is for self goes to out,
 * which has room for DPDK_BURST; the rest to its endpoints. Returns how many came from the NIC;
 * *count: those in out. */
unsigned gw_dpdk_receive(struct dpdk_transport *transport, unsigned queue,
                         const struct dpdk_endpoint *self, struct dpdk_arrival *out,
                         unsigned *count);
/* The flow of what answers a datagram that arrived. */
void gw_dpdk_flow_back(const struct dpdk_transport *transport, const struct dpdk_frame *frame,
                       struct dpdk_flow *out);
/* Does this poller's slot for the datagram belong to a control thread? */
bool gw_dpdk_is_setup(const struct dpdk_poller *poller, const uint8_t *datagram, uint32_t length);
void gw_dpdk_wake(int fd);
void gw_dpdk_unwake(int fd);

/* ---- poller.c ---- */
int gw_dpdk_poller_open(struct gw_transport *base, struct gw_poller **out);
void gw_dpdk_poller_close(struct gw_poller *base);
int gw_dpdk_poll(struct gw_poller *base, struct gw_channel **ready, int max);
int gw_dpdk_arm(struct gw_poller *base);
void gw_dpdk_channel_close(struct gw_channel *base);
static inline struct dpdk_poller *gw_dpdk_poller_of(struct gw_poller *base)
{
    return gw_container_of(base, struct dpdk_poller, base);
}

/* ---- turn.c ---- */
/* Gives up to DPDK_BURST datagrams to the channels that they name, of those in that state. Frees the buffers. */
void gw_dpdk_take_in(struct dpdk_poller *poller, enum dpdk_slot_state state,
                     const struct dpdk_arrival *arrivals, unsigned count, uint64_t now_ns);
/* Whether payload of its first-sent writes may be left where it lies. */
bool gw_dpdk_sends_in_place(const struct dpdk_channel *channel);
/* Makes up to max datagrams of a channel, at most DPDK_BURST. With the outbox of its poller (the poller's
 * thread alone) buffers are taken from there, and payload may be left where it lies. */
unsigned gw_dpdk_make(struct dpdk_channel *channel, struct dpdk_outbox *outbox, uint64_t now_ns,
                      struct rte_mbuf **out, unsigned max);
/* A control thread's: makes and sends what a channel has, one burst at the most. */
void gw_dpdk_send_burst(struct dpdk_channel *channel, uint64_t now_ns);

/* ---- outbox.c ---- */
int gw_dpdk_outbox_open(struct dpdk_poller *poller);
void gw_dpdk_outbox_close(struct dpdk_poller *poller);
/* A buffer for a datagram's headers and payload, or NULL. */
struct rte_mbuf *gw_dpdk_outbox_take(struct dpdk_outbox *outbox, struct rte_mempool *pool);
void gw_dpdk_outbox_give_back(struct dpdk_outbox *outbox, struct rte_mbuf *mbuf);
/* Puts payload behind the bytes of a burst's datagram of that index, without copying it. */
void gw_dpdk_outbox_lend(struct dpdk_outbox *outbox, unsigned index, struct rte_mbuf *mbuf,
                         const struct dpdk_packet *packet);
/* Sends what is unsent, as far as the NIC has room. When it returns nobody reads any op's memory. */
void gw_dpdk_outbox_flush(struct dpdk_poller *poller);
/* Asks a channel for a burst and sends it; how many it made. Nothing is to be unsent. */
unsigned gw_dpdk_outbox_send(struct dpdk_poller *poller, struct dpdk_channel *channel,
                             uint64_t now_ns);
void gw_dpdk_outbox_drop(struct dpdk_outbox *outbox);

/* ---- connect.c ---- */
int gw_dpdk_connect(struct gw_transport *base, const struct gw_connect_options *options,
                    struct gw_channel **out);
int gw_dpdk_accept(struct gw_request *base, const struct gw_channel_options *options,
                   struct gw_channel **out);
void gw_dpdk_channel_free(struct dpdk_channel *channel); /* and its slot */

/* ---- listen.c ---- */
struct dpdk_request {
    struct gw_request base;
    struct dpdk_flow flow;
    struct dpdk_open open;
};
int gw_dpdk_listen(struct gw_transport *base, const struct gw_address *local,
                   struct gw_listener **out);
void gw_dpdk_unlisten(struct gw_listener *base);
int gw_dpdk_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out);
int gw_dpdk_listener_address(struct gw_listener *base, struct gw_address *out);
void gw_dpdk_reject(struct gw_request *base, const char *reason);

/* ---- service.c ---- */
int gw_dpdk_service_start(struct dpdk_transport *transport);
void gw_dpdk_service_stop(struct dpdk_transport *transport);

#endif
