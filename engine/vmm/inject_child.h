/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The half of inject that runs in the forked child. Private to inject.c and inject_child.c.
 * Everything here is safe after fork in a process with threads: system calls only.
 */
#ifndef GODWIT_ENGINE_VMM_INJECT_CHILD_H
#define GODWIT_ENGINE_VMM_INJECT_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct gw_injection {
    pid_t pid;
    int pidfd;
    bool is_filtered;       /* the target has a seccomp filter */
    bool is_filter_known;   /* and it is known to let the injected calls pass */
    uint64_t fallback_site; /* of a system call instruction, for a thread that makes none; or 0 */
};

/* Where an injection failed; the parent words the message. */
enum gw_injection_step {
    GW_INJECTION_SEIZE,
    GW_INJECTION_FILTER,
    GW_INJECTION_STOP,
    GW_INJECTION_SITE, /* the thread is busy outside of system calls: try again with a fallback site
                        */
    GW_INJECTION_REGISTERS,
    GW_INJECTION_CREATE,
    GW_INJECTION_FETCH,
    GW_INJECTION_RESTORE,
    GW_INJECTION_DONE,
};

struct gw_injection_result {
    enum gw_injection_step step;
    int error; /* negative errno, 0 when done */
    int fd;    /* the fetched descriptor in this process, or -1 */
};

/* Returns with the target running as before, or gone. */
void gw_injection_run(const struct gw_injection *injection, struct gw_injection_result *result);

#endif
