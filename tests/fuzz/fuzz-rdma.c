/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: what transport/verbs and transport/fabric read of a stranger or a peer. The first byte of
 * the input chooses: the data of a request of either, that of an answer, or a sequence of messages as
 * they lie in the buffers of an inbox. libFuzzer: fuzz-rdma -max_total_time=60.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "transport/fabric/wire.h"
#include "transport/rdma/inbox.h"
#include "transport/verbs/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_request(const struct gw_connect_form *form, const uint8_t *data, uint32_t size)
{
    struct gw_connect_request request;
    uint8_t again[VERBS_REQUEST_SIZE];

    if (gw_connect_request_decode(form, data, size, &request) || request.version != GW_WIRE_VERSION)
        return;
    assert(request.hello_length <= GW_HELLO_MAX);
    size = gw_connect_request_encode(form, request.hello, request.hello_length, again);
    assert(memcmp(again, data, size) == 0);
}

static void fuzz_answer(const struct gw_connect_form *form, const uint8_t *data, uint32_t size)
{
    struct gw_connect_answer answer;

    if (gw_connect_answer_decode(form, data, size, &answer))
        return;
    assert(strnlen(answer.reason, sizeof(answer.reason)) < form->answer_max);
    for (const char *at = answer.reason; *at; at++)
        assert((unsigned char)*at >= ' ' && *at != 0x7f);
}

/* The owner takes every message at once, and every second time the spent ones are posted again. */
static void serve(struct gw_inbox *inbox, unsigned turn)
{
    struct gw_message message;

    gw_inbox_take_back(inbox);
    if (gw_inbox_lend(inbox, &message))
        assert(message.length <= GW_MESSAGE_MAX);
    if (turn % 2) {
        inbox->posted += inbox->spent_count;
        gw_inbox_reposted(inbox);
        if (gw_credit_is_due(inbox->credit))
            gw_credit_give(inbox->credit);
    }
    if (inbox->credit->may_send)
        inbox->credit->may_send--;
}

/* Each message: its length in two bytes, then so many bytes. */
static void fuzz_messages(unsigned depth, const uint8_t *data, uint32_t size)
{
    uint8_t *buffers = calloc(depth, GW_SEND_SIZE_MAX);
    struct gw_credit credit;
    struct gw_inbox inbox;

    assert(buffers);
    gw_credit_init(&credit);
    gw_inbox_init(&inbox, buffers, depth, &credit);
    inbox.posted = depth;
    for (unsigned turn = 0; size > 2 && inbox.posted; turn++) {
        uint32_t length = (uint32_t)(data[0] | data[1] << 8) % (GW_SEND_SIZE_MAX + 1);
        unsigned buffer = turn % depth;
        struct gw_send_header header;
        uint64_t bytes;

        data += 2;
        size -= 2;
        length = length < size ? length : size;
        memcpy(gw_inbox_buffer(&inbox, buffer), data, length);
        inbox.posted--;
        if (gw_inbox_take(&inbox, buffer, length, &header, &bytes))
            break;
        assert(credit.may_send <= GW_RECEIVES && credit.peer_may_send <= GW_RECEIVES);
        assert(header.length == length - GW_SEND_HEADER_SIZE && header.length <= GW_MESSAGE_MAX);
        serve(&inbox, turn);
        data += length;
        size -= length;
    }
    free(buffers);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct gw_connect_form *form;

    if (size == 0 || size > UINT32_MAX)
        return 0;
    form = data[0] & 1 ? &gw_verbs_form : &gw_fabric_form;
    if ((data[0] >> 1) % 3 == 0)
        fuzz_request(form, data + 1, (uint32_t)size - 1);
    else if ((data[0] >> 1) % 3 == 1)
        fuzz_answer(form, data + 1, (uint32_t)size - 1);
    else
        fuzz_messages(data[0] & 1 ? GW_RECEIVES + GW_SPARE_RECEIVES : GW_INBOX_DEPTH_MAX, data + 1,
                      (uint32_t)size - 1);
    return 0;
}
