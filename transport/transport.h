/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport: bytes into the other host's registered memory. One interface, several back ends.
 *
 *   domain    one device's share of a link to a peer (a protection domain, a table of regions)
 *   channel   an ordered, reliable lane inside a domain, owned by one worker thread
 *   poller    one worker's share of a back end (a completion queue, an epoll set)
 *   region    local memory that the peer may write into, or that channels read from
 *
 * Two primitives. write() places local bytes at an offset of a region of the peer, one-sided,
 * straight into the destination memory. send() delivers a small message.
 *
 * Errors: 0 or -errno with a message (common/error.h). Posting answers -EAGAIN when the channel's
 *   queue is full: poll, then try again. On a dead channel posting and gw_recv answer the error
 * that killed it (-ECONNRESET, -EPIPE, -EPROTO, -ETIMEDOUT, ...), every time.
 * Order: a message is delivered after every write posted before it on that channel is visible in
 *   the peer's memory. Messages arrive in the order in which they were posted. Nothing else is
 *   promised, and never may anyone poll memory for arrival. done() means "this memory is yours
 *   again" and says nothing about the peer; it runs exactly once per posted op, from gw_poll or
 *   gw_close, with 0, the error that killed the channel, or -ECANCELED when the channel was closed
 *   first.
 * Threads: listen, accept, connect, domains and regions belong to control threads and may block
 *   until their timeout. A channel and its poller belong to one thread from connect/accept on:
 *   post, recv, poll, arm and close are called by it alone. Posting never blocks, allocates or
 *   locks.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_TRANSPORT_TRANSPORT_H
#define GODWIT_TRANSPORT_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address.h"

#define GW_MESSAGE_MAX     4096u      /* bytes in one send */
#define GW_WRITE_MAX       (4u << 20) /* bytes in one write */
#define GW_HELLO_MAX       52u        /* of the 56 that rdmacm gives a request; 4 say what it is */
#define GW_SECRET_MAX      32u /* bytes from the link's key exchange, for back ends that need them */
#define GW_REASON_MAX      200u  /* text of a refusal, terminator included */
#define GW_TRANSPORTS_MAX  8u    /* back ends that one process uses beside each other */
#define GW_CHANNEL_OPS_MAX 1024u /* ops that may be posted and not done on one channel */
#define GW_WIRE_VERSION    2u    /* spoken before anything else; a mismatch is refused by name */

struct gw_transport_ops;

/* One setting of a back end, as a person wrote it: "devargs", "net_af_packet0,iface=eth1". */
struct gw_transport_option {
    const char *name, *value;
};

/* Those of one back end; lent for the call. */
struct gw_transport_options {
    const struct gw_transport_option *items;
    unsigned count;
    bool is_named; /* somebody asked for this back end: it is not one of many that may do */
};

/* A back end that is ready for use. Back ends embed it first. */
struct gw_transport {
    const struct gw_transport_ops *ops;
    const char *variant; /* what it is over, for people: a libfabric provider's name; or NULL */
};

struct gw_domain {
    struct gw_transport *transport;
};

struct gw_poller {
    struct gw_transport *transport;
};

struct gw_listener {
    struct gw_transport *transport;
};

struct gw_channel {
    struct gw_domain *domain;
    void *context; /* the caller's, from the connect or accept options */
};

/* Memory as the domain knows it. key is what the peer names it by: give it to the peer after
 * registration, never before. Offsets of remote writes count from 0 at memory. */
struct gw_region {
    struct gw_domain *domain;
    void *memory;
    uint64_t length;
    uint64_t key;
    unsigned access;
};

enum gw_access {
    GW_ACCESS_LOCAL_READ = 1,   /* local end of writes posted here */
    GW_ACCESS_REMOTE_WRITE = 2, /* the peer may write */
};

/* A connection request that waits for accept or reject. Freed by either. */
struct gw_request {
    struct gw_transport *transport;
    struct gw_address local, peer;
    uint32_t hello_length;
    uint8_t hello[GW_HELLO_MAX];
};

/* Whatever is posted starts with an op. The caller owns it, and the memory that it names, until
 * done. next and scratch are the back end's from post to done. */
struct gw_op {
    void (*done)(struct gw_op *op, int status);
    struct gw_op *next;
    uint64_t scratch[4];
};

enum gw_post_flags {
    /* Another post follows at once on this channel: doorbell or sendmsg may wait for it. */
    GW_POST_MORE = 1,
    /* The bytes keep their value until the engine's own acknowledgement, or what changes is sent
     * again: the back end may hand the pages themselves to the kernel (vmsplice), which reads them
     * after done. */
    GW_POST_STABLE = 2,
};

