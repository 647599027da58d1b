/* SPDX-License-Identifier: Apache-2.0 */
/* The listening side. A request comes whole, with its data, so nobody has to be waited for; how many
 * wait is the provider's to bound. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/fabric/channel.h"

#define EVENT_SIZE   (sizeof(struct fi_eq_cm_entry) + 256)
#define EMPTY_READS  4u
#define REQUESTS_MAX 10000u

/* What a listener consists of. Requests that it brought are refused through it, so they keep it. */
struct port {
    struct fabric_transport *transport;
    struct fid_fabric *fabric;
    struct fid_eq *eq;
    struct fid_pep *pep;
    atomic_uint users;
};

struct fabric_listener {
    struct gw_listener base;
    struct port *port;
    struct gw_listener *signpost; /* or NULL */
};

struct request {
    struct gw_request base;
    struct port *port;
    struct fi_info *info;
};

static struct fabric_listener *listener_of(struct gw_listener *base)
{
    return gw_container_of(base, struct fabric_listener, base);
}

static void refuse(struct port *port, struct fi_info *info, enum gw_connect_verdict verdict,
                   const char *reason)
{
    uint8_t answer[FABRIC_CONNECT_DATA_MAX];
    uint32_t length = gw_connect_answer_encode(&gw_fabric_form, verdict, reason, answer);

    fi_reject(port->pep, info->handle, answer, length);
    port->transport->library.freeinfo(info);
}

/* Those that nobody has asked for. Some providers take a step of connecting only when the queue is
 * read, so that an empty queue does not mean yet that nobody waits. */
static void refuse_waiting(struct port *port)
{
    _Alignas(struct fi_eq_cm_entry) uint8_t room[EVENT_SIZE];
    struct fi_eq_cm_entry *entry = (struct fi_eq_cm_entry *)room;

    for (unsigned empty = 0, taken = 0; empty < EMPTY_READS && taken < REQUESTS_MAX; taken++) {
        struct fi_eq_err_entry failure = {0};
        uint32_t event = 0;
        ssize_t got = fi_eq_read(port->eq, &event, entry, sizeof(room), 0);

        if (got == -FI_EAVAIL)
            fi_eq_readerr(port->eq, &failure, 0);
        empty = got == -FI_EAGAIN ? empty + 1 : 0;
        if (got >= (ssize_t)sizeof(*entry) && event == FI_CONNREQ)
            refuse(port, entry->info, GW_CONNECT_REFUSED, "nobody listens there any more");
    }
}

static void port_put(struct port *port)
{
    if (!port || atomic_fetch_sub(&port->users, 1) > 1)
        return;
    if (port->pep && port->eq)
        refuse_waiting(port);
    if (port->pep)
        fi_close(&port->pep->fid);
    if (port->eq)
        fi_close(&port->eq->fid);
    if (port->fabric)
        fi_close(&port->fabric->fid);
    free(port);
}

static int port_open(struct port *port, struct fi_info *info, const struct gw_address *local)
{
    struct fi_eq_attr events = {.wait_obj = FI_WAIT_FD};
    char text[GW_ADDRESS_TEXT_MAX];
    int answer = port->transport->library.fabric(info->fabric_attr, &port->fabric, NULL);

    if (answer == 0)
        answer = fi_eq_open(port->fabric, &events, &port->eq, NULL);
    if (answer == 0)
        answer = fi_passive_ep(port->fabric, info, &port->pep, NULL);
    if (answer == 0)
        answer = fi_pep_bind(port->pep, &port->eq->fid, 0);
    if (answer == 0)
        answer = fi_listen(port->pep);
    if (answer == 0)
        return 0;
    gw_address_format(local, text, sizeof(text));
    return gw_fabric_fail(port->transport, answer, "cannot listen on the port above %s", text);
}

int gw_fabric_listen(struct gw_transport *transport, const struct gw_address *local,
                     struct gw_listener **out)
{
    struct fabric_listener *listener = calloc(1, sizeof(*listener));
    struct gw_address bound;
    struct fi_info *info;
    int error = 0;

