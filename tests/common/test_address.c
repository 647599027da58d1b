/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses and networks as people write them, good and bad. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "common/address.h"
#include "common/error.h"

TestSuite(address, .timeout = 30);

static void check_form(const char *text, const char *expected)
{
    struct gw_address address;
    char buffer[GW_ADDRESS_TEXT_MAX];

    cr_assert_eq(gw_address_parse(text, 13560, &address), 0, "%s: %s", text, gw_error_message());
    gw_address_format(&address, buffer, sizeof(buffer));
    cr_assert_str_eq(buffer, expected, "%s became %s", text, buffer);
}

Test(address, parses_and_prints)
{
    check_form("10.77.0.2", "10.77.0.2:13560");
    check_form("10.77.0.2:99", "10.77.0.2:99");
    check_form("10.77.0.2:65535", "10.77.0.2:65535");
    check_form("::1", "[::1]:13560");
    check_form("[::1]", "[::1]:13560");
    check_form("[2001:db8::7]:80", "[2001:db8::7]:80");
    check_form("::ffff:10.1.2.3", "10.1.2.3:13560");
}

static void check_refused(const char *text, int error)
{
    struct gw_address address;

    cr_assert_eq(gw_address_parse(text, 1, &address), error, "'%s' was not refused", text);
    cr_assert_not_null(strstr(gw_error_message(), text[0] ? text : "''"),
                       "the message does not quote '%s': %s", text, gw_error_message());
}

Test(address, refuses_bad_ports)
{
    check_refused("10.0.0.1:65536", -EINVAL);
    check_refused("10.0.0.1:", -EINVAL);
    check_refused("10.0.0.1:9x", -EINVAL);
    check_refused("[::1]:x", -EINVAL);
}

Test(address, refuses_broken_brackets)
{
    check_refused("[::1", -EINVAL);
    check_refused("[::1]99", -EINVAL);
    check_refused("[]:1", -EINVAL);
}

Test(address, refuses_no_host)
{
    check_refused("", -EINVAL);
    check_refused(":99", -EINVAL);
}

Test(address, refuses_a_host_that_is_too_long)
{
    struct gw_address address;
    char text[400];

    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    cr_assert_eq(gw_address_parse(text, 1, &address), -EINVAL);
}

Test(address, unmaps_ipv4_alone)
{
    struct gw_address mapped, plain, other;

    cr_assert_eq(gw_address_parse("10.0.0.1:7", 0, &plain), 0);
    cr_assert_eq(gw_address_parse("[::ffff:10.0.0.1]:7", 0, &mapped), 0);
    gw_address_unmap(&mapped);
    cr_assert_eq(mapped.length, plain.length);
    cr_assert_eq(memcmp(&mapped.storage, &plain.storage, plain.length), 0);
    cr_assert_eq(gw_address_parse("[2001:db8::7]:80", 0, &other), 0);
    mapped = other;
    gw_address_unmap(&mapped);
    cr_assert_eq(memcmp(&mapped, &other, sizeof(other)), 0);
    mapped = plain;
    gw_address_unmap(&mapped);
    cr_assert_eq(memcmp(&mapped, &plain, sizeof(plain)), 0);
}

Test(address, compares_hosts_and_sets_ports)
{
    struct gw_address a, b, c;

    cr_assert_eq(gw_address_parse("10.0.0.1:1", 0, &a), 0);
    cr_assert_eq(gw_address_parse("[::ffff:10.0.0.1]:2", 0, &b), 0);
    cr_assert_eq(gw_address_parse("10.0.0.2:1", 0, &c), 0);
    cr_assert(gw_address_same_host(&a, &b));
    cr_assert_not(gw_address_same_host(&a, &c));
    gw_address_set_port(&a, 777);
    gw_address_set_port(&b, 778);
    cr_assert_eq(gw_address_port(&a), 777);
    cr_assert_eq(gw_address_port(&b), 778);
}

static bool contains(const char *network_text, const char *address_text)
{
    struct gw_network network;
    struct gw_address address;

    cr_assert_eq(gw_network_parse(network_text, &network), 0, "%s", gw_error_message());
    cr_assert_eq(gw_address_parse(address_text, 1, &address), 0, "%s", gw_error_message());
    return gw_network_contains(&network, &address);
}

Test(network, holds_its_own_and_no_other)
{
    cr_assert(contains("192.0.2.0/24", "192.0.2.255"));
    cr_assert_not(contains("192.0.2.0/24", "192.0.3.0"));
    cr_assert(contains("192.0.2.128/25", "192.0.2.128"));
    cr_assert_not(contains("192.0.2.128/25", "192.0.2.127"));
    cr_assert(contains("192.0.2.7", "192.0.2.7"));
    cr_assert_not(contains("192.0.2.7", "192.0.2.6"));
    cr_assert(contains("0.0.0.0/0", "203.0.113.9"));
    cr_assert(contains("2001:db8::/33", "2001:db8:7fff::1"));
    cr_assert_not(contains("2001:db8::/33", "2001:db8:8000::1"));
}

Test(network, families_do_not_mix)
{
    cr_assert_not(contains("0.0.0.0/0", "::1"));
    cr_assert_not(contains("::/0", "10.0.0.1"));
    cr_assert(contains("10.0.0.0/8", "::ffff:10.0.0.1"));
}

Test(network, refuses_bad_text)
{
    static const char *const bad[] = {"",           "10.0.0.0/33", "10.0.0.0/",
                                      "10.0.0.0/x", "10.0.0/8",    "host/8",
                                      "::/129",     "10.0.0.0/-1", "10.0.0.0/8x"};
    struct gw_network network;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(gw_network_parse(bad[i], &network), -EINVAL, "'%s' was not refused", bad[i]);
}
