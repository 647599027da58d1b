/* SPDX-License-Identifier: Apache-2.0 */
/* The writer process of the tracker tests. It knows nothing of trackers. */
#include "tests/engine/tracker_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct command {
    uint64_t op;
    uint64_t first;
    uint64_t count;
};

struct live {
    pthread_t thread;
    atomic_bool is_running;
    unsigned char *ram;
    uint64_t *account;
    uint64_t first, count, page_size;
};

struct state {
    int ram_fd;
    unsigned char *ram;
    uint64_t *account;
    uint64_t page_count, page_size;
    int pipe[2];
    struct live live;
};

static void die(const char *what)
{
    fprintf(stderr, "writer: %s: %s\n", what, strerror(errno));
    _exit(1);
}

/* Every write changes the page: its number, a counter that only grows, and the writer. */
static void write_page(unsigned char *ram, uint64_t *account, uint64_t page, uint64_t page_size)
{
    volatile uint64_t *words = (volatile uint64_t *)(void *)(ram + page * page_size);
    uint64_t number = ++account[page];

    words[0] = page + 1;
    words[1] = (uint64_t)getpid();
    words[page_size / 8 - 1] = number;
}

static void kernel_write_page(struct state *state, uint64_t page)
{
    uint64_t words[2] = {page + 1, ++state->account[page]};

    if (write(state->pipe[1], words, sizeof(words)) != (ssize_t)sizeof(words) ||
        read(state->pipe[0], state->ram + page * state->page_size + 64, sizeof(words)) !=
            (ssize_t)sizeof(words))
        die("pipe");
}

static void *run_live(void *argument)
{
    struct live *live = argument;
    unsigned seed = 12345;

    while (atomic_load(&live->is_running)) {
        for (int i = 0; i < 20; i++)
            write_page(live->ram, live->account,
                       live->first + (uint64_t)rand_r(&seed) % live->count, live->page_size);
        sched_yield();
    }
    return NULL;
}

static void start_live(struct state *state, uint64_t first, uint64_t count)
{
    state->live = (struct live){.ram = state->ram,
                                .account = state->account,
                                .first = first,
                                .count = count,
                                .page_size = state->page_size};
    atomic_store(&state->live.is_running, true);
    if (pthread_create(&state->live.thread, NULL, run_live, &state->live) != 0)
        die("thread");
}

static void stop_live(struct state *state)
{
    atomic_store(&state->live.is_running, false);
    pthread_join(state->live.thread, NULL);
}

static void remap(struct state *state, uint64_t first, uint64_t count)
{
    unsigned char *at = state->ram + first * state->page_size;
    uint64_t length = count * state->page_size;

    if (munmap(at, length) < 0 || mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                       state->ram_fd, (off_t)(first * state->page_size)) != at)
        die("remap");
    for (uint64_t page = first; page < first + count; page++)
        write_page(state->ram, state->account, page, state->page_size);
}

static void write_elsewhere(struct state *state, uint64_t first, uint64_t count)
{
    uint64_t size = state->page_count * state->page_size;
    void *again = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, state->ram_fd, 0);

    if (again == MAP_FAILED)
        die("second mapping");
    for (uint64_t page = first; page < first + count; page++)
        write_page(again, state->account, page, state->page_size);
    munmap(again, size);
}

static void spin(uint64_t milliseconds)
{
    struct timespec begin, now;

    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        clock_gettime(CLOCK_MONOTONIC, &now); /* by the vdso: no system call */
    } while ((uint64_t)(now.tv_sec - begin.tv_sec) * 1000 +
                 (uint64_t)(now.tv_nsec / 1000000 - begin.tv_nsec / 1000000) <
             milliseconds);
}

static void obey_page(struct state *state, enum writer_op op, uint64_t page)
{
    unsigned char *at = state->ram + page * state->page_size;

    switch (op) {
    case WRITER_KERNEL_WRITE:
        kernel_write_page(state, page);
        break;
    case WRITER_WRITE:
        write_page(state->ram, state->account, page, state->page_size);
        break;
    case WRITER_WRITE_ZAP:
        write_page(state->ram, state->account, page, state->page_size);
        if (madvise(at, state->page_size, MADV_DONTNEED) < 0)
            die("zap");
        break;
    case WRITER_PUNCH:
        state->account[page]++;
        if (fallocate(state->ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(page * state->page_size), (off_t)state->page_size) < 0)
            die("punch");
        break;
    default:
        (void)*(volatile unsigned char *)at;
    }
}

static void obey(struct state *state, const struct command *command)
{
    switch ((enum writer_op)command->op) {
    case WRITER_REMAP:
        remap(state, command->first, command->count);
        break;
    case WRITER_MOVE:
        write_elsewhere(state, command->first, command->count);
        break;
    case WRITER_START:
        start_live(state, command->first, command->count);
        break;
    case WRITER_STOP:
        stop_live(state);
        break;
    case WRITER_SPIN:
        spin(command->count);
        break;
    default:
        for (uint64_t i = 0; i < command->count; i++)
            obey_page(state, (enum writer_op)command->op, command->first + i);
    }
}

static void run(struct writer *writer, int socket_fd, int ram_fd, uint64_t page_size,
                bool may_write)
{
    struct state state = {.ram_fd = ram_fd,
                          .account = writer->account,
                          .page_count = writer->page_count,
                          .page_size = page_size};
    struct command command;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "writer");
    state.ram = mmap(NULL, writer->page_count * page_size, PROT_READ | (may_write ? PROT_WRITE : 0),
                     MAP_SHARED, ram_fd, 0);
    if (state.ram == MAP_FAILED || pipe2(state.pipe, O_CLOEXEC) < 0)
        die("start");
    command = (struct command){0};
    while (send(socket_fd, &command, sizeof(command), MSG_NOSIGNAL) > 0 &&
           recv(socket_fd, &command, sizeof(command), 0) == (ssize_t)sizeof(command))
        obey(&state, &command);
    _exit(0);
}

void writer_start(struct writer *writer, int ram_fd, uint64_t page_count, uint64_t page_size,
                  bool may_write)
{
    int sockets[2];

    *writer = (struct writer){.page_count = page_count};
    writer->account = mmap(NULL, page_count * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (writer->account == MAP_FAILED ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
        die("socket pair");
    writer->pid = fork();
    if (writer->pid == 0) {
        close(sockets[0]);
        run(writer, sockets[1], ram_fd, page_size, may_write);
    }
    close(sockets[1]);
    writer->socket = sockets[0];
    writer_wait(writer);
}

void writer_send(const struct writer *writer, enum writer_op op, uint64_t first, uint64_t count)
{
    struct command command = {.op = op, .first = first, .count = count};

    if (send(writer->socket, &command, sizeof(command), MSG_NOSIGNAL) < 0)
        die("command");
}

void writer_wait(const struct writer *writer)
{
    struct command answer;

    if (recv(writer->socket, &answer, sizeof(answer), 0) != (ssize_t)sizeof(answer)) {
        fprintf(stderr, "the writer process %d is gone\n", (int)writer->pid);
        exit(1);
    }
}

void writer_do(const struct writer *writer, enum writer_op op, uint64_t first, uint64_t count)
{
    writer_send(writer, op, first, count);
    writer_wait(writer);
}

void writer_end(struct writer *writer)
{
    if (writer->pid <= 0)
        return;
    kill(writer->pid, SIGKILL);
    waitpid(writer->pid, NULL, 0);
    close(writer->socket);
    munmap(writer->account, writer->page_count * sizeof(uint64_t));
    writer->pid = 0;
}