struct gw_write {
    struct gw_op op;
    const void *local;
    uint32_t length; /* 0 to GW_WRITE_MAX */
    unsigned flags;
    const struct gw_region
        *region; /* the region that local lies in; NULL if !ops->needs_local_region */
    uint64_t remote_key;
    uint64_t remote_offset;
};

struct gw_send {
    struct gw_op op;
    const void *message;
    uint32_t length; /* 0 to GW_MESSAGE_MAX */
    unsigned flags;
};

/* A received message, lent until the next gw_recv or gw_close on its channel. */
struct gw_message {
    const void *data;
    uint32_t length;
};

struct gw_channel_options {
    struct gw_domain *domain;
    struct gw_poller *poller;
    void *context;         /* becomes channel->context */
    uint32_t number;       /* the link's channel number; 0 for control */
    const uint8_t *secret; /* up to GW_SECRET_MAX bytes or NULL */
    uint32_t secret_length;
    int timeout_ms;
    const char *congestion; /* TCP_CONGESTION to ask for, or NULL for the back end's choice */
};

struct gw_connect_options {
    struct gw_channel_options channel;
    struct gw_address peer;
    const struct gw_address *local; /* bind to this address (port 0), or NULL */
    const void *hello;
    uint32_t hello_length;
};

struct gw_channel_info {
    struct gw_address local, peer;
    char description[160]; /* "tcp 10.0.0.1:5123 > 10.0.0.2:13560, reno, vmsplice" */
    uint64_t bytes_sent, bytes_received;
    uint64_t messages_sent, messages_received;
};

/*
 * The table of one back end. No member is NULL; gw_* below check arguments before they call it.
 */
struct gw_transport_ops {
    const char *name;
    bool needs_local_region;
    /* Writes are placed by a device: registered memory is pinned, untouched pages would be filled
     * by registering, and the peer can change a region's bytes at any time while its key is good.
     */
    bool is_rdma;
    /* Keys are godwit's own: they cannot be guessed, are not used twice, and only_channel holds.
     * Without it a key is the device's and good on every channel of its domain; what contains a
     * peer then is that a domain belongs to one link. */
    bool has_channel_keys;
    /* Data channels only: control runs over another back end, and its session gives each channel the
     * secret without which this one cannot begin. Its addresses are its own, not the kernel's: it
     * takes "any" for them, and listens where its device is, whatever host is asked for. */
    bool carries_no_control;

    int (*probe)(struct gw_transport *transport);
    int (*open_domain)(struct gw_transport *transport, const struct gw_address *local,
                       struct gw_domain **out);
    void (*close_domain)(struct gw_domain *domain);
    int (*open_poller)(struct gw_transport *transport, struct gw_poller **out);
    void (*close_poller)(struct gw_poller *poller);
    int (*listen)(struct gw_transport *transport, const struct gw_address *local,
                  struct gw_listener **out);
    void (*unlisten)(struct gw_listener *listener);
    int (*next_request)(struct gw_listener *listener, int timeout_ms, struct gw_request **out);
    int (*listener_address)(struct gw_listener *listener, struct gw_address *out);
    int (*accept)(struct gw_request *request, const struct gw_channel_options *options,
                  struct gw_channel **out);
    void (*reject)(struct gw_request *request, const char *reason);
    int (*connect)(struct gw_transport *transport, const struct gw_connect_options *options,
                   struct gw_channel **out);
    void (*close)(struct gw_channel *channel);
    int (*reg)(struct gw_domain *domain, void *memory, uint64_t length, unsigned access,
               uint32_t only_channel, struct gw_region **out);
    void (*unreg)(struct gw_region *region);
    int (*write)(struct gw_channel *channel, struct gw_write *write);
    int (*send)(struct gw_channel *channel, struct gw_send *send);
    int (*recv)(struct gw_channel *channel, struct gw_message *out);
    int (*poll)(struct gw_poller *poller, struct gw_channel **ready, int max);
    int (*arm)(struct gw_poller *poller);
    void (*info)(struct gw_channel *channel, struct gw_channel_info *out);
    void (*destroy)(struct gw_transport *transport);
};

/* The back ends that this build has, in order of preference; the last entry is NULL.
 * create makes one ready; -ENODEV with the reason when this host cannot use it, -EINVAL for an
 * option that makes no sense. The caller destroys. Those that are modules (transport/module.h) are
 * loaded by their first create. */
struct gw_transport_maker {
    const char *name;
    int (*create)(const struct gw_transport_options *options, struct gw_transport **out);
    const char *needed_option; /* without it this host does not use the back end; or NULL */
    bool
        is_only_by_name; /* never chosen by itself: it reaches no other host, or somebody must want it */
};
extern const struct gw_transport_maker *const gw_transport_makers[];
/* options may be NULL: none. */
int gw_transport_new(const char *name, const struct gw_transport_options *options,
                     struct gw_transport **out);
