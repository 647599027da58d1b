/* SPDX-License-Identifier: Apache-2.0 */
/* The decorating back end. Every object wraps one of the inner transport; every posted op is copied
 * into a slot of its channel, which is what the inner transport sees, so that it can wait, be
 * changed, or fail without the inner one knowing. */
#include "tests/transport/faulty.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"

struct faulty_transport {
    struct gw_transport base;
    struct gw_transport_ops ops; /* as ours, with the inner one's capabilities */
    struct gw_transport *inner;
    atomic_uint delay_ms, corrupt_writes, corrupt_messages, drop_epoch;
    atomic_bool refuse, absent, deaf;
    _Atomic uint64_t drop_after;
    atomic_uint drop_after_epoch;
    _Atomic uint64_t control_ops[2]; /* of the next control channel: connected, accepted */
    struct gw_faulty_rdma rdma;
};

struct faulty_domain {
    struct gw_domain base;
    struct gw_domain *inner;
};

struct faulty_region {
    struct gw_region base;
    struct gw_region *inner;
    atomic_uint ops_out; /* writes that read from it and are not done */
};

struct faulty_listener {
    struct gw_listener base;
    struct gw_listener *inner;
};

struct faulty_request {
    struct gw_request base;
    struct gw_request *inner;
};

struct faulty_poller {
    struct gw_poller base;
    struct gw_poller *inner;
    int epoll_fd, timer_fd, watched_fd;
    pthread_mutex_t lock; /* the list: control threads add to it */
    struct faulty_channel *channels;
};

struct slot {
    union {
        struct gw_op op;
        struct gw_write write;
        struct gw_send send;
    };
    bool is_write;
    struct faulty_channel *channel;
    struct slot *next;
    struct gw_op *outer;
    uint64_t due_ns;
    void *changed; /* a copy with a flipped bit */
    struct faulty_region *region;
};

struct faulty_channel {
    struct gw_channel base;
    _Atomic(struct gw_channel *) inner; /* NULL until joined, and once dropped */
    struct faulty_poller *poller;
    struct faulty_channel *next;
    unsigned drop_epoch, drop_after_epoch;
    uint64_t ops_left;
    atomic_bool drop;
    struct gw_channel_info info; /* of the inner channel when it was dropped */
    struct gw_error error;       /* why no more ops are handed on */
    struct slot *free, *waiting, **waiting_last;
    unsigned posted;
    struct slot slots[GW_CHANNEL_OPS_MAX];
};

static struct faulty_transport *transport_of(struct gw_transport *base)
{
    return gw_container_of(base, struct faulty_transport, base);
}

static struct faulty_channel *channel_of(struct gw_channel *base)
{
    return gw_container_of(base, struct faulty_channel, base);
}

/* ---- domains, regions, pollers ---- */

static int open_domain(struct gw_transport *base, const struct gw_address *local,
                       struct gw_domain **out)
{
    struct faulty_domain *domain = calloc(1, sizeof(*domain));
    int error = gw_domain_open(transport_of(base)->inner, local, &domain->inner);

    domain->base.transport = base;
    if (error)
        free(domain);
    else
        *out = &domain->base;
    return error;
}

static void close_domain(struct gw_domain *base)
{
    struct faulty_domain *domain = gw_container_of(base, struct faulty_domain, base);

    gw_domain_close(domain->inner);
    free(domain);
}

static int reg(struct gw_domain *base, void *memory, uint64_t length, unsigned access,
               uint32_t only_channel, struct gw_region **out)
{
    struct faulty_domain *domain = gw_container_of(base, struct faulty_domain, base);
    struct faulty_region *region = calloc(1, sizeof(*region));
    int error = gw_faulty_rdma_reg(&transport_of(base->transport)->rdma, memory, length);

    if (!error) {
        error = gw_reg(domain->inner, memory, length, access, only_channel, &region->inner);
        if (error)
            gw_faulty_rdma_unreg(&transport_of(base->transport)->rdma, length, 0);
    }
    if (error) {
        free(region);
        return error;
    }
    region->base = *region->inner;
    region->base.domain = base;
    *out = &region->base;
    return 0;
}

