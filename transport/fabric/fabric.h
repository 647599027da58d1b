/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fabric: channels over endpoints of a libfabric provider. The inner header of the back end; wire.h
 * says what is on the wire, docs/fabric.md which providers are for what.
 *
 *   library  libfabric itself, loaded by create and not before: it takes a fifth of a second and
 *            other libraries with it
 *   domain   a fid_domain on one device, with the fid_fabric that it needs
 *   channel  an endpoint with an event queue and a completion queue of its own, and memory for its
 *            messages
 *   port     a passive endpoint with its event queue
 *
 * Posted ops wait in a list until the provider's queue, credits and message slots have room (send.c).
 * Each work request is an entry of a ring, whose address is the request's context; requests may
 * complete in any order, and done() runs in the order of posting. Completions are absorbed first
 * (absorb.c), which only changes entries and lists; done() runs afterwards from gw_poll or gw_close.
 *
 * Order: the provider keeps messages behind writes (FI_ORDER_SAW, both ways). One that does not gets
 * each write with FI_DELIVERY_COMPLETE, and a message waits here until all writes before it are
 * complete (is_fenced).
 *
 * Regions: where a provider counts from 0, a region's key is the provider's. Where it wants addresses
 * (FI_MR_VIRT_ADDR) an address and a key do not fit into 64 bits: the key is then a random number,
 * and the side that writes asks for address and key when it first meets it on a channel (ask, tell).
 *
 * Death: the first cause is kept in channel->error; the endpoint is shut down, which tells the peer,
 * and the channel is dead for its owner once everything posted has come back, or the endpoint was
 * closed, so that memory given back by done() is no longer read.
 *
 * Endpoints that do not connect (FI_EP_RDM; is_rdm): nobody tells when their peer is gone, they connect
 * again without a word, and whoever reaches one may send to it. They carry the writes alone, each with
 * FI_DELIVERY_COMPLETE. Everything else goes over a channel of the tcp back end beside it, which is how
 * both sides find each other and learn each other's endpoint, and whose end is the channel's end (rdm.c).
 * A message goes there when all writes before it are complete.
 *
 * Port: a listener at port P is at P + 1 for the provider. Providers over TCP share its ports, and
 * P is the tcp back end's.
 *
 * Threads, besides transport.h's: one thread of the transport (life.c) takes the events of connected
 * endpoints, and once a second tells pollers to look after channels that end. It only sets bits in
 * channel->news and wakes the poller.
 * Locks: transport.lock (the list of connected channels; their event queues; doubts). Not on the data path.
 */
#ifndef GODWIT_TRANSPORT_FABRIC_FABRIC_H
#define GODWIT_TRANSPORT_FABRIC_FABRIC_H

#include <pthread.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_rma.h>
#include <signal.h>
#include <stdatomic.h>

#include "common/checked.h"
#include "common/error.h"
#include "transport/fabric/choice.h"
#include "transport/fabric/fit.h"
#include "transport/figures.h"
#include "transport/rdma/inbox.h"
#include "transport/rdma/life.h"
#include "transport/ring.h"
#include "transport/transport.h"

#define FABRIC_API            FI_VERSION(1, 17)
#define FABRIC_SEND_DEPTH     256u /* work requests of one channel */
#define FABRIC_DEPTH_LEAST    32u
#define FABRIC_RESERVED_SENDS 3u /* of them for a credit, an ask and a tell */
#define FABRIC_RECEIVE_DEPTH  GW_INBOX_DEPTH_MAX
#define FABRIC_PLACES         64u /* regions of the peer whose addresses a channel remembers */
#define FABRIC_SEND_BYTES                                                                          \
    (8u << 20)                     /* of writes in the provider's queue; a larger one goes alone */
