/* SPDX-License-Identifier: Apache-2.0 */
/* Two transports between two hosts: which one is taken, and what happens when it fails. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/session/message.h"
#include "tests/agent/hosts.h"

#define IMAGE_SIZE (32u << 20)
#define SLOW_MS    60 /* of delay for each op: the copy takes about a second */

Test(link, the_best_transport_is_taken)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "loop"));
    cr_assert_str_eq(hosts_reason(&hosts, "loop"), "");
    hosts_close(&hosts);
}

Test(link, a_transport_that_is_refused_is_passed_over_with_its_reason)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_refuse(hosts.loop, true);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_neq(strstr(hosts_reason(&hosts, "loop"), "refused"), NULL, "'%s'",
                  hosts_reason(&hosts, "loop"));
    hosts_close(&hosts);
}

/* A device that comes while the agent runs: the next migration takes it, the one before did without. */
Test(link, a_transport_is_taken_once_its_device_is_there)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_absent(hosts.loop, true);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_neq(strstr(hosts_reason(&hosts, "loop"), "no device"), NULL, "'%s'",
                  hosts_reason(&hosts, "loop"));
    hosts_clear(&hosts);
    gw_faulty_absent(hosts.loop, false);
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "loop"));
    cr_assert_str_eq(hosts_reason(&hosts, "loop"), "");
    hosts_close(&hosts);
}

Test(link, one_without_its_device_is_dialled_with_when_the_agent_was_told_to_use_it)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_absent(hosts.loop, true);
    hosts.near.transports.is_named[0] = true;
    hosts_start_copy(&hosts);
    cr_assert(hosts_end_well(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link, one_without_its_device_is_refused_by_name)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    gw_faulty_absent(hosts.loop, true);
    hosts.request.link.transports = "loop";
    hosts_start_copy(&hosts);
    cr_assert_eq(hosts_end_copy(&hosts), -ENODEV, "%s", hosts.error.text);
    cr_assert_neq(strstr(hosts.error.text, "loop cannot be used here: faulty: no device"), NULL,
                  "%s", hosts.error.text);
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
    cr_assert(hosts_await_no_files(&hosts));
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
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_after(hosts.loop, 8);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    cr_assert_neq(strstr(hosts_reason(&hosts, "loop"), "refused"), NULL, "'%s'",
                  hosts_reason(&hosts, "loop"));
    hosts_close(&hosts);
}

/* ---- the control session, too ---- */

/* It is slow until the test has done its part, or it might be over before. */
static void start_slow_copy(struct hosts *hosts)
{
    hosts_open(hosts, IMAGE_SIZE);
    gw_faulty_delay(hosts->loop, SLOW_MS);
    hosts_start_copy(hosts);
    hosts_wait_half_way(hosts);
}

Test(link, a_lost_link_grows_again)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_drop_all(hosts.loop);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert(hosts_end_well(&hosts, "loop"));
    hosts_close(&hosts);
}

Test(link, a_lost_transport_leaves_the_next_one)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert(hosts_end_well(&hosts, "tcp"));
    hosts_close(&hosts);
}

Test(link, a_link_that_is_down_for_a_while_is_said_to_be)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_refuse(hosts.tcp, true);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    hosts_wait_for_note(&hosts, "the link is down since 1 s");
    gw_faulty_delay(hosts.loop, 0);
    gw_faulty_refuse(hosts.loop, false);
    cr_assert_eq(hosts_end_copy(&hosts), 0, "%s", hosts.error.text);
    cr_assert(hosts_are_same(&hosts));
    hosts_close(&hosts);
}

Test(link, a_link_that_stays_down_ends_both_sides)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    hosts.request.link.reconnect_s = 1;
    gw_faulty_delay(hosts.loop, SLOW_MS);
    hosts_start_copy(&hosts);
    hosts_wait_half_way(&hosts);
    gw_faulty_refuse(hosts.tcp, true);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    cr_assert_eq(hosts_end_copy(&hosts), -ETIMEDOUT, "%s", hosts.error.text);
    cr_assert_neq(strstr(hosts.error.text, "did not come back within 1 s"), NULL, "%s",
                  hosts.error.text);
    cr_assert(hosts_await_no_files(&hosts));
    hosts_close(&hosts);
}

