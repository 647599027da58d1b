/* SPDX-License-Identifier: Apache-2.0 */
/* The sending half of a channel: from the list of posted ops to requests of the provider, and back
 * from the entries that are complete to done(). */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "transport/fabric/channel.h"

static unsigned room(const struct fabric_sender *sender, unsigned reserved)
{
    unsigned used = sender->next - sender->completed;

    return used + reserved < sender->depth ? sender->depth - used - reserved : 0;
}

static bool is_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

static struct fabric_work *work_of(struct fabric_sender *sender, uint32_t sequence)
{
    return &sender->works[sequence % FABRIC_SEND_DEPTH];
}

/* ---- requests ---- */

static struct fabric_work *next_work(struct fabric_sender *sender)
{
    struct fabric_work *work = work_of(sender, sender->next);

    work->is_complete = work->is_failed = false;
    return work;
}

/* What the provider answered to a request. False when it was not taken: later, or never. */
static bool is_taken(struct fabric_channel *channel, ssize_t answer)
{
    channel->is_refused = answer != 0;
    if (answer == 0) {
        channel->sender.next++;
        return true;
    }
    if (answer == -FI_EAGAIN)
        return false;
    if (channel->rdm)
        gw_fabric_rdm_hear_out(channel);
    gw_fabric_channel_kill(channel, gw_fail(-EIO, "the provider does not take a request: %s",
                                            channel->transport->library.strerror((int)-answer)));
    return false;
}

/* What is written from: its place as the provider knows it. An empty write has none, and some providers
 * look at its descriptor all the same. */
static struct iovec source_of(const struct fabric_channel *channel, const struct gw_write *write,
                              void **descriptor)
{
    const struct fabric_region *region;
    struct fid_mr *mr = channel->mr;
    char *from = channel->memory;

    if (write->length) {
        region = gw_container_of(write->region, struct fabric_region, base);
        mr = region->mr;
        from = region->local + ((const char *)write->local - (const char *)region->base.memory);
    }
    *descriptor = mr ? fi_mr_desc(mr) : NULL;
    return (struct iovec){.iov_base = from, .iov_len = write->length};
}

static bool add_write(struct fabric_channel *channel, struct gw_write *write,
                      const struct fabric_place *place)
{
    struct fabric_sender *sender = &channel->sender;
    void *descriptor;
    struct iovec piece = source_of(channel, write, &descriptor);
    struct fi_rma_iov target = {.addr = place->address + write->remote_offset,
                                .len = write->length,
                                .key = place->device_key};
    struct fi_msg_rma message = {.msg_iov = &piece,
                                 .desc = &descriptor,
                                 .iov_count = 1,
                                 .addr = channel->peer,
                                 .rma_iov = &target,
                                 .rma_iov_count = 1};

    message.context = &next_work(sender)->context;
    write->op.scratch[FABRIC_SEQUENCE] = sender->next;
    if (!is_taken(channel, fi_writemsg(channel->ep, &message, channel->write_flags)))
        return false;
    sender->fence = sender->next;
    sender->written += write->length;
    sender->queued_bytes += write->length;
    gw_figure_add(&channel->info.bytes_sent, write->length);
    return true;
}

/* Posts length bytes that lie in the channel's own memory. */
static bool post_bytes(struct fabric_channel *channel, uint8_t *bytes, size_t length)
{
    struct fabric_work *work = next_work(&channel->sender);
    void *descriptor = channel->mr ? fi_mr_desc(channel->mr) : NULL;
    struct iovec piece = {.iov_base = bytes, .iov_len = length};
    struct fi_msg message = {.msg_iov = &piece,
                             .desc = &descriptor,
                             .iov_count = 1,
                             .addr = FI_ADDR_UNSPEC,
                             .context = &work->context};

    if (channel->rdm)
        return is_taken(channel, gw_fabric_rdm_post(channel, work, bytes, length));
    return is_taken(channel, fi_sendmsg(channel->ep, &message, FI_COMPLETION));
}

static void write_header(struct fabric_channel *channel, enum gw_send_type type, uint32_t length,
                         uint8_t *at)
{
    struct gw_send_header header = {.type = type,
                                    .credits = channel->credit.to_return,
                                    .length = length,
                                    .written = channel->sender.written};

    gw_send_header_encode(&header, at);
}

