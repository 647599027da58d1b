/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file: the regular file or block device beneath an image, for the formats. It knows nothing of
 * formats.
 *
 * Errors: 0 or -errno with a message that begins with the path.
 * Order: open or create → anything → close. Two descriptors: data_fd is what callers read and write
 *   (O_DIRECT where asked for and possible), table_fd is buffered, for tables of any alignment.
 * Tables and data never share a page, so the page cache of one is never stale for the other.
 * Threads: read, write, zero and the two seeks may be called by several threads at once.
 * Units: bytes, file offsets.
 */
#ifndef GODWIT_ENGINE_IMAGE_FILE_H
#define GODWIT_ENGINE_IMAGE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "engine/image/fault.h"
#include "engine/image/touched.h"

struct gw_image_file {
    int table_fd, data_fd; /* the same one when there is no O_DIRECT */
    char *path;
    bool is_block_device;
    bool is_memory_file; /* on tmpfs, ramfs or hugetlbfs */
    bool is_direct;
    uint32_t memory_alignment, file_alignment;
    uint64_t size; /* when it was opened */
    dev_t device;
    ino_t inode;
    struct timespec modified;
    struct gw_faults *faults;         /* gathers what is wrong, or NULL; lent */
    bool is_in_use;                   /* somebody writes to it meanwhile */
    bool is_unlocked;                 /* somebody may write to it meanwhile */
    struct gw_image_file_run *run;    /* of one opened for reading: the data last seen; else NULL */
    struct gw_image_touched *touched; /* of a file that we made; NULL: it may have bytes anywhere */
};

enum gw_image_file_mode {
    GW_FILE_READ,         /* at rest: QEMU's image locks are respected and taken */
    GW_FILE_READ_IN_USE,  /* beside a QEMU that writes it: no locks */
    GW_FILE_LOOK,         /* whoever uses it: no locks, and read as one at rest */
    GW_FILE_CREATE,       /* must not exist */
    GW_FILE_CONTINUE,     /* an unfinished file that GW_FILE_CREATE made */
    GW_FILE_WRITE_DEVICE, /* an existing block device that nobody uses */
};

int gw_image_file_open(const char *path, enum gw_image_file_mode mode, bool is_direct,
                       struct gw_image_file *out);
void gw_image_file_close(struct gw_image_file *file); /* takes zeroed memory too */
/* Gives O_DIRECT up: for images whose data lies at any sector. */
void gw_image_file_use_buffered(struct gw_image_file *file);

/* All of length, or an error: a file that ends before is -EUCLEAN ("truncated"). */
int gw_image_file_read(const struct gw_image_file *file, uint64_t offset, void *into,
                       size_t length);
int gw_image_file_write(const struct gw_image_file *file, uint64_t offset, const void *from,
                        size_t length);
int gw_image_file_size(const struct gw_image_file *file, uint64_t *out);
int gw_image_file_resize(const struct gw_image_file *file, uint64_t size);
/* Reserves the range, so that no later write to it can run out of space. */
int gw_image_file_reserve(const struct gw_image_file *file, uint64_t offset, uint64_t length);
int gw_image_file_sync(const struct gw_image_file *file);
/* Makes a new file's name durable too. */
int gw_image_file_sync_folder(const struct gw_image_file *file);

/* A file that was just made: what nobody is given to write to (gw_image_file_touch) is a hole of its first
 * size bytes. -ENOMEM. */
int gw_image_file_is_new(struct gw_image_file *file, uint64_t size);
void gw_image_file_touch(const struct gw_image_file *file, uint64_t offset, uint64_t length);
/* Makes [offset, offset + length) read as zeroes. Holes cost one seek at the most; keeps_space leaves the range
 * reserved, otherwise its space is given back. */
int gw_image_file_zero(const struct gw_image_file *file, uint64_t offset, uint64_t length,
                       bool keeps_space);

/* Is there data at offset? *run_end is where that changes, end at the latest. Where the file system
 * cannot tell, everything is data; in a file in use, too, what became a hole since the last call of
 * gw_image_file_forget. */
bool gw_image_file_is_data(const struct gw_image_file *file, uint64_t offset, uint64_t end,
                           uint64_t *run_end);
/* What was seen of a file in use may be otherwise by now. */
void gw_image_file_forget(const struct gw_image_file *file);

/* -ESTALE when size, modification time or the file behind the path are not those of the opening. */
int gw_image_file_unchanged(const struct gw_image_file *file);

/* QEMU's image locks (its block/file-posix.c): -EBUSY when another process's use forbids ours. */
int gw_image_lock(int fd, const char *path, bool is_writer);
/* Does somebody write to it, as far as QEMU's locks, or a device's holder, tell? */
bool gw_image_file_is_written(const struct gw_image_file *file);
bool gw_image_is_locked_to_write(int fd);
/* From now on no QEMU may begin to write to it. Whoever does already is not looked for where it may be in use; else
 * -EBUSY. */
int gw_image_keep_off(int fd, const char *path, bool is_in_use);

#endif
