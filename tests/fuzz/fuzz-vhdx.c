/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: opens bytes as a VHDX and walks it. Input: 16-bit little-endian records make a
 * sparse file of a few MiB out of few bytes, laid over an image that is sound, so that the fuzzer
 * gets beyond the checksums, which are made right again: u8 where (which structure), u16 offset in
 * it, u8 count, count bytes. Built with clang and -Dfuzz=true; run by hand: fuzz-vhdx
 * -max_total_time=60 CORPUS.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "engine/image/image.h"
#include "engine/image/vhdx/vhdx.h"

#define MIB          ((size_t)1 << 20)
#define VIRTUAL_SIZE (64 * MIB)
#define FILE_SIZE    (16 * MIB)
#define STEPS_MAX    4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the records change: offset in the file, size, and where its checksum covers. */
static const struct part {
    size_t offset, size, sealed;
} parts[] = {
    {64 << 10, 128, 4096},       {128 << 10, 128, 4096}, {192 << 10, 4096, 64 << 10},
    {256 << 10, 4096, 64 << 10}, {2 * MIB, 4096, 0},     {2 * MIB + (64 << 10), 128, 0},
    {3 * MIB, 1024, 0},          {MIB, 65535, 0},        {0, 64, 0},
};

static void seal(uint8_t *file, size_t offset, size_t length)
{
    gw_put_le32(file + offset + 4, gw_vhdx_checksum(file + offset, length, 4));
}

/* The entries of the log's first part, which is all that records reach. */
static void seal_log(uint8_t *file)
{
    for (size_t at = MIB; at < MIB + (64 << 10); at += 4096) {
        uint32_t length = gw_get_le32(file + at + 8);

        if (memcmp(file + at, "loge", 4) == 0 && length >= 4096 && length <= 2 * MIB - at)
            seal(file, at, length);
    }
}

static void apply(uint8_t *file, const uint8_t *data, size_t size)
{
    while (size >= 4) {
        const struct part *part = &parts[data[0] % GW_ARRAY_LENGTH(parts)];
        size_t offset = gw_get_le16(data + 1) % part->size;
        size_t count = gw_min(gw_min(data[3], size - 4), part->size - offset);

        memcpy(file + part->offset + offset, data + 4, count);
        data += 4 + count;
        size -= 4 + count;
    }
    seal_log(file);
    for (size_t i = 0; i < GW_ARRAY_LENGTH(parts); i++)
        if (parts[i].sealed)
            seal(file, parts[i].offset, parts[i].sealed);
}

/* A sound image, made once by the code that is tested elsewhere. */
static void make_template(uint8_t *file)
{
    char path[] = "/tmp/godwit-fuzz-vhdx-XXXXXX";
    struct gw_image_create_options options = {
        .path = path, .format = GW_IMAGE_VHDX, .virtual_size = VIRTUAL_SIZE, .block_size = MIB};
    struct gw_image *image;
    struct gw_location place;
    int fd = mkstemp(path);
    FILE *from;

    close(fd);
    unlink(path);
    if (gw_image_create(&options, &image))
        abort();
    for (unsigned i = 0; i < 8; i++)
        if (gw_image_locate(image, i * 3 * MIB, 4096, &place))
            abort();
    if (gw_image_finish(image))
        abort();
    gw_image_close(image);
    from = fopen(path, "r");
    if (!from || fread(file, 1, FILE_SIZE, from) == 0)
        abort();
    fclose(from);
    unlink(path);
}

struct template
{
    uint8_t *bytes;
    size_t page_count, pages[FILE_SIZE / 4096]; /* those that are not all zero */
};

static struct template *template_new(void)
{
    struct template *template = calloc(1, sizeof(*template));
    uint8_t *zeroes = calloc(1, 4096);

    template->bytes = calloc(1, FILE_SIZE);
    make_template(template->bytes);
    for (size_t at = 0; at < FILE_SIZE; at += 4096)
        if (memcmp(template->bytes + at, zeroes, 4096) != 0)
            template->pages[template->page_count++] = at;
    free(zeroes);
    return template;
}

static void walk(struct gw_image *image)
{
    uint64_t size = gw_image_info(image)->virtual_size;
    struct gw_extent extent = {0};
    int steps = 0;

    for (uint64_t at = 0; at < size && steps < STEPS_MAX; at += extent.length, steps++) {
        struct gw_location place;

        if (gw_image_extent(image, at, &extent))
            return;
        assert(extent.offset == at && extent.length > 0 && extent.length <= size - at);
        if (gw_image_locate(image, at, gw_min(extent.length, MIB), &place))
            return;
        assert(place.length > 0 && place.length <= MIB);
        /* Nothing outside of the file, and nothing in its header, is ever data. */
        if (place.kind == GW_EXTENT_DATA)
            assert(place.file_offset >= MIB &&
                   gw_range_fits(place.file_offset, 1, gw_image_info(image)->file_size));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct template *template; /* the fuzzer has no other place to keep it */
    struct gw_image_open_options options = {.format = GW_IMAGE_VHDX};
    struct gw_image *image;
    uint8_t *file;
    char path[40];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    if (!template)
        template = template_new();
    if (fd < 0 || ftruncate(fd, FILE_SIZE))
        abort();
    file = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED)
        abort();
    for (size_t i = 0; i < template->page_count; i++)
        memcpy(file + template->pages[i], template->bytes + template->pages[i], 4096);
    apply(file, data, size);
    munmap(file, FILE_SIZE);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    options.path = path;
    if (gw_image_open(&options, &image) == 0) {
        walk(image);
        gw_image_close(image);
    }
    close(fd);
    return 0;
}