#define FABRIC_GATHER_MAX    32u   /* ops that wait for more (GW_POST_MORE) */
#define FABRIC_ABSORB_MAX    1024u /* completions of one channel in one poll */
#define FABRIC_TRYWAITS      3u
#define FABRIC_REFUSED_TICKS 10u /* is_rdm: the peer's endpoint is not reached */
#define FABRIC_STUCK_TICKS   30u /* is_rdm: nothing that is posted becomes complete */
#define FABRIC_DOUBTS_MAX    16u /* is_rdm: hosts of which something is remembered */
#define FABRIC_DOUBT_S       60u /* one that is doubted is not dialled for so long */
#define FABRIC_FLUSH_TICKS   2u  /* then an endpoint that gives nothing back is closed */
#define FABRIC_SURVEY_MS     10000
#define FABRIC_POLL_NS       200000u /* how long a sleep is, where a provider can wake nobody */

struct fabric_channel;

/* The functions of libfabric that are not inline. */
struct fabric_library {
    void *handle;
    int (*getinfo)(uint32_t version, const char *node, const char *service, uint64_t flags,
                   const struct fi_info *hints, struct fi_info **info);
    void (*freeinfo)(struct fi_info *info);
    struct fi_info *(*dupinfo)(const struct fi_info *info);
    int (*fabric)(struct fi_fabric_attr *attr, struct fid_fabric **fabric, void *context);
    const char *(*strerror)(int errnum);
};

/* Why a host is not dialled for a while. */
enum fabric_doubt_kind {
    FABRIC_MUTE,          /* nobody answers at the port above, and nobody ever did */
    FABRIC_TOOK_NO_WRITE, /* it is reached over TCP; its endpoint took not one write */
};

struct fabric_doubt {
    struct gw_address host;
    enum fabric_doubt_kind kind;
    uint64_t until_ns; /* past: it is not in doubt; 0: an empty place */
    bool has_answered; /* once; then a silence may be a link that is lost for a moment */
};

struct fabric_transport {
    struct gw_transport base;
    struct fabric_library library;
    char asked[FABRIC_PROVIDER_MAX];    /* the provider's name, as it was typed or chosen */
    char provider[FABRIC_PROVIDER_MAX]; /* as libfabric writes it, which takes it in several ways */
    bool is_rdm;                        /* endpoints of the provider do not connect */
    bool has_ip_addresses;              /* is_rdm: its endpoints can be named by those of IP */
    struct gw_transport *messages;      /* is_rdm: what carries all but the writes */
    struct gw_transport *signposts;     /* not is_rdm: tcp, to say which provider this is */
    pthread_mutex_t lock;
    struct gw_ring connected; /* all channels that life.c watches */
    struct fabric_doubt doubts[FABRIC_DOUBTS_MAX];
    struct gw_life life;
};

struct fabric_domain {
    struct gw_domain base;
    pthread_mutex_t lock; /* binding, which a first channel may do */
    struct fi_info *info; /* NULL until an address decides */
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    bool is_fenced;
    struct gw_domain *messages;    /* is_rdm */
    bool has_addresses;            /* writes name addresses, not offsets (FI_MR_VIRT_ADDR) */
    struct fabric_region *regions; /* that the peer may write, where has_addresses; a list */
};

struct fabric_region {
    struct gw_region base;
    struct fid_mr *mr; /* NULL where only reading it locally needs none */
    char *local;       /* memory, or its alias: what the provider reads */
    void *alias;       /* another mapping of the same pages (transport/rdma/writable.h), or NULL */
    uint64_t alias_size;
    struct fabric_region *previous, *next; /* of domain.regions */
};

/* Where a region lies for a provider that wants addresses. */
struct fabric_place {
    uint64_t key; /* gw_region.key; 0: none */
    uint64_t address, device_key;
};

struct fabric_poller {
    struct gw_poller base;
    struct gw_waker waker;
    struct gw_poller *messages; /* is_rdm */
    int timer_fd;               /* for providers without a descriptor to wait on */
    struct gw_ring channels;
    bool is_armed;
};