    if (listener)
        listener->port = calloc(1, sizeof(*listener->port));
    if (!listener || !listener->port) {
        free(listener);
        return gw_fail(-ENOMEM, "fabric: no memory for a listener");
    }
    listener->base.transport = transport;
    listener->port->transport = gw_fabric_transport_of(transport);
    atomic_init(&listener->port->users, 1);
    error = gw_fabric_find(listener->port->transport, local, NULL, &info);
    if (!error) {
        error = port_open(listener->port, info, local);
        listener->port->transport->library.freeinfo(info);
    }
    if (!error)
        error = gw_fabric_listener_address(&listener->base, &bound);
    if (!error)
        gw_fabric_put_signpost(listener->port->transport, &bound, &listener->signpost);
    if (error) {
        gw_fabric_unlisten(&listener->base);
        return error;
    }
    *out = &listener->base;
    return 0;
}

void gw_fabric_unlisten(struct gw_listener *base)
{
    struct fabric_listener *listener = listener_of(base);

    if (listener->signpost)
        gw_unlisten(listener->signpost);
    port_put(listener->port);
    free(listener);
}

int gw_fabric_listener_address(struct gw_listener *base, struct gw_address *out)
{
    struct port *port = listener_of(base)->port;
    size_t size = sizeof(out->storage);
    int answer;

    memset(out, 0, sizeof(*out));
    answer = fi_getname(&port->pep->fid, &out->storage, &size);
    if (answer)
        return gw_fabric_fail(port->transport, answer, "where it listens");
    out->length = (socklen_t)size;
    gw_address_set_port(out, gw_address_port(out) - 1);
    return 0;
}

/* ---- requests ---- */

static void address_of(const void *from, size_t length, struct gw_address *out)
{
    memset(out, 0, sizeof(*out));
    if (from && length <= sizeof(out->storage)) {
        out->length = (socklen_t)length;
        memcpy(&out->storage, from, length);
    }
}

/* Whether the data is that of a godwit of this version; a refusal is logged, since nobody on this side
 * asked for the connection. */
static bool is_welcome(const struct fi_eq_cm_entry *entry, uint32_t length,
                       struct gw_connect_request *out)
{
    struct gw_address peer;
    char text[GW_ADDRESS_TEXT_MAX];

    if (gw_connect_request_decode(&gw_fabric_form, entry->data, length, out) != 0)
        return false;
    if (out->version == GW_WIRE_VERSION)
        return true;
    address_of(entry->info->dest_addr, entry->info->dest_addrlen, &peer);
    gw_log(GW_LOG_WARNING,
           "fabric: %s speaks wire version %u, this side %u: install the same godwit on both",
           gw_address_format(&peer, text, sizeof(text)), out->version, GW_WIRE_VERSION);
    return false;
}

/* NULL, with the request refused, when it is not one for us or there is no memory. */
static struct request *make_request(struct fabric_listener *listener,
                                    const struct fi_eq_cm_entry *entry, uint32_t length)
{
    struct gw_connect_request said = {0};
    struct request *request;

    if (!is_welcome(entry, length, &said)) {
        bool is_other = said.version && said.version != GW_WIRE_VERSION;

        refuse(listener->port, entry->info,
               is_other ? GW_CONNECT_OTHER_VERSION : GW_CONNECT_REFUSED,
               is_other ? "another wire version" : "this is godwit");
        return NULL;
    }
    request = calloc(1, sizeof(*request));
    if (!request) {
        refuse(listener->port, entry->info, GW_CONNECT_REFUSED, "no memory");
        return NULL;
    }
    request->base.transport = listener->base.transport;
    request->base.hello_length = said.hello_length;
    memcpy(request->base.hello, said.hello, sizeof(said.hello));
    address_of(entry->info->src_addr, entry->info->src_addrlen, &request->base.local);
    address_of(entry->info->dest_addr, entry->info->dest_addrlen, &request->base.peer);
    request->info = entry->info;
    request->port = listener->port;
    atomic_fetch_add(&listener->port->users, 1);
    return request;
}

