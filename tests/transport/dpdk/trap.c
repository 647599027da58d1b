/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that stop who touches them; see trap.h. */
#include "tests/transport/dpdk/trap.h"

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define TRAPS 2u

/* Of the process, as its signals are. */
static struct trap *traps[TRAPS];

void trap_close(struct trap *trap)
{
    if (mprotect(trap->page, trap->size, PROT_NONE) != 0)
        abort();
}

void trap_open(struct trap *trap)
{
    if (mprotect(trap->page, trap->size, PROT_READ | PROT_WRITE) != 0)
        abort();
}

static void touched(int number, siginfo_t *info, void *context)
{
    (void)context;
    for (unsigned i = 0; i < TRAPS; i++) {
        struct trap *trap = traps[i];

        if (!trap || (uintptr_t)info->si_addr - (uintptr_t)trap->page >= trap->size)
            continue;
        trap->hit(trap->context);
        trap_open(trap);
        return;
    }
    /* Nobody's: it happens again, and ends the program. */
    signal(number, SIG_DFL);
}

void trap_add(struct trap *trap)
{
    struct sigaction action = {.sa_sigaction = touched, .sa_flags = SA_SIGINFO};

    for (unsigned i = 0; i < TRAPS; i++) {
        if (traps[i])
            continue;
        traps[i] = trap;
        if (sigaction(SIGSEGV, &action, NULL) != 0)
            abort();
        return;
    }
    abort();
}

void trap_remove(struct trap *trap)
{
    for (unsigned i = 0; i < TRAPS; i++)
        if (traps[i] == trap)
            traps[i] = NULL;
}
