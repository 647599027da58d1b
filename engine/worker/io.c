/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's io_uring, its backlog and its table of fixed memory. */
#include "engine/worker/io.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "common/error.h"
#include "common/log.h"

int gw_io_ring_init(struct gw_io_ring *ring)
{
    int error;

    *ring = (struct gw_io_ring){0};
    error = io_uring_queue_init(GW_IO_RING_ENTRIES, &ring->ring, 0);
    if (error)
        return gw_fail_errno(error,
                             "io_uring is not available (kernel.io_uring_disabled must be 0, and "
                             "RLIMIT_MEMLOCK large enough on old kernels)");
    ring->has_table = io_uring_register_buffers_sparse(&ring->ring, GW_IO_FIXED_MAX) == 0;
    return 0;
}

void gw_io_ring_free(struct gw_io_ring *ring)
{
    io_uring_queue_exit(&ring->ring);
    free(ring->backlog);
}

/* ---- fixed memory ---- */

static int put_slot(struct gw_io_ring *ring, unsigned slot, void *base, uint64_t length)
{
    struct iovec vector = {.iov_base = base, .iov_len = length};
    __u64 tag = 0;
    int count = io_uring_register_buffers_update_tag(&ring->ring, slot, &vector, &tag, 1);

    return count < 0 ? count : 0;
}

static void fix(struct gw_io_ring *ring, struct gw_io_memory *memory)
{
    unsigned slot = 0;
    int error;

    memory->is_asked = true;
    memory->slot = -1;
    while (slot < GW_IO_FIXED_MAX && ring->is_fixed[slot])
        slot++;
    if (!ring->has_table || slot == GW_IO_FIXED_MAX)
        return;
    error = put_slot(ring, slot, memory->base, memory->length);
    if (error) {
        /* Nobody needs to act: it costs a few percent of CPU time. */
        gw_log(GW_LOG_INFO,
               "disk I/O goes without fixed buffers (error %d): raise RLIMIT_MEMLOCK by %llu KiB",
               -error, (unsigned long long)(memory->length >> 10));
        return;
    }
    ring->is_fixed[slot] = true;
    memory->slot = (int)slot;
}

void gw_io_unfix(struct gw_io_ring *ring, struct gw_io_memory *memory)
{
    if (memory->is_asked && memory->slot >= 0) {
        put_slot(ring, (unsigned)memory->slot, NULL, 0);
        ring->is_fixed[memory->slot] = false;
    }
    *memory = (struct gw_io_memory){0};
}

/* ---- the ring ---- */

static void prepare(struct io_uring_sqe *entry, const struct gw_io *io)
{
    char *memory = (char *)io->memory + io->moved;
    uint32_t left = io->length - io->moved;
    uint64_t offset = io->file_offset + io->moved;
    int slot = io->within ? io->within->slot : -1;

    if (slot >= 0 && io->is_write)
        io_uring_prep_write_fixed(entry, io->fd, memory, left, offset, slot);
    else if (slot >= 0)
        io_uring_prep_read_fixed(entry, io->fd, memory, left, offset, slot);
    else if (io->is_write)
        io_uring_prep_write(entry, io->fd, memory, left, offset);
    else
        io_uring_prep_read(entry, io->fd, memory, left, offset);
}

/* Puts one I/O into the ring; false when the ring has no place now. */
static bool start(struct gw_io_ring *ring, struct gw_io *io)
{
    struct io_uring_sqe *entry;

    if (ring->in_kernel >= GW_IO_RING_ENTRIES)
        return false;
    entry = io_uring_get_sqe(&ring->ring);
    if (!entry)
        return false;
    prepare(entry, io);
    io_uring_sqe_set_data(entry, io);
    ring->in_kernel++;
    return true;
}

static void backlog_push(struct gw_io_ring *ring, struct gw_io *io)
{
    if (ring->backlog_count == ring->backlog_room) {
        unsigned room = ring->backlog_room ? ring->backlog_room * 2 : GW_IO_RING_ENTRIES;
        struct gw_io **grown = malloc(room * sizeof(*grown));

        /* Lanes bound their I/O, so this grows a few times in a worker's life at most. */
        assert(grown);
        for (unsigned i = 0; i < ring->backlog_count; i++)
            grown[i] = ring->backlog[(ring->backlog_head + i) % ring->backlog_room];
        free(ring->backlog);
        ring->backlog = grown;
        ring->backlog_room = room;
        ring->backlog_head = 0;
    }
    ring->backlog[(ring->backlog_head + ring->backlog_count++) % ring->backlog_room] = io;
}

void gw_io_submit(struct gw_io_ring *ring, struct gw_io *io)
{
    io->moved = 0;
    if (io->within && !io->within->is_asked)
        fix(ring, io->within);
    if (ring->backlog_count > 0 || !start(ring, io))
        backlog_push(ring, io);
}

static void complete(struct gw_io_ring *ring, struct gw_io *io, int result)
{
    if (result == -EINTR || result == -EAGAIN ||
        (result > 0 && (uint32_t)result < io->length - io->moved)) {
        io->moved += result > 0 ? (uint32_t)result : 0;
        backlog_push(ring, io);
        return;
    }
    if (result == 0 && io->is_write && io->length > io->moved)
        result = -EIO;
    io->done(io, result < 0 ? result : (int64_t)io->moved + result);
}

bool gw_io_run(struct gw_io_ring *ring)
{
    struct io_uring_cqe *completion;
    bool any = false;

    while (ring->backlog_count > 0 && start(ring, ring->backlog[ring->backlog_head])) {
        ring->backlog_head = (ring->backlog_head + 1) % ring->backlog_room;
        ring->backlog_count--;
    }
    if (ring->in_kernel == 0)
        return false;
    io_uring_submit(&ring->ring);
    while (io_uring_peek_cqe(&ring->ring, &completion) == 0) {
        struct gw_io *io = io_uring_cqe_get_data(completion);
        int result = completion->res;

        io_uring_cqe_seen(&ring->ring, completion);
        ring->in_kernel--;
        complete(ring, io, result);
        any = true;
    }
    return any;
}

void gw_io_wait(struct gw_io_ring *ring)
{
    struct io_uring_cqe *completion;

    io_uring_submit(&ring->ring);
    io_uring_wait_cqe(&ring->ring, &completion);
}
