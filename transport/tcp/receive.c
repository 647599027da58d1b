/* SPDX-License-Identifier: Apache-2.0 */
/* Receives frames. Each read is one readv that takes the rest of the payload and, behind it, the
 * next header, so that payloads land where they belong and nowhere else first. Every target of a
 * frame is checked before its first byte is placed, and its key is held for each read anew: a frame
 * may be half received when its region ends, and then the rest has no place to go and the channel
 * dies. */
#include <assert.h>
#include <errno.h>
#include <sys/socket.h>

#include "common/checked.h"
#include "transport/tcp/tcp.h"

#define READS_PER_POLL 64u /* a peer that sends only tiny frames does not starve other channels */

static_assert(TCP_BATCH_MAX + 1 <= 1024, "vectors of one readv (IOV_MAX)");

static struct gw_region_table *table_of(const struct tcp_channel *channel)
{
    return &gw_container_of(channel->base.domain, struct tcp_domain, base)->table;
}

static bool is_blocked(const struct tcp_receiver *receiver)
{
    return receiver->state == TCP_AT_MESSAGE && receiver->message_count == TCP_MESSAGES_MAX;
}

bool gw_tcp_receiver_can_run(const struct tcp_channel *channel)
{
    const struct tcp_receiver *receiver = &channel->receiver;
    bool has_whole_message =
        receiver->state == TCP_AT_MESSAGE && receiver->done == receiver->message_length;

    return receiver->is_open && !is_blocked(receiver) &&
           (receiver->is_readable || has_whole_message);
}

bool gw_tcp_receiver_has_message(const struct tcp_channel *channel)
{
    return channel->receiver.message_count > channel->receiver.has_lent;
}

static void end(struct tcp_channel *channel, int error)
{
    channel->receiver.is_open = false;
    gw_tcp_channel_kill(channel, error);
    if (gw_tcp_zerocopy_is_open(&channel->sender.zerocopy)) {
        /* The owner gets the memory back now, so the kernel must stop sending from it. */
        const struct sockaddr none = {.sa_family = AF_UNSPEC};

        connect(channel->fd, &none, sizeof(none));
    }
}

/* ---- taking a frame apart ---- */

static int enter_place(struct tcp_channel *channel, unsigned index, const struct tcp_header *header)
{
    struct tcp_place *place = &channel->receiver.places[index];
    const struct gw_region_target target = {.key = header->key,
                                            .offset = header->offset,
                                            .length = header->length,
                                            .channel_number = channel->number};
    void *memory;
    int error = gw_region_table_hold(table_of(channel), &target, &memory);

    if (error)
        return error;
    gw_region_table_release(table_of(channel), target.key);
    *place = (struct tcp_place){.key = header->key, .memory = memory, .length = header->length};
    return 0;
}

static int begin_frame(struct tcp_channel *channel)
{
    struct tcp_receiver *receiver = &channel->receiver;
    struct tcp_header header;
    int error = gw_tcp_header_decode(receiver->header, &header);

    if (error)
        return error;
    receiver->header_done = 0;
    receiver->done = 0;
    receiver->current = 0;
    if (header.type == TCP_FRAME_MESSAGE) {
        receiver->message_length = header.length;
        receiver->state = TCP_AT_MESSAGE;
        return 0;
    }
    receiver->count = header.count;
    receiver->state = header.count > 1 ? TCP_AT_DESCRIPTORS : TCP_AT_PAYLOAD;
    return enter_place(channel, 0, &header);
}

static uint32_t descriptors_size(const struct tcp_receiver *receiver)
{
    return (receiver->count - 1) * TCP_HEADER_SIZE;
}

static int enter_descriptors(struct tcp_channel *channel)
{
    struct tcp_receiver *receiver = &channel->receiver;

    for (unsigned i = 1; i < receiver->count; i++) {
        struct tcp_header header;
        int error =
            gw_tcp_descriptor_decode(receiver->descriptors + (i - 1) * TCP_HEADER_SIZE, &header);

        if (!error)
            error = enter_place(channel, i, &header);
        if (error)
            return error;
    }
    receiver->done = 0;
    receiver->state = TCP_AT_PAYLOAD;
    return 0;
}

