/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: opens bytes as a VHD, alone, walks it and describes it. The checksums of the footers
 * and of the header are made right, so that the fuzzer gets beyond them.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "engine/image/inspect.h"
#include "engine/image/vhd/vhd.h"

#define STEPS_MAX 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(uint8_t *bytes, size_t size, size_t offset, size_t length, size_t checksum_at)
{
    if (offset < size && length <= size - offset)
        gw_put_be32(bytes + offset + checksum_at,
                    gw_vhd_checksum(bytes + offset, length, checksum_at));
}

static void walk(struct gw_image *image)
{
    uint64_t size = gw_image_info(image)->virtual_size;
    struct gw_extent extent = {0};
    int steps = 0;

    for (uint64_t at = 0; at < size && steps < STEPS_MAX; at += extent.length, steps++) {
        struct gw_location place;

        if (gw_image_extent(image, at, size, &extent))
            return;
        assert(extent.offset == at && extent.length > 0 && extent.length <= size - at);
        if (gw_image_locate(image, at, gw_min(extent.length, 1u << 20), &place))
            return;
        assert(place.length > 0 && place.length <= extent.length);
        if (place.kind == GW_EXTENT_DATA)
            assert(gw_range_fits(place.file_offset, place.length, gw_image_info(image)->file_size));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gw_image_open_options options = {.format = GW_IMAGE_VHD, .is_alone = true};
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    uint8_t *bytes = malloc(size + 1);
    struct gw_image *image;
    char path[40];

    if (fd < 0 || !bytes)
        abort();
    memcpy(bytes, data, size);
    seal(bytes, size, 0, VHD_FOOTER_SIZE, VHD_FOOTER_CHECKSUM);
    if (size >= 2 * VHD_FOOTER_SIZE) {
        uint64_t header = gw_get_be64(bytes + VHD_FOOTER_HEADER);

        seal(bytes, size, size - VHD_FOOTER_SIZE, VHD_FOOTER_SIZE, VHD_FOOTER_CHECKSUM);
        seal(bytes, size, (size_t)gw_min(header, size), VHD_HEADER_SIZE, VHD_HEADER_CHECKSUM);
    }
    if (size > 0 && write(fd, bytes, size) != (ssize_t)size)
        abort();
    free(bytes);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    options.path = path;
    if (gw_image_open(&options, &image) == 0) {
        walk(image);
        gw_image_close(image);
    }
    close(fd);
    return 0;
}
