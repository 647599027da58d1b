/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery beside moves that go on: what the journal said when a round began is not what it says when
 * the move's turn comes. And beside a QEMU whose monitor does not answer, which another process stands for: it is
 * gone only when the process is.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/partial.h"
#include "engine/session/parts.h"
#include "engine/session/process.h"
#include "engine/session/recover.h"
#include "engine/session/target-steps.h"
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

static const char *state_at(const char *epoch, enum gw_journal_side side)
{
    static char state[sizeof(((struct gw_journal_entry *)0)->state)];
    struct gw_journal_entry entry;

    cr_assert_eq(gw_journal_find(environment.journal, epoch, side, &entry), 0);
    memcpy(state, entry.state, sizeof(state));
    gw_journal_entry_free(&entry);
    return state;
}

static const char *state_of(const char *epoch)
{
    return state_at(epoch, GW_SIDE_TARGET);
}

/* A QEMU that nobody can ask, and the memory that a move had made for it. */
struct silent {
    pid_t pid;
    char process[GW_PROCESS_TEXT_MAX], folder[256], ram[300];
};

static void begin_silent(struct silent *silent)
{
    silent->pid = fork();
    cr_assert_geq(silent->pid, 0);
    if (silent->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails ends none */
        execlp("sleep", "sleep", "1000", NULL);
        _exit(127);
    }
    cr_assert_eq(gw_process_identify(silent->pid, silent->process, sizeof(silent->process)), 0,
                 "%s", gw_error_message());
    snprintf(silent->folder, sizeof(silent->folder), "%s", place_path(&place, "godwit-" LIVE));
    snprintf(silent->ram, sizeof(silent->ram), "%s/ram", silent->folder);
    cr_assert_eq(mkdir(silent->folder, 0700), 0);
    place_fill(silent->ram, 0, 4096, 1);
}

static void record_source(const struct silent *silent, enum gw_handover_state state)
{
    struct gw_journal_entry entry = {
        .side = GW_SIDE_SOURCE,
        .epoch = SLOW,
        .detail = json_pack("{s:s,s:s,s:i,s:s,s:[],s:[],s:[s]}", "peer", "127.0.0.1:1", "qmp",
                            "/nowhere", "pid", (int)silent->pid, "process", silent->process,
                            "images", "undo", "ram", silent->ram)};

    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(state));
    cr_assert_eq(gw_journal_record(environment.journal, &entry), 0, "%s", gw_error_message());
    json_decref(entry.detail);
}

/* What is recorded was another process, whose number this one has now. */
static void pass_number_on(struct silent *silent)
{
    char *last = strchr(silent->process, '\0') - 1;

    *last = *last == '0' ? '1' : '0';
}

static bool lives(const struct silent *silent)
{
    return waitpid(silent->pid, NULL, WNOHANG) == 0;
}

static void end_silent(const struct silent *silent)
{
    kill(silent->pid, SIGKILL);
    waitpid(silent->pid, NULL, 0);
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

/* The other host may run the VM: a QEMU that has it, too, is ended before its memory goes. */
Test(recover, silent_source_is_ended_once_it_was_handed_over)
{
    struct silent silent;

    begin_silent(&silent);
    record_source(&silent, GW_HANDOVER_HANDED_OVER);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_not(lives(&silent), "it was taken for gone");
    cr_assert_neq(access(silent.folder, F_OK), 0, "its memory is left");
    cr_assert_str_eq(state_at(SLOW, GW_SIDE_SOURCE), "HANDED_OVER");
}

/* No descriptor is left: returns the limit of before. */
static struct rlimit take_descriptors(void)
{
    struct rlimit before, none;
    int next = dup(0);

    cr_assert_geq(next, 0);
    close(next);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = (rlim_t)next;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    return before;
}

/* What cannot be looked at is not taken for gone: its memory would go from under it. */
Test(recover, source_that_cannot_be_looked_at_is_left_alone)
{
    struct silent silent;
    struct rlimit before;

    begin_silent(&silent);
    record_source(&silent, GW_HANDOVER_HANDED_OVER);
    before = take_descriptors();
    gw_recover(&environment);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    cr_assert(lives(&silent));
    cr_assert_eq(access(silent.ram, F_OK), 0, "its memory is gone");
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_not(lives(&silent));
    cr_assert_neq(access(silent.folder, F_OK), 0, "its memory is left");
}

/* Its number went to another process: that one is none of a move's business. */
Test(recover, process_with_the_number_of_a_source_is_left_alone)
{
    struct silent silent;

    begin_silent(&silent);
    pass_number_on(&silent);
    record_source(&silent, GW_HANDOVER_HANDED_OVER);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert(lives(&silent));
    cr_assert_neq(access(silent.folder, F_OK), 0, "the memory is left");
    end_silent(&silent);
}

static void record_target(const struct silent *silent, enum gw_handover_state state, bool is_owned)
{
    struct gw_journal_entry entry = {
        .side = GW_SIDE_TARGET,
        .epoch = SLOW,
        .detail = json_pack("{s:s,s:i,s:s,s:[s],s:s,s:b}", "qmp", "/nowhere", "pid",
                            (int)silent->pid, "process", silent->process, "ram", silent->ram,
                            "ram_dir", silent->folder, "owned", (int)is_owned)};

    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(state));
    cr_assert_eq(gw_journal_record(environment.journal, &entry), 0, "%s", gw_error_message());
    json_decref(entry.detail);
}

