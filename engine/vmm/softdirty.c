/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirty pages by the kernel's soft-dirty bits: bit 55 of /proc/PID/pagemap, cleared for a whole
 * process by writing 4 to /proc/PID/clear_refs. Reading and clearing are two steps, so a write
 * between them is lost unless the guest stands still (gw_tracker_needs_stop).
 *
 * A page that leaves the page table takes its bit along. Three rules make up for it: a page that
 * was mapped at the last look and is not now is reported; a page that was data and is a hole now is
 * reported; and when the host swapped anything out meanwhile, every page that is not mapped is
 * reported.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/pagemap_abi.h"
#include "engine/vmm/process_set.h"
#include "engine/vmm/tracker_kind.h"

#define ENTRY_COUNT 32768u /* page map entries read at once */

/* What one look at the RAM saw, by pages. */
struct sight {
    struct gw_bitmap mapped; /* in the page table of any process */
    struct gw_bitmap data;   /* no hole of the file */
    uint64_t swapped_out;    /* pages, by the whole host, since it started */
};

struct softdirty_tracker {
    struct gw_tracker base;
    struct gw_process_set processes;
    struct sight before;
    struct sight now;
    uint64_t base_page;
    uint64_t *entries;
};

static int attach(struct gw_tracked_process *process)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)process->pid);
    process->control_fd = open(path, O_WRONLY | O_CLOEXEC);
    if (process->control_fd < 0)
        return gw_fail_errno(errno == ENOENT ? -ESRCH : -errno, "%s cannot be opened", path);
    return 0;
}

/* The kernel reports all of a new mapping until the bits are cleared. */
static int watch(struct gw_tracked_process *process, const struct gw_mapping *mapping)
{
    return 0;
}

static int clear_process(const struct gw_tracked_process *process)
{
    if (pwrite(process->control_fd, "4", 1, 0) == 1)
        return 0;
    return gw_fail_errno(-errno, "the soft-dirty bits of process %d (%s) cannot be cleared",
                         (int)process->pid, process->name);
}

static int sight_init(struct sight *sight, uint64_t page_count)
{
    int error = gw_bitmap_init(&sight->mapped, page_count);

    return error ? error : gw_bitmap_init(&sight->data, page_count);
}

static void sight_free(struct sight *sight)
{
    gw_bitmap_free(&sight->mapped);
    gw_bitmap_free(&sight->data);
}

static void softdirty_close(struct gw_tracker *base)
{
    struct softdirty_tracker *tracker = gw_container_of(base, struct softdirty_tracker, base);

    gw_process_set_free(&tracker->processes);
    sight_free(&tracker->before);
    sight_free(&tracker->now);
    free(tracker->entries);
    free(tracker);
}

static int refuse_hugetlbfs(int ram_fd)
{
    struct statfs status;

    if (fstatfs(ram_fd, &status) < 0)
        return gw_fail_errno(-errno, "the RAM file cannot be looked at");
    if ((uint64_t)status.f_type == HUGETLBFS_MAGIC)
        return gw_fail(-ENOTSUP, "soft-dirty bits are not kept for hugetlbfs");
    return 0;
}

static int fill(struct softdirty_tracker *tracker, const struct gw_tracker_options *options)
{
    static const struct gw_process_ops ops = {.attach = attach, .watch = watch};
    uint64_t page_count = (options->size - 1) / options->page_size + 1;
    int error = refuse_hugetlbfs(options->ram_fd);

    tracker->base_page = (uint64_t)sysconf(_SC_PAGESIZE);
    tracker->processes = (struct gw_process_set){.ops = &ops,
                                                 .ram_fd = options->ram_fd,
                                                 .vmm_pid = options->vmm_pid,
                                                 .size = options->size,
                                                 .page_size = options->page_size};
    if (!error)
        error = sight_init(&tracker->before, page_count);
    if (!error)
        error = sight_init(&tracker->now, page_count);
    if (!error) {
        tracker->entries = calloc(ENTRY_COUNT, sizeof(*tracker->entries));
        if (!tracker->entries)
            error = gw_fail(-ENOMEM, "no memory for a tracker");
    }
    return error ? error : gw_process_set_update(&tracker->processes, NULL);
}

