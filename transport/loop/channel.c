/* SPDX-License-Identifier: Apache-2.0 */
/* The data path of the loop back end: posted ops wait in a list of their own; polling copies them
 * into the other end under the pair's lock and runs done() after it. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/checked.h"
#include "transport/loop/loop.h"

enum op_kind { KIND_WRITE, KIND_SEND };

static struct loop_channel *channel_of(struct gw_channel *base)
{
    return gw_container_of(base, struct loop_channel, base);
}

static void wake(struct loop_poller *poller)
{
    if (atomic_exchange(&poller->is_armed, false))
        eventfd_write(poller->wake_fd, 1);
}

/* ---- life ---- */

int gw_loop_channel_new(const struct gw_channel_options *options, struct loop_channel **out)
{
    struct loop_channel *channel = calloc(1, sizeof(*channel));

    if (!channel)
        return gw_fail(-ENOMEM, "loop: no memory for a channel");
    channel->base.domain = options->domain;
    channel->base.context = options->context;
    channel->poller = gw_container_of(options->poller, struct loop_poller, base);
    channel->number = options->number;
    gw_op_queue_init(&channel->ops);
    *out = channel;
    return 0;
}

void gw_loop_channel_free(struct loop_channel *channel)
{
    free(channel);
}

int gw_loop_pair_new(struct loop_channel *a, struct loop_channel *b)
{
    struct loop_pair *pair = calloc(1, sizeof(*pair));

    if (!pair)
        return gw_fail(-ENOMEM, "loop: no memory for a channel");
    pthread_mutex_init(&pair->lock, NULL);
    pair->open_ends = 2;
    pair->ends[0].channel = a;
    pair->ends[1].channel = b;
    a->pair = b->pair = pair;
    a->here = b->there = &pair->ends[0];
    a->there = b->here = &pair->ends[1];
    return 0;
}

void gw_loop_channel_start(struct loop_channel *channel)
{
    gw_ring_offer(&channel->poller->channels, &channel->link);
    wake(channel->poller);
}

/* Called with the pair's lock held. The first cause stays. */
static void kill_end(struct loop_end *end, int code, const char *text)
{
    if (!end->channel || end->error.code)
        return;
    end->error.code = code;
    snprintf(end->error.text, sizeof(end->error.text), "loop: %s", text);
    atomic_store(&end->channel->dead, code);
    wake(end->channel->poller);
}

void gw_loop_close(struct gw_channel *base)
{
    struct loop_channel *channel = channel_of(base);
    struct loop_pair *pair = channel->pair;
    bool is_last;

    assert(!channel->poller->channels.is_served);
    gw_ring_remove(&channel->poller->channels, &channel->link);
    pthread_mutex_lock(&pair->lock);
    kill_end(channel->here, -ECANCELED, "the channel was closed");
    channel->here->channel = NULL;
    kill_end(channel->there, -ECONNRESET, "the peer closed the channel");
    is_last = --pair->open_ends == 0;
    pthread_mutex_unlock(&pair->lock);
    atomic_store(&channel->dead, -ECANCELED);
    gw_op_queue_end(&channel->ops, -ECANCELED);
    if (is_last) {
        pthread_mutex_destroy(&pair->lock);
        free(pair);
    }
    gw_loop_channel_free(channel);
}

/* ---- posting ---- */

static int dead_error(struct loop_channel *channel)
{
    struct gw_error error;

    pthread_mutex_lock(&channel->pair->lock);
    error = channel->here->error;
    pthread_mutex_unlock(&channel->pair->lock);
    return gw_error_raise(&error);
}

static int post(struct loop_channel *channel, struct gw_op *op, enum op_kind kind)
{
    if (atomic_load_explicit(&channel->dead, memory_order_relaxed))
        return dead_error(channel);
    if (channel->ops.count == GW_CHANNEL_OPS_MAX)
        return -EAGAIN;
    op->scratch[0] = kind;
    gw_op_queue_push(&channel->ops, op);
    return 0;
}

int gw_loop_write(struct gw_channel *channel, struct gw_write *write)
{
    return post(channel_of(channel), &write->op, KIND_WRITE);
}

int gw_loop_send(struct gw_channel *channel, struct gw_send *send)
{
    return post(channel_of(channel), &send->op, KIND_SEND);
}

/* ---- polling ---- */

/* Copies one write to the peer. A write that the peer does not allow kills the peer's end, as it
 * would over a wire, and so this one. Called with the lock held. */
static uint32_t place(struct loop_channel *channel, const struct gw_write *write)
{
    struct loop_channel *peer = channel->there->channel;
    struct loop_domain *domain = gw_container_of(peer->base.domain, struct loop_domain, base);
    const struct gw_region_target target = {.key = write->remote_key,
                                            .offset = write->remote_offset,
                                            .length = write->length,
                                            .channel_number = peer->number};
    void *memory;
    int error = gw_region_table_hold(&domain->table, &target, &memory);

    if (error) {
        kill_end(channel->there, error, gw_error_message());
        kill_end(channel->here, -ECONNRESET, "the peer refused a write and closed the channel");
        return 0;
    }
    if (write->length)
        memcpy(memory, write->local, write->length);
    gw_region_table_release(&domain->table, target.key);
    channel->info.bytes_sent += write->length;
    peer->info.bytes_received += write->length;
    return write->length;
}

