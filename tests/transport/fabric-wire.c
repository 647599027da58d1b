/* SPDX-License-Identifier: Apache-2.0 */
/* The pure part of transport/fabric: what travels with a connection request and its answer. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "common/error.h"
#include "transport/fabric/wire.h"

Test(fabric_wire, hello_of_every_length_is_carried)
{
    uint8_t hello[GW_HELLO_MAX], bytes[200];
    struct fabric_request request;

    memset(hello, 7, sizeof(hello));
    for (uint32_t length = 0; length <= GW_HELLO_MAX; length++) {
        uint32_t size = gw_fabric_request_encode(hello, length, bytes);

        cr_assert_eq(size, length + 3);
        memset(bytes + size, 0, sizeof(bytes) - size);
        /* Devices fill up with zeroes, or do not. */
        for (; size <= sizeof(bytes); size += 13) {
            cr_assert_eq(gw_fabric_request_decode(bytes, size, &request), 0);
            cr_assert_eq(request.hello_length, length);
            cr_assert_eq(memcmp(request.hello, hello, length), 0);
        }
    }
}

Test(fabric_wire, strangers_requests_are_refused)
{
    uint8_t bytes[FABRIC_CONNECT_DATA_MAX];
    struct fabric_request request;

    gw_fabric_request_encode("hello", 5, bytes);
    for (uint32_t size = 0; size < 8; size++)
        cr_assert_eq(gw_fabric_request_decode(bytes, size, &request), -EPROTO, "%u bytes", size);
    bytes[2] = GW_HELLO_MAX + 1;
    cr_assert_eq(gw_fabric_request_decode(bytes, sizeof(bytes), &request), -EPROTO);
    bytes[2] = 5;
    bytes[0] = 'G';
    cr_assert_eq(gw_fabric_request_decode(bytes, sizeof(bytes), &request), -EPROTO);
}

Test(fabric_wire, another_version_is_told_whatever_follows)
{
    uint8_t bytes[FABRIC_CONNECT_DATA_MAX];
    struct fabric_request request;
    struct fabric_answer answer;

    gw_fabric_request_encode("hello", 5, bytes);
    bytes[1] = 9;
    bytes[2] = 255;
    cr_assert_eq(gw_fabric_request_decode(bytes, sizeof(bytes), &request), 0);
    cr_assert_eq(request.version, 9);
    cr_assert_eq(request.hello_length, 0);
    gw_fabric_answer_encode(FABRIC_OTHER_VERSION, "no", bytes);
    bytes[1] = 9;
    cr_assert_eq(gw_fabric_answer_decode(bytes, sizeof(bytes), &answer), 0);
    cr_assert_eq(answer.version, 9);
}

Test(fabric_wire, reason_is_cut_and_made_printable)
{
    uint8_t bytes[FABRIC_CONNECT_DATA_MAX + 50];
    struct fabric_answer answer;
    char reason[1000];
    uint32_t length;

    memset(reason, 'r', sizeof(reason));
    reason[999] = '\0';
    memset(bytes, 'x', sizeof(bytes));
    length = gw_fabric_answer_encode(FABRIC_REFUSED, reason, bytes);
    cr_assert_eq(length, FABRIC_CONNECT_DATA_MAX);
    cr_assert_eq(bytes[length], 'x');
    cr_assert_eq(gw_fabric_answer_decode(bytes, sizeof(bytes), &answer), 0);
    cr_assert_eq(strlen(answer.reason), FABRIC_CONNECT_DATA_MAX - 3);
    length = gw_fabric_answer_encode(FABRIC_REFUSED, "a\033[2Jb", bytes);
    cr_assert_eq(gw_fabric_answer_decode(bytes, length, &answer), 0);
    cr_assert_str_eq(answer.reason, "a?[2Jb");
    bytes[2] = 3;
    cr_assert_eq(gw_fabric_answer_decode(bytes, length, &answer), -EPROTO);
    cr_assert_eq(gw_fabric_answer_decode(bytes, 2, &answer), -EPROTO);
}