static unsigned free_message(const struct tcp_receiver *receiver)
{
    return (receiver->first_message + receiver->message_count) % TCP_MESSAGES_MAX;
}

static void keep_message(struct tcp_channel *channel)
{
    struct tcp_receiver *receiver = &channel->receiver;

    receiver->lengths[free_message(receiver)] = receiver->message_length;
    receiver->message_count++;
    receiver->state = TCP_AT_HEADER;
    gw_figure_add(&channel->info.messages_received, 1);
    gw_figure_add(&channel->info.bytes_received, receiver->message_length);
}

/* Goes through the states for which all bytes are here. */
static int advance(struct tcp_channel *channel)
{
    struct tcp_receiver *receiver = &channel->receiver;
    int error = 0;

    while (!error) {
        switch (receiver->state) {
        case TCP_AT_HEADER:
            if (receiver->header_done < TCP_HEADER_SIZE)
                return 0;
            error = begin_frame(channel);
            break;
        case TCP_AT_DESCRIPTORS:
            if (receiver->done < descriptors_size(receiver))
                return 0;
            error = enter_descriptors(channel);
            break;
        case TCP_AT_PAYLOAD:
            while (receiver->current < receiver->count &&
                   receiver->done == receiver->places[receiver->current].length) {
                receiver->done = 0;
                receiver->current++;
            }
            if (receiver->current < receiver->count)
                return 0;
            receiver->state = TCP_AT_HEADER;
            break;
        case TCP_AT_MESSAGE:
            if (is_blocked(receiver) || receiver->done < receiver->message_length)
                return 0;
            keep_message(channel);
            break;
        }
    }
    return error;
}

/* ---- reading ---- */

struct reading {
    struct iovec vectors[TCP_BATCH_MAX + 1];
    unsigned vector_count;
    size_t size;
    uint64_t held[TCP_BATCH_MAX]; /* keys */
    unsigned held_count;
};

static void add_vector(struct reading *reading, void *memory, size_t length)
{
    reading->vectors[reading->vector_count++] = (struct iovec){memory, length};
    reading->size += length;
}

static void release_all(struct tcp_channel *channel, const struct reading *reading)
{
    for (unsigned i = 0; i < reading->held_count; i++)
        gw_region_table_release(table_of(channel), reading->held[i]);
}

static int add_places(struct tcp_channel *channel, struct reading *reading)
{
    struct tcp_receiver *receiver = &channel->receiver;

    for (unsigned i = receiver->current; i < receiver->count; i++) {
        const struct tcp_place *place = &receiver->places[i];
        uint32_t done = i == receiver->current ? receiver->done : 0;
        size_t length = gw_min(place->length - done, TCP_POLL_BYTES - reading->size);

        if (reading->size == TCP_POLL_BYTES)
            return 0; /* the next header waits for a read that reaches it */
        if (place->length == done)
            continue;
        if (reading->held_count == 0 || reading->held[reading->held_count - 1] != place->key) {
            if (!gw_region_table_hold_again(table_of(channel), place->key))
                return gw_fail(-EPROTO, "a region ended while the peer was writing to it");
            reading->held[reading->held_count++] = place->key;
        }
        add_vector(reading, place->memory + done, length);
        if (length < place->length - done)
            return 0;
    }
    add_vector(reading, receiver->header, TCP_HEADER_SIZE);
    return 0;
}

static int prepare(struct tcp_channel *channel, struct reading *reading)
{
    struct tcp_receiver *receiver = &channel->receiver;
    uint32_t done = receiver->done;

    reading->vector_count = reading->held_count = 0;
    reading->size = 0;
    switch (receiver->state) {
    case TCP_AT_HEADER:
        add_vector(reading, receiver->header + receiver->header_done,
                   TCP_HEADER_SIZE - receiver->header_done);
        break;
    case TCP_AT_DESCRIPTORS:
        add_vector(reading, receiver->descriptors + done, descriptors_size(receiver) - done);
        break;
    case TCP_AT_PAYLOAD:
        return add_places(channel, reading);
    case TCP_AT_MESSAGE:
        add_vector(reading, receiver->messages[free_message(receiver)] + done,
                   receiver->message_length - done);
        add_vector(reading, receiver->header, TCP_HEADER_SIZE);
        break;
    }
    return 0;
}

