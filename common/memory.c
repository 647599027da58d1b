/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers by mmap, and a zero test that the compiler turns into vector instructions. */
#include "common/memory.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "common/error.h"
#include "common/topology.h"

int gw_memory_new(size_t size, void **out)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return gw_fail_errno(-ENOMEM, "no memory for buffers of %zu bytes", size);
    /* Advice only: without huge pages the buffers work as well. */
    madvise(memory, size, MADV_HUGEPAGE);
    gw_topology_settle(memory, size);
    *out = memory;
    return 0;
}

void gw_memory_free(void *memory, size_t size)
{
    if (memory)
        munmap(memory, size);
}

#define STEP_WORDS 32u

/* One version for each kind of vector unit, chosen at load time. ThreadSanitizer is not ready that
 * early. */
#ifdef __SANITIZE_THREAD__
#define VECTOR_CLONES
#else
#define VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

VECTOR_CLONES static bool words_are_zero(const uint64_t *words, size_t count)
{
    size_t i = 0;

    /* Four cache lines at a time, so that data is found early and zeroes run at memory speed. */
    for (; i + STEP_WORDS <= count; i += STEP_WORDS) {
        uint64_t any = 0;

        for (size_t j = 0; j < STEP_WORDS; j++)
            any |= words[i + j];
        if (any)
            return false;
    }
    for (; i < count; i++)
        if (words[i])
            return false;
    return true;
}

bool gw_memory_is_zero(const void *memory, size_t length)
{
    return words_are_zero(memory, length / sizeof(uint64_t));
}
