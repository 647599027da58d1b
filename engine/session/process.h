/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process: which process a VM's QEMU is, as the journal keeps it: "pid", and "process", which tells it from every
 * other one that has that number. Both sides of a move. Private to engine/session.
 *
 * Errors: 0 or -errno with a message.
 * Threads: any.
 * Units: none.
 */
#ifndef GODWIT_ENGINE_SESSION_PROCESS_H
#define GODWIT_ENGINE_SESSION_PROCESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define GW_PROCESS_TEXT_MAX 64

/* The start of the host and that of the process, as text. */
int gw_process_identify(pid_t pid, char *text, size_t size);
/* *pid_fd: the descriptor of the process that detail is about, which the caller closes. -ESRCH and -1: it has ended,
 * or the record is of a time that did not say which one it is. Others, with a message and -1: it cannot be looked at,
 * for want of descriptors say, and may run. */
int gw_process_find(const json_t *detail, int *pid_fd);
bool gw_process_has_ended(int pid_fd);
/* No doubt is left: not when it cannot be looked at, for want of descriptors say. Of a record that does not say which
 * process it was, when nobody has the number. */
bool gw_process_is_gone(const json_t *detail);

#endif
