/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM as a volume: a shared file on tmpfs or hugetlbfs, mapped. The source reads it in
 * place; the target lets the peer write into it.
 *
 * Errors: -errno with a message that names the file; -ENOSPC and -ENOMEM when the target cannot
 *   hold it.
 * Threads: as volume.h.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_VOLUME_RAM_H
#define GODWIT_ENGINE_VOLUME_RAM_H

#include "engine/vmm/tracker.h"
#include "engine/volume/volume.h"

struct gw_ram_source_options {
    const char *name;
    int fd;        /* the RAM file, open for reading; taken over */
    uint64_t size; /* what the guest uses of it */
    pid_t vmm_pid;
    enum gw_tracker_kind tracker;
    /* Each collection looks for pages that became holes, of which some trackers say nothing, and which need not be
     * zeroes on the target unless all of it is compared: a look takes some 15 ms for each GiB. */
    bool sees_holes;
    bool is_one_of_several; /* the process has other memories that are tracked */
};

/* Opens the tracker too, but does not arm it. */
int gw_ram_source_open(const struct gw_ram_source_options *options, struct gw_source_volume **out);
struct gw_tracker *gw_ram_source_tracker(struct gw_source_volume *volume);
/* The mapping, for digests while the guest is stopped. */
const void *gw_ram_source_memory(const struct gw_source_volume *volume);

enum gw_ram_target_flag {
    GW_RAM_FOREIGN = 1u << 0, /* the file is there already, and somebody else's: abort leaves it */
    GW_RAM_SPARSE = 1u << 1,  /* no page is allocated: what maps it discards all of it at first */
};
/* Creates path (which must not exist), allocates every page and maps it. fallocate takes about 0.3
 * s per GiB. abort unlinks; close leaves the file to the hypervisor. flags: a sum of the above. */
int gw_ram_target_make(const char *name, const char *path, uint64_t size, unsigned flags,
                       struct gw_target_volume **out);
/* The first place from offset on that may hold something else than zeroes; the size when there is none. */
uint64_t gw_ram_target_skip_hole(const struct gw_target_volume *volume, uint64_t offset);
/* Allocates these pages. */
int gw_ram_target_set_aside(struct gw_target_volume *volume, uint64_t offset, uint64_t length);
/* Clears and maps pages that will be written soon: at once about half of what it costs page by page
 * while the bytes arrive. A kernel that cannot do it (before Linux 5.14) leaves it for later. */
int gw_ram_target_populate(struct gw_target_volume *volume, uint64_t offset, uint64_t length);
#endif
