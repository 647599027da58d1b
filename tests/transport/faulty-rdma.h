/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faulty-rdma: faulty (or any transport) as if a device placed its writes: local bytes must lie in
 * a registered region, what is registered counts against a limit, and whatever a device would not
 * forgive is counted. Part of faulty.h.
 *
 * Errors: registering beyond the limit answers -ENOMEM.
 * Threads: any.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_TRANSPORT_FAULTY_RDMA_H
#define GODWIT_TESTS_TRANSPORT_FAULTY_RDMA_H

#include <pthread.h>

#include "transport/transport.h"

#define GW_FAULTY_GUESTS_MAX 4u

/* What happened so far. A write that met a dropped key kills its channel, as in the inner
 * transport. */
struct gw_faulty_rdma_report {
    unsigned registrations, guest_registrations; /* in all; of guest memory */
    uint64_t pinned, pinned_max;
    unsigned refused;     /* for the limit */
    unsigned in_pause;    /* registered or ended while the guest stood still */
    unsigned filled;      /* untouched pages of guest memory that were registered */
    unsigned ended_early; /* regions that ended while an op read from them */
};

struct gw_faulty_rdma {
    pthread_mutex_t lock; /* protects all of it; leaf */
    bool is_on, is_paused;
    uint64_t limit;
    struct {
        const void *memory;
        uint64_t length;
    } guests[GW_FAULTY_GUESTS_MAX];
    struct gw_faulty_rdma_report report;
};

/* Before anything is opened. limit: of what is pinned at once. */
void gw_faulty_be_rdma(struct gw_transport *faulty, uint64_t limit);
/* This is guest memory: its untouched pages must never be registered. */
void gw_faulty_rdma_guest(struct gw_transport *faulty, const void *memory, uint64_t length);
/* Between stop and cont. */
void gw_faulty_rdma_pause(struct gw_transport *faulty, bool is_paused);
void gw_faulty_rdma_get(struct gw_transport *faulty, struct gw_faulty_rdma_report *out);

/* faulty.c's: what a registration and its end do to the account. */
int gw_faulty_rdma_reg(struct gw_faulty_rdma *rdma, void *memory, uint64_t length);
void gw_faulty_rdma_unreg(struct gw_faulty_rdma *rdma, uint64_t length, unsigned ops_out);

#endif
