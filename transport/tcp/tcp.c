/* SPDX-License-Identifier: Apache-2.0 */
/* The tcp back end's domains and regions, and its table of operations. */
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <stdlib.h>

#include "common/checked.h"

static int open_domain(struct gw_transport *transport, const struct gw_address *local,
                       struct gw_domain **out)
{
    struct tcp_domain *domain = calloc(1, sizeof(*domain));

    if (!domain)
        return gw_fail(-ENOMEM, "tcp: no memory for a domain");
    domain->base.transport = transport;
    if (local) {
        domain->has_local = true;
        domain->local = *local;
    }
    gw_region_table_init(&domain->table);
    *out = &domain->base;
    return 0;
}

static void close_domain(struct gw_domain *base)
{
    struct tcp_domain *domain = gw_container_of(base, struct tcp_domain, base);

    gw_region_table_destroy(&domain->table);
    free(domain);
}

static int reg(struct gw_domain *base, void *memory, uint64_t length, unsigned access,
               uint32_t only_channel, struct gw_region **out)
{
    const struct gw_region region = {
        .domain = base, .memory = memory, .length = length, .access = access};

    return gw_region_table_new(&gw_container_of(base, struct tcp_domain, base)->table, &region,
                               only_channel, out);
}

static void unreg(struct gw_region *region)
{
    gw_region_table_free(&gw_container_of(region->domain, struct tcp_domain, base)->table, region);
}

static void destroy(struct gw_transport *transport)
{
    free(transport);
}

static const struct gw_transport_ops tcp_ops = {
    .name = "tcp",
    .needs_local_region = false,
    .is_rdma = false,
    .has_channel_keys = true,
    .probe = gw_transport_needs_nothing,
    .open_domain = open_domain,
    .close_domain = close_domain,
    .open_poller = gw_tcp_open_poller,
    .close_poller = gw_tcp_close_poller,
    .listen = gw_tcp_listen,
    .unlisten = gw_tcp_unlisten,
    .next_request = gw_tcp_next_request,
    .listener_address = gw_tcp_listener_address,
    .accept = gw_tcp_accept,
    .reject = gw_tcp_reject,
    .connect = gw_tcp_connect,
    .close = gw_tcp_close,
    .reg = reg,
    .unreg = unreg,
    .write = gw_tcp_write,
    .send = gw_tcp_send,
    .recv = gw_tcp_recv,
    .poll = gw_tcp_poll,
    .arm = gw_tcp_arm,
    .info = gw_tcp_info,
    .destroy = destroy,
};

static int create(const struct gw_transport_options *options, struct gw_transport **out)
{
    struct gw_transport *transport;
    int error = gw_transport_check_options(options, "tcp", NULL);

    if (error)
        return error;
    transport = calloc(1, sizeof(*transport));
    if (!transport)
        return gw_fail(-ENOMEM, "tcp: no memory");
    transport->ops = &tcp_ops;
    *out = transport;
    return 0;
}

extern const struct gw_transport_maker gw_tcp_maker;
const struct gw_transport_maker gw_tcp_maker = {.name = "tcp", .create = create};
