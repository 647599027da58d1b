/* SPDX-License-Identifier: Apache-2.0 */
/* Two ports of af_packet whose veth pair loses its link, or goes away: what channels and sleepers learn
 * of it. Each test makes the pair anew. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/rig.h"
#include "transport/dpdk/dpdk.h"

#define WAIT_MS 90000

static void make_wire(void)
{
    cr_assert(getenv("GODWIT_TEST_WIRE"), "run this through contract");
    cr_assert_eq(system("ip link del near && ip link add near type veth peer name far &&"
                        " sysctl -qw net.ipv6.conf.near.disable_ipv6=1"
                        " net.ipv6.conf.far.disable_ipv6=1 &&"
                        " ip link set near up && ip link set far up"),
                 0);
}

TestSuite(dpdk_link, .init = make_wire);

static enum dpdk_port_state state_of(struct gw_transport *transport)
{
    return atomic_load(&gw_dpdk_transport_of(transport)->port.state);
}

static void await_state(struct rig *rig, enum dpdk_port_state wanted)
{
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;

    while (state_of(rig->transport) != wanted || state_of(rig->far_transport) != wanted) {
        cr_assert(gw_clock_ns() < deadline_ns, "the ports' states: %u, %u",
                  state_of(rig->transport), state_of(rig->far_transport));
        rig_turn(rig);
    }
}

/* What killed a channel is told by done(), receiving and posting, also when the port has its link again. */
Test(dpdk_link, a_dead_channel_keeps_its_error)
{
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;
    struct gw_message message;
    struct rig_send send = rig_send("unheard", 7), late = rig_send("late", 4);
    struct rig rig;

    rig_open(&rig, RIG_DPDK);
    rig_join(&rig);
    cr_assert_eq(system("ip link set near down"), 0);
    await_state(&rig, DPDK_PORT_DOWN);
    cr_assert_eq(rig_post_send(rig.near, &send), 0);
    while (send.done_count == 0 || gw_recv(rig.far, &message) == -EAGAIN) {
        cr_assert(gw_clock_ns() < deadline_ns);
        rig_turn(&rig);
    }
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(send.status, -ENETDOWN, "done() told of %d", send.status);
        cr_assert_eq(gw_recv(rig.near, &message), -ENETDOWN, "%s", gw_error_message());
        cr_assert_eq(gw_recv(rig.far, &message), -ENETDOWN, "%s", gw_error_message());
        cr_assert_eq(rig_post_send(rig.near, &late), -ENETDOWN, "%s", gw_error_message());
        if (i == 0)
            cr_assert_eq(system("ip link set near up"), 0);
        await_state(&rig, DPDK_PORT_UP);
    }
    rig_close(&rig);
}

/* Brings the link back once somebody waits to connect. */
static void *heal(void *argument)
{
    struct rig *rig = argument;
    struct dpdk_transport *transport = gw_dpdk_transport_of(rig->transport);
    uint64_t deadline_ns = gw_clock_ns() + WAIT_MS * GW_NS_PER_MS;

    while (atomic_load(&transport->waiting_count) == 0 && gw_clock_ns() < deadline_ns)
        usleep(1000);
    return system("ip link set near up") == 0 ? rig : NULL;
}

/* As vhost has it when virtio_user, at the other end, is configured: a link that comes, goes before
 * anything went over it, and comes again. It is waited for; that there is none is told all the same. */
Test(dpdk_link, a_link_that_comes_and_goes_at_first_is_waited_for)
{
    struct gw_connect_options options = {.channel = {.number = 1, .timeout_ms = 50}};
    struct gw_channel *none;
    void *healed = NULL;
    pthread_t thread;
    struct rig rig;

    rig_open(&rig, RIG_DPDK);
    await_state(&rig, DPDK_PORT_UP);
    cr_assert_eq(system("ip link set near down"), 0);
    await_state(&rig, DPDK_PORT_NEW);
    options.channel.domain = rig.near_domain;
    options.channel.poller = rig.near_poller;
    options.channel.context = &rig;
    options.peer = rig.address;
    rig_set_secret(&options.channel);
    cr_assert_eq(gw_connect(rig.transport, &options, &none), -ENETDOWN);
    cr_assert(strstr(gw_error_message(), "has no link"), "%s", gw_error_message());
    cr_assert_eq(pthread_create(&thread, NULL, heal, &rig), 0);
    rig_join(&rig);
    cr_assert_eq(pthread_join(thread, &healed), 0);
    cr_assert(healed, "the link did not come back");
    cr_assert_eq(system("ip link set near down"), 0);
    await_state(&rig, DPDK_PORT_DOWN);
    cr_assert_eq(gw_connect(rig.transport, &options, &none), -ENETDOWN);
    cr_assert(strstr(gw_error_message(), "lost its link"), "%s", gw_error_message());
    rig_close(&rig);
}

/* No channel's timer wakes these: they have none. */
Test(dpdk_link, who_sleeps_learns_that_the_port_is_gone)
{
    struct gw_channel *ready[1];
    struct rig rig;
    int fds[2];

    rig_open(&rig, RIG_DPDK);
    fds[0] = gw_poller_arm(rig.near_poller);
    fds[1] = gw_poller_arm(rig.far_poller);
    cr_assert_eq(gw_poll(rig.near_poller, ready, 1), 0);
    cr_assert_eq(gw_poll(rig.far_poller, ready, 1), 0);
    cr_assert_eq(system("ip link del near"), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct pollfd item = {.fd = fds[i], .events = POLLIN};

        cr_assert_eq(poll(&item, 1, WAIT_MS), 1, "nobody woke poller %u", i);
    }
    cr_assert_eq(state_of(rig.transport), DPDK_PORT_GONE);
    cr_assert_eq(state_of(rig.far_transport), DPDK_PORT_GONE);
    rig_close(&rig);
}
