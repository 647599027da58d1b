/* SPDX-License-Identifier: Apache-2.0 */
/* The life and death of a channel; what it does while it lives is in send.c and receive.c. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "transport/fabric/channel.h"

#define HEADERS_SIZE  (FABRIC_SEND_DEPTH * FABRIC_SMALL_SIZE)
#define SLOTS_SIZE    (GW_RECEIVES * GW_SEND_SIZE_MAX)
#define RECEIVES_SIZE (FABRIC_RECEIVE_DEPTH * GW_SEND_SIZE_MAX)
#define EVENT_SIZE    (sizeof(struct fi_eq_cm_entry) + 256)

/* ---- making one ---- */

static int open_memory(struct fabric_channel *channel)
{
    size_t size = gw_align_up(HEADERS_SIZE + SLOTS_SIZE + RECEIVES_SIZE, 4096);
    int error = gw_memory_new(size, &channel->memory);

    if (error)
        return error;
    channel->memory_size = size;
    channel->sender.headers = channel->memory;
    channel->sender.slots = channel->sender.headers + HEADERS_SIZE;
    gw_inbox_init(&channel->receiver.inbox, channel->sender.slots + SLOTS_SIZE,
                  FABRIC_RECEIVE_DEPTH, &channel->credit);
    return gw_fabric_register(channel->domain, channel->memory, size, FI_SEND | FI_RECV,
                              &channel->mr);
}

/* Queues with something to wait on, where the provider has that. */
static int open_queues(struct fabric_channel *channel)
{
    struct fabric_domain *domain = channel->domain;
    struct fi_eq_attr events = {.wait_obj = FI_WAIT_FD};
    struct fi_cq_attr completions = {.size = FABRIC_SEND_DEPTH + FABRIC_RECEIVE_DEPTH,
                                     .format = FI_CQ_FORMAT_MSG,
                                     .wait_obj = FI_WAIT_FD};
    int answer = 0;

    if (!channel->transport->is_rdm)
        answer = fi_eq_open(domain->fabric, &events, &channel->eq, NULL);
    if (answer)
        return gw_fabric_fail(channel->transport, answer, "no event queue");
    if (channel->eq && fi_control(&channel->eq->fid, FI_GETWAIT, &channel->eq_fd) != 0)
        channel->eq_fd = -1;
    answer = fi_cq_open(domain->domain, &completions, &channel->cq, NULL);
    if (answer == 0 && fi_control(&channel->cq->fid, FI_GETWAIT, &channel->cq_fd) != 0)
        channel->cq_fd = -1;
    if (answer == -FI_ENOSYS || answer == -FI_EINVAL) {
        completions.wait_obj = FI_WAIT_NONE;
        answer = fi_cq_open(domain->domain, &completions, &channel->cq, NULL);
    }
    return answer ? gw_fabric_fail(channel->transport, answer, "no completion queue") : 0;
}

static int open_endpoint(struct fabric_channel *channel, struct fi_info *info)
{
    size_t data_size = 0, size = sizeof(data_size);
    int answer = fi_endpoint(channel->domain->domain, info, &channel->ep, channel), error;

    if (answer == 0 && channel->transport->is_rdm) {
        error = gw_fabric_rdm_open(channel, info);
        if (error)
            return error;
    }
    if (answer == 0 && channel->eq)
        answer = fi_ep_bind(channel->ep, &channel->eq->fid, 0);
    if (answer == 0)
        answer = fi_ep_bind(channel->ep, &channel->cq->fid, FI_TRANSMIT | FI_RECV);
    if (answer == 0)
        answer = fi_enable(channel->ep);
    if (answer)
        return gw_fabric_fail(channel->transport, answer, "no endpoint");
    if (channel->eq &&
        fi_getopt(&channel->ep->fid, FI_OPT_ENDPOINT, FI_OPT_CM_DATA_SIZE, &data_size, &size) ==
            0 &&
        data_size < FABRIC_CONNECT_DATA_MAX)
        return gw_fail(-ENODEV,
                       "fabric %s cannot be used: it carries %zu bytes with a connection request, "
                       "%u are needed",
                       channel->transport->provider, data_size, FABRIC_CONNECT_DATA_MAX);
    channel->sender.depth = (unsigned)gw_min(FABRIC_SEND_DEPTH, info->tx_attr->size);
    return 0;
}

