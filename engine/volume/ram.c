/* SPDX-License-Identifier: Apache-2.0 */
/* Maps RAM files at both ends. Which pages are dirty is the tracker's business. */
#include "engine/volume/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/fault.h"
#include "common/memory.h"
#include "common/topology.h"

#define SMALL_PAGE   4096u
#define NODE_SAMPLES 32u

#define RESIDENT_STEP 512u /* pages */
/* Who asks about this part of the RAM, or more, has the rest of a run walked as well. */
#define WALK_PART 8u

struct ram_source {
    struct gw_source_volume volume;
    int fd;
    void *memory;
    bool has_mincore; /* it tells of small pages, and tells us */
    struct gw_tracker *tracker;
    struct gw_bitmap filled; /* pages that were data at some look, with sees_holes */
};

static struct ram_source *source_of(struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct ram_source, volume);
}

/* How far the pages from offset on are in memory, which is asked in steps that grow with the answer. */
static uint64_t resident_end(const struct ram_source *ram, uint64_t offset, uint64_t end)
{
    unsigned char is_resident[RESIDENT_STEP];

    for (uint64_t step = 1; offset < end; step = gw_min(2 * step, RESIDENT_STEP)) {
        uint64_t length = gw_min(end - offset, step * SMALL_PAGE);

        if (mincore((char *)ram->memory + offset, length, is_resident))
            return offset;
        for (uint64_t i = 0; i * SMALL_PAGE < length; i++)
            if (!(is_resident[i] & 1))
                return offset + i * SMALL_PAGE;
        offset += length;
    }
    return end;
}

/* Where the data that offset is in ends, as far as end. SEEK_HOLE walks to the end of it, some 15 ms for
 * each GiB, however little is asked about; mincore looks at these pages only, but does not tell a hole from
 * a page that was swapped out: where one of the two follows at once, the walk does. */
static int data_end(const struct ram_source *ram, uint64_t offset, uint64_t end, uint64_t *out)
{
    uint64_t next = offset + SMALL_PAGE;
    off_t hole;

    if (ram->has_mincore && end - offset < ram->volume.size / WALK_PART) {
        *out = resident_end(ram, next, end);
        if (*out > next || next >= end)
            return 0;
    }
    hole = lseek(ram->fd, (off_t)offset, SEEK_HOLE);
    if (hole < 0)
        return gw_fail_errno(-errno, "%s: looking for a hole", ram->volume.name);
    /* It may have become a hole since it was seen to be data. */
    *out = gw_min(gw_max((uint64_t)hole, next), end);
    return 0;
}

static int source_next_extent(struct gw_source_volume *volume, uint64_t offset, uint64_t end,
                              struct gw_extent *out)
{
    const struct ram_source *ram = source_of(volume);
    off_t data = lseek(ram->fd, (off_t)offset, SEEK_DATA);
    int error = 0;

    if (data < 0 && errno != ENXIO)
        return gw_fail_errno(-errno, "%s: looking for data", volume->name);
    *out = (struct gw_extent){.offset = offset, .kind = GW_EXTENT_ABSENT};
    if ((uint64_t)data == offset) {
        out->kind = GW_EXTENT_DATA;
        error = data_end(ram, offset, end, &end);
    } else if (data > 0) {
        end = gw_min((uint64_t)data, end);
    }
    out->length = end - offset;
    return error;
}

static int source_locate(struct gw_source_volume *volume, uint64_t offset, uint64_t length,
                         struct gw_location *out)
{
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA,
        .where = GW_IN_MEMORY,
        .length = length,
        .memory = (char *)source_of(volume)->memory + offset,
    };
    return 0;
}

static int source_read(struct gw_source_volume *volume, uint64_t offset, void *into,
                       uint64_t length)
{
    return gw_fail(-ENOTSUP, "%s is read in place", volume->name);
}

static void source_copied(struct gw_source_volume *volume, uint64_t offset, const void *bytes,
                          uint64_t length)
{
    gw_tracker_copied(source_of(volume)->tracker, offset, bytes, length);
}

struct collection {
    struct gw_tracker *tracker;
    struct gw_bitmap *dirty;
};

static int touch_collection(void *context)
{
    struct collection *collection = context;

    return gw_tracker_collect(collection->tracker, collection->dirty);
}

