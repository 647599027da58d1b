/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirty pages by userfaultfd. A descriptor made inside each process that maps the RAM file lets the
 * mappings be write-protected asynchronously: the first write to a page lifts its protection in the
 * kernel, with no message and nobody to wait for. PAGEMAP_SCAN then lists the pages without
 * protection and protects them again in one step. Closing the descriptors takes everything off.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/inject.h"
#include "engine/vmm/pagemap_abi.h"
#include "engine/vmm/process_set.h"
#include "engine/vmm/tracker_kind.h"

#define FEATURES                                                                                   \
    (GW_UFFD_PAGEFAULT_FLAG_WP | GW_UFFD_WP_HUGETLBFS_SHMEM | GW_UFFD_WP_UNPOPULATED |             \
     GW_UFFD_WP_ASYNC)
#define REGION_COUNT 4096 /* runs of dirty pages fetched by one call */

/* Pages that a scan lists. */
enum selection {
    WRITTEN, /* and protects again in the same step */
    /* In no page table, and without the marker that protects such a page. On tmpfs these count as
     * written. On hugetlbfs they do not, although they may have been (written, then unmapped), and
     * the scan does not mark them. */
    UNMARKED,
};

struct uffd_tracker {
    struct gw_tracker base;
    struct gw_process_set processes;
    struct gw_scan_region *regions;
    bool is_hugetlbfs;
};

static int enable_features(int uffd)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};

    if (ioctl(uffd, UFFDIO_API, &api) == 0)
        return 0;
    if (errno == EINVAL)
        return gw_fail(-ENOTSUP, "this kernel has no asynchronous write protection by userfaultfd "
                                 "(Linux 6.7 has)");
    return gw_fail_errno(-errno, "userfaultfd refused its features");
}

