/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Follows the processes that map the RAM file. It decides what to watch and what to report unseen;
 * how a mapping is watched is the tracker's business.
 */
#include "engine/vmm/process_set.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/tracker.h"

#define MAPPERS_MAX 128

void gw_process_set_mark(const struct gw_process_set *set, uint64_t start, uint64_t end,
                         struct gw_bitmap *dirty)
{
    uint64_t first, last;

    end = gw_min(end, set->size);
    if (!dirty || start >= end)
        return;
    first = start / set->page_size;
    last = (end - 1) / set->page_size;
    gw_bitmap_set_range(dirty, first, last - first + 1);
}

void gw_process_set_mark_mapping(const struct gw_process_set *set, const struct gw_mapping *mapping,
                                 struct gw_bitmap *dirty)
{
    gw_process_set_mark(set, mapping->offset, mapping->offset + (mapping->end - mapping->start),
                        dirty);
}

static void mark_mappings(const struct gw_process_set *set, const struct gw_mappings *list,
                          struct gw_bitmap *dirty)
{
    for (size_t i = 0; i < list->count; i++)
        gw_process_set_mark_mapping(set, &list->items[i], dirty);
}

bool gw_tracked_process_is_alive(const struct gw_tracked_process *process)
{
    struct pollfd exited = {.fd = process->pidfd, .events = POLLIN};

    return poll(&exited, 1, 0) == 0;
}

static void close_process(struct gw_tracked_process *process)
{
    if (process->control_fd >= 0)
        close(process->control_fd);
    if (process->pagemap_fd >= 0)
        close(process->pagemap_fd);
    if (process->pidfd >= 0)
        close(process->pidfd);
    gw_mappings_free(&process->mappings);
}

static void drop_process(struct gw_process_set *set, size_t index)
{
    close_process(&set->items[index]);
    set->items[index] = set->items[--set->count];
}

void gw_process_set_free(struct gw_process_set *set)
{
    while (set->count > 0)
        drop_process(set, set->count - 1);
    free(set->items);
    set->items = NULL;
    set->capacity = 0;
}

static int watch_all(const struct gw_process_set *set, struct gw_tracked_process *process,
                     const struct gw_mappings *fresh, struct gw_bitmap *dirty)
{
    for (size_t i = 0; i < fresh->count; i++) {
        int error = set->ops->watch(process, &fresh->items[i]);

        if (error)
            return error;
    }
    /* Marked after they are watched: a write before that is in the pages that the caller now reads.
     */
    mark_mappings(set, fresh, dirty);
    return 0;
}

/* Reads where a known process maps the file by now, and watches what is new. */
static int refresh_once(const struct gw_process_set *set, struct gw_tracked_process *process,
                        struct gw_bitmap *dirty)
{
    struct gw_mappings now = {0}, gone = {0}, fresh = {0};
    int error = gw_mappings_read_writable(process->pid, &set->file, &now);

    if (!error)
        error = gw_mappings_subtract(&process->mappings, &now, &gone);
    if (!error)
        error = gw_mappings_subtract(&now, &process->mappings, &fresh);
    if (!error) {
        mark_mappings(set, &gone, dirty);
        error = watch_all(set, process, &fresh, dirty);
    }
    if (!error) {
        struct gw_mappings old = process->mappings;

        process->mappings = now;
        now = old;
    }
    gw_mappings_free(&now);
    gw_mappings_free(&gone);
    gw_mappings_free(&fresh);
    return error;
}

/* A mapping that changed between reading and watching it is an error the first time, and is read as
 * what it has become the second time. */
static int refresh(const struct gw_process_set *set, struct gw_tracked_process *process,
                   struct gw_bitmap *dirty)
{
    int error = refresh_once(set, process, dirty);

    if (error && error != -ESRCH && error != -ENOMEM)
        error = refresh_once(set, process, dirty);
    return error;
}

static int refresh_known(struct gw_process_set *set, struct gw_bitmap *dirty)
{
    size_t i = 0;

    while (i < set->count) {
        struct gw_tracked_process *process = &set->items[i];
        int error = -ESRCH;

        if (gw_tracked_process_is_alive(process))
            error = refresh(set, process, dirty);
        if (error && error != -ESRCH)
            return error;
        if (!error && process->mappings.count > 0) {
            i++;
            continue;
        }
        if (process->is_vmm)
            return gw_fail(-ESRCH, "the hypervisor, process %d (%s), %s", (int)process->pid,
                           process->name, error ? "has ended" : "no longer maps its RAM file");
        /* It ended, ran another program or let go of the file: what it wrote since is not known. If
         * it maps the file again it is found below as a new one. */
        mark_mappings(set, &process->mappings, dirty);
        drop_process(set, i);
    }
    return 0;
}

