/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block allocation table: MS-VHDX 2.5. Pages of it are read when they are needed and kept in a
 * bounded cache, each page in the one slot that its number gives it; new images write their pages
 * back when they leave it. Every entry is checked as its page is read, the first time that its
 * block is seen: its offset lies within the file, in no table, and in no other block.
 *
 * Beside a running QEMU, a page may be read while it is written. QEMU 7.2 (block/vhdx.c,
 * vhdx-log.c) completes a guest's write into a new block only after: data written, flushed, entry
 * in the log, flushed, entry in the BAT, flushed. So the BAT in the file has the entries of all
 * completed writes, with one exception: a second write into the block, which arrives while the
 * first one is at work, finds QEMU's own table changed already and completes before the file's
 * table has the entry. That is what "appeared" is for: a block that got its place after its page
 * was first read is reported whole, once, whatever QEMU's dirty bitmap said before. The log needs
 * no replay here: an entry that is only in the log belongs to a write that has not completed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhdx/vhdx.h"

#define PAGE_ENTRIES (GW_VHDX_BAT_PAGE / VHDX_BAT_ENTRY_SIZE)

/* How often a page that does not hold still is read again before it is called damaged. */
#define REREADS   200
#define REREAD_NS 1000000

/* Up to here the whole table is checked at opening: 2^17 entries, 4 TiB of 32 MiB blocks. */
#define CHECK_AT_OPEN_MAX (1ull << 20)

uint64_t gw_vhdx_block_bytes(const struct gw_vhdx *vhdx, uint64_t block)
{
    uint64_t block_size = vhdx->base.info.block_size;

    return gw_min(block_size, vhdx->base.info.virtual_size - block * block_size);
}

static uint64_t entry_index(const struct gw_vhdx *vhdx, uint64_t block)
{
    return block + block / vhdx->chunk_ratio;
}

/* The block whose entry has this index; false for a sector bitmap's entry, with the block behind
 * it. */
static bool block_of_index(const struct gw_vhdx *vhdx, uint64_t index, uint64_t *block)
{
    uint64_t chunk = index / (vhdx->chunk_ratio + 1);
    uint64_t within = index % (vhdx->chunk_ratio + 1);

    *block = chunk * vhdx->chunk_ratio + within;
    return within != vhdx->chunk_ratio;
}

