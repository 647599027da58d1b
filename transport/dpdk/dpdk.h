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
 * Threads: as transport.h. A queue is read by one thread at a time (rx_lock, tried and not waited
 *   for), and written by one (tx_lock, a spinlock around a burst, free wherever there are as many
 *   queues as pollers). Both are leaves. setup_lock of a poller is for control threads alone.
 * Units: bytes, nanoseconds of gw_clock_ns.
 */
#ifndef GODWIT_TRANSPORT_DPDK_DPDK_H
#define GODWIT_TRANSPORT_DPDK_DPDK_H

#include <pthread.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_spinlock.h>
#include <stdatomic.h>

#include "common/checked.h"
#include "common/error.h"
#include "transport/dpdk/core.h"
#include "transport/dpdk/headers.h"

#define DPDK_BURST         32u
#define DPDK_QUEUES_MAX    16u
#define DPDK_DESCRIPTORS   1024u
#define DPDK_LOCALS_MAX    4u
#define DPDK_ENDPOINTS_MAX 256u
#define DPDK_CHANNELS_MAX  256u /* of one poller */
#define DPDK_INBOX_SIZE    2048u
#define DPDK_NEIGHBORS_MAX 64u
#define DPDK_ANSWERED_MAX  256u
#define DPDK_MEMORY_MIB    256u /* that DPDK gets, where nothing else was said */

/* An address of the port, and the network that it reaches without a gateway. */
struct dpdk_local {
    struct dpdk_host host;
    unsigned prefix_bits;
};

/* What a person configured, checked. */
struct dpdk_settings {
    char devargs[512];
    struct dpdk_local locals[DPDK_LOCALS_MAX];
    unsigned local_count;
    struct dpdk_host gateways[2]; /* by is_ipv6 */
    bool has_gateway[2];
    unsigned mtu;        /* 0: the interface's, or 1500 */
    unsigned queues;     /* 0: the driver decides */
    unsigned memory_mib; /* 0: DPDK_MEMORY_MIB */
};

struct dpdk_queue {
    rte_spinlock_t rx_lock, tx_lock;
    _Atomic uint64_t polled_ns; /* by a poller; 0: it sleeps, the port's thread reads */
} __rte_cache_aligned;

struct dpdk_port {
    uint16_t id;
    char driver[64];
    struct dpdk_mac mac;
    unsigned mtu;
    unsigned queue_count;
    unsigned checksums;     /* enum dpdk_checksum: what the NIC computes */
    uint64_t offload_flags; /* of a datagram's mbuf, for that */
    bool verifies_ipv4;     /* the NIC does, on arrival */
    bool is_kernels;        /* the kernel has the same interface, addresses and UDP ports */
    char interface[64];     /* the kernel's name of it, or "" */
    struct rte_mempool *pool;
    struct dpdk_queue queues[DPDK_QUEUES_MAX];
};

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
};

struct dpdk_slot {
    _Atomic unsigned state;
    _Atomic uint32_t incarnation;
    struct dpdk_channel *channel; /* written before the state says so */
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
    struct rte_mbuf *unsent[DPDK_BURST];
    unsigned unsent_count;
    int epoll_fd, timer_fd;
    unsigned polls_since_arm; /* UINT_MAX: it is not armed */

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

/* ---- settings.c ---- */
int gw_dpdk_settings_read(const struct gw_transport_options *options, struct dpdk_settings *out);
/* Adds to devargs what a driver cannot do without, for that MTU. */
int gw_dpdk_settings_complete(struct dpdk_settings *settings, unsigned mtu);
/* The value of a parameter of devargs ("iface"), copied; false when it is not there. */
bool gw_dpdk_devargs_get(const char *devargs, const char *name, char *out, size_t size);

/* ---- eal.c ---- */
/* Starts DPDK in this process, if it is not yet, and makes the device; its port. */
int gw_dpdk_device_open(const struct dpdk_settings *settings, uint16_t *port);
void gw_dpdk_device_close(uint16_t port);
/* For a thread that will take many buffers: it gets DPDK's caches. */
void gw_dpdk_thread_enter(void);

/* ---- kernel.c ---- */
/* The MTU, the addresses and the gateways of a kernel's interface; those that settings have stay. */
int gw_dpdk_kernel_mtu(const char *interface, unsigned *out);
int gw_dpdk_kernel_addresses(const char *interface, struct dpdk_settings *settings);
/* Takes the UDP port of that address from the kernel (0: any that is free), so that it answers
 * nothing and gives it to nobody; *fd keeps it. -EADDRINUSE. Nothing to do for an address that the
 * kernel does not have. */
int gw_dpdk_kernel_reserve(const struct dpdk_host *host, uint16_t *port, int *fd);

/* ---- port.c ---- */
int gw_dpdk_port_open(struct dpdk_settings *settings, struct dpdk_port *port);
void gw_dpdk_port_close(struct dpdk_port *port);
/* Puts them on the wire; returns how many the NIC took. The rest stays the caller's. */
unsigned gw_dpdk_port_send(struct dpdk_port *port, unsigned queue, struct rte_mbuf **mbufs,
                           unsigned count);
/* One frame of a control thread. */
void gw_dpdk_port_send_frame(struct dpdk_port *port, const uint8_t *frame, uint32_t length);
/* One datagram of a control thread, with its headers. */
void gw_dpdk_port_send_datagram(struct dpdk_port *port, const struct dpdk_flow *flow,
                                const uint8_t *datagram, uint32_t length);
/* The longest datagram that the port's MTU has room for. */
uint16_t gw_dpdk_port_max_length(const struct dpdk_port *port, bool is_ipv6);

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
int gw_dpdk_ring_new(const char *what, struct rte_ring **out);
void gw_dpdk_ring_free(struct rte_ring *ring); /* and the buffers in it; takes NULL */
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
/* Gives an arrived datagram to the channel that it names, of those in that state. Frees the buffer. */
void gw_dpdk_take_in(struct dpdk_poller *poller, enum dpdk_slot_state state,
                     struct dpdk_arrival *arrival, uint64_t now_ns);
/* Makes up to max datagrams of a channel. */
unsigned gw_dpdk_make(struct dpdk_channel *channel, uint64_t now_ns, struct rte_mbuf **out,
                      unsigned max);
/* A control thread's: makes and sends what a channel has, one burst at the most. */
void gw_dpdk_send_burst(struct dpdk_channel *channel, uint64_t now_ns);

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
