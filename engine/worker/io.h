/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io: the reads and writes of files of one worker, through one io_uring. What finds no place in the
 * ring waits in a queue; what the kernel moved in part goes on where it ended.
 *
 * Memory that much I/O uses is fixed: pinned and registered with the ring once (io_uring_register(2),
 * IORING_REGISTER_BUFFERS2), so that the kernel need not find and pin its pages for each I/O. It counts
 * against RLIMIT_MEMLOCK (8 MiB by default) of whoever has no CAP_IPC_LOCK; where it does not fit, I/O
 * goes without.
 *
 * Errors: 0 or -errno with a message; an I/O's own are told to its done.
 * Threads: init and free belong to the control thread, the rest to the worker.
 * Units: bytes.
 */
#ifndef GODWIT_ENGINE_WORKER_IO_H
#define GODWIT_ENGINE_WORKER_IO_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#define GW_IO_RING_ENTRIES 256u  /* I/O in the kernel at once; more waits */
#define GW_IO_FIXED_MAX    1024u /* memories that are fixed at once */

/* Memory of a lane; its owner fills base and length and keeps it until gw_io_unfix. */
struct gw_io_memory {
    void *base;
    uint64_t length;
    bool is_asked; /* to be fixed: at the first I/O */
    int slot;      /* in the ring's table; -1: not fixed */
};

/* One read or write of a file. The owner keeps it until done, which gets the bytes moved (all of
 * them, short only at the end of a file) or -errno. */
struct gw_io {
    void (*done)(struct gw_io *io, int64_t result);
    int fd;
    bool is_write;
    void *memory;
    struct gw_io_memory *within; /* memory lies in it, or NULL */
    uint64_t file_offset;
    uint32_t length, moved;
};

struct gw_io_ring {
    struct io_uring ring;
    unsigned in_kernel;     /* submitted to the ring and not completed */
    struct gw_io **backlog; /* waits for a place in the ring: a growing array used as a queue */
    unsigned backlog_head, backlog_count, backlog_room;
    bool has_table;                 /* the kernel can fix memory (Linux 5.19) */
    bool is_fixed[GW_IO_FIXED_MAX]; /* slots of the table that are taken */
};

int gw_io_ring_init(struct gw_io_ring *ring);
void gw_io_ring_free(struct gw_io_ring *ring);
/* Queues the I/O; done runs from gw_io_run, never from here. */
void gw_io_submit(struct gw_io_ring *ring, struct gw_io *io);
/* Submits what waits and runs what has completed. True when something had. */
bool gw_io_run(struct gw_io_ring *ring);
void gw_io_wait(struct gw_io_ring *ring); /* until something has completed */
/* The memory is its owner's again; its I/O must have ended. */
void gw_io_unfix(struct gw_io_ring *ring, struct gw_io_memory *memory);

#endif