/* False when the peer has no room. Called with the lock held. */
static bool deliver(struct loop_channel *channel, const struct gw_send *send)
{
    struct loop_end *there = channel->there;
    unsigned slot = (there->first_message + there->message_count) % LOOP_MESSAGES_MAX;

    if (there->message_count == LOOP_MESSAGES_MAX)
        return false;
    if (send->length)
        memcpy(there->messages[slot], send->message, send->length);
    there->lengths[slot] = send->length;
    there->message_count++;
    channel->info.bytes_sent += send->length;
    channel->info.messages_sent++;
    there->channel->info.bytes_received += send->length;
    there->channel->info.messages_received++;
    wake(there->channel->poller);
    return true;
}

/* Moves ops to the peer and answers how many are finished; the rest wait. Called with the lock
 * held. */
static unsigned move_ops(struct loop_channel *channel)
{
    uint64_t bytes = 0;
    unsigned count = 0;

    for (struct gw_op *op = channel->ops.first; op; op = op->next) {
        if (channel->here->error.code || bytes >= LOOP_POLL_BYTES)
            break;
        if (op->scratch[0] == KIND_WRITE)
            bytes += place(channel, gw_container_of(op, struct gw_write, op));
        else if (!deliver(channel, gw_container_of(op, struct gw_send, op)))
            break;
        if (!channel->here->error.code)
            count++;
    }
    return count;
}

static bool is_ready(const struct loop_channel *channel)
{
    return channel->here->error.code || channel->here->message_count > channel->has_lent;
}

static struct gw_channel *serve(struct gw_ring_link *link)
{
    struct loop_channel *channel = gw_container_of(link, struct loop_channel, link);
    unsigned finished, failed = 0;
    int error;
    bool ready;

    pthread_mutex_lock(&channel->pair->lock);
    finished = move_ops(channel);
    error = channel->here->error.code;
    if (error)
        failed = channel->ops.count - finished;
    ready = is_ready(channel);
    pthread_mutex_unlock(&channel->pair->lock);
    for (; finished; finished--) {
        struct gw_op *op = gw_op_queue_take(&channel->ops);

        op->done(op, 0);
    }
    for (; failed; failed--) {
        struct gw_op *op = gw_op_queue_take(&channel->ops);

        op->done(op, error);
    }
    return ready ? &channel->base : NULL;
}

int gw_loop_poll(struct gw_poller *base, struct gw_channel **ready, int max)
{
    struct loop_poller *poller = gw_container_of(base, struct loop_poller, base);

    gw_ring_take_all(&poller->channels);
    return gw_ring_serve(&poller->channels, serve, ready, max);
}

/* Whether polling could move ops. A message that the owner left untaken is no news. */
static bool is_runnable(struct loop_channel *channel)
{
    bool blocked;

    if (!channel->ops.first)
        return false;
    pthread_mutex_lock(&channel->pair->lock);
    blocked = !channel->here->error.code && channel->ops.first->scratch[0] == KIND_SEND &&
              channel->there->message_count == LOOP_MESSAGES_MAX;
    pthread_mutex_unlock(&channel->pair->lock);
    return !blocked;
}

int gw_loop_arm(struct gw_poller *base)
{
    struct loop_poller *poller = gw_container_of(base, struct loop_poller, base);
    struct gw_ring *ring = &poller->channels;
    struct gw_ring_link *link;
    eventfd_t count;

    eventfd_read(poller->wake_fd, &count);
    atomic_store(&poller->is_armed, true);
    gw_ring_take_all(ring);
    for (link = ring->first; link; link = gw_ring_next(ring, link))
        if (is_runnable(gw_container_of(link, struct loop_channel, link)))
            break;
    if (link)
        wake(poller);
    return poller->wake_fd;
}

int gw_loop_recv(struct gw_channel *base, struct gw_message *out)
{
    struct loop_channel *channel = channel_of(base);
    struct loop_end *here = channel->here;
    int error = -EAGAIN;

    pthread_mutex_lock(&channel->pair->lock);
    if (channel->has_lent) {
        channel->has_lent = false;
        here->first_message = (here->first_message + 1) % LOOP_MESSAGES_MAX;
        here->message_count--;
        if (channel->there->channel)
            wake(channel->there->channel->poller);
    }
    if (here->message_count) {
        out->data = here->messages[here->first_message];
        out->length = here->lengths[here->first_message];
        channel->has_lent = true;
        error = 0;
    } else if (here->error.code) {
        error = gw_error_raise(&here->error);
    }
    pthread_mutex_unlock(&channel->pair->lock);
    return error;
}

void gw_loop_info(struct gw_channel *base, struct gw_channel_info *out)
{
    struct loop_channel *channel = channel_of(base);
    char local[GW_ADDRESS_TEXT_MAX], peer[GW_ADDRESS_TEXT_MAX];

    pthread_mutex_lock(&channel->pair->lock);
    *out = channel->info;
    pthread_mutex_unlock(&channel->pair->lock);
    gw_address_format(&out->local, local, sizeof(local));
    gw_address_format(&out->peer, peer, sizeof(peer));
    snprintf(out->description, sizeof(out->description), "loop %.48s > %.48s", local, peer);
}
