/* SPDX-License-Identifier: Apache-2.0 */
/* What the tools share that push bytes through a library with nothing of godwit's in between: the window that
 * is written into, the clocks, and the line at the end. */
#ifndef GODWIT_TESTS_BENCH_PLAIN_H
#define GODWIT_TESTS_BENCH_PLAIN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define WINDOW (32u << 20) /* bytes, as in transport-blast */

/* Ends the program: what did not work, and the library's word for it. */
static inline void plain_fail(const char *program, const char *what, const char *why)
{
    fprintf(stderr, "%s: %s: %s\n", program, what, why);
    exit(1);
}

/* Its pages are there; NULL when there is no memory. */
static inline char *new_window(size_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static inline double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static inline void report(const char *what, uint64_t bytes, double seconds, double cpu)
{
    double gb = (double)bytes / 1e9;

    printf("%s: %.2f Gbit/s %.3f CPU s/GB (%.3f GB in %.2f s)\n", what, gb * 8 / seconds, cpu / gb,
           gb, seconds);
}

#endif