int gw_fabric_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    struct fabric_listener *listener = listener_of(base);
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    _Alignas(struct fi_eq_cm_entry) uint8_t room[EVENT_SIZE];
    struct fi_eq_cm_entry *entry = (struct fi_eq_cm_entry *)room;

    gw_fabric_serve_signpost(listener->port->transport, listener->signpost);
    for (;;) {
        int left_ms = gw_clock_left_ms(deadline_ns);
        struct request *request;
        uint32_t event = 0;
        ssize_t got = fi_eq_sread(listener->port->eq, &event, entry, sizeof(room), left_ms, 0);

        if (got == -FI_EAVAIL) {
            struct fi_eq_err_entry failure = {0};

            fi_eq_readerr(listener->port->eq, &failure, 0);
            continue;
        }
        if (got < 0 && got != -FI_EAGAIN && got != -FI_ETIMEDOUT && got != -FI_EINTR)
            return gw_fabric_fail(listener->port->transport, got, "waiting for requests");
        if (got >= (ssize_t)sizeof(*entry) && event == FI_CONNREQ) {
            request = make_request(listener, entry, (uint32_t)((size_t)got - sizeof(*entry)));
            if (request) {
                *out = &request->base;
                return 0;
            }
        }
        if (left_ms == 0)
            return gw_fail(-ETIMEDOUT, "fabric: no request came within %d ms", timeout_ms);
    }
}

static void request_free(struct request *request)
{
    port_put(request->port);
    free(request);
}

void gw_fabric_reject(struct gw_request *base, const char *reason)
{
    struct request *request = gw_container_of(base, struct request, base);

    refuse(request->port, request->info, GW_CONNECT_REFUSED, reason);
    request_free(request);
}

/* ---- accepting ---- */

static int explain(const struct fabric_transport *transport, int cause)
{
    if (cause == -ETIMEDOUT)
        return gw_fail(-ECONNRESET, "fabric %s: the peer did not go on when it was accepted",
                       transport->provider);
    return gw_fail(-ECONNRESET, "fabric %s: the peer gave up before it was accepted (%s)",
                   transport->provider, transport->library.strerror(cause));
}

static int accept_on(struct fabric_channel *channel)
{
    uint8_t data[FABRIC_CONNECT_DATA_MAX];
    uint32_t length = gw_connect_answer_encode(&gw_fabric_form, GW_CONNECT_ACCEPTED, "", data);
    int answer = fi_accept(channel->ep, data, length);

    return answer ? explain(channel->transport, -answer) : 0;
}

static int await_peer(struct fabric_channel *channel, int timeout_ms)
{
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    uint8_t data[FABRIC_CONNECT_DATA_MAX];
    uint32_t length;
    int cause = gw_fabric_channel_await(channel, deadline_ns, data, &length);

    return cause ? explain(channel->transport, cause) : 0;
}

int gw_fabric_accept(struct gw_request *base, const struct gw_channel_options *options,
                     struct gw_channel **out)
{
    struct request *request = gw_container_of(base, struct request, base);
    struct fabric_channel *channel = NULL;
    struct gw_error kept;
    int error = gw_fabric_channel_new(options, request->info, &channel);

    if (!error)
        error = accept_on(channel);
    if (error) {
        gw_error_take(error, &kept);
        if (channel)
            gw_fabric_channel_free(channel);
        gw_fabric_reject(base, "the peer could not open its end");
        return gw_error_raise(&kept);
    }
    error = await_peer(channel, options->timeout_ms);
    if (!error)
        error = gw_fabric_channel_start(channel, &request->base.local, &request->base.peer);
    request->port->transport->library.freeinfo(request->info);
    request_free(request);
    if (error) {
        gw_error_take(error, &kept);
        gw_fabric_channel_free(channel);
        return gw_error_raise(&kept);
    }
    *out = &channel->base;
    return 0;
}