static bool add_send(struct fabric_channel *channel, struct gw_send *send)
{
    struct fabric_sender *sender = &channel->sender;
    uint8_t *slot = sender->slots + (size_t)sender->next_slot * GW_SEND_SIZE_MAX;

    write_header(channel, GW_SEND_MESSAGE, send->length, slot);
    if (send->length)
        memcpy(slot + GW_SEND_HEADER_SIZE, send->message, send->length);
    send->op.scratch[FABRIC_SEQUENCE] = sender->next;
    if (!post_bytes(channel, slot, GW_SEND_HEADER_SIZE + send->length))
        return false;
    gw_credit_give(&channel->credit);
    channel->credit.may_send--;
    sender->next_slot = (sender->next_slot + 1) % GW_RECEIVES;
    sender->busy_slots++;
    gw_figure_add(&channel->info.bytes_sent, send->length);
    gw_figure_add(&channel->info.messages_sent, 1);
    return true;
}

/* A message of the back end's own, with a body of so many numbers. */
static bool post_small(struct fabric_channel *channel, enum gw_send_type type,
                       const uint64_t *numbers, uint32_t count)
{
    struct fabric_sender *sender = &channel->sender;
    uint8_t *at = sender->headers + (size_t)(sender->next % FABRIC_SEND_DEPTH) * FABRIC_SMALL_SIZE;

    if (room(sender, 0) == 0)
        return false;
    write_header(channel, type, count * 8, at);
    for (uint32_t i = 0; i < count; i++)
        gw_put_le64(at + GW_SEND_HEADER_SIZE + i * 8, numbers[i]);
    if (!post_bytes(channel, at, GW_SEND_HEADER_SIZE + count * 8))
        return false;
    gw_credit_give(&channel->credit);
    return true;
}

/* ---- where the peer's regions lie ---- */

/* NULL while the peer has not told it. */
static const struct fabric_place *find_place(struct fabric_channel *channel, uint64_t key)
{
    struct fabric_sender *sender = &channel->sender;

    for (unsigned i = 0; i < FABRIC_PLACES; i++)
        if (sender->places[i].key == key)
            return &sender->places[i];
    if (!sender->asked && post_small(channel, GW_SEND_ASK, &key, 1))
        sender->asked = key;
    return NULL;
}

int gw_fabric_sender_take_tell(struct fabric_channel *channel, const uint8_t *body)
{
    struct fabric_sender *sender = &channel->sender;
    struct fabric_place place = {gw_get_le64(body), gw_get_le64(body + 8), gw_get_le64(body + 16)};

    if (!sender->asked || place.key != sender->asked)
        return gw_fail(-EPROTO, "the peer told of a region that it was not asked for");
    sender->asked = 0;
    sender->places[sender->next_place] = place;
    sender->next_place = (sender->next_place + 1) % FABRIC_PLACES;
    return 0;
}

int gw_fabric_sender_take_ask(struct fabric_channel *channel, const uint8_t *body)
{
    struct fabric_sender *sender = &channel->sender;

    if (sender->tell.key)
        return gw_fail(-EPROTO, "the peer asked again before it was told");
    if (!gw_fabric_domain_place(channel->domain, gw_get_le64(body), &sender->tell))
        return gw_fail(-EPROTO, "the peer wants to write outside of what it had been given: no "
                                "region has its key");
    return 0;
}

static void tell(struct fabric_channel *channel)
{
    struct fabric_place *place = &channel->sender.tell;
    uint64_t numbers[] = {place->key, place->address, place->device_key};

    if (post_small(channel, GW_SEND_TELL, numbers, GW_ARRAY_LENGTH(numbers)))
        place->key = 0;
}

/* ---- from ops to requests ---- */

static bool may_write(const struct fabric_sender *sender, const struct gw_write *write)
{
    /* What is queued deeper makes nothing faster, and must be undone when the channel ends. */
    return sender->queued_bytes == 0 || sender->queued_bytes + write->length <= FABRIC_SEND_BYTES;
}

static bool may_send(const struct fabric_channel *channel)
{
    const struct fabric_sender *sender = &channel->sender;

    return channel->credit.may_send > 0 && sender->busy_slots < GW_RECEIVES &&
           !(channel->domain->is_fenced && is_before(sender->completed, sender->fence));
}

static bool try_write(struct fabric_channel *channel, struct gw_write *write)
{
    struct fabric_place direct = {.key = write->remote_key, .device_key = write->remote_key};
    const struct fabric_place *place = &direct;

    if (!may_write(&channel->sender, write) || (channel->rdm && !channel->rdm->knows_peer))
        return false;
    if (channel->domain->has_addresses)
        place = find_place(channel, write->remote_key);
    return place && add_write(channel, write, place);
}

