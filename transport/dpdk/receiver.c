/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What arrived: replays are refused, bytes are placed once, messages wait until all before them is
 * in place, and the peer is told. Everything here has passed the tag; what the peer does against
 * the rules kills the channel.
 */
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "transport/dpdk/private.h"

#define WHOLE 0xffu

void gw_dpdk_receiver_init(struct dpdk_core *core)
{
    core->receiver.ack_due_ns = DPDK_NONE;
    core->receiver.told = DPDK_MESSAGES;
}

bool gw_dpdk_receiver_is_new(const struct dpdk_core *core, uint64_t number)
{
    const struct dpdk_receiver *receiver = &core->receiver;
    uint64_t at = number % DPDK_REPLAY;

    if (number > receiver->largest)
        return true;
    if (number == 0 || receiver->largest - number >= DPDK_REPLAY)
        return false;
    return !(receiver->replay[at / 64] >> (at % 64) & 1);
}

void gw_dpdk_receiver_take(struct dpdk_core *core, uint64_t now_ns, uint64_t number)
{
    struct dpdk_receiver *receiver = &core->receiver;

    if (number > receiver->largest) {
        if (number - receiver->largest >= DPDK_REPLAY)
            memset(receiver->replay, 0, sizeof(receiver->replay));
        else
            for (uint64_t n = receiver->largest + 1; n < number; n++)
                receiver->replay[n % DPDK_REPLAY / 64] &= ~(1ull << n % 64);
        receiver->largest = number;
        receiver->largest_ns = now_ns;
    }
    receiver->replay[number % DPDK_REPLAY / 64] |= 1ull << number % 64;
}

/* at_once: the peer waits for it. Otherwise some more datagrams may share it. */
static void want_ack(struct dpdk_core *core, uint64_t now_ns, bool at_once, unsigned every)
{
    struct dpdk_receiver *receiver = &core->receiver;

    if (++receiver->to_acknowledge >= every || at_once)
        receiver->ack_due_ns = now_ns;
    else if (receiver->ack_due_ns == DPDK_NONE)
        receiver->ack_due_ns = now_ns + DPDK_ACK_DELAY_NS;
}

static int place(struct dpdk_core *core, const struct dpdk_header *header, const uint8_t *payload)
{
    struct gw_region_target target = {.key = header->fields[DPDK_KEY],
                                      .offset = header->fields[DPDK_OFFSET],
                                      .length = header->length,
                                      .channel_number = core->number};
    void *to;
    int rc = gw_region_table_grip(core->regions, &core->receiver.grip, &target, &to);

    if (rc)
        return rc;
    if (header->length)
        memcpy(to, payload, header->length);
    return 0;
}

static int keep(struct dpdk_core *core, const struct dpdk_header *header, const uint8_t *payload)
{
    struct dpdk_receiver *receiver = &core->receiver;
    uint64_t number = header->fields[DPDK_MESSAGE];
    uint32_t offset = (uint32_t)header->fields[DPDK_OFFSET];
    uint32_t total = (uint32_t)(header->fields[DPDK_OFFSET] >> 32);
    struct dpdk_inbox *inbox = &receiver->inboxes[number % DPDK_MESSAGES];

    if (number - receiver->given >= receiver->freed + DPDK_MESSAGES - receiver->given)
        return gw_fail(-EPROTO, "dpdk: the peer sent message %llu, and %u from %llu on may come",
                       (unsigned long long)number,
                       (unsigned)(receiver->freed + DPDK_MESSAGES - receiver->given),
                       (unsigned long long)receiver->given);
    if (total > GW_MESSAGE_MAX || !gw_range_fits(offset, header->length, total))
        return gw_fail(-EPROTO, "dpdk: the peer sent %u bytes at %u of a message of %u",
                       header->length, offset, total);
    if (!inbox->is_used) {
        inbox->is_used = true;
        inbox->number = number;
        inbox->total = total;
        inbox->last_segment = DPDK_NONE;
    }
    if (inbox->number != number || inbox->total != total)
        return gw_fail(-EPROTO, "dpdk: the peer gave message %llu two lengths",
                       (unsigned long long)number);
    if (header->length)
        memcpy(inbox->bytes + offset, payload, header->length);
    /* Segments are cut in order: the one with the end is the last. */
    if (offset + header->length == total)
        inbox->last_segment = header->fields[DPDK_SEGMENT];
    return 0;
}