/* Notes that size bytes of what prepare asked for are here. */
static void consume(struct tcp_channel *channel, uint32_t size)
{
    struct tcp_receiver *receiver = &channel->receiver;
    uint32_t part;

    switch (receiver->state) {
    case TCP_AT_HEADER:
        break;
    case TCP_AT_DESCRIPTORS:
        receiver->done += size;
        return;
    case TCP_AT_PAYLOAD:
        while (size > 0 && receiver->current < receiver->count) {
            part =
                (uint32_t)gw_min(size, receiver->places[receiver->current].length - receiver->done);
            size -= part;
            receiver->done += part;
            gw_figure_add(&channel->info.bytes_received, part);
            if (size == 0)
                return; /* advance() steps to the next place */
            receiver->current++;
            receiver->done = 0;
        }
        break;
    case TCP_AT_MESSAGE:
        part = (uint32_t)gw_min(size, receiver->message_length - receiver->done);
        receiver->done += part;
        size -= part;
        break;
    }
    receiver->header_done += size;
}

static int end_of_stream(struct tcp_channel *channel)
{
    const struct tcp_receiver *receiver = &channel->receiver;

    if (receiver->state == TCP_AT_HEADER && receiver->header_done == 0)
        return gw_fail(-ECONNRESET, "the peer closed the channel");
    return gw_fail(-ECONNRESET, "the peer closed the channel in the middle of a frame");
}

/* One system call. Answers the number of bytes, 0 when there are none now, or what ends the
 * channel. */
static ssize_t read_once(struct tcp_channel *channel)
{
    struct tcp_receiver *receiver = &channel->receiver;
    struct reading reading;
    ssize_t size;
    int cause, error = prepare(channel, &reading);

    if (error) {
        release_all(channel, &reading);
        return error;
    }
    size = readv(channel->fd, reading.vectors, (int)reading.vector_count);
    cause = errno;
    release_all(channel, &reading);
    if (size == 0)
        return end_of_stream(channel);
    if (size < 0 && (cause == EAGAIN || cause == EINTR)) {
        receiver->is_readable = cause == EINTR;
        if (channel->error.code)
            receiver->is_open = false; /* died while sending; nothing more will come */
        return 0;
    }
    if (size < 0)
        return gw_fail_errno(-cause, "receiving");
    if ((size_t)size < reading.size && !receiver->has_hung_up)
        receiver->is_readable = false;
    consume(channel, (uint32_t)size);
    return size;
}

void gw_tcp_receiver_run(struct tcp_channel *channel)
{
    uint64_t bytes = 0;
    int error = 0;

    for (unsigned reads = 0; reads < READS_PER_POLL && bytes < TCP_POLL_BYTES; reads++) {
        ssize_t size;

        if (!gw_tcp_receiver_can_run(channel))
            return;
        error = advance(channel); /* a message that waited for room */
        if (!error && channel->receiver.is_readable && !is_blocked(&channel->receiver)) {
            size = read_once(channel);
            error = size < 0 ? (int)size : advance(channel);
            bytes += size > 0 ? (uint64_t)size : 0;
        }
        if (error) {
            end(channel, error);
            return;
        }
    }
}

int gw_tcp_recv(struct gw_channel *base, struct gw_message *out)
{
    struct tcp_channel *channel = gw_tcp_channel_of(base);
    struct tcp_receiver *receiver = &channel->receiver;

    if (receiver->has_lent) {
        receiver->has_lent = false;
        receiver->first_message = (receiver->first_message + 1) % TCP_MESSAGES_MAX;
        receiver->message_count--;
    }
    if (receiver->message_count > 0) {
        out->data = receiver->messages[receiver->first_message];
        out->length = receiver->lengths[receiver->first_message];
        receiver->has_lent = true;
        return 0;
    }
    if (!channel->error.code || gw_tcp_receiver_can_run(channel))
        return -EAGAIN;
    receiver->is_open = false; /* once said, nothing comes after it */
    return gw_error_raise(&channel->error);
}
