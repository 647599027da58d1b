/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every state with every event. What is expected is written here by hand; everything else must be
 * refused and change nothing. (Whole schedules are explore.c's.)
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/handover/handover.h"

/* States and events separated by blanks. busy: 'b' a list is in hand, 'i' none is, '*' both. next
 * "=" for the same state. Flags, beside none: 'g' QEMU is gone, 'a' an abort is wanted, 'r' READY
 * came, 'c' the target promised, 'u' no link, 'm' the guest may have run, 'R' the target said that it
 * runs, 'C' the other side contradicts. First row that fits, as in the text of the design; a row
 * without a next state is a refusal. */
static const struct {
    const char *states, *events;
    char busy, flag;
    const char *next, *actions;
} expected[] = {
#define TROUBLE "CANCEL TIMEOUT ABORTED NEVER_RAN UNKNOWN STRANGER"
#define UNDO    "SEND_ABORT RENAME_BACK SWAP_BACK CONT CLEAN_SOURCE TELL_GUARD_RESUMED"
#define EARLY   "SEND_ABORT CLEAN_SOURCE TELL_GUARD_RESUMED"
#define PUT     "SEND_ABORT RENAME_BACK TELL_GUARD_RESUMED JOURNAL_GONE"
#define PAUSING "STOPPING STOPPED SWAPPING SWAPPED CHECKING"
#define WEATHER "LINK_LOST LINK_UP GUARD_LOST TIMEOUT STRANGER"
#define ANSWERS "ABORTED NEVER_RAN RUNNING LOST UNKNOWN READY"
#define HANDED  "JOURNAL_HANDED_OVER END_VMM SEND_GO"
#define GAVE_UP "ABORTING ABORTED GIVING_UP NEVER_RAN YIELDING YIELDED DISCARDED"
#define LATE    "OWNING OWNER RUNNING LOST " GAVE_UP
    /* source: any trouble before COMMITTING, at rest or in a step, ends with the guest running */
    {"COPYING", "CONVERGED", 'i', '-', "STOPPING",
     "JOURNAL_COPYING TELL_GUARD_STOPPED RENAME_IMAGES STOP_GUEST"},
    {"COPYING", TROUBLE, 'i', '-', "UNDOING", EARLY},
    {"COPYING", "VMM_GONE", 'i', '-', "GONE", PUT},
    {"COPYING " PAUSING, TROUBLE " VMM_GONE", 'b', '-', "=", "INTERRUPT"},
    {PAUSING, "LINK_LOST GUARD_LOST", 'b', '-', "=", "INTERRUPT"},
    {"COPYING", "LINK_LOST", '*', '-', "=", "REDIAL"},
    {"COPYING", "LINK_UP GUARD_LOST", '*', '-', "=", ""},
    {"COPYING", "DONE", 'b', 'g', "GONE", PUT},
    {"COPYING", "DONE", 'b', 'a', "UNDOING", EARLY},
    {"COPYING", "DONE", 'b', '-', "=", ""},
    {"COPYING", "FAILED", 'b', '-', "UNDOING", EARLY},
    {PAUSING " WAITING", "LINK_UP", '*', '-', "=", ""},
    {PAUSING, "DONE FAILED", 'b', 'g', "GONE", PUT},
    {PAUSING, "DONE FAILED", 'b', 'a', "UNDOING", UNDO},
    {PAUSING, "FAILED", 'b', '-', "UNDOING", UNDO},
    {"STOPPING", "DONE", 'b', '-', "STOPPED", "COPY_LAST"},
    {"STOPPED", "DONE", 'b', '-', "SWAPPING", "SWAP_DISKS"},
    {"SWAPPING", "DONE", 'b', '-', "SWAPPED", "SEND_FINISH SEND_STATE"},
    {"SWAPPED", "READY", 'b', '-', "=", ""},
    {"SWAPPED", "DONE", 'b', 'r', "CHECKING", "CHECK_VMM TELL_GUARD_COMMITTING"},
    {"SWAPPED", "DONE", 'b', '-', "WAITING", ""},
    {"WAITING", "READY", '*', '-', "CHECKING", "CHECK_VMM TELL_GUARD_COMMITTING"},
    {"WAITING", TROUBLE " LINK_LOST GUARD_LOST", '*', '-', "UNDOING", UNDO},
    {"WAITING", "VMM_GONE", '*', '-', "GONE", PUT},
    {"CHECKING", "DONE", 'b', '-', "COMMITTING", "JOURNAL_COMMITTED"},
    /* source: from COMMITTING on only the target's word or a person's moves it */
    {"COMMITTING", WEATHER " ABORTED NEVER_RAN UNKNOWN READY VMM_GONE", 'b', '-', "=", ""},
    {"COMMITTING", "DONE", 'b', 'c', "RECLAIMING", "JOURNAL_UNDOING"},
    {"COMMITTING", "DONE", 'b', 'u', "IN_DOUBT", "REDIAL"},
    {"COMMITTING", "DONE", 'b', '-', "COMMITTED", "SEND_GO"},
    {"COMMITTING", "FAILED", 'b', 'c', "UNDOING", UNDO},
    {"COMMITTING", "FAILED", 'b', '-', "COMMIT_UNSURE", "SEND_ABORT JOURNAL_UNDOING"},
    {"COMMIT_UNSURE", "DONE", 'b', '-', "UNDOING", UNDO},
    {"COMMIT_UNSURE", "FAILED", 'b', 'c', "UNDOING", UNDO},
    {"COMMIT_UNSURE", "FAILED", 'b', 'u', "=", "REDIAL"},
    {"COMMIT_UNSURE", "FAILED", 'b', '-', "=", ""},
    {"COMMIT_UNSURE", "ABORTED NEVER_RAN", 'i', '-', "UNDOING", UNDO},
    {"COMMIT_UNSURE", "RUNNING", 'i', '-', "HANDED_OVER", "RENAME_IMAGES " HANDED},
    {"COMMIT_UNSURE", "RETRY RESOLVE_SOURCE", 'i', '-', "=", "SEND_ABORT JOURNAL_UNDOING"},
    {"COMMIT_UNSURE", "LINK_UP READY", '*', '-', "=", "SEND_ABORT"},
    {"COMMIT_UNSURE", "LINK_LOST", '*', '-', "=", "REDIAL"},
    {"COMMIT_UNSURE", "LOST", '*', '-', "=", "ALARM"},
    {"COMMIT_UNSURE", WEATHER " " ANSWERS " VMM_GONE", '*', '-', "=", ""},
    {"COMMITTED IN_DOUBT TARGET_LOST", "RUNNING", '*', '-', "HANDED_OVER", HANDED},
    {"COMMITTED IN_DOUBT TARGET_LOST", "ABORTED NEVER_RAN", '*', '-', "RECLAIMING",
     "JOURNAL_UNDOING"},
    {"COMMITTED IN_DOUBT TARGET_LOST", "LOST", '*', '-', "TARGET_LOST", ""},
    {"COMMITTED IN_DOUBT TARGET_LOST", "LINK_UP READY", '*', '-', "=", "SEND_GO"},
    {"COMMITTED", "LINK_LOST", '*', '-', "IN_DOUBT", "REDIAL"},
    {"COMMITTED", "TIMEOUT", '*', '-', "IN_DOUBT", "SEND_GO"},
    {"COMMITTED", "UNKNOWN STRANGER", '*', '-', "IN_DOUBT", ""},
    {"IN_DOUBT TARGET_LOST", "LINK_LOST", '*', '-', "=", "REDIAL"},
    {"IN_DOUBT TARGET_LOST", "RETRY", '*', '-', "=", "SEND_GO"},
    {"IN_DOUBT TARGET_LOST", "RESOLVE_SOURCE", '*', '-', "RECLAIMING", "JOURNAL_UNDOING"},
    {"IN_DOUBT TARGET_LOST", "RESOLVE_TARGET", '*', '-', "HANDED_OVER", HANDED},
    {"COMMITTED IN_DOUBT TARGET_LOST", "TIMEOUT GUARD_LOST VMM_GONE UNKNOWN STRANGER", '*', '-',
     "=", ""},
    {"RECLAIMING", "DONE", 'b', 'g', "GONE", PUT},
    {"RECLAIMING", "DONE", 'b', '-', "UNDOING", UNDO},
    {"RECLAIMING", "FAILED", 'b', 'u', "IN_DOUBT", "REDIAL"},
    {"RECLAIMING", "FAILED", 'b', '-', "IN_DOUBT", ""},
    {"RECLAIMING", "RUNNING", '*', '-', "=", "ALARM"},
    {"RECLAIMING", WEATHER " " ANSWERS " VMM_GONE", '*', '-', "=", ""},
    {"HANDED_OVER", "DONE", 'b', 'R', "DONE", "DELETE_IMAGES JOURNAL_DONE"},
    {"HANDED_OVER", "DONE FAILED", 'b', 'u', "=", "REDIAL"},
    {"HANDED_OVER", "DONE FAILED", 'b', '-', "=", ""},
    {"HANDED_OVER", "RETRY RUNNING READY LINK_UP", 'i', '-', "=", HANDED},
    /* once it has said that it runs, there is nothing to settle */
    {"HANDED_OVER", "RESOLVE_SOURCE", 'i', 'R', NULL, NULL},
    {"HANDED_OVER", "RESOLVE_SOURCE", 'i', '-', "RECLAIMING", "JOURNAL_UNDOING"},
    {"HANDED_OVER", "LINK_LOST", '*', '-', "=", "REDIAL"},
    {"DONE", "DONE FAILED", 'b', '-', "=", ""},
    {"DONE", "RETRY", 'i', 'R', "=", "DELETE_IMAGES JOURNAL_DONE"},
    {"DONE", "RETRY", 'i', '-', "=", "JOURNAL_DONE"},
    {"HANDED_OVER DONE", "ABORTED NEVER_RAN", '*', '-', "=", "ALARM"},
    {"DONE", "READY LINK_UP", '*', '-', "=", "SEND_GO"},
    {"HANDED_OVER DONE", WEATHER " " ANSWERS " VMM_GONE", '*', '-', "=", ""},
    /* source, going on */
    {"UNDOING", "DONE FAILED", 'b', 'g', "GONE", PUT},
    {"UNDOING", "DONE", 'b', '-', "RESUMED", "JOURNAL_RESUMED"},
    {"UNDOING", "FAILED", 'b', '-', "=", ""},
    {"UNDOING", "RETRY", 'i', '-', "=", UNDO},
    {"UNDOING", "VMM_GONE", 'i', '-', "GONE", PUT},
    {"RESUMED GONE", "DONE", 'b', 'c', "CLOSED", "JOURNAL_CLOSED"},
    {"RESUMED GONE", "DONE FAILED", 'b', 'u', "=", "REDIAL"},
    {"RESUMED GONE", "DONE FAILED", 'b', '-', "=", ""},
    {"RESUMED", "RETRY", 'i', '-', "=", "JOURNAL_RESUMED"},
    {"GONE", "RETRY", 'i', '-', "=", PUT},
    {"RESUMED", "ABORTED NEVER_RAN UNKNOWN STRANGER", 'i', '-', "CLOSED", "JOURNAL_CLOSED"},
    {"GONE", "ABORTED NEVER_RAN UNKNOWN STRANGER", 'i', '-', "=", PUT},
    {"RESUMED GONE", "LINK_LOST", 'i', '-', "=", "REDIAL"},
    {"RESUMED GONE", "RESOLVE_TARGET", 'i', 'C', "HANDED_OVER", "RENAME_IMAGES " HANDED},
    {"CLOSED", "DONE FAILED", 'b', '-', "=", ""},
    {"CLOSED", "RETRY", 'i', '-', "=", "JOURNAL_CLOSED"},
    {"UNDOING RESUMED GONE", "LINK_UP", '*', '-', "=", "SEND_ABORT"},
    {"UNDOING RESUMED GONE CLOSED", "READY", '*', '-', "=", "SEND_ABORT"},
    {"UNDOING RESUMED GONE CLOSED", "RUNNING LOST", '*', '-', "=", "ALARM"},
    {"UNDOING RESUMED GONE CLOSED", WEATHER " " ANSWERS " VMM_GONE", '*', '-', "=", ""},
    /* target */
    {"RECEIVING", "DONE", 'b', 'a', "ABORTING", "JOURNAL_ABORTED"},
    {"RECEIVING", "DONE", 'b', '-', "=", ""},
    {"RECEIVING", "FAILED", 'b', '-', "ABORTING", "JOURNAL_ABORTED"},
    {"RECEIVING", "FINISH", 'i', '-', "LOADING", "SYNC_IMAGES RENAME_FINAL LOAD_STATE"},
    {"RECEIVING", "CANCEL TIMEOUT VMM_GONE ABORT RESOLVE_SOURCE", 'i', '-', "ABORTING",
     "JOURNAL_ABORTED"},
    {"RECEIVING LOADING PLACING PREPARING", "CANCEL TIMEOUT VMM_GONE ABORT RESOLVE_SOURCE", 'b',
     '-', "=", "INTERRUPT"},
    {"LOADING PLACING PREPARING", "DONE FAILED", 'b', 'a', "ABORTING", "JOURNAL_ABORTED"},
    {"LOADING PLACING PREPARING", "FAILED", 'b', '-', "ABORTING", "JOURNAL_ABORTED"},
    {"LOADING", "DONE", 'b', '-', "PLACING", "SWAP_IN CHECK_VMM"},
    {"PLACING", "DONE", 'b', '-', "PREPARING", "JOURNAL_PREPARED"},
    {"PREPARING", "DONE", 'b', '-', "PREPARED", "SEND_READY"},
    {"PREPARED", "TIMEOUT", '*', '-', "=", ""},
    {"PREPARED", "GO RESOLVE_TARGET", '*', '-', "OWNING", "JOURNAL_OWNER"},
    {"PREPARED", "CANCEL VMM_GONE ABORT RESOLVE_SOURCE", '*', '-', "ABORTING", "JOURNAL_ABORTED"},
    {"OWNING", "DONE", 'b', 'g', "GIVING_UP", "END_VMM JOURNAL_NEVER_RAN"},
    {"OWNING", "DONE", 'b', '-', "OWNER", "CONT"},
    {"OWNING", "FAILED", 'b', '-', "GIVING_UP", "END_VMM JOURNAL_NEVER_RAN"},
    {"OWNER", "DONE FAILED", 'b', 'g', "LOST", "KEEP_NAMES JOURNAL_LOST SEND_LOST"},
    {"OWNER", "DONE", 'b', '-', "RUNNING", "SEND_RUNNING ANNOUNCE KEEP_NAMES JOURNAL_RUNNING"},
    {"OWNER", "FAILED", 'b', 'm', "LOST", "KEEP_NAMES JOURNAL_LOST SEND_LOST"},
    {"OWNER", "FAILED", 'b', '-', "GIVING_UP", "END_VMM JOURNAL_NEVER_RAN"},
    {"RUNNING LOST", "DONE FAILED", 'b', '-', "=", ""},
    {"RUNNING", "RETRY", 'i', '-', "=", "KEEP_NAMES JOURNAL_RUNNING SEND_RUNNING"},
    {"RUNNING", "GO", '*', '-', "=", "SEND_RUNNING"},
    {"RUNNING", "ABORT", '*', '-', "=", "SEND_RUNNING ALARM"},
    {"RUNNING", "RESOLVE_SOURCE", 'i', 'C', "YIELDING", "END_VMM JOURNAL_YIELDED"},
    {"LOST", "RETRY", 'i', '-', "=", "KEEP_NAMES JOURNAL_LOST SEND_LOST"},
    {"LOST", "GO ABORT", '*', '-', "=", "SEND_LOST"},
    {"LOST", "RESOLVE_SOURCE", 'i', '-', "YIELDING", "END_VMM JOURNAL_YIELDED"},
    {"LOST", "RESOLVE_TARGET", 'i', '-', "RUNNING", "KEEP_NAMES JOURNAL_RUNNING SEND_RUNNING"},
    {"ABORTING", "DONE", 'b', '-', "ABORTED", "SEND_ABORTED END_VMM DISCARD JOURNAL_DISCARDED"},
    {"ABORTING", "RETRY", 'i', '-', "=", "JOURNAL_ABORTED"},
    {"GIVING_UP", "DONE", 'b', '-', "NEVER_RAN",
     "SEND_NEVER_RAN END_VMM DISCARD JOURNAL_DISCARDED"},
    {"GIVING_UP", "RETRY", 'i', '-', "=", "END_VMM JOURNAL_NEVER_RAN"},
    {"YIELDING", "DONE", 'b', '-', "YIELDED", "SEND_ABORTED SET_ASIDE JOURNAL_DISCARDED"},
    {"YIELDING", "FAILED", 'b', '-', "LOST", ""},
    {"ABORTED", "RETRY", 'i', '-', "=", "SEND_ABORTED END_VMM DISCARD JOURNAL_DISCARDED"},
    {"NEVER_RAN", "RETRY", 'i', '-', "=", "SEND_NEVER_RAN END_VMM DISCARD JOURNAL_DISCARDED"},
    {"YIELDED", "RETRY", 'i', '-', "=", "SEND_ABORTED SET_ASIDE JOURNAL_DISCARDED"},
    {"ABORTED NEVER_RAN YIELDED", "DONE", 'b', '-', "DISCARDED", ""},
    {"ABORTING GIVING_UP ABORTED NEVER_RAN YIELDED", "FAILED", 'b', '-', "=", ""},
    {"NEVER_RAN", "GO ABORT", '*', '-', "=", "SEND_NEVER_RAN"},
    {"ABORTED YIELDED DISCARDED", "GO ABORT", '*', '-', "=", "SEND_ABORTED"},
    {"OWNING OWNER ABORTING GIVING_UP YIELDING", "GO ABORT", '*', '-', "=", ""},
    {LATE, "VMM_GONE TIMEOUT", '*', '-', "=", ""},
    {"RECEIVING LOADING PLACING PREPARING PREPARED " LATE, "LINK_LOST LINK_UP STRANGER", '*', '-',
     "=", ""},
};

static bool has_word(const char *list, const char *word)
{
    const size_t length = strlen(word);

    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

static int look_up(const struct gw_handover *handover, enum gw_handover_event event, char flag)
{
    for (unsigned i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        if (has_word(expected[i].states, gw_handover_state_name(handover->state)) &&
            has_word(expected[i].events, gw_handover_event_name(event)) &&
            (expected[i].busy == '*' || (expected[i].busy == 'b') == handover->is_busy) &&
            (expected[i].flag == '-' || expected[i].flag == flag))
            return expected[i].next != NULL ? (int)i : -1;
    return -1;
}

static void check_one(enum gw_handover_state state, enum gw_handover_event event, bool is_busy,
                      char flag)
{
    struct gw_handover handover = {.state = state, .is_busy = is_busy, .is_linked = flag != 'u'};
    struct gw_handover before;
    struct gw_handover_actions actions;
    char text[512] = "", where[128];
    int row, error;

    handover.is_vmm_gone = flag == 'g';
    handover.is_abort_wanted = flag == 'a';
    handover.is_ready = flag == 'r';
    handover.is_target_clean = flag == 'c';
    handover.may_have_run = flag == 'm';
    handover.is_target_running = flag == 'R';
    handover.is_contradicted = flag == 'C';
    before = handover;
    row = look_up(&handover, event, flag);
    snprintf(where, sizeof(where), "%s%s + %s, flag %c", gw_handover_state_name(state),
             is_busy ? " busy" : "", gw_handover_event_name(event), flag);
    cr_expect_eq(gw_handover_expects(&handover, event), row >= 0, "%s", where);
    error = gw_handover_step(&handover, event, &actions);
    if (row < 0) {
        cr_expect_eq(error, event == GW_EVENT_CANCEL ? -EBUSY : -EPROTO, "%s", where);
        cr_expect_eq(memcmp(&before, &handover, sizeof(before)), 0, "%s changed something", where);
        cr_expect_eq(actions.count, 0);
        return;
    }
    cr_expect_eq(error, 0, "%s: %s", where, gw_error_message());
    for (unsigned i = 0; i < actions.count; i++) {
        strcat(text, i > 0 ? " " : "");
        strcat(text, gw_handover_action_name(actions.list[i]));
    }
    cr_expect_str_eq(text, expected[row].actions, "%s does %s", where, text);
    cr_expect_str_eq(gw_handover_state_name(handover.state),
                     strcmp(expected[row].next, "=") == 0 ? gw_handover_state_name(state)
                                                          : expected[row].next,
                     "%s leads to %s", where, gw_handover_state_name(handover.state));
}

Test(states, each_with_each_event)
{
    for (int state = GW_HANDOVER_NONE + 1; state < GW_HANDOVER_STATE_COUNT; state++)
        for (int event = 0; event < GW_EVENT_COUNT; event++)
            for (const char *flag = "-garcumRC"; *flag != '\0'; flag++) {
                check_one((enum gw_handover_state)state, (enum gw_handover_event)event, false,
                          *flag);
                check_one((enum gw_handover_state)state, (enum gw_handover_event)event, true,
                          *flag);
            }
}

Test(states, names_are_unique_and_parse)
{
    enum gw_handover_state parsed;

    for (int i = GW_HANDOVER_NONE + 1; i < GW_HANDOVER_STATE_COUNT; i++) {
        cr_assert_eq(
            gw_handover_state_parse(gw_handover_state_name((enum gw_handover_state)i), &parsed), 0);
        cr_assert_eq(parsed, (enum gw_handover_state)i);
        cr_assert_not_null(gw_handover_state_meaning(parsed));
        cr_assert(strlen(gw_handover_state_name(parsed)) <
                  sizeof(((struct gw_journal_entry *)0)->state));
    }
    cr_assert_eq(gw_handover_state_parse("SOMETHING", &parsed), -EINVAL);
}

Test(states, no_cancel_after_committing)
{
    for (int i = GW_HANDOVER_COMMITTING; i <= GW_HANDOVER_CLOSED; i++)
        cr_assert(!gw_handover_may_cancel((enum gw_handover_state)i));
    for (int i = GW_HANDOVER_COPYING; i < GW_HANDOVER_COMMITTING; i++)
        cr_assert(gw_handover_may_cancel((enum gw_handover_state)i));
}

Test(states, a_stranger_is_not_believed)
{
    struct gw_handover handover = {.state = GW_HANDOVER_IN_DOUBT, .peer_instance = {1}};
    const uint8_t other[16] = {2}, same[16] = {1};
    struct gw_handover_actions actions;

    cr_assert_eq(gw_handover_hear(&handover, other, GW_EVENT_ABORTED, &actions), 0);
    cr_assert_eq(handover.state, GW_HANDOVER_IN_DOUBT);
    cr_assert_eq(gw_handover_hear(&handover, same, GW_EVENT_ABORTED, &actions), 0);
    cr_assert_eq(handover.state, GW_HANDOVER_RECLAIMING);
}

/* A VM that its owner had paused is looked at where another would be continued. */
Test(states, a_paused_vm_is_never_continued)
{
    struct gw_handover handover = {
        .state = GW_HANDOVER_OWNING, .is_busy = true, .is_guest_paused = true};
    struct gw_handover_actions actions;

    cr_assert_eq(gw_handover_step(&handover, GW_EVENT_DONE, &actions), 0);
    cr_assert_eq(actions.count, 1);
    cr_assert_eq(actions.list[0], GW_ACT_CHECK_VMM);
    cr_assert_eq(gw_handover_step(&handover, GW_EVENT_DONE, &actions), 0);
    for (unsigned i = 0; i < actions.count; i++)
        cr_assert_neq(actions.list[i], GW_ACT_ANNOUNCE);
    cr_assert_eq(handover.state, GW_HANDOVER_RUNNING);
}
