/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of the formats that go through qemu-nbd: which there are, how qemu-img is asked for one,
 * and what the header of an image says (QEMU, docs/interop/qcow2.txt and block/vdi.c; VMware, "Virtual
 * Disk Format 5.0"). An image that names other files, by which it could have qemu-nbd read what nobody
 * gave us, is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/error.h"
#include "engine/volume/nbd.h"

#define HEADER_SIZE 512u
#define SECTOR      512u

/* What to do with an image that cannot be copied as a file. */
#define SERVE_IT "serve it with qemu-nbd and copy from nbd+unix://"

struct format {
    const char *name;
    const char *magic;  /* the first bytes */
    uint32_t signature; /* little endian, at 0x40; 0: none */
    /* For qemu-img create -o: one file, and nothing allocated; or all of its space, NULL where that cannot be. (A
     * static VDI is as long as its disk, and full of holes.) */
    const char *create, *create_fixed;
    bool has_cluster_size; /* may be chosen */
    int (*check)(const char *path, const uint8_t *header, struct gw_nbd_image *out);
    /* Of an image made here that holds its own name; else NULL. */
    int (*rename)(const char *path, const uint8_t *header, const char *name);
};

/* ---- qcow2: big endian ---- */

#define DATA_FILE          (1u << 2) /* incompatible features: the data lie in another file */
#define CLUSTER_BITS_LEAST 9u
#define CLUSTER_BITS_MOST  21u

static int check_qcow2(const char *path, const uint8_t *header, struct gw_nbd_image *out)
{
    uint32_t version = gw_get_be32(header + 4), bits = gw_get_be32(header + 20);
    uint64_t features = version >= 3 ? gw_get_be64(header + 72) : 0;

    if (version < 2 || version > 3 || bits < CLUSTER_BITS_LEAST || bits > CLUSTER_BITS_MOST)
        return gw_fail(-EUCLEAN, "%s is no qcow2 image of version 2 or 3", path);
    if (gw_get_be64(header + 8))
        return gw_fail(-ENOTSUP,
                       "%s is a layer above another image: make one of them with 'qemu-img convert "
                       "-O qcow2' first, or " SERVE_IT,
                       path);
    if (features & DATA_FILE)
        return gw_fail(-ENOTSUP, "%s keeps its data in another file: " SERVE_IT, path);
    if (gw_get_be32(header + 32))
        return gw_fail(-ENOTSUP,
                       "%s is encrypted: serve it with qemu-nbd and its key, and copy from "
                       "nbd+unix://",
                       path);
    if (gw_get_be32(header + 60))
        return gw_fail(-ENOTSUP,
                       "%s holds %u snapshots, which would be lost: delete them with 'qemu-img "
                       "snapshot -d', or " SERVE_IT,
                       path, gw_get_be32(header + 60));
    out->cluster_size = 1u << bits;
    out->virtual_size = gw_get_be64(header + 24);
    return 0;
}

/* ---- VDI: little endian ---- */

#define VDI_SIGNATURE 0xbeda107fu
#define VDI_DYNAMIC   1u
#define VDI_STATIC    2u

static int check_vdi(const char *path, const uint8_t *header, struct gw_nbd_image *out)
{
    static const uint8_t none[16];
    uint32_t kind = gw_get_le32(header + 0x4c);

    if (gw_get_le32(header + 0x44) != 0x10001u)
        return gw_fail(-EUCLEAN, "%s is no VDI image of version 1.1", path);
    /* The image that this one lies above, and that one's last change. */
    if ((kind != VDI_DYNAMIC && kind != VDI_STATIC) ||
        memcmp(header + 0x1a8, none, sizeof(none)) != 0 ||
        memcmp(header + 0x1b8, none, sizeof(none)) != 0)
        return gw_fail(-ENOTSUP,
                       "%s is a layer above another VDI image: make one of them with 'VBoxManage "
                       "clonemedium' first",
                       path);
    out->cluster_size = gw_get_le32(header + 0x178);
    out->virtual_size = gw_get_le64(header + 0x170);
    return 0;
}

/* ---- VMDK: little endian, with a text in it, the descriptor ---- */

/* QEMU looks for what is beneath an image here, wherever its header says that the text lies. */
#define DESCRIPTOR_OFFSET (1u * SECTOR)
#define DESCRIPTOR_LENGTH (20u * SECTOR)
#define GRAIN_MOST        (1u << 16) /* sectors */

/* The text and a zero byte. */
struct descriptor {
    char text[DESCRIPTOR_LENGTH + 1];
};

static int read_descriptor(const char *path, const uint8_t *header, struct descriptor *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = -1;

    memset(out, 0, sizeof(*out));
    if (fd >= 0) {
        got = pread(fd, out->text, DESCRIPTOR_LENGTH, DESCRIPTOR_OFFSET);
        close(fd);
    }
    if (got <= 0)
        return gw_fail(-EIO, "%s: cannot read its VMDK descriptor", path);
    if (gw_get_le64(header + 28) != DESCRIPTOR_OFFSET / SECTOR || gw_get_le64(header + 36) == 0 ||
        gw_get_le64(header + 36) > DESCRIPTOR_LENGTH / SECTOR)
        return gw_fail(-ENOTSUP, "%s: its VMDK descriptor is not behind its header: " SERVE_IT,
                       path);
    return 0;
}

static bool says(const struct descriptor *descriptor, const char *words)
{
    return memmem(descriptor->text, DESCRIPTOR_LENGTH, words, strlen(words)) != NULL;
}

/* The descriptor of a header without a capacity names the files that hold the data. */
static int check_vmdk(const char *path, const uint8_t *header, struct gw_nbd_image *out)
{
    uint64_t sectors = gw_get_le64(header + 12), grain = gw_get_le64(header + 20);
    struct descriptor descriptor;
    int error;

    if (gw_get_le32(header + 4) < 1 || gw_get_le32(header + 4) > 3 || sectors == 0 ||
        sectors > INT64_MAX / SECTOR || grain == 0 || grain > GRAIN_MOST)
        return gw_fail(
            -ENOTSUP,
            "%s is no VMDK image that is one sparse file: make one with 'qemu-img convert "
            "-O vmdk' first, or " SERVE_IT,
            path);
    error = read_descriptor(path, header, &descriptor);
    if (error)
        return error;
    if (says(&descriptor, "parentFileNameHint"))
        error = gw_fail(-ENOTSUP,
                        "%s is a layer above another VMDK image: make one of them with 'qemu-img "
                        "convert -O vmdk' first, or " SERVE_IT,
                        path);
    else if (!says(&descriptor, "createType=\"monolithicSparse\"") &&
             !says(&descriptor, "createType=\"streamOptimized\""))
        error = gw_fail(-ENOTSUP,
                        "%s is a VMDK image of several files: make one with 'qemu-img convert -O "
                        "vmdk' first, or " SERVE_IT,
                        path);
    out->cluster_size = (uint32_t)grain * SECTOR;
    out->virtual_size = sectors * SECTOR;
    return error;
}

static int write_descriptor(const char *path, const struct descriptor *descriptor)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t put = -1;

    errno = 0;
    if (fd >= 0) {
        put = pwrite(fd, descriptor->text, DESCRIPTOR_LENGTH, DESCRIPTOR_OFFSET);
        close(fd);
    }
    return put == DESCRIPTOR_LENGTH ? 0
                                    : gw_fail_errno(errno ? -errno : -ENOSPC,
                                                    "%s: cannot write its VMDK descriptor", path);
}

