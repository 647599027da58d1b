/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was made here for a VM that a move brought: its memory, as large as the VM, and its sockets. They go when its
 * QEMU has ended: the guest shut down, say, or the VM has gone on to another host. Its images are its owner's, and
 * so is what stands in its logs, in the folder of the sockets. Whether the VM runs here is the journal's to say.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "engine/handover/handover.h"
#include "engine/session/attended.h"
#include "engine/session/process.h"
#include "engine/session/storage.h"
#include "engine/session/target-steps.h"
#include "engine/vmm/qemu/launch.h"
#include "engine/vmm/tracker.h"

/* Whoever uses it, started by its owner say, goes on. Yes, too, where that cannot be seen. */
static bool is_mapped(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int count = fd < 0 ? -errno : gw_mappers_find(fd, NULL, 0);

    if (fd >= 0)
        close(fd);
    return fd < 0 ? count != -ENOENT : count != 0;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Is it so of any file of its memory? */
static bool any_memory(const json_t *detail, bool (*is_so)(const char *path))
{
    const json_t *file;
    size_t index;

    json_array_foreach(json_object_get(detail, "ram"), index, file)
    {
        if (is_so(json_string_value(file)))
            return true;
    }
    return false;
}

static bool runs_here(const struct gw_journal_entry *entry)
{
    enum gw_handover_state state;

    return gw_handover_state_parse(entry->state, &state) == 0 && state == GW_HANDOVER_RUNNING &&
           !gw_journal_entry_is_open(entry);
}

/* Sockets, and logs in which nothing stands; then the folder, if that was all. How many there were. */
static unsigned remove_sockets(const char *folder)
{
    DIR *entries = gw_folder_open_own(folder);
    const struct dirent *entry;
    struct stat status;
    unsigned count = 0;

    if (!entries)
        return 0;
    while ((entry = readdir(entries)) != NULL)
        if (fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            (S_ISSOCK(status.st_mode) || (S_ISREG(status.st_mode) && status.st_size == 0)) &&
            unlinkat(dirfd(entries), entry->d_name, 0) == 0)
            count++;
    closedir(entries);
    rmdir(folder);
    return count;
}

/* A QEMU that said nothing was ended by its guest or its owner. */
static void say(const struct gw_journal_entry *entry, const char *folder)
{
    char log[PATH_MAX], line[300];
    bool has_words;

    snprintf(log, sizeof(log), "%s/log", folder);
    has_words = is_there(log);
    gw_vm_last_line(log, line, sizeof(line));
    gw_log(has_words ? GW_LOG_WARNING : GW_LOG_INFO,
           "move %.12s: the QEMU that it brought has ended, its memory and its sockets are "
           "removed%s%s%s%s",
           entry->epoch, has_words ? "; it said: " : "", has_words ? line : "",
           has_words ? " (" : "", has_words ? log : "");
}

static void tidy_entry(struct gw_journal_entry *entry, const char *folder)
{
    struct gw_target_steps steps = {.epoch = entry->epoch, .detail = entry->detail};
    const char *recorded = json_string_value(json_object_get(entry->detail, "run_dir"));
    unsigned count = any_memory(entry->detail, is_there);

    if (!recorded || strcmp(recorded, folder) != 0 || !runs_here(entry) ||
        !gw_process_is_gone(entry->detail) || any_memory(entry->detail, is_mapped))
        return;
    gw_target_steps_remove_memory(&steps);
    count += remove_sockets(folder);
    if (count > 0)
        say(entry, folder);
}

/* name: of a folder of sockets, the first digits of an epoch. */
static void tidy_folder(const struct gw_environment *environment, const char *name)
{
    struct gw_journal_entry entry;
    char epoch[GW_EPOCH_TEXT_MAX], folder[PATH_MAX];

    /* Several that begin so would be in one folder: no telling whose it is. */
    if (gw_journal_complete(environment->journal, name, GW_SIDE_TARGET, epoch) ||
        gw_attend(environment->attended, epoch, GW_SIDE_TARGET))
        return;
    if (gw_journal_find(environment->journal, epoch, GW_SIDE_TARGET, &entry) == 0) {
        if (snprintf(folder, sizeof(folder), "%s/vm/%s", environment->state_dir, name) <
            (int)sizeof(folder))
            tidy_entry(&entry, folder);
        gw_journal_entry_free(&entry);
    }
    gw_unattend(environment->attended, epoch, GW_SIDE_TARGET);
}

static bool is_name(const char *name)
{
    size_t length = strlen(name);

    for (size_t i = 0; i < length; i++)
        if (!isxdigit((unsigned char)name[i]))
            return false;
    return length == GW_VM_FOLDER_DIGITS;
}

void gw_arrived_tidy(const struct gw_environment *environment)
{
    const struct dirent *item;
    char folder[PATH_MAX];
    DIR *list;

    if (!environment->journal || !environment->attended || !environment->state_dir ||
        snprintf(folder, sizeof(folder), "%s/vm", environment->state_dir) >= (int)sizeof(folder))
        return;
    list = opendir(folder);
    while (list && (item = readdir(list)) != NULL)
        if (is_name(item->d_name))
            tidy_folder(environment, item->d_name);
    if (list)
        closedir(list);
}
