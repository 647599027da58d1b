/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening, locking, reading and zeroing of the file beneath an image, on regular files and block
 * devices. It does not know what the bytes mean.
 */
#include "engine/image/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/folder.h"

/* Data found by a seek. Looking for the next hole makes tmpfs walk every page up to it, so asking
 * anew for each block of one long run would take the square of its length. */
struct gw_image_file_run {
    pthread_mutex_t lock; /* protects the rest; leaf */
    uint64_t begin, end;
    uint64_t next; /* data begins there, behind a hole that was found; 0: not known */
};

/* What O_DIRECT asks for at the most on the file systems of today, for kernels whose statx does not
 * say (before 6.1). */
#define FALLBACK_MEMORY_ALIGNMENT 4096u
#define FALLBACK_FILE_ALIGNMENT   4096u
#define ALIGNMENT_MIN             512u
#define ALIGNMENT_MAX             (1u << 20)
#define ZERO_PIECE                (1u << 20) /* bytes written at once where nothing can be punched */
#define PAGE                      4096u
/* As far as this one page after the other is asked for, where a run of data would have to be walked to
 * its end for little of it. */
#define NEAR (1u << 20)

static int open_flags(enum gw_image_file_mode mode)
{
    switch (mode) {
    case GW_FILE_READ:
    case GW_FILE_READ_IN_USE:
    case GW_FILE_LOOK:
        /* Non-blocking, so that a FIFO of that name is refused and not waited for. */
        return O_RDONLY | O_CLOEXEC | O_NONBLOCK;
    case GW_FILE_CREATE:
        return O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL;
    case GW_FILE_CONTINUE:
        return O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    case GW_FILE_WRITE_DEVICE:
        return O_RDWR | O_CLOEXEC | O_NONBLOCK;
    }
    return O_RDONLY | O_CLOEXEC;
}

static int open_error(const char *path, int error)
{
    if (error == ENOENT)
        return gw_fail(-error, "%s does not exist", path);
    if (error == EEXIST)
        return gw_fail(
            -error, "%s exists; godwit does not overwrite: remove it or give another name", path);
    return gw_fail_errno(-error, "cannot open %s", path);
}

/* Does it keep others off? */
static bool holds(enum gw_image_file_mode mode)
{
    return mode != GW_FILE_READ_IN_USE && mode != GW_FILE_LOOK;
}

/* A block device at rest or to be written is held exclusively: a mounted one, or one that belongs
 * to a RAID, device mapper or another careful program, is refused. */
static int hold_device(struct gw_image_file *file, enum gw_image_file_mode mode)
{
    int access = mode == GW_FILE_WRITE_DEVICE ? O_RDWR : O_RDONLY;
    int fd;

    if (!holds(mode))
        return 0;
    fd = open(file->path, access | O_CLOEXEC | O_EXCL);
    if (fd < 0) {
        if (errno == EBUSY)
            return gw_fail(
                -EBUSY, "%s is mounted or in use on this host: unmount it or stop its user first",
                file->path);
        return open_error(file->path, errno);
    }
    close(file->table_fd);
    file->table_fd = fd;
    return 0;
}

/* A device's node lies on devtmpfs, which tells nothing of where its bytes are. */
static bool is_in_memory(const struct gw_image_file *file)
{
    struct statfs status;

    if (file->is_block_device || fstatfs(file->table_fd, &status))
        return false;
    return status.f_type == TMPFS_MAGIC || status.f_type == HUGETLBFS_MAGIC ||
           status.f_type == RAMFS_MAGIC;
}

static int learn_identity(struct gw_image_file *file, enum gw_image_file_mode mode)
{
    struct stat status;
    int rc;

    if (fstat(file->table_fd, &status))
        return gw_fail_errno(-errno, "cannot stat %s", file->path);
    file->is_block_device = S_ISBLK(status.st_mode);
    if (S_ISDIR(status.st_mode))
        return gw_fail(-EISDIR, "%s is a folder, not a disk image", file->path);
    if (!file->is_block_device && !S_ISREG(status.st_mode))
        return gw_fail(-EINVAL, "%s is neither a regular file nor a block device", file->path);
    if (mode == GW_FILE_WRITE_DEVICE && !file->is_block_device)
        return gw_fail(-EEXIST,
                       "%s exists; godwit does not overwrite: remove it or give another name",
                       file->path);
    if (file->is_block_device) {
        rc = hold_device(file, mode);
        if (rc)
            return rc;
    }
    file->device = status.st_dev;
    file->inode = status.st_ino;
    file->modified = status.st_mtim;
    file->is_memory_file = is_in_memory(file);
    return gw_image_file_size(file, &file->size);
}

