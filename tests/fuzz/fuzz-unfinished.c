/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: bytes as the block allocation table of an unfinished VHDX, which is gone on with. No block may lie
 * outside of the file, in its tables, or where another one lies; and what is written next goes to a place of its
 * own.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/image/image.h"

#define MIB        (1ull << 20)
#define SIZE       (64 * MIB)
#define TABLE      (3 * MIB)
#define FIRST      (4 * MIB)
#define FILE_SIZE  (24 * MIB)
#define TABLE_SIZE 1024u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_file(const char *path, const uint8_t *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || ftruncate(fd, FILE_SIZE) ||
        pwrite(fd, "godwit: unfinished copy\n", 24, 0) != 24 ||
        pwrite(fd, data, size, (off_t)TABLE) != (ssize_t)size)
        abort();
    close(fd);
}

/* Every block's place, those that it has and those that it gets, is one that no other has. */
static void walk(struct gw_image *image)
{
    uint8_t used[FILE_SIZE / MIB + SIZE / MIB + 1] = {0};

    for (uint64_t offset = 0; offset < SIZE; offset += MIB) {
        struct gw_location to;
        uint64_t place;

        if (gw_image_locate(image, offset, MIB, &to))
            abort();
        place = (to.file_offset - FIRST) / MIB;
        assert(to.file_offset >= FIRST && to.file_offset % MIB == 0 && to.length == MIB);
        assert(place < sizeof(used) && !used[place]);
        used[place] = 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char path[64];
    struct gw_image_create_options options = {.path = path,
                                              .format = GW_IMAGE_VHDX,
                                              .virtual_size = SIZE,
                                              .block_size = MIB,
                                              .is_continued = true};
    struct gw_image *image;

    snprintf(path, sizeof(path), "/dev/shm/godwit-fuzz-%d", (int)getpid());
    make_file(path, data, size < TABLE_SIZE ? size : TABLE_SIZE);
    if (gw_image_create(&options, &image) == 0) {
        walk(image);
        gw_image_close(image);
    }
    unlink(path);
    return 0;
}