int gw_fabric_channel_new(const struct gw_channel_options *options, struct fi_info *info,
                          struct fabric_channel **out)
{
    struct fabric_channel *channel = calloc(1, sizeof(*channel));
    int error;

    if (!channel)
        return gw_fail(-ENOMEM, "fabric: no memory for a channel");
    channel->base.domain = options->domain;
    channel->base.context = options->context;
    channel->transport = gw_fabric_transport_of(options->domain->transport);
    channel->domain = gw_fabric_domain_of(options->domain);
    channel->poller = gw_fabric_poller_of(options->poller);
    channel->eq_fd = channel->cq_fd = -1;
    channel->peer = FI_ADDR_UNSPEC;
    gw_op_queue_init(&channel->sender.ops);
    gw_credit_init(&channel->credit);
    error = gw_fabric_domain_bind(channel->domain, info);
    channel->write_flags = FI_COMPLETION | (channel->domain->is_fenced ? FI_DELIVERY_COMPLETE : 0);
    if (!error)
        error = open_memory(channel);
    if (!error)
        error = open_queues(channel);
    if (!error)
        error = open_endpoint(channel, info);
    if (!error)
        error = gw_fabric_receiver_open(channel);
    if (error) {
        gw_fabric_channel_free(channel);
        return error;
    }
    *out = channel;
    return 0;
}

/* What an error event carries; its number, positive. */
static int read_error(struct fabric_channel *channel, uint8_t data[FABRIC_CONNECT_DATA_MAX],
                      uint32_t *length)
{
    uint8_t room[256];
    struct fi_eq_err_entry entry = {.err_data = room, .err_data_size = sizeof(room)};

    if (fi_eq_readerr(channel->eq, &entry, 0) < 0)
        return FI_EOTHER;
    if (entry.err_data && entry.err_data_size) {
        *length = (uint32_t)gw_min(entry.err_data_size, FABRIC_CONNECT_DATA_MAX);
        memcpy(data, entry.err_data, *length);
    }
    return entry.err > 0 ? entry.err : FI_EOTHER;
}

int gw_fabric_channel_await(struct fabric_channel *channel, uint64_t deadline_ns,
                            uint8_t data[FABRIC_CONNECT_DATA_MAX], uint32_t *length)
{
    _Alignas(struct fi_eq_cm_entry) uint8_t room[EVENT_SIZE];
    struct fi_eq_cm_entry *entry = (struct fi_eq_cm_entry *)room;
    uint32_t event;
    ssize_t got;

    *length = 0;
    do {
        int left_ms = gw_clock_left_ms(deadline_ns);

        if (left_ms == 0)
            return -ETIMEDOUT;
        got = fi_eq_sread(channel->eq, &event, entry, sizeof(room), left_ms, 0);
    } while (got == -FI_EAGAIN || got == -FI_ETIMEDOUT || got == -FI_EINTR);
    if (got == -FI_EAVAIL)
        return read_error(channel, data, length);
    if (got < 0)
        return (int)-got;
    if (event != FI_CONNECTED)
        return FI_ECONNRESET;
    if ((size_t)got > sizeof(*entry)) {
        *length = (uint32_t)gw_min((size_t)got - sizeof(*entry), FABRIC_CONNECT_DATA_MAX);
        memcpy(data, entry->data, *length);
    }
    return 0;
}

void gw_fabric_channel_describe(struct fabric_channel *channel, const struct gw_address *local,
                                const struct gw_address *peer)
{
    char from[GW_ADDRESS_TEXT_MAX], to[GW_ADDRESS_TEXT_MAX];

    channel->info.local = *local;
    channel->info.peer = *peer;
    snprintf(channel->info.description, sizeof(channel->info.description),
             "fabric %.20s %.20s %.47s > %.47s%s", channel->transport->provider,
             channel->domain->info->domain_attr->name, gw_address_format(local, from, sizeof(from)),
             gw_address_format(peer, to, sizeof(to)), channel->domain->is_fenced ? ", fenced" : "");
    channel->is_connected = true;
}

int gw_fabric_channel_start(struct fabric_channel *channel, const struct gw_address *local,
                            const struct gw_address *peer)
{
    int error = gw_fabric_poller_watch(channel->poller, channel);

    gw_fabric_channel_describe(channel, local, peer);
    if (!error)
        error = gw_fabric_life_add(channel->transport, channel);
    if (!error)
        gw_fabric_poller_offer(channel->poller, channel);
    return error;
}

static void close_endpoint(struct fabric_channel *channel)
{
    if (channel->ep)
        fi_close(&channel->ep->fid);
    channel->ep = NULL;
}

