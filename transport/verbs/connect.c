/* SPDX-License-Identifier: Apache-2.0 */
/* Connects: address, route, request, answer, all within one deadline. The route chooses the device,
 * its port and, with RoCE, the GID whose address is the route's own (rdma_resolve_addr(3)). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>

#include "common/clock.h"
#include "transport/verbs/channel.h"

struct attempt {
    const struct gw_connect_options *options;
    uint64_t deadline_ns;
    char peer[GW_ADDRESS_TEXT_MAX];
    struct rdma_event_channel *events;
    struct rdma_cm_id *id;
    struct verbs_channel *channel; /* owns events and id once it is there */
};

int gw_verbs_events_new(struct rdma_event_channel **out)
{
    struct rdma_event_channel *events = rdma_create_event_channel();

    int cause = errno;

    if (!events && gw_verbs_look_for_devices() != 0)
        return -ENODEV;
    if (!events)
        return gw_fail(-ENODEV,
                       "verbs: connections cannot be managed (%s): is the module rdma_ucm "
                       "loaded, and /dev/infiniband/rdma_cm there?",
                       strerrordesc_np(cause));
    if (fcntl(events->fd, F_SETFL, O_NONBLOCK) != 0 ||
        fcntl(events->fd, F_SETFD, FD_CLOEXEC) != 0) {
        rdma_destroy_event_channel(events);
        return gw_fail_errno(-errno, "verbs: connection events");
    }
    *out = events;
    return 0;
}

int gw_verbs_event_wait(struct rdma_event_channel *events, uint64_t deadline_ns,
                        struct rdma_cm_event **out)
{
    for (;;) {
        struct pollfd readable = {.fd = events->fd, .events = POLLIN};
        int left_ms;

        if (rdma_get_cm_event(events, out) == 0)
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            return gw_fail_errno(-errno, "verbs: connection events");
        left_ms = gw_clock_left_ms(deadline_ns);
        if (left_ms == 0)
            return -ETIMEDOUT;
        poll(&readable, 1, left_ms);
    }
}

struct rdma_conn_param gw_verbs_connection(const void *private_data, uint32_t length)
{
    return (struct rdma_conn_param){.private_data = private_data,
                                    .private_data_len = (uint8_t)length,
                                    .retry_count = VERBS_RETRIES,
                                    .rnr_retry_count = VERBS_RNR_RETRIES};
}

/* ---- what an attempt may come to ---- */

static int explain_version(const char *peer, unsigned version)
{
    return gw_fail(
        -EPROTO, "verbs: %s speaks wire version %u, this side %u: install the same godwit on both",
        peer, version, GW_WIRE_VERSION);
}

static int explain_rejection(const struct attempt *attempt, const struct rdma_cm_event *event)
{
    const struct rdma_conn_param *conn = &event->param.conn;
    struct gw_connect_answer answer;

    if (conn->private_data && gw_connect_answer_decode(&gw_verbs_form, conn->private_data,
                                                       conn->private_data_len, &answer) == 0) {
        if (answer.version != GW_WIRE_VERSION || answer.verdict == GW_CONNECT_OTHER_VERSION)
            return explain_version(attempt->peer, answer.version);
        return gw_fail(-ECONNREFUSED, "verbs %s refused: %s", attempt->peer, answer.reason);
    }
    /* IB_CM_REJ_INVALID_SERVICE_ID, IBTA table 103: no listener at this port. */
    if (event->status == 8)
        return gw_fail(-ECONNREFUSED, "verbs %s: nothing listens there for RDMA", attempt->peer);
    return gw_fail(-ECONNREFUSED, "verbs %s: refused without a reason (status %d)", attempt->peer,
                   event->status);
}

static int explain(const struct attempt *attempt, const struct rdma_cm_event *event)
{
    int cause = event->status < 0 ? -event->status : event->status;

    switch (event->event) {
    case RDMA_CM_EVENT_REJECTED:
        return explain_rejection(attempt, event);
    case RDMA_CM_EVENT_UNREACHABLE:
        return gw_fail(-ETIMEDOUT, "verbs: %s does not answer connection requests", attempt->peer);
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
        if (cause == ETIMEDOUT)
            return gw_fail(-EHOSTUNREACH, "verbs: %s does not answer on its network",
                           attempt->peer);
        return gw_fail(-EHOSTUNREACH, "verbs: no RDMA device reaches %s (%s)", attempt->peer,
                       cause ? strerrordesc_np(cause) : "no route");
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        return gw_fail(-ENODEV, "verbs: the device was removed while connecting to %s",
                       attempt->peer);
    default:
        return gw_fail(-EPROTO, "verbs %s: the connection failed (%s, status %d)", attempt->peer,
                       rdma_event_str(event->event), event->status);
    }
}