static bool is_alignment(uint32_t value)
{
    return gw_is_power_of_two(value) && value <= ALIGNMENT_MAX;
}

/* False when the file system says that this file has no O_DIRECT. */
static bool learn_alignment(struct gw_image_file *file)
{
    struct statx status;

    file->memory_alignment = FALLBACK_MEMORY_ALIGNMENT;
    file->file_alignment = FALLBACK_FILE_ALIGNMENT;
    if (statx(file->table_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0 ||
        !(status.stx_mask & STATX_DIOALIGN))
        return true;
    if (!is_alignment(status.stx_dio_mem_align) || !is_alignment(status.stx_dio_offset_align))
        return false;
    file->memory_alignment = (uint32_t)gw_max(status.stx_dio_mem_align, ALIGNMENT_MIN);
    file->file_alignment = (uint32_t)gw_max(status.stx_dio_offset_align, ALIGNMENT_MIN);
    return true;
}

void gw_image_file_use_buffered(struct gw_image_file *file)
{
    if (file->data_fd != file->table_fd)
        close(file->data_fd);
    file->is_direct = false;
    file->data_fd = file->table_fd;
    file->memory_alignment = ALIGNMENT_MIN;
    file->file_alignment = ALIGNMENT_MIN;
}

/* The data descriptor: O_DIRECT through a second opening of the very same file. Where that cannot
 * be, buffered, and no alignment is asked of anybody. */
static void open_direct(struct gw_image_file *file, bool is_writable)
{
    char link[40];
    int fd;

    if (file->is_memory_file || !learn_alignment(file)) {
        gw_image_file_use_buffered(file);
        return;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file->table_fd);
    fd = open(link, (is_writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_DIRECT);
    if (fd < 0) {
        gw_image_file_use_buffered(file);
        return;
    }
    file->data_fd = fd;
    file->is_direct = true;
}

/* io_uring gives up with EAGAIN, where it would have to wait, on a descriptor that has this flag.
 */
static int clear_nonblocking(const struct gw_image_file *file)
{
    int flags = fcntl(file->table_fd, F_GETFL);

    if (flags < 0 || fcntl(file->table_fd, F_SETFL, flags & ~O_NONBLOCK))
        return gw_fail_errno(-errno, "cannot set up %s", file->path);
    return 0;
}

static int make_run(struct gw_image_file *file)
{
    file->run = calloc(1, sizeof(*file->run));
    if (!file->run)
        return gw_fail(-ENOMEM, "no memory to open %s", file->path);
    pthread_mutex_init(&file->run->lock, NULL);
    return 0;
}

int gw_image_file_open(const char *path, enum gw_image_file_mode mode, bool is_direct,
                       struct gw_image_file *out)
{
    struct gw_image_file file = {.table_fd = -1, .data_fd = -1};
    bool is_writer =
        mode == GW_FILE_CREATE || mode == GW_FILE_CONTINUE || mode == GW_FILE_WRITE_DEVICE;
    int rc;

    file.path = strdup(path);
    if (!file.path)
        return gw_fail(-ENOMEM, "no memory to open %s", path);
    file.table_fd = open(path, open_flags(mode), 0600);
    if (file.table_fd < 0) {
        rc = open_error(path, errno);
        free(file.path);
        return rc;
    }
    file.data_fd = file.table_fd;
    rc = learn_identity(&file, mode);
    gw_image_file_use_buffered(&file);
    if (rc == 0)
        rc = clear_nonblocking(&file);
    if (rc == 0 && holds(mode))
        rc = gw_image_lock(file.table_fd, path, is_writer);
    if (rc == 0 && !is_writer)
        rc = make_run(&file);
    if (rc) {
        gw_image_file_close(&file);
        return rc;
    }
    if (is_direct)
        open_direct(&file, is_writer);
    file.is_in_use = mode == GW_FILE_READ_IN_USE;
    file.is_unlocked = mode == GW_FILE_LOOK;
    *out = file;
    return 0;
}

void gw_image_file_close(struct gw_image_file *file)
{
    if (!file->path)
        return;
    if (file->data_fd >= 0 && file->data_fd != file->table_fd)
        close(file->data_fd);
    if (file->table_fd >= 0)
        close(file->table_fd);
    if (file->run)
        pthread_mutex_destroy(&file->run->lock);
    free(file->run);
    gw_image_touched_free(file->touched);
    free(file->path);
    memset(file, 0, sizeof(*file));
}

int gw_image_file_read(const struct gw_image_file *file, uint64_t offset, void *into, size_t length)
{
    uint8_t *next = into;

    while (length > 0) {
        ssize_t got = pread(file->table_fd, next, length, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return gw_fail_errno(-errno, "cannot read %s at byte %llu", file->path,
                                 (unsigned long long)offset);
        if (got == 0)
            return gw_fail(-EUCLEAN,
                           "%s is truncated: it ends at byte %llu, within its tables; copy it anew "
                           "from where it came from",
                           file->path, (unsigned long long)offset);
        next += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return 0;
}

int gw_image_file_write(const struct gw_image_file *file, uint64_t offset, const void *from,
                        size_t length)
{
    const uint8_t *next = from;

    gw_image_file_touch(file, offset, length);
    while (length > 0) {
        ssize_t put = pwrite(file->table_fd, next, length, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return gw_fail_errno(-errno, "cannot write %s at byte %llu", file->path,
                                 (unsigned long long)offset);
        next += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return 0;
}

int gw_image_file_size(const struct gw_image_file *file, uint64_t *out)
{
    struct stat status;

    if (file->is_block_device) {
        if (ioctl(file->table_fd, BLKGETSIZE64, out))
            return gw_fail_errno(-errno, "cannot read the size of %s", file->path);
        return 0;
    }
    if (fstat(file->table_fd, &status))
        return gw_fail_errno(-errno, "cannot stat %s", file->path);
    *out = (uint64_t)status.st_size;
    return 0;
}

int gw_image_file_resize(const struct gw_image_file *file, uint64_t size)
{
    if (ftruncate(file->table_fd, (off_t)size))
        return gw_fail_errno(-errno, "cannot make %s %llu bytes long", file->path,
                             (unsigned long long)size);
    return 0;
}

int gw_image_file_reserve(const struct gw_image_file *file, uint64_t offset, uint64_t length)
{
    int error = posix_fallocate(file->table_fd, (off_t)offset, (off_t)length);

    if (error)
        return gw_fail_errno(-error, "cannot reserve %llu bytes for %s", (unsigned long long)length,
                             file->path);
    return 0;
}

int gw_image_file_sync(const struct gw_image_file *file)
{
    if (fdatasync(file->table_fd))
        return gw_fail_errno(-errno, "cannot flush %s", file->path);
    return 0;
}

int gw_image_file_sync_folder(const struct gw_image_file *file)
{
    return gw_folder_sync_of(file->path);
}

static int write_zeroes(const struct gw_image_file *file, uint64_t offset, uint64_t length)
{
    size_t piece = (size_t)gw_min(length, ZERO_PIECE);
    void *zeroes = calloc(1, piece);
    int rc = 0;

    if (!zeroes)
        return gw_fail(-ENOMEM, "no memory to zero a range of %s", file->path);
    while (length > 0 && rc == 0) {
        size_t now = (size_t)gw_min(length, piece);

        rc = gw_image_file_write(file, offset, zeroes, now);
        offset += now;
        length -= now;
    }
    free(zeroes);
    return rc;
}

static bool is_unsupported(int error)
{
    return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == ENODEV;
}

static int zero_device(const struct gw_image_file *file, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};

    if (fallocate(file->table_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)length) == 0)
        return 0;
    if (ioctl(file->table_fd, BLKZEROOUT, range) == 0)
        return 0;
    return write_zeroes(file, offset, length);
}

static int zero_data(const struct gw_image_file *file, uint64_t offset, uint64_t length,
                     bool keeps_space)
{
    int mode = (keeps_space ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE;

    if (fallocate(file->table_fd, mode, (off_t)offset, (off_t)length) == 0)
        return 0;
    if (!is_unsupported(errno))
        return gw_fail_errno(-errno, "cannot zero a range of %s", file->path);
    return write_zeroes(file, offset, length);
}

int gw_image_file_is_new(struct gw_image_file *file, uint64_t size)
{
    file->touched = gw_image_touched_new(size);
    return file->touched ? 0 : gw_fail(-ENOMEM, "no memory to make %s", file->path);
}

void gw_image_file_touch(const struct gw_image_file *file, uint64_t offset, uint64_t length)
{
    gw_image_touched_add(file->touched, offset, length);
}

int gw_image_file_zero(const struct gw_image_file *file, uint64_t offset, uint64_t length,
                       bool keeps_space)
{
    uint64_t end = offset + length;
    int rc = 0;

    if (!gw_image_touched_any(file->touched, offset, length))
        return 0;
    if (file->is_block_device)
        return zero_device(file, offset, length);
    while (offset < end && rc == 0) {
        uint64_t run_end;

        if (gw_image_file_is_data(file, offset, end, &run_end))
            rc = zero_data(file, offset, run_end - offset, keeps_space);
        offset = run_end;
    }
    return rc;
}

/* The end of the run of data around offset, when it is known; otherwise 0. */
static uint64_t known_end(const struct gw_image_file *file, uint64_t offset)
{
    uint64_t end = 0;

    if (!file->run)
        return 0;
    pthread_mutex_lock(&file->run->lock);
    if (offset >= file->run->begin && offset < file->run->end)
        end = file->run->end;
    pthread_mutex_unlock(&file->run->lock);
    return end;
}

/* Is offset where the last hole ended? */
static bool is_behind_hole(const struct gw_image_file *file, uint64_t offset)
{
    bool is_it;

    /* Of a file in use it may be a hole again. */
    if (!file->run || file->is_in_use || offset == 0)
        return false;
    pthread_mutex_lock(&file->run->lock);
    is_it = file->run->next == offset;
    pthread_mutex_unlock(&file->run->lock);
    return is_it;
}

static void keep_hole(const struct gw_image_file *file, uint64_t end)
{
    if (!file->run)
        return;
    pthread_mutex_lock(&file->run->lock);
    file->run->next = end;
    pthread_mutex_unlock(&file->run->lock);
}

static void keep_run(const struct gw_image_file *file, uint64_t begin, uint64_t end)
{
    if (!file->run)
        return;
    pthread_mutex_lock(&file->run->lock);
    file->run->begin = begin;
    file->run->end = end;
    pthread_mutex_unlock(&file->run->lock);
}

/* Where the data that offset is in ends, which is asked page by page. */
static uint64_t look_near(const struct gw_image_file *file, uint64_t offset, uint64_t end)
{
    uint64_t at = gw_align_down(offset, PAGE) + PAGE;

    while (at < end && lseek(file->table_fd, (off_t)at, SEEK_DATA) == (off_t)at)
        at += PAGE;
    return gw_min(at, end);
}

void gw_image_file_forget(const struct gw_image_file *file)
{
    keep_run(file, 0, 0);
}

bool gw_image_file_is_data(const struct gw_image_file *file, uint64_t offset, uint64_t end,
                           uint64_t *run_end)
{
    bool is_at_rest = file->run && !file->is_in_use;
    uint64_t known;
    off_t found;

    *run_end = end;
    if (file->is_block_device)
        return true;
    known = known_end(file, offset);
    if (known) {
        *run_end = gw_min(known, end);
        return true;
    }
    found = is_behind_hole(file, offset) ? (off_t)offset
                                         : lseek(file->table_fd, (off_t)offset, SEEK_DATA);
    if (found < 0)
        return errno != ENXIO; /* ENXIO: nothing but a hole up to the end of the file */
    if ((uint64_t)found > offset) {
        keep_hole(file, (uint64_t)found);
        *run_end = gw_min((uint64_t)found, end);
        return false;
    }
    /* At rest one walk tells of the whole run, for all who ask after. */
    if (!is_at_rest && end - offset <= NEAR) {
        *run_end = look_near(file, offset, end);
        return true;
    }
    found = lseek(file->table_fd, (off_t)offset, SEEK_HOLE);
    /* A writer beside us may have made the hole that was here into data, or the reverse. */
    if (found > (off_t)offset) {
        *run_end = gw_min((uint64_t)found, end);
        keep_run(file, offset, (uint64_t)found);
    }
    return true;
}

bool gw_image_file_is_written(const struct gw_image_file *file)
{
    int fd;

    if (gw_image_is_locked_to_write(file->table_fd))
        return true;
    if (!file->is_block_device)
        return false;
    fd = open(file->path, O_RDONLY | O_CLOEXEC | O_EXCL);
    if (fd < 0)
        return errno == EBUSY;
    close(fd);
    return false;
}

int gw_image_file_unchanged(const struct gw_image_file *file)
{
    struct stat ours, named;
    uint64_t size;
    int rc;

    if (fstat(file->table_fd, &ours) || stat(file->path, &named))
        return gw_fail_errno(-ESTALE, "%s cannot be found any more", file->path);
    if (named.st_dev != file->device || named.st_ino != file->inode)
        return gw_fail(-ESTALE, "%s was replaced by another file during the copy", file->path);
    rc = gw_image_file_size(file, &size);
    if (rc)
        return rc;
    if (size != file->size)
        return gw_fail(-ESTALE, "%s changed its size from %llu to %llu bytes during the copy",
                       file->path, (unsigned long long)file->size, (unsigned long long)size);
    if (!file->is_block_device && (ours.st_mtim.tv_sec != file->modified.tv_sec ||
                                   ours.st_mtim.tv_nsec != file->modified.tv_nsec))
        return gw_fail(-ESTALE, "%s was written to during the copy", file->path);
    return 0;
}