/* Pages that were data, and are holes now, are dirty: they were sent, perhaps, and are zeroes. */
static int find_holes(struct ram_source *ram, struct gw_bitmap *dirty)
{
    struct gw_source_volume *volume = &ram->volume;
    uint64_t page = volume->granularity, size = volume->size, first, count;
    struct gw_extent extent;

    if (dirty)
        gw_bitmap_merge(&ram->filled, dirty);
    for (uint64_t offset = 0; offset < size; offset = extent.offset + extent.length) {
        uint64_t at = offset / page, end;
        int error = source_next_extent(volume, offset, size, &extent);

        if (error)
            return error;
        end = (extent.offset + extent.length + page - 1) / page;
        if (extent.kind == GW_EXTENT_DATA)
            gw_bitmap_set_range(&ram->filled, at, end - at);
        else if (dirty)
            for (; gw_bitmap_next_run(&ram->filled, at, &first, &count) && first < end;
                 at += count) {
                at = first;
                count = gw_min(count, end - first);
                gw_bitmap_set_range(dirty, first, count);
                gw_bitmap_clear_range(&ram->filled, first, count);
            }
    }
    return 0;
}

static int source_collect(struct gw_source_volume *volume, struct gw_bitmap *dirty)
{
    struct ram_source *ram = source_of(volume);
    struct collection collection = {.tracker = ram->tracker, .dirty = dirty};
    /* The tracker that compares reads all of the memory. */
    int error = gw_fault_run(volume->name, touch_collection, &collection);

    return error || ram->filled.bit_count == 0 ? error : find_holes(ram, dirty);
}

static int source_unchanged(struct gw_source_volume *volume)
{
    struct stat info;

    if (fstat(source_of(volume)->fd, &info))
        return gw_fail_errno(-errno, "%s: stat", volume->name);
    if ((uint64_t)info.st_size < volume->size)
        return gw_fail(-ESTALE, "%s: the RAM file shrank to %lld bytes", volume->name,
                       (long long)info.st_size);
    return 0;
}

static void source_close(struct gw_source_volume *volume)
{
    struct ram_source *ram = source_of(volume);

    gw_tracker_close(ram->tracker);
    gw_bitmap_free(&ram->filled);
    if (ram->memory)
        munmap(ram->memory, volume->size);
    if (ram->fd >= 0)
        close(ram->fd);
    free(ram);
}

static const struct gw_source_ops source_ops = {
    .next_extent = source_next_extent,
    .locate = source_locate,
    .read = source_read,
    .copied = source_copied,
    .collect = source_collect,
    .unchanged = source_unchanged,
    .close = source_close,
};

/* 4096, or the huge page size of the file system that the file lives on. */
static int page_size_of(int fd, const char *name, uint64_t *out)
{
    struct statfs info;

    if (fstatfs(fd, &info))
        return gw_fail_errno(-errno, "%s: statfs", name);
    *out = (unsigned long)info.f_type == HUGETLBFS_MAGIC ? (uint64_t)info.f_bsize : SMALL_PAGE;
    return 0;
}

/* mincore says of every page that it is there to one who may not write to the file. */
static bool may_write(int fd)
{
    struct stat info;

    return faccessat(fd, "", W_OK, AT_EACCESS | AT_EMPTY_PATH) == 0 ||
           (fstat(fd, &info) == 0 && info.st_uid == geteuid());
}

struct samples {
    const volatile char *memory;
    uint64_t offset;
    char byte;
};

static int touch_sample(void *context)
{
    struct samples *samples = context;

    samples->byte = samples->memory[samples->offset];
    return 0;
}

/* The NUMA node that a few pages spread over the RAM are on. Holes are not touched: that would fill
 * them. */
static int sample_node(struct ram_source *ram)
{
    struct samples samples = {.memory = ram->memory};
    void *pages[NODE_SAMPLES];
    size_t count = 0;

    for (unsigned i = 0; i < NODE_SAMPLES; i++) {
        samples.offset = gw_align_down(ram->volume.size / NODE_SAMPLES * i, SMALL_PAGE);
        if (lseek(ram->fd, (off_t)samples.offset, SEEK_DATA) != (off_t)samples.offset)
            continue;
        if (gw_fault_run(ram->volume.name, touch_sample, &samples))
            continue;
        pages[count++] = (char *)ram->memory + samples.offset;
    }
    return gw_topology_node_of_pages(pages, count);
}