static void unreg(struct gw_region *base)
{
    struct faulty_region *region = gw_container_of(base, struct faulty_region, base);

    gw_faulty_rdma_unreg(&transport_of(base->domain->transport)->rdma, base->length,
                         atomic_load(&region->ops_out));
    gw_unreg(region->inner);
    free(region);
}

static void close_poller(struct gw_poller *base)
{
    struct faulty_poller *poller = gw_container_of(base, struct faulty_poller, base);

    assert(!poller->channels);
    gw_poller_close(poller->inner);
    close(poller->epoll_fd);
    close(poller->timer_fd);
    pthread_mutex_destroy(&poller->lock);
    free(poller);
}

static int open_poller(struct gw_transport *base, struct gw_poller **out)
{
    struct faulty_poller *poller = calloc(1, sizeof(*poller));
    struct epoll_event event = {.events = EPOLLIN};
    int error = gw_poller_open(transport_of(base)->inner, &poller->inner);

    if (error) {
        free(poller);
        return error;
    }
    poller->base.transport = base;
    poller->watched_fd = -1;
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    poller->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, poller->timer_fd, &event);
    pthread_mutex_init(&poller->lock, NULL);
    *out = &poller->base;
    return 0;
}

/* ---- meeting ---- */

static int listen_at(struct gw_transport *base, const struct gw_address *local,
                     struct gw_listener **out)
{
    struct faulty_listener *listener = calloc(1, sizeof(*listener));
    int error = gw_listen(transport_of(base)->inner, local, &listener->inner);

    listener->base.transport = base;
    if (error)
        free(listener);
    else
        *out = &listener->base;
    return error;
}

static struct gw_listener *inner_listener(struct gw_listener *base)
{
    return gw_container_of(base, struct faulty_listener, base)->inner;
}

static void unlisten(struct gw_listener *base)
{
    gw_unlisten(inner_listener(base));
    free(gw_container_of(base, struct faulty_listener, base));
}

static int listener_address(struct gw_listener *base, struct gw_address *out)
{
    if (atomic_load(&transport_of(base->transport)->deaf))
        return gw_fail(-ENODEV, "faulty: no device yet");
    return gw_listener_address(inner_listener(base), out);
}

static int next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    struct gw_request *inner;
    struct faulty_request *request;
    int error = gw_next_request(inner_listener(base), timeout_ms, &inner);

    if (error)
        return error;
    request = calloc(1, sizeof(*request));
    request->base = *inner;
    request->base.transport = base->transport;
    request->inner = inner;
    *out = &request->base;
    return 0;
}

/* How many ops this channel hands on before it dies. */
static uint64_t life_of(struct faulty_transport *transport, uint32_t number, bool is_accepting)
{
    uint64_t ops = UINT64_MAX;

    if (number == 0)
        ops = atomic_exchange(&transport->control_ops[is_accepting], UINT64_MAX);
    return ops == UINT64_MAX ? atomic_load(&transport->drop_after) : ops;
}

static struct faulty_channel *new_channel(const struct gw_channel_options *options,
                                          struct gw_channel_options *inner, bool is_accepting)
{
    struct faulty_transport *transport = transport_of(options->domain->transport);
    struct faulty_channel *channel = calloc(1, sizeof(*channel));

    channel->base.domain = options->domain;
    channel->base.context = options->context;
    channel->poller = gw_container_of(options->poller, struct faulty_poller, base);
    channel->drop_epoch = atomic_load(&transport->drop_epoch);
    channel->drop_after_epoch = atomic_load(&transport->drop_after_epoch);
    channel->ops_left = life_of(transport, options->number, is_accepting);
    channel->waiting_last = &channel->waiting;
    for (unsigned i = 0; i < GW_CHANNEL_OPS_MAX; i++) {
        channel->slots[i].channel = channel;
        channel->slots[i].next = channel->free;
        channel->free = &channel->slots[i];
    }
    *inner = *options;
    inner->domain = gw_container_of(options->domain, struct faulty_domain, base)->inner;
    inner->poller = channel->poller->inner;
    inner->context = channel;
    return channel;
}

