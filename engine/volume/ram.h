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
};

/* Opens the tracker too, but does not arm it. */
int gw_ram_source_open(const struct gw_ram_source_options *options, struct gw_source_volume **out);
struct gw_tracker *gw_ram_source_tracker(struct gw_source_volume *volume);
/* The mapping, for digests while the guest is stopped. */
const void *gw_ram_source_memory(const struct gw_source_volume *volume);

/* Creates path (which must not exist), allocates every page and maps it. fallocate takes about 0.3
 * s per GiB. abort unlinks; close leaves the file to the hypervisor. */
int gw_ram_target_create(const char *name, const char *path, uint64_t size,
                         struct gw_target_volume **out);
/* Clears and maps pages that will be written soon: at once about half of what it costs page by page
 * while the bytes arrive. A kernel that cannot do it (before Linux 5.14) leaves it for later. */
int gw_ram_target_populate(struct gw_target_volume *volume, uint64_t offset, uint64_t length);
/* The same with a file that is there already and belongs to somebody else: abort leaves it. */
int gw_ram_target_open(const char *name, const char *path, uint64_t size,
                       struct gw_target_volume **out);

#endif
