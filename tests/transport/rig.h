/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig: two ends in one test, near (connects) and far (accepts), over any back end, plain or
 * wrapped by faulty. Each end has its own domain and poller. What fails here aborts the test.
 * Threads: one; accepting is done by a short-lived helper thread.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_TESTS_TRANSPORT_RIG_H
#define GODWIT_TESTS_TRANSPORT_RIG_H

#include "transport/transport.h"

#define RIG_WAIT_MS 20000

enum rig_kind { RIG_LOOP, RIG_TCP, RIG_FAULTY_LOOP, RIG_FAULTY_TCP, RIG_KINDS };

struct rig {
    enum rig_kind kind;
    struct gw_transport *transport;
    struct gw_listener *listener;
    struct gw_address address;
    struct gw_domain *near_domain, *far_domain;
    struct gw_poller *near_poller, *far_poller;
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

const char *rig_name(enum rig_kind kind);
void rig_open(struct rig *rig, enum rig_kind kind);
void rig_close(struct rig *rig); /* also near and far */

/* One more channel between the two ends. */
void rig_channel(struct rig *rig, uint32_t number, struct gw_channel **near,
                 struct gw_channel **far);
/* rig->near and rig->far, number 1. */
void rig_join(struct rig *rig);

struct rig_write rig_write(const void *local, uint32_t length, const struct gw_region *remote,
                           uint64_t offset);
struct rig_send rig_send(const void *message, uint32_t length);
int rig_post_write(struct gw_channel *channel, struct rig_write *write);
int rig_post_send(struct gw_channel *channel, struct rig_send *send);

/* Polls both ends once. */
void rig_turn(struct rig *rig);
/* Polls both ends until *value reaches wanted; false after RIG_WAIT_MS. */
bool rig_until(struct rig *rig, const int *value, int wanted);
/* Polls until channel has a message or has died; the result of gw_recv, -ETIMEDOUT when neither. */
int rig_receive(struct rig *rig, struct gw_channel *channel, struct gw_message *out);

/* Bytes that differ from place to place, and from seed to seed. */
void rig_fill(void *memory, size_t size, unsigned seed);

#endif
