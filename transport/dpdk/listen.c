/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks for a channel. An OPEN is read here and authenticated at accept, where the secret is; its
 * sender repeats it until it is answered, so each is looked at once. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

struct dpdk_listener {
    struct gw_listener base;
    struct dpdk_endpoint endpoint;
    struct gw_address address;
};

static struct dpdk_listener *listener_of(struct gw_listener *base)
{
    return gw_container_of(base, struct dpdk_listener, base);
}

int gw_dpdk_listen(struct gw_transport *base, const struct gw_address *local,
                   struct gw_listener **out)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base);
    struct dpdk_listener *listener = calloc(1, sizeof(*listener));
    int error;

    if (!listener)
        return gw_fail(-ENOMEM, "dpdk: no memory for a listener");
    listener->base.transport = base;
    error = gw_dpdk_endpoint_open(transport, false, (uint16_t)gw_address_port(local),
                                  &listener->endpoint);
    if (error) {
        free(listener);
        return error;
    }
    gw_dpdk_host_to_address(&transport->settings.locals[0].host, listener->endpoint.udp_port,
                            &listener->address);
    atomic_fetch_add(&transport->listener_count, 1);
    *out = &listener->base;
    return 0;
}

void gw_dpdk_unlisten(struct gw_listener *base)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base->transport);
    struct dpdk_listener *listener = listener_of(base);

    gw_dpdk_endpoint_close(transport, &listener->endpoint);
    atomic_fetch_sub(&transport->listener_count, 1);
    free(listener);
}

int gw_dpdk_listener_address(struct gw_listener *base, struct gw_address *out)
{
    *out = listener_of(base)->address;
    return 0;
}

/* ---- answers ---- */

/* Under the transport's lock. */
static struct dpdk_answered *find_answered(struct dpdk_transport *transport, const uint8_t *nonce)
{
    for (unsigned i = 0; i < DPDK_ANSWERED_MAX; i++)
        if (memcmp(transport->answered[i].nonce, nonce, DPDK_NONCE_SIZE) == 0)
            return &transport->answered[i];
    return NULL;
}

static void send_refusal(struct dpdk_transport *transport, const struct dpdk_flow *flow,
                         const struct dpdk_open *open, const char *reason)
{
    uint8_t datagram[DPDK_DATAGRAM_MIN];

    gw_dpdk_refuse_encode(open, reason, datagram);
    gw_dpdk_port_send_datagram(&transport->port, flow, datagram, sizeof(datagram));
}

/* True when this OPEN was seen before; one that was refused is refused again. */
static bool is_repeated(struct dpdk_transport *transport, const struct dpdk_request *request)
{
    struct dpdk_answered *before, kept = {.is_refused = false};

    pthread_mutex_lock(&transport->lock);
    before = find_answered(transport, request->open.nonce);
    if (before) {
        kept = *before;
    } else {
        struct dpdk_answered *place =
            &transport->answered[transport->answered_next++ % DPDK_ANSWERED_MAX];

        memset(place, 0, sizeof(*place));
        memcpy(place->nonce, request->open.nonce, DPDK_NONCE_SIZE);
    }
    pthread_mutex_unlock(&transport->lock);
    if (kept.is_refused)
        send_refusal(transport, &request->flow, &request->open, kept.reason);
    return before != NULL;
}

void gw_dpdk_reject(struct gw_request *base, const char *reason)
{
    struct dpdk_request *request = gw_container_of(base, struct dpdk_request, base);
    struct dpdk_transport *transport = gw_dpdk_transport_of(base->transport);
    struct dpdk_answered *answered;

    pthread_mutex_lock(&transport->lock);
    answered = find_answered(transport, request->open.nonce);
    if (answered) {
        answered->is_refused = true;
        snprintf(answered->reason, sizeof(answered->reason), "%s", reason);
    }
    pthread_mutex_unlock(&transport->lock);
    send_refusal(transport, &request->flow, &request->open, reason);
    free(request);
}

/* ---- requests ---- */

static bool is_our_version(struct dpdk_transport *transport, const struct dpdk_request *request)
{
    unsigned version = request->open.datagram[0];
    char reason[GW_REASON_MAX];

    if (request->open.wire_version == GW_WIRE_VERSION && version == DPDK_VERSION)
        return true;
    snprintf(reason, sizeof(reason),
             "the peer speaks wire version %u and dpdk's %u, this host %u and %u: install the same "
             "version on both",
             request->open.wire_version, version, GW_WIRE_VERSION, DPDK_VERSION);
    send_refusal(transport, &request->flow, &request->open, reason);
    return false;
}

/* The request in a datagram; NULL when it is none, or one that was seen before. */
static struct dpdk_request *read_request(struct dpdk_listener *listener, struct rte_mbuf *mbuf)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(listener->base.transport);
    const uint8_t *bytes = rte_pktmbuf_mtod(mbuf, const uint8_t *);
    struct dpdk_request *request = calloc(1, sizeof(*request));
    struct dpdk_frame frame;

    if (!request)
        return NULL;
    gw_dpdk_frame_read(bytes, rte_pktmbuf_data_len(mbuf), true, &frame);
    if (frame.kind != DPDK_FRAME_UDP || !gw_dpdk_udp_is_sound(bytes, &frame) ||
        gw_dpdk_open_decode(bytes + frame.payload, frame.payload_length, &request->open) != 0) {
        free(request);
        return NULL;
    }
    gw_dpdk_flow_back(transport, &frame, &request->flow);
    if (!is_our_version(transport, request) || is_repeated(transport, request)) {
        free(request);
        return NULL;
    }
    request->base.transport = listener->base.transport;
    gw_dpdk_host_to_address(&frame.target, frame.target_port, &request->base.local);
    gw_dpdk_host_to_address(&frame.source, frame.source_port, &request->base.peer);
    request->base.hello_length = request->open.hello_length;
    memcpy(request->base.hello, request->open.hello, request->open.hello_length);
    return request;
}

int gw_dpdk_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    struct dpdk_listener *listener = listener_of(base);
    struct pollfd item = {.fd = listener->endpoint.wake_fd, .events = POLLIN};

    for (;;) {
        void *mbuf;

        /* What comes from now on wakes it. No more than what may lie there already is looked at before the
         * clock is: strangers may send for ever. */
        atomic_store(&listener->endpoint.is_waiting, true);
        for (unsigned i = 0;
             i < DPDK_REQUESTS_SIZE && rte_ring_dequeue(listener->endpoint.inbox, &mbuf) == 0;
             i++) {
            struct dpdk_request *request = read_request(listener, mbuf);

            rte_pktmbuf_free(mbuf);
            if (request) {
                *out = &request->base;
                return 0;
            }
        }
        if (gw_clock_ns() >= deadline_ns)
            return gw_fail(-ETIMEDOUT, "dpdk: no request within %d ms", timeout_ms);
        if (poll(&item, 1, gw_clock_left_ms(deadline_ns)) > 0)
            gw_dpdk_unwake(listener->endpoint.wake_fd);
    }
}
