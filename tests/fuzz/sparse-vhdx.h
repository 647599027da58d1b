/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sparse-vhdx: a sound VHDX that few bytes of input change in many places. The input is a list of
 * records: u8 where (which structure), u16 little-endian offset in it, u8 count, count bytes. The
 * checksums are made right again, so that a fuzzer gets beyond them. The file is made once and
 * mended after each input, since writing all of it anew would take most of the time.
 *
 * Errors: abort(): a fuzz target has no other way.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_FUZZ_SPARSE_VHDX_H
#define GODWIT_TESTS_FUZZ_SPARSE_VHDX_H

#include <stdint.h>
#include <stdio.h>

#include "engine/image/image.h"

#define SPARSE_SIZE (16u << 20)

struct sparse_vhdx {
    int fd;
    uint8_t *file;                             /* shared mapping of fd */
    uint8_t *sound;                            /* what it goes back to */
    uint64_t changed[SPARSE_SIZE / 4096 / 64]; /* pages that apply wrote */
};

/* fd is an open file that holds at most SPARSE_SIZE bytes; it is made that long. */
void sparse_vhdx_open(struct sparse_vhdx *sparse, int fd);
/* Takes the next record off the input; false when there is none. The caller seals. */
bool sparse_vhdx_change(struct sparse_vhdx *sparse, const uint8_t **data, size_t *size);
void sparse_vhdx_seal(struct sparse_vhdx *sparse);
/* Undoes all changes. */
void sparse_vhdx_mend(struct sparse_vhdx *sparse);

/* Looks at extents from the image's start on, in bounded steps, and aborts when one breaks the
 * rules of engine/image/image.h. */
void sparse_vhdx_walk(struct gw_image *image);

#endif