/* False when the op must wait. None is given with FI_MORE: a provider that waits for what follows would
 * wait for good, since that may still find no room, or wait for what it is to follow. */
static bool add_op(struct fabric_channel *channel, struct gw_op *op)
{
    if (room(&channel->sender, FABRIC_RESERVED_SENDS) == 0)
        return false;
    if (op->scratch[FABRIC_KIND] == FABRIC_OP_WRITE)
        return try_write(channel, gw_container_of(op, struct gw_write, op));
    return may_send(channel) && add_send(channel, gw_container_of(op, struct gw_send, op));
}

void gw_fabric_sender_run(struct fabric_channel *channel)
{
    struct fabric_sender *sender = &channel->sender;

    if (channel->rdm && !channel->rdm->has_told && !channel->error.code)
        gw_fabric_rdm_tell(channel);
    if (channel->rdm && !channel->rdm->has_told)
        return;
    if (sender->tell.key && !channel->error.code)
        tell(channel);
    while (!channel->error.code && sender->waiting && add_op(channel, sender->waiting)) {
        sender->waiting = sender->waiting->next;
        sender->waiting_count--;
    }
    if (!channel->error.code && gw_credit_is_due(&channel->credit))
        post_small(channel, GW_SEND_CREDIT, NULL, 0);
}

/* ---- from completions to done() ---- */

void gw_fabric_sender_advance(struct fabric_sender *sender)
{
    while (sender->completed != sender->next && work_of(sender, sender->completed)->is_complete)
        sender->completed++;
}

static bool first_is_complete(const struct fabric_sender *sender)
{
    return sender->ops.first && sender->ops.first != sender->waiting &&
           is_before((uint32_t)sender->ops.first->scratch[FABRIC_SEQUENCE], sender->completed);
}

static void finish_complete(struct fabric_channel *channel, int status_of_failed)
{
    struct fabric_sender *sender = &channel->sender;

    while (first_is_complete(sender)) {
        struct gw_op *op = gw_op_queue_take(&sender->ops);
        bool is_failed = work_of(sender, (uint32_t)op->scratch[FABRIC_SEQUENCE])->is_failed;

        if (op->scratch[FABRIC_KIND] == FABRIC_OP_WRITE)
            sender->queued_bytes -= gw_container_of(op, struct gw_write, op)->length;
        else
            sender->busy_slots--;
        op->done(op, is_failed ? status_of_failed : 0);
    }
}

void gw_fabric_sender_finish(struct fabric_channel *channel)
{
    if (!channel->sender.ops.first)
        return;
    finish_complete(channel, channel->error.code);
    if (channel->error.code && gw_fabric_channel_is_drained(channel))
        gw_fabric_sender_cancel(channel, channel->error.code);
}

void gw_fabric_sender_cancel(struct fabric_channel *channel, int status)
{
    struct fabric_sender *sender = &channel->sender;

    finish_complete(channel, status);
    sender->waiting = NULL;
    sender->waiting_count = 0;
    gw_op_queue_end(&sender->ops, status);
}

/* ---- posting ---- */

static int post(struct fabric_channel *channel, struct gw_op *op, enum fabric_op_kind kind,
                unsigned flags)
{
    struct fabric_sender *sender = &channel->sender;

    if (channel->error.code)
        return gw_error_raise(&channel->error);
    if (sender->ops.count == GW_CHANNEL_OPS_MAX)
        return -EAGAIN;
    op->scratch[FABRIC_KIND] = kind;
    gw_op_queue_push(&sender->ops, op);
    if (!sender->waiting)
        sender->waiting = op;
    sender->waiting_count++;
    if (!(flags & GW_POST_MORE) || sender->waiting_count >= FABRIC_GATHER_MAX)
        gw_fabric_sender_run(channel);
    return 0;
}

int gw_fabric_write(struct gw_channel *channel, struct gw_write *write)
{
    return post(gw_fabric_channel_of(channel), &write->op, FABRIC_OP_WRITE, write->flags);
}

int gw_fabric_send(struct gw_channel *channel, struct gw_send *send)
{
    return post(gw_fabric_channel_of(channel), &send->op, FABRIC_OP_SEND, send->flags);
}