static int finish_meeting(struct faulty_channel *channel, struct gw_channel *inner, int error,
                          struct gw_channel **out)
{
    if (error) {
        free(channel);
        return error;
    }
    channel->inner = inner;
    /* Only the head changes here; the owner, who alone removes, may be walking the list. */
    pthread_mutex_lock(&channel->poller->lock);
    channel->next = channel->poller->channels;
    channel->poller->channels = channel;
    pthread_mutex_unlock(&channel->poller->lock);
    *out = &channel->base;
    return 0;
}

static int accept_request(struct gw_request *base, const struct gw_channel_options *options,
                          struct gw_channel **out)
{
    struct faulty_request *request = gw_container_of(base, struct faulty_request, base);
    struct gw_channel_options inner_options;
    struct faulty_channel *channel = new_channel(options, &inner_options, true);
    struct gw_channel *inner = NULL;
    int error = gw_accept(request->inner, &inner_options, &inner);

    free(request);
    return finish_meeting(channel, inner, error, out);
}

static void reject(struct gw_request *base, const char *reason)
{
    struct faulty_request *request = gw_container_of(base, struct faulty_request, base);

    gw_reject(request->inner, reason);
    free(request);
}

static int connect_to(struct gw_transport *base, const struct gw_connect_options *options,
                      struct gw_channel **out)
{
    struct faulty_transport *transport = transport_of(base);
    struct gw_connect_options inner_options = *options;
    struct faulty_channel *channel;
    struct gw_channel *inner = NULL;
    int error;

    if (atomic_load(&transport->refuse))
        return gw_fail(-ECONNREFUSED, "faulty: connects are refused");
    channel = new_channel(&options->channel, &inner_options.channel, false);
    error = gw_connect(transport->inner, &inner_options, &inner);
    return finish_meeting(channel, inner, error, out);
}

/* ---- ops ---- */

static void take_slot_back(struct slot *slot)
{
    struct faulty_channel *channel = slot->channel;

    if (slot->region)
        atomic_fetch_sub(&slot->region->ops_out, 1);
    slot->region = NULL;
    free(slot->changed);
    slot->changed = NULL;
    slot->next = channel->free;
    channel->free = slot;
    channel->posted--;
}

static void give_back(struct slot *slot, int status)
{
    struct gw_op *outer = slot->outer;

    take_slot_back(slot);
    outer->done(outer, status);
}

static void inner_done(struct gw_op *op, int status)
{
    struct slot *slot = gw_container_of(op, struct slot, op);

    /* The inner channel was closed to make it fail; the caller did not close. */
    give_back(slot, status == -ECANCELED && slot->channel->error.code ? slot->channel->error.code
                                                                      : status);
}

static bool take_one(atomic_uint *count)
{
    unsigned left = atomic_load(count);

    while (left > 0)
        if (atomic_compare_exchange_weak(count, &left, left - 1))
            return true;
    return false;
}

static void corrupt(struct slot *slot)
{
    struct faulty_transport *transport = transport_of(slot->channel->base.domain->transport);
    const void *bytes = slot->is_write ? slot->write.local : slot->send.message;
    uint32_t length = slot->is_write ? slot->write.length : slot->send.length;

    if (length == 0 || slot->changed ||
        !take_one(slot->is_write ? &transport->corrupt_writes : &transport->corrupt_messages))
        return;
    slot->changed = malloc(length);
    memcpy(slot->changed, bytes, length);
    ((uint8_t *)slot->changed)[length / 2] ^= 0x10;
    if (slot->is_write) {
        slot->write.local = slot->changed;
        slot->write.flags &= ~(unsigned)GW_POST_STABLE;
        slot->write.region = NULL;
    } else {
        slot->send.message = slot->changed;
    }
}

static bool is_dropped(struct faulty_channel *channel)
{
    struct faulty_transport *transport = transport_of(channel->base.domain->transport);

    if (channel->drop_after_epoch != atomic_load(&transport->drop_after_epoch)) {
        channel->drop_after_epoch = atomic_load(&transport->drop_after_epoch);
        channel->ops_left = atomic_load(&transport->drop_after);
    }
    return atomic_load(&channel->drop) || channel->ops_left == 0 ||
           channel->drop_epoch != atomic_load(&transport->drop_epoch);
}