/* The line of the one extent: RW 2048 SPARSE "NAME". */
static int rename_vmdk(const char *path, const uint8_t *header, const char *name)
{
    struct descriptor old, new;
    char *begin, *end = NULL;
    int error = read_descriptor(path, header, &old), length;

    if (error)
        return error;
    begin = strstr(old.text, "SPARSE \"");
    if (begin)
        end = strchr(begin + strlen("SPARSE \""), '"');
    if (!end)
        return gw_fail(-EUCLEAN, "%s: its VMDK descriptor names no extent", path);
    *begin = '\0';
    memset(&new, 0, sizeof(new));
    length = snprintf(new.text, DESCRIPTOR_LENGTH, "%sSPARSE \"%s%s", old.text, name, end);
    return length < (int)DESCRIPTOR_LENGTH
               ? write_descriptor(path, &new)
               : gw_fail(-ENAMETOOLONG, "%s: %s does not fit its VMDK descriptor", path, name);
}

/* ---- all of them ---- */

static const struct format formats[] = {
    {"qcow2", "QFI\xfb", 0, "preallocation=off", "preallocation=falloc", true, check_qcow2, NULL},
    {"vdi", "<<< ", VDI_SIGNATURE, "static=off", NULL, false, check_vdi, NULL},
    {"vmdk", "KDMV", 0, "subformat=monolithicSparse", NULL, false, check_vmdk, rename_vmdk},
};

static const struct format *find_format(const char *name)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(formats); i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

static bool begins_as(const struct format *format, const uint8_t *header)
{
    return memcmp(header, format->magic, strlen(format->magic)) == 0 &&
           (!format->signature || gw_get_le32(header + 0x40) == format->signature);
}

bool gw_nbd_format_is_known(const char *format)
{
    return find_format(format) != NULL;
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
    for (size_t i = 0; i < GW_ARRAY_LENGTH(formats); i++)
        if (begins_as(&formats[i], header))
            return formats[i].name;
    return NULL;
}

static int read_known(const char *path, const char *name, const struct format **format,
                      uint8_t *header)
{
    int error;

    *format = find_format(name);
    if (!*format)
        return gw_fail(-ENOTSUP, "%s: images of the format %.32s are not read", path, name);
    error = read_header(path, header);
    if (error || begins_as(*format, header))
        return error;
    return gw_fail(-EUCLEAN, "%s is no %s image that is one file", path, name);
}

int gw_nbd_image_check(const char *path, const char *name, struct gw_nbd_image *out)
{
    const struct format *format;
    uint8_t header[HEADER_SIZE];
    int error = read_known(path, name, &format, header);

    return error ? error : format->check(path, header, out);
}

int gw_nbd_image_rename(const char *path, const char *name, const char *final)
{
    const struct format *format;
    uint8_t header[HEADER_SIZE];
    int error = read_known(path, name, &format, header);

    return error || !format->rename ? error : format->rename(path, header, final);
}

bool gw_nbd_can_preallocate(const char *name)
{
    const struct format *format = find_format(name);

    return format && format->create_fixed;
}

void gw_nbd_create_options(const char *name, uint32_t cluster_size, bool is_fixed, char *out,
                           size_t size)
{
    const struct format *format = find_format(name);
    const char *create = is_fixed ? format->create_fixed : format->create;

    if (format->has_cluster_size && cluster_size)
        snprintf(out, size, "%s,cluster_size=%u", create, cluster_size);
    else
        snprintf(out, size, "%s", create);
}
