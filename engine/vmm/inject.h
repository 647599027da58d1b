/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inject: makes a userfaultfd inside another process, which does not help and does not notice.
 *
 * A small child is forked that outlives its parent's death. It stops the target's main thread, has
 * it make the descriptor, fetches a copy with pidfd_getfd(2), has the target close its own, puts
 * every register and the signal mask back, and lets it go: 0.1 ms in all. It does not follow the
 * thread's system calls or signals, and changes nothing else.
 *
 * Errors: -ESRCH the process ended; -EPERM names the missing right; -ENOTSUP no injection on this
 *   machine or into this kind of process; -ETIMEDOUT the thread could not be stopped; others are
 * those of userfaultfd(2) in the target. Whatever is returned, the target goes on as before.
 * Threads: any, at once for different processes.
 */
#ifndef GODWIT_ENGINE_VMM_INJECT_H
#define GODWIT_ENGINE_VMM_INJECT_H

#include <sys/types.h>

/* pidfd holds the process, so that pid cannot be another one by now; lent. The descriptor in *out
 * (close-on-exec, non-blocking, user mode only) is the caller's to close. */
int gw_inject_userfaultfd(pid_t pid, int pidfd, int *out);

#endif