/* Hands on what is due. -EAGAIN when the inner channel is full, or what killed it. */
static int hand_on(struct faulty_channel *channel)
{
    while (channel->waiting && channel->ops_left > 0) {
        struct slot *slot = channel->waiting;
        int error;

        if (slot->due_ns > gw_clock_ns())
            return 0;
        corrupt(slot);
        error = slot->is_write ? gw_write(channel->inner, &slot->write)
                               : gw_send(channel->inner, &slot->send);
        if (error)
            return error;
        channel->waiting = slot->next;
        if (!channel->waiting)
            channel->waiting_last = &channel->waiting;
        if (channel->ops_left != UINT64_MAX)
            channel->ops_left--;
    }
    return 0;
}

static void fail_waiting(struct faulty_channel *channel, int status)
{
    while (channel->waiting) {
        struct slot *slot = channel->waiting;

        channel->waiting = slot->next;
        if (!channel->waiting)
            channel->waiting_last = &channel->waiting;
        give_back(slot, status);
    }
}

/* Dies on the owner's thread, outside the inner transport's poll. */
static void drop_now(struct faulty_channel *channel)
{
    struct gw_channel *inner = channel->inner;

    if (channel->error.code)
        return;
    gw_fail(-ECONNRESET, "faulty: the link was dropped");
    gw_error_take(-ECONNRESET, &channel->error);
    gw_channel_info(inner, &channel->info);
    channel->inner = NULL;
    gw_close(inner);
    fail_waiting(channel, -ECONNRESET);
}

static int post(struct faulty_channel *channel, struct gw_op *outer, bool is_write)
{
    struct faulty_transport *transport = transport_of(channel->base.domain->transport);
    struct slot *slot = channel->free;
    int error;

    if (channel->error.code)
        return gw_error_raise(&channel->error);
    if (!slot || !channel->inner)
        return -EAGAIN;
    channel->free = slot->next;
    channel->posted++;
    slot->is_write = is_write;
    if (is_write) {
        slot->write = *gw_container_of(outer, struct gw_write, op);
        if (slot->write.region) {
            slot->region = (struct faulty_region *)gw_container_of(slot->write.region,
                                                                   struct faulty_region, base);
            slot->write.region = slot->region->inner;
            atomic_fetch_add(&slot->region->ops_out, 1);
        }
    } else {
        slot->send = *gw_container_of(outer, struct gw_send, op);
    }
    slot->op.done = inner_done;
    slot->outer = outer;
    slot->next = NULL;
    slot->due_ns = gw_clock_ns() + atomic_load(&transport->delay_ms) * GW_NS_PER_MS;
    *channel->waiting_last = slot;
    channel->waiting_last = &slot->next;
    error = is_dropped(channel) ? 0 : hand_on(channel);
    if (error && error != -EAGAIN && channel->waiting == slot) {
        /* The inner channel is dead and this op was the only one: refused, as if never posted. */
        take_slot_back(slot);
        channel->waiting = NULL;
        channel->waiting_last = &channel->waiting;
        return error;
    }
    return 0;
}

static int post_write(struct gw_channel *base, struct gw_write *write)
{
    return post(channel_of(base), &write->op, true);
}

static int post_send(struct gw_channel *base, struct gw_send *send)
{
    return post(channel_of(base), &send->op, false);
}

static int receive(struct gw_channel *base, struct gw_message *out)
{
    struct faulty_channel *channel = channel_of(base);

    if (channel->error.code)
        return gw_error_raise(&channel->error);
    return channel->inner ? gw_recv(channel->inner, out) : -EAGAIN;
}

