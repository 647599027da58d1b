/* SPDX-License-Identifier: Apache-2.0 */
/* The listening side. A request comes whole, with its private data, so nobody has to be waited for;
 * how many wait is the kernel's to bound. An address comes and goes with its device: it is listened on
 * whenever one has it. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/verbs/channel.h"

#define RETRY_NS GW_NS_PER_S

struct verbs_listener {
    struct gw_listener base;
    struct rdma_event_channel *events; /* NULL until there is a device */
    struct rdma_cm_id *id;             /* NULL while no device has the address */
    struct verbs_device *device;       /* that has it; NULL for all addresses */
    struct gw_address bound;           /* with the port */
    uint64_t tried_ns;                 /* to listen */
    pthread_mutex_t lock;              /* protects why; no other is taken with it */
    struct gw_error why;               /* it is not listened on; code 0: it is */
};

struct request {
    struct gw_request base;
    struct rdma_cm_id *id;
};

static struct verbs_listener *listener_of(struct gw_listener *base)
{
    return gw_container_of(base, struct verbs_listener, base);
}

static int no_device(const struct verbs_listener *listener)
{
    char text[GW_ADDRESS_TEXT_MAX];

    return gw_fail(-ENODEV, "verbs: no RDMA device has the address %s",
                   gw_address_format(&listener->bound, text, sizeof(text)));
}

/* Listens with the identifier. Once that is bound it has opened a device: the transport must know, or nobody
 * closes it, also when the rest fails. */
static int use_id(struct verbs_listener *listener, struct rdma_cm_id *id)
{
    struct verbs_transport *transport = gw_verbs_transport_of(listener->base.transport);
    struct gw_address address = listener->bound;
    char text[GW_ADDRESS_TEXT_MAX];
    bool is_bound = rdma_bind_addr(id, (struct sockaddr *)&address.storage) == 0;
    int error = 0;

    if (is_bound && id->verbs)
        error = gw_verbs_device_get(transport, id->verbs, &address, &listener->device);
    if (error || (is_bound && rdma_listen(id, VERBS_BACKLOG) == 0))
        return error;
    return errno == ENODEV ? no_device(listener)
                           : gw_fail_errno(-errno, "verbs: cannot listen on %s",
                                           gw_address_format(&address, text, sizeof(text)));
}

static void drop_id(struct verbs_listener *listener)
{
    if (listener->id)
        rdma_destroy_id(listener->id);
    listener->id = NULL;
    gw_verbs_device_put(gw_verbs_transport_of(listener->base.transport), listener->device);
    listener->device = NULL;
}

static int bind_and_listen(struct verbs_listener *listener)
{
    int error = listener->events ? 0 : gw_verbs_events_new(&listener->events);

    if (error)
        return error;
    if (rdma_create_id(listener->events, &listener->id, NULL, RDMA_PS_TCP) != 0)
        return gw_fail_errno(-errno, "verbs: no connection identifier");
    error = use_id(listener, listener->id);
    if (error) {
        drop_id(listener);
        return error;
    }
    /* Once others know the listener it does not change any more. */
    if (gw_address_port(&listener->bound) == 0)
        gw_address_set_port(&listener->bound, ntohs(rdma_get_src_port(listener->id)));
    return 0;
}

/* Whether it is listened on, and if not why, for whoever asks. */
static void note(struct verbs_listener *listener, int error)
{
    struct gw_error why = {0};

    if (error)
        gw_error_take(error, &why);
    pthread_mutex_lock(&listener->lock);
    listener->why = why;
    pthread_mutex_unlock(&listener->lock);
}

static int start_listening(struct verbs_listener *listener)
{
    int error = bind_and_listen(listener);

    listener->tried_ns = gw_clock_ns();
    note(listener, error);
    return error;
}

