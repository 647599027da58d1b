/* SPDX-License-Identifier: Apache-2.0 */
/* The pure part of transport/fabric: the address of an endpoint. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "common/error.h"
#include "transport/fabric/wire.h"

Test(fabric_wire, names_of_every_length_are_carried)
{
    uint8_t name[FABRIC_NAME_MAX], bytes[FABRIC_NAME_SIZE_MAX];
    struct fabric_name out;

    for (uint32_t i = 0; i < FABRIC_NAME_MAX; i++)
        name[i] = (uint8_t)(i * 7);
    for (uint32_t length = 1; length <= FABRIC_NAME_MAX; length++) {
        uint32_t size = gw_fabric_name_encode(0x12345678, name, length, bytes);

        cr_assert_eq(size, length + 8);
        cr_assert_eq(gw_fabric_name_decode(bytes, size, &out), 0);
        cr_assert_eq(out.format, 0x12345678);
        cr_assert_eq(out.length, length);
        cr_assert_eq(memcmp(out.bytes, name, length), 0);
    }
}

Test(fabric_wire, names_that_are_none_are_refused)
{
    uint8_t bytes[FABRIC_NAME_SIZE_MAX + 1];
    struct fabric_name out;
    uint32_t size = gw_fabric_name_encode(2, (const uint8_t *)"name", 4, bytes);

    for (uint32_t less = 0; less <= 8; less++)
        cr_assert_eq(gw_fabric_name_decode(bytes, less, &out), -EPROTO, "%u bytes", less);
    cr_assert_eq(gw_fabric_name_decode(bytes, sizeof(bytes), &out), -EPROTO);
    for (unsigned i = 0; i < 4; i++) {
        bytes[i] ^= 1;
        cr_assert_eq(gw_fabric_name_decode(bytes, size, &out), -EPROTO, "byte %u", i);
        bytes[i] ^= 1;
    }
    cr_assert_eq(gw_fabric_name_decode(bytes, size, &out), 0);
}
