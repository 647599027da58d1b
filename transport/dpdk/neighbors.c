/* SPDX-License-Identifier: Apache-2.0 */
/* Who is where: the MAC of a peer or of the gateway to it, asked for by ARP or neighbour discovery,
 * and the same told to whoever asks for this port. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

#define ASK_EVERY_NS  (200 * GW_NS_PER_MS)
#define ASK_FOR_NS    (5 * GW_NS_PER_S)
#define FRESH_NS      (60 * GW_NS_PER_S)
#define LINK_EVERY_NS (20l * 1000000)

void gw_dpdk_neighbors_init(struct dpdk_neighbors *neighbors)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&neighbors->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&neighbors->learned, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void gw_dpdk_neighbors_free(struct dpdk_neighbors *neighbors)
{
    pthread_cond_destroy(&neighbors->learned);
    pthread_mutex_destroy(&neighbors->lock);
}

bool gw_dpdk_is_local(const struct dpdk_transport *transport, const struct dpdk_host *host)
{
    for (unsigned i = 0; i < transport->settings.local_count; i++)
        if (gw_dpdk_host_is_same(&transport->settings.locals[i].host, host))
            return true;
    return false;
}

/* ---- frames of neighbours ---- */

void gw_dpdk_neighbor_frame(struct dpdk_transport *transport, const struct dpdk_frame *frame)
{
    struct dpdk_neighbors *neighbors = &transport->neighbors;
    uint8_t answer[DPDK_NEIGHBOR_MAX];

    if (frame->kind == DPDK_FRAME_NEIGHBOR_ASKED) {
        if (gw_dpdk_is_local(transport, &frame->target))
            gw_dpdk_port_send_frame(&transport->port, answer,
                                    gw_dpdk_neighbor_tell(&transport->port.mac, frame, answer));
        return;
    }
    pthread_mutex_lock(&neighbors->lock);
    for (unsigned i = 0; i < neighbors->count; i++) {
        struct dpdk_neighbor *neighbor = &neighbors->list[i];

        if (neighbor->is_known || !gw_dpdk_host_is_same(&neighbor->host, &frame->source))
            continue;
        neighbor->mac = frame->source_mac;
        neighbor->is_known = true;
        neighbor->since_ns = gw_clock_ns();
        pthread_cond_broadcast(&neighbors->learned);
    }
    pthread_mutex_unlock(&neighbors->lock);
}

/* ---- finding ---- */

/* Under the lock. The oldest makes room. */
static struct dpdk_neighbor *find_or_add(struct dpdk_neighbors *neighbors,
                                         const struct dpdk_host *host)
{
    struct dpdk_neighbor *oldest = &neighbors->list[0];

    for (unsigned i = 0; i < neighbors->count; i++) {
        if (gw_dpdk_host_is_same(&neighbors->list[i].host, host))
            return &neighbors->list[i];
        if (neighbors->list[i].since_ns < oldest->since_ns)
            oldest = &neighbors->list[i];
    }
    if (neighbors->count < DPDK_NEIGHBORS_MAX)
        oldest = &neighbors->list[neighbors->count++];
    *oldest = (struct dpdk_neighbor){.host = *host, .since_ns = gw_clock_ns()};
    return oldest;
}

static bool is_known(const struct dpdk_neighbor *neighbor)
{
    return neighbor->is_known && gw_clock_ns() - neighbor->since_ns < FRESH_NS;
}

static void ask(struct dpdk_transport *transport, const struct dpdk_host *local,
                const struct dpdk_host *host)
{
    uint8_t frame[DPDK_NEIGHBOR_MAX];

    gw_dpdk_port_send_frame(&transport->port, frame,
                            gw_dpdk_neighbor_ask(&transport->port.mac, local, host, frame));
}

