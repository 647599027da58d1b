/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: what is durable, what it refuses, what it costs. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/handover/journal.h"

static char folder[64], path[96];

static void set_up(void)
{
    strcpy(folder, "/var/tmp/godwit-journal-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/journal.db", folder);
}

static void tear_down(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(journal, .init = set_up, .fini = tear_down, .timeout = 60);

static struct gw_journal *open_journal(void)
{
    struct gw_journal *journal = NULL;

    cr_assert_eq(gw_journal_open(path, true, &journal), 0, "%s", gw_error_message());
    return journal;
}

static int record(struct gw_journal *journal, const char *epoch, enum gw_handover_state state)
{
    struct gw_journal_entry entry = {.side = gw_handover_side(state), .peer_instance = {1, 2, 3}};
    int error;

    snprintf(entry.epoch, sizeof(entry.epoch), "%s", epoch);
    strcpy(entry.state, gw_handover_state_name(state));
    entry.detail = json_pack("{s:s}", "qmp", "/run/web1.qmp");
    error = gw_journal_record(journal, &entry);
    gw_journal_entry_free(&entry);
    return error;
}

static void assert_state(struct gw_journal *journal, const char *epoch,
                         enum gw_handover_state state)
{
    struct gw_journal_entry entry;

    cr_assert_eq(gw_journal_find(journal, epoch, gw_handover_side(state), &entry), 0, "%s",
                 gw_error_message());
    cr_assert_str_eq(entry.state, gw_handover_state_name(state));
    cr_assert_eq(entry.peer_instance[2], 3);
    cr_assert_str_eq(json_string_value(json_object_get(entry.detail, "qmp")), "/run/web1.qmp");
    gw_journal_entry_free(&entry);
}

Test(journal, keeps_every_journalled_state)
{
    struct gw_journal *journal = open_journal();

    for (int state = GW_HANDOVER_NONE + 1; state < GW_HANDOVER_STATE_COUNT; state++) {
        if (!gw_handover_is_journalled((enum gw_handover_state)state)) {
            cr_assert_eq(record(journal, "e", (enum gw_handover_state)state), -EINVAL);
            continue;
        }
        cr_assert_eq(record(journal, "e", (enum gw_handover_state)state), 0);
        assert_state(journal, "e", (enum gw_handover_state)state);
    }
    gw_journal_close(journal);
}

static int count_open(const struct gw_journal_entry *entry, void *context)
{
    strcat(context, entry->state);
    strcat(context, " ");
    return 0;
}

Test(journal, lists_what_is_open_and_keeps_history)
{
    struct gw_journal *journal = open_journal();
    struct gw_journal_entry entry;
    char states[256] = "";
    json_t *history;

    cr_assert_eq(record(journal, "a", GW_HANDOVER_COPYING), 0);
    cr_assert_eq(record(journal, "b", GW_HANDOVER_COPYING), 0);
    cr_assert_eq(record(journal, "b", GW_HANDOVER_COMMITTED), 0);
    cr_assert_eq(record(journal, "b", GW_HANDOVER_RECEIVING), 0);
    cr_assert_eq(record(journal, "a", GW_HANDOVER_CLOSED), 0);
    cr_assert_eq(gw_journal_each_open(journal, count_open, states), 0);
    cr_assert_str_eq(states, "COMMITTED RECEIVING ");
    cr_assert_eq(gw_journal_history(journal, "b", GW_SIDE_SOURCE, &history), 0);
    cr_assert_eq(json_array_size(history), 2);
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(history, 1), "state")),
                     "COMMITTED");
    json_decref(history);
    cr_assert_eq(gw_journal_find(journal, "c", GW_SIDE_SOURCE, &entry), -ENOENT);
    cr_assert_eq(gw_journal_find(journal, "a", GW_SIDE_TARGET, &entry), -ENOENT);
    gw_journal_close(journal);
}

/* What record() has returned for is there after kill -9, every time. */
Test(journal, survives_kill_9)
{
    for (int round = 0; round < 8; round++) {
        struct gw_journal *journal;
        char epoch[16], last[16] = "", byte;
        int pipe_fds[2], seen = 0, status;
        pid_t child;

        cr_assert_eq(pipe(pipe_fds), 0);
        child = fork();
        if (child == 0) {
            journal = open_journal();
            for (int i = 0;; i++) {
                snprintf(epoch, sizeof(epoch), "%d-%d", round, i);
                if (record(journal, epoch, GW_HANDOVER_COMMITTED) != 0 ||
                    write(pipe_fds[1], "x", 1) != 1)
                    _exit(1);
            }
        }
        close(pipe_fds[1]);
        while (seen < 5 + round * 3 && read(pipe_fds[0], &byte, 1) == 1)
            seen++;
        kill(child, SIGKILL);
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status));
        while (read(pipe_fds[0], &byte, 1) == 1)
            seen++;
        close(pipe_fds[0]);
        journal = open_journal();
        snprintf(last, sizeof(last), "%d-%d", round, seen - 1);
        assert_state(journal, last, GW_HANDOVER_COMMITTED);
        gw_journal_close(journal);
    }
}