static int check_answer(const struct attempt *attempt, const struct rdma_conn_param *conn)
{
    struct gw_connect_answer answer;

    if (!conn->private_data ||
        gw_connect_answer_decode(&gw_verbs_form, conn->private_data, conn->private_data_len,
                                 &answer) != 0 ||
        answer.verdict != GW_CONNECT_ACCEPTED)
        return gw_fail(-EPROTO, "verbs %s: something other than godwit listens there",
                       attempt->peer);
    return answer.version == GW_WIRE_VERSION ? 0 : explain_version(attempt->peer, answer.version);
}

/* Waits for the event that the step ends with. */
static int expect(struct attempt *attempt, enum rdma_cm_event_type wanted)
{
    struct rdma_cm_event *event;
    int error = gw_verbs_event_wait(attempt->events, attempt->deadline_ns, &event);

    if (error == -ETIMEDOUT)
        return gw_fail(-ETIMEDOUT, "verbs: %s did not answer in time", attempt->peer);
    if (error)
        return error;
    if (event->event != wanted)
        error = explain(attempt, event);
    else if (wanted == RDMA_CM_EVENT_ESTABLISHED)
        error = check_answer(attempt, &event->param.conn);
    rdma_ack_cm_event(event);
    return error;
}

/* ---- the steps ---- */

/* The kernel takes 0 for nonsense. */
static int left_ms(const struct attempt *attempt)
{
    return (int)gw_max(1, (uint64_t)gw_clock_left_ms(attempt->deadline_ns));
}

static int resolve(struct attempt *attempt)
{
    const struct gw_connect_options *options = attempt->options;
    struct verbs_domain *domain = gw_verbs_domain_of(options->channel.domain);
    struct gw_address peer = options->peer, local;
    uint8_t timeout = VERBS_ACK_TIMEOUT;
    bool has_local = options->local || domain->has_local;
    int error;

    if (has_local) {
        local = options->local ? *options->local : domain->local;
        gw_address_set_port(&local, 0);
    }
    /* Where it cannot be set, the kernel's choice is a few times longer. */
    rdma_set_option(attempt->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout,
                    sizeof(timeout));
    if (rdma_resolve_addr(attempt->id, has_local ? (struct sockaddr *)&local.storage : NULL,
                          (struct sockaddr *)&peer.storage, left_ms(attempt)) != 0)
        return errno == ENODEV || errno == EADDRNOTAVAIL || errno == ENETUNREACH
                   ? gw_fail(-EHOSTUNREACH, "verbs: no RDMA device of this host reaches %s",
                             attempt->peer)
                   : gw_fail_errno(-errno, "verbs: %s", attempt->peer);
    error = expect(attempt, RDMA_CM_EVENT_ADDR_RESOLVED);
    if (error)
        return error;
    gw_verbs_device_know(gw_verbs_transport_of(domain->base.transport), attempt->id);
    if (rdma_resolve_route(attempt->id, left_ms(attempt)) != 0)
        return gw_fail_errno(-errno, "verbs: no route to %s", attempt->peer);
    return expect(attempt, RDMA_CM_EVENT_ROUTE_RESOLVED);
}

static int ask(struct attempt *attempt)
{
    const struct gw_connect_options *options = attempt->options;
    uint8_t request[VERBS_REQUEST_SIZE];
    struct rdma_conn_param connection = gw_verbs_connection(request, sizeof(request));

    gw_connect_request_encode(&gw_verbs_form, options->hello, options->hello_length, request);
    if (rdma_connect(attempt->id, &connection) != 0)
        return gw_fail_errno(-errno, "verbs: %s", attempt->peer);
    return expect(attempt, RDMA_CM_EVENT_ESTABLISHED);
}

static void give_up(struct attempt *attempt)
{
    struct gw_error kept;

    gw_error_take(0, &kept);
    if (attempt->channel) {
        gw_verbs_channel_free(attempt->channel);
    } else {
        if (attempt->id)
            rdma_destroy_id(attempt->id);
        if (attempt->events)
            rdma_destroy_event_channel(attempt->events);
    }
    gw_error_raise(&kept);
}

int gw_verbs_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                     struct gw_channel **out)
{
    struct attempt attempt = {.options = options,
                              .deadline_ns = gw_clock_ns() +
                                             (uint64_t)options->channel.timeout_ms * GW_NS_PER_MS};
    int error = gw_verbs_events_new(&attempt.events);

    gw_address_format(&options->peer, attempt.peer, sizeof(attempt.peer));
    if (!error && rdma_create_id(attempt.events, &attempt.id, NULL, RDMA_PS_TCP) != 0)
        error = gw_fail_errno(-errno, "verbs: no connection identifier");
    if (!error)
        error = resolve(&attempt);
    if (!error)
        error =
            gw_verbs_channel_new(&options->channel, attempt.id, attempt.events, &attempt.channel);
    if (!error)
        error = ask(&attempt);
    if (!error)
        error = gw_verbs_channel_start(attempt.channel);
    if (error) {
        give_up(&attempt);
        return error;
    }
    *out = &attempt.channel->base;
    return 0;
}
