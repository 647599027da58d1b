/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig: two ends in one test, near (connects) and far (accepts), over any back end, plain or
 * wrapped by faulty. Each end has its own domain and poller. What fails here aborts the test.
 * With GODWIT_TEST_VERBS=ADDRESS in the environment the back end is verbs alone, on the RDMA device
 * that has ADDRESS; both ends are on it. With GODWIT_TEST_FABRIC=PROVIDER it is fabric alone with that
 * provider ("auto": with the one that it chooses, which must be verbs), on the device of GODWIT_TEST_VERBS or on 127.0.0.1. With GODWIT_TEST_DPDK_NEAR and _FAR it is
 * dpdk alone: each has the options of one port, NAME=VALUE with blanks between; {pid} is this process.
 * Where a process is one end only (hosts.c) it has GODWIT_TEST_DPDK, with those of its port.
 * Threads: one; accepting is done by a short-lived helper thread.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_TESTS_TRANSPORT_RIG_H
#define GODWIT_TESTS_TRANSPORT_RIG_H

#include "transport/transport.h"

#define RIG_WAIT_MS 20000

enum rig_kind {
    RIG_LOOP,
    RIG_TCP,
    RIG_FAULTY_LOOP,
    RIG_FAULTY_TCP,
    RIG_VERBS,
    RIG_FABRIC,
    RIG_FAULTY_FABRIC,
    RIG_DPDK
};

/* Local memory that is registered for a test's writes. */
struct rig_source {
    struct rig_source *next;
    struct gw_region *region;
    bool is_kept; /* serves every write from it, until it is freed */
};

struct rig {
    enum rig_kind kind;
    struct gw_transport *transport;     /* the near end's */
    struct gw_transport *far_transport; /* mostly the same one */
    struct gw_listener *listener;       /* the far end's */
    struct gw_address address;
    struct gw_domain *near_domain, *far_domain;
    struct gw_poller *near_poller, *far_poller;
    struct rig_source *sources;
    struct gw_channel *near, *far; /* of rig_join; set to NULL when a test closes one itself */
};

/* An op that counts its done()s. */
struct rig_write {
    struct gw_write write;
    int done_count, status;
};

struct rig_send {
    struct gw_send send;
    int done_count, status;
};

/* That of a back end of this build; NULL: it has none of that name. */
const struct gw_transport_maker *rig_maker(const char *back_end);
/* What this process tests, for parameters of tests. Returns how many. */
int rig_kinds(const enum rig_kind **out);
const char *rig_name(enum rig_kind kind);
bool rig_is_faulty(const struct rig *rig);
/* How many times a second an end may wake with nothing to do: once for each back end that it consists of. */
int rig_timers(const struct rig *rig);
void rig_transport_new(enum rig_kind kind, struct gw_transport **out);
/* The host's address of the back end, port 0. */
void rig_free_address(enum rig_kind kind, struct gw_address *out);
void rig_open(struct rig *rig, enum rig_kind kind);
void rig_close(struct rig *rig); /* also near and far */

/* Sets the secret of a channel, which some back ends need. */
void rig_set_secret(struct gw_channel_options *options);
/* Accepts the next request at the far end, in a thread beside the one that connects: what gw_next_request or
 * gw_accept returned, with its message. */
int rig_accept(struct rig *rig, uint32_t number, struct gw_channel **far);
/* One more channel between the two ends. */
void rig_channel(struct rig *rig, uint32_t number, struct gw_channel **near,
                 struct gw_channel **far);
/* rig->near and rig->far, number 1. */
void rig_join(struct rig *rig);

struct rig_write rig_write(const void *local, uint32_t length, const struct gw_region *remote,
                           uint64_t offset);
struct rig_send rig_send(const void *message, uint32_t length);
/* Registers local bytes first where the back end wants it: for the life of the rig, or those of
 * rig_source_new. The channel is one of rig_channel's. */
int rig_post_write(struct gw_channel *channel, struct rig_write *write);
int rig_post_send(struct gw_channel *channel, struct rig_send *send);

/* Polls both ends once. */
void rig_turn(struct rig *rig);
/* Polls both ends until *value reaches wanted; false after RIG_WAIT_MS. */
bool rig_until(struct rig *rig, const int *value, int wanted);
/* Polls until channel has a message or has died; the result of gw_recv, -ETIMEDOUT when neither. */
int rig_receive(struct rig *rig, struct gw_channel *channel, struct gw_message *out);

/* Filled memory for the near end's writes. */
uint8_t *rig_source_new(struct rig *rig, size_t size, unsigned seed);
void rig_source_free(struct rig *rig, uint8_t *source);

/* Bytes that differ from place to place, and from seed to seed. */
void rig_fill(void *memory, size_t size, unsigned seed);

#endif