int gw_ram_source_open(const struct gw_ram_source_options *options, struct gw_source_volume **out)
{
    struct ram_source *ram = calloc(1, sizeof(*ram));
    struct gw_tracker_options tracker;
    uint64_t page_size = SMALL_PAGE;
    int error;

    if (!ram) {
        close(options->fd);
        return gw_fail(-ENOMEM, "no memory for a volume");
    }
    ram->fd = options->fd;
    ram->volume.ops = &source_ops;
    ram->volume.kind = GW_VOLUME_RAM;
    ram->volume.size = options->size;
    snprintf(ram->volume.name, sizeof(ram->volume.name), "%s", options->name);
    error = source_unchanged(&ram->volume);
    if (!error)
        error = page_size_of(ram->fd, options->name, &page_size);
    if (error)
        goto err;
    ram->memory = mmap(NULL, options->size, PROT_READ, MAP_SHARED, ram->fd, 0);
    if (ram->memory == MAP_FAILED) {
        ram->memory = NULL;
        error = gw_fail_errno(-errno, "%s: cannot map the RAM file", options->name);
        goto err;
    }
    tracker = (struct gw_tracker_options){
        .kind = options->tracker,
        .ram_fd = ram->fd,
        .ram = ram->memory,
        .size = options->size,
        .page_size = page_size,
        .vmm_pid = options->vmm_pid,
        .is_one_of_several = options->is_one_of_several,
    };
    error = gw_tracker_open(&tracker, &ram->tracker);
    if (error)
        goto err;
    ram->volume.node = sample_node(ram);
    ram->volume.has_node = ram->volume.node >= 0;
    ram->has_mincore = page_size == SMALL_PAGE && may_write(ram->fd);
    ram->volume.granularity = (uint32_t)page_size;
    ram->volume.needs_copy = gw_tracker_needs_copy(ram->tracker);
    if (options->sees_holes) {
        error = gw_bitmap_init(&ram->filled, (options->size + page_size - 1) / page_size);
        if (!error)
            error = find_holes(ram, NULL);
        if (error)
            goto err;
    }
    *out = &ram->volume;
    return 0;

err:
    source_close(&ram->volume);
    return error;
}

struct gw_tracker *gw_ram_source_tracker(struct gw_source_volume *volume)
{
    return source_of(volume)->tracker;
}

const void *gw_ram_source_memory(const struct gw_source_volume *volume)
{
    return gw_container_of(volume, struct ram_source, volume)->memory;
}

struct ram_target {
    struct gw_target_volume volume;
    char *path;
    int fd;
    bool is_foreign; /* somebody else made the file, and keeps it */
    bool is_sparse;
};

static struct ram_target *target_of(struct gw_target_volume *volume)
{
    return gw_container_of(volume, struct ram_target, volume);
}

static int target_locate(struct gw_target_volume *volume, uint64_t offset, uint64_t length,
                         struct gw_location *out)
{
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA,
        .where = GW_IN_MEMORY,
        .length = length,
        .memory = (char *)volume->memory + offset,
    };
    return 0;
}

static int target_write(struct gw_target_volume *volume, uint64_t offset, const void *from,
                        uint64_t length)
{
    return gw_fail(-ENOTSUP, "%s is written in place", volume->name);
}

/* The first page at or behind offset that there is: a look at one that is not would allocate it. */
static uint64_t first_page(const struct ram_target *ram, uint64_t offset)
{
    return ram->is_sparse && offset < ram->volume.size
               ? gw_ram_target_skip_hole(&ram->volume, offset)
               : offset;
}

static int target_zero(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    struct ram_target *ram = target_of(volume);
    uint64_t end = offset + length;

    /* Most are zero already: this memory was allocated as zeroes, and a read is cheaper than a
     * write. */
    for (uint64_t at = first_page(ram, offset); at < end; at = first_page(ram, at + SMALL_PAGE)) {
        char *page = (char *)ram->volume.memory + at;
        uint64_t size = gw_min(SMALL_PAGE, end - at);

        if (!gw_memory_is_zero(page, size))
            memset(page, 0, size);
    }
    return 0;
}

static int target_sync(struct gw_target_volume *volume)
{
    return 0; /* memory: as durable as the guest itself */
}

static void target_abort(struct gw_target_volume *volume)
{
    if (!target_of(volume)->is_foreign)
        unlink(target_of(volume)->path);
}

