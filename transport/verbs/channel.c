/* SPDX-License-Identifier: Apache-2.0 */
/* The life and death of a channel; what it does while it lives is in send.c and receive.c. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"
#include "transport/verbs/channel.h"

#define HEADERS_SIZE  (VERBS_SEND_DEPTH * GW_SEND_HEADER_SIZE)
#define SLOTS_SIZE    (GW_RECEIVES * GW_MESSAGE_MAX)
#define RECEIVES_SIZE (VERBS_RECEIVE_DEPTH * GW_SEND_SIZE_MAX)

uint64_t gw_verbs_channel_wr_id(const struct verbs_channel *channel)
{
    return (uint64_t)channel->generation << VERBS_WR_GENERATION_AT | (uint64_t)channel->slot
                                                                         << VERBS_WR_SLOT_AT;
}

/* ---- making one ---- */

static int open_memory(struct verbs_channel *channel, struct ibv_pd *pd)
{
    size_t size = gw_align_up(HEADERS_SIZE + SLOTS_SIZE + RECEIVES_SIZE, 4096);
    int error = gw_memory_new(size, &channel->memory);

    if (error)
        return error;
    channel->memory_size = size;
    channel->mr = ibv_reg_mr(pd, channel->memory, size, IBV_ACCESS_LOCAL_WRITE);
    if (!channel->mr && errno == ENOMEM)
        return gw_fail(-ENOMEM,
                       "verbs: %zu KiB for a channel cannot be registered: the limit on "
                       "pinned memory (RLIMIT_MEMLOCK) is used up; raise it (ulimit -l, "
                       "LimitMEMLOCK= in the unit)",
                       size >> 10);
    if (!channel->mr)
        return gw_fail_errno(-errno, "verbs: %zu KiB for a channel cannot be registered",
                             size >> 10);
    channel->sender.headers = channel->memory;
    channel->sender.slots = channel->sender.headers + HEADERS_SIZE;
    gw_inbox_init(&channel->inbox, channel->sender.slots + SLOTS_SIZE, VERBS_RECEIVE_DEPTH,
                  &channel->credit);
    return 0;
}

/* Some devices take no inline data at all, and say so by refusing. */
static int open_queue_pair(struct verbs_channel *channel, struct ibv_pd *pd, struct rdma_cm_id *id)
{
    struct ibv_qp_init_attr wanted = {.send_cq = channel->queue->cq,
                                      .recv_cq = channel->queue->cq,
                                      .cap = {.max_send_wr = VERBS_SEND_DEPTH,
                                              .max_recv_wr = VERBS_RECEIVE_DEPTH,
                                              .max_send_sge = 2,
                                              .max_recv_sge = 1,
                                              .max_inline_data = VERBS_INLINE_MAX},
                                      .qp_type = IBV_QPT_RC};
    unsigned depth = (unsigned)channel->queue->device->attributes.max_qp_wr;
    struct ibv_qp_init_attr got;

    if (depth < VERBS_DEPTH_LEAST)
        return gw_fail(-EINVAL, "verbs: %s has queues of %u requests only, %u are needed",
                       ibv_get_device_name(id->verbs->device), depth, VERBS_DEPTH_LEAST);
    channel->sender.depth = (unsigned)gw_min(VERBS_SEND_DEPTH, depth);
    wanted.cap.max_send_wr = channel->sender.depth;
    got = wanted;
    if (rdma_create_qp(id, pd, &got) != 0) {
        got = wanted;
        got.cap.max_inline_data = 0;
        if (rdma_create_qp(id, pd, &got) != 0)
            return gw_fail_errno(-errno, "verbs: %s gives no queue pair",
                                 ibv_get_device_name(id->verbs->device));
    }
    channel->sender.inline_max = got.cap.max_inline_data;
    channel->qp = id->qp;
    channel->port = id->port_num;
    return 0;
}

int gw_verbs_channel_new(const struct gw_channel_options *options, struct rdma_cm_id *id,
                         struct rdma_event_channel *events, struct verbs_channel **out)
{
    struct verbs_domain *domain = gw_verbs_domain_of(options->domain);
    struct verbs_channel *channel = calloc(1, sizeof(*channel));
    int error;

