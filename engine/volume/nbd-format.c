/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of the formats that go through qemu-nbd: which there are, and what the header of
 * an image at rest says (QEMU, docs/interop/qcow2.txt). An image that names other files, by which it
 * could have qemu-nbd read what nobody gave us, is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/error.h"
#include "engine/volume/nbd.h"

#define HEADER_SIZE        104u
#define DATA_FILE          (1u << 2) /* incompatible features: the data lie in another file */
#define CLUSTER_BITS_LEAST 9u
#define CLUSTER_BITS_MOST  21u

bool gw_nbd_format_is_known(const char *format)
{
    return strcmp(format, "qcow2") == 0;
}

/* Fills header; what lies behind the file's end is zero. */
static int read_header(const char *path, uint8_t *header)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t length;

    memset(header, 0, HEADER_SIZE);
    if (fd < 0)
        return gw_fail_errno(-errno, "cannot open %s", path);
    length = pread(fd, header, HEADER_SIZE, 0);
    if (length < 0)
        gw_fail_errno(-errno, "%s: cannot read its header", path);
    close(fd);
    return length < 0 ? -EIO : 0;
}

const char *gw_nbd_format_probe(const char *path)
{
    uint8_t header[HEADER_SIZE];

    if (read_header(path, header))
        return NULL;
    return memcmp(header, "QFI\xfb", 4) == 0 && gw_get_be32(header + 4) >= 2 ? "qcow2" : NULL;
}

int gw_nbd_image_check(const char *path, struct gw_nbd_image *out)
{
    uint8_t header[HEADER_SIZE];
    uint32_t version, bits;
    uint64_t features;
    int error = read_header(path, header);

    if (error)
        return error;
    version = gw_get_be32(header + 4);
    bits = gw_get_be32(header + 20);
    features = version >= 3 ? gw_get_be64(header + 72) : 0;
    if (memcmp(header, "QFI\xfb", 4) != 0 || version < 2 || version > 3 ||
        bits < CLUSTER_BITS_LEAST || bits > CLUSTER_BITS_MOST)
        return gw_fail(-EUCLEAN, "%s is no qcow2 image of version 2 or 3", path);
    if (gw_get_be64(header + 8))
        return gw_fail(-ENOTSUP,
                       "%s is a layer above another image: make one of them with 'qemu-img convert "
                       "-O qcow2' first, or serve it with qemu-nbd and copy from nbd+unix://",
                       path);
    if (features & DATA_FILE)
        return gw_fail(-ENOTSUP,
                       "%s keeps its data in another file: serve it with qemu-nbd and copy from "
                       "nbd+unix://",
                       path);
    if (gw_get_be32(header + 32))
        return gw_fail(-ENOTSUP,
                       "%s is encrypted: serve it with qemu-nbd and its key, and copy from "
                       "nbd+unix://",
                       path);
    if (gw_get_be32(header + 60))
        return gw_fail(-ENOTSUP,
                       "%s holds %u snapshots, which would be lost: delete them with 'qemu-img "
                       "snapshot -d', or serve it with qemu-nbd and copy from nbd+unix://",
                       path, gw_get_be32(header + 60));
    out->cluster_size = 1u << bits;
    out->virtual_size = gw_get_be64(header + 24);
    return 0;
}
