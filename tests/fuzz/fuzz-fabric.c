/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what transport/fabric reads of a stranger. The first byte of the input chooses: the data of
 * a request or that of an answer. What follows, messages and credits, is fuzz-verbs.c's. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/error.h"
#include "transport/fabric/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_request(const uint8_t *data, uint32_t size)
{
    struct fabric_request request;
    uint8_t again[FABRIC_CONNECT_DATA_MAX];

    if (gw_fabric_request_decode(data, size, &request) || request.version != GW_WIRE_VERSION)
        return;
    assert(request.hello_length <= GW_HELLO_MAX);
    size = gw_fabric_request_encode(request.hello, request.hello_length, again);
    assert(memcmp(again, data, size) == 0);
}

static void fuzz_answer(const uint8_t *data, uint32_t size)
{
    struct fabric_answer answer;

    if (gw_fabric_answer_decode(data, size, &answer))
        return;
    assert(strnlen(answer.reason, sizeof(answer.reason)) < sizeof(answer.reason));
    for (const char *at = answer.reason; *at; at++)
        assert((unsigned char)*at >= ' ' && *at != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && size < UINT32_MAX)
        (data[0] % 2 ? fuzz_answer : fuzz_request)(data + 1, (uint32_t)size - 1);
    return 0;
}
