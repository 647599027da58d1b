/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirty pages by comparison: the XXH3-128 of each page as it was sent last, against the page now.
 * It needs nothing from the kernel or the hypervisor and misses no writer, whoever it is; it costs
 * a scan of the RAM at each collect. A page that was never sent is dirty when it is not zero: the
 * other side begins with zeroes.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/memory.h"
#include "engine/vmm/mappers.h"
#include "engine/vmm/tracker_kind.h"

#define BLOCK_PAGES 512u /* pages that one flag of sent blocks stands for */

struct digest {
    uint64_t low;
    uint64_t high;
};

/* Neither is a digest of data, which has bit 1 of low set. */
static const struct digest never_sent = {0, 0};
static const struct digest all_zero = {1, 0};

struct compare_tracker {
    struct gw_tracker base;
    int ram_fd;
    const unsigned char *ram;
    uint64_t size;
    uint64_t page_size;
    struct digest *digests;    /* one for each page, mapped: what is not touched costs no memory */
    atomic_uchar *sent_blocks; /* set when a page of the block was sent; holes skip the others */
    size_t digests_size;
};

static struct digest digest_of(const void *bytes, uint64_t length)
{
    XXH128_hash_t hash;

    if (gw_memory_is_zero(bytes, length))
        return all_zero;
    hash = XXH3_128bits(bytes, length);
    return (struct digest){.low = hash.low64 | 2, .high = hash.high64};
}

static bool is_same(const struct digest *a, const struct digest *b)
{
    return a->low == b->low && a->high == b->high;
}

static uint64_t length_of_page(const struct compare_tracker *tracker, uint64_t page)
{
    return gw_min(tracker->page_size, tracker->size - page * tracker->page_size);
}

static int probe(void)
{
    return 0;
}

static void compare_close(struct gw_tracker *base)
{
    struct compare_tracker *tracker = gw_container_of(base, struct compare_tracker, base);

    if (tracker->digests)
        munmap(tracker->digests, tracker->digests_size);
    free(tracker->sent_blocks);
    free(tracker);
}

