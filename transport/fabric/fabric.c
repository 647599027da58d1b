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
    gw_transport_free(transport->messages);
    gw_transport_free(transport->signposts);
    pthread_mutex_destroy(&transport->lock);
    free(transport);
}

/* Endpoints that connect and such that do not (rdm_) differ in how a channel comes about. */
#define OPS(rdm)                                                                                   \
    {                                                                                              \
        .name = "fabric", .needs_local_region = true, .is_rdma = true, .has_channel_keys = false,  \
        .probe = gw_transport_needs_nothing, .open_domain = gw_fabric_open_domain,                 \
        .close_domain = gw_fabric_close_domain, .open_poller = gw_fabric_open_poller,              \
        .close_poller = gw_fabric_close_poller, .listen = gw_fabric_##rdm##listen,                 \
        .unlisten = gw_fabric_##rdm##unlisten, .next_request = gw_fabric_##rdm##next_request,      \
        .listener_address = gw_fabric_##rdm##listener_address, .accept = gw_fabric_##rdm##accept,  \
        .reject = gw_fabric_##rdm##reject, .connect = gw_fabric_##rdm##connect,                    \
        .close = gw_fabric_close, .reg = gw_fabric_reg, .unreg = gw_fabric_unreg,                  \
        .write = gw_fabric_write, .send = gw_fabric_send, .recv = gw_fabric_recv,                  \
        .poll = gw_fabric_poll, .arm = gw_fabric_arm, .info = gw_fabric_info, .destroy = destroy   \
    }

static const struct gw_transport_ops connected_ops = OPS();
static const struct gw_transport_ops rdm_ops = OPS(rdm_);

/* libfabric and the provider, with the program's signal handlers as they were. */
static int open_provider(struct fabric_transport *transport, const char *provider, bool takes_verbs)
{
    struct sigaction handlers[NSIG];
    int error;

    gw_fabric_keep_handlers(handlers);
    error = gw_fabric_library_load(&transport->library);
    if (!error && provider)
        error = gw_fabric_rouse(&transport->library, provider, FABRIC_SURVEY_MS);
    if (!error && provider)
        error = gw_fabric_use_provider(transport, provider);
    else if (!error)
        error = gw_fabric_find_provider(transport, takes_verbs);
    gw_fabric_restore_handlers(handlers);
    return error;
}

static int create(const struct gw_transport_options *options, struct gw_transport **out)
{
    static const char *const known[] = {"provider", NULL};
    const char *provider = gw_transport_option(options, "provider");
    struct fabric_transport *transport;
    int error = gw_transport_check_options(options, "fabric", known);

    if (error)
        return error;
    /* It takes long to load libfabric, which most hosts have no use for. */
    if (!provider && !options->is_named && !gw_fabric_has_device("/sys/class"))
        return gw_fail(-ENODEV,
                       "fabric: this host has no device of EFA, Slingshot or Omni-Path, and "
                       "no provider was named");
    transport = calloc(1, sizeof(*transport));
    if (!transport)
        return gw_fail(-ENOMEM, "fabric: no memory");
    transport->base.ops = &connected_ops;
    pthread_mutex_init(&transport->lock, NULL);
    error = open_provider(transport, provider, options->is_named);
    transport->base.variant = transport->provider;
    if (!error && transport->is_rdm) {
        transport->base.ops = &rdm_ops;
        error = gw_transport_new("tcp", NULL, &transport->messages);
    }
    if (!error && !transport->is_rdm)
        error = gw_transport_new("tcp", NULL, &transport->signposts);
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
