/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's thread and its loop. What travels over the channels is the lanes' business, I/O that of
 * io.c. */
#include "engine/worker/worker.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

#define READY_MAX      32
#define SPIN_ROUNDS    64 /* idle turns of the loop before it sleeps */
#define SLEEP_LIMIT_MS 1000

struct call {
    void (*function)(void *argument);
    void *argument;
    bool is_done;
    struct call *next;
};

struct gw_worker {
    pthread_t thread;
    const struct gw_topology *topology;
    int node;
    struct gw_poller *pollers[GW_TRANSPORTS_MAX]; /* one for each transport; only ever added to */
    unsigned poller_count;
    struct gw_io_ring io;
    struct gw_lane *lanes;
    int wake_fd;
    bool is_stopping;
    pthread_mutex_t lock; /* protects calls and is_stopping; leaf */
    pthread_cond_t called;
    struct call *calls;
};

uint64_t gw_worker_cpu_ns(struct gw_worker *worker)
{
    struct timespec now;
    clockid_t clock;

    if (pthread_getcpuclockid(worker->thread, &clock) || clock_gettime(clock, &now))
        return 0;
    return (uint64_t)now.tv_sec * GW_NS_PER_S + (uint64_t)now.tv_nsec;
}

void gw_worker_wake(struct gw_worker *worker)
{
    uint64_t one = 1;

    /* The counter can only be full when the worker has been woken already. */
    if (write(worker->wake_fd, &one, sizeof(one)) < 0)
        return;
}

