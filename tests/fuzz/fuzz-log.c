/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: bytes as the log of a VHDX, replayed in memory. The log's GUID and the checksum of
 * each entry are made right, so that the fuzzer gets beyond them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "engine/image/vhdx/vhdx.h"

#define LOG_MAX (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t guid[16] = "log-guid-of-test";

static void seal(uint8_t *log, size_t size)
{
    for (size_t at = 0; at < size; at += VHDX_LOG_SECTOR) {
        uint32_t length = gw_get_le32(log + at + VHDX_LOG_LENGTH);

        if (memcmp(log + at, VHDX_LOG_SIGNATURE, 4) != 0 || length < VHDX_LOG_SECTOR ||
            length > size - at)
            continue;
        memcpy(log + at + VHDX_LOG_GUID, guid, sizeof(guid));
        gw_put_le32(log + at + VHDX_LOG_CHECKSUM,
                    gw_vhdx_checksum(log + at, length, VHDX_LOG_CHECKSUM));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t whole = (size_t)gw_align_up(gw_min(gw_max(size, 1), LOG_MAX), VHDX_LOG_SECTOR);
    struct gw_vhdx *vhdx = calloc(1, sizeof(*vhdx));
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    uint8_t *log = calloc(1, whole), sector[VHDX_LOG_SECTOR];
    char path[40];

    if (fd < 0 || !log || !vhdx)
        abort();
    memcpy(log, data, gw_min(size, LOG_MAX));
    seal(log, whole);
    if (write(fd, log, whole) != (ssize_t)whole)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (gw_image_file_open(path, GW_FILE_READ, false, &vhdx->base.file))
        abort();
    memcpy(vhdx->header.log_guid, guid, sizeof(guid));
    vhdx->header.log = (struct gw_vhdx_range){0, whole};
    vhdx->file_size = whole;
    if (gw_vhdx_log_replay(vhdx) == 0 && gw_vhdx_overlay_check(vhdx) == 0)
        gw_vhdx_read(vhdx, 0, sector, sizeof(sector));
    gw_vhdx_overlay_free(&vhdx->overlay);
    gw_image_file_close(&vhdx->base.file);
    free(vhdx);
    free(log);
    close(fd);
    return 0;
}
