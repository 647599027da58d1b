/* SPDX-License-Identifier: Apache-2.0 */
/* A VHDX file with records of a fuzzer laid over it, and the walk through its extents. */
#include "tests/fuzz/sparse-vhdx.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "engine/image/vhdx/vhdx.h"

#define MIB       ((size_t)1 << 20)
#define PAGE      4096u
#define STEPS_MAX 1024

/* What records change: offset in the file, size, and how much its checksum covers. Metadata,
 * table and log lie where godwit's own new images have them, and those of the tests. */
static const struct part {
    size_t offset, size, sealed;
} parts[] = {
    {64 << 10, 128, 4096},
    {128 << 10, 128, 4096},
    {192 << 10, 4096, 64 << 10},
    {256 << 10, 4096, 64 << 10},
    {2 * MIB, 4096, 0},
    {2 * MIB + (64 << 10), 1024, 0},
    {3 * MIB, 1024, 0},
    {3 * MIB + (32 << 10), 64, 0}, /* the first bitmap's entry */
    {MIB, 65535, 0},
    {0, 64, 0},
    {4 * MIB, 65535, 0},
};

void sparse_vhdx_open(struct sparse_vhdx *sparse, int fd)
{
    memset(sparse, 0, sizeof(*sparse));
    sparse->fd = fd;
    if (fd < 0 || ftruncate(fd, SPARSE_SIZE))
        abort();
    sparse->file = mmap(NULL, SPARSE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    sparse->sound = malloc(SPARSE_SIZE);
    /* By pread: a look at a hole through the mapping would fill it. */
    if (sparse->file == MAP_FAILED || !sparse->sound ||
        pread(fd, sparse->sound, SPARSE_SIZE, 0) != SPARSE_SIZE)
        abort();
}

static void note_change(struct sparse_vhdx *sparse, size_t offset, size_t length)
{
    for (size_t page = offset / PAGE; length && page <= (offset + length - 1) / PAGE; page++)
        sparse->changed[page / 64] |= 1ull << page % 64;
}

bool sparse_vhdx_change(struct sparse_vhdx *sparse, const uint8_t **data, size_t *size)
{
    const struct part *part;
    size_t offset, count;

    if (*size < 4)
        return false;
    part = &parts[(*data)[0] % GW_ARRAY_LENGTH(parts)];
    offset = gw_get_le16(*data + 1) % part->size;
    count = gw_min(gw_min((*data)[3], *size - 4), part->size - offset);
    memcpy(sparse->file + part->offset + offset, *data + 4, count);
    note_change(sparse, part->offset + offset, count);
    *data += 4 + count;
    *size -= 4 + count;
    return true;
}

static void seal(struct sparse_vhdx *sparse, size_t offset, size_t length)
{
    gw_put_le32(sparse->file + offset + 4, gw_vhdx_checksum(sparse->file + offset, length, 4));
    note_change(sparse, offset, 8);
}

void sparse_vhdx_seal(struct sparse_vhdx *sparse)
{
    /* The entries of the log's first part, which is all that records reach. */
    for (size_t at = MIB; at < MIB + (64 << 10); at += PAGE) {
        uint32_t length = gw_get_le32(sparse->file + at + VHDX_LOG_LENGTH);

        if (memcmp(sparse->file + at, VHDX_LOG_SIGNATURE, 4) == 0 && length >= VHDX_LOG_SECTOR &&
            length <= 2 * MIB - at)
            seal(sparse, at, length);
    }
    for (size_t i = 0; i < GW_ARRAY_LENGTH(parts); i++)
        if (parts[i].sealed)
            seal(sparse, parts[i].offset, parts[i].sealed);
}

void sparse_vhdx_mend(struct sparse_vhdx *sparse)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(sparse->changed); i++)
        for (; sparse->changed[i]; sparse->changed[i] &= sparse->changed[i] - 1) {
            size_t at = (i * 64 + (size_t)__builtin_ctzll(sparse->changed[i])) * PAGE;

            memcpy(sparse->file + at, sparse->sound + at, PAGE);
        }
}

void sparse_vhdx_walk(struct gw_image *image)
{
    const struct gw_image_info *info = gw_image_info(image);
    struct gw_extent extent = {0};
    uint8_t sector[512];
    int steps = 0;

    for (uint64_t at = 0; at < info->virtual_size && steps < STEPS_MAX; at += extent.length) {
        struct gw_location place;

        steps++;
        if (gw_image_extent(image, at, info->virtual_size, &extent))
            return;
        assert(extent.offset == at && extent.length > 0 &&
               extent.length <= info->virtual_size - at);
        if (info->is_sectored) {
            if (gw_image_read(image, at, sector, gw_min(extent.length, sizeof(sector))))
                return;
            continue;
        }
        if (gw_image_locate(image, at, gw_min(extent.length, MIB), &place))
            return;
        assert(place.length > 0 && place.length <= MIB);
        /* Nothing outside of the file, and nothing in its header, is ever data. */
        if (place.kind == GW_EXTENT_DATA)
            assert(place.file_offset >= MIB &&
                   gw_range_fits(place.file_offset, 1, info->file_size));
    }
}
