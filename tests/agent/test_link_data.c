/* SPDX-License-Identifier: Apache-2.0 */
/* A transport that carries data alone (here loop, said to be one): control goes over the other, the
 * bytes over this one, and back to the other when it cannot be had. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "tests/agent/hosts.h"

#define IMAGE_SIZE (16u << 20)
#define SLOW_MS    60 /* of delay for each op */

static void open_with_data_transport(struct hosts *hosts)
{
    hosts_open(hosts, IMAGE_SIZE);
    gw_faulty_carry_no_control(hosts->loop);
}

Test(link_data, the_bytes_take_it_and_control_does_not)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "loop"));
    cr_assert_str_eq(hosts_reason(&hosts, "loop"), "");
    hosts_close(&hosts);
}

Test(link_data, asked_for_alone_it_brings_the_others_for_control)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    hosts.request.link.transports = "loop";
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link_data, asked_for_alone_it_has_no_second)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    gw_faulty_refuse(hosts.loop, true);
    hosts.request.link.transports = "loop";
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), -ECONNREFUSED, "%s", hosts.error.text);
    cr_assert(hosts_await_no_files(&hosts));
    hosts_close(&hosts);
}

Test(link_data, one_that_is_not_asked_for_is_not_used)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    hosts.request.link.transports = "tcp";
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_str_eq(hosts_reason(&hosts, "loop"), "");
    hosts_close(&hosts);
}

Test(link_data, one_that_does_not_get_through_leaves_the_control_sessions_own)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    gw_faulty_refuse(hosts.loop, true);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_neq(strstr(hosts_reason(&hosts, "loop"), "refused"), NULL, "'%s'",
                  hosts_reason(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link_data, one_that_the_target_does_not_listen_with_is_passed_over)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    gw_faulty_deaf(hosts.loop, true);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_neq(strstr(hosts_reason(&hosts, "loop"), "does not listen"), NULL, "'%s'",
                  hosts_reason(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link_data, a_target_that_takes_data_over_it_alone_gets_none_over_the_control_sessions)
{
    struct hosts hosts;

    open_with_data_transport(&hosts);
    hosts.far.transports.is_for_control[1] = true;
    gw_faulty_refuse(hosts.loop, true);
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), -ECONNREFUSED, "%s", hosts.error.text);
    hosts_close(&hosts);
}

/* It is slow until the test has done its part, or it might be over before. */
static void start_slow_copy(struct hosts *hosts)
{
    open_with_data_transport(hosts);
    gw_faulty_delay(hosts->loop, SLOW_MS);
    hosts_start_copy(hosts);
    hosts_wait_half_way(hosts);
}

Test(link_data, channels_that_die_are_replaced_over_the_control_sessions_transport)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_neq(strstr(hosts_reason(&hosts, "loop"), "refused"), NULL, "'%s'",
                  hosts_reason(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link_data, a_lost_link_regrows_with_it)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_drop_all(hosts.loop);
    gw_faulty_drop_all(hosts.tcp);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert(hosts_end_well(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link_data, a_lost_link_regrows_without_it)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    gw_faulty_drop_all(hosts.tcp);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    hosts_close(&hosts);
}