/* A process that shares its memory with a tracked one (a thread group made with CLONE_VM, such as
 * the child in the middle of a vfork) writes through page tables that are watched already. */
static bool shares_memory(const struct gw_process_set *set, pid_t pid)
{
    for (size_t i = 0; i < set->count; i++)
        if (syscall(SYS_kcmp, pid, set->items[i].pid, KCMP_VM, 0, 0) == 0)
            return true;
    return false;
}

static bool is_known(const struct gw_process_set *set, pid_t pid)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->items[i].pid == pid)
            return true;
    return false;
}

static int open_process(struct gw_tracked_process *process)
{
    char path[64];

    gw_process_name(process->pid, process->name, sizeof(process->name));
    process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    if (process->pidfd < 0)
        return gw_fail_errno(-errno, "process %d cannot be opened", (int)process->pid);
    snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)process->pid);
    process->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (process->pagemap_fd < 0)
        return gw_fail_errno(errno == ENOENT ? -ESRCH : -errno, "%s cannot be opened", path);
    return 0;
}

static int add_process(struct gw_process_set *set, pid_t pid, struct gw_bitmap *dirty)
{
    struct gw_tracked_process process = {
        .pid = pid, .pidfd = -1, .pagemap_fd = -1, .control_fd = -1, .is_vmm = pid == set->vmm_pid};
    int error = open_process(&process);

    if (set->count == set->capacity && !error) {
        size_t capacity = set->capacity ? 2 * set->capacity : 4;
        struct gw_tracked_process *items = reallocarray(set->items, capacity, sizeof(*items));

        if (!items)
            error = gw_fail(-ENOMEM, "no memory for a list of %zu processes", capacity);
        else {
            set->items = items;
            set->capacity = capacity;
        }
    }
    if (!error)
        error = set->ops->attach(&process);
    if (!error)
        error = refresh(set, &process, dirty);
    if (error) {
        close_process(&process);
        return error;
    }
    set->items[set->count++] = process;
    return 0;
}

static int add_other(struct gw_process_set *set, const struct gw_mapper *mapper,
                     struct gw_bitmap *dirty)
{
    int error = add_process(set, mapper->pid, dirty);
    struct gw_error cause;

    if (error == 0 || error == -ENOMEM)
        return error;
    if (error == -ESRCH) {
        /* It wrote or did not, somewhere, and is gone. */
        gw_process_set_mark(set, 0, set->size, dirty);
        return 0;
    }
    gw_error_take(error, &cause);
    return gw_fail(
        -EBUSY,
        "process %d (%s) also maps the guest's RAM and its writes cannot be tracked: %.300s",
        (int)mapper->pid, mapper->name, cause.text);
}

/* Everybody who maps the file writable. Their number, or -errno. */
static int find_mappers(const struct gw_process_set *set, struct gw_mapper mappers[MAPPERS_MAX])
{
    int count = gw_mappers_find_writable(set->ram_fd, mappers, MAPPERS_MAX);

    if (count > MAPPERS_MAX)
        return gw_fail(-EBUSY, "%d processes map the guest's RAM, and %d can be tracked", count,
                       MAPPERS_MAX);
    return count;
}

static bool is_watched(const struct gw_process_set *set, pid_t pid)
{
    return is_known(set, pid) || shares_memory(set, pid);
}

int gw_process_set_check(const struct gw_process_set *set)
{
    struct gw_mapper mappers[MAPPERS_MAX];
    int count = find_mappers(set, mappers);

    for (int i = 0; i < count; i++)
        if (!is_watched(set, mappers[i].pid))
            return gw_fail(-EBUSY,
                           "process %d (%s) mapped the guest's RAM in the last moment, and what it "
                           "wrote is not known; move the VM again",
                           (int)mappers[i].pid, mappers[i].name);
    return count < 0 ? count : 0;
}

int gw_process_set_update(struct gw_process_set *set, struct gw_bitmap *dirty)
{
    struct gw_mapper mappers[MAPPERS_MAX];
    int error, count;

    error = set->count == 0 ? gw_file_id_of(set->ram_fd, &set->file) : 0;
    if (!error)
        error = set->count == 0 ? add_process(set, set->vmm_pid, NULL) : refresh_known(set, dirty);
    if (error || set->leaves_others)
        return error;
    count = find_mappers(set, mappers);
    if (count < 0)
        return count;
    for (int i = 0; i < count; i++) {
        if (is_watched(set, mappers[i].pid))
            continue;
        error = add_other(set, &mappers[i], dirty);
        if (error)
            return error;
    }
    return 0;
}