/* Nothing else would ever end it. */
Test(recover, silent_target_that_is_given_up_is_ended)
{
    struct silent silent;

    begin_silent(&silent);
    record_target(&silent, GW_HANDOVER_RECEIVING, true);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_not(lives(&silent), "it was taken for gone");
    cr_assert_neq(access(silent.folder, F_OK), 0, "its memory is left");
    cr_assert_str_eq(state_of(SLOW), "DISCARDED");
}

Test(recover, silent_target_of_somebody_else_is_left_alone)
{
    struct silent silent;

    begin_silent(&silent);
    record_target(&silent, GW_HANDOVER_RECEIVING, false);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert(lives(&silent), "nobody asked godwit to end it");
    cr_assert_str_eq(state_of(SLOW), "DISCARDED");
    end_silent(&silent);
}

/* It may have run, and may run still: whether it does is asked again, until its process has ended. */
Test(recover, silent_target_that_may_run_is_asked_again)
{
    struct silent silent;

    begin_silent(&silent);
    record_target(&silent, GW_HANDOVER_OWNER, true);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert(lives(&silent));
    cr_assert_str_eq(state_of(SLOW), "OWNER");
    cr_assert_eq(access(silent.ram, F_OK), 0, "its memory is gone");
    end_silent(&silent);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_str_eq(state_of(SLOW), "LOST");
    cr_assert_eq(access(silent.ram, F_OK), 0, "its memory is gone");
}

Test(recover, process_with_the_number_of_a_target_is_left_alone)
{
    struct silent silent;

    begin_silent(&silent);
    pass_number_on(&silent);
    record_target(&silent, GW_HANDOVER_RECEIVING, true);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert(lives(&silent));
    cr_assert_str_eq(state_of(SLOW), "DISCARDED");
    end_silent(&silent);
}

/* The guest stands still in it: what is to be undone there waits for its monitor. */
Test(recover, silent_source_is_not_given_up)
{
    struct silent silent;

    begin_silent(&silent);
    record_source(&silent, GW_HANDOVER_UNDOING);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert(lives(&silent));
    cr_assert_str_eq(state_at(SLOW, GW_SIDE_SOURCE), "UNDOING");
    end_silent(&silent);
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
    cr_assert_str_eq(state_at(SLOW, GW_SIDE_SOURCE), "GONE");
}

static void note_move(const struct silent *silent, json_t **detail)
{
    struct gw_partial partial = {.epoch = SLOW, .side = GW_SIDE_SOURCE};

    partial.detail = json_pack("{s:s,s:s,s:s,s:i,s:s,s:{},s:s,s:[]}", "kind", "move", "vm", "guest",
                               "qmp", "/nowhere", "pid", (int)silent->pid, "process",
                               silent->process, "settings", "peer", "", "disks");
    cr_assert_eq(gw_partial_write(&environment, &partial), 0, "%s", gw_error_message());
    *detail = partial.detail;
}