int gw_vhdx_bat_init(struct gw_vhdx *vhdx, uint64_t file_mib)
{
    struct gw_vhdx_bat *bat = &vhdx->bat;
    int rc;

    bat->entry_count = gw_vhdx_geometry(vhdx);
    bat->page_count = (bat->entry_count + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
    if (bat->entry_count > vhdx->bat_region.length / VHDX_BAT_ENTRY_SIZE)
        return gw_fail(
            -EUCLEAN,
            "%s: the block allocation table has room for %llu entries, the disk needs %llu",
            vhdx->base.file.path,
            (unsigned long long)(vhdx->bat_region.length / VHDX_BAT_ENTRY_SIZE),
            (unsigned long long)bat->entry_count);
    bat->slot_count = (uint32_t)gw_min(bat->page_count, GW_VHDX_BAT_CACHE_MAX);
    bat->slots = calloc(bat->slot_count, sizeof(*bat->slots));
    if (!bat->slots || pthread_mutex_init(&bat->lock, NULL))
        return gw_fail(-ENOMEM, "no memory to open %s", vhdx->base.file.path);
    bat->has_lock = true;
    vhdx->base.info.memory_max = (uint64_t)bat->slot_count * GW_VHDX_BAT_PAGE +
                                 vhdx->block_count / 4 + file_mib / 8 +
                                 vhdx->overlay.data_count * VHDX_LOG_SECTOR + (4u << 20);
    rc = gw_bitmap_init(&bat->seen, bat->page_count);
    if (rc == 0)
        rc = gw_bitmap_init(&bat->present, vhdx->block_count);
    if (rc == 0)
        rc = gw_bitmap_init(&bat->appeared, vhdx->block_count);
    if (rc == 0)
        rc = gw_bitmap_init(&bat->used, gw_min(file_mib, GW_VHDX_FILE_MIB_MAX));
    return rc;
}

void gw_vhdx_bat_free(struct gw_vhdx_bat *bat)
{
    for (uint32_t i = 0; bat->slots && i < bat->slot_count; i++)
        free(bat->slots[i].bytes);
    free(bat->slots);
    gw_vhdx_bitmap_free(bat);
    gw_bitmap_free(&bat->seen);
    gw_bitmap_free(&bat->present);
    gw_bitmap_free(&bat->appeared);
    gw_bitmap_free(&bat->used);
    if (bat->has_lock)
        pthread_mutex_destroy(&bat->lock);
    *bat = (struct gw_vhdx_bat){0};
}

static uint64_t page_offset(const struct gw_vhdx *vhdx, uint64_t page)
{
    return vhdx->bat_region.offset + page * GW_VHDX_BAT_PAGE;
}

static int bad_block(const struct gw_vhdx *vhdx, uint64_t block, const char *why)
{
    return gw_fail(-EUCLEAN, "%s: block %llu of the disk %s: restore the image from a backup",
                   vhdx->base.file.path, (unsigned long long)block, why);
}

/* A block of the disk, or the sector bitmap of the chunk that ends before it. */
static int check_place(const struct gw_vhdx *vhdx, uint64_t block,
                       const struct gw_vhdx_range *place, uint64_t file_size)
{
    uint64_t offset = place->offset, length = place->length;
    uint64_t first_mib = offset / VHDX_ALIGNMENT;
    uint64_t mib_count = (length + VHDX_ALIGNMENT - 1) / VHDX_ALIGNMENT;

    if (offset < VHDX_ALIGNMENT)
        return bad_block(vhdx, block, "lies in the file's header");
    if (!gw_range_fits(offset, length, file_size))
        return gw_fail(
            -EUCLEAN,
            "%s is truncated: block %llu of the disk lies at byte %llu, the file ends at "
            "%llu; copy it anew from where it came from",
            vhdx->base.file.path, (unsigned long long)block, (unsigned long long)offset,
            (unsigned long long)file_size);
    if (gw_vhdx_is_in_table(vhdx, offset, length))
        return bad_block(vhdx, block, "lies in one of the file's tables");
    if (!gw_range_fits(first_mib, mib_count, vhdx->bat.used.bit_count))
        return gw_fail(-ENOTSUP, "%s: the file is larger than 128 TiB", vhdx->base.file.path);
    for (uint64_t i = 0; i < mib_count; i++)
        if (gw_bitmap_test(&vhdx->bat.used, first_mib + i))
            return bad_block(vhdx, block, "overlaps another block");
    return 0;
}

/* A block that has a place and was not known to: checked, and its place taken. */
static int admit_block(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry, uint64_t file_size,
                       bool was_seen)
{
    struct gw_vhdx_bat *bat = &vhdx->bat;
    struct gw_vhdx_range place = {gw_vhdx_entry_offset(entry), gw_vhdx_block_bytes(vhdx, block)};
    uint64_t mib_count = (place.length + VHDX_ALIGNMENT - 1) / VHDX_ALIGNMENT;
    int rc = check_place(vhdx, block, &place, file_size);

    if (rc)
        return rc;
    /* Its bytes are read from the file itself. */
    if (gw_vhdx_overlay_touches(vhdx, place.offset, place.length))
        return gw_fail(-ENOTSUP,
                       "%s: the log changes block %llu of the disk, outside of the "
                       "tables; " GW_VHDX_LOG_WAY_OUT,
                       vhdx->base.file.path, (unsigned long long)block);
    gw_bitmap_set_range(&bat->used, place.offset / VHDX_ALIGNMENT, mib_count);
    gw_bitmap_set_range(&bat->present, block, 1);
    if (was_seen)
        gw_bitmap_set_range(&bat->appeared, block, 1);
    return 0;
}

/* The entry of a sector bitmap; block is the first one behind its chunk. Where there is no parent
 * these entries mean nothing. */
static int check_bitmap_entry(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry,
                              uint64_t file_size)
{
    struct gw_vhdx_range place = {gw_vhdx_entry_offset(entry), VHDX_BITMAP_SIZE};
    uint64_t state = entry & VHDX_BAT_STATE_MASK;
    int rc;

    if (!vhdx->base.info.is_differencing || state == 0)
        return 0;
    if (state != VHDX_BITMAP_STATE_PRESENT || entry & VHDX_BAT_RESERVED_MASK)
        return gw_fail(-EUCLEAN,
                       "%s: the sector bitmap before block %llu is in a state that does not exist",
                       vhdx->base.file.path, (unsigned long long)block);
    rc = check_place(vhdx, block, &place, file_size);
    if (rc == 0)
        gw_bitmap_set_range(&vhdx->bat.used, place.offset / VHDX_ALIGNMENT, 1);
    return rc;
}

static int check_entry(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry, uint64_t file_size,
                       bool was_seen)
{
    enum vhdx_block_state state = (enum vhdx_block_state)(entry & VHDX_BAT_STATE_MASK);

    switch (state) {
    case VHDX_BLOCK_NOT_PRESENT:
    case VHDX_BLOCK_UNDEFINED:
    case VHDX_BLOCK_ZERO:
    case VHDX_BLOCK_UNMAPPED:
    case VHDX_BLOCK_UNMAPPED_V095:
        return 0;
    case VHDX_BLOCK_PARTIALLY_PRESENT:
        if (!vhdx->base.info.is_differencing)
            return bad_block(vhdx, block, "is said to be partly in a parent, and there is none");
        /* fall through */
    case VHDX_BLOCK_FULLY_PRESENT:
        if (entry & VHDX_BAT_RESERVED_MASK)
            return bad_block(vhdx, block, "has reserved bits set in its entry");
        if (gw_bitmap_test(&vhdx->bat.present, block))
            return 0;
        return admit_block(vhdx, block, entry, file_size, was_seen);
    }
    return bad_block(vhdx, block, "is in a state that does not exist");
}

/* Who gathers faults wants what else the page has: the wrong entry of a block is met again when it is asked for. */
static int pass_over(struct gw_vhdx *vhdx, uint64_t place, bool is_block)
{
    if (!is_block)
        gw_faults_add(vhdx->base.file.faults, place, false, gw_error_message());
    return 0;
}

/* The first fault ends it, unless it is lenient. */
static int check_page(struct gw_vhdx *vhdx, uint64_t page, const uint8_t *bytes, bool is_lenient)
{
    bool was_seen = vhdx->base.is_in_use && gw_bitmap_test(&vhdx->bat.seen, page);
    uint64_t first = page * PAGE_ENTRIES;
    uint64_t count = gw_min(PAGE_ENTRIES, vhdx->bat.entry_count - first);
    uint64_t file_size = vhdx->file_size;
    int rc = 0;

    /* QEMU makes the file longer before it names the new block. */
    if (vhdx->base.is_in_use)
        rc = gw_image_file_size(&vhdx->base.file, &file_size);
    for (uint64_t i = 0; i < count && rc == 0; i++) {
        uint64_t entry = gw_get_le64(bytes + i * VHDX_BAT_ENTRY_SIZE);
        uint64_t block;
        bool is_block;

        if (entry == 0)
            continue;
        is_block = block_of_index(vhdx, first + i, &block);
        if (!is_block)
            rc = check_bitmap_entry(vhdx, block, entry, file_size);
        /* The last chunk of a differencing disk has entries for blocks behind the disk's end. */
        else if (block < vhdx->block_count)
            rc = check_entry(vhdx, block, entry, file_size, was_seen);
        if (rc && is_lenient)
            rc = pass_over(vhdx, page_offset(vhdx, page) + i * VHDX_BAT_ENTRY_SIZE, is_block);
    }
    if (rc == 0)
        gw_bitmap_set_range(&vhdx->bat.seen, page, 1);
    return rc;
}

/* Reads a page that somebody may be writing: until two readings agree and their entries make sense.
 */
static int read_moving_page(struct gw_vhdx *vhdx, uint64_t page, uint8_t *bytes)
{
    const struct timespec pause = {.tv_nsec = REREAD_NS};
    uint8_t *again = malloc(GW_VHDX_BAT_PAGE);
    int rc = -EAGAIN;

    if (!again)
        return gw_fail(-ENOMEM, "no memory to read %s", vhdx->base.file.path);
    for (int i = 0; i < REREADS && rc; i++) {
        if (i > 0)
            nanosleep(&pause, NULL);
        rc = gw_vhdx_read(vhdx, page_offset(vhdx, page), bytes, GW_VHDX_BAT_PAGE);
        if (rc == 0)
            rc = gw_vhdx_read(vhdx, page_offset(vhdx, page), again, GW_VHDX_BAT_PAGE);
        if (rc)
            break;
        if (memcmp(bytes, again, GW_VHDX_BAT_PAGE) != 0)
            rc = gw_fail(-EBUSY, "%s: the block allocation table does not hold still",
                         vhdx->base.file.path);
        else
            rc = check_page(vhdx, page, bytes, false);
    }
    if ((rc == -EBUSY || rc == -EUCLEAN) && vhdx->base.file.faults)
        rc = check_page(vhdx, page, bytes, true);
    free(again);
    return rc;
}

static int read_page(struct gw_vhdx *vhdx, uint64_t page, uint8_t *bytes)
{
    int rc;

    if (vhdx->base.is_in_use)
        return read_moving_page(vhdx, page, bytes);
    rc = gw_vhdx_read(vhdx, page_offset(vhdx, page), bytes, GW_VHDX_BAT_PAGE);
    /* What this image itself made and pushed out of the cache needs no check. */
    if (rc == 0 && !vhdx->base.is_made && !gw_bitmap_test(&vhdx->bat.seen, page))
        rc = check_page(vhdx, page, bytes, vhdx->base.file.faults != NULL);
    return rc;
}

static int write_slot(struct gw_vhdx *vhdx, struct gw_vhdx_bat_slot *slot)
{
    int rc;

    if (!slot->is_loaded || !slot->is_dirty)
        return 0;
    rc = gw_image_file_write(&vhdx->base.file, page_offset(vhdx, slot->page), slot->bytes,
                             GW_VHDX_BAT_PAGE);
    if (rc == 0)
        slot->is_dirty = false;
    return rc;
}

static int load_page(struct gw_vhdx *vhdx, uint64_t page, struct gw_vhdx_bat_slot **out)
{
    struct gw_vhdx_bat_slot *slot = &vhdx->bat.slots[page % vhdx->bat.slot_count];
    int rc;

    if (slot->is_loaded && slot->page == page) {
        *out = slot;
        return 0;
    }
    rc = write_slot(vhdx, slot);
    if (rc)
        return rc;
    slot->is_loaded = false;
    if (!slot->bytes)
        slot->bytes = malloc(GW_VHDX_BAT_PAGE);
    if (!slot->bytes)
        return gw_fail(-ENOMEM, "no memory to read %s", vhdx->base.file.path);
    rc = read_page(vhdx, page, slot->bytes);
    if (rc)
        return rc;
    slot->page = page;
    slot->is_loaded = true;
    *out = slot;
    return 0;
}

/* Is the page within a hole of the file? Thin tables of large disks are mostly holes, and asking for
 * one costs a seek where reading it costs its size. */
static bool is_in_hole(struct gw_vhdx *vhdx, uint64_t page)
{
    struct gw_vhdx_range *hole = &vhdx->bat.hole;
    uint64_t begin = page_offset(vhdx, page);
    uint64_t end = vhdx->bat_region.offset + vhdx->bat_region.length, run_end;

    if (vhdx->base.is_in_use || vhdx->base.is_made)
        return false;
    if (page >= hole->offset && page < hole->offset + hole->length)
        return true;
    if (gw_bitmap_test(&vhdx->bat.seen, page) || vhdx->overlay.count > 0 ||
        gw_image_file_is_data(&vhdx->base.file, begin, end, &run_end) ||
        run_end - begin < GW_VHDX_BAT_PAGE)
        return false;
    *hole = (struct gw_vhdx_range){page, (run_end - begin) / GW_VHDX_BAT_PAGE};
    return true;
}

/* A page of a new image in which no entry was ever set, or of an old one that has no bytes. */
static bool is_untouched(struct gw_vhdx *vhdx, uint64_t page)
{
    return (vhdx->base.is_made && !gw_bitmap_test(&vhdx->bat.seen, page)) || is_in_hole(vhdx, page);
}

static int get_at(struct gw_vhdx *vhdx, uint64_t index, uint64_t *entry)
{
    struct gw_vhdx_bat_slot *slot = NULL;
    int rc;

    if (is_untouched(vhdx, index / PAGE_ENTRIES)) {
        *entry = 0;
        return 0;
    }
    rc = load_page(vhdx, index / PAGE_ENTRIES, &slot);
    if (rc == 0)
        *entry = gw_get_le64(slot->bytes + index % PAGE_ENTRIES * VHDX_BAT_ENTRY_SIZE);
    return rc;
}

uint64_t gw_vhdx_entry(const struct gw_image *image, uint64_t offset, uint64_t *end)
{
    const struct gw_vhdx *vhdx = gw_vhdx_of((struct gw_image *)image);
    uint64_t block = offset / image->info.block_size;

    *end = block * image->info.block_size + gw_vhdx_block_bytes(vhdx, block);
    return vhdx->bat_region.offset + entry_index(vhdx, block) * VHDX_BAT_ENTRY_SIZE;
}

int gw_vhdx_bat_get(struct gw_vhdx *vhdx, uint64_t block, uint64_t *entry)
{
    int rc = get_at(vhdx, entry_index(vhdx, block), entry);

    if (rc == 0 && vhdx->base.file.faults)
        rc = check_entry(vhdx, block, *entry, vhdx->file_size, false);
    return rc;
}

int gw_vhdx_bat_get_bitmap(struct gw_vhdx *vhdx, uint64_t block, uint64_t *entry)
{
    return get_at(vhdx, (block / vhdx->chunk_ratio + 1) * (vhdx->chunk_ratio + 1) - 1, entry);
}

int gw_vhdx_bat_set(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry)
{
    uint64_t index = entry_index(vhdx, block);
    struct gw_vhdx_bat_slot *slot = NULL;
    int rc = load_page(vhdx, index / PAGE_ENTRIES, &slot);

    if (rc)
        return rc;
    gw_put_le64(slot->bytes + index % PAGE_ENTRIES * VHDX_BAT_ENTRY_SIZE, entry);
    slot->is_dirty = true;
    gw_bitmap_set_range(&vhdx->bat.seen, index / PAGE_ENTRIES, 1);
    return 0;
}

/* The first block whose entry lies in page or behind it. */
static uint64_t first_block(const struct gw_vhdx *vhdx, uint64_t page)
{
    uint64_t block;

    if (page >= vhdx->bat.page_count)
        return vhdx->block_count;
    /* The first entry of a page may be a sector bitmap's; then the block after it is the next. */
    block_of_index(vhdx, page * PAGE_ENTRIES, &block);
    return gw_min(block, vhdx->block_count);
}

uint64_t gw_vhdx_bat_skip(struct gw_vhdx *vhdx, uint64_t block)
{
    uint64_t page = entry_index(vhdx, block) / PAGE_ENTRIES, first = page;

    pthread_mutex_lock(&vhdx->bat.lock);
    while (page < vhdx->bat.page_count && is_untouched(vhdx, page))
        page++;
    pthread_mutex_unlock(&vhdx->bat.lock);
    return page == first ? block : first_block(vhdx, page);
}

uint64_t gw_vhdx_bat_skip_hole(const struct gw_vhdx *vhdx, uint64_t block)
{
    const struct gw_vhdx_range *hole = &vhdx->bat.hole;
    uint64_t page = entry_index(vhdx, block) / PAGE_ENTRIES;

    if (page < hole->offset || page >= hole->offset + hole->length)
        return block;
    return first_block(vhdx, hole->offset + hole->length);
}

int gw_vhdx_bat_lookup(struct gw_vhdx *vhdx, uint64_t block, uint64_t *entry)
{
    int rc;

    pthread_mutex_lock(&vhdx->bat.lock);
    rc = gw_vhdx_bat_get(vhdx, block, entry);
    pthread_mutex_unlock(&vhdx->bat.lock);
    return rc;
}

static int refresh_page(struct gw_vhdx *vhdx, uint64_t page, uint8_t *spare)
{
    struct gw_vhdx_bat_slot *slot = &vhdx->bat.slots[page % vhdx->bat.slot_count];
    bool is_cached = slot->is_loaded && slot->page == page;
    int rc = read_page(vhdx, page, spare);

    if (rc == 0 && is_cached)
        memcpy(slot->bytes, spare, GW_VHDX_BAT_PAGE);
    return rc;
}

int gw_vhdx_bat_refresh(struct gw_vhdx *vhdx)
{
    uint8_t *spare = malloc(GW_VHDX_BAT_PAGE);
    uint64_t page = 0, count;
    int rc = 0;

    if (!spare)
        return gw_fail(-ENOMEM, "no memory to read %s", vhdx->base.file.path);
    pthread_mutex_lock(&vhdx->bat.lock);
    /* Pages that nobody has asked for yet are read when somebody does. */
    while (rc == 0 && page < vhdx->bat.page_count &&
           gw_bitmap_next_run(&vhdx->bat.seen, page, &page, &count))
        for (; count > 0 && rc == 0; page++, count--)
            rc = refresh_page(vhdx, page, spare);
    pthread_mutex_unlock(&vhdx->bat.lock);
    free(spare);
    return rc;
}

int gw_vhdx_bat_flush(struct gw_vhdx *vhdx)
{
    int rc = 0;

    pthread_mutex_lock(&vhdx->bat.lock);
    for (uint32_t i = 0; i < vhdx->bat.slot_count && rc == 0; i++)
        rc = write_slot(vhdx, &vhdx->bat.slots[i]);
    pthread_mutex_unlock(&vhdx->bat.lock);
    return rc;
}

/* The checked page's blocks, in their order. */
static int tell_blocks(struct gw_vhdx *vhdx, uint64_t page, const uint8_t *bytes,
                       int (*each)(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry))
{
    uint64_t first = page * PAGE_ENTRIES;
    uint64_t count = gw_min(PAGE_ENTRIES, vhdx->bat.entry_count - first);
    int rc = 0;

    for (uint64_t i = 0; i < count && rc == 0; i++) {
        uint64_t entry = gw_get_le64(bytes + i * VHDX_BAT_ENTRY_SIZE), block;

        if (block_of_index(vhdx, first + i, &block) && block < vhdx->block_count &&
            gw_vhdx_is_present(entry))
            rc = each(vhdx, block, entry);
    }
    return rc;
}

int gw_vhdx_bat_take_up(struct gw_vhdx *vhdx,
                        int (*each)(struct gw_vhdx *vhdx, uint64_t block, uint64_t entry))
{
    uint64_t end = page_offset(vhdx, vhdx->bat.page_count), page = 0, run_end;
    int rc = 0;

    pthread_mutex_lock(&vhdx->bat.lock);
    while (rc == 0 && page < vhdx->bat.page_count) {
        struct gw_vhdx_bat_slot *slot = NULL;

        if (!gw_image_file_is_data(&vhdx->base.file, page_offset(vhdx, page), end, &run_end) &&
            run_end >= page_offset(vhdx, page + 1)) {
            page = (run_end - vhdx->bat_region.offset) / GW_VHDX_BAT_PAGE;
            continue;
        }
        rc = load_page(vhdx, page, &slot);
        if (rc == 0)
            rc = check_page(vhdx, page, slot->bytes, false);
        if (rc == 0)
            rc = tell_blocks(vhdx, page, slot->bytes, each);
        page++;
    }
    pthread_mutex_unlock(&vhdx->bat.lock);
    return rc;
}

int gw_vhdx_bat_check_small(struct gw_vhdx *vhdx)
{
    int rc = 0;

    if (vhdx->bat.page_count * GW_VHDX_BAT_PAGE > CHECK_AT_OPEN_MAX)
        return 0;
    pthread_mutex_lock(&vhdx->bat.lock);
    for (uint64_t page = 0; page < vhdx->bat.page_count && rc == 0; page++) {
        struct gw_vhdx_bat_slot *slot = NULL;

        rc = load_page(vhdx, page, &slot);
    }
    pthread_mutex_unlock(&vhdx->bat.lock);
    return rc;
}
