/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The executor of the handover with scripted steps: what is done in which order, where a step that
 * fails leads, and what the journal holds then. The link is down: messages come from the test. What
 * is expected is what the drawing in handover.h says.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/session/switchover.h"
#include "tests/engine/volume/place.h"

#define EPOCH "00112233445566778899aabbccddeeff"

static const uint8_t peer[16] = {9, 8, 7};
static struct place place;
static struct gw_journal *journal;
static struct gw_switchover switchover;
static char acts[1024], fails[32];

static void set_up(void)
{
    place_on_disk(&place);
    cr_assert_eq(gw_journal_open(place_path(&place, "journal.db"), true, &journal), 0);
}

static void tear_down(void)
{
    json_decref(switchover.detail);
    json_decref(switchover.peer_times);
    gw_journal_close(journal);
    place_end(&place);
}

TestSuite(switchover, .init = set_up, .fini = tear_down, .timeout = 60);

static int act(void *context, enum gw_handover_action action)
{
    const char *name = gw_handover_action_name(action);

    snprintf(acts + strlen(acts), sizeof(acts) - strlen(acts), "%s%s", acts[0] ? " " : "", name);
    return strcmp(name, fails) == 0 ? gw_fail(-EIO, "%s broke", name) : 0;
}

static void prepare(enum gw_journal_side side)
{
    switchover = (struct gw_switchover){.side = side,
                                        .journal = journal,
                                        .epoch = EPOCH,
                                        .detail = json_pack("{s:s}", "qmp", "q"),
                                        .act = act};
    acts[0] = '\0';
}

static void begin(enum gw_journal_side side)
{
    prepare(side);
    cr_assert_eq(gw_switchover_begin(&switchover, peer), 0, "%s", gw_error_message());
}

static void event(enum gw_handover_event name)
{
    cr_assert_eq(gw_switchover_event(&switchover, name), 0, "%s", gw_error_message());
}

static int hear_from(const uint8_t *instance, const char *json)
{
    json_t *message = json_loads(json, 0, NULL);
    int error = gw_switchover_hear(&switchover, instance, message);

    json_decref(message);
    return error;
}

static void hear(const char *name)
{
    char text[160];

    snprintf(text, sizeof(text),
             "{\"type\":\"handover\",\"message\":\"%s\",\"epoch\":\"" EPOCH "\"}", name);
    cr_assert_eq(hear_from(peer, text), 0, "%s: %s", name, gw_error_message());
}

static const char *state(void)
{
    return gw_handover_state_name(switchover.machine.state);
}

/* The states that were recorded, in order. */
static const char *history(void)
{
    static char text[512];
    json_t *list, *item;
    size_t index;

    text[0] = '\0';
    cr_assert_eq(gw_journal_history(journal, EPOCH, switchover.side, &list), 0);
    json_array_foreach(list, index, item)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", index ? " " : "",
                 json_string_value(json_object_get(item, "state")));
    json_decref(list);
    return text;
}

/* To COMMITTED, whatever fails on the way. */
static void run_source(void)
{
    begin(GW_SIDE_SOURCE);
    event(GW_EVENT_CONVERGED);
    if (switchover.machine.state == GW_HANDOVER_WAITING)
        hear("READY");
}

static void run_target(void)
{
    begin(GW_SIDE_TARGET);
    hear("FINISH");
    if (switchover.machine.state == GW_HANDOVER_PREPARED)
        hear("GO");
}

Test(switchover, source_does_its_steps_in_order)
{
    run_source();
    cr_assert_str_eq(state(), "COMMITTED");
    cr_assert_str_eq(acts, "TELL_GUARD_STOPPED RENAME_IMAGES STOP_GUEST COPY_LAST SWAP_DISKS "
                           "SEND_STATE CHECK_VMM TELL_GUARD_COMMITTING");
    acts[0] = '\0';
    hear("RUNNING");
    cr_assert_str_eq(state(), "DONE");
    cr_assert_str_eq(acts, "END_VMM DELETE_IMAGES");
    cr_assert_str_eq(history(), "COPYING COPYING COMMITTED HANDED_OVER DONE");
    cr_assert_eq(switchover.cause.code, 0);
}