/* Of a move that died before its first record: bitmaps may be in that QEMU. */
Test(recover, note_of_a_silent_source_stays_until_it_has_ended)
{
    struct gw_partial found;
    struct silent silent;
    json_t *detail;

    begin_silent(&silent);
    note_move(&silent, &detail);
    for (int i = 0; i < 2; i++) {
        gw_partials_tidy(&environment, i == 0);
        cr_assert_eq(gw_partial_read(&environment, SLOW, GW_SIDE_SOURCE, &found), 0);
        cr_assert(gw_partial_is_given_up(&found));
        gw_partial_free(&found);
    }
    end_silent(&silent);
    gw_partials_tidy(&environment, false);
    cr_assert_eq(gw_partial_read(&environment, SLOW, GW_SIDE_SOURCE, &found), -ENOENT);
    json_decref(detail);
}

/* Recovery of the one must not have the other's images removed. */
Test(recover, attempt_that_another_goes_on_with_is_followed)
{
    struct gw_partial older = {.epoch = SLOW, .side = GW_SIDE_SOURCE, .detail = json_object()};
    struct gw_partial later = {
        .epoch = LIVE, .side = GW_SIDE_SOURCE, .detail = json_pack("{s:[]}", "disks")};

    cr_assert_eq(gw_partial_follow(&later, &older, SLOW), 0, "%s", gw_error_message());
    cr_assert_not(gw_partial_is_followed(&environment, SLOW, GW_SIDE_SOURCE));
    cr_assert_eq(gw_partial_write(&environment, &later), 0, "%s", gw_error_message());
    cr_assert(gw_partial_is_followed(&environment, SLOW, GW_SIDE_SOURCE));
    cr_assert_not(gw_partial_is_followed(&environment, SLOW, GW_SIDE_TARGET));
    cr_assert_not(gw_partial_is_followed(&environment, LIVE, GW_SIDE_SOURCE));
    gw_partial_free(&older);
    gw_partial_free(&later);
}

/* An agent that died between its last record and the end of its move left the guard's log. */
Test(recover, guards_log_goes_with_its_move_and_its_guard)
{
    const char *name = "guard-" SLOW ".log";
    struct silent silent;
    int guard;

    begin_silent(&silent);
    record_source(&silent, GW_HANDOVER_UNDOING);
    place_fill(place_path(&place, name), 0, 10, 'g');
    gw_partials_tidy(&environment, true);
    cr_assert(place_has(&place, name), "its move is open");
    record_source(&silent, GW_HANDOVER_CLOSED);
    guard = open(place_path(&place, name), O_RDWR);
    cr_assert_eq(flock(guard, LOCK_EX), 0);
    gw_partials_tidy(&environment, false);
    cr_assert(place_has(&place, name), "its guard is at work");
    close(guard);
    cr_assert_eq(gw_attend(environment.attended, SLOW, GW_SIDE_SOURCE), 0);
    gw_partials_tidy(&environment, false);
    cr_assert(place_has(&place, name), "somebody has its move in hand");
    gw_unattend(environment.attended, SLOW, GW_SIDE_SOURCE);
    gw_partials_tidy(&environment, false);
    cr_assert_not(place_has(&place, name));
    end_silent(&silent);
}

/* ---- files that are away ---- */

static char folder[PATH_MAX], behind[PATH_MAX], image[PATH_MAX];

static json_t *texts(const char *text)
{
    return json_pack("[s]", text);
}

/* A target that was prepared, so that its image has its final name, whose source gave it up while its file system
 * was not mounted. */
static void record_away(enum gw_handover_state state)
{
    struct gw_journal_entry entry = {.side = GW_SIDE_TARGET};
    char part[PATH_MAX];

    snprintf(folder, sizeof(folder), "%s", place_path(&place, "images"));
    snprintf(behind, sizeof(behind), "%s", place_path(&place, "behind"));
    snprintf(image, sizeof(image), "%s", place_path(&place, "images/disk.raw"));
    snprintf(part, sizeof(part), "%s", place_path(&place, "images/disk.raw.godwit-" SLOW ".part"));
    cr_assert_eq(mkdir(folder, 0700), 0);
    place_fill(image, 0, 512, 1);
    entry.detail =
        json_pack("{s:o,s:o,s:[o],s:[o],s:s}", "images", texts(image), "parts", texts(part),
                  "files", gw_part_identity(image), "folders", gw_part_folder(part), "vm", "guest");
    cr_assert_not_null(entry.detail);
    snprintf(entry.epoch, sizeof(entry.epoch), "%s", SLOW);
    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(state));
    cr_assert_eq(gw_journal_record(environment.journal, &entry), 0, "%s", gw_error_message());
    json_decref(entry.detail);
    cr_assert_eq(rename(folder, behind), 0);
    cr_assert_eq(mkdir(folder, 0700), 0);
}

