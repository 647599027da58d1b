/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery beside moves that go on: what the journal said when a round began is not what it says when
 * the move's turn comes.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "tests/engine/volume/place.h"

#define SLOW "00112233445566778899aabbccddeeff"
#define LIVE "ffeeddccbbaa99887766554433221100"

static struct place place;
static struct gw_environment environment;
static bool is_live_moving;

static void record(const char *epoch, enum gw_handover_state state)
{
    struct gw_journal_entry entry = {.side = GW_SIDE_TARGET, .detail = json_object()};

    snprintf(entry.epoch, sizeof(entry.epoch), "%s", epoch);
    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(state));
    cr_assert_eq(gw_journal_record(environment.journal, &entry), 0, "%s", gw_error_message());
    json_decref(entry.detail);
}

static const char *state_of(const char *epoch)
{
    static char state[sizeof(((struct gw_journal_entry *)0)->state)];
    struct gw_journal_entry entry;

    cr_assert_eq(gw_journal_find(environment.journal, epoch, GW_SIDE_TARGET, &entry), 0);
    memcpy(state, entry.state, sizeof(state));
    gw_journal_entry_free(&entry);
    return state;
}

/* While recovery has the one move in hand, the other one arrives. */
static void recorded(void *context, const struct gw_journal_entry *entry)
{
    if (!is_live_moving || strcmp(entry->epoch, SLOW) != 0)
        return;
    is_live_moving = false;
    record(LIVE, GW_HANDOVER_RUNNING);
}

static void set_up(void)
{
    place_on_disk(&place);
    environment = (struct gw_environment){.state_dir = place.folder};
    cr_assert_eq(gw_journal_open(place_path(&place, "journal.db"), true, &environment.journal), 0);
    cr_assert_eq(gw_attended_new(&environment.attended), 0);
    gw_journal_watch(environment.journal, recorded, NULL);
}

static void tear_down(void)
{
    gw_attended_free(environment.attended);
    gw_journal_close(environment.journal);
    place_end(&place);
}

TestSuite(recover, .init = set_up, .fini = tear_down, .timeout = 60);

Test(recover, move_that_went_on_meanwhile_is_left_alone)
{
    record(SLOW, GW_HANDOVER_RECEIVING);
    record(LIVE, GW_HANDOVER_RECEIVING);
    is_live_moving = true;
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_not(is_live_moving, "the first move was not taken up");
    cr_assert_str_eq(state_of(SLOW), "DISCARDED");
    cr_assert_str_eq(state_of(LIVE), "RUNNING");
}

Test(recover, move_that_somebody_has_in_hand_is_left_alone)
{
    record(LIVE, GW_HANDOVER_RECEIVING);
    cr_assert_eq(gw_attend(environment.attended, LIVE, GW_SIDE_TARGET), 0);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_str_eq(state_of(LIVE), "RECEIVING");
    gw_unattend(environment.attended, LIVE, GW_SIDE_TARGET);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_str_eq(state_of(LIVE), "DISCARDED");
}