static void close_channel(struct gw_channel *base)
{
    struct faulty_channel *channel = channel_of(base);
    struct faulty_channel **at = &channel->poller->channels;

    if (!channel->error.code) {
        gw_fail(-ECANCELED, "faulty: the channel was closed");
        gw_error_take(-ECANCELED, &channel->error);
    }
    gw_close(channel->inner);
    fail_waiting(channel, -ECANCELED);
    pthread_mutex_lock(&channel->poller->lock);
    while (*at != channel)
        at = &(*at)->next;
    *at = channel->next;
    pthread_mutex_unlock(&channel->poller->lock);
    free(channel);
}

/* ---- polling ---- */

static int poll_all(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct faulty_poller *poller = gw_container_of(base, struct faulty_poller, base);
    struct faulty_channel *channel;
    int count = 0, inner_count;

    pthread_mutex_lock(&poller->lock);
    channel = poller->channels;
    pthread_mutex_unlock(&poller->lock);
    for (; channel; channel = channel->next) {
        if (is_dropped(channel)) {
            drop_now(channel);
        } else {
            int error = hand_on(channel);

            if (error && error != -EAGAIN)
                fail_waiting(channel, error);
        }
        if (channel->error.code && count < max)
            ready[count++] = &channel->base;
    }
    inner_count = gw_poll(poller->inner, ready + count, max - count);
    for (int i = 0; i < inner_count; i++) {
        channel = ready[count + i]->context;
        ready[count + i] = &channel->base;
    }
    return count + inner_count;
}

static int arm(struct gw_poller *base)
{
    struct faulty_poller *poller = gw_container_of(base, struct faulty_poller, base);
    struct epoll_event event = {.events = EPOLLIN};
    struct itimerspec when = {0};
    uint64_t next_ns = UINT64_MAX;
    int fd = gw_poller_arm(poller->inner);

    if (fd != poller->watched_fd) {
        epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, fd, &event);
        poller->watched_fd = fd;
    }
    pthread_mutex_lock(&poller->lock);
    for (struct faulty_channel *channel = poller->channels; channel; channel = channel->next)
        if (channel->waiting)
            next_ns = gw_min(next_ns, gw_max(channel->waiting->due_ns, 1));
    pthread_mutex_unlock(&poller->lock);
    /* Commands have no descriptor: look again soon. */
    next_ns = gw_min(next_ns, gw_clock_ns() + 20 * GW_NS_PER_MS);
    when.it_value.tv_sec = (time_t)(next_ns / GW_NS_PER_S);
    when.it_value.tv_nsec = (long)(next_ns % GW_NS_PER_S);
    timerfd_settime(poller->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    return poller->epoll_fd;
}

static void info(struct gw_channel *base, struct gw_channel_info *out)
{
    struct faulty_channel *channel = channel_of(base);

    if (channel->inner)
        gw_channel_info(channel->inner, out);
    else
        *out = channel->info;
}

static void destroy(struct gw_transport *base)
{
    gw_transport_free(transport_of(base)->inner);
    pthread_mutex_destroy(&transport_of(base)->rdma.lock);
    free(transport_of(base));
}

static int probe(struct gw_transport *base)
{
    if (atomic_load(&transport_of(base)->absent))
        return gw_fail(-ENODEV, "faulty: no device");
    return gw_transport_probe(transport_of(base)->inner);
}

static const struct gw_transport_ops faulty_ops = {
    .name = "faulty",
    .probe = probe,
    .open_domain = open_domain,
    .close_domain = close_domain,
    .open_poller = open_poller,
    .close_poller = close_poller,
    .listen = listen_at,
    .unlisten = unlisten,
    .next_request = next_request,
    .listener_address = listener_address,
    .accept = accept_request,
    .reject = reject,
    .connect = connect_to,
    .close = close_channel,
    .reg = reg,
    .unreg = unreg,
    .write = post_write,
    .send = post_send,
    .recv = receive,
    .poll = poll_all,
    .arm = arm,
    .info = info,
    .destroy = destroy,
};