/* The device that has the address was removed. One that listens on all addresses stays. */
static void lose_device(struct verbs_listener *listener)
{
    char text[GW_ADDRESS_TEXT_MAX];

    gw_log(GW_LOG_WARNING,
           "verbs: the RDMA device of %s was removed; it is listened on again when there is one",
           gw_address_format(&listener->bound, text, sizeof(text)));
    drop_id(listener);
    note(listener, no_device(listener));
}

/* Once a second at most. A reason is logged once, until there is another. */
static void try_again(struct verbs_listener *listener)
{
    char text[GW_ADDRESS_TEXT_MAX];
    struct gw_error before;

    if (listener->id || gw_clock_ns() - listener->tried_ns < RETRY_NS)
        return;
    /* Nobody else changes it. */
    before = listener->why;
    if (start_listening(listener) == 0)
        gw_log(GW_LOG_WARNING, "verbs: there is an RDMA device, %s is listened on",
               gw_address_format(&listener->bound, text, sizeof(text)));
    else if (strcmp(listener->why.text, before.text) != 0)
        gw_log(GW_LOG_WARNING, "verbs: %s is not listened on yet: %s",
               gw_address_format(&listener->bound, text, sizeof(text)), listener->why.text);
}

int gw_verbs_listen(struct gw_transport *transport, const struct gw_address *local,
                    struct gw_listener **out)
{
    struct verbs_listener *listener = calloc(1, sizeof(*listener));
    int error;

    if (!listener)
        return gw_fail(-ENOMEM, "verbs: no memory for a listener");
    listener->base.transport = transport;
    listener->bound = *local;
    pthread_mutex_init(&listener->lock, NULL);
    error = start_listening(listener);
    /* It may come yet. Which port it would choose then could not be told in time. */
    if (error && (error != -ENODEV || gw_address_port(local) == 0)) {
        gw_verbs_unlisten(&listener->base);
        return error;
    }
    *out = &listener->base;
    return 0;
}

/* Requests that nobody has asked for are refused by the kernel. */
void gw_verbs_unlisten(struct gw_listener *base)
{
    struct verbs_listener *listener = listener_of(base);

    drop_id(listener);
    if (listener->events)
        rdma_destroy_event_channel(listener->events);
    pthread_mutex_destroy(&listener->lock);
    free(listener);
}

int gw_verbs_listener_address(struct gw_listener *base, struct gw_address *out)
{
    struct verbs_listener *listener = listener_of(base);
    struct gw_error why;
    int error;

    pthread_mutex_lock(&listener->lock);
    why = listener->why;
    pthread_mutex_unlock(&listener->lock);
    /* All addresses are listened on for good, by the kernel, whatever devices there are. */
    error = why.code ? gw_error_raise(&why) : gw_verbs_look_for_devices();
    if (!error)
        *out = listener->bound;
    return error;
}

/* ---- requests ---- */

static void refuse(struct rdma_cm_id *id, enum gw_connect_verdict verdict, const char *reason)
{
    uint8_t answer[VERBS_ANSWER_MAX];
    uint32_t length = gw_connect_answer_encode(&gw_verbs_form, verdict, reason, answer);

    rdma_reject(id, answer, (uint8_t)length);
    rdma_destroy_id(id);
}

/* Whether the private data is that of a godwit of this version; a refusal is logged, since nobody on
 * this side asked for the connection. */
static bool is_welcome(const struct rdma_cm_event *event, struct gw_connect_request *out)
{
    const struct rdma_conn_param *conn = &event->param.conn;
    struct gw_address peer;
    char text[GW_ADDRESS_TEXT_MAX];

    if (!conn->private_data || gw_connect_request_decode(&gw_verbs_form, conn->private_data,
                                                         conn->private_data_len, out) != 0)
        return false;
    if (out->version == GW_WIRE_VERSION)
        return true;
    gw_verbs_address_of(rdma_get_peer_addr(event->id), &peer);
    gw_log(GW_LOG_WARNING,
           "verbs: %s speaks wire version %u, this side %u: install the same godwit on both",
           gw_address_format(&peer, text, sizeof(text)), out->version, GW_WIRE_VERSION);
    return false;
}

