/* SPDX-License-Identifier: Apache-2.0 */
/* Devices in use, and the domains on them. librdmacm opens one context per device, for all its
 * identifiers; each device keeps an identifier that is bound to one of its addresses and does nothing
 * else, so that the context stays what it is. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "transport/verbs/verbs.h"

int gw_verbs_look_for_devices(void)
{
    int count = 0;
    struct ibv_device **devices = ibv_get_device_list(&count);

    if (devices)
        ibv_free_device_list(devices);
    if (count > 0)
        return 0;
    return gw_fail(-ENODEV, "verbs: this host has no RDMA device (rdma link show lists none; "
                            "scripts/softroce makes one of an Ethernet interface)");
}

void gw_verbs_address_of(const struct sockaddr *from, struct gw_address *out)
{
    memset(out, 0, sizeof(*out));
    out->length =
        from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    memcpy(&out->storage, from, out->length);
}

/* An identifier on the device that has this address. events: where its removal is told, or NULL. The caller
 * destroys *out, which is NULL or not, after a failure as well. */
static int bind_keeper(struct rdma_event_channel *events, const struct gw_address *address,
                       struct rdma_cm_id **out)
{
    struct gw_address any_port = *address;
    char text[GW_ADDRESS_TEXT_MAX];

    gw_address_set_port(&any_port, 0);
    gw_address_format(&any_port, text, sizeof(text));
    *out = NULL;
    if (rdma_create_id(events, out, NULL, RDMA_PS_TCP) != 0)
        return gw_fail_errno(-errno, "verbs: no connection identifier");
    if (rdma_bind_addr(*out, (struct sockaddr *)&any_port.storage) != 0)
        return errno == ENODEV || errno == EADDRNOTAVAIL
                   ? gw_fail(-ENODEV, "verbs: no RDMA device has the address %s", text)
                   : gw_fail_errno(-errno, "verbs: the address %s cannot be used", text);
    if (!(*out)->verbs)
        return gw_fail(-ENODEV, "verbs: %s names no RDMA device", text);
    return 0;
}

static void drop_keeper(struct rdma_cm_id *keeper)
{
    if (keeper)
        rdma_destroy_id(keeper);
}

/* Called with the lock held, without which the caller destroys *failed, what is left of a failure. */
static int device_new(struct verbs_transport *transport, struct ibv_context *context,
                      const struct gw_address *address, struct rdma_cm_id **failed,
                      struct verbs_device **out)
{
    struct verbs_device *device = calloc(1, sizeof(*device));
    int error;

    if (!device)
        return gw_fail(-ENOMEM, "verbs: no memory for a device");
    error = gw_verbs_life_open_events(transport);
    if (!error)
        error = bind_keeper(transport->connection_events, address, &device->keeper);
    if (!error && device->keeper->verbs != context)
        error = gw_fail(-ENODEV, "verbs: the device changed while it was opened");
    if (error) {
        *failed = device->keeper;
        free(device);
        return error;
    }
    device->context = context;
    device->next = transport->devices;
    transport->devices = device;
    *out = device;
    return 0;
}

/* When the device is in the list: its removal, should that be why a step fails, finds it there. */
static int device_prepare(struct verbs_transport *transport, struct verbs_device *device)
{
    const char *name = ibv_get_device_name(device->context->device);
    int error;

    if (device->is_removed)
        return gw_fail(-ENODEV, "verbs: the device %s was removed", name);
    if (device->is_prepared)
        return 0;
    error = ibv_query_device(device->context, &device->attributes);
    if (error)
        return gw_fail_errno(-error, "verbs: %s cannot be asked what it can do", name);
    error = gw_verbs_life_add_device(transport, device);
    device->is_prepared = !error;
    return error;
}

int gw_verbs_device_get(struct verbs_transport *transport, struct ibv_context *context,
                        const struct gw_address *address, struct verbs_device **out)
{
    struct rdma_cm_id *failed = NULL;
    struct verbs_device *device;
    int error = 0;

    pthread_mutex_lock(&transport->lock);
    for (device = transport->devices; device && device->context != context;)
        device = device->next;
    if (!device)
        error = device_new(transport, context, address, &failed, &device);
    if (!error)
        error = device_prepare(transport, device);
    if (!error) {
        device->users++;
        *out = device;
    }
    pthread_mutex_unlock(&transport->lock);
    /* Without the lock: it goes when its events were acknowledged, by a thread that takes the lock. */
    drop_keeper(failed);
    return error;
}

/* librdmacm never closes the context of a device that was the only one (it looks for those that are
 * gone when it looks for another: sync_devices_list in cma.c, rdma-core 44), and the kernel keeps a
 * soft-RoCE device until its files are closed. So they are, under librdmacm's hands, which asks a
 * context nothing any more that no identifier is on. Before the keeper goes: the context may go with
 * it. */