static int softdirty_open(const struct gw_tracker_options *options, struct gw_tracker **out)
{
    struct softdirty_tracker *tracker = calloc(1, sizeof(*tracker));
    int error;

    if (!tracker)
        return gw_fail(-ENOMEM, "no memory for a tracker");
    error = fill(tracker, options);
    if (error) {
        softdirty_close(&tracker->base);
        return error;
    }
    *out = &tracker->base;
    return 0;
}

/* Counts the pages that the host moved out of memory, compressed ones included. */
static int read_swapped_out(uint64_t *out)
{
    FILE *file = fopen("/proc/vmstat", "re");
    char line[128];
    uint64_t sum = 0, value;

    if (!file)
        return gw_fail_errno(-errno, "/proc/vmstat cannot be opened");
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "pswpout %" SCNu64, &value) == 1 ||
            sscanf(line, "zswpout %" SCNu64, &value) == 1)
            sum += value;
    fclose(file);
    *out = sum;
    return 0;
}

static int look_at_mapping(struct softdirty_tracker *tracker,
                           const struct gw_tracked_process *process,
                           const struct gw_mapping *mapping, struct gw_bitmap *dirty)
{
    uint64_t page = tracker->base_page, left = (mapping->end - mapping->start) / page;
    uint64_t number = mapping->start / page, offset = mapping->offset;

    while (left > 0) {
        uint64_t want = gw_min(left, ENTRY_COUNT);
        ssize_t got = pread(process->pagemap_fd, tracker->entries, want * sizeof(uint64_t),
                            (off_t)(number * sizeof(uint64_t)));

        if (got < (ssize_t)sizeof(uint64_t))
            return got == 0 ? 0 /* the process ended: found out below */
                            : gw_fail_errno(-errno, "the page map of process %d cannot be read",
                                            (int)process->pid);
        want = (uint64_t)got / sizeof(uint64_t);
        for (uint64_t i = 0; i < want; i++, offset += page) {
            if (tracker->entries[i] & (GW_PAGEMAP_PRESENT | GW_PAGEMAP_SWAPPED))
                gw_process_set_mark(&tracker->processes, offset, offset + page,
                                    &tracker->now.mapped);
            if (tracker->entries[i] & GW_PAGEMAP_SOFT_DIRTY)
                gw_process_set_mark(&tracker->processes, offset, offset + page, dirty);
        }
        number += want;
        left -= want;
    }
    return 0;
}

static int look_at_data(struct softdirty_tracker *tracker)
{
    uint64_t at = 0, size = tracker->processes.size;

    while (at < size) {
        off_t data = lseek(tracker->processes.ram_fd, (off_t)at, SEEK_DATA), hole;

        if (data < 0 && errno == ENXIO)
            return 0;
        hole = data < 0 ? -1 : lseek(tracker->processes.ram_fd, data, SEEK_HOLE);
        if (hole < 0)
            return gw_fail_errno(-errno, "the holes of the RAM file cannot be read");
        gw_process_set_mark(&tracker->processes, (uint64_t)data, (uint64_t)hole,
                            &tracker->now.data);
        at = (uint64_t)hole;
    }
    return 0;
}

/* Fills now, and sets the pages whose bits are set when dirty is there. */
static int look(struct softdirty_tracker *tracker, struct gw_bitmap *dirty)
{
    const struct gw_process_set *set = &tracker->processes;
    int error = read_swapped_out(&tracker->now.swapped_out);

    gw_bitmap_clear_all(&tracker->now.mapped);
    gw_bitmap_clear_all(&tracker->now.data);
    for (size_t i = 0; !error && i < set->count; i++)
        for (size_t j = 0; !error && j < set->items[i].mappings.count; j++)
            error =
                look_at_mapping(tracker, &set->items[i], &set->items[i].mappings.items[j], dirty);
    return error ? error : look_at_data(tracker);
}

