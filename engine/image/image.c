/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public face of images: finds out what a file is, opens it with its format, checks ranges and
 * order of calls. What the bytes mean is the formats' business.
 */
#include "engine/image/image.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/image/format.h"

struct format {
    enum gw_image_format id;
    const char *name;
    int (*open)(struct gw_image_file *file, bool is_in_use, struct gw_image **out);
    int (*create)(const struct gw_image_create_options *options, struct gw_image **out);
};

static const struct format formats[] = {
    {GW_IMAGE_RAW, "raw", gw_raw_open, gw_raw_create},
    {GW_IMAGE_VHDX, "vhdx", gw_vhdx_open, gw_vhdx_create},
    {GW_IMAGE_VHD, "vhd", gw_vhd_open, gw_vhd_create},
};

#define SERVED "'qemu-img info' describes it, 'godwit copy' and 'godwit move' take it as it is"
#define CONVERT                                                                                    \
    "convert it with 'qemu-img convert -O raw', or ask for format raw, for its bytes as they are"

/* Kinds that are no image.h's, by their first bytes: taken for raw they would be a disk full of another
 * format's tables, which is hardly ever what was meant. Those that are copied through NBD
 * (engine/volume/nbd-format.c) come here only when they are asked for as images. */
static const struct foreign {
    const char *bytes;
    const char *name;
    const char *way_out;
} foreign_formats[] = {
    {"QFI\xfb", "qcow2", SERVED},       {"KDMV", "VMDK", SERVED},
    {"<<< ", "VirtualBox VDI", SERVED}, {"QED", "QED", CONVERT},
    {"LUKS\xba\xbe", "LUKS", CONVERT},
};

#define PROBE_BYTES 64u

static const struct format *format_by_id(enum gw_image_format id)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(formats); i++)
        if (formats[i].id == id)
            return &formats[i];
    return NULL;
}

static bool begins_with(const uint8_t *head, const char *bytes)
{
    return memcmp(head, bytes, strlen(bytes)) == 0;
}

static bool is_named(const char *path, const char *ending)
{
    size_t length = strlen(path), count = strlen(ending);

    return length >= count && strcasecmp(path + length - count, ending) == 0;
}

/* A dynamic VHD begins with a copy of its footer; a fixed one has it at the end alone, and is taken
 * for one by a last sector that begins with the cookie. */
static int probe_vhd(const struct gw_image_file *file, const uint8_t *head, bool *is_vhd)
{
    uint8_t tail[sizeof(GW_IMAGE_VHD_COOKIE)] = {0};
    int rc = 0;

    *is_vhd = begins_with(head, GW_IMAGE_VHD_COOKIE);
    if (*is_vhd || file->size < 2 * GW_IMAGE_VHD_FOOTER || file->is_block_device)
        return 0;
    rc = gw_image_file_read(file, file->size - GW_IMAGE_VHD_FOOTER, tail, sizeof(tail));
    *is_vhd = rc == 0 && begins_with(tail, GW_IMAGE_VHD_COOKIE);
    return rc;
}

static int refuse_name(const struct gw_image_file *file, const char *what)
{
    return gw_fail(-EUCLEAN,
                   "%s is named .%s but has no %s signature: it is damaged, or ask for format raw "
                   "if it is a plain disk",
                   file->path, strcmp(what, "VHDX") == 0 ? "vhdx" : "vhd", what);
}

static int probe_foreign(const struct gw_image_file *file, const uint8_t *head)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(foreign_formats); i++)
        if (begins_with(head, foreign_formats[i].bytes))
            return gw_fail(-ENOTSUP,
                           "%s looks like %s, and raw, VHDX and VHD are what is read here: %s",
                           file->path, foreign_formats[i].name, foreign_formats[i].way_out);
    return 0;
}

static int probe(const struct gw_image_file *file, enum gw_image_format *out)
{
    uint8_t head[PROBE_BYTES] = {0};
    bool is_vhd = false;
    int rc = gw_image_file_read(file, 0, head, (size_t)gw_min(sizeof(head), file->size));

    if (rc)
        return rc;
    if (begins_with(head, "vhdxfile")) {
        *out = GW_IMAGE_VHDX;
        return 0;
    }
    if (begins_with(head, GW_IMAGE_UNFINISHED))
        return gw_fail(-EUCLEAN,
                       "%s is a copy that godwit did not finish: delete it and copy again",
                       file->path);
    if (is_named(file->path, ".vhdx") || is_named(file->path, ".avhdx"))
        return refuse_name(file, "VHDX");
    rc = probe_vhd(file, head, &is_vhd);
    if (rc == 0 && !is_vhd && (is_named(file->path, ".vhd") || is_named(file->path, ".avhd")))
        rc = refuse_name(file, "VHD");
    if (rc == 0 && !is_vhd)
        rc = probe_foreign(file, head);
    if (rc == 0)
        *out = is_vhd ? GW_IMAGE_VHD : GW_IMAGE_RAW;
    return rc;
}

