/* SPDX-License-Identifier: Apache-2.0 */
/* The sending half of a channel: from the list of posted ops to chains of work requests, and back
 * from the sequence numbers that are complete to done(). */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/checked.h"
#include "transport/verbs/channel.h"

static_assert(VERBS_SEND_DEPTH <= VERBS_SEQUENCE_MASK / 2, "a wr_id tells a whole queue apart");
static_assert(VERBS_SIGNAL_EVERY < VERBS_SEND_DEPTH / 2, "a full queue has a signalled request");

/* A chain that is being built in the poller's memory. */
struct chain {
    unsigned count;
    struct gw_op *next; /* the first that is not in it */
};

static unsigned room(const struct verbs_sender *sender, unsigned reserved)
{
    unsigned used = sender->next - sender->completed;

    return used + reserved < sender->depth ? sender->depth - used - reserved : 0;
}

static bool is_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

/* ---- work requests ---- */

static void signal(struct verbs_sender *sender, struct ibv_send_wr *request)
{
    request->send_flags |= IBV_SEND_SIGNALED;
    sender->unsignalled = 0;
    sender->unsignalled_bytes = 0;
}

/* Often enough that the queue is filled again long before it is empty. */
static void signal_if_due(struct verbs_sender *sender, struct ibv_send_wr *request)
{
    if (sender->unsignalled >= VERBS_SIGNAL_EVERY ||
        sender->unsignalled_bytes >= VERBS_SIGNAL_BYTES)
        signal(sender, request);
}

static struct ibv_send_wr *new_request(struct verbs_channel *channel, struct chain *chain,
                                       enum ibv_wr_opcode opcode)
{
    struct verbs_poller *poller = channel->poller;
    struct verbs_sender *sender = &channel->sender;
    struct ibv_send_wr *request = &poller->requests[chain->count];

    memset(request, 0, sizeof(*request));
    request->wr_id = gw_verbs_channel_wr_id(channel) | (sender->next & VERBS_SEQUENCE_MASK);
    request->sg_list = poller->pieces[chain->count];
    request->opcode = opcode;
    if (chain->count)
        poller->requests[chain->count - 1].next = request;
    chain->count++;
    sender->next++;
    sender->unsignalled++;
    return request;
}

static void add_write(struct verbs_channel *channel, struct chain *chain, struct gw_write *write)
{
    struct verbs_sender *sender = &channel->sender;
    struct ibv_send_wr *request;

    write->op.scratch[VERBS_SEQUENCE] = sender->next;
    request = new_request(channel, chain, IBV_WR_RDMA_WRITE);
    request->wr.rdma.rkey = (uint32_t)write->remote_key;
    request->wr.rdma.remote_addr = (write->remote_key >> 32) + write->remote_offset;
    if (write->length) {
        const struct verbs_region *region =
            gw_container_of(write->region, struct verbs_region, base);

        request->num_sge = 1;
        request->sg_list[0] =
            (struct ibv_sge){.addr = region->start + (uint64_t)((const char *)write->local -
                                                                (const char *)region->base.memory),
                             .length = write->length,
                             .lkey = region->mr->lkey};
    }
    sender->written += write->length;
    sender->queued_bytes += write->length;
    sender->unsignalled_bytes += write->length;
    signal_if_due(sender, request);
    gw_figure_add(&channel->info.bytes_sent, write->length);
}

/* The header of the next work request, in memory that is this entry's of the send queue. */
static struct ibv_sge write_header(struct verbs_channel *channel, enum gw_send_type type,
                                   uint32_t length)
{
    struct verbs_sender *sender = &channel->sender;
    struct gw_send_header header = {.type = type,
                                    .credits = gw_credit_give(&channel->credit),
                                    .length = length,
                                    .written = sender->written};
    uint8_t *at = sender->headers + sender->next % sender->depth * GW_SEND_HEADER_SIZE;

    gw_send_header_encode(&header, at);
    return (struct ibv_sge){
        .addr = (uintptr_t)at, .length = GW_SEND_HEADER_SIZE, .lkey = channel->mr->lkey};
}

static bool fits_inline(const struct verbs_channel *channel, uint32_t length)
{
    return GW_SEND_HEADER_SIZE + length <= channel->sender.inline_max;
}