/* As gw_transport_new, for one whose maker is at hand. */
int gw_transport_make(const struct gw_transport_maker *maker,
                      const struct gw_transport_options *options, struct gw_transport **out);
/* The value of an option; NULL when it was not given. The last one given counts. */
const char *gw_transport_option(const struct gw_transport_options *options, const char *name);
/* -EINVAL, naming those that exist, for an option that is not in known, which ends with NULL; known
 * NULL: there are none. */
int gw_transport_check_options(const struct gw_transport_options *options, const char *transport,
                               const char *const *known);
/* 0 while this host can use the back end; -ENODEV, with the reason, while what it needs is not there: a
 * device, which may come and go. Any thread. */
int gw_transport_probe(struct gw_transport *transport);
/* The probe of a back end that can be used for as long as it is there. */
int gw_transport_needs_nothing(struct gw_transport *transport);
void gw_transport_free(struct gw_transport *transport); /* takes NULL, as all frees here */

/* local names the device (rail) by its address; NULL where the back end has only one. */
int gw_domain_open(struct gw_transport *transport, const struct gw_address *local,
                   struct gw_domain **out);
/* After its channels are closed and its regions gone. */
void gw_domain_close(struct gw_domain *domain);

int gw_poller_open(struct gw_transport *transport, struct gw_poller **out);
void gw_poller_close(struct gw_poller *poller); /* after its channels are closed */

/* Port 0 asks for a free one; gw_listener_address tells which. -EADDRINUSE, -EADDRNOTAVAIL. Where what a
 * back end needs is not there (see gw_transport_probe), and the port is named, the listener waits for
 * it: from then on requests come. -ENODEV for port 0. So 0 does not mean that it is listened on yet:
 * gw_listener_address tells. */
int gw_listen(struct gw_transport *transport, const struct gw_address *local,
              struct gw_listener **out);
void gw_unlisten(struct gw_listener *listener);
/* -ENODEV, or what else is wrong, while the listener waits for what the back end needs. Any thread. */
int gw_listener_address(struct gw_listener *listener, struct gw_address *out);
/* Waits for a request whose preamble has arrived whole; slow or silent strangers do not delay
 * others (each has 5 s, at most 256 wait at once). -ETIMEDOUT when none came. */
int gw_next_request(struct gw_listener *listener, int timeout_ms, struct gw_request **out);

/* Takes over the request, whatever the outcome. */
int gw_accept(struct gw_request *request, const struct gw_channel_options *options,
              struct gw_channel **out);
/* Tells the peer why; its gw_connect fails with -ECONNREFUSED and this text. Takes over the
 * request. */
void gw_reject(struct gw_request *request, const char *reason);

/* Blocks until the peer accepted: -ECONNREFUSED (also when rejected, with the peer's reason),
 * -ETIMEDOUT, -EHOSTUNREACH, -EPROTO (something else listens there, or another wire version). */
int gw_connect(struct gw_transport *transport, const struct gw_connect_options *options,
               struct gw_channel **out);
/* Every op not yet done gets done(-ECANCELED), then the channel is gone. The peer sees a dead
 * channel. */
void gw_close(struct gw_channel *channel);

/* Registers memory. With only_channel not 0 the key is good on that channel number alone, where the
 * back end has_channel_keys. -ENOMEM names the limit, the need and the mend. */
int gw_reg(struct gw_domain *domain, void *memory, uint64_t length, unsigned access,
           uint32_t only_channel, struct gw_region **out);
/* Ends the key. When it returns no write of the peer is being placed in the memory (a write that
 * comes later kills its channel). Waits for the thread that is placing, so never call it from a
 * done(). */
void gw_unreg(struct gw_region *region);

int gw_write(struct gw_channel *channel, struct gw_write *write); /* -EAGAIN, -EINVAL, dead */
int gw_send(struct gw_channel *channel, struct gw_send *send);    /* -EAGAIN, -EMSGSIZE, dead */
int gw_recv(struct gw_channel *channel, struct gw_message *out);  /* -EAGAIN, dead */

/* Makes progress on every channel of the poller, runs done()s, and stores up to max channels that
 * have a message to receive or have died; a channel is reported again until that is dealt with.
 * Returns how many, never negative. */
int gw_poll(struct gw_poller *poller, struct gw_channel **ready, int max);
/* A descriptor, the same one as long as the poller lives, that becomes readable when gw_poll has something to
 * do. Poll once more between arming and sleeping. */
int gw_poller_arm(struct gw_poller *poller);

void gw_channel_info(struct gw_channel *channel, struct gw_channel_info *out);

#endif