/* RoCE: the path MTU of a connection is that of the network card of the side that asks (cma_resolve_iboe_route of
 * Linux), and nobody lowers it. Packets that this side's card drops would be repeated until the peer is taken for
 * dead. False, with the reason, when they are larger than what fits into this port's MTU, which a driver that does not know it reports as 0. */
static bool fits_port(struct rdma_cm_id *id, char reason[GW_REASON_MAX])
{
    struct ibv_qp_attr wanted = {.qp_state = IBV_QPS_RTR};
    struct ibv_port_attr port;
    int mask = 0;

    if (rdma_init_qp_attr(id, &wanted, &mask) != 0 || !(mask & IBV_QP_PATH_MTU) ||
        ibv_query_port(id->verbs, id->port_num, &port) != 0 || !port.active_mtu ||
        wanted.path_mtu <= port.active_mtu)
        return true;
    snprintf(reason, GW_REASON_MAX,
             "%.20s/%u takes packets of %u bytes, not %u: give both ends' network cards one MTU",
             ibv_get_device_name(id->verbs->device), id->port_num, 128u << port.active_mtu,
             128u << wanted.path_mtu);
    return false;
}

/* NULL, with the request refused, when it is not one for us or there is no memory. */
static struct request *make_request(struct verbs_listener *listener,
                                    const struct rdma_cm_event *event)
{
    struct gw_connect_request said = {0};
    char reason[GW_REASON_MAX], peer[GW_ADDRESS_TEXT_MAX];
    struct request *request;

    gw_verbs_device_know(gw_verbs_transport_of(listener->base.transport), event->id);
    if (!is_welcome(event, &said)) {
        bool is_other = said.version && said.version != GW_WIRE_VERSION;

        refuse(event->id, is_other ? GW_CONNECT_OTHER_VERSION : GW_CONNECT_REFUSED,
               is_other ? "another wire version" : "this is godwit");
        return NULL;
    }
    if (!fits_port(event->id, reason)) {
        struct gw_address address;

        gw_verbs_address_of(rdma_get_peer_addr(event->id), &address);
        gw_log(GW_LOG_WARNING, "verbs: %s is refused: %s",
               gw_address_format(&address, peer, sizeof(peer)), reason);
        refuse(event->id, GW_CONNECT_REFUSED, reason);
        return NULL;
    }
    request = calloc(1, sizeof(*request));
    if (!request) {
        refuse(event->id, GW_CONNECT_REFUSED, "no memory");
        return NULL;
    }
    request->base.transport = listener->base.transport;
    request->base.hello_length = said.hello_length;
    memcpy(request->base.hello, said.hello, sizeof(said.hello));
    gw_verbs_address_of(rdma_get_local_addr(event->id), &request->base.local);
    gw_verbs_address_of(rdma_get_peer_addr(event->id), &request->base.peer);
    request->id = event->id;
    return request;
}

/* As gw_verbs_event_wait, with or without a device. */
static int wait_for_event(struct verbs_listener *listener, uint64_t deadline_ns,
                          struct rdma_cm_event **out)
{
    if (listener->events)
        return gw_verbs_event_wait(listener->events, deadline_ns, out);
    poll(NULL, 0, gw_clock_left_ms(deadline_ns));
    return -ETIMEDOUT;
}