static void target_close(struct gw_target_volume *volume)
{
    struct ram_target *ram = target_of(volume);

    if (volume->memory)
        munmap(volume->memory, volume->size);
    if (ram->fd >= 0)
        close(ram->fd);
    free(ram->path);
    free(ram);
}

static const struct gw_target_ops target_ops = {
    .locate = target_locate,
    .write = target_write,
    .zero = target_zero,
    .sync = target_sync,
    .view = gw_target_no_view,
    .complete = target_sync,
    .finish = target_sync,
    .abort = target_abort,
    .close = target_close,
};

static int set_aside(struct ram_target *ram, uint64_t offset, uint64_t length)
{
    if (fallocate(ram->fd, 0, (off_t)offset, (off_t)length))
        return gw_fail_errno(-errno, "%s: this host cannot set aside %llu MiB of memory in %s",
                             ram->volume.name, (unsigned long long)(length >> 20), ram->path);
    return 0;
}

static int allocate_ram(struct ram_target *ram, const char *name)
{
    int error, flags = ram->is_foreign ? O_RDWR | O_CLOEXEC : O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;

    ram->fd = open(ram->path, flags, 0600);
    if (ram->fd < 0)
        return gw_fail_errno(-errno, "%s: cannot open %s", name, ram->path);
    /* Holes of the source are not sent: a file that was used before must read as zeroes. */
    if (ram->is_foreign &&
        fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)ram->volume.size))
        return gw_fail_errno(-errno, "%s: cannot clear %s", name, ram->path);
    if (ram->is_sparse && !ram->is_foreign && ftruncate(ram->fd, (off_t)ram->volume.size))
        return gw_fail_errno(-errno, "%s: cannot give %s its size", name, ram->path);
    if (!ram->is_sparse && (error = set_aside(ram, 0, ram->volume.size)))
        return error;
    ram->volume.memory =
        mmap(NULL, ram->volume.size, PROT_READ | PROT_WRITE, MAP_SHARED, ram->fd, 0);
    if (ram->volume.memory == MAP_FAILED) {
        ram->volume.memory = NULL;
        return gw_fail_errno(-errno, "%s: cannot map %s", name, ram->path);
    }
    return 0;
}

int gw_ram_target_make(const char *name, const char *path, uint64_t size, unsigned flags,
                       struct gw_target_volume **out)
{
    struct ram_target *ram = calloc(1, sizeof(*ram));
    int error;

    if (!ram || !(ram->path = strdup(path))) {
        free(ram);
        return gw_fail(-ENOMEM, "no memory for a volume");
    }
    ram->fd = -1;
    ram->is_foreign = flags & GW_RAM_FOREIGN;
    ram->is_sparse = flags & GW_RAM_SPARSE;
    ram->volume.ops = &target_ops;
    ram->volume.kind = GW_VOLUME_RAM;
    ram->volume.size = size;
    snprintf(ram->volume.name, sizeof(ram->volume.name), "%s", name);
    error = allocate_ram(ram, name);
    if (error) {
        if (ram->fd >= 0)
            target_abort(&ram->volume);
        target_close(&ram->volume);
        return error;
    }
    *out = &ram->volume;
    return 0;
}

static int check_range(const struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    if (!gw_range_fits(offset, length, volume->size))
        return gw_fail(-EINVAL, "%s: %llu bytes at %llu are not within it", volume->name,
                       (unsigned long long)length, (unsigned long long)offset);
    return 0;
}

uint64_t gw_ram_target_skip_hole(const struct gw_target_volume *volume, uint64_t offset)
{
    const struct ram_target *ram = gw_container_of(volume, struct ram_target, volume);
    off_t data = lseek(ram->fd, (off_t)offset, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? volume->size : offset;
    return gw_min((uint64_t)data, volume->size);
}

int gw_ram_target_set_aside(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    int error = check_range(volume, offset, length);

    return error ? error : set_aside(target_of(volume), offset, length);
}

int gw_ram_target_populate(struct gw_target_volume *volume, uint64_t offset, uint64_t length)
{
    uint64_t page = gw_align_down(offset, SMALL_PAGE);
    int error = check_range(volume, offset, length);

    if (error)
        return error;
    if (madvise((char *)volume->memory + page, offset + length - page, MADV_POPULATE_WRITE) == 0 ||
        errno == EINVAL)
        return 0;
    return gw_fail_errno(-errno, "%s: its memory cannot be had", volume->name);
}
