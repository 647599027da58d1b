/* SPDX-License-Identifier: Apache-2.0 */
/* Reads an image through its format: mapped in place when the file lives in memory, else by file
 * ranges for the workers' io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/volume/disk.h"

#define SECTORED_PAGE 4096u
#define SECTORED_RUN  (1u << 20) /* of data in one extent */
/* A mapped file is unmapped behind its readers while they wait: it takes the kernel 40 ms per GiB, which at
 * the end of a copy nobody has anything else to do beside. What is still read is mapped again. */
#define LET_GO_STEP   (2u << 20)
#define LET_GO_AFTER  (64u << 20)  /* more than two lanes have in flight */
#define LET_GO_BEFORE (4ull << 30) /* whether they wait or not: 8 MiB of page tables */

struct disk_source {
    struct gw_source_volume volume;
    struct gw_image *image;
    bool is_lent; /* the image */
    const struct gw_disk_dirty *dirty;
    bool is_sectored; /* read by call */
    void *mapping;    /* of the whole file, or NULL */
    uint64_t mapping_size;
    /* Of the mapping, from its beginning. */
    _Atomic uint64_t read_to, let_go;
};

static struct disk_source *of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct disk_source, volume);
}

/* Runs of an image that is sectored, cut at pages: a target past the page cache takes no less. A
 * page that is not of one kind is data. offset is a page's. */
static int extent_of_pages(struct gw_source_volume *volume, uint64_t offset, uint64_t limit,
                           struct gw_extent *out)
{
    uint64_t end = offset;

    *out = (struct gw_extent){.offset = offset, .kind = GW_EXTENT_DATA};
    while (end < limit && end - offset < SECTORED_RUN) {
        struct gw_extent run;
        int error = gw_image_extent(of(volume)->image, end, limit, &run);

        if (error)
            return error;
        if (run.offset + run.length < limit)
            run.length = gw_align_down(run.length, SECTORED_PAGE);
        if (run.length > 0 && run.kind != GW_EXTENT_DATA) {
            /* What came before it, or itself. */
            if (end == offset)
                *out = run;
            break;
        }
        end = gw_min(end + gw_max(run.length, SECTORED_PAGE), limit);
    }
    if (out->kind == GW_EXTENT_DATA)
        out->length = end - offset;
    return 0;
}

static int next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                       struct gw_extent *out)
{
    if (of(volume)->is_sectored)
        return extent_of_pages(volume, offset, end, out);
    return gw_image_extent(of(volume)->image, offset, end, out);
}

/* Unmaps a step of what lies this far and farther behind the readers. Returns false when there is none. */
static bool let_go_behind(struct disk_source *disk, uint64_t distance)
{
    uint64_t begin = atomic_load_explicit(&disk->let_go, memory_order_relaxed);

    if (atomic_load_explicit(&disk->read_to, memory_order_relaxed) <
            begin + distance + LET_GO_STEP ||
        !atomic_compare_exchange_strong_explicit(&disk->let_go, &begin, begin + LET_GO_STEP,
                                                 memory_order_relaxed, memory_order_relaxed))
        return false;
    /* Advice: what stays mapped goes with the rest. */
    madvise((char *)disk->mapping + begin, LET_GO_STEP, MADV_DONTNEED);
    return true;
}

static bool tidy(struct gw_source_volume *volume)
{
    return let_go_behind(of(volume), LET_GO_AFTER);
}

/* Somebody reads at offset of the mapping. Of two at once one may not count: the next one will. */
static void read_at(struct disk_source *disk, uint64_t offset)
{
    if (offset > atomic_load_explicit(&disk->read_to, memory_order_relaxed))
        atomic_store_explicit(&disk->read_to, offset, memory_order_relaxed);
    let_go_behind(disk, LET_GO_BEFORE);
}

static int locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                  struct gw_location *out)
{
    struct disk_source *disk = of(volume);
    int error;

    if (disk->is_sectored) {
        *out = (struct gw_location){
            .kind = GW_EXTENT_DATA, .where = GW_BY_CALL, .length = length, .fd = -1};
        return 0;
    }
    error = gw_image_locate(disk->image, offset, length, out);

    if (error || out->kind != GW_EXTENT_DATA)
        return error;
    if (disk->mapping && gw_range_fits(out->file_offset, out->length, disk->mapping_size)) {
        out->where = GW_IN_MEMORY;
        out->memory = (char *)disk->mapping + out->file_offset;
        read_at(disk, out->file_offset);
    }
    return 0;
}