Test(link, nothing_is_dialled_again_where_that_is_not_wanted)
{
    struct hosts hosts;

    hosts_open(&hosts, IMAGE_SIZE);
    hosts.request.link.reconnect_s = 0;
    gw_faulty_delay(hosts.loop, SLOW_MS);
    hosts_start_copy(&hosts);
    hosts_wait_half_way(&hosts);
    gw_faulty_drop_all(hosts.loop);
    cr_assert_neq(hosts_end_copy(&hosts), 0);
    hosts_close(&hosts);
}

/* Nothing dies, and nothing arrives either; channels: how many there are. */
static void get_stuck(struct hosts *hosts, unsigned channels)
{
    hosts_open(hosts, IMAGE_SIZE);
    hosts->request.link.stall_s = 1;
    hosts->request.link.channels = channels;
    gw_faulty_delay(hosts->loop, SLOW_MS);
    hosts_start_copy(hosts);
    hosts_wait_half_way(hosts);
    gw_faulty_delay(hosts->loop, 600000);
    hosts_wait_for_note(hosts, "no progress for 1 s");
    gw_faulty_delay(hosts->loop, 0);
    cr_assert_eq(hosts_end_copy(hosts), 0, "%s", hosts->error.text);
    cr_assert(hosts_are_same(hosts));
    hosts_close(hosts);
}

Test(link, a_channel_that_gets_stuck_is_replaced)
{
    struct hosts hosts;

    get_stuck(&hosts, 2);
}

Test(link, a_link_on_which_nothing_moves_is_made_anew)
{
    struct hosts hosts;

    get_stuck(&hosts, 1);
}

static bool is_cancelled(struct hosts *hosts)
{
    uint64_t began = gw_clock_ns();

    gw_progress_cancel(&hosts->progress);
    return hosts_end_copy(hosts) == -ECANCELED && gw_clock_ns() - began < 20 * GW_NS_PER_S;
}

Test(link, a_copy_is_cancelled_while_its_link_is_down)
{
    struct hosts hosts;

    start_slow_copy(&hosts);
    gw_faulty_refuse(hosts.tcp, true);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    hosts_wait_for_note(&hosts, "the link is down");
    cr_assert(is_cancelled(&hosts), "%s", hosts.error.text);
    hosts_close(&hosts);
}

/* The control session dies at each of its messages, on either side. Before the offer is accepted the
 * copy fails and leaves nothing; from then on it is whole. */
static bool die_at(struct hosts *hosts, bool is_accepting, uint64_t ops)
{
    uint64_t deadline = gw_clock_ns() + HOSTS_WAIT_MS * GW_NS_PER_MS;

    gw_faulty_drop_control_once(hosts->loop, is_accepting, ops);
    hosts_start_copy(hosts);
    if (hosts_end_copy(hosts) == 0) {
        cr_assert(hosts_are_same(hosts), "side %d, op %d", is_accepting, (int)ops);
        cr_assert_eq(unlink(hosts->arrived), 0);
    }
    while (gw_jobs_active(hosts->jobs) > 0) {
        usleep(1000);
        cr_assert_lt(gw_clock_ns(), deadline, "side %d, op %d does not end", is_accepting,
                     (int)ops);
    }
    cr_assert(hosts_await_no_files(hosts), "side %d, op %d leaves something", is_accepting,
              (int)ops);
    gw_outcome_free(&hosts->outcome);
    return hosts->result == 0;
}

Test(link, the_control_session_may_die_at_each_message, .timeout = 120)
{
    struct hosts hosts;

    hosts_open(&hosts, 2 << 20);
    hosts.request.verify = true;
    /* A target that has finished waits that long for a source that may not have heard of it. */
    hosts.request.link.reconnect_s = 1;
    gw_faulty_refuse(hosts.tcp, true);
    for (unsigned side = 0; side < 2; side++) {
        unsigned good = 0;

        for (uint64_t ops = 0; ops < 14; ops++) {
            bool is_good = die_at(&hosts, side == 1, ops);

            good += is_good;
            /* Once the offer is accepted no later message is worse. */
            cr_assert(is_good || good == 0, "side %u, op %d", side, (int)ops);
        }
        cr_assert_gt(good, 4, "side %u", side);
    }
    hosts_close(&hosts);
}

