/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: opens bytes as a differencing VHDX with its parent, walks and reads the chain.
 * Input: u8 which file (0 child, 1 parent), then a record of sparse-vhdx.h, and so on. The sound
 * files are child.vhdx and base.vhdx of the folder $GODWIT_FUZZ_CHAIN, made by make_seeds.py.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "common/error.h"
#include "tests/fuzz/sparse-vhdx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The files are changed as copies of this process's own, side by side in a folder. */
static struct chain {
    char folder[32], child_path[48], base_path[48];
    struct sparse_vhdx child, base;
} chain;

static void copy_sound(const char *name, const char *path, struct sparse_vhdx *out)
{
    const char *folder = getenv("GODWIT_FUZZ_CHAIN");
    char from_path[4096];
    int from, to;
    ssize_t got;

    snprintf(from_path, sizeof(from_path), "%s/%s", folder ? folder : ".", name);
    from = open(from_path, O_RDONLY | O_CLOEXEC);
    if (from < 0) {
        fprintf(stderr, "%s: %s; GODWIT_FUZZ_CHAIN names the folder chain-files of make_seeds.py\n",
                from_path, strerror(errno));
        exit(1);
    }
    to = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    while ((got = sendfile(to, from, NULL, SPARSE_SIZE)) > 0)
        ;
    if (to < 0 || got < 0)
        abort();
    close(from);
    sparse_vhdx_open(out, to);
}

static void remove_files(void)
{
    unlink(chain.child_path);
    unlink(chain.base_path);
    rmdir(chain.folder);
}

static void make_chain(void)
{
    struct gw_image_open_options options = {.path = chain.child_path, .format = GW_IMAGE_VHDX};
    struct gw_image *image;

    snprintf(chain.folder, sizeof(chain.folder), "/dev/shm/godwit-fuzz-XXXXXX");
    if (!mkdtemp(chain.folder))
        abort();
    snprintf(chain.child_path, sizeof(chain.child_path), "%s/child.vhdx", chain.folder);
    snprintf(chain.base_path, sizeof(chain.base_path), "%s/base.vhdx", chain.folder);
    atexit(remove_files);
    copy_sound("child.vhdx", chain.child_path, &chain.child);
    copy_sound("base.vhdx", chain.base_path, &chain.base);
    /* Changes of what does not open would find nothing. */
    if (gw_image_open(&options, &image) || !gw_image_parent(image)) {
        fprintf(stderr, "the chain of the seeds is not sound: %s\n", gw_error_message());
        exit(1);
    }
    gw_image_close(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gw_image_open_options options = {.path = chain.child_path, .format = GW_IMAGE_VHDX};
    struct gw_image *image;

    if (!chain.child.file)
        make_chain();
    while (size > 0) {
        struct sparse_vhdx *file = data[0] & 1 ? &chain.base : &chain.child;

        data++;
        size--;
        if (!sparse_vhdx_change(file, &data, &size))
            break;
    }
    sparse_vhdx_seal(&chain.child);
    sparse_vhdx_seal(&chain.base);
    if (gw_image_open(&options, &image) == 0) {
        sparse_vhdx_walk(image);
        gw_image_close(image);
    }
    sparse_vhdx_mend(&chain.child);
    sparse_vhdx_mend(&chain.base);
    return 0;
}