/* 1: placed; 0: it was there already. */
static int take_part(struct dpdk_core *core, const struct dpdk_header *header,
                     const uint8_t *payload)
{
    struct dpdk_receiver *receiver = &core->receiver;
    uint64_t segment = header->fields[DPDK_SEGMENT];
    uint8_t *parts = &receiver->received[segment % DPDK_SEGMENTS];
    uint8_t bit, all;
    int rc;

    if (segment < receiver->expected)
        return 0;
    if (segment - receiver->expected >= DPDK_SEGMENTS)
        return gw_fail(-EPROTO, "dpdk: the peer sent segment %llu while %llu is missing",
                       (unsigned long long)segment, (unsigned long long)receiver->expected);
    if (header->parts == 0 || header->parts > DPDK_PARTS_MAX || header->part >= header->parts)
        return gw_fail(-EPROTO, "dpdk: the peer sent part %u of %u", header->part, header->parts);
    bit = (uint8_t)(1u << header->part);
    all = (uint8_t)((1u << header->parts) - 1);
    if (*parts == WHOLE || (header->parts > 1 && (*parts & bit)))
        return 0;
    rc = header->kind == DPDK_KIND_WRITE ? place(core, header, payload)
                                         : keep(core, header, payload);
    if (rc)
        return rc;
    *parts = header->parts == 1 ? WHOLE : *parts | bit;
    if (*parts == all)
        *parts = WHOLE;
    while (receiver->received[receiver->expected % DPDK_SEGMENTS] == WHOLE)
        receiver->received[receiver->expected++ % DPDK_SEGMENTS] = 0;
    return 1;
}

void gw_dpdk_receiver_input(struct dpdk_core *core, uint64_t now_ns,
                            const struct dpdk_header *header, const uint8_t *payload)
{
    struct dpdk_receiver *receiver = &core->receiver;
    int rc;

    if (header->kind == DPDK_KIND_PROBE) {
        want_ack(core, now_ns, true, 1);
        return;
    }
    rc = take_part(core, header, payload);
    if (rc < 0) {
        gw_dpdk_die(core, rc);
        return;
    }
    if (rc == 0)
        core->counts.duplicates++;
    else
        core->counts.bytes_received += header->length;
    want_ack(core, now_ns, rc == 0 || header->kind == DPDK_KIND_MESSAGE,
             header->fields[DPDK_SEGMENT] < receiver->expected ? DPDK_ACK_EVERY
                                                               : DPDK_ACK_EVERY_HOLE);
}

static struct dpdk_inbox *next_message(const struct dpdk_core *core)
{
    const struct dpdk_receiver *receiver = &core->receiver;
    const struct dpdk_inbox *inbox = &receiver->inboxes[receiver->given % DPDK_MESSAGES];

    if (!inbox->is_used || inbox->number != receiver->given ||
        inbox->last_segment >= receiver->expected)
        return NULL;
    return (struct dpdk_inbox *)inbox;
}

bool gw_dpdk_core_is_ready(const struct dpdk_core *core)
{
    return core->state == DPDK_DEAD || next_message(core);
}

int gw_dpdk_core_recv(struct dpdk_core *core, struct gw_message *out)
{
    struct dpdk_receiver *receiver = &core->receiver;
    struct dpdk_inbox *inbox;

    if (receiver->freed != receiver->given) {
        receiver->inboxes[receiver->freed % DPDK_MESSAGES].is_used = false;
        receiver->freed++;
        /* The peer is told with what goes there anyway, unless much of its room is gone. */
        if (receiver->freed + DPDK_MESSAGES - receiver->told >= DPDK_MESSAGES / 4)
            receiver->ack_due_ns = 0;
    }
    inbox = next_message(core);
    if (!inbox)
        return core->state == DPDK_DEAD ? gw_dpdk_core_error(core) : -EAGAIN;
    receiver->given++;
    core->counts.messages_received++;
    *out = (struct gw_message){.data = inbox->bytes, .length = inbox->total};
    return 0;
}

void gw_dpdk_receiver_ack(struct dpdk_core *core, uint64_t now_ns, uint8_t *header,
                          struct dpdk_packet *out)
{
    struct dpdk_receiver *receiver = &core->receiver;
    struct dpdk_header ack = gw_dpdk_next_header(core, DPDK_KIND_ACK);
    uint64_t delay = gw_min(now_ns - receiver->largest_ns, UINT32_MAX);

    receiver->told = receiver->freed + DPDK_MESSAGES;
    ack.length = DPDK_ACK_BYTES;
    ack.fields[DPDK_ACK_SEGMENT] = receiver->expected;
    ack.fields[DPDK_ACK_LARGEST] = receiver->largest;
    ack.fields[DPDK_ACK_MESSAGES] = receiver->told;
    ack.fields[DPDK_ACK_TIMES] = delay | (uint64_t)receiver->marked << 32;
    gw_dpdk_header_encode(&ack, header);
    /* Before number 1 the ring has clear bits. */
    for (unsigned i = 0; i < DPDK_ACK_BYTES / 8; i++)
        gw_put_le64(&receiver->bitmap[i],
                    gw_dpdk_ring_word(receiver->replay, DPDK_REPLAY / 64,
                                      receiver->largest - DPDK_ACK_BITS + 1 + (uint64_t)i * 64));
    *out = (struct dpdk_packet){
        .payload = receiver->bitmap, .length = DPDK_ACK_BYTES, .must_copy = true};
    receiver->to_acknowledge = 0;
    receiver->ack_due_ns = DPDK_NONE;
}