static void add_send(struct verbs_channel *channel, struct chain *chain, struct gw_send *send)
{
    struct verbs_sender *sender = &channel->sender;
    struct ibv_sge header = write_header(channel, GW_SEND_MESSAGE, send->length), body;
    struct ibv_send_wr *request;
    bool is_inline = fits_inline(channel, send->length);

    body = (struct ibv_sge){.addr = (uintptr_t)send->message, .length = send->length};
    send->op.scratch[VERBS_SEQUENCE] = sender->next;
    send->op.scratch[VERBS_USES_SLOT] = !is_inline;
    request = new_request(channel, chain, IBV_WR_SEND);
    if (is_inline) {
        request->send_flags |= IBV_SEND_INLINE;
    } else {
        uint8_t *slot = sender->slots + (size_t)sender->next_slot * GW_MESSAGE_MAX;

        memcpy(slot, send->message, send->length);
        body.addr = (uintptr_t)slot;
        body.lkey = channel->mr->lkey;
        sender->next_slot = (sender->next_slot + 1) % GW_RECEIVES;
        sender->busy_slots++;
    }
    request->sg_list[0] = header;
    request->sg_list[1] = body;
    request->num_sge = send->length ? 2 : 1;
    signal_if_due(sender, request);
    channel->credit.may_send--;
    gw_figure_add(&channel->info.bytes_sent, send->length);
    gw_figure_add(&channel->info.messages_sent, 1);
}

static void add_credit(struct verbs_channel *channel, struct chain *chain)
{
    struct ibv_sge header = write_header(channel, GW_SEND_CREDIT, 0);
    struct ibv_send_wr *request = new_request(channel, chain, IBV_WR_SEND);

    if (fits_inline(channel, 0))
        request->send_flags |= IBV_SEND_INLINE;
    request->sg_list[0] = header;
    request->num_sge = 1;
    signal_if_due(&channel->sender, request);
}

/* Rings the doorbell. must_signal: the owner waits for what is in this chain. */
static bool ring(struct verbs_channel *channel, struct chain *chain, bool must_signal)
{
    struct ibv_send_wr *requests = channel->poller->requests, *bad = NULL;
    int error;

    if (must_signal)
        signal(&channel->sender, &requests[chain->count - 1]);
    channel->activity++;
    error = ibv_post_send(channel->qp, requests, &bad);
    if (!error)
        return true;
    /* What the device did not take is flushed like the rest: the numbers stay as they are, and the
     * queue pair is given up at once. */
    gw_verbs_channel_kill(
        channel,
        gw_fail_errno(-EIO, "the send queue does not take a request (%s)", strerrordesc_np(error)));
    return false;
}

/* ---- from ops to chains ---- */

/* False when the op must wait. */
static bool add_op(struct verbs_channel *channel, struct chain *chain, struct gw_op *op)
{
    struct gw_send *send;

    if (room(&channel->sender, VERBS_RESERVED_SENDS) == 0)
        return false;
    if (op->scratch[VERBS_KIND] == VERBS_OP_WRITE) {
        struct gw_write *write = gw_container_of(op, struct gw_write, op);

        /* What is queued deeper makes nothing faster, and must be undone when the channel ends. */
        if (channel->sender.queued_bytes &&
            channel->sender.queued_bytes + write->length > VERBS_SEND_BYTES)
            return false;
        add_write(channel, chain, write);
        return true;
    }
    send = gw_container_of(op, struct gw_send, op);
    if (channel->credit.may_send == 0 ||
        (!fits_inline(channel, send->length) && channel->sender.busy_slots == GW_RECEIVES))
        return false;
    add_send(channel, chain, send);
    return true;
}

static bool post_chain(struct verbs_channel *channel)
{
    struct verbs_sender *sender = &channel->sender;
    struct chain chain = {0};

    while (sender->waiting && chain.count < VERBS_CHAIN_MAX &&
           add_op(channel, &chain, sender->waiting)) {
        sender->waiting = sender->waiting->next;
        sender->waiting_count--;
    }
    return chain.count && ring(channel, &chain, true);
}

