/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault: memory that may go away. Touching a mapping whose file was truncated, or whose storage or
 * huge page fails, is a SIGBUS; within gw_fault_run it is an error of that call alone.
 *
 * The first call installs a handler for SIGBUS in the process. A SIGBUS outside of gw_fault_run
 * goes to whoever had the signal before.
 *
 * Errors: -EFAULT.
 * Order: none.
 * Threads: any; calls may nest. What touch had begun when the memory failed is left as it is: it
 *   must hold no lock and own nothing while it touches such memory.
 */
#ifndef GODWIT_COMMON_FAULT_H
#define GODWIT_COMMON_FAULT_H

/* Returns what touch(context) returns, or -EFAULT with the message "NAME: ..." */
int gw_fault_run(const char *name, int (*touch)(void *context), void *context);

#endif