Test(switchover, target_does_its_steps_in_order)
{
    run_target();
    cr_assert_str_eq(state(), "RUNNING");
    cr_assert_str_eq(acts, "SYNC_IMAGES RENAME_FINAL LOAD_STATE SWAP_IN CHECK_VMM CONT ANNOUNCE "
                           "KEEP_NAMES");
    cr_assert_str_eq(history(), "RECEIVING PREPARED OWNER RUNNING");
}

Test(switchover, journal_holds_the_peer_and_the_detail)
{
    struct gw_journal_entry entry;

    run_source();
    cr_assert_eq(gw_journal_find(journal, EPOCH, GW_SIDE_SOURCE, &entry), 0);
    cr_assert_str_eq(entry.state, "COMMITTED");
    cr_assert_arr_eq(entry.peer_instance, peer, 16);
    cr_assert_str_eq(json_string_value(json_object_get(entry.detail, "qmp")), "q");
    gw_journal_entry_free(&entry);
}

struct step {
    char name[32];
};

ParameterizedTestParameters(switchover, source_runs_again_after_a_failed_step)
{
    static struct step steps[] = {
        {"TELL_GUARD_STOPPED"}, {"STOP_GUEST"},    {"COPY_LAST"}, {"SWAP_DISKS"},
        {"SEND_STATE"},         {"RENAME_IMAGES"}, {"CHECK_VMM"}, {"TELL_GUARD_COMMITTING"},
    };

    return cr_make_param_array(struct step, steps, sizeof(steps) / sizeof(*steps));
}

ParameterizedTest(struct step *step, switchover, source_runs_again_after_a_failed_step,
                  .timeout = 60)
{
    char wanted[64];
    const char *undo;

    strcpy(fails, step->name);
    run_source();
    cr_assert_str_eq(state(), "RESUMED", "%s", acts);
    /* Everything is undone after the failure, in the order of handover.c, and nothing else. */
    snprintf(wanted, sizeof(wanted), "%s RENAME_BACK", step->name);
    undo = strstr(acts, wanted);
    cr_assert_not_null(undo, "%s", acts);
    cr_assert_str_eq(undo + strlen(step->name) + 1,
                     "RENAME_BACK SWAP_BACK CONT CLEAN_SOURCE TELL_GUARD_RESUMED");
    cr_assert_null(strstr(history(), "COMMITTED"));
    cr_assert_not_null(strstr(history(), "RESUMED"));
    cr_assert_eq(switchover.cause.code, -EIO);
    snprintf(wanted, sizeof(wanted), "%s broke", step->name);
    cr_assert_str_eq(switchover.cause.text, wanted);
    /* The target's word closes it. */
    hear("ABORTED");
    cr_assert_str_eq(state(), "CLOSED");
}

ParameterizedTestParameters(switchover, target_never_runs_after_a_failed_step)
{
    static struct step steps[] = {
        {"SYNC_IMAGES"}, {"RENAME_FINAL"}, {"LOAD_STATE"}, {"SWAP_IN"}, {"CHECK_VMM"},
    };

    return cr_make_param_array(struct step, steps, sizeof(steps) / sizeof(*steps));
}

ParameterizedTest(struct step *step, switchover, target_never_runs_after_a_failed_step,
                  .timeout = 60)
{
    char wanted[64];

    strcpy(fails, step->name);
    run_target();
    cr_assert_str_eq(state(), "DISCARDED", "%s", acts);
    cr_assert_null(strstr(acts, "CONT"), "%s", acts);
    snprintf(wanted, sizeof(wanted), "%s END_VMM DISCARD", step->name);
    cr_assert_not_null(strstr(acts, wanted), "%s", acts);
    cr_assert_str_eq(history(), "RECEIVING ABORTED DISCARDED");
    snprintf(wanted, sizeof(wanted), "%s broke", step->name);
    cr_assert_str_eq(switchover.cause.text, wanted);
    hear("GO");
    cr_assert_str_eq(state(), "DISCARDED", "a late GO starts nothing");
}