static int fill(struct compare_tracker *tracker, const struct gw_tracker_options *options)
{
    uint64_t page_count = (options->size - 1) / options->page_size + 1;
    void *digests;

    if (!options->ram)
        return gw_fail(-EINVAL, "comparing needs the guest's RAM mapped");
    tracker->digests_size = page_count * sizeof(struct digest);
    digests = mmap(NULL, tracker->digests_size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (digests == MAP_FAILED)
        return gw_fail_errno(-errno, "no memory for the digests of %llu pages",
                             (unsigned long long)page_count);
    tracker->digests = digests;
    tracker->sent_blocks = calloc(page_count / BLOCK_PAGES + 1, sizeof(*tracker->sent_blocks));
    return tracker->sent_blocks ? 0 : gw_fail(-ENOMEM, "no memory for a tracker");
}

static int compare_open(const struct gw_tracker_options *options, struct gw_tracker **out)
{
    struct compare_tracker *tracker = calloc(1, sizeof(*tracker));
    int error;

    if (!tracker)
        return gw_fail(-ENOMEM, "no memory for a tracker");
    tracker->ram_fd = options->ram_fd;
    tracker->ram = options->ram;
    tracker->size = options->size;
    tracker->page_size = options->page_size;
    error = fill(tracker, options);
    if (error) {
        compare_close(&tracker->base);
        return error;
    }
    *out = &tracker->base;
    return 0;
}

/* Nothing was sent before this, and what was not sent is compared with zeroes. */
static int arm(struct gw_tracker *base)
{
    return 0;
}

static void scan_data(const struct compare_tracker *tracker, uint64_t first, uint64_t end,
                      struct gw_bitmap *dirty)
{
    for (uint64_t page = first; page < end; page++) {
        const struct digest *sent = &tracker->digests[page];
        const unsigned char *bytes = tracker->ram + page * tracker->page_size;
        uint64_t length = length_of_page(tracker, page);
        struct digest now;
        bool is_dirty;

        if (is_same(sent, &never_sent) || is_same(sent, &all_zero)) {
            is_dirty = !gw_memory_is_zero(bytes, length);
        } else {
            now = digest_of(bytes, length);
            is_dirty = !is_same(sent, &now);
        }
        if (is_dirty)
            gw_bitmap_set_range(dirty, page, 1);
    }
}

/* Pages of a hole read as zeroes: those that were sent as anything else are dirty. */
static void scan_hole(const struct compare_tracker *tracker, uint64_t first, uint64_t end,
                      struct gw_bitmap *dirty)
{
    uint64_t page = first;

    while (page < end) {
        const struct digest *sent = &tracker->digests[page];

        if (!atomic_load_explicit(&tracker->sent_blocks[page / BLOCK_PAGES],
                                  memory_order_relaxed)) {
            page = (page / BLOCK_PAGES + 1) * BLOCK_PAGES;
            continue;
        }
        if (!is_same(sent, &never_sent) && !is_same(sent, &all_zero))
            gw_bitmap_set_range(dirty, page, 1);
        page++;
    }
}

static int seek_error(const struct compare_tracker *tracker)
{
    return gw_fail_errno(-errno, "the holes of the RAM file cannot be read");
}

static int collect(struct gw_tracker *base, struct gw_bitmap *dirty)
{
    struct compare_tracker *tracker = gw_container_of(base, struct compare_tracker, base);
    uint64_t at = 0, page_size = tracker->page_size;

    while (at < tracker->size) {
        off_t data = lseek(tracker->ram_fd, (off_t)at, SEEK_DATA), hole;
        uint64_t data_start, data_end;

        if (data < 0 && errno != ENXIO)
            return seek_error(tracker);
        data_start = data < 0 ? tracker->size : gw_min((uint64_t)data, tracker->size);
        /* The file's own pages may be smaller than the tracker's: a page with any data is data. */
        data_start = data_start == tracker->size ? tracker->size
                                                 : gw_max(at, gw_align_down(data_start, page_size));
        scan_hole(tracker, at / page_size, (data_start + page_size - 1) / page_size, dirty);
        if (data_start == tracker->size)
            break;
        hole = lseek(tracker->ram_fd, data, SEEK_HOLE);
        if (hole < 0 && errno != ENXIO)
            return seek_error(tracker);
        data_end = hole < 0 ? tracker->size : gw_min((uint64_t)hole, tracker->size);
        data_end = gw_max(gw_align_up(data_end, page_size), data_start + page_size);
        scan_data(tracker, data_start / page_size,
                  (gw_min(data_end, tracker->size) + page_size - 1) / page_size, dirty);
        at = data_end;
    }
    return 0;
}

static void copied(struct gw_tracker *base, uint64_t offset, const void *bytes, uint64_t length)
{
    struct compare_tracker *tracker = gw_container_of(base, struct compare_tracker, base);
    const unsigned char *at = bytes;
    uint64_t end = gw_min(offset + length, tracker->size);

    while (offset < end) {
        uint64_t page = offset / tracker->page_size;
        uint64_t page_length = length_of_page(tracker, page);

        tracker->digests[page] = at ? digest_of(at, page_length) : all_zero;
        atomic_store_explicit(&tracker->sent_blocks[page / BLOCK_PAGES], 1, memory_order_relaxed);
        offset += page_length;
        at = at ? at + page_length : NULL;
    }
}

/* A hash tells of every write, whose ever it was. */
static struct gw_process_set *processes(struct gw_tracker *base)
{
    return NULL;
}

const struct gw_tracker_ops gw_tracker_compare_ops = {
    .kind = GW_TRACKER_COMPARE,
    .name = "compare",
    .needs_copy = true,
    .probe = probe,
    .open = compare_open,
    .arm = arm,
    .collect = collect,
    .copied = copied,
    .processes = processes,
    .close = compare_close,
};