void gw_fabric_channel_free(struct fabric_channel *channel)
{
    close_endpoint(channel);
    gw_fabric_rdm_free(channel);
    if (channel->cq)
        fi_close(&channel->cq->fid);
    if (channel->eq)
        fi_close(&channel->eq->fid);
    if (channel->mr)
        fi_close(&channel->mr->fid);
    gw_memory_free(channel->memory, channel->memory_size);
    free(channel);
}

/* ---- death ---- */

bool gw_fabric_channel_is_drained(const struct fabric_channel *channel)
{
    return !channel->ep || (channel->sender.completed == channel->sender.next &&
                            channel->receiver.inbox.posted == 0);
}

static void end(struct fabric_channel *channel)
{
    if (channel->is_ended || !channel->is_connected)
        return;
    channel->is_ended = true;
    if (!channel->rdm) {
        fi_shutdown(channel->ep, 0);
        return;
    }
    /* Nobody takes part in ending it: what was given to the provider comes back by closing. */
    close_endpoint(channel);
    gw_fabric_rdm_end(channel);
}

void gw_fabric_channel_kill(struct fabric_channel *channel, int error)
{
    char peer[GW_ADDRESS_TEXT_MAX];

    if (channel->error.code)
        return;
    gw_address_format(&channel->info.peer, peer, sizeof(peer));
    channel->error.code = error;
    snprintf(channel->error.text, sizeof(channel->error.text), "fabric %s %s: %.400s",
             channel->transport->provider, peer, gw_error_message());
    end(channel);
}

void gw_fabric_channel_kill_unexplained(struct fabric_channel *channel)
{
    /* A provider says no more than that the connection is down. */
    gw_fabric_channel_kill(
        channel, gw_fail(-ECONNRESET, "the connection ended: the peer closed it, is gone, or wrote "
                                      "outside of what it had been given"));
}

/* An endpoint that does not connect has nobody who would say that its peer cannot be reached. */
static void look_for_progress(struct fabric_channel *channel)
{
    struct fabric_sender *sender = &channel->sender;
    bool has_requests = sender->completed != sender->next;
    unsigned most = has_requests ? FABRIC_STUCK_TICKS : FABRIC_REFUSED_TICKS;

    if (sender->completed != channel->rdm->completed || !(has_requests || channel->is_refused)) {
        channel->rdm->stuck_ticks = 0;
    } else if (++channel->rdm->stuck_ticks >= most) {
        gw_fabric_rdm_doubt(channel);
        gw_fabric_channel_kill(channel,
                               gw_fail(-ETIMEDOUT,
                                       "the peer's endpoint took no write for %u s: is its "
                                       "port closed on the way?",
                                       most));
    }
    channel->rdm->completed = sender->completed;
}

static void look_after(struct fabric_channel *channel)
{
    if (!channel->error.code && channel->rdm)
        look_for_progress(channel);
    if (!channel->error.code || gw_fabric_channel_is_drained(channel))
        return;
    /* A device that is gone gives nothing back. */
    if (++channel->end_ticks >= FABRIC_FLUSH_TICKS)
        close_endpoint(channel);
}

void gw_fabric_channel_hear_news(struct fabric_channel *channel, unsigned news)
{
    if (news & FABRIC_NEWS_DISCONNECTED) {
        /* What the queue holds came first: last words, or a better reason. */
        gw_fabric_absorb(channel);
        gw_fabric_channel_kill_unexplained(channel);
    }
    if (news & FABRIC_NEWS_TICK)
        look_after(channel);
}

void gw_fabric_close(struct gw_channel *base)
{
    struct fabric_channel *channel = gw_fabric_channel_of(base);

    assert(!channel->poller->channels.is_served);
    gw_fabric_life_remove(channel->transport, channel);
    gw_fabric_poller_remove(channel->poller, channel);
    gw_fabric_absorb(channel); /* what was finished keeps its success */
    /* So that a done() that posts again is refused. */
    gw_fail(-ECANCELED, "the channel was closed");
    gw_fabric_channel_kill(channel, -ECANCELED);
    close_endpoint(channel);
    gw_fabric_sender_cancel(channel, -ECANCELED);
    gw_fabric_channel_free(channel);
}

void gw_fabric_info(struct gw_channel *base, struct gw_channel_info *out)
{
    gw_figures_read(&gw_fabric_channel_of(base)->info, out);
}
