/* SPDX-License-Identifier: Apache-2.0 */
/* What a note stands for in a QEMU, or is one: bitmaps and settings at the source, a process that no journal knows at the
 * target. The store of the notes is partial.c. */
#include "engine/session/partial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/handover/guard.h"
#include "engine/session/process.h"
#include "engine/session/storage.h"
#include "engine/session/target-steps.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/migrate.h"
#include "engine/vmm/tracker.h"

#define GUARD_TIMEOUT_MS 5000

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

/* Closes the descriptor. */
static int end_process(pid_t pid, int pid_fd)
{
    struct gw_launched launched = {.pid = pid, .pid_fd = pid_fd, .is_owned = true};

    return gw_vm_end(&launched);
}

/* The QEMU of a launch hook that had not said yet which one it is: it has the memory that was made for it. */
static int end_mapper(int ram_fd)
{
    struct gw_mapper mapper;
    int count, pid_fd, error = 0;

    while (!error && (count = gw_mappers_find(ram_fd, &mapper, 1)) != 0) {
        if (count < 0)
            return count;
        pid_fd = pidfd_open(mapper.pid, 0);
        if (pid_fd >= 0)
            error = end_process(mapper.pid, pid_fd);
        else if (errno != ESRCH)
            error = gw_fail_errno(-errno, "process %d", (int)mapper.pid);
    }
    return error;
}

static int end_mappers(const char *folder)
{
    DIR *entries = gw_folder_open_own(folder);
    const struct dirent *entry;
    int error = 0;

    while (entries && !error && (entry = readdir(entries)) != NULL) {
        int fd = openat(dirfd(entries), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        error = fd >= 0 ? end_mapper(fd) : 0;
        if (fd >= 0)
            close(fd);
    }
    if (entries)
        closedir(entries);
    return error;
}

int gw_partial_end_launched(const struct gw_partial *partial)
{
    const char *run_dir = text_of(partial->detail, "run_dir");
    const char *ram_dir = text_of(partial->detail, "ram_dir");
    int pid_fd, error;

    if (!strstr(run_dir, "/vm/") || !strstr(ram_dir, partial->epoch))
        return 0;
    /* What is there under these names, if it is not empty, is another's. */
    if (!json_is_true(json_object_get(partial->detail, "made"))) {
        rmdir(run_dir);
        rmdir(ram_dir);
        return 0;
    }
    error = gw_process_find(partial->detail, &pid_fd);
    if (error == -ESRCH)
        error = json_object_get(partial->detail, "pid") ? 0 : end_mappers(ram_dir);
    else if (!error)
        error =
            end_process((pid_t)json_integer_value(json_object_get(partial->detail, "pid")), pid_fd);
    if (error)
        return error;
    gw_folder_remove(run_dir);
    gw_folder_remove(ram_dir);
    return 0;
}

void gw_partial_sockets(const char *epoch, char *out)
{
    snprintf(out, GW_PARTIAL_SOCKETS_MAX, "/tmp/godwit-%.12s", epoch);
}

int gw_partial_clean_vmm(struct gw_qmp *qmp, const char *epoch)
{
    char folder[GW_PARTIAL_SOCKETS_MAX];
    int error;

    gw_partial_sockets(epoch, folder);
    error = gw_disk_tracker_clean(qmp, folder);
    if (!error)
        gw_folder_remove(folder);
    return error;
}

void gw_partial_remove_sockets(const struct gw_partial *partial)
{
    char folder[GW_PARTIAL_SOCKETS_MAX];

    if (partial->side != GW_SIDE_SOURCE || strcmp(text_of(partial->detail, "kind"), "move") != 0)
        return;
    gw_partial_sockets(partial->epoch, folder);
    gw_folder_remove(folder);
}

/* Of a move that died before its first record; nothing else knows of its guard. */
static int dismiss_guard(const struct gw_environment *environment, const struct gw_partial *partial)
{
    char log[PATH_MAX];

    if (snprintf(log, sizeof(log), "%s/guard-%s.log", environment->state_dir, partial->epoch) >=
        (int)sizeof(log))
        return 0;
    return gw_guard_take_over(log, GUARD_TIMEOUT_MS);
}

struct others {
    const struct gw_partial *partial;
    bool are_there;
};

static int look_for_other(const struct gw_journal_entry *entry, void *context)
{
    struct others *others = context;
    const json_t *pid = json_object_get(others->partial->detail, "pid");

    others->are_there |= entry->side == GW_SIDE_SOURCE &&
                         strcmp(entry->epoch, others->partial->epoch) != 0 &&
                         json_equal(json_object_get(entry->detail, "pid"), pid);
    return 0;
}

/* What a later move of the same VM made has the same names. */
static int check_alone(const struct gw_environment *environment, const struct gw_partial *partial)
{
    struct others others = {.partial = partial};
    int error = environment->journal
                    ? gw_journal_each_open(environment->journal, look_for_other, &others)
                    : 0;

    if (error)
        return error;
    return others.are_there ? gw_fail(-EBUSY, "%s is being moved", text_of(partial->detail, "vm"))
                            : 0;
}

static int clean_reached(const struct gw_environment *environment, const struct gw_partial *partial,
                         struct gw_qmp *qmp)
{
    /* The guard is at its undo for as long as it has its log. */
    int error = check_alone(environment, partial);

    if (!error)
        error = dismiss_guard(environment, partial);
    if (!error)
        error = gw_partial_clean_vmm(qmp, partial->epoch);
    if (!error)
        error = gw_vm_restore_settings(qmp, json_object_get(partial->detail, "settings"));
    return error;
}

int gw_partial_clean_source(const struct gw_environment *environment,
                            const struct gw_partial *partial)
{
    pid_t pid = (pid_t)json_integer_value(json_object_get(partial->detail, "pid"));
    struct gw_error kept;
    struct gw_qmp *qmp;
    int error = gw_qmp_open(text_of(partial->detail, "qmp"), &qmp);

    if (!error) {
        bool is_same = gw_qmp_pid(qmp) == pid;

        error = is_same ? clean_reached(environment, partial, qmp) : 0;
        gw_qmp_close(qmp);
        if (is_same)
            return error;
    }
    gw_error_take(error, &kept);
    if (error && pid > 0 && !gw_process_is_gone(partial->detail))
        return gw_error_raise(&kept);
    /* A QEMU that has ended took its bitmaps with it, and left its socket behind. */
    error = dismiss_guard(environment, partial);
    if (!error)
        gw_partial_remove_sockets(partial);
    return error;
}
