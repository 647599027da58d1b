/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was made for a VM that a move brought goes when its QEMU has ended, and never before. A process that sleeps
 * stands for the QEMU.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/partial.h"
#include "engine/session/process.h"
#include "tests/engine/volume/place.h"

#define EPOCH    "00112233445566778899aabbccddeeff"
#define NEAR     "001122334455ffffffffffffffffffff" /* begins so, too */
#define RAM_SIZE 65536

static struct place place;
static struct gw_environment environment;
static char run_dir[256], ram_dir[256], ram[300], qmp_socket[300];
static pid_t vmm;

/* A process that maps the file, or none; it has when this returns. */
static pid_t start_process(const char *file)
{
    int ready[2];
    char byte;
    pid_t pid;

    cr_assert_eq(pipe2(ready, O_CLOEXEC), 0);
    pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;

        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails ends none */
        if (file && mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
            _exit(1);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end_process(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void record(const char *epoch, enum gw_handover_state state, bool is_contradicted)
{
    struct gw_journal_entry entry = {.side = GW_SIDE_TARGET};
    char process[GW_PROCESS_TEXT_MAX];

    cr_assert_eq(gw_process_identify(vmm, process, sizeof(process)), 0, "%s", gw_error_message());
    entry.detail =
        json_pack("{s:i,s:s,s:s,s:s,s:[s],s:b}", "pid", (int)vmm, "process", process, "run_dir",
                  run_dir, "ram_dir", ram_dir, "ram", ram, GW_CONTRADICTED, (int)is_contradicted);
    snprintf(entry.epoch, sizeof(entry.epoch), "%s", epoch);
    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(state));
    cr_assert_eq(gw_journal_record(environment.journal, &entry), 0, "%s", gw_error_message());
    json_decref(entry.detail);
}

static bool is_left(void)
{
    bool is_ram = access(ram, F_OK) == 0, is_socket = access(qmp_socket, F_OK) == 0;

    cr_assert_eq(is_ram, is_socket, "one of the two is left");
    cr_assert_eq(is_ram, access(ram_dir, F_OK) == 0);
    cr_assert_eq(is_ram, access(run_dir, F_OK) == 0);
    return is_ram;
}

static bool is_left_by_a_round(void)
{
    gw_arrived_tidy(&environment);
    return is_left();
}

static void set_up(void)
{
    place_on_disk(&place);
    environment = (struct gw_environment){.state_dir = place.folder};
    cr_assert_eq(gw_journal_open(place_path(&place, "journal.db"), true, &environment.journal), 0);
    cr_assert_eq(gw_attended_new(&environment.attended), 0);
    snprintf(run_dir, sizeof(run_dir), "%s/vm/%.12s", place.folder, EPOCH);
    snprintf(ram_dir, sizeof(ram_dir), "%s/godwit-" EPOCH, place.folder);
    snprintf(ram, sizeof(ram), "%s/ram0", ram_dir);
    snprintf(qmp_socket, sizeof(qmp_socket), "%s/qmp", run_dir);
    cr_assert_eq(mkdir(place_path(&place, "vm"), 0700), 0);
    cr_assert_eq(mkdir(run_dir, 0700), 0);
    cr_assert_eq(mkdir(ram_dir, 0700), 0);
    place_fill(ram, 0, RAM_SIZE, 1);
    cr_assert_eq(mknod(qmp_socket, S_IFSOCK | 0600, 0), 0);
    vmm = start_process(NULL);
}

static void tear_down(void)
{
    if (vmm)
        end_process(vmm);
    gw_attended_free(environment.attended);
    gw_journal_close(environment.journal);
    place_end(&place);
}

static void end_vmm(void)
{
    end_process(vmm);
    vmm = 0;
}

TestSuite(arrived, .init = set_up, .fini = tear_down, .timeout = 60);

Test(arrived, memory_goes_when_its_vm_has_ended)
{
    record(EPOCH, GW_HANDOVER_RUNNING, false);
    cr_assert(is_left_by_a_round(), "it runs");
    end_vmm();
    cr_assert_not(is_left_by_a_round(), "it has ended");
}

Test(arrived, vmm_that_is_not_reaped_yet_has_ended)
{
    siginfo_t info;

    record(EPOCH, GW_HANDOVER_RUNNING, false);
    kill(vmm, SIGKILL);
    cr_assert_eq(waitid(P_PID, (id_t)vmm, &info, WEXITED | WNOWAIT), 0);
    cr_assert_not(is_left_by_a_round());
}

/* Its owner may have started another QEMU with that memory. */
Test(arrived, memory_that_a_process_maps_stays)
{
    pid_t other = start_process(ram);

    record(EPOCH, GW_HANDOVER_RUNNING, false);
    end_vmm();
    cr_assert(is_left_by_a_round(), "it is mapped");
    end_process(other);
    cr_assert_not(is_left_by_a_round());
}

Test(arrived, memory_of_a_move_in_hand_stays)
{
    record(EPOCH, GW_HANDOVER_RUNNING, false);
    end_vmm();
    cr_assert_eq(gw_attend(environment.attended, EPOCH, GW_SIDE_TARGET), 0);
    cr_assert(is_left_by_a_round());
    gw_unattend(environment.attended, EPOCH, GW_SIDE_TARGET);
    cr_assert_not(is_left_by_a_round());
}

/* The other states have rules of their own, and a person may have to look. */
Test(arrived, memory_of_what_is_not_settled_stays)
{
    static const enum gw_handover_state states[] = {GW_HANDOVER_RECEIVING, GW_HANDOVER_PREPARED,
                                                    GW_HANDOVER_OWNER, GW_HANDOVER_LOST};

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        record(EPOCH, states[i], false);
        end_vmm();
        cr_assert(is_left_by_a_round(), "%s", gw_handover_state_name(states[i]));
        vmm = start_process(NULL);
    }
    record(EPOCH, GW_HANDOVER_RUNNING, true);
    end_vmm();
    cr_assert(is_left_by_a_round(), "contradicted");
}

/* What a guest wrote to its console is its owner's; nothing is said twice of it. */
Test(arrived, logs_in_which_something_stands_stay)
{
    char words[320], none[320];

    snprintf(words, sizeof(words), "%s/serial0.log", run_dir);
    snprintf(none, sizeof(none), "%s/log", run_dir);
    place_fill(words, 0, 100, 1);
    place_fill(none, 0, 0, 1);
    record(EPOCH, GW_HANDOVER_RUNNING, false);
    end_vmm();
    for (unsigned round = 0; round < 2; round++) {
        gw_arrived_tidy(&environment);
        cr_assert_neq(access(ram_dir, F_OK), 0);
        cr_assert_neq(access(qmp_socket, F_OK), 0);
        cr_assert_neq(access(none, F_OK), 0);
        cr_assert_eq(access(words, F_OK), 0, "the log is gone");
    }
    cr_assert_eq(unlink(words), 0);
    cr_assert_not(is_left_by_a_round());
}

/* A peer chooses the epoch: the folder may be the other one's. */
Test(arrived, folder_of_one_of_two_moves_stays)
{
    record(EPOCH, GW_HANDOVER_RUNNING, false);
    record(NEAR, GW_HANDOVER_RUNNING, false);
    end_vmm();
    cr_assert(is_left_by_a_round());
}

Test(arrived, folder_that_no_move_made_stays)
{
    end_vmm();
    cr_assert(is_left_by_a_round());
}

/* ---- killed before the first record: a note alone knows of it ---- */

/* The note of an offer; takes members over. */
static void note(json_t *members)
{
    struct gw_partial partial = {.side = GW_SIDE_TARGET, .epoch = EPOCH};

    partial.detail = json_pack("{s:s,s:[],s:s,s:s}", "kind", "move", "disks", "run_dir", run_dir,
                               "ram_dir", ram_dir);
    json_object_update(partial.detail, members);
    cr_assert_eq(gw_partial_write(&environment, &partial), 0, "%s", gw_error_message());
    json_decref(members);
    gw_partial_free(&partial);
}

static bool is_noted(void)
{
    struct gw_partial partial = {.detail = NULL};
    bool is_there = gw_partial_read(&environment, EPOCH, GW_SIDE_TARGET, &partial) == 0;

    gw_partial_free(&partial);
    return is_there;
}

static bool has_vmm_ended(void)
{
    siginfo_t info = {.si_pid = 0};

    cr_assert_eq(waitid(P_PID, (id_t)vmm, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid == vmm;
}

/* It stands still, and there is no monitor: as one that is slow to start. */
Test(arrived, vmm_of_a_note_is_ended_without_its_monitor)
{
    char process[GW_PROCESS_TEXT_MAX];

    cr_assert_eq(gw_process_identify(vmm, process, sizeof(process)), 0);
    note(json_pack("{s:b,s:i,s:s}", "made", 1, "pid", (int)vmm, "process", process));
    kill(vmm, SIGSTOP);
    gw_partials_tidy(&environment, true);
    cr_assert(has_vmm_ended());
    cr_assert_not(is_left());
    cr_assert_not(is_noted());
}

/* It died while it began to go on with an earlier attempt, which is cancelled: nothing else would know of it then. */
Test(arrived, vmm_of_an_attempt_is_ended_with_the_one_that_it_follows)
{
    struct gw_partial older = {
        .side = GW_SIDE_TARGET, .epoch = "ffeeddccbbaa99887766554433221100", .is_kept = true};
    char process[GW_PROCESS_TEXT_MAX];

    older.detail = json_pack("{s:s,s:[]}", "kind", "move", "disks");
    cr_assert_eq(gw_partial_write(&environment, &older), 0, "%s", gw_error_message());
    cr_assert_eq(gw_process_identify(vmm, process, sizeof(process)), 0);
    note(json_pack("{s:b,s:i,s:s,s:[s]}", "made", 1, "pid", (int)vmm, "process", process,
                   "taken_from", older.epoch));
    gw_partial_drop(&environment, &older);
    cr_assert(has_vmm_ended());
    cr_assert_not(is_left());
    cr_assert_not(is_noted());
    gw_partial_free(&older);
}

Test(arrived, process_that_has_the_number_now_is_not_ended)
{
    note(json_pack("{s:b,s:i,s:s}", "made", 1, "pid", (int)vmm, "process", "another 1"));
    gw_partials_tidy(&environment, true);
    cr_assert_not(has_vmm_ended());
    cr_assert_not(is_left());
    cr_assert_not(is_noted());
}

/* A launch hook's, which had not said which one it is. */
Test(arrived, vmm_that_no_note_names_is_ended_by_its_memory)
{
    end_process(vmm);
    vmm = start_process(ram);
    note(json_pack("{s:b}", "made", 1));
    gw_partials_tidy(&environment, true);
    cr_assert(has_vmm_ended());
    cr_assert_not(is_left());
    cr_assert_not(is_noted());
}

/* The note comes before the folders, whose names a peer has chosen. */
Test(arrived, folders_that_were_not_made_are_anothers)
{
    note(json_object());
    gw_partials_tidy(&environment, true);
    cr_assert(is_left());
    cr_assert_not(is_noted());
    unlink(ram);
    unlink(qmp_socket);
    note(json_object());
    gw_partials_tidy(&environment, true);
    cr_assert_neq(access(run_dir, F_OK), 0, "an empty one stays");
    cr_assert_neq(access(ram_dir, F_OK), 0, "an empty one stays");
}