/* A guest writes what its raw disk begins and ends with. So that it cannot make the disk name
 * parents, only a file's name or the caller makes a differencing image of it. */
static int check_claim(const struct gw_image *image, const struct gw_image_open_options *options)
{
    static const char *const endings[] = {".vhdx", ".avhdx", ".vhd", ".avhd"};

    if (options->format != GW_IMAGE_PROBE)
        return 0;
    for (size_t i = 0; i < GW_ARRAY_LENGTH(endings); i++)
        if (is_named(options->path, endings[i]))
            return 0;
    return gw_fail(-EACCES,
                   "%s looks like a differencing %s by its content, and not by its name: say which "
                   "format it has",
                   options->path, gw_image_format_name(image->info.format));
}

int gw_image_open(const struct gw_image_open_options *options, struct gw_image **out)
{
    enum gw_image_file_mode mode = options->is_in_use     ? GW_FILE_READ_IN_USE
                                   : options->is_unlocked ? GW_FILE_LOOK
                                                          : GW_FILE_READ;
    enum gw_image_format id = options->format;
    const struct format *format;
    struct gw_image_file file;
    struct gw_image *image;
    int rc = gw_image_file_open(options->path, mode, options->is_direct, &file);

    if (rc)
        return rc;
    if (id == GW_IMAGE_PROBE)
        rc = probe(&file, &id);
    format = format_by_id(id);
    file.faults = options->faults;
    if (rc == 0 && id == GW_IMAGE_VHDX && options->survey)
        gw_vhdx_survey_file(&file, options->survey);
    if (rc == 0 && !format)
        rc = gw_fail(-EINVAL, "%s: there is no image format %d", options->path, (int)id);
    if (rc == 0)
        rc = format->open(&file, options->is_in_use, &image);
    if (rc) {
        gw_image_file_close(&file);
        return rc;
    }
    if (image->link && !options->is_alone) {
        rc = check_claim(image, options);
        if (rc == 0)
            rc = gw_image_chain_open(image, options);
    }
    if (rc)
        gw_image_close(image);
    else
        *out = image;
    return rc;
}

bool gw_image_can_continue(enum gw_image_format format)
{
    return format == GW_IMAGE_RAW || format == GW_IMAGE_VHDX;
}

int gw_image_create(const struct gw_image_create_options *options, struct gw_image **out)
{
    const struct format *format = format_by_id(options->format);

    if (!format)
        return gw_fail(-EINVAL, "%s: say which format the new image has", options->path);
    if (options->virtual_size == 0)
        return gw_fail(-EINVAL, "%s: a disk of 0 bytes cannot be made", options->path);
    if (options->is_continued && !gw_image_can_continue(options->format))
        return gw_fail(-ENOTSUP, "%s: an unfinished %s image cannot be gone on with", options->path,
                       format->name);
    return format->create(options, out);
}

void gw_image_close(struct gw_image *image)
{
    while (image) {
        struct gw_image_file file = image->file;
        struct gw_image *parent = image->parent;

        image->ops->close(image);
        gw_image_file_close(&file);
        image = parent;
    }
}

const struct gw_image_info *gw_image_info(const struct gw_image *image)
{
    return &image->info;
}

const char *gw_image_path(const struct gw_image *image)
{
    return image->file.path;
}

struct gw_image *gw_image_parent(const struct gw_image *image)
{
    return image->parent;
}

const struct gw_parent_link *gw_image_link(const struct gw_image *image)
{
    return image->link;
}

int gw_image_relocate(struct gw_image *image, const char *name, struct gw_patches *patches)
{
    if (!image->link)
        return gw_fail(-EINVAL, "%s has no parent", image->file.path);
    if (gw_parent_is_beside(image->link, name))
        return 0;
    return image->ops->relocate(image, name, patches);
}

int gw_image_extent(struct gw_image *image, uint64_t offset, uint64_t end, struct gw_extent *out)
{
    assert(offset < end && end <= image->info.virtual_size);
    return gw_image_chain_extent(image, offset, end, out, NULL);
}

int gw_image_locate(struct gw_image *image, uint64_t offset, uint64_t length,
                    struct gw_location *out)
{
    if (length == 0 || !gw_range_fits(offset, length, image->info.virtual_size))
        return gw_fail(-EINVAL, "%s: bytes %llu to %llu are not within the disk of %llu bytes",
                       image->file.path, (unsigned long long)offset,
                       (unsigned long long)(offset + length),
                       (unsigned long long)image->info.virtual_size);
    return gw_image_chain_locate(image, offset, length, out);
}

