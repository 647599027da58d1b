/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch: the target's QEMU. Its command line is built here, word by word, from a checked
 * description; disks are null-co nodes at first, RAM files, sockets and logs lie where this host
 * says.
 *
 * Errors: 0 or -errno with a message; when QEMU ends before it answers, with the last line of its
 *   log.
 * Order: gw_vm_launch (or hook, or adopt) → gw_vm_load_state (migrate.h) → disks swapped in →
 *   cont; gw_vm_end on every failure. The process is in a session of its own and outlives the
 *   caller.
 * Threads: one at a time per VM.
 * Units: milliseconds.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_LAUNCH_H
#define GODWIT_ENGINE_VMM_QEMU_LAUNCH_H

#include <sys/types.h>

#include "engine/vmm/qemu/qmp.h"
#include "engine/vmm/qemu/vm.h"

#define GW_ARGUMENTS_MAX 1024u

struct gw_launch_options {
    const char
        *run_dir; /* exists, private; gets qmp, qmp-user, log, sockets of character devices */
    const char *const *ram_paths; /* for each vm->memories[i]: a file of at least its size */
    const char *binary;           /* NULL: qemu-system-ARCHITECTURE in PATH */
    uint32_t timeout_ms;          /* until QMP answers; 0: 15000 */
    /* Called once the process has its number. It runs nothing before 0 was returned, not when the caller ends before
     * that either, and nothing at all when an error was: the launch fails with that. A hook's QEMU is known, and ended
     * then, only when it answers. May be NULL. */
    int (*note)(pid_t pid, void *context);
    void *note_context;
};

/* A QEMU that waits for its state (-incoming defer), capabilities set. */
struct gw_launched {
    pid_t pid;
    int pid_fd;
    struct gw_qmp *qmp;
    char qmp_path[108];
    bool is_owned; /* started by gw_vm_launch or the hook, so gw_vm_end may kill it */
    bool is_child; /* of this process, so gw_vm_end reaps it */
};

/* The words of the command line, words[0] the program; NULL at the end. */
struct gw_arguments {
    unsigned count;
    char *words[GW_ARGUMENTS_MAX + 1];
};

/* tap_fds[i] is the descriptor for vm->nets[i] when that is a tap. */
int gw_vm_arguments(const struct gw_vm *vm, const struct gw_launch_options *options,
                    const int *tap_fds, struct gw_arguments *out);
void gw_arguments_free(struct gw_arguments *arguments);

int gw_vm_launch(const struct gw_vm *vm, const struct gw_launch_options *options,
                 struct gw_launched *out);
/* A QEMU without a machine, to be asked what it can do. -ECHILD when it does not start. It has no file anywhere, and
 * ends with the thread that called, which ends it with gw_vm_end. */
int gw_vm_probe(const char *binary, const char *accelerator, struct gw_launched *out);
/* Runs hook with the description as JSON on its standard input (ram files and run folder added as
 * "run_dir" and "ram_paths"); it prints {"qmp": PATH} and ends with 0. Its QEMU uses these RAM
 * files, and fits as gw_vm_adopt asks. */
int gw_vm_launch_hook(const char *hook, const struct gw_vm *vm,
                      const struct gw_launch_options *options, struct gw_launched *out);
/* A QEMU that somebody else started with -incoming defer: is it waiting, and does it fit? What does
 * not is added to faults, and -EINVAL returned. Its RAM files are in ram_paths[i], for
 * vm->memories[i]. */
int gw_vm_adopt(const char *qmp_path, const struct gw_vm *vm, char ram_paths[][512],
                struct gw_reasons *faults, struct gw_launched *out);

/* Ends the QEMU: quit, then SIGKILL, both bounded; -ETIMEDOUT when even that does not end it.
 * Without is_owned only the connection is closed. */
int gw_vm_end(struct gw_launched *launched);
/* The last line of its log, for messages; that the log is empty where there is none. */
void gw_vm_last_line(const char *log_path, char *out, size_t size);
/* Closes connection and descriptor; QEMU lives on. */
void gw_vm_leave(struct gw_launched *launched);

/* A tap in that bridge, up. The interface lives as long as the descriptor. -ENODEV: no such bridge.
 */
int gw_tap_open(const char *bridge, int *fd);

#endif