static inline struct fabric_transport *gw_fabric_transport_of(struct gw_transport *base)
{
    return gw_container_of(base, struct fabric_transport, base);
}

static inline struct fabric_domain *gw_fabric_domain_of(struct gw_domain *base)
{
    return gw_container_of(base, struct fabric_domain, base);
}

static inline struct fabric_poller *gw_fabric_poller_of(struct gw_poller *base)
{
    return gw_container_of(base, struct fabric_poller, base);
}

/* ---- library.c ---- */
int gw_fabric_library_load(struct fabric_library *out); /* -ENODEV */
/* Libraries that libfabric and its providers take along (those of PSM) put handlers for SIGBUS, SIGSEGV,
 * SIGTERM and others in place, when they are loaded or first asked. Those signals are the program's. */
void gw_fabric_keep_handlers(struct sigaction out[NSIG]);
void gw_fabric_restore_handlers(const struct sigaction handlers[NSIG]);
/* gw_fail of what libfabric answered, a negative number: "fabric PROVIDER: WHAT: its text". */
int gw_fabric_fail(const struct fabric_transport *transport, ssize_t answer, const char *format,
                   ...) __attribute__((format(printf, 3, 4)));
/* The errno that an answer of libfabric means, negative. */
int gw_fabric_errno(ssize_t answer);

/* ---- survey.c ---- */
/* Asks libfabric what this host has. A device that does not answer may hold libfabric up: after
 * timeout_ms it is left to itself, and the process will end without destructors. -ENODEV with the
 * reason. */
int gw_fabric_survey(const struct fabric_library *library, int timeout_ms,
                     struct fabric_candidates *out);
/* Has libfabric start its providers, with the same limit, by asking for one. What it has is not told. */
int gw_fabric_rouse(const struct fabric_library *library, const char *provider, int timeout_ms);

/* ---- provider.c ---- */
/* The provider that was asked for, of endpoints that connect where such fit; -ENODEV with the reason. */
int gw_fabric_use_provider(struct fabric_transport *transport, const char *wanted);
/* The best of this host (choice.h); -ENODEV with what was passed over, and why. */
int gw_fabric_find_provider(struct fabric_transport *transport, bool takes_verbs);
/* How to reach peer, or to be reached at local (peer NULL), on the provider; port 0 is free. The
 * caller frees it. -EHOSTUNREACH, -EADDRNOTAVAIL; -ENODEV with what makes a provider unfit. */
int gw_fabric_find(const struct fabric_transport *transport, const struct gw_address *local,
                   const struct gw_address *peer, struct fi_info **out);

/* ---- domain.c ---- */
int gw_fabric_open_domain(struct gw_transport *transport, const struct gw_address *local,
                          struct gw_domain **out);
void gw_fabric_close_domain(struct gw_domain *domain);
/* Makes sure that the domain is on the device of info. */
int gw_fabric_domain_bind(struct fabric_domain *domain, const struct fi_info *info);
int gw_fabric_reg(struct gw_domain *domain, void *memory, uint64_t length, unsigned access,
                  uint32_t only_channel, struct gw_region **out);
void gw_fabric_unreg(struct gw_region *region);
/* False for a key that no region has now. */
bool gw_fabric_domain_place(struct fabric_domain *domain, uint64_t key, struct fabric_place *out);
/* Registers memory for the device; *out is NULL where the provider needs none for this access. */
int gw_fabric_register(struct fabric_domain *domain, const void *memory, uint64_t length,
                       uint64_t access, struct fid_mr **out);

/* ---- life.c ---- */
int gw_fabric_life_start(struct fabric_transport *transport);
int gw_fabric_life_add(struct fabric_transport *transport, struct fabric_channel *channel);
void gw_fabric_life_remove(struct fabric_transport *transport, struct fabric_channel *channel);