/* One sync for a record, the first after a checkpoint too; counted by strace. */
Test(journal, costs_one_sync_a_record)
{
    char command[512], line[256];
    int syncs = -1, most = 0, records = 0;
    FILE *trace;

    if (system("command -v strace >/dev/null") != 0)
        cr_skip_test("no strace");
    snprintf(
        command, sizeof(command),
        "ASAN_OPTIONS=detect_leaks=0 strace -f -o %s/trace -e trace=fsync,fdatasync,sync,msync,"
        "sync_file_range,write %s %s",
        folder, JOURNAL_RECORDS, path);
    cr_assert_eq(system(command), 0);
    snprintf(command, sizeof(command), "%s/trace", folder);
    trace = fopen(command, "r");
    cr_assert_not_null(trace);
    while (fgets(line, sizeof(line), trace) != NULL) {
        if (strstr(line, "\"begin") != NULL)
            syncs = 0;
        else if (strstr(line, "\"end") != NULL) {
            most = syncs > most ? syncs : most;
            cr_assert_eq(syncs, 1, "record %d took %d syncs", records, syncs);
            syncs = -1;
            records++;
        } else if (syncs >= 0 && strstr(line, "sync") != NULL)
            syncs++;
    }
    fclose(trace);
    cr_assert_eq(records, 8);
}

Test(journal, refuses_tmpfs)
{
    struct gw_journal *journal;

    cr_assert_eq(gw_journal_open("/dev/shm/godwit-journal-test.db", false, &journal), -ENOTSUP);
    cr_assert_not_null(strstr(gw_error_message(), "tmpfs"));
    cr_assert_neq(access("/dev/shm/godwit-journal-test.db", F_OK), 0);
}

Test(journal, refuses_a_folder_that_is_not_there)
{
    struct gw_journal *journal;

    cr_assert_eq(gw_journal_open("/nowhere/at/all.db", true, &journal), -ENOENT);
}

Test(journal, is_private)
{
    struct stat status;

    gw_journal_close(open_journal());
    cr_assert_eq(stat(path, &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0600);
}

Test(journal, refuses_what_is_no_database)
{
    struct gw_journal *journal;
    FILE *file = fopen(path, "w");

    for (int i = 0; i < 5000; i++)
        fputs("not a database ", file);
    fclose(file);
    cr_assert_eq(gw_journal_open(path, true, &journal), -EUCLEAN, "%s", gw_error_message());
    cr_assert_not_null(strstr(gw_error_message(), path));
}

Test(journal, refuses_another_programs_database)
{
    struct gw_journal *journal;
    sqlite3 *database;

    cr_assert_eq(sqlite3_open(path, &database), SQLITE_OK);
    sqlite3_exec(database, "CREATE TABLE a(b)", NULL, NULL, NULL);
    sqlite3_close(database);
    cr_assert_eq(gw_journal_open(path, true, &journal), -EINVAL, "%s", gw_error_message());
}

Test(journal, refuses_a_newer_version)
{
    struct gw_journal *journal;
    sqlite3 *database;

    gw_journal_close(open_journal());
    cr_assert_eq(sqlite3_open(path, &database), SQLITE_OK);
    sqlite3_exec(database, "PRAGMA user_version=2", NULL, NULL, NULL);
    sqlite3_close(database);
    cr_assert_eq(gw_journal_open(path, true, &journal), -ENOTSUP, "%s", gw_error_message());
}

Test(journal, sees_a_damaged_page)
{
    struct gw_journal *journal = open_journal();
    char rubbish[4096];
    int fd;

    for (int i = 0; i < 64; i++) {
        char epoch[16];

        snprintf(epoch, sizeof(epoch), "%d", i);
        cr_assert_eq(record(journal, epoch, GW_HANDOVER_COPYING), 0);
    }
    gw_journal_close(journal);
    memset(rubbish, 0xa5, sizeof(rubbish));
    fd = open(path, O_RDWR);
    for (off_t page = 1; page < 4; page++)
        cr_assert_eq(pwrite(fd, rubbish, sizeof(rubbish), page * 4096), 4096);
    close(fd);
    cr_assert_eq(gw_journal_open(path, true, &journal), -EUCLEAN, "%s", gw_error_message());
}

Test(journal, says_that_it_is_locked)
{
    struct gw_journal *journal = open_journal();
    sqlite3 *database;

    cr_assert_eq(sqlite3_open(path, &database), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(database, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    cr_assert_eq(record(journal, "e", GW_HANDOVER_COPYING), -EBUSY, "%s", gw_error_message());
    sqlite3_exec(database, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(database);
    cr_assert_eq(record(journal, "e", GW_HANDOVER_COPYING), 0);
    gw_journal_close(journal);
}

/* A full disk is an error that leaves the earlier promise as it was. */
Test(journal, says_that_the_disk_is_full)
{
    struct gw_journal *journal;
    char epoch[16];
    int error = 0, made = 0;

    if (mount("tmpfs", folder, "tmpfs", 0, "size=256k") != 0)
        cr_skip_test("cannot mount a tmpfs");
    journal = open_journal();
    for (; error == 0 && made < 10000; made++) {
        snprintf(epoch, sizeof(epoch), "%d", made);
        error = record(journal, epoch, GW_HANDOVER_COPYING);
    }
    made -= 2;
    snprintf(epoch, sizeof(epoch), "%d", made);
    if (error != 0)
        assert_state(journal, epoch, GW_HANDOVER_COPYING);
    gw_journal_close(journal);
    cr_expect_eq(umount2(folder, MNT_DETACH), 0);
    cr_assert_eq(error, -ENOSPC, "%d after %d records", error, made);
}

Test(journal, says_that_it_cannot_be_written)
{
    struct gw_journal *journal;

    if (mount("tmpfs", folder, "tmpfs", 0, "size=1m") != 0 ||
        mount(NULL, folder, NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0)
        cr_skip_test("cannot mount a read-only file system");
    cr_expect_eq(gw_journal_open(path, true, &journal), -EROFS, "%s", gw_error_message());
    umount2(folder, MNT_DETACH);
}
