/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: opens bytes as a VHDX, alone, and walks it. Input: records of sparse-vhdx.h over an
 * image that is sound.
 */
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "tests/fuzz/sparse-vhdx.h"

#define MIB          ((size_t)1 << 20)
#define VIRTUAL_SIZE (64 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A sound image, made once by the code that is tested elsewhere. */
static void make_sound(int fd)
{
    char path[] = "/tmp/godwit-fuzz-vhdx-XXXXXX";
    struct gw_image_create_options options = {
        .path = path, .format = GW_IMAGE_VHDX, .virtual_size = VIRTUAL_SIZE, .block_size = MIB};
    struct gw_image *image;
    struct gw_location place;
    int new = mkstemp(path);
    ssize_t got;

    close(new);
    unlink(path);
    if (gw_image_create(&options, &image))
        abort();
    for (unsigned i = 0; i < 8; i++)
        if (gw_image_locate(image, i * 3 * MIB, 4096, &place))
            abort();
    if (gw_image_finish(image))
        abort();
    gw_image_close(image);
    new = open(path, O_RDONLY | O_CLOEXEC);
    unlink(path);
    while ((got = sendfile(fd, new, NULL, SPARSE_SIZE)) > 0)
        ;
    if (got < 0)
        abort();
    close(new);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sparse_vhdx sparse; /* the fuzzer has no other place to keep it */
    struct gw_image_open_options options = {.format = GW_IMAGE_VHDX, .is_alone = true};
    struct gw_image *image;
    char path[40];

    if (!sparse.file) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);

        make_sound(fd);
        sparse_vhdx_open(&sparse, fd);
    }
    while (sparse_vhdx_change(&sparse, &data, &size))
        ;
    sparse_vhdx_seal(&sparse);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", sparse.fd);
    options.path = path;
    if (gw_image_open(&options, &image) == 0) {
        sparse_vhdx_walk(image);
        gw_image_close(image);
    }
    sparse_vhdx_mend(&sparse);
    return 0;
}
