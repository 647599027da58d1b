/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block allocation table and the sector bitmaps of blocks, read as needed into bounded caches.
 * Each entry is checked when it is used: its block lies within the file and in no table.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/image/vhd/vhd.h"

#define PAGE_ENTRIES (GW_VHD_PAGE / VHD_BAT_ENTRY_SIZE)

uint64_t gw_vhd_block_bytes(const struct gw_vhd *vhd, uint64_t block)
{
    uint64_t block_size = vhd->base.info.block_size;

    return gw_min(block_size, vhd->footer.current_size - block * block_size);
}

uint64_t gw_vhd_entry_place(const struct gw_vhd *vhd, uint64_t block)
{
    return vhd->table_offset + block * VHD_BAT_ENTRY_SIZE;
}

/* A slot has room for any that may come after the first: the last page of a table is a short one. */
static int make_room(const struct gw_vhd *vhd, struct gw_vhd_slot *slot, size_t size)
{
    if (!slot->bytes)
        slot->bytes = malloc(size);
    return slot->bytes ? 0 : gw_fail(-ENOMEM, "no memory to read %s", vhd->base.file.path);
}

/* Fills the slot with length bytes at offset, unless it has that number. Lock held. */
static int load(struct gw_vhd *vhd, struct gw_vhd_slot *slot, uint64_t number, uint64_t offset,
                size_t length)
{
    int rc;

    if (slot->is_loaded && slot->number == number)
        return 0;
    slot->is_loaded = false;
    rc = gw_image_file_read(&vhd->base.file, offset, slot->bytes, length);
    slot->number = number;
    slot->is_loaded = rc == 0;
    return rc;
}

static int get_entry(struct gw_vhd *vhd, uint64_t block, uint32_t *entry)
{
    uint64_t page = block / PAGE_ENTRIES;
    struct gw_vhd_slot *slot = &vhd->pages[page % GW_VHD_PAGES_MAX];
    uint64_t within = page * GW_VHD_PAGE;
    size_t length = (size_t)gw_min(GW_VHD_PAGE, vhd->block_count * VHD_BAT_ENTRY_SIZE - within);
    int rc = make_room(vhd, slot, GW_VHD_PAGE);

    if (rc == 0)
        rc = load(vhd, slot, page, vhd->table_offset + within, length);
    if (rc == 0)
        *entry = gw_get_be32(slot->bytes + block % PAGE_ENTRIES * VHD_BAT_ENTRY_SIZE);
    return rc;
}

static bool overlaps(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
    return a < b + b_length && b < a + a_length;
}

static int check_place(const struct gw_vhd *vhd, uint64_t block, uint64_t offset)
{
    const char *path = vhd->base.file.path;
    uint64_t length = vhd->bitmap_size + gw_vhd_block_bytes(vhd, block);

    if (!gw_range_fits(offset, length, vhd->footer_offset))
        return gw_fail(-EUCLEAN,
                       "%s is truncated: block %llu of the disk lies at byte %llu, the file has "
                       "%llu; copy it anew from where it came from",
                       path, (unsigned long long)block, (unsigned long long)offset,
                       (unsigned long long)vhd->base.file.size);
    if (offset < VHD_FOOTER_SIZE ||
        overlaps(offset, length, vhd->footer.header_offset, VHD_HEADER_SIZE) ||
        overlaps(offset, length, vhd->table_offset, vhd->block_count * VHD_BAT_ENTRY_SIZE))
        return gw_fail(-EUCLEAN,
                       "%s: block %llu of the disk lies in one of the file's tables: restore the "
                       "image from a backup",
                       path, (unsigned long long)block);
    return 0;
}

/* Lock held. */
static int find(struct gw_vhd *vhd, uint64_t block, uint64_t *offset)
{
    uint32_t entry;
    int rc = get_entry(vhd, block, &entry);

    if (rc)
        return rc;
    *offset = entry == VHD_BAT_UNUSED ? 0 : (uint64_t)entry * VHD_SECTOR;
    return entry == VHD_BAT_UNUSED ? 0 : check_place(vhd, block, *offset);
}

int gw_vhd_block_find(struct gw_vhd *vhd, uint64_t block, uint64_t *data_offset)
{
    int rc;

    pthread_mutex_lock(&vhd->lock);
    rc = find(vhd, block, data_offset);
    pthread_mutex_unlock(&vhd->lock);
    if (rc == 0 && *data_offset)
        *data_offset += vhd->bitmap_size;
    return rc;
}

static bool bit_at(const uint8_t *bitmap, uint64_t sector)
{
    return bitmap[sector / 8] >> (7 - sector % 8) & 1;
}

/* How many sectors from first on, at most count, have the first one's bit. */
static uint64_t run_of_bits(const uint8_t *bitmap, uint64_t first, uint64_t count)
{
    bool value = bit_at(bitmap, first);
    uint8_t whole = value ? 0xff : 0;
    uint64_t at = first, end = first + count;

    while (at < end) {
        if (at % 8 == 0 && end - at >= 8 && bitmap[at / 8] == whole)
            at += 8;
        else if (bit_at(bitmap, at) == value)
            at++;
        else
            break;
    }
    return at - first;
}

int gw_vhd_block_run(struct gw_vhd *vhd, uint64_t block, uint64_t within, uint64_t length,
                     bool *is_here, uint64_t *run)
{
    struct gw_vhd_slot *slot = &vhd->bitmaps[block % GW_VHD_BITMAPS];
    uint64_t first = within / VHD_SECTOR, offset;
    uint64_t count = (within % VHD_SECTOR + length + VHD_SECTOR - 1) / VHD_SECTOR;
    int rc;

    pthread_mutex_lock(&vhd->lock);
    rc = find(vhd, block, &offset);
    if (rc == 0)
        rc = make_room(vhd, slot, vhd->bitmap_size);
    if (rc == 0)
        rc = load(vhd, slot, block, offset, vhd->bitmap_size);
    if (rc == 0) {
        *is_here = bit_at(slot->bytes, first);
        *run = gw_min(run_of_bits(slot->bytes, first, count) * VHD_SECTOR - within % VHD_SECTOR,
                      length);
    }
    pthread_mutex_unlock(&vhd->lock);
    return rc;
}