/* ---- who may rejoin ---- */

static int ask_to_rejoin(struct hosts *hosts, uint8_t instance, const char *epoch, char *words,
                         size_t size)
{
    struct gw_control_options options = {
        .credentials = hosts->credentials, .timeout_ms = HOSTS_WAIT_MS, .role = GW_HELLO_REJOIN};
    struct gw_control_frame frame;
    struct gw_control *control;
    int error;

    options.instance_id[0] = instance;
    error = gw_control_connect(hosts->tcp, &hosts->address, &options, &control);
    cr_assert_eq(error, 0, "%s", gw_error_message());
    error = gw_message_send(control, json_pack("{s:s,s:s,s:s}", "type", "rejoin", "epoch", epoch,
                                               "link", "00112233445566778899aabbccddeeff"));
    cr_assert_eq(error, 0, "%s", gw_error_message());
    error = gw_control_receive(control, HOSTS_WAIT_MS, &frame);
    cr_assert_eq(error, 0, "%s", gw_error_message());
    error = gw_message_is(frame.message, "error") ? gw_message_raise(frame.message) : 0;
    snprintf(words, size, "%s", error ? gw_error_message() : "");
    json_decref(frame.message);
    /* Gone without a word: one that ends in order ends the migration. */
    gw_faulty_drop_all(hosts->tcp);
    gw_control_close(control);
    return error;
}

/* The epoch of the image that is being received, from the name of its file. */
static void read_epoch(const struct hosts *hosts, char epoch[33])
{
    char command[160];
    FILE *pipe;

    snprintf(command, sizeof(command), "ls %s | sed 's/.*godwit-//; s/.part//'", hosts->storage);
    pipe = popen(command, "r");
    cr_assert_eq(fscanf(pipe, "%32s", epoch), 1);
    pclose(pipe);
}

Test(link, only_its_own_source_rejoins_a_migration)
{
    struct hosts hosts;
    char words[256], epoch[33];

    start_slow_copy(&hosts);
    /* It goes on over the other transport, where it is not over before the strangers have asked. */
    gw_faulty_delay(hosts.tcp, SLOW_MS);
    gw_faulty_refuse(hosts.loop, true);
    gw_faulty_drop_all(hosts.loop);
    read_epoch(&hosts, epoch);
    cr_assert_neq(ask_to_rejoin(&hosts, 7, epoch, words, sizeof(words)), 0);
    cr_assert_neq(strstr(words, "another agent's"), NULL, "%s", words);
    cr_assert_neq(
        ask_to_rejoin(&hosts, 1, "ffeeddccbbaa99887766554433221100", words, sizeof(words)), 0);
    cr_assert_neq(strstr(words, "not waited for here"), NULL, "%s", words);
    gw_faulty_delay(hosts.tcp, 0);
    cr_assert_eq(hosts_end_copy(&hosts), 0, "%s", hosts.error.text);
    cr_assert(hosts_are_same(&hosts));
    hosts_close(&hosts);
}

/* Whoever rejoins last has the session: the source itself finds its own taken, and takes it back. */
Test(link, a_second_rejoin_replaces_the_first)
{
    struct hosts hosts;
    char words[256], epoch[33];

    start_slow_copy(&hosts);
    read_epoch(&hosts, epoch);
    cr_assert_eq(ask_to_rejoin(&hosts, 1, epoch, words, sizeof(words)), 0, "%s", words);
    gw_faulty_delay(hosts.loop, 0);
    cr_assert_eq(hosts_end_copy(&hosts), 0, "%s", hosts.error.text);
    cr_assert(hosts_are_same(&hosts));
    hosts_close(&hosts);
}
