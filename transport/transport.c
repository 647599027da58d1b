/* SPDX-License-Identifier: Apache-2.0 */
/* The thin layer between callers and back ends: it checks arguments, bounds and sizes once, so that
 * no back end has to. Wrong pointers and objects of another back end are programmer errors and
 * asserted; sizes, which may come from computation, are refused. */
#include "transport/transport.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

const char *gw_transport_option(const struct gw_transport_options *options, const char *name)
{
    const char *value = NULL;

    for (unsigned i = 0; i < options->count; i++)
        if (strcmp(options->items[i].name, name) == 0)
            value = options->items[i].value;
    return value;
}

static bool is_known(const char *name, const char *const *known)
{
    while (known && *known)
        if (strcmp(*known++, name) == 0)
            return true;
    return false;
}

int gw_transport_check_options(const struct gw_transport_options *options, const char *transport,
                               const char *const *known)
{
    char names[160] = "";

    for (unsigned i = 0; i < options->count; i++) {
        if (is_known(options->items[i].name, known))
            continue;
        for (; known && *known; known++)
            snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s",
                     names[0] ? ", " : "", *known);
        return gw_fail(-EINVAL, "transport %s has no option '%.32s': %s", transport,
                       options->items[i].name, names[0] ? names : "it has none");
    }
    return 0;
}

int gw_transport_make(const struct gw_transport_maker *maker,
                      const struct gw_transport_options *options, struct gw_transport **out)
{
    static const struct gw_transport_options none;

    assert(maker && out);
    if (!options)
        options = &none;
    if (maker->needed_option && !gw_transport_option(options, maker->needed_option))
        return gw_fail(-ENODEV, "nothing is configured for it: its option %s.%s is not set",
                       maker->name, maker->needed_option);
    return maker->create(options, out);
}

int gw_transport_new(const char *name, const struct gw_transport_options *options,
                     struct gw_transport **out)
{
    struct gw_transport_options named = options ? *options : (struct gw_transport_options){0};

    assert(name && out);
    named.is_named = true;
    for (size_t i = 0; gw_transport_makers[i]; i++)
        if (strcmp(gw_transport_makers[i]->name, name) == 0)
            return gw_transport_make(gw_transport_makers[i], &named, out);
    return gw_fail(-ENODEV, "transport '%s' is not part of this build", name);
}

int gw_transport_probe(struct gw_transport *transport)
{
    assert(transport);
    return transport->ops->probe(transport);
}

int gw_transport_needs_nothing(struct gw_transport *transport)
{
    (void)transport;
    return 0;
}

void gw_transport_free(struct gw_transport *transport)
{
    if (transport)
        transport->ops->destroy(transport);
}

int gw_domain_open(struct gw_transport *transport, const struct gw_address *local,
                   struct gw_domain **out)
{
    assert(transport && out);
    return transport->ops->open_domain(transport, local, out);
}

void gw_domain_close(struct gw_domain *domain)
{
    if (domain)
        domain->transport->ops->close_domain(domain);
}

int gw_poller_open(struct gw_transport *transport, struct gw_poller **out)
{
    assert(transport && out);
    return transport->ops->open_poller(transport, out);
}

void gw_poller_close(struct gw_poller *poller)
{
    if (poller)
        poller->transport->ops->close_poller(poller);
}

int gw_listen(struct gw_transport *transport, const struct gw_address *local,
              struct gw_listener **out)
{
    assert(transport && local && out);
    return transport->ops->listen(transport, local, out);
}

void gw_unlisten(struct gw_listener *listener)
{
    if (listener)
        listener->transport->ops->unlisten(listener);
}

int gw_listener_address(struct gw_listener *listener, struct gw_address *out)
{
    assert(listener && out);
    return listener->transport->ops->listener_address(listener, out);
}

int gw_next_request(struct gw_listener *listener, int timeout_ms, struct gw_request **out)
{
    assert(listener && out);
    if (timeout_ms < 0)
        return gw_fail(-EINVAL, "transport: timeout of %d ms for the next request", timeout_ms);
    return listener->transport->ops->next_request(listener, timeout_ms, out);
}

static int check_options(const struct gw_transport *transport,
                         const struct gw_channel_options *options)
{
    assert(options->domain && options->domain->transport == transport);
    assert(options->poller && options->poller->transport == transport);
    if (options->secret_length > GW_SECRET_MAX)
        return gw_fail(-EINVAL, "transport: a secret of %u bytes, at most %u",
                       options->secret_length, GW_SECRET_MAX);
    assert(options->secret || options->secret_length == 0);
    if (transport->ops->carries_no_control && options->secret_length == 0)
        return gw_fail(-EINVAL, "transport %s carries data channels alone, each with a secret",
                       transport->ops->name);
    if (options->timeout_ms <= 0)
        return gw_fail(-EINVAL, "transport: timeout of %d ms for a channel", options->timeout_ms);
    return 0;
}