static void let_go(const struct ibv_context *context)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0)
        return;
    dup3(null, context->cmd_fd, O_CLOEXEC);
    dup3(null, context->async_fd, O_CLOEXEC);
    close(null);
}

static void device_free(struct verbs_transport *transport, struct verbs_device *device)
{
    gw_verbs_life_remove_device(transport, device);
    if (device->is_removed)
        let_go(device->context);
    rdma_destroy_id(device->keeper);
    free(device);
}

void gw_verbs_devices_sweep(struct verbs_transport *transport, bool all)
{
    struct verbs_device **at = &transport->devices, *gone = NULL;

    pthread_mutex_lock(&transport->lock);
    while (*at) {
        struct verbs_device *device = *at;

        if (!all && (device->users > 0 || !device->is_removed)) {
            at = &device->next;
            continue;
        }
        *at = device->next;
        device->next = gone;
        gone = device;
    }
    pthread_mutex_unlock(&transport->lock);
    /* Without the lock, as in gw_verbs_device_get. */
    while (gone) {
        struct verbs_device *device = gone;

        gone = device->next;
        device_free(transport, device);
    }
}

void gw_verbs_device_put(struct verbs_transport *transport, struct verbs_device *device)
{
    if (!device)
        return;
    pthread_mutex_lock(&transport->lock);
    device->users--;
    pthread_mutex_unlock(&transport->lock);
    gw_verbs_devices_sweep(transport, false);
}

void gw_verbs_device_know(struct verbs_transport *transport, struct rdma_cm_id *id)
{
    struct verbs_device *device;
    struct gw_address local;

    gw_verbs_address_of(rdma_get_local_addr(id), &local);
    if (id->verbs && gw_verbs_device_get(transport, id->verbs, &local, &device) == 0)
        gw_verbs_device_put(transport, device);
}

/* ---- domains ---- */

static int bind_to(struct verbs_domain *domain, struct ibv_context *context,
                   const struct gw_address *address)
{
    struct verbs_transport *transport = gw_verbs_transport_of(domain->base.transport);
    int error = gw_verbs_device_get(transport, context, address, &domain->device);

    if (error)
        return error;
    domain->pd = ibv_alloc_pd(domain->device->context);
    if (domain->pd)
        return 0;
    error = gw_fail_errno(-errno, "verbs: %s has no protection domain left",
                          ibv_get_device_name(context->device));
    gw_verbs_device_put(transport, domain->device);
    domain->device = NULL;
    return error;
}

static int bind_to_address(struct verbs_domain *domain, const struct gw_address *local)
{
    struct rdma_cm_id *id;
    int error = bind_keeper(NULL, local, &id);

    if (!error)
        error = bind_to(domain, id->verbs, local);
    drop_keeper(id);
    return error;
}

int gw_verbs_open_domain(struct gw_transport *transport, const struct gw_address *local,
                         struct gw_domain **out)
{
    struct verbs_domain *domain = calloc(1, sizeof(*domain));
    int error = 0;

    if (!domain)
        return gw_fail(-ENOMEM, "verbs: no memory for a domain");
    domain->base.transport = transport;
    pthread_mutex_init(&domain->lock, NULL);
    if (local && !gw_address_is_any(local)) {
        domain->has_local = true;
        domain->local = *local;
        gw_address_set_port(&domain->local, 0);
        error = bind_to_address(domain, local);
    }
    if (error) {
        gw_verbs_close_domain(&domain->base);
        return error;
    }
    *out = &domain->base;
    return 0;
}

void gw_verbs_close_domain(struct gw_domain *base)
{
    struct verbs_domain *domain = gw_verbs_domain_of(base);

    if (domain->pd)
        ibv_dealloc_pd(domain->pd);
    gw_verbs_device_put(gw_verbs_transport_of(base->transport), domain->device);
    pthread_mutex_destroy(&domain->lock);
    free(domain);
}

int gw_verbs_domain_bind(struct verbs_domain *domain, struct rdma_cm_id *id)
{
    struct gw_address local;
    int error = 0;

    gw_verbs_address_of(rdma_get_local_addr(id), &local);
    pthread_mutex_lock(&domain->lock);
    if (!domain->device)
        error = bind_to(domain, id->verbs, &local);
    else if (domain->device->context != id->verbs)
        error = gw_fail(-EXDEV, "verbs: the domain is on %s, the way to the peer is on %s",
                        ibv_get_device_name(domain->device->context->device),
                        ibv_get_device_name(id->verbs->device));
    pthread_mutex_unlock(&domain->lock);
    return error;
}
