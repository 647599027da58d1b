/* SPDX-License-Identifier: Apache-2.0 */
/* Two transports between two hosts: which one is taken, and what happens when it fails. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/agent/hosts.h"

#define IMAGE_SIZE (32u << 20)
#define SLOW_MS    60 /* of delay for each op: the copy takes about a second */

static const char *transport_of(struct hosts *hosts)
{
    const json_t *stats = json_object_get(hosts->outcome.detail, "stats");
    const char *text = json_string_value(json_object_get(stats, "transport"));

    return text ? text : "";
}

/* Why the transport was passed over; "" when it was not. */
static const char *reason_of(struct hosts *hosts, const char *name)
{
    const json_t *list = json_object_get(hosts->outcome.detail, "passed_over"), *item;
    size_t index;

    json_array_foreach((json_t *)list, index, item)
    {
        if (strcmp(json_string_value(json_object_get(item, "transport")), name) == 0)
            return json_string_value(json_object_get(item, "reason"));
    }
    return "";
}

Test(link, the_best_transport_is_taken)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), 0, "%s", hosts.error.text);
    cr_assert(hosts_are_same(&hosts));
    cr_assert_eq(strncmp(transport_of(&hosts), "loop", 4), 0, "%s", transport_of(&hosts));
    cr_assert_str_eq(reason_of(&hosts, "loop"), "");
    hosts_close(&hosts);
}

Test(link, a_transport_that_is_refused_is_passed_over_with_its_reason)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_refuse(hosts.loop, true);
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), 0, "%s", hosts.error.text);
    cr_assert(hosts_are_same(&hosts));
    cr_assert_eq(strncmp(transport_of(&hosts), "tcp", 3), 0, "%s", transport_of(&hosts));
    cr_assert_neq(strstr(reason_of(&hosts, "loop"), "refused"), NULL, "'%s'",
                  reason_of(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link, one_that_is_asked_for_by_name_has_no_second)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_refuse(hosts.loop, true);
    hosts.request.link.transports = "loop";
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), -ECONNREFUSED, "%s", hosts.error.text);
    cr_assert_eq(hosts_count_files(hosts.storage), 0);
    hosts_close(&hosts);
}

Test(link, a_name_that_no_transport_has_is_refused)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    hosts.request.link.transports = "tcp,pigeon";
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), -EINVAL, "%s", hosts.error.text);
    cr_assert_neq(strstr(hosts.error.text, "pigeon"), NULL, "%s", hosts.error.text);
    hosts_close(&hosts);
}

/* The control session stays; the data channels die, and no new one can be had that way. */
Test(link, data_channels_go_on_over_the_next_transport)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_delay(hosts.loop, SLOW_MS);
    hosts_start_copy(&hosts);
    hosts_wait_half_way(&hosts);
    gw_faulty_delay(hosts.loop, 0);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_after(hosts.loop, 8);
    cr_assert_eq(hosts_end_copy(&hosts), 0, "%s", hosts.error.text);
    cr_assert(hosts_are_same(&hosts));
    cr_assert_eq(strncmp(transport_of(&hosts), "tcp", 3), 0, "%s", transport_of(&hosts));
    cr_assert_neq(strstr(reason_of(&hosts, "loop"), "refused"), NULL, "'%s'",
                  reason_of(&hosts, "loop"));
    hosts_close(&hosts);
}