Test(switchover, target_whose_cont_fails_never_ran)
{
    strcpy(fails, "CONT");
    run_target();
    cr_assert_str_eq(state(), "DISCARDED");
    cr_assert_str_eq(history(), "RECEIVING PREPARED OWNER NEVER_RAN DISCARDED");
    cr_assert_not_null(strstr(acts, "CONT END_VMM END_VMM DISCARD"), "%s", acts);
}

Test(switchover, source_keeps_asking_to_end_its_vmm)
{
    strcpy(fails, "END_VMM");
    run_source();
    hear("RUNNING");
    cr_assert_str_eq(state(), "HANDED_OVER");
    cr_assert_null(strstr(acts, "DELETE_IMAGES"), "%s", acts);
    fails[0] = '\0';
    event(GW_EVENT_RETRY);
    cr_assert_str_eq(state(), "DONE");
}

Test(switchover, failed_undo_is_tried_again)
{
    strcpy(fails, "SWAP_BACK");
    begin(GW_SIDE_SOURCE);
    event(GW_EVENT_CONVERGED);
    event(GW_EVENT_TIMEOUT);
    cr_assert_str_eq(state(), "UNDOING");
    cr_assert_null(strstr(acts, "SWAP_BACK CONT"), "a guest without its disks ran: %s", acts);
    fails[0] = '\0';
    event(GW_EVENT_RETRY);
    cr_assert_str_eq(state(), "RESUMED");
}

Test(switchover, source_that_never_ran_there_runs_here)
{
    run_source();
    acts[0] = '\0';
    hear("NEVER_RAN");
    cr_assert_str_eq(acts, "RENAME_BACK SWAP_BACK CONT CLEAN_SOURCE TELL_GUARD_RESUMED");
    cr_assert_str_eq(history(), "COPYING COPYING COMMITTED UNDOING RESUMED CLOSED");
}

Test(switchover, committed_source_without_an_answer_is_in_doubt_and_stays)
{
    run_source();
    acts[0] = '\0';
    event(GW_EVENT_LINK_LOST);
    cr_assert_str_eq(state(), "IN_DOUBT");
    cr_assert(switchover.wants_redial);
    event(GW_EVENT_TIMEOUT);
    cr_assert_str_eq(acts, "", "it acted by itself");
}

Test(switchover, committed_source_refuses_to_be_cancelled)
{
    run_source();
    cr_assert_eq(gw_switchover_event(&switchover, GW_EVENT_CANCEL), -EBUSY);
    cr_assert_str_eq(state(), "COMMITTED");
}

Test(switchover, cancelled_copy_is_cleaned_and_never_stopped)
{
    begin(GW_SIDE_SOURCE);
    event(GW_EVENT_CANCEL);
    cr_assert_str_eq(state(), "RESUMED");
    cr_assert_str_eq(acts, "CLEAN_SOURCE TELL_GUARD_RESUMED");
}

Test(switchover, vm_paused_by_its_owner_is_not_continued)
{
    prepare(GW_SIDE_TARGET);
    switchover.machine.is_guest_paused = true;
    cr_assert_eq(gw_switchover_begin(&switchover, peer), 0);
    hear("FINISH");
    hear("GO");
    cr_assert_str_eq(state(), "RUNNING");
    cr_assert_null(strstr(acts, "CONT"), "%s", acts);
    cr_assert_null(strstr(acts, "ANNOUNCE"), "%s", acts);
}

