/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a process maps a file: /proc/PID/maps by device and inode. Private to this folder; the
 * search over all processes is gw_mappers_find() of tracker.h.
 *
 * Errors: -ESRCH when the process is gone; -EPERM, -EACCES when it may not be looked at.
 * Threads: any.
 * Units: bytes; addresses are the process' own, offsets are of the file.
 */
#ifndef GODWIT_ENGINE_VMM_MAPPERS_H
#define GODWIT_ENGINE_VMM_MAPPERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct gw_file_id {
    dev_t device;
    ino_t inode;
};

struct gw_mapping {
    uint64_t start;
    uint64_t end;
    uint64_t offset; /* of start in the file */
    bool is_writable;
    bool is_shared;
};

struct gw_mappings {
    struct gw_mapping *items;
    size_t count;
    size_t capacity;
};

int gw_file_id_of(int fd, struct gw_file_id *out);
/* Adds the mappings of the file to the list, in the order of their addresses. */
int gw_mappings_read(pid_t pid, const struct gw_file_id *file, struct gw_mappings *list);
/* The same, of mappings that are shared and writable: those whose writes reach the file. */
int gw_mappings_read_writable(pid_t pid, const struct gw_file_id *file, struct gw_mappings *list);
struct gw_mapper;
/* As gw_mappers_find, of the processes alone that may write; faster where the kernel can be asked.
 */
int gw_mappers_find_writable(int ram_fd, struct gw_mapper *out, int max);
int gw_mappings_add(struct gw_mappings *list, const struct gw_mapping *mapping);
void gw_mappings_free(struct gw_mappings *list); /* leaves an empty list; takes zeroed memory too */
/* Adds to out the parts of list that without does not have at the same address with the same
 * offset. */
int gw_mappings_subtract(const struct gw_mappings *list, const struct gw_mappings *without,
                         struct gw_mappings *out);
/* The process' name (comm), "?" when it is gone. */
void gw_process_name(pid_t pid, char *name, size_t size);

#endif
