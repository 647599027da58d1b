/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: what transport/verbs reads of a stranger or a peer. The first byte of the input
 * chooses: the private data of a request, that of an answer, or a sequence of messages with the
 * account of their credits. Built with clang and -Dfuzz=true; run by hand: fuzz-verbs -max_total_time=60.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "transport/rdma/credit.h"
#include "transport/rdma/header.h"
#include "transport/verbs/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_request(const uint8_t *data, size_t size)
{
    struct verbs_request request;
    uint8_t again[VERBS_REQUEST_SIZE];

    if (gw_verbs_request_decode(data, (uint32_t)size, &request) ||
        request.version != GW_WIRE_VERSION)
        return;
    assert(request.hello_length <= GW_HELLO_MAX);
    gw_verbs_request_encode(request.hello, request.hello_length, again);
    assert(memcmp(again, data, 4 + request.hello_length) == 0);
}

static void fuzz_answer(const uint8_t *data, size_t size)
{
    struct verbs_answer answer;

    if (gw_verbs_answer_decode(data, (uint32_t)size, &answer))
        return;
    assert(strnlen(answer.reason, sizeof(answer.reason)) <= VERBS_ANSWER_MAX);
    for (const char *at = answer.reason; *at; at++)
        assert((unsigned char)*at >= ' ' && *at != 0x7f);
}

/* Each message: its length in two bytes, then so many bytes. */
static void fuzz_messages(const uint8_t *data, size_t size)
{
    struct gw_credit credit;

    gw_credit_init(&credit);
    while (size > 2) {
        uint32_t length = (uint32_t)(data[0] | data[1] << 8);
        struct gw_send_header header;

        data += 2;
        size -= 2;
        length = length < size ? length : (uint32_t)size;
        if (gw_send_header_decode(data, length, &header))
            return;
        assert(header.length == length - GW_SEND_HEADER_SIZE && header.length <= GW_MESSAGE_MAX);
        if (gw_credit_take(&credit, header.credits, header.type == GW_SEND_MESSAGE))
            return;
        assert(credit.may_send <= GW_RECEIVES && credit.peer_may_send <= GW_RECEIVES);
        if (header.type == GW_SEND_MESSAGE && header.length % 2) {
            gw_credit_freed(&credit);
            if (gw_credit_is_due(&credit))
                gw_credit_give(&credit);
        } else if (credit.may_send) {
            credit.may_send--;
        }
        data += length;
        size -= length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(const uint8_t *, size_t) = {fuzz_request, fuzz_answer,
                                                               fuzz_messages};

    if (size > 0)
        targets[data[0] % 3](data + 1, size - 1);
    return 0;
}