int gw_verbs_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    struct verbs_listener *listener = listener_of(base);
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;

    try_again(listener);
    for (;;) {
        struct request *request = NULL;
        struct rdma_cm_event *event, copy;
        uint8_t private_data[UINT8_MAX];
        int error = wait_for_event(listener, deadline_ns, &event);

        if (error == -ETIMEDOUT)
            return gw_fail(-ETIMEDOUT, "verbs: no request came within %d ms", timeout_ms);
        if (error)
            return error;
        copy = *event;
        if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST && event->param.conn.private_data) {
            memcpy(private_data, event->param.conn.private_data,
                   event->param.conn.private_data_len);
            copy.param.conn.private_data = private_data;
        }
        /* An identifier cannot be destroyed before its events are acknowledged. */
        rdma_ack_cm_event(event);
        if (copy.event == RDMA_CM_EVENT_CONNECT_REQUEST)
            request = make_request(listener, &copy);
        else if (copy.event == RDMA_CM_EVENT_DEVICE_REMOVAL && copy.id == listener->id)
            lose_device(listener);
        if (request) {
            *out = &request->base;
            return 0;
        }
    }
}

void gw_verbs_reject(struct gw_request *base, const char *reason)
{
    struct request *request = gw_container_of(base, struct request, base);

    refuse(request->id, GW_CONNECT_REFUSED, reason);
    free(request);
}

/* ---- accepting ---- */

static int await_established(struct rdma_event_channel *events, int timeout_ms)
{
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    struct rdma_cm_event *event;
    int error = gw_verbs_event_wait(events, deadline_ns, &event);

    if (error == -ETIMEDOUT)
        return gw_fail(-ECONNRESET, "verbs: the peer did not go on when it was accepted");
    if (error)
        return error;
    if (event->event != RDMA_CM_EVENT_ESTABLISHED)
        error = gw_fail(-ECONNRESET, "verbs: the peer gave up before it was accepted (%s)",
                        rdma_event_str(event->event));
    rdma_ack_cm_event(event);
    return error;
}

static int answer(struct verbs_channel *channel, int timeout_ms)
{
    uint8_t bytes[VERBS_ANSWER_MAX];
    uint32_t length = gw_connect_answer_encode(&gw_verbs_form, GW_CONNECT_ACCEPTED, "", bytes);
    struct rdma_conn_param connection = gw_verbs_connection(bytes, length);

    if (rdma_accept(channel->id, &connection) != 0)
        return gw_fail_errno(-errno, "verbs: accepting");
    return await_established(channel->events, timeout_ms);
}

/* A step failed. The kernel tells nobody that a request was withdrawn before it was accepted: whatever
 * is done with it next is invalid (ucma_event_handler of Linux). */
static int explain(int error)
{
    struct gw_error kept;

    if (error != -EINVAL)
        return error;
    gw_error_take(error, &kept);
    return gw_fail(-ECONNRESET, "verbs: the peer gave up before it was accepted (%.300s)",
                   kept.text);
}

int gw_verbs_accept(struct gw_request *base, const struct gw_channel_options *options,
                    struct gw_channel **out)
{
    struct request *request = gw_container_of(base, struct request, base);
    struct rdma_event_channel *events = NULL;
    struct verbs_channel *channel = NULL;
    struct rdma_cm_id *id = request->id;
    uint8_t timeout = VERBS_ACK_TIMEOUT;
    struct gw_error kept;
    int error = gw_verbs_events_new(&events);

    free(request);
    rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
    if (!error && rdma_migrate_id(id, events) != 0)
        error = gw_fail_errno(-errno, "verbs: the events of a connection cannot be had");
    if (!error)
        error = gw_verbs_channel_new(options, id, events, &channel);
    if (error) {
        gw_error_take(explain(error), &kept);
        refuse(id, GW_CONNECT_REFUSED, "the peer could not open its end");
        if (events)
            rdma_destroy_event_channel(events);
        return gw_error_raise(&kept);
    }
    error = answer(channel, options->timeout_ms);
    if (!error)
        error = gw_verbs_channel_start(channel);
    if (error) {
        gw_error_take(explain(error), &kept);
        gw_verbs_channel_free(channel);
        return gw_error_raise(&kept);
    }
    *out = &channel->base;
    return 0;
}
