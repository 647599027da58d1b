/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tracker: dirty pages of guest RAM, seen from outside an unmodified hypervisor.
 *
 * Three kinds, best first (how each works and where it fails: docs/dirty-tracking.md):
 *   uffd       asynchronous write protection by userfaultfd, read by PAGEMAP_SCAN; Linux 6.7
 *
 *   softdirty  /proc/PID/clear_refs and pagemap bit 55, guest stopped around read and clear
 *
 *   compare    a 128-bit hash per page of the bytes last sent; costs a scan; anywhere
 *
 * Errors: -ENOTSUP with the reason when the kernel cannot; -EPERM names the missing right; -ESRCH
 * when a traced process ended; -EBUSY when a process maps the RAM file that cannot be tracked.
 * Order: open → arm → collect (any number) → close. arm starts the first period: every page written
 *   after it returns is reported. A mark is cleared before the caller reads the page, never after.
 * Threads: one at a time, except gw_tracker_copied, which workers call at once for different pages.
 * Units: pages of page_size bytes (4096, or the hugetlbfs page), numbered from the start of the RAM
 * file.
 */
#ifndef GODWIT_ENGINE_VMM_TRACKER_H
#define GODWIT_ENGINE_VMM_TRACKER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/bitmap.h"

enum gw_tracker_kind {
    GW_TRACKER_AUTO,
    GW_TRACKER_UFFD,
    GW_TRACKER_SOFTDIRTY,
    GW_TRACKER_COMPARE,
};

struct gw_tracker_options {
    enum gw_tracker_kind kind;
    int ram_fd;      /* the RAM file, open for reading; lent */
    const void *ram; /* the same file mapped shared, size bytes; lent (compare reads it) */
    uint64_t size;   /* of the RAM file that the guest uses; whole base pages */
    uint64_t page_size;
    bool is_one_of_several; /* the process has other memories with trackers of their own */
    pid_t vmm_pid;          /* the hypervisor */
};

struct gw_tracker;

/* Tries the kinds in order for AUTO; message of the last refusal when none works. Finds every
 * process that maps the file (by device and inode in /proc/PID/maps) and tracks it too. -EINVAL
 * when the hypervisor itself does not map it shared and writable. */
int gw_tracker_open(const struct gw_tracker_options *options, struct gw_tracker **out);
int gw_tracker_arm(struct gw_tracker *tracker);
/* Sets the bits of pages written since arm or the last collect. Also looks for new mappers of the
 * file: one that appeared is tracked from now on and all its pages are reported; one that cannot be
 * tracked is -EBUSY. The guest is stopped around the call when gw_tracker_needs_stop. dirty has one
 * bit for each page of the RAM; bits that were set stay. After an error the marks of this period
 * may be lost: the tracker is good for closing only. */
int gw_tracker_collect(struct gw_tracker *tracker, struct gw_bitmap *dirty);
/* For the last collect, with the guest stopped: from now on collect does not look for new mappers,
 * which takes a look at every process of the host; gw_tracker_check does. */
void gw_tracker_hasten(struct gw_tracker *tracker);
/* -EBUSY when a process maps the file that was not watched, so that it may have written unseen. */
int gw_tracker_check(struct gw_tracker *tracker);
/* compare: bytes of [offset, offset + length) as they will be sent, 8-byte aligned; NULL for a
 * range that is sent as zeroes. The range is whole pages, or ends with the RAM. Others ignore it.
 */
void gw_tracker_copied(struct gw_tracker *tracker, uint64_t offset, const void *bytes,
                       uint64_t length);
bool gw_tracker_needs_stop(const struct gw_tracker *tracker); /* softdirty */
bool gw_tracker_needs_copy(const struct gw_tracker *tracker); /* compare: RAM goes through slots */
enum gw_tracker_kind gw_tracker_kind_of(const struct gw_tracker *tracker);
const char *gw_tracker_name(enum gw_tracker_kind kind);
int gw_tracker_kind_parse(const char *name, enum gw_tracker_kind *out);
/* Takes every protection off again. Takes NULL; a process that is gone is no error. */
void gw_tracker_close(struct gw_tracker *tracker);

/* One line for each kind: works here, or why not. For doctor and plan; changes nothing. */
int gw_tracker_probe(enum gw_tracker_kind kind);

/* Every process that maps the file, the caller itself left out. Returns the count (at most max are
 * stored), or -errno. is_writable says whether any of its mappings may write. */
struct gw_mapper {
    pid_t pid;
    bool is_writable;
    char name[32]; /* comm */
};
int gw_mappers_find(int ram_fd, struct gw_mapper *out, int max);

#endif