static int read_bytes(struct gw_source_volume *volume, uint64_t offset, void *into, uint64_t length)
{
    return gw_image_read(of(volume)->image, offset, into, length);
}

static void copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                   uint64_t length)
{
}

static int collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    struct disk_source *disk = of(volume);
    uint64_t offset, length;
    int error;

    if (!disk->dirty)
        return gw_fail(-ENOTSUP, "%s is at rest: nothing tracks its writes", volume->name);
    error = disk->dirty->collect(disk->dirty->context, dirty);
    /* The tables are read after the dirty map was taken, so that they know every write in it. */
    if (!error)
        error = gw_image_refresh(disk->image);
    /* A write into a block whose allocation was still under way was reported when the file did not
     * name the block yet; it is reported by nobody again. */
    while (!error && gw_image_take_appeared(disk->image, &offset, &length))
        gw_bitmap_set_range(dirty, offset / GW_DISK_GRANULARITY,
                            (length + GW_DISK_GRANULARITY - 1) / GW_DISK_GRANULARITY);
    return error;
}

static int unchanged(struct gw_source_volume *volume)
{
    return of(volume)->dirty ? 0 : gw_image_unchanged(of(volume)->image);
}

static void close_source(struct gw_source_volume *volume)
{
    struct disk_source *disk = of(volume);

    if (disk->mapping)
        munmap(disk->mapping, disk->mapping_size);
    if (!disk->is_lent)
        gw_image_close(disk->image);
    free(disk);
}

static const struct gw_source_ops ops = {
    .next_extent = next_extent,
    .locate = locate,
    .read = read_bytes,
    .copied = copied,
    .tidy = tidy,
    .collect = collect,
    .unchanged = unchanged,
    .close = close_source,
};

/* A file in memory is mapped whole: its bytes go from where they lie to the wire. An image in use
 * is not, since its bytes must be taken before they are digested. */
static void map_file(struct disk_source *disk, const char *path)
{
    const struct gw_image_info *info = gw_image_info(disk->image);
    int fd;

    if (disk->is_sectored || disk->dirty || !info->is_memory_file || info->file_size == 0)
        return;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    disk->mapping_size = info->file_size;
    disk->mapping = mmap(NULL, disk->mapping_size, PROT_READ, MAP_SHARED, fd, 0);
    if (disk->mapping == MAP_FAILED)
        disk->mapping = NULL;
    close(fd);
}

int gw_disk_source_open(const struct gw_disk_source_options *options, struct gw_source_volume **out)
{
    struct gw_image_open_options open_options = {
        .path = options->path,
        .format = options->format,
        .is_in_use = options->dirty != NULL,
        .is_direct = true,
        .mappings = options->mappings,
        .mapping_count = options->mapping_count,
    };
    struct disk_source *disk = calloc(1, sizeof(*disk));
    int error;

    if (!disk)
        return gw_fail(-ENOMEM, "no memory for a volume");
    error = gw_image_open(&open_options, &disk->image);
    if (error) {
        free(disk);
        return error;
    }
    disk->dirty = options->dirty;
    disk->is_sectored = gw_image_info(disk->image)->is_sectored;
    disk->volume = (struct gw_source_volume){
        .ops = &ops,
        .kind = GW_VOLUME_DISK,
        .size = gw_image_info(disk->image)->virtual_size,
        .granularity = GW_DISK_GRANULARITY,
        .is_still = options->dirty == NULL,
    };
    snprintf(disk->volume.name, sizeof(disk->volume.name), "%s", options->name);
    map_file(disk, options->path);
    *out = &disk->volume;
    return 0;
}

int gw_disk_source_view(const char *name, struct gw_image *image, struct gw_source_volume **out)
{
    struct disk_source *disk = calloc(1, sizeof(*disk));

    if (!disk)
        return gw_fail(-ENOMEM, "no memory for a volume");
    disk->image = image;
    disk->is_lent = true;
    disk->volume = (struct gw_source_volume){
        .ops = &ops,
        .kind = GW_VOLUME_DISK,
        .size = gw_image_info(image)->virtual_size,
        .granularity = GW_DISK_GRANULARITY,
        .is_still = true,
    };
    snprintf(disk->volume.name, sizeof(disk->volume.name), "%s", name);
    *out = &disk->volume;
    return 0;
}

struct gw_image *gw_disk_source_image(struct gw_source_volume *volume)
{
    return of(volume)->image;
}

const struct gw_image_info *gw_disk_source_info(const struct gw_source_volume *volume)
{
    return gw_image_info(gw_container_of(volume, struct disk_source, volume)->image);
}