Test(switchover, restart_of_a_committed_source_redials_and_does_nothing_else)
{
    struct gw_journal_entry entry;

    run_source();
    cr_assert_eq(gw_journal_find(journal, EPOCH, GW_SIDE_SOURCE, &entry), 0);
    json_decref(switchover.detail);
    prepare(GW_SIDE_SOURCE);
    cr_assert_eq(gw_switchover_restart(&switchover, &entry), 0, "%s", gw_error_message());
    cr_assert_str_eq(state(), "IN_DOUBT");
    cr_assert(switchover.wants_redial);
    cr_assert_str_eq(acts, "");
    gw_journal_entry_free(&entry);
}

Test(switchover, message_of_another_move_changes_nothing)
{
    run_source();
    cr_assert_eq(hear_from(peer, "{\"message\":\"RUNNING\",\"epoch\":\"11\"}"), -EPROTO);
    cr_assert_str_eq(state(), "COMMITTED");
}

Test(switchover, message_of_another_instance_is_not_believed)
{
    uint8_t other[16] = {1};

    run_source();
    acts[0] = '\0';
    cr_assert_eq(hear_from(other, "{\"message\":\"NEVER_RAN\",\"epoch\":\"" EPOCH "\"}"), 0);
    cr_assert_str_eq(state(), "IN_DOUBT");
    cr_assert_str_eq(acts, "");
}

Test(switchover, message_without_its_members_is_refused)
{
    run_source();
    cr_assert_eq(hear_from(peer, "{}"), -EPROTO);
    cr_assert_eq(hear_from(peer, "{\"message\":\"RUNNING\"}"), -EPROTO);
    cr_assert_eq(hear_from(peer, "{\"epoch\":\"" EPOCH "\"}"), -EPROTO);
    cr_assert_str_eq(state(), "COMMITTED");
}

Test(switchover, message_of_an_unknown_name_is_refused)
{
    run_source();
    cr_assert_eq(hear_from(peer, "{\"message\":\"HELLO\",\"epoch\":\"" EPOCH "\"}"), -EPROTO);
    cr_assert_str_eq(state(), "COMMITTED");
}

/* Events of this host must not be told from outside. */
Test(switchover, peer_cannot_send_an_event_of_this_host)
{
    static const char *const names[] = {"DONE", "RESOLVE_SOURCE", "RETRY", "VMM_GONE", "CANCEL"};
    char text[128];

    run_source();
    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
        snprintf(text, sizeof(text), "{\"message\":\"%s\",\"epoch\":\"" EPOCH "\"}", names[i]);
        cr_assert_eq(hear_from(peer, text), -EPROTO, "%s", names[i]);
    }
    cr_assert_str_eq(state(), "COMMITTED");
}

Test(switchover, message_that_the_state_does_not_expect_is_refused)
{
    begin(GW_SIDE_TARGET);
    cr_assert_eq(hear_from(peer, "{\"message\":\"GO\",\"epoch\":\"" EPOCH "\"}"), -EPROTO);
    cr_assert_str_eq(state(), "RECEIVING");
    cr_assert_str_eq(acts, "");
}

Test(switchover, alarm_is_raised_when_both_run)
{
    begin(GW_SIDE_SOURCE);
    event(GW_EVENT_CANCEL);
    cr_assert_not(switchover.machine.is_contradicted);
    hear("RUNNING");
    cr_assert(switchover.machine.is_contradicted);
}

Test(switchover, times_name_the_steps_that_were_done)
{
    json_t *times;

    run_source();
    times = gw_switchover_times(&switchover);
    cr_assert(json_is_real(json_object_get(times, "STOP_GUEST")));
    cr_assert(json_is_real(json_object_get(times, "JOURNAL_COMMITTED")));
    cr_assert_null(json_object_get(times, "CONT"));
    json_decref(times);
}

Test(switchover, times_of_the_peer_are_kept)
{
    run_source();
    cr_assert_eq(hear_from(peer, "{\"message\":\"RUNNING\",\"epoch\":\"" EPOCH
                                 "\",\"steps_ms\":{\"CONT\":1.5}}"),
                 0);
    cr_assert_float_eq(json_real_value(json_object_get(switchover.peer_times, "CONT")), 1.5, 1e-9);
}