int gw_faulty_new(struct gw_transport *inner, struct gw_transport **out)
{
    struct faulty_transport *transport = calloc(1, sizeof(*transport));

    if (!transport)
        return gw_fail(-ENOMEM, "faulty: no memory");
    transport->ops = faulty_ops;
    transport->ops.name = inner->ops->name;
    transport->ops.needs_local_region = inner->ops->needs_local_region;
    transport->ops.is_rdma = inner->ops->is_rdma;
    transport->ops.has_channel_keys = inner->ops->has_channel_keys;
    transport->ops.carries_no_control = inner->ops->carries_no_control;
    pthread_mutex_init(&transport->rdma.lock, NULL);
    transport->base.ops = &transport->ops;
    transport->inner = inner;
    atomic_store(&transport->drop_after, UINT64_MAX);
    atomic_store(&transport->control_ops[0], UINT64_MAX);
    atomic_store(&transport->control_ops[1], UINT64_MAX);
    *out = &transport->base;
    return 0;
}

void gw_faulty_delay(struct gw_transport *faulty, unsigned delay_ms)
{
    atomic_store(&transport_of(faulty)->delay_ms, delay_ms);
}

void gw_faulty_corrupt_writes(struct gw_transport *faulty, unsigned count)
{
    atomic_store(&transport_of(faulty)->corrupt_writes, count);
}

void gw_faulty_corrupt_messages(struct gw_transport *faulty, unsigned count)
{
    atomic_store(&transport_of(faulty)->corrupt_messages, count);
}

void gw_faulty_refuse(struct gw_transport *faulty, bool on)
{
    atomic_store(&transport_of(faulty)->refuse, on);
}

void gw_faulty_absent(struct gw_transport *faulty, bool on)
{
    atomic_store(&transport_of(faulty)->absent, on);
}

void gw_faulty_deaf(struct gw_transport *faulty, bool on)
{
    atomic_store(&transport_of(faulty)->deaf, on);
}

void gw_faulty_drop_all(struct gw_transport *faulty)
{
    atomic_fetch_add(&transport_of(faulty)->drop_epoch, 1);
}

void gw_faulty_drop_control_once(struct gw_transport *faulty, bool is_accepting, uint64_t ops)
{
    atomic_store(&transport_of(faulty)->control_ops[is_accepting], ops);
}

void gw_faulty_drop_after(struct gw_transport *faulty, uint64_t ops)
{
    atomic_store(&transport_of(faulty)->drop_after, ops);
    atomic_fetch_add(&transport_of(faulty)->drop_after_epoch, 1);
}

void gw_faulty_drop(struct gw_channel *channel)
{
    atomic_store(&channel_of(channel)->drop, true);
}

void gw_faulty_carry_no_control(struct gw_transport *faulty)
{
    transport_of(faulty)->ops.carries_no_control = true;
}

/* ---- as if a device placed the writes ---- */

void gw_faulty_be_rdma(struct gw_transport *faulty, uint64_t limit)
{
    struct faulty_transport *transport = transport_of(faulty);

    transport->ops.needs_local_region = true;
    transport->ops.is_rdma = true;
    transport->rdma.is_on = true;
    transport->rdma.limit = limit;
}

void gw_faulty_rdma_guest(struct gw_transport *faulty, const void *memory, uint64_t length)
{
    struct gw_faulty_rdma *rdma = &transport_of(faulty)->rdma;

    pthread_mutex_lock(&rdma->lock);
    for (unsigned i = 0; i < GW_FAULTY_GUESTS_MAX; i++)
        if (!rdma->guests[i].memory) {
            rdma->guests[i].memory = memory;
            rdma->guests[i].length = length;
            break;
        }
    pthread_mutex_unlock(&rdma->lock);
}

void gw_faulty_rdma_pause(struct gw_transport *faulty, bool is_paused)
{
    struct gw_faulty_rdma *rdma = &transport_of(faulty)->rdma;

    pthread_mutex_lock(&rdma->lock);
    rdma->is_paused = is_paused;
    pthread_mutex_unlock(&rdma->lock);
}

void gw_faulty_rdma_get(struct gw_transport *faulty, struct gw_faulty_rdma_report *out)
{
    struct gw_faulty_rdma *rdma = &transport_of(faulty)->rdma;

    pthread_mutex_lock(&rdma->lock);
    *out = rdma->report;
    pthread_mutex_unlock(&rdma->lock);
}