static int read_piece(const struct gw_location *from, uint8_t *into)
{
    uint64_t done = 0;

    if (from->kind != GW_EXTENT_DATA)
        memset(into, 0, from->length);
    while (from->kind == GW_EXTENT_DATA && done < from->length) {
        ssize_t got =
            pread(from->fd, into + done, from->length - done, (off_t)(from->file_offset + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0) {
            memset(into + done, 0, from->length - done);
            break;
        }
        done += (uint64_t)got;
    }
    return 0;
}

int gw_image_read(struct gw_image *image, uint64_t offset, void *into, uint64_t length)
{
    uint64_t done = 0;

    while (done < length) {
        struct gw_location from;
        int rc = gw_image_locate(image, offset + done, length - done, &from);

        if (rc)
            return rc;
        rc = read_piece(&from, (uint8_t *)into + done);
        if (rc)
            return gw_fail_errno(rc, "cannot read %s or a parent of it at byte %llu of the disk",
                                 image->file.path, (unsigned long long)(offset + done));
        done += from.length;
    }
    return 0;
}

static int check_writable(const struct gw_image *image)
{
    if (!image->is_writable)
        return gw_fail(-EROFS, "%s is open for reading only", image->file.path);
    return 0;
}

int gw_image_zero(struct gw_image *image, uint64_t offset, uint64_t length)
{
    int rc = check_writable(image);

    if (rc)
        return rc;
    if (!gw_range_fits(offset, length, image->info.virtual_size))
        return gw_fail(-EINVAL, "%s: a range to zero is not within the disk", image->file.path);
    return length == 0 ? 0 : image->ops->zero(image, offset, length);
}

int gw_image_refresh(struct gw_image *image)
{
    if (!image->is_in_use)
        return 0;
    gw_image_file_forget(&image->file);
    return image->ops->refresh(image);
}

bool gw_image_take_appeared(struct gw_image *image, uint64_t *offset, uint64_t *length)
{
    return image->is_in_use && image->ops->take_appeared(image, offset, length);
}

/* The kernel tells of a lost write once: a flush that succeeds after one that failed proves
 * nothing, so a new image with a failed flush can never be finished. */
static int check_flushes(const struct gw_image *image)
{
    if (image->has_failed)
        return gw_fail(-EIO,
                       "%s: an earlier flush failed, so this copy cannot be trusted: delete it",
                       image->file.path);
    return 0;
}

int gw_image_sync(struct gw_image *image)
{
    int rc;

    if (!image->is_writable)
        return 0;
    rc = check_flushes(image);
    if (rc)
        return rc;
    rc = image->ops->sync(image);
    image->has_failed = rc != 0;
    return rc;
}

int gw_image_finish(struct gw_image *image)
{
    int rc = check_writable(image);

    if (rc == 0)
        rc = check_flushes(image);
    if (rc)
        return rc;
    rc = image->ops->finish(image);
    image->has_failed = rc != 0;
    image->is_writable = rc != 0;
    return rc;
}

int gw_image_unchanged(struct gw_image *image)
{
    int rc = 0;

    if (image->is_in_use || image->is_made)
        return 0;
    for (; image && rc == 0; image = image->parent)
        rc = image->ops->unchanged(image);
    return rc;
}

const char *gw_image_format_name(enum gw_image_format format)
{
    const struct format *found = format_by_id(format);

    return found ? found->name : "probe";
}

int gw_image_format_parse(const char *name, enum gw_image_format *out)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(formats); i++)
        if (strcmp(formats[i].name, name) == 0) {
            *out = formats[i].id;
            return 0;
        }
    return gw_fail(-EINVAL, "there is no image format '%s': use raw, vhdx or vhd", name);
}

void gw_image_location_set(const struct gw_image *image, uint64_t file_offset, uint64_t length,
                           struct gw_location *out)
{
    /* Whoever reads with O_DIRECT reads whole sectors; what is written is as long as it is. A piece
     * that O_DIRECT does not take goes through the page cache: its sectors are no other piece's. */
    uint64_t must_align = image->is_writable ? file_offset | length : file_offset;
    bool is_aligned = must_align % image->file.file_alignment == 0;

    if (image->is_writable)
        gw_image_file_touch(&image->file, file_offset, length);
    *out = (struct gw_location){
        .kind = GW_EXTENT_DATA,
        .where = GW_IN_FILE,
        .length = length,
        .fd = is_aligned ? image->file.data_fd : image->file.table_fd,
        .is_memory_file = image->file.is_memory_file,
        .file_offset = file_offset,
    };
}

void gw_image_info_from_file(struct gw_image *image)
{
    image->info.is_block_device = image->file.is_block_device;
    image->info.is_memory_file = image->file.is_memory_file;
    image->info.file_size = image->file.size;
    image->info.memory_alignment = image->file.memory_alignment;
    image->info.file_alignment = image->file.file_alignment;
}
