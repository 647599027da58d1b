/* SPDX-License-Identifier: Apache-2.0 */
/* The loop back end's objects that hold no data path: transport, domains, regions, pollers. */
#include "transport/loop/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/checked.h"

#define FIRST_FREE_PORT 49152u

static int open_domain(struct gw_transport *transport, const struct gw_address *local,
                       struct gw_domain **out)
{
    struct loop_domain *domain = calloc(1, sizeof(*domain));

    if (!domain)
        return gw_fail(-ENOMEM, "loop: no memory for a domain");
    domain->base.transport = transport;
    gw_region_table_init(&domain->table);
    *out = &domain->base;
    return 0;
}

static void close_domain(struct gw_domain *base)
{
    struct loop_domain *domain = gw_container_of(base, struct loop_domain, base);

    gw_region_table_destroy(&domain->table);
    free(domain);
}

static int open_poller(struct gw_transport *transport, struct gw_poller **out)
{
    struct loop_poller *poller = calloc(1, sizeof(*poller));

    if (!poller)
        return gw_fail(-ENOMEM, "loop: no memory for a poller");
    poller->base.transport = transport;
    poller->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (poller->wake_fd < 0) {
        free(poller);
        return gw_fail_errno(-errno, "loop: no event descriptor");
    }
    *out = &poller->base;
    return 0;
}

static void close_poller(struct gw_poller *base)
{
    struct loop_poller *poller = gw_container_of(base, struct loop_poller, base);

    assert(gw_ring_is_empty(&poller->channels));
    close(poller->wake_fd);
    free(poller);
}

static int reg(struct gw_domain *base, void *memory, uint64_t length, unsigned access,
               uint32_t only_channel, struct gw_region **out)
{
    const struct gw_region region = {
        .domain = base, .memory = memory, .length = length, .access = access};

    return gw_region_table_new(&gw_container_of(base, struct loop_domain, base)->table, &region,
                               only_channel, out);
}

static void unreg(struct gw_region *region)
{
    gw_region_table_free(&gw_container_of(region->domain, struct loop_domain, base)->table, region);
}

static void destroy(struct gw_transport *base)
{
    struct loop_transport *transport = gw_container_of(base, struct loop_transport, base);

    assert(!transport->listeners);
    pthread_cond_destroy(&transport->changed);
    pthread_mutex_destroy(&transport->lock);
    free(transport);
}

static const struct gw_transport_ops loop_ops = {
    .name = "loop",
    .needs_local_region = false,
    .is_rdma = false,
    .has_channel_keys = true,
    .probe = gw_transport_needs_nothing,
    .open_domain = open_domain,
    .close_domain = close_domain,
    .open_poller = open_poller,
    .close_poller = close_poller,
    .listen = gw_loop_listen,
    .unlisten = gw_loop_unlisten,
    .next_request = gw_loop_next_request,
    .listener_address = gw_loop_listener_address,
    .accept = gw_loop_accept,
    .reject = gw_loop_reject,
    .connect = gw_loop_connect,
    .close = gw_loop_close,
    .reg = reg,
    .unreg = unreg,
    .write = gw_loop_write,
    .send = gw_loop_send,
    .recv = gw_loop_recv,
    .poll = gw_loop_poll,
    .arm = gw_loop_arm,
    .info = gw_loop_info,
    .destroy = destroy,
};

static int create(const struct gw_transport_options *options, struct gw_transport **out)
{
    struct loop_transport *transport;
    pthread_condattr_t monotonic;
    int error = gw_transport_check_options(options, "loop", NULL);

    if (error)
        return error;
    transport = calloc(1, sizeof(*transport));
    if (!transport)
        return gw_fail(-ENOMEM, "loop: no memory");
    transport->base.ops = &loop_ops;
    transport->next_port = FIRST_FREE_PORT;
    pthread_mutex_init(&transport->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&transport->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = &transport->base;
    return 0;
}

extern const struct gw_transport_maker gw_loop_maker;
const struct gw_transport_maker gw_loop_maker = {
    .name = "loop", .create = create, .is_only_by_name = true};