void gw_verbs_sender_run(struct verbs_channel *channel)
{
    struct chain chain = {0};

    if (channel->error.code)
        return;
    while (channel->sender.waiting && post_chain(channel))
        ;
    if (channel->error.code || !gw_credit_is_due(&channel->credit) ||
        room(&channel->sender, 1) == 0)
        return;
    add_credit(channel, &chain);
    ring(channel, &chain, false);
}

void gw_verbs_sender_keep_alive(struct verbs_channel *channel)
{
    struct ibv_send_wr *request;
    struct chain chain = {0};

    /* Ops in the send queue ask the peer themselves; those that wait for credits do not. */
    if (channel->error.code || channel->sender.ops.first != channel->sender.waiting ||
        room(&channel->sender, 2) == 0)
        return;
    /* A device answers an empty write without looking at its key (IBTA C9-88). */
    request = new_request(channel, &chain, IBV_WR_RDMA_WRITE);
    signal_if_due(&channel->sender, request);
    ring(channel, &chain, false);
}

void gw_verbs_sender_post_last(struct verbs_channel *channel)
{
    struct ibv_send_wr *bad, *request;
    struct chain chain = {0};

    if (room(&channel->sender, 0) == 0)
        return;
    request = new_request(channel, &chain, IBV_WR_RDMA_WRITE);
    request->send_flags = IBV_SEND_SIGNALED;
    ibv_post_send(channel->qp, request, &bad);
}

/* ---- from completions to done() ---- */

static bool first_is_complete(const struct verbs_sender *sender)
{
    return sender->ops.first && sender->ops.first != sender->waiting &&
           is_before((uint32_t)sender->ops.first->scratch[VERBS_SEQUENCE], sender->completed);
}

static void finish_complete(struct verbs_channel *channel, int status_of_failed)
{
    struct verbs_sender *sender = &channel->sender;

    while (first_is_complete(sender)) {
        struct gw_op *op = gw_op_queue_take(&sender->ops);
        bool is_failed =
            sender->is_broken && !is_before((uint32_t)op->scratch[VERBS_SEQUENCE], sender->failed);

        if (op->scratch[VERBS_KIND] == VERBS_OP_WRITE)
            sender->queued_bytes -= gw_container_of(op, struct gw_write, op)->length;
        else
            sender->busy_slots -= (unsigned)op->scratch[VERBS_USES_SLOT];
        op->done(op, is_failed ? status_of_failed : 0);
    }
}

void gw_verbs_sender_finish(struct verbs_channel *channel)
{
    if (!channel->sender.ops.first)
        return;
    finish_complete(channel, channel->error.code);
    if (channel->error.code && gw_verbs_channel_is_drained(channel))
        gw_verbs_sender_cancel(channel, channel->error.code);
}

void gw_verbs_sender_cancel(struct verbs_channel *channel, int status)
{
    struct verbs_sender *sender = &channel->sender;

    finish_complete(channel, status);
    sender->waiting = NULL;
    sender->waiting_count = 0;
    gw_op_queue_end(&sender->ops, status);
}

/* ---- posting ---- */

static int post(struct verbs_channel *channel, struct gw_op *op, enum verbs_op_kind kind,
                unsigned flags)
{
    struct verbs_sender *sender = &channel->sender;

    if (channel->error.code)
        return gw_error_raise(&channel->error);
    if (sender->ops.count == GW_CHANNEL_OPS_MAX)
        return -EAGAIN;
    op->scratch[VERBS_KIND] = kind;
    gw_op_queue_push(&sender->ops, op);
    if (!sender->waiting)
        sender->waiting = op;
    sender->waiting_count++;
    if (!(flags & GW_POST_MORE) || sender->waiting_count >= VERBS_SIGNAL_EVERY)
        gw_verbs_sender_run(channel);
    return 0;
}

int gw_verbs_write(struct gw_channel *channel, struct gw_write *write)
{
    return post(gw_verbs_channel_of(channel), &write->op, VERBS_OP_WRITE, write->flags);
}

int gw_verbs_send(struct gw_channel *channel, struct gw_send *send)
{
    return post(gw_verbs_channel_of(channel), &send->op, VERBS_OP_SEND, send->flags);
}
