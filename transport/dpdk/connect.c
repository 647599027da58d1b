/* SPDX-License-Identifier: Apache-2.0 */
/* Makes channels. A core that is being made is driven by the thread that makes it; then its poller's
 * thread finds it. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/clock.h"
#include "transport/dpdk/dpdk.h"

#define SETUP_TURN_MS 5 /* between looks at what a channel that is being made has to send */

static struct dpdk_transport *transport_of(const struct dpdk_poller *poller)
{
    return gw_dpdk_transport_of(poller->base.transport);
}

/* ---- slots ---- */

static int take_slot(struct dpdk_poller *poller, struct dpdk_channel *channel)
{
    for (unsigned i = 0; i < DPDK_CHANNELS_MAX; i++) {
        struct dpdk_slot *slot = &poller->slots[i];

        if (atomic_load(&slot->state) != DPDK_SLOT_FREE)
            continue;
        channel->id = i;
        slot->channel = channel;
        atomic_store(&slot->incarnation, channel->incarnation);
        atomic_store(&slot->state, DPDK_SLOT_SETUP);
        return 0;
    }
    return gw_fail(-ENOSPC, "dpdk: more than %u channels on one worker", DPDK_CHANNELS_MAX);
}

void gw_dpdk_channel_free(struct dpdk_channel *channel)
{
    struct dpdk_slot *slot = &channel->poller->slots[channel->id];

    if (slot->channel == channel) {
        slot->channel = NULL;
        atomic_store(&slot->state, DPDK_SLOT_FREE);
    }
    gw_dpdk_core_free(channel->core);
    free(channel);
}

/* From now on the poller's thread has it. Under setup_lock: another thread that makes a channel on this
 * poller may have found it by a datagram. */
static void give_to_poller(struct dpdk_channel *channel)
{
    struct dpdk_poller *poller = channel->poller;

    atomic_store_explicit(&poller->slots[channel->id].state, DPDK_SLOT_OPEN, memory_order_release);
    atomic_fetch_add(&poller->changes, 1);
    gw_dpdk_wake(poller->endpoint.wake_fd);
}

/* A peer that fell silent while the port has no link is not to blame. */
static int explain_silence(const void *context)
{
    return gw_dpdk_port_error(context);
}

static int new_channel(const struct gw_channel_options *options, const struct dpdk_flow *flow,
                       struct dpdk_core_options *core, struct dpdk_channel **out)
{
    struct dpdk_poller *poller = gw_dpdk_poller_of(options->poller);
    struct dpdk_domain *domain = gw_container_of(options->domain, struct dpdk_domain, base);
    struct dpdk_channel *channel = calloc(1, sizeof(*channel));
    struct gw_error kept;
    int error;

    if (!channel)
        return gw_fail(-ENOMEM, "dpdk: no memory for a channel");
    channel->base = (struct gw_channel){.domain = options->domain, .context = options->context};
    channel->poller = poller;
    channel->flow = *flow;
    channel->flow.local_port = poller->endpoint.udp_port;
    *core = (struct dpdk_core_options){
        .regions = &domain->regions,
        .number = options->number,
        .secret = options->secret,
        .secret_length = options->secret_length,
        .port = poller->endpoint.udp_port,
        .max_length = gw_dpdk_port_max_length(&transport_of(poller)->port, flow->local.is_ipv6),
        .explain_silence = explain_silence,
        .context = &transport_of(poller)->port,
        .now_ns = gw_clock_ns(),
    };
    if (getrandom(core->nonce, sizeof(core->nonce), 0) != sizeof(core->nonce) ||
        getrandom(&channel->incarnation, sizeof(channel->incarnation), 0) !=
            sizeof(channel->incarnation)) {
        free(channel);
        return gw_fail(-EIO, "dpdk: no random bytes");
    }
    channel->incarnation |= channel->incarnation == 0;
    core->incarnation = channel->incarnation;
    error = take_slot(poller, channel);
    if (error) {
        gw_error_take(error, &kept);
        free(channel);
        return gw_error_raise(&kept);
    }
    core->id = channel->id;
    *out = channel;
    return 0;
}

/* Under setup_lock, or alone with the channel. */
static int give_up(struct dpdk_channel *channel, int error)
{
    struct gw_error kept;

    gw_error_take(error, &kept);
    gw_dpdk_channel_free(channel);
    return gw_error_raise(&kept);
}

/* ---- dialling ---- */

/* What came for channels of this poller that are being made, by whichever thread. As much as its inbox holds:
 * somebody may fill it again and again. */