    if (!channel)
        return gw_fail(-ENOMEM, "verbs: no memory for a channel");
    channel->base.domain = options->domain;
    channel->base.context = options->context;
    channel->poller = gw_verbs_poller_of(options->poller);
    channel->number = options->number;
    gw_op_queue_init(&channel->sender.ops);
    gw_credit_init(&channel->credit);
    error = gw_verbs_domain_bind(domain, id);
    if (!error)
        error = gw_verbs_poller_reserve(channel->poller, domain->device, channel);
    if (!error)
        error = open_memory(channel, domain->pd);
    if (!error)
        error = open_queue_pair(channel, domain->pd, id);
    if (!error)
        error = gw_verbs_receiver_open(channel);
    if (error) {
        if (channel->qp)
            rdma_destroy_qp(id);
        gw_verbs_channel_free(channel);
        return error;
    }
    channel->id = id;
    channel->events = events;
    *out = channel;
    return 0;
}

static void describe(struct verbs_channel *channel)
{
    char local[GW_ADDRESS_TEXT_MAX], peer[GW_ADDRESS_TEXT_MAX], gid[16] = "";
    struct ibv_qp_init_attr initial;
    struct ibv_qp_attr attr = {0};

    gw_verbs_address_of(rdma_get_local_addr(channel->id), &channel->info.local);
    gw_verbs_address_of(rdma_get_peer_addr(channel->id), &channel->info.peer);
    gw_address_format(&channel->info.local, local, sizeof(local));
    gw_address_format(&channel->info.peer, peer, sizeof(peer));
    ibv_query_qp(channel->qp, &attr, IBV_QP_AV | IBV_QP_PATH_MTU, &initial);
    if (attr.ah_attr.is_global)
        snprintf(gid, sizeof(gid), " gid %u", attr.ah_attr.grh.sgid_index);
    snprintf(channel->info.description, sizeof(channel->info.description),
             "verbs %.24s/%u%s %.47s > %.47s, mtu %u, inline %u",
             ibv_get_device_name(channel->id->verbs->device), channel->port, gid, local, peer,
             attr.path_mtu ? 128u << attr.path_mtu : 0, channel->sender.inline_max);
}

int gw_verbs_channel_start(struct verbs_channel *channel)
{
    int error;

    describe(channel);
    channel->is_connected = true;
    error =
        gw_verbs_life_add_channel(gw_verbs_transport_of(channel->base.domain->transport), channel);
    if (error)
        return error;
    rdma_destroy_event_channel(channel->events);
    channel->events = NULL;
    gw_verbs_poller_start(channel->poller, channel);
    return 0;
}

static void destroy_queue_pair(struct verbs_channel *channel)
{
    if (!channel->qp)
        return;
    __atomic_store_n(&channel->qp, NULL, __ATOMIC_RELAXED);
    rdma_destroy_qp(channel->id);
}

void gw_verbs_channel_free(struct verbs_channel *channel)
{
    if (channel->id)
        destroy_queue_pair(channel);
    gw_verbs_poller_release(channel->poller, channel);
    if (channel->mr)
        ibv_dereg_mr(channel->mr);
    gw_memory_free(channel->memory, channel->memory_size);
    if (channel->id)
        rdma_destroy_id(channel->id);
    if (channel->events)
        rdma_destroy_event_channel(channel->events);
    free(channel);
}

/* ---- death ---- */

bool gw_verbs_channel_is_drained(const struct verbs_channel *channel)
{
    return !channel->qp ||
           (channel->is_flushing && channel->sender.completed == channel->sender.next &&
            channel->inbox.posted == 0);
}

void gw_verbs_channel_end(struct verbs_channel *channel)
{
    if (channel->is_flushing || !channel->is_connected)
        return;
    channel->is_flushing = true;
    /* Both put the queue pair into the error state; the first also tells the peer, which is no use
     * where nothing gets out (and soft-RoCE never again sends what manages connections after it has
     * failed to once). */
    if (channel->error.code == -ENETDOWN || channel->error.code == -ENODEV ||
        rdma_disconnect(channel->id) != 0) {
        struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

        ibv_modify_qp(channel->qp, &attr, IBV_QP_STATE);
    }
    gw_verbs_sender_post_last(channel);
}

