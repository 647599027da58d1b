/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes whose writes reach the RAM file, and where they map it, kept up to date. Common to
 * the trackers that watch mappings (uffd, softdirty); private to this folder.
 *
 * What changed since the last look is reported without proof: all pages of a mapping that
 * appeared, that went away, or whose process ended, because nobody watched them or their marks are
 * lost.
 *
 * Errors: -ESRCH the hypervisor ended or no longer maps the file; -EBUSY another process maps the
 *   file and cannot be tracked.
 * Threads: one at a time.
 * Units: bytes of the file, pages in bitmaps.
 */
#ifndef GODWIT_ENGINE_VMM_PROCESS_SET_H
#define GODWIT_ENGINE_VMM_PROCESS_SET_H

#include "common/bitmap.h"
#include "engine/vmm/mappers.h"

struct gw_tracked_process {
    pid_t pid;
    int pidfd;
    int pagemap_fd;
    int control_fd; /* what attach made: the userfaultfd, or clear_refs */
    char name[32];
    bool is_vmm;
    struct gw_mappings mappings; /* shared and writable ones */
};

struct gw_process_ops {
    /* Makes control_fd; pid, pidfd, pagemap_fd and name are there. */
    int (*attach)(struct gw_tracked_process *process);
    /* Begins to watch a mapping, from now on. */
    int (*watch)(struct gw_tracked_process *process, const struct gw_mapping *mapping);
};

struct gw_process_set {
    const struct gw_process_ops *ops;
    int ram_fd;
    pid_t vmm_pid;
    uint64_t size;
    uint64_t page_size;
    struct gw_file_id file;
    bool leaves_others; /* update looks at the processes that it knows only */
    struct gw_tracked_process *items;
    size_t count;
    size_t capacity;
};

/* Brings the set up to date; the first call finds the hypervisor. dirty may be NULL (nothing was
 * sent yet); otherwise the pages of everything that changed are set. */
int gw_process_set_update(struct gw_process_set *set, struct gw_bitmap *dirty);
/* -EBUSY when a process maps the file that is not in the set. */
int gw_process_set_check(const struct gw_process_set *set);
void gw_process_set_free(struct gw_process_set *set);

/* Sets the pages that [start, end) of the file lies in; what lies past the end is left out. */
void gw_process_set_mark(const struct gw_process_set *set, uint64_t start, uint64_t end,
                         struct gw_bitmap *dirty);
void gw_process_set_mark_mapping(const struct gw_process_set *set, const struct gw_mapping *mapping,
                                 struct gw_bitmap *dirty);
bool gw_tracked_process_is_alive(const struct gw_tracked_process *process);

#endif