/* The three rules for pages that are not in a page table. */
static void mark_unmapped(const struct softdirty_tracker *tracker, struct gw_bitmap *dirty)
{
    const struct sight *before = &tracker->before, *now = &tracker->now;
    bool was_swapping = before->swapped_out != now->swapped_out;

    for (uint64_t i = 0; i < (dirty->bit_count + 63) / 64; i++) {
        uint64_t lost = before->mapped.words[i] & ~now->mapped.words[i];
        uint64_t changed = (before->data.words[i] ^ now->data.words[i]) & ~now->mapped.words[i];
        uint64_t unknown =
            was_swapping ? (before->data.words[i] | now->data.words[i]) & ~now->mapped.words[i] : 0;

        dirty->words[i] |= lost | changed | unknown;
    }
}

static int clear_all(struct softdirty_tracker *tracker)
{
    struct sight before = tracker->before;
    int error = 0;

    for (size_t i = 0; !error && i < tracker->processes.count; i++)
        if (gw_tracked_process_is_alive(&tracker->processes.items[i]))
            error = clear_process(&tracker->processes.items[i]);
    tracker->before = tracker->now;
    tracker->now = before;
    return error;
}

static int arm(struct gw_tracker *base)
{
    struct softdirty_tracker *tracker = gw_container_of(base, struct softdirty_tracker, base);
    int error = gw_process_set_update(&tracker->processes, NULL);

    if (!error)
        error = look(tracker, NULL);
    return error ? error : clear_all(tracker);
}

static int collect(struct gw_tracker *base, struct gw_bitmap *dirty)
{
    struct softdirty_tracker *tracker = gw_container_of(base, struct softdirty_tracker, base);
    int error = gw_process_set_update(&tracker->processes, dirty);

    if (!error)
        error = look(tracker, dirty);
    if (error)
        return error;
    mark_unmapped(tracker, dirty);
    error = clear_all(tracker);
    /* A process that ended meanwhile took its bits with it. */
    for (size_t i = 0; !error && i < tracker->processes.count; i++)
        if (!gw_tracked_process_is_alive(&tracker->processes.items[i]))
            return gw_process_set_update(&tracker->processes, dirty);
    return error;
}

static void copied(struct gw_tracker *base, uint64_t offset, const void *bytes, uint64_t length)
{
}

/* A page that was just mapped and written has its bit set wherever the bits are kept at all. */
static int probe(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), error = 0;
    uint64_t entry = 0;

    if (page == MAP_FAILED || fd < 0) {
        error = gw_fail(-ENOTSUP, "/proc/self/pagemap cannot be opened");
    } else {
        *(volatile char *)page = 1;
        if (pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / size * sizeof(entry))) !=
            (ssize_t)sizeof(entry))
            error = gw_fail_errno(-errno, "/proc/self/pagemap cannot be read");
        else if (!(entry & GW_PAGEMAP_SOFT_DIRTY))
            error =
                gw_fail(-ENOTSUP, "this kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)");
    }
    if (fd >= 0)
        close(fd);
    if (page != MAP_FAILED)
        munmap(page, size);
    return error;
}

static struct gw_process_set *processes(struct gw_tracker *base)
{
    return &gw_container_of(base, struct softdirty_tracker, base)->processes;
}

const struct gw_tracker_ops gw_tracker_softdirty_ops = {
    .kind = GW_TRACKER_SOFTDIRTY,
    .name = "softdirty",
    .needs_stop = true,
    .clears_all = true,
    .probe = probe,
    .open = softdirty_open,
    .arm = arm,
    .collect = collect,
    .copied = copied,
    .processes = processes,
    .close = softdirty_close,
};
