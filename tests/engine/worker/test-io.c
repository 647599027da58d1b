/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's io_uring on a real file: fixed memory as the kernel tells of it, and without. */
#include <criterion/criterion.h>

#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/error.h"
#include "common/memory.h"
#include "engine/worker/io.h"

#define PIECE  (64u << 10)
#define PIECES 64u
#define SIZE   (PIECE * PIECES)

TestSuite(io, .timeout = 60);

struct job {
    struct gw_io io;
    unsigned *done;
};

struct lab {
    struct gw_io_ring ring;
    struct gw_io_memory memory;
    uint8_t *bytes;
    int fd;
};

static void set_up(struct lab *lab)
{
    char path[] = "/var/tmp/godwit-io-XXXXXX";

    *lab = (struct lab){.fd = mkstemp(path)};
    cr_assert_geq(lab->fd, 0);
    unlink(path);
    cr_assert_eq(gw_io_ring_init(&lab->ring), 0, "%s", gw_error_message());
    cr_assert_eq(gw_memory_new(SIZE, (void **)&lab->bytes), 0);
    lab->memory = (struct gw_io_memory){.base = lab->bytes, .length = SIZE};
}

static void tear_down(struct lab *lab)
{
    gw_io_unfix(&lab->ring, &lab->memory);
    gw_io_ring_free(&lab->ring);
    gw_memory_free(lab->bytes, SIZE);
    close(lab->fd);
}

/* How many buffers the kernel has registered that are not empty: fdinfo lists each with its address. */
static unsigned registered(const struct lab *lab)
{
    char path[64], line[256];
    bool is_listed = false;
    unsigned count = 0;
    FILE *info;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", lab->ring.ring.ring_fd);
    info = fopen(path, "r");
    cr_assert_not_null(info);
    while (fgets(line, sizeof(line), info)) {
        unsigned long long address, length;

        if (strncmp(line, "UserBufs:", 9) == 0)
            is_listed = true;
        else if (is_listed && sscanf(line, " %*u: 0x%llx/%llu", &address, &length) == 2)
            count += length > 0;
    }
    fclose(info);
    return count;
}

static void count_done(struct gw_io *io, int64_t result)
{
    cr_assert_eq(result, PIECE, "%lld", (long long)result);
    ++*((struct job *)(void *)io)->done;
}

/* Every piece of the memory to or from its place in the file. */
static void move_all(struct lab *lab, bool is_write)
{
    static struct job jobs[PIECES];
    unsigned done = 0;

    for (unsigned i = 0; i < PIECES; i++) {
        jobs[i] = (struct job){.io = {.done = count_done,
                                      .fd = lab->fd,
                                      .is_write = is_write,
                                      .memory = lab->bytes + i * PIECE,
                                      .within = &lab->memory,
                                      .file_offset = (uint64_t)i * PIECE,
                                      .length = PIECE},
                               .done = &done};
        gw_io_submit(&lab->ring, &jobs[i].io);
    }
    cr_assert_eq(done, 0, "done runs from gw_io_run alone");
    while (done < PIECES)
        if (!gw_io_run(&lab->ring))
            gw_io_wait(&lab->ring);
}

static void check_round_trip(struct lab *lab)
{
    uint8_t *from_file = malloc(SIZE);

    for (unsigned i = 0; i < SIZE; i++)
        lab->bytes[i] = (uint8_t)(i / PIECE + i);
    move_all(lab, true);
    cr_assert_eq(pread(lab->fd, from_file, SIZE, 0), (ssize_t)SIZE);
    cr_assert_eq(memcmp(from_file, lab->bytes, SIZE), 0);
    memset(lab->bytes, 0, SIZE);
    move_all(lab, false);
    cr_assert_eq(memcmp(from_file, lab->bytes, SIZE), 0);
    free(from_file);
}

/* The capabilities of this process. */
static void get_rights(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    cr_assert_eq(syscall(SYS_capget, &header, data), 0);
}

#define LOCK_WORD (CAP_IPC_LOCK / 32)
#define LOCK_BIT  (1u << CAP_IPC_LOCK % 32)

Test(io, memory_is_fixed_once_at_its_first_use)
{
    struct __user_cap_data_struct rights[2] = {{0}};
    struct lab lab;

    get_rights(rights);
    if (!(rights[LOCK_WORD].effective & LOCK_BIT))
        cr_skip_test("without CAP_IPC_LOCK, what may be pinned is shared with others of this user");
    set_up(&lab);
    if (!lab.ring.has_table)
        cr_skip_test("this kernel has no table of buffers");
    cr_assert_eq(registered(&lab), 0);
    check_round_trip(&lab);
    cr_assert_eq(registered(&lab), 1);
    gw_io_unfix(&lab.ring, &lab.memory);
    cr_assert_eq(registered(&lab), 0);
    tear_down(&lab);
}

/* Takes away the right to pin more than RLIMIT_MEMLOCK says. */
static void drop_lock_right(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct rights[2] = {{0}};
    struct rlimit limit = {.rlim_cur = 64u << 10, .rlim_max = 64u << 10};

    get_rights(rights);
    rights[LOCK_WORD].effective &= ~LOCK_BIT;
    rights[LOCK_WORD].permitted &= ~LOCK_BIT;
    cr_assert_eq(syscall(SYS_capset, &header, rights), 0);
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

Test(io, goes_without_where_too_little_may_be_pinned)
{
    struct lab lab;

    drop_lock_right();
    set_up(&lab);
    check_round_trip(&lab);
    cr_assert_eq(registered(&lab), 0);
    cr_assert_lt(lab.memory.slot, 0);
    tear_down(&lab);
}

Test(io, more_than_the_ring_holds_waits)
{
    struct lab lab;
    struct job *jobs = calloc(4 * GW_IO_RING_ENTRIES, sizeof(*jobs));
    unsigned done = 0;

    set_up(&lab);
    move_all(&lab, true);
    for (unsigned i = 0; i < 4 * GW_IO_RING_ENTRIES; i++) {
        jobs[i] = (struct job){.io = {.done = count_done,
                                      .fd = lab.fd,
                                      .memory = lab.bytes,
                                      .within = &lab.memory,
                                      .length = PIECE},
                               .done = &done};
        gw_io_submit(&lab.ring, &jobs[i].io);
    }
    cr_assert_leq(lab.ring.in_kernel, GW_IO_RING_ENTRIES);
    while (done < 4 * GW_IO_RING_ENTRIES)
        if (!gw_io_run(&lab.ring))
            gw_io_wait(&lab.ring);
    free(jobs);
    tear_down(&lab);
}