static void bring_back(void)
{
    cr_assert_eq(rmdir(folder), 0);
    cr_assert_eq(rename(behind, folder), 0);
}

static void recover_round(void)
{
    cr_assert_eq(gw_recover(&environment), 0, "%s", gw_error_message());
}

Test(recover, finished_image_that_is_away_is_removed_when_it_is_there_again)
{
    struct gw_partial note = {.epoch = SLOW, .side = GW_SIDE_TARGET};

    record_away(GW_HANDOVER_ABORTED);
    /* What the agent gives up by itself is waited for all the same. */
    note.detail = json_pack("{s:s,s:[],s:b}", "kind", "move", "disks", "given-up", 1);
    cr_assert_eq(gw_partial_write(&environment, &note), 0, "%s", gw_error_message());
    recover_round();
    cr_assert_str_eq(state_of(SLOW), "ABORTED");
    bring_back();
    recover_round();
    cr_assert_str_eq(state_of(SLOW), "DISCARDED");
    cr_assert_neq(access(image, F_OK), 0, "it is nobody's, and there");
    gw_partial_free(&note);
    cr_assert_eq(gw_partial_read(&environment, SLOW, GW_SIDE_TARGET, &note), -ENOENT);
}

Test(recover, person_settles_without_the_files_what_waits_for_them)
{
    record_away(GW_HANDOVER_NEVER_RAN);
    recover_round();
    cr_assert_neq(strcmp(state_of(SLOW), "DISCARDED"), 0);
    cr_assert_eq(gw_attend(environment.attended, SLOW, GW_SIDE_TARGET), 0);
    cr_assert_eq(gw_recover_give_up(&environment, SLOW), 0, "%s", gw_error_message());
    gw_unattend(environment.attended, SLOW, GW_SIDE_TARGET);
    cr_assert_str_eq(state_of(SLOW), "DISCARDED");
    bring_back();
    recover_round();
    cr_assert_eq(access(image, F_OK), 0, "it was to stay");
}

Test(recover, nobody_gives_up_what_waits_for_its_source)
{
    record_away(GW_HANDOVER_PREPARED);
    cr_assert_eq(gw_recover_give_up(&environment, SLOW), -ENOENT);
    cr_assert_str_eq(state_of(SLOW), "PREPARED");
}

/* ---- parts that a later attempt goes on from ---- */

Test(recover, kept_parts_that_cannot_be_looked_at_stay)
{
    struct gw_partial partial = {.epoch = SLOW, .side = GW_SIDE_TARGET, .is_kept = true};
    struct gw_journal_entry entry = {.side = GW_SIDE_TARGET};
    struct rlimit before;

    snprintf(image, sizeof(image), "%s", place_path(&place, "disk.raw.godwit-" SLOW ".part"));
    place_fill(image, 0, 512, 1);
    partial.detail = json_pack("{s:s,s:[]}", "kind", "move", "disks");
    cr_assert_eq(gw_partial_write(&environment, &partial), 0, "%s", gw_error_message());
    entry.detail = json_pack("{s:[],s:o,s:[],s:[],s:s}", "images", "parts", texts(image), "files",
                             "folders", "vm", "guest");
    snprintf(entry.epoch, sizeof(entry.epoch), "%s", SLOW);
    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(GW_HANDOVER_RECEIVING));
    cr_assert_eq(gw_journal_record(environment.journal, &entry), 0, "%s", gw_error_message());
    before = take_descriptors();
    gw_recover(&environment);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    cr_assert_eq(access(image, F_OK), 0, "they are gone");
    recover_round();
    cr_assert_eq(access(image, F_OK), 0, "they are gone");
    cr_assert(gw_partial_is_kept(&environment, SLOW, GW_SIDE_TARGET));
    gw_partial_free(&partial);
    json_decref(entry.detail);
}
