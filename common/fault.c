/* SPDX-License-Identifier: Apache-2.0 */
/* A handler for SIGBUS that jumps back to where the thread began to touch what may fail. It does
 * not know what the memory is. */
#include "common/fault.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

/* A signal's handler belongs to the process and cannot be handed around: it is written once, before
 * it is in use. */
static struct sigaction previous;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local sigjmp_buf *back;
static _Thread_local bool is_unblocked;

static void handle(int signal, siginfo_t *info, void *context)
{
    if (back)
        siglongjmp(*back, 1);
    /* Nobody expected it: the instruction runs again and meets the former handler. */
    sigaction(SIGBUS, &previous, NULL);
}

static void install(void)
{
    /* Not deferred, since the jump leaves the handler without a return. */
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

static void prepare_thread(void)
{
    sigset_t set;

    pthread_once(&once, install);
    /* The kernel kills a process that faults with the signal blocked. */
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    is_unblocked = true;
}

int gw_fault_run(const char *name, int (*touch)(void *context), void *context)
{
    sigjmp_buf here, *outer = back;
    int result;

    if (!is_unblocked)
        prepare_thread();
    if (sigsetjmp(here, 0)) {
        back = outer;
        return gw_fail(
            -EFAULT, "%s: its memory is gone: the file was truncated, or its storage failed", name);
    }
    back = &here;
    result = touch(context);
    back = outer;
    return result;
}
