/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port: one port of a NIC as DPDK drives it: what it was configured with, its queues, its buffers.
 * It knows frames and no channels.
 *
 * Errors: 0 or -errno with a message: -EINVAL for a setting that makes no sense, -ENODEV for what
 *   this host does not have or may not use, with the mend.
 * Order: settings_read → port_open → send … → port_close.
 * Threads: open and close belong to one. A queue is written by whoever holds its tx_lock, a spinlock
 *   around a burst, free wherever there are as many queues as pollers; it is read by whoever holds
 *   its rx_lock, which is tried and not waited for. Both are leaves.
 * Units: bytes; nanoseconds of gw_clock_ns; memory in MiB.
 */
#ifndef GODWIT_TRANSPORT_DPDK_PORT_H
#define GODWIT_TRANSPORT_DPDK_PORT_H

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_spinlock.h>
#include <stdatomic.h>

#include "common/checked.h"
#include "common/error.h"
#include "transport/dpdk/headers.h"
#include "transport/transport.h"

#define DPDK_QUEUES_MAX  16u
#define DPDK_DESCRIPTORS 1024u
#define DPDK_LOCALS_MAX  4u
#define DPDK_MEMORY_MIB  256u /* that DPDK gets, where nothing else was said */

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

/* How the port fares, as its thread last saw it. */
enum dpdk_port_state {
    DPDK_PORT_NEW, /* it has no link, and lost none that anything had come over */
    DPDK_PORT_UP,
    DPDK_PORT_DOWN, /* no cable, or nobody at the other end: may pass */
    DPDK_PORT_GONE, /* the kernel has its interface no more, or its driver hangs: does not pass */
};

struct dpdk_port {
    uint16_t id;
    _Atomic unsigned state; /* enum dpdk_port_state */
    _Atomic bool has_heard; /* a frame came, whosever */
    char driver[64];
    struct dpdk_mac mac;
    unsigned mtu;
    unsigned queue_count;
    unsigned checksums; /* enum dpdk_checksum: what the NIC computes */
    bool verifies_ipv4; /* the NIC does, on arrival */
    _Atomic bool
        sends_in_place; /* the driver takes payload from where it lies, and is done with it when a
                               burst is: looked at after each (outbox.c) */
    bool is_kernels;    /* the kernel has the same interface, addresses and UDP ports */
    char interface[64]; /* the kernel's name of it, or "" */
    unsigned interface_index;
    struct rte_mempool *pool;
    struct dpdk_queue queues[DPDK_QUEUES_MAX];
};

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
/* Whether that interface has its link; false when there is none of this index any more. */
bool gw_dpdk_kernel_look(unsigned index, bool *has_link);
/* Takes the UDP port of that address from the kernel (0: any that is free), so that it answers
 * nothing and gives it to nobody; *fd keeps it. -EADDRINUSE. Nothing to do for an address that the
 * kernel does not have. */
int gw_dpdk_kernel_reserve(const struct dpdk_host *host, uint16_t *port, int *fd);

/* ---- port.c ---- */
int gw_dpdk_port_open(struct dpdk_settings *settings, struct dpdk_port *port);
void gw_dpdk_port_close(struct dpdk_port *port);
/* Sees how the port fares; what one caller saw go is not there again for another one. Anybody's. */
enum dpdk_port_state gw_dpdk_port_look(struct dpdk_port *port);
/* Its driver hangs: it is of no use any more. */
void gw_dpdk_port_give_up(struct dpdk_port *port);
/* The error of a port that has no link or is gone; 0 otherwise. */
int gw_dpdk_port_error(const struct dpdk_port *port);
/* Puts them on the wire; returns how many the NIC took. The rest stays the caller's. */
unsigned gw_dpdk_port_send(struct dpdk_port *port, unsigned queue, struct rte_mbuf **mbufs,
                           unsigned count);
/* Has the driver look which buffers it is done with. */
void gw_dpdk_port_clean_up(struct dpdk_port *port, unsigned queue);
/* One frame of a control thread. */
void gw_dpdk_port_send_frame(struct dpdk_port *port, const uint8_t *frame, uint32_t length);
/* One datagram of a control thread, with its headers. */
void gw_dpdk_port_send_datagram(struct dpdk_port *port, const struct dpdk_flow *flow,
                                const uint8_t *datagram, uint32_t length);
/* The longest datagram that the port's MTU has room for. */
uint16_t gw_dpdk_port_max_length(const struct dpdk_port *port, bool is_ipv6);

#endif
