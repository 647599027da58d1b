/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's thread and its loop. What travels over the channels is the lanes' business. */
#include "engine/worker/worker.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

#define RING_ENTRIES   256u /* I/O in the kernel at once; more wait in the backlog */
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
    struct io_uring ring;
    unsigned in_kernel; /* I/O submitted to the ring and not completed */
    struct gw_io *
        *backlog; /* I/O that waits for a place in the ring: a growing array used as a queue */
    unsigned backlog_head, backlog_count, backlog_room;
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

/* Puts one I/O into the ring; false when the ring has no place now. */
static bool start_io(struct gw_worker *worker, struct gw_io *io)
{
    struct io_uring_sqe *entry;
    char *memory = (char *)io->memory + io->moved;
    uint32_t left = io->length - io->moved;

    if (worker->in_kernel >= RING_ENTRIES)
        return false;
    entry = io_uring_get_sqe(&worker->ring);
    if (!entry)
        return false;
    if (io->is_write)
        io_uring_prep_write(entry, io->fd, memory, left, io->file_offset + io->moved);
    else
        io_uring_prep_read(entry, io->fd, memory, left, io->file_offset + io->moved);
    io_uring_sqe_set_data(entry, io);
    worker->in_kernel++;
    return true;
}

static void backlog_push(struct gw_worker *worker, struct gw_io *io)
{
    if (worker->backlog_count == worker->backlog_room) {
        unsigned room = worker->backlog_room ? worker->backlog_room * 2 : RING_ENTRIES;
        struct gw_io **grown = malloc(room * sizeof(*grown));

        /* Lanes bound their I/O, so this grows a few times in a worker's life at most. */
        assert(grown);
        for (unsigned i = 0; i < worker->backlog_count; i++)
            grown[i] = worker->backlog[(worker->backlog_head + i) % worker->backlog_room];
        free(worker->backlog);
        worker->backlog = grown;
        worker->backlog_room = room;
        worker->backlog_head = 0;
    }
    worker->backlog[(worker->backlog_head + worker->backlog_count++) % worker->backlog_room] = io;
}

void gw_worker_submit(struct gw_worker *worker, struct gw_io *io)
{
    io->moved = 0;
    if (worker->backlog_count > 0 || !start_io(worker, io))
        backlog_push(worker, io);
}

static void complete_io(struct gw_worker *worker, struct gw_io *io, int result)
{
    if (result == -EINTR || result == -EAGAIN ||
        (result > 0 && (uint32_t)result < io->length - io->moved)) {
        io->moved += result > 0 ? (uint32_t)result : 0;
        backlog_push(worker, io);
        return;
    }
    if (result == 0 && io->is_write && io->length > io->moved)
        result = -EIO;
    io->done(io, result < 0 ? result : (int64_t)io->moved + result);
}

static bool run_io(struct gw_worker *worker)
{
    struct io_uring_cqe *completion;
    bool any = false;

    while (worker->backlog_count > 0 && start_io(worker, worker->backlog[worker->backlog_head])) {
        worker->backlog_head = (worker->backlog_head + 1) % worker->backlog_room;
        worker->backlog_count--;
    }
    if (worker->in_kernel == 0)
        return false;
    io_uring_submit(&worker->ring);
    while (io_uring_peek_cqe(&worker->ring, &completion) == 0) {
        struct gw_io *io = io_uring_cqe_get_data(completion);
        int result = completion->res;

        io_uring_cqe_seen(&worker->ring, completion);
        worker->in_kernel--;
        complete_io(worker, io, result);
        any = true;
    }
    return any;
}

void gw_worker_drain(struct gw_worker *worker, bool (*condition)(void *argument), void *argument)
{
    while (!condition(argument)) {
        struct io_uring_cqe *completion;

        if (run_io(worker))
            continue;
        io_uring_submit(&worker->ring);
        io_uring_wait_cqe(&worker->ring, &completion);
    }
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
        {.fd = worker->in_kernel ? worker->ring.ring_fd : -1, .events = POLLIN},
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
        any |= run_io(worker);
        any |= pump_lanes(worker);
        any |= run_io(worker);
        idle = any ? 0 : idle + 1;
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
    error = io_uring_queue_init(RING_ENTRIES, &worker->ring, 0);
    if (error) {
        gw_fail_errno(error, "io_uring is not available (kernel.io_uring_disabled must be 0, and "
                             "RLIMIT_MEMLOCK large enough on old kernels)");
        goto err_wake;
    }
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
    io_uring_queue_exit(&worker->ring);
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
    io_uring_queue_exit(&worker->ring);
    close(worker->wake_fd);
    pthread_cond_destroy(&worker->called);
    pthread_mutex_destroy(&worker->lock);
    free(worker->backlog);
    free(worker);
}