void gw_worker_call(struct gw_worker *worker, void (*function)(void *argument), void *argument)
{
    struct call call = {.function = function, .argument = argument};

    assert(!pthread_equal(pthread_self(), worker->thread));
    pthread_mutex_lock(&worker->lock);
    call.next = worker->calls;
    worker->calls = &call;
    gw_worker_wake(worker);
    while (!call.is_done)
        pthread_cond_wait(&worker->called, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
}

struct add_poller {
    struct gw_worker *worker;
    struct gw_poller *poller;
};

static void add_poller(void *argument)
{
    struct add_poller *add = argument;

    add->worker->pollers[add->worker->poller_count++] = add->poller;
}

/* Control threads alone add pollers, one at a time; the worker's thread alone reads the list. */
int gw_worker_poller(struct gw_worker *worker, struct gw_transport *transport,
                     struct gw_poller **out)
{
    struct add_poller add = {.worker = worker};
    struct gw_memory_policy before;
    int error;

    for (unsigned i = 0; i < worker->poller_count; i++)
        if (worker->pollers[i]->transport == transport) {
            *out = worker->pollers[i];
            return 0;
        }
    if (worker->poller_count == GW_TRANSPORTS_MAX)
        return gw_fail(-E2BIG, "a worker serves at most %u transports", GW_TRANSPORTS_MAX);
    gw_topology_prefer(worker->topology, worker->node, &before);
    error = gw_poller_open(transport, &add.poller);
    gw_topology_restore(&before);
    if (error)
        return error;
    gw_worker_call(worker, add_poller, &add);
    *out = add.poller;
    return 0;
}

static bool run_calls(struct gw_worker *worker)
{
    bool any = false;

    for (;;) {
        struct call *call;

        pthread_mutex_lock(&worker->lock);
        call = worker->calls;
        if (call)
            worker->calls = call->next;
        pthread_mutex_unlock(&worker->lock);
        if (!call)
            return any;
        call->function(call->argument);
        any = true;
        pthread_mutex_lock(&worker->lock);
        call->is_done = true;
        pthread_cond_broadcast(&worker->called);
        pthread_mutex_unlock(&worker->lock);
    }
}

static void kill_lane(struct gw_lane *lane, int error)
{
    if (lane->is_dead)
        return;
    lane->is_dead = true;
    lane->ops->dead(lane, error);
    gw_close(lane->channel);
    lane->channel = NULL;
}

static void receive_messages(struct gw_lane *lane)
{
    struct gw_message message;

    /* Bounded, so that one lane cannot keep the loop from the others. */
    for (int i = 0; i < 64 && !lane->is_dead; i++) {
        int error = gw_recv(lane->channel, &message);

        if (error == -EAGAIN)
            return;
        if (!error)
            error = lane->ops->message(lane, message.data, message.length);
        if (error)
            kill_lane(lane, error);
    }
}

static bool poll_one(struct gw_poller *poller)
{
    struct gw_channel *ready[READY_MAX];
    int count = gw_poll(poller, ready, READY_MAX);
    bool any = false;

    for (int i = 0; i < count; i++) {
        struct gw_lane *lane = ready[i]->context;

        /* A lane that is not attached yet is reported again later. */
        if (!lane->channel)
            continue;
        receive_messages(lane);
        any = true;
    }
    return any;
}

static bool poll_transports(struct gw_worker *worker)
{
    bool any = false;

    for (unsigned i = 0; i < worker->poller_count; i++)
        any |= poll_one(worker->pollers[i]);
    return any;
}

static bool pump_lanes(struct gw_worker *worker)
{
    bool any = false;

    for (struct gw_lane *lane = worker->lanes; lane; lane = lane->next) {
        int error = 0;

        if (lane->is_dead)
            continue;
        any |= lane->ops->pump(lane, &error);
        if (error)
            kill_lane(lane, error);
    }
    return any;
}

static bool tidy_lanes(struct gw_worker *worker)
{
    for (struct gw_lane *lane = worker->lanes; lane; lane = lane->next)
        if (!lane->is_dead && lane->ops->tidy && lane->ops->tidy(lane))
            return true;
    return false;
}

void gw_worker_submit(struct gw_worker *worker, struct gw_io *io)
{
    gw_io_submit(&worker->io, io);
}

void gw_worker_unfix(struct gw_worker *worker, struct gw_io_memory *memory)
{
    gw_io_unfix(&worker->io, memory);
}

void gw_worker_drain(struct gw_worker *worker, bool (*condition)(void *argument), void *argument)
{
    while (!condition(argument))
        if (!gw_io_run(&worker->io))
            gw_io_wait(&worker->io);
}

void gw_worker_attach(struct gw_worker *worker, struct gw_lane *lane, struct gw_channel *channel)
{
    lane->worker = worker;
    lane->channel = channel;
    lane->next = worker->lanes;
    worker->lanes = lane;
}

void gw_worker_detach(struct gw_lane *lane)
{
    struct gw_lane **link = &lane->worker->lanes;

    while (*link != lane)
        link = &(*link)->next;
    *link = lane->next;
    if (lane->channel)
        gw_close(lane->channel);
    lane->channel = NULL;
}

static void sleep_until_event(struct gw_worker *worker)
{
    struct pollfd fds[2 + GW_TRANSPORTS_MAX] = {
        {.fd = worker->wake_fd, .events = POLLIN},
        {.fd = worker->io.in_kernel ? worker->io.ring.ring_fd : -1, .events = POLLIN},
    };
    uint64_t count;

    for (unsigned i = 0; i < worker->poller_count; i++)
        fds[2 + i] = (struct pollfd){.fd = gw_poller_arm(worker->pollers[i]), .events = POLLIN};
    if (poll_transports(worker))
        return;
    poll(fds, 2 + worker->poller_count, SLEEP_LIMIT_MS);
    if (fds[0].revents && read(worker->wake_fd, &count, sizeof(count)) < 0)
        return;
}

static void *run(void *argument)
{
    struct gw_worker *worker = argument;
    struct gw_memory_policy before;
    char name[16];
    unsigned idle = 0;

    snprintf(name, sizeof(name), worker->node < 0 ? "gw-worker" : "gw-worker/%d", worker->node);
    pthread_setname_np(pthread_self(), name);
    gw_topology_run_on(worker->topology, worker->node);
    gw_topology_prefer(worker->topology, worker->node, &before);
    for (;;) {
        bool any, is_stopping;

        pthread_mutex_lock(&worker->lock);
        is_stopping = worker->is_stopping && !worker->calls;
        pthread_mutex_unlock(&worker->lock);
        if (is_stopping)
            return NULL;
        any = run_calls(worker);
        any |= poll_transports(worker);
        any |= gw_io_run(&worker->io);
        any |= pump_lanes(worker);
        any |= gw_io_run(&worker->io);
        idle = any ? 0 : idle + 1;
        if (idle > 0 && tidy_lanes(worker))
            continue;
        if (idle >= SPIN_ROUNDS) {
            sleep_until_event(worker);
            idle = SPIN_ROUNDS - 1;
        }
    }
}

static int new_here(const struct gw_topology *topology, int node, struct gw_worker **out)
{
    struct gw_worker *worker = calloc(1, sizeof(*worker));
    int error;

    if (!worker)
        return gw_fail(-ENOMEM, "no memory for a worker");
    worker->topology = topology;
    worker->node = node;
    worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->wake_fd < 0) {
        error = gw_fail_errno(-errno, "worker: eventfd");
        goto err_worker;
    }
    error = gw_io_ring_init(&worker->io);
    if (error)
        goto err_wake;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->called, NULL);
    error = -pthread_create(&worker->thread, NULL, run, worker);
    if (error) {
        gw_fail_errno(error, "worker: no thread");
        goto err_ring;
    }
    *out = worker;
    return 0;

err_ring:
    pthread_cond_destroy(&worker->called);
    pthread_mutex_destroy(&worker->lock);
    gw_io_ring_free(&worker->io);
err_wake:
    close(worker->wake_fd);
err_worker:
    free(worker);
    return error;
}

int gw_worker_node(const struct gw_worker *worker)
{
    return worker->node;
}

int gw_worker_new(const struct gw_topology *topology, int node, struct gw_worker **out)
{
    struct gw_memory_policy before;
    int error;

    gw_topology_prefer(topology, node, &before);
    error = new_here(topology, node, out);
    gw_topology_restore(&before);
    return error;
}

void gw_worker_free(struct gw_worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->is_stopping = true;
    pthread_mutex_unlock(&worker->lock);
    gw_worker_wake(worker);
    pthread_join(worker->thread, NULL);
    assert(!worker->lanes);
    for (unsigned i = 0; i < worker->poller_count; i++)
        gw_poller_close(worker->pollers[i]);
    gw_io_ring_free(&worker->io);
    close(worker->wake_fd);
    pthread_cond_destroy(&worker->called);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}
