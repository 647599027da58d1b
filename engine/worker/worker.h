/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker: one thread that owns channels and an io_uring, and runs them in one loop: transport
 * poll, I/O completions, lanes, a bounded spin, then one sleep on all of them. Nothing is shared
 * on the data path; other threads reach a worker by gw_worker_call and gw_worker_wake.
 *
 * Errors: 0 or -errno with a message.
 * Threads: new, free, call and wake belong to control threads; the rest is for code that runs on
 *   the worker (lane callbacks, calls, I/O completions).
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_WORKER_H
#define GODWIT_ENGINE_WORKER_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/topology.h"
#include "engine/worker/io.h"
#include "transport/transport.h"

struct gw_worker;
struct gw_lane;

/* A channel's user. Sender and receiver lanes embed it first. */
struct gw_lane_ops {
    /* A message arrived, lent for the call. An error kills the lane: dead follows. */
    int (*message)(struct gw_lane *lane, const void *data, uint32_t length);
    /* Does what can be done now. Returns true when something was done. An error goes through *error
     * and kills the lane. */
    bool (*pump)(struct gw_lane *lane, int *error);
    /* Called when a turn of the loop found nothing to do: a short piece of work that can wait for a time when there is nothing else
     * to do. Returns true when something was done. May be NULL. */
    bool (*tidy)(struct gw_lane *lane);
    /* The channel is dead or the lane failed; the message is in gw_error_message(). Called once;
     * then the channel is closed. The lane stays in the worker's list, unused, until
     * gw_worker_detach. */
    void (*dead)(struct gw_lane *lane, int error);
};

struct gw_lane {
    const struct gw_lane_ops *ops;
    struct gw_worker *worker;
    struct gw_channel *channel; /* NULL until attached */
    struct gw_lane *next;       /* the worker's list */
    atomic_bool is_dead;        /* the control thread counts those that live */
};

/* On a node (common/topology.h) the thread stays on its CPUs, and the rings and pollers of the worker
 * are there too; -1 for anywhere. topology is lent until free. */
int gw_worker_new(const struct gw_topology *topology, int node, struct gw_worker **out);
int gw_worker_node(const struct gw_worker *worker);
void gw_worker_free(struct gw_worker *worker); /* after its lanes are detached; takes NULL */
/* The worker's share of that transport, made when it is first asked for; the worker's own. Never
 * from the worker's thread. */
int gw_worker_poller(struct gw_worker *worker, struct gw_transport *transport,
                     struct gw_poller **out);
uint64_t gw_worker_cpu_ns(struct gw_worker *worker); /* CPU time of the thread so far; any thread */

/* Runs function(argument) on the worker and returns when it has ended. */
void gw_worker_call(struct gw_worker *worker, void (*function)(void *argument), void *argument);
void gw_worker_wake(struct gw_worker *worker); /* the lanes have something new to pump */

/* On the worker: begins and ends the life of a lane. detach closes the channel if it is open (its
 * ops get their done first); the lane's I/O must have ended. */
void gw_worker_attach(struct gw_worker *worker, struct gw_lane *lane, struct gw_channel *channel);
void gw_worker_detach(struct gw_lane *lane);
/* On the worker: submits, runs completions until condition(argument) is true. */
void gw_worker_drain(struct gw_worker *worker, bool (*condition)(void *argument), void *argument);
/* On the worker: queues the I/O; done runs from the loop, never from here. */
void gw_worker_submit(struct gw_worker *worker, struct gw_io *io);
/* On the worker: the memory will not be used by I/O any more, and none is in flight. */
void gw_worker_unfix(struct gw_worker *worker, struct gw_io_memory *memory);

#endif