/* ---- poll.c ---- */
int gw_fabric_open_poller(struct gw_transport *transport, struct gw_poller **out);
void gw_fabric_close_poller(struct gw_poller *poller);
int gw_fabric_poller_watch(struct fabric_poller *poller, struct fabric_channel *channel);
/* Hands the channel, which is watched, over to the poller's thread. */
void gw_fabric_poller_offer(struct fabric_poller *poller, struct fabric_channel *channel);
void gw_fabric_poller_remove(struct fabric_poller *poller, struct fabric_channel *channel);
int gw_fabric_poll(struct gw_poller *poller, struct gw_channel **ready, int max);
int gw_fabric_arm(struct gw_poller *poller);

/* ---- connect.c, listen.c ---- */
int gw_fabric_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                      struct gw_channel **out);
int gw_fabric_listen(struct gw_transport *transport, const struct gw_address *local,
                     struct gw_listener **out);
void gw_fabric_unlisten(struct gw_listener *listener);
int gw_fabric_next_request(struct gw_listener *listener, int timeout_ms, struct gw_request **out);
int gw_fabric_listener_address(struct gw_listener *listener, struct gw_address *out);
int gw_fabric_accept(struct gw_request *request, const struct gw_channel_options *options,
                     struct gw_channel **out);
void gw_fabric_reject(struct gw_request *request, const char *reason);

/* ---- agree.c: both sides have to have the same provider ---- */
#define FABRIC_AGREE_MS       2000 /* at most, for the question and its answer */
#define FABRIC_AGREE_LEAST_MS 500  /* where the dial that has failed took all of its time */
#define FABRIC_QUESTIONS_MAX  16u  /* that a signpost answers in one call */

bool gw_fabric_is_question(const struct gw_request *request);
/* Takes over the request. */
void gw_fabric_answer(const struct fabric_transport *transport, struct gw_request *request);
/* Beside a listener at address; *out is NULL where there can be none. */
void gw_fabric_put_signpost(const struct fabric_transport *transport,
                            const struct gw_address *address, struct gw_listener **out);
/* Answers those that ask now, a bounded number of them; takes NULL. */
void gw_fabric_serve_signpost(const struct fabric_transport *transport,
                              struct gw_listener *signpost);
/* -EXDEV where the peer has another provider, with both names; 0 where it has the same or does not say;
 * others where nobody answers. */
int gw_fabric_agree(const struct fabric_transport *transport,
                    const struct gw_connect_options *options, int timeout_ms);

/* ---- doubt.c: hosts that a dial waits for in vain, where endpoints do not connect ---- */
void gw_fabric_doubt(struct fabric_transport *transport, const struct gw_address *peer,
                     enum fabric_doubt_kind kind);
/* It answered, or a write to it is complete: that doubt ends. */
void gw_fabric_trust(struct fabric_transport *transport, const struct gw_address *peer,
                     enum fabric_doubt_kind kind);
/* -EHOSTUNREACH where it is in doubt: another transport may reach it. A control session, which makes no
 * writes, is dialled where only they are in doubt. */
int gw_fabric_check_doubt(struct fabric_transport *transport, const struct gw_address *peer,
                          bool is_for_data);

/* ---- rdm.c: the same where endpoints do not connect ---- */
int gw_fabric_rdm_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                          struct gw_channel **out);
int gw_fabric_rdm_listen(struct gw_transport *transport, const struct gw_address *local,
                         struct gw_listener **out);
void gw_fabric_rdm_unlisten(struct gw_listener *listener);
int gw_fabric_rdm_next_request(struct gw_listener *listener, int timeout_ms,
                               struct gw_request **out);
int gw_fabric_rdm_listener_address(struct gw_listener *listener, struct gw_address *out);
int gw_fabric_rdm_accept(struct gw_request *request, const struct gw_channel_options *options,
                         struct gw_channel **out);
void gw_fabric_rdm_reject(struct gw_request *request, const char *reason);

#endif