static void take_in_setup(struct dpdk_poller *poller)
{
    uint64_t now_ns = gw_clock_ns();
    void *mbuf;

    for (unsigned i = 0;
         i < DPDK_REQUESTS_SIZE && rte_ring_dequeue(poller->setup_inbox, &mbuf) == 0; i++) {
        struct dpdk_arrival arrival = {.mbuf = mbuf};

        gw_dpdk_frame_read(rte_pktmbuf_mtod(arrival.mbuf, uint8_t *),
                           rte_pktmbuf_data_len(arrival.mbuf), true, &arrival.frame);
        gw_dpdk_take_in(poller, DPDK_SLOT_SETUP, &arrival, 1, now_ns);
    }
}

static void wait_for_setup(struct dpdk_poller *poller, uint64_t deadline_ns)
{
    struct pollfd item = {.fd = poller->setup_fd, .events = POLLIN};

    if (poll(&item, 1, (int)gw_min((uint64_t)gw_clock_left_ms(deadline_ns), SETUP_TURN_MS)) > 0)
        gw_dpdk_unwake(poller->setup_fd);
}

/* Until the peer has answered. */
static int drive(struct dpdk_channel *channel, const struct gw_address *peer, uint64_t deadline_ns)
{
    struct dpdk_poller *poller = channel->poller;
    enum dpdk_state state = DPDK_OPENING;
    char text[GW_ADDRESS_TEXT_MAX];

    for (;;) {
        pthread_mutex_lock(&poller->setup_lock);
        take_in_setup(poller);
        state = gw_dpdk_core_state(channel->core);
        if (state != DPDK_DEAD)
            gw_dpdk_send_burst(channel, gw_clock_ns());
        pthread_mutex_unlock(&poller->setup_lock);
        if (state == DPDK_OPEN)
            return 0;
        if (state == DPDK_DEAD)
            return gw_dpdk_core_error(channel->core);
        if (gw_clock_ns() >= deadline_ns)
            return gw_fail(-ETIMEDOUT, "dpdk: %s does not answer",
                           gw_address_format(peer, text, sizeof(text)));
        wait_for_setup(poller, deadline_ns);
    }
}

int gw_dpdk_connect(struct gw_transport *base, const struct gw_connect_options *options,
                    struct gw_channel **out)
{
    struct dpdk_transport *transport = gw_dpdk_transport_of(base);
    struct dpdk_poller *poller = gw_dpdk_poller_of(options->channel.poller);
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)options->channel.timeout_ms * GW_NS_PER_MS;
    struct dpdk_flow flow = {.peer_port = (uint16_t)gw_address_port(&options->peer)};
    struct dpdk_core_options core;
    struct dpdk_channel *channel;
    int error;

    gw_dpdk_host_of(&options->peer, &flow.peer);
    atomic_fetch_add(&transport->waiting_count, 1);
    error = gw_dpdk_route(transport, &flow, options->channel.timeout_ms);
    if (!error) {
        pthread_mutex_lock(&poller->setup_lock);
        error = new_channel(&options->channel, &flow, &core, &channel);
        if (!error) {
            error = gw_dpdk_core_dial(&core, options->hello, options->hello_length, &channel->core);
            if (error)
                give_up(channel, error);
        }
        pthread_mutex_unlock(&poller->setup_lock);
    }
    if (!error) {
        error = drive(channel, &options->peer, deadline_ns);
        pthread_mutex_lock(&poller->setup_lock);
        if (error)
            give_up(channel, error);
        else
            give_to_poller(channel);
        pthread_mutex_unlock(&poller->setup_lock);
    }
    atomic_fetch_sub(&transport->waiting_count, 1);
    if (!error)
        *out = &channel->base;
    return error;
}

/* ---- accepting ---- */

int gw_dpdk_accept(struct gw_request *base, const struct gw_channel_options *options,
                   struct gw_channel **out)
{
    struct dpdk_request *request = gw_container_of(base, struct dpdk_request, base);
    struct dpdk_poller *poller = gw_dpdk_poller_of(options->poller);
    struct dpdk_core_options core;
    struct dpdk_channel *channel;
    int error;

    pthread_mutex_lock(&poller->setup_lock);
    error = new_channel(options, &request->flow, &core, &channel);
    if (!error) {
        error = gw_dpdk_core_answer(&core, &request->open, &channel->core);
        if (error)
            give_up(channel, error);
    }
    /* The answer goes out now: the poller may not be polled for a while. */
    if (!error) {
        gw_dpdk_send_burst(channel, gw_clock_ns());
        give_to_poller(channel);
    }
    pthread_mutex_unlock(&poller->setup_lock);
    if (error) {
        struct gw_error cause;

        gw_error_take(error, &cause);
        gw_dpdk_reject(base, "the peer could not open its end");
        return gw_error_raise(&cause);
    }
    free(request);
    *out = &channel->base;
    return 0;
}
