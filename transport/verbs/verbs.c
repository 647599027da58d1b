/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs back end as such: whether this host can use it, its table of operations, the module. */
#include "transport/verbs/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport/module-interface.h"
#include "transport/module.h"
#include "transport/verbs/channel.h"

static void destroy(struct gw_transport *base)
{
    struct verbs_transport *transport = gw_verbs_transport_of(base);

    gw_verbs_devices_sweep(transport, true);
    gw_verbs_life_stop(transport);
    pthread_mutex_destroy(&transport->lock);
    free(transport);
}

/* Whether there is a device, and connections over it can be managed. */
static int look(void)
{
    struct rdma_event_channel *events;
    int error = gw_verbs_look_for_devices();

    if (!error)
        error = gw_verbs_events_new(&events);
    if (!error)
        rdma_destroy_event_channel(events);
    return error;
}

static int probe(struct gw_transport *base)
{
    (void)base;
    return look();
}

static const struct gw_transport_ops verbs_ops = {
    .name = "verbs",
    .needs_local_region = true,
    .is_rdma = true,
    .has_channel_keys = false,
    .probe = probe,
    .open_domain = gw_verbs_open_domain,
    .close_domain = gw_verbs_close_domain,
    .open_poller = gw_verbs_open_poller,
    .close_poller = gw_verbs_close_poller,
    .listen = gw_verbs_listen,
    .unlisten = gw_verbs_unlisten,
    .next_request = gw_verbs_next_request,
    .listener_address = gw_verbs_listener_address,
    .accept = gw_verbs_accept,
    .reject = gw_verbs_reject,
    .connect = gw_verbs_connect,
    .close = gw_verbs_close,
    .reg = gw_verbs_reg,
    .unreg = gw_verbs_unreg,
    .write = gw_verbs_write,
    .send = gw_verbs_send,
    .recv = gw_verbs_recv,
    .poll = gw_verbs_poll,
    .arm = gw_verbs_arm,
    .info = gw_verbs_info,
    .destroy = destroy,
};

/* Devices come and go. Who names this back end wants one now; who does not gets it made without, and it
 * is used when one has come. */
static int create(const struct gw_transport_options *options, struct gw_transport **out)
{
    struct verbs_transport *transport;
    int error = gw_transport_check_options(options, "verbs", NULL);

    if (!error && options->is_named)
        error = look();
    if (error)
        return error;
    /* Before any memory is registered: this process starts others (ibv_fork_init(3)). */
    error = ibv_fork_init();
    if (error)
        return gw_fail_errno(-error, "verbs: registered memory cannot be kept from children");
    transport = calloc(1, sizeof(*transport));
    if (!transport)
        return gw_fail(-ENOMEM, "verbs: no memory");
    transport->base.ops = &verbs_ops;
    pthread_mutex_init(&transport->lock, NULL);
    error = gw_verbs_life_start(transport);
    if (error) {
        destroy(&transport->base);
        return error;
    }
    *out = &transport->base;
    return 0;
}

static const struct gw_transport_maker maker = {.name = "verbs", .create = create};

extern const struct gw_module gw_module_verbs;
__attribute__((visibility("default"))) const struct gw_module gw_module_verbs = {
    .interface = GW_MODULE_INTERFACE, .version = GODWIT_VERSION, .maker = &maker};