int gw_accept(struct gw_request *request, const struct gw_channel_options *options,
              struct gw_channel **out)
{
    int error;

    assert(request && options && out);
    error = check_options(request->transport, options);
    if (error) {
        request->transport->ops->reject(request, "the peer could not open its end");
        return error;
    }
    return request->transport->ops->accept(request, options, out);
}

void gw_reject(struct gw_request *request, const char *reason)
{
    assert(reason);
    if (request)
        request->transport->ops->reject(request, reason);
}

int gw_connect(struct gw_transport *transport, const struct gw_connect_options *options,
               struct gw_channel **out)
{
    int error;

    assert(transport && options && out);
    error = check_options(transport, &options->channel);
    if (error)
        return error;
    if (options->hello_length > GW_HELLO_MAX)
        return gw_fail(-EINVAL, "transport: a hello of %u bytes, at most %u", options->hello_length,
                       GW_HELLO_MAX);
    assert(options->hello || options->hello_length == 0);
    return transport->ops->connect(transport, options, out);
}

static const struct gw_transport_ops *ops_of(const struct gw_channel *channel)
{
    assert(channel);
    return channel->domain->transport->ops;
}

void gw_close(struct gw_channel *channel)
{
    struct gw_error kept;

    if (!channel)
        return;
    /* Closing is what happens after a failure: its words stay. */
    gw_error_take(0, &kept);
    ops_of(channel)->close(channel);
    gw_error_raise(&kept);
}

int gw_reg(struct gw_domain *domain, void *memory, uint64_t length, unsigned access,
           uint32_t only_channel, struct gw_region **out)
{
    uint64_t end;

    assert(domain && out);
    if (!memory || length == 0 || !gw_add_fits((uintptr_t)memory, length, &end))
        return gw_fail(-EINVAL, "transport: a region of %llu bytes at %p",
                       (unsigned long long)length, memory);
    if (access == 0 || access & ~(unsigned)(GW_ACCESS_LOCAL_READ | GW_ACCESS_REMOTE_WRITE))
        return gw_fail(-EINVAL, "transport: access 0x%x for a region", access);
    return domain->transport->ops->reg(domain, memory, length, access, only_channel, out);
}

void gw_unreg(struct gw_region *region)
{
    if (region)
        region->domain->transport->ops->unreg(region);
}

static int check_local(const struct gw_channel *channel, const struct gw_write *write)
{
    const struct gw_region *region = write->region;
    uint64_t offset;

    if (!region)
        return ops_of(channel)->needs_local_region && write->length
                   ? gw_fail(-EINVAL, "transport %s: a write without a local region",
                             ops_of(channel)->name)
                   : 0;
    offset = (uintptr_t)write->local - (uintptr_t)region->memory;
    if (region->domain != channel->domain || !(region->access & GW_ACCESS_LOCAL_READ) ||
        (write->length && !gw_range_fits(offset, write->length, region->length)))
        return gw_fail(-EINVAL, "transport: a write whose local bytes lie outside its region");
    return 0;
}

int gw_write(struct gw_channel *channel, struct gw_write *write)
{
    assert(channel && write && write->op.done);
    if (write->length > GW_WRITE_MAX)
        return gw_fail(-EINVAL, "transport: a write of %u bytes, at most %u", write->length,
                       GW_WRITE_MAX);
    if ((!write->local && write->length) ||
        write->flags & ~(unsigned)(GW_POST_MORE | GW_POST_STABLE))
        return gw_fail(-EINVAL, "transport: a write from %p with flags 0x%x", write->local,
                       write->flags);
    if (check_local(channel, write) != 0)
        return -EINVAL;
    return ops_of(channel)->write(channel, write);
}

int gw_send(struct gw_channel *channel, struct gw_send *send)
{
    assert(channel && send && send->op.done);
    if (send->length > GW_MESSAGE_MAX)
        return gw_fail(-EMSGSIZE, "transport: a message of %u bytes, at most %u", send->length,
                       GW_MESSAGE_MAX);
    if ((!send->message && send->length) ||
        send->flags & ~(unsigned)(GW_POST_MORE | GW_POST_STABLE))
        return gw_fail(-EINVAL, "transport: a message at %p with flags 0x%x", send->message,
                       send->flags);
    return ops_of(channel)->send(channel, send);
}

int gw_recv(struct gw_channel *channel, struct gw_message *out)
{
    assert(out);
    return ops_of(channel)->recv(channel, out);
}

int gw_poll(struct gw_poller *poller, struct gw_channel **ready, int max)
{
    assert(poller && max >= 0 && (ready || max == 0));
    return poller->transport->ops->poll(poller, ready, max);
}

int gw_poller_arm(struct gw_poller *poller)
{
    assert(poller);
    return poller->transport->ops->arm(poller);
}

void gw_channel_info(struct gw_channel *channel, struct gw_channel_info *out)
{
    assert(out);
    ops_of(channel)->info(channel, out);
}
