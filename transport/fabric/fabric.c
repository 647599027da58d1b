/* SPDX-License-Identifier: Apache-2.0 */
/* The fabric back end as such: its options, its table of operations, the module. */
#include "transport/fabric/fabric.h"

#include <errno.h>
#include <stdlib.h>

#include "transport/fabric/channel.h"
#include "transport/module-interface.h"
#include "transport/module.h"

static void destroy(struct gw_transport *base)
{
    struct fabric_transport *transport = gw_fabric_transport_of(base);

    gw_life_stop(&transport->life);
    pthread_mutex_destroy(&transport->lock);
    free(transport);
}

static const struct gw_transport_ops fabric_ops = {
    .name = "fabric",
    .needs_local_region = true,
    .is_rdma = true,
    .has_channel_keys = false,
    .open_domain = gw_fabric_open_domain,
    .close_domain = gw_fabric_close_domain,
    .open_poller = gw_fabric_open_poller,
    .close_poller = gw_fabric_close_poller,
    .listen = gw_fabric_listen,
    .unlisten = gw_fabric_unlisten,
    .next_request = gw_fabric_next_request,
    .listener_address = gw_fabric_listener_address,
    .accept = gw_fabric_accept,
    .reject = gw_fabric_reject,
    .connect = gw_fabric_connect,
    .close = gw_fabric_close,
    .reg = gw_fabric_reg,
    .unreg = gw_fabric_unreg,
    .write = gw_fabric_write,
    .send = gw_fabric_send,
    .recv = gw_fabric_recv,
    .poll = gw_fabric_poll,
    .arm = gw_fabric_arm,
    .info = gw_fabric_info,
    .destroy = destroy,
};

static int create(const struct gw_transport_options *options, struct gw_transport **out)
{
    static const char *const known[] = {"provider", NULL};
    const char *provider = gw_transport_option(options, "provider");
    struct fabric_transport *transport;
    int error = gw_transport_check_options(options, "fabric", known);

    if (error)
        return error;
    if (!provider)
        return gw_fail(-ENODEV, "fabric: no provider was named (--provider verbs, tcp, ...)");
    transport = calloc(1, sizeof(*transport));
    if (!transport)
        return gw_fail(-ENOMEM, "fabric: no memory");
    transport->base.ops = &fabric_ops;
    pthread_mutex_init(&transport->lock, NULL);
    error = gw_fabric_library_load(&transport->library);
    if (!error)
        error = gw_fabric_choose_provider(transport, provider);
    if (!error)
        error = gw_fabric_life_start(transport);
    if (error) {
        destroy(&transport->base);
        return error;
    }
    *out = &transport->base;
    return 0;
}

static const struct gw_transport_maker maker = {.name = "fabric", .create = create};

extern const struct gw_module gw_module_fabric;
__attribute__((visibility("default"))) const struct gw_module gw_module_fabric = {
    .interface = GW_MODULE_INTERFACE, .version = GODWIT_VERSION, .maker = &maker};