void gw_verbs_channel_kill(struct verbs_channel *channel, int error)
{
    char peer[GW_ADDRESS_TEXT_MAX];

    if (channel->error.code)
        return;
    gw_address_format(&channel->info.peer, peer, sizeof(peer));
    channel->error.code = error;
    snprintf(channel->error.text, sizeof(channel->error.text), "verbs %s: %.400s", peer,
             gw_error_message());
    gw_verbs_channel_end(channel);
}

static int explain_device(const struct verbs_channel *channel)
{
    const char *name = ibv_get_device_name(channel->queue->device->context->device);
    struct ibv_port_attr port = {0};

    if (ibv_query_port(channel->queue->device->context, (uint8_t)channel->port, &port) != 0)
        return gw_fail(-ENODEV, "the device %s is gone", name);
    if (port.state != IBV_PORT_ACTIVE)
        return gw_fail(-ENETDOWN, "port %u of %s is down (%s)", channel->port, name,
                       ibv_port_state_str(port.state));
    return 0;
}

/* The device ends a queue pair by itself when the peer asks for what it may not have. */
static int blame_peer(void)
{
    return gw_fail(-EPROTO, "the peer wrote outside of what it had been given, or sent what this "
                            "side's device does not allow");
}

void gw_verbs_channel_kill_unexplained(struct verbs_channel *channel)
{
    unsigned news = atomic_load(&channel->news);
    int error;

    if (channel->error.code)
        return;
    if (news & VERBS_NEWS_DISCONNECTED && !(news & VERBS_NEWS_ACCESS)) {
        error = gw_fail(-ECONNRESET, "the peer closed the channel");
    } else {
        error = explain_device(channel);
        if (!error)
            error = blame_peer();
    }
    gw_verbs_channel_kill(channel, error);
}

static void look_after(struct verbs_channel *channel)
{
    if (channel->error.code) {
        /* A device that is gone, or gone mad, flushes nothing. */
        if (!gw_verbs_channel_is_drained(channel) && ++channel->flush_ticks >= VERBS_FLUSH_TICKS)
            destroy_queue_pair(channel);
        return;
    }
    if (channel->activity == channel->activity_before)
        gw_verbs_sender_keep_alive(channel);
    channel->activity_before = channel->activity;
}

void gw_verbs_channel_hear_news(struct verbs_channel *channel, unsigned news)
{
    const char *name = ibv_get_device_name(channel->queue->device->context->device);

    if (news & VERBS_NEWS_REMOVED)
        gw_verbs_channel_kill(channel, gw_fail(-ENODEV, "the device %s was removed", name));
    if (news & VERBS_NEWS_PORT)
        gw_verbs_channel_kill(channel,
                              gw_fail(-ENETDOWN, "port %u of %s went down", channel->port, name));
    if (news & VERBS_NEWS_ACCESS)
        gw_verbs_channel_kill(channel, blame_peer());
    if (news & VERBS_NEWS_FATAL)
        gw_verbs_channel_kill(channel,
                              gw_fail(-EIO, "%s reports that the queue pair failed", name));
    if (news & VERBS_NEWS_DISCONNECTED) {
        /* What the queue holds came first: last words, or a better reason. */
        gw_verbs_absorb(channel->poller, channel->queue);
        gw_verbs_channel_kill(channel, gw_fail(-ECONNRESET, "the peer closed the channel"));
    }
    if (news & VERBS_NEWS_TICK)
        look_after(channel);
}

void gw_verbs_close(struct gw_channel *base)
{
    struct verbs_channel *channel = gw_verbs_channel_of(base);
    struct verbs_poller *poller = channel->poller;
    struct verbs_queue *queue = channel->queue;

    assert(!poller->channels.is_served);
    gw_verbs_life_remove_channel(gw_verbs_transport_of(base->domain->transport), channel);
    gw_verbs_poller_remove(poller, channel);
    gw_verbs_absorb(poller, queue); /* what was finished keeps its success */
    /* So that a done() that posts again is refused. */
    gw_fail(-ECANCELED, "the channel was closed");
    gw_verbs_channel_kill(channel, -ECANCELED);
    destroy_queue_pair(channel);
    while (gw_verbs_absorb(poller, queue)) /* nothing of it stays in the queue */
        ;
    gw_verbs_sender_cancel(channel, -ECANCELED);
    gw_verbs_channel_free(channel);
}

void gw_verbs_info(struct gw_channel *base, struct gw_channel_info *out)
{
    gw_figures_read(&gw_verbs_channel_of(base)->info, out);
}
