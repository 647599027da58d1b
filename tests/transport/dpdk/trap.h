/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trap: pages whose first reader or writer is stopped in the middle of what it does, so that something
 * else happens there and then.
 *
 * Threads: one sets traps and runs into them. hit() runs within a handler of SIGSEGV.
 * Units: bytes.
 */
#ifndef GODWIT_TESTS_TRANSPORT_DPDK_TRAP_H
#define GODWIT_TESTS_TRANSPORT_DPDK_TRAP_H

#include <stdbool.h>
#include <stddef.h>

struct trap {
    void *page; /* whole pages */
    size_t size;
    void (*hit)(void *context);
    void *context;
};

/* Knows the trap from now on; two at a time. Its pages are open. */
void trap_add(struct trap *trap);
void trap_remove(struct trap *trap);
/* Nobody may touch the pages any more; who does runs hit(), then they are open again. Any thread. */
void trap_close(struct trap *trap);
void trap_open(struct trap *trap);

#endif