/* One step of a scan: lists the selected pages from request->start on. */
static int scan_step(int pagemap_fd, enum selection selection, struct gw_scan_request *request)
{
    const uint64_t absent = GW_SCAN_PAGE_IS_PRESENT | GW_SCAN_PAGE_IS_SWAPPED;
    int got;

    request->size = sizeof(*request);
    request->flags = GW_SCAN_CHECK_ASYNC | (selection == WRITTEN ? GW_SCAN_PROTECT_MATCHING : 0);
    request->category_inverted = selection == UNMARKED ? absent : 0;
    request->category_mask = selection == UNMARKED ? absent : GW_SCAN_PAGE_IS_WRITTEN;
    request->return_mask = request->vec ? GW_SCAN_PAGE_IS_WRITTEN : 0;
    do {
        got = ioctl(pagemap_fd, GW_PAGEMAP_SCAN, request);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static int register_range(int uffd, uint64_t start, uint64_t end)
{
    struct uffdio_register request = {.range = {.start = start, .len = end - start},
                                      .mode = UFFDIO_REGISTER_MODE_WP};

    return ioctl(uffd, UFFDIO_REGISTER, &request) < 0 ? -errno : 0;
}

/* Protects every page of the range, those in no page table too; slower than a scan by a factor
 * of 4. */
static int protect(int uffd, uint64_t start, uint64_t end)
{
    struct uffdio_writeprotect request = {.range = {.start = start, .len = end - start},
                                          .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    int error;

    do {
        error = ioctl(uffd, UFFDIO_WRITEPROTECT, &request) < 0 ? -errno : 0;
    } while (error == -EAGAIN || error == -EINTR);
    return error;
}

/* The first protection of a mapping: by scans without a list, and where these leave pages out,
 * which those of hugetlbfs are, by the other way. */
static int protect_first(int uffd, int pagemap_fd, uint64_t start, uint64_t end)
{
    struct gw_scan_region left_out;
    struct gw_scan_request look = {
        .start = start, .end = end, .vec = (uintptr_t)&left_out, .vec_len = 1};
    int got = 0;

    for (uint64_t at = start; at < end;) {
        struct gw_scan_request request = {.start = at, .end = end};

        got = scan_step(pagemap_fd, WRITTEN, &request);
        if (got < 0)
            return got;
        if (request.walk_end <= at)
            return -EPROTO;
        at = request.walk_end;
    }
    got = scan_step(pagemap_fd, UNMARKED, &look);
    return got > 0 ? protect(uffd, start, end) : got;
}

static int attach(struct gw_tracked_process *process)
{
    int error = gw_inject_userfaultfd(process->pid, process->pidfd, &process->control_fd);

    return error ? error : enable_features(process->control_fd);
}

static int watch(struct gw_tracked_process *process, const struct gw_mapping *mapping)
{
    int error = register_range(process->control_fd, mapping->start, mapping->end);

    if (error == -ESRCH)
        return gw_fail(error, "process %d has ended", (int)process->pid);
    if (error == -EBUSY)
        return gw_fail(
            error,
            "another userfaultfd watches the guest's RAM in process %d (%s): a tracker, a "
            "post-copy migration or a background snapshot",
            (int)process->pid, process->name);
    if (error)
        return gw_fail_errno(error, "the RAM of process %d (%s) cannot be watched by userfaultfd",
                             (int)process->pid, process->name);
    error = protect_first(process->control_fd, process->pagemap_fd, mapping->start, mapping->end);
    if (error == -ESRCH)
        return gw_fail(error, "process %d has ended", (int)process->pid);
    if (error)
        return gw_fail_errno(error, "the RAM of process %d (%s) cannot be write-protected",
                             (int)process->pid, process->name);
    return 0;
}

static void uffd_close(struct gw_tracker *base)
{
    struct uffd_tracker *tracker = gw_container_of(base, struct uffd_tracker, base);

    gw_process_set_free(&tracker->processes);
    free(tracker->regions);
    free(tracker);
}

static int fill(struct uffd_tracker *tracker, const struct gw_tracker_options *options)
{
    static const struct gw_process_ops ops = {.attach = attach, .watch = watch};
    struct statfs status;

    if (fstatfs(options->ram_fd, &status) < 0)
        return gw_fail_errno(-errno, "the RAM file cannot be looked at");
    tracker->is_hugetlbfs = (uint64_t)status.f_type == HUGETLBFS_MAGIC;
    tracker->regions = calloc(REGION_COUNT, sizeof(*tracker->regions));
    if (!tracker->regions)
        return gw_fail(-ENOMEM, "no memory for a tracker");
    tracker->processes = (struct gw_process_set){.ops = &ops,
                                                 .ram_fd = options->ram_fd,
                                                 .vmm_pid = options->vmm_pid,
                                                 .size = options->size,
                                                 .page_size = options->page_size};
    return gw_process_set_update(&tracker->processes, NULL);
}

static int uffd_open(const struct gw_tracker_options *options, struct gw_tracker **out)
{
    struct uffd_tracker *tracker = calloc(1, sizeof(*tracker));
    int error;

    if (!tracker)
        return gw_fail(-ENOMEM, "no memory for a tracker");
    error = fill(tracker, options);
    if (error) {
        uffd_close(&tracker->base);
        return error;
    }
    *out = &tracker->base;
    return 0;
}

/* Takes over what one step listed: protects it where the scan did not, then reports it, so that a
 * write in between is either in the page when the caller reads it or in the next list. */
static int take_regions(const struct uffd_tracker *tracker,
                        const struct gw_tracked_process *process, const struct gw_mapping *mapping,
                        int count, struct gw_bitmap *dirty)
{
    for (int i = 0; i < count; i++) {
        const struct gw_scan_region *region = &tracker->regions[i];

        if (!(region->categories & GW_SCAN_PAGE_IS_WRITTEN)) {
            int error = protect(process->control_fd, region->start, region->end);

            if (error)
                return error;
        }
        gw_process_set_mark(&tracker->processes, mapping->offset + (region->start - mapping->start),
                            mapping->offset + (region->end - mapping->start), dirty);
    }
    return 0;
}

static int scan_selected(const struct uffd_tracker *tracker,
                         const struct gw_tracked_process *process, const struct gw_mapping *mapping,
                         enum selection selection, struct gw_bitmap *dirty)
{
    uint64_t start = mapping->start;

    while (start < mapping->end) {
        struct gw_scan_request request = {.start = start,
                                          .end = mapping->end,
                                          .vec = (uintptr_t)tracker->regions,
                                          .vec_len = REGION_COUNT};
        int got = scan_step(process->pagemap_fd, selection, &request), error;

        error = got < 0 ? got : take_regions(tracker, process, mapping, got, dirty);
        if (error)
            return error;
        if (request.walk_end <= start)
            return -EPROTO;
        start = request.walk_end;
    }
    return 0;
}

static int scan_mapping(struct uffd_tracker *tracker, const struct gw_tracked_process *process,
                        const struct gw_mapping *mapping, struct gw_bitmap *dirty)
{
    int error = scan_selected(tracker, process, mapping, WRITTEN, dirty);

    if (!error && tracker->is_hugetlbfs)
        error = scan_selected(tracker, process, mapping, UNMARKED, dirty);
    return error;
}

static int scan_process(struct uffd_tracker *tracker, struct gw_tracked_process *process,
                        struct gw_bitmap *dirty)
{
    for (size_t i = 0; i < process->mappings.count; i++) {
        const struct gw_mapping *mapping = &process->mappings.items[i];
        int error = scan_mapping(tracker, process, mapping, dirty);

        if (error == -EPERM) {
            /* Not registered: it was unmapped and mapped again at the same place. */
            error = watch(process, mapping);
            gw_process_set_mark_mapping(&tracker->processes, mapping, dirty);
            if (error)
                return error;
        }
        if (error)
            return gw_fail_errno(error, "the dirty pages of process %d (%s) cannot be read",
                                 (int)process->pid, process->name);
    }
    return 0;
}

static int collect(struct gw_tracker *base, struct gw_bitmap *dirty)
{
    struct uffd_tracker *tracker = gw_container_of(base, struct uffd_tracker, base);
    int error = gw_process_set_update(&tracker->processes, dirty);

    for (size_t i = 0; !error && i < tracker->processes.count; i++)
        error = scan_process(tracker, &tracker->processes.items[i], dirty);
    /* A process that ended during the scan took its marks with it. */
    for (size_t i = 0; !error && i < tracker->processes.count; i++)
        if (!gw_tracked_process_is_alive(&tracker->processes.items[i]))
            return gw_process_set_update(&tracker->processes, dirty);
    return error;
}

static int uffd_arm(struct gw_tracker *base)
{
    return collect(base, NULL);
}

static void uffd_copied(struct gw_tracker *base, uint64_t offset, const void *bytes,
                        uint64_t length)
{
}

/* Watches one page of shared memory of its own, writes it, takes it out of the page table (which
 * must not take the mark along), and looks whether the page is listed. */
static int try_on_page(int uffd, int pagemap_fd, volatile char *page, uint64_t size)
{
    uint64_t start = (uintptr_t)page;
    struct gw_scan_region region = {0};
    struct gw_scan_request request = {
        .start = start, .end = start + size, .vec = (uintptr_t)&region, .vec_len = 1};
    int error = register_range(uffd, start, start + size), got;

    if (error)
        return gw_fail_errno(error, "userfaultfd cannot watch shared memory for writes");
    error = protect_first(uffd, pagemap_fd, start, start + size);
    if (error == -ENOTTY)
        return gw_fail(-ENOTSUP, "this kernel has no PAGEMAP_SCAN (Linux 6.7 has)");
    if (error)
        return gw_fail_errno(error, "userfaultfd cannot protect memory");
    *page = 1;
    madvise((void *)(uintptr_t)start, size, MADV_DONTNEED);
    got = scan_step(pagemap_fd, WRITTEN, &request);
    if (got != 1 || region.start != start)
        return gw_fail(-ENOTSUP,
                       "this kernel forgets writes to pages that are unmapped afterwards");
    return 0;
}

static int probe(void)
{
    uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | GW_UFFD_USER_MODE_ONLY);
    int pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int error = 0;

    if (uffd < 0)
        error = gw_fail_errno(errno == ENOSYS ? -ENOTSUP : -errno,
                              "userfaultfd is not to be had on this kernel");
    else if (pagemap_fd < 0 || page == MAP_FAILED)
        error = gw_fail(-ENOTSUP, "/proc/self/pagemap cannot be opened");
    if (!error)
        error = enable_features(uffd);
    if (!error)
        error = try_on_page(uffd, pagemap_fd, page, size);
    if (page != MAP_FAILED)
        munmap(page, size);
    if (pagemap_fd >= 0)
        close(pagemap_fd);
    if (uffd >= 0)
        close(uffd);
    return error;
}

static struct gw_process_set *processes(struct gw_tracker *base)
{
    return &gw_container_of(base, struct uffd_tracker, base)->processes;
}

const struct gw_tracker_ops gw_tracker_uffd_ops = {
    .kind = GW_TRACKER_UFFD,
    .name = "uffd",
    .probe = probe,
    .open = uffd_open,
    .arm = uffd_arm,
    .collect = collect,
    .copied = uffd_copied,
    .processes = processes,
    .close = uffd_close,
};
