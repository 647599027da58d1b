/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that stands for a hypervisor in the tests of trackers: it maps a RAM file, writes to it
 * in every way that a hypervisor does when it is told to, and keeps its own account of the pages it
 * wrote. Its main thread waits for commands, as a main loop does; a second one writes while it is
 * told to.
 */
#ifndef GODWIT_TESTS_ENGINE_TRACKER_WRITER_H
#define GODWIT_TESTS_ENGINE_TRACKER_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum writer_op {
    WRITER_WRITE,        /* by the CPU */
    WRITER_KERNEL_WRITE, /* by read(2) from a pipe */
    WRITER_WRITE_ZAP,    /* written, then taken out of the page table (MADV_DONTNEED) */
    WRITER_PUNCH,        /* out of the file */
    WRITER_REMAP,        /* unmapped and mapped again at the same place, then written */
    WRITER_MOVE,         /* mapped a second time elsewhere, written there, unmapped there */
    WRITER_READ,
    WRITER_START, /* the second thread writes random pages of the range from now on */
    WRITER_STOP,  /* and does not any more */
    WRITER_SPIN,  /* the main thread makes no system calls for the given number of milliseconds */
};

struct writer {
    pid_t pid;
    int socket;
    uint64_t page_count;
    uint64_t *account; /* one counter for each page, shared with the writer: writes so far */
};

/* Starts a writer on ram_fd; fails the program when it cannot. */
void writer_start(struct writer *writer, int ram_fd, uint64_t page_count, uint64_t page_size,
                  bool may_write);
/* Has the writer do something to pages [first, first + count) and waits until it is done. */
void writer_do(const struct writer *writer, enum writer_op op, uint64_t first, uint64_t count);
/* The same without waiting; writer_wait collects the answer. */
void writer_send(const struct writer *writer, enum writer_op op, uint64_t first, uint64_t count);
void writer_wait(const struct writer *writer);
/* Ends the writer. */
void writer_end(struct writer *writer);

#endif
