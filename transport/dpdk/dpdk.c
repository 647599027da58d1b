/* SPDX-License-Identifier: Apache-2.0 */
/* The transport itself, its domains and regions, and the table of operations. */
#include "transport/dpdk/dpdk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "transport/module-interface.h"
#include "transport/module.h"

/* ---- domains and regions ---- */

static int open_domain(struct gw_transport *transport, const struct gw_address *local,
                       struct gw_domain **out)
{
    struct dpdk_domain *domain = calloc(1, sizeof(*domain));

    if (!domain)
        return gw_fail(-ENOMEM, "dpdk: no memory for a domain");
    domain->base.transport = transport;
    gw_region_table_init(&domain->regions);
    *out = &domain->base;
    return 0;
}

static struct dpdk_domain *domain_of(struct gw_domain *base)
{
    return gw_container_of(base, struct dpdk_domain, base);
}

static void close_domain(struct gw_domain *base)
{
    gw_region_table_destroy(&domain_of(base)->regions);
    free(domain_of(base));
}

static int reg(struct gw_domain *base, void *memory, uint64_t length, unsigned access,
               uint32_t only_channel, struct gw_region **out)
{
    struct gw_region region = {
        .domain = base, .memory = memory, .length = length, .access = access};

    return gw_region_table_new(&domain_of(base)->regions, &region, only_channel, out);
}

static void unreg(struct gw_region *region)
{
    gw_region_table_free(&domain_of(region->domain)->regions, region);
}

/* ---- channels ---- */

static int post_write(struct gw_channel *base, struct gw_write *write)
{
    return gw_dpdk_core_write(gw_dpdk_channel_of(base)->core, write);
}

static int post_send(struct gw_channel *base, struct gw_send *send)
{
    return gw_dpdk_core_send(gw_dpdk_channel_of(base)->core, send);
}

static int receive(struct gw_channel *base, struct gw_message *out)
{
    return gw_dpdk_core_recv(gw_dpdk_channel_of(base)->core, out);
}

static void info(struct gw_channel *base, struct gw_channel_info *out)
{
    const struct dpdk_channel *channel = gw_dpdk_channel_of(base);
    const struct dpdk_transport *transport = gw_dpdk_transport_of(base->domain->transport);
    char local[GW_ADDRESS_TEXT_MAX], peer[GW_ADDRESS_TEXT_MAX];
    struct dpdk_counts counts;
    struct dpdk_path path;

    memset(out, 0, sizeof(*out));
    gw_dpdk_core_counts(channel->core, &counts);
    gw_dpdk_core_path(channel->core, &path);
    gw_dpdk_host_to_address(&channel->flow.local, channel->flow.local_port, &out->local);
    gw_dpdk_host_to_address(&channel->flow.peer, channel->flow.peer_port, &out->peer);
    snprintf(out->description, sizeof(out->description), "dpdk %s %s > %s, datagrams of %u%s",
             transport->port.driver, gw_address_format(&out->local, local, sizeof(local)),
             gw_address_format(&out->peer, peer, sizeof(peer)), path.length,
             gw_dpdk_sends_in_place(channel) ? ", sent in place" : "");
    out->bytes_sent = counts.bytes_sent;
    out->bytes_received = counts.bytes_received;
    out->messages_sent = counts.messages_sent;
    out->messages_received = counts.messages_received;
}

/* ---- the transport ---- */

static void free_transport(struct dpdk_transport *transport)
{
    gw_dpdk_neighbors_free(&transport->neighbors);
    pthread_mutex_destroy(&transport->lock);
    free(transport);
}

static void destroy(struct gw_transport *base)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base);

    gw_dpdk_service_stop(transport);
    gw_dpdk_port_close(&transport->port);
    free_transport(transport);
}

static const struct gw_transport_ops dpdk_ops = {
    .name = "dpdk",
    .needs_local_region = false,
    .is_rdma = false,
    .has_channel_keys = true,
    .carries_no_control = true,
    .probe = gw_transport_needs_nothing,
    .open_domain = open_domain,
    .close_domain = close_domain,
    .open_poller = gw_dpdk_poller_open,
    .close_poller = gw_dpdk_poller_close,
    .listen = gw_dpdk_listen,
    .unlisten = gw_dpdk_unlisten,
    .next_request = gw_dpdk_next_request,
    .listener_address = gw_dpdk_listener_address,
    .accept = gw_dpdk_accept,
    .reject = gw_dpdk_reject,
    .connect = gw_dpdk_connect,
    .close = gw_dpdk_channel_close,
    .reg = reg,
    .unreg = unreg,
    .write = post_write,
    .send = post_send,
    .recv = receive,
    .poll = gw_dpdk_poll,
    .arm = gw_dpdk_arm,
    .info = info,
    .destroy = destroy,
};

static int create(const struct gw_transport_options *options, struct gw_transport **out)
{
    struct dpdk_transport *transport = calloc(1, sizeof(*transport));
    struct gw_error cause;
    int error;

    if (!transport)
        return gw_fail(-ENOMEM, "dpdk: no memory");
    transport->base.ops = &dpdk_ops;
    pthread_mutex_init(&transport->lock, NULL);
    gw_dpdk_neighbors_init(&transport->neighbors);
    if (getrandom(&transport->next_port, sizeof(transport->next_port), 0) < 0)
        transport->next_port = 0;
    error = gw_dpdk_settings_read(options, &transport->settings);
    if (!error)
        error = gw_dpdk_port_open(&transport->settings, &transport->port);
    if (!error) {
        error = gw_dpdk_service_start(transport);
        if (error)
            gw_dpdk_port_close(&transport->port);
    }
    if (error) {
        gw_error_take(error, &cause);
        free_transport(transport);
        return gw_error_raise(&cause);
    }
    *out = &transport->base;
    return 0;
}

static const struct gw_transport_maker maker = {.name = "dpdk", .create = create};

extern const struct gw_module gw_module_dpdk;
__attribute__((visibility("default"))) const struct gw_module gw_module_dpdk = {
    .interface = GW_MODULE_INTERFACE, .version = GODWIT_VERSION, .maker = &maker};