static int resolve(struct dpdk_transport *transport, const struct dpdk_host *local,
                   const struct dpdk_host *host, uint64_t deadline_ns, struct dpdk_mac *out)
{
    struct dpdk_neighbors *neighbors = &transport->neighbors;
    char text[GW_ADDRESS_TEXT_MAX];
    struct gw_address address;
    bool is_found = false;
    int error;

    pthread_mutex_lock(&neighbors->lock);
    for (uint64_t now = gw_clock_ns(); !is_found && now < deadline_ns; now = gw_clock_ns()) {
        struct dpdk_neighbor *neighbor = find_or_add(neighbors, host);
        uint64_t until = gw_min(now + ASK_EVERY_NS, deadline_ns);
        struct timespec wait = {.tv_sec = (time_t)(until / GW_NS_PER_S),
                                .tv_nsec = (long)(until % GW_NS_PER_S)};

        is_found = is_known(neighbor);
        if (is_found) {
            *out = neighbor->mac;
            break;
        }
        neighbor->is_known = false;
        pthread_mutex_unlock(&neighbors->lock);
        ask(transport, local, host);
        pthread_mutex_lock(&neighbors->lock);
        if (!is_known(find_or_add(neighbors, host)))
            pthread_cond_timedwait(&neighbors->learned, &neighbors->lock, &wait);
    }
    pthread_mutex_unlock(&neighbors->lock);
    if (is_found)
        return 0;
    /* The kernel may tell of a link that is lost a while after it was. */
    gw_dpdk_port_look(&transport->port);
    error = gw_dpdk_port_error(&transport->port);
    if (error)
        return error;
    gw_dpdk_host_to_address(host, 0, &address);
    gw_address_format(&address, text, sizeof(text));
    return gw_fail(-EHOSTUNREACH, "dpdk: nobody answers for %.*s on the port's network",
                   (int)(strrchr(text, ':') - text), text);
}

static bool is_on_network(const struct dpdk_local *local, const struct dpdk_host *host)
{
    unsigned bits = local->prefix_bits, bytes = bits / 8;

    if (local->host.is_ipv6 != host->is_ipv6 || memcmp(local->host.bytes, host->bytes, bytes) != 0)
        return false;
    return bits % 8 == 0 ||
           ((local->host.bytes[bytes] ^ host->bytes[bytes]) >> (8 - bits % 8)) == 0;
}

/* A port that was just started has its link after a while, a few seconds on a real one. One that heard
 * something over it and lost it is not waited for: there may be another way to the peer. */
static int wait_for_link(struct dpdk_transport *transport, uint64_t deadline_ns)
{
    struct timespec wait = {.tv_nsec = LINK_EVERY_NS};
    enum dpdk_port_state state;

    while ((state = gw_dpdk_port_look(&transport->port)) == DPDK_PORT_NEW &&
           gw_clock_ns() < deadline_ns)
        nanosleep(&wait, NULL);
    return state == DPDK_PORT_UP ? 0 : gw_dpdk_port_error(&transport->port);
}

int gw_dpdk_route(struct dpdk_transport *transport, struct dpdk_flow *flow, int timeout_ms)
{
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
    const struct dpdk_settings *settings = &transport->settings;
    const struct dpdk_host *hop = &flow->peer;
    const struct dpdk_local *chosen = NULL;
    int error;

    for (unsigned i = 0; i < settings->local_count && !chosen; i++)
        if (is_on_network(&settings->locals[i], &flow->peer))
            chosen = &settings->locals[i];
    if (!chosen && settings->has_gateway[flow->peer.is_ipv6]) {
        hop = &settings->gateways[flow->peer.is_ipv6];
        for (unsigned i = 0; i < settings->local_count && !chosen; i++)
            if (settings->locals[i].host.is_ipv6 == flow->peer.is_ipv6)
                chosen = &settings->locals[i];
    }
    if (!chosen)
        return gw_fail(-ENETUNREACH, "dpdk: the peer is not on the port's network, and there is no "
                                     "gateway: [dpdk] gateway = ...");
    flow->local = chosen->host;
    flow->local_mac = transport->port.mac;
    if (gw_dpdk_is_local(transport, &flow->peer))
        return gw_fail(-EHOSTUNREACH, "dpdk: the peer is this port itself");
    error = wait_for_link(transport, deadline_ns);
    return error ? error
                 : resolve(transport, &flow->local, hop,
                           gw_min(deadline_ns, gw_clock_ns() + ASK_FOR_NS), &flow->peer_mac);
}
