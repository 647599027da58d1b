/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard: a small process that lets a paused guest go on when its agent has died. It is told
 * *stopped* before the guest is stopped, each step's undo before that step is taken, and
 * *committing* before COMMITTED is journalled. When the agent's end of the socket closes between
 * *stopped* and *committing*, it runs the undo steps, the last one first, and only if all of them
 * hold sends `cont`. What fails is tried again every second, as long as that QEMU lives, until an agent is back
 * and takes over. From *committing* on it does nothing: the journal decides.
 *
 * Errors: 0 or -errno with a message. -EPIPE: the guard is lost; -ETIMEDOUT: it has not answered,
 *   counts as lost from then on, and may have understood all the same. Either way the move is to be given
 *   up and undone, which is safe whatever a silent guard was about to do: it acts only when the agent dies,
 *   undoes then what is undone already, and stop kills it first.
 * Order: start → (stopped → announce, done ... → committing | resumed) ... → stop. Every call
 *   returns once the guard has acknowledged it.
 * Threads: one at a time per guard.
 * Limits: it survives the agent's death, its terminal and its process group (a session of its own;
 *   SIGHUP, SIGINT and SIGTERM are ignored). It does not survive what kills every process of a
 *   cgroup at once; a service manager has to be told to kill the agent alone (systemd:
 *   KillMode=process).
 */
#ifndef GODWIT_ENGINE_HANDOVER_GUARD_H
#define GODWIT_ENGINE_HANDOVER_GUARD_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#define GW_GUARD_STEPS_MAX   128u
#define GW_GUARD_MESSAGE_MAX (64u << 10) /* bytes of one undo as text */
#define GW_GUARD_FD          3           /* where the guard's own main finds its socket */

struct gw_guard_options {
    const char *program; /* NULL: /proc/self/exe */
    const char *
        subcommand; /* argument that makes program call gw_guard_main(GW_GUARD_FD); NULL: "guard" */
    const char *qmp_path;
    pid_t vmm_pid;        /* another QEMU on that socket is not touched; 0: any */
    bool is_guest_paused; /* by its owner: everything is undone, but `cont` is not sent */
    const char *log_path; /* what it did, appended; locked while it may act (gw_guard_take_over) */
    int timeout_ms; /* for each acknowledgement, some with the guest stopped; 0: 5000. To be armed takes
                     * a process's start, and has 30 s */
};

struct gw_guard;

int gw_guard_start(const struct gw_guard_options *options, struct gw_guard **out);
/* Ends it without any undo, and frees. Takes NULL. */
void gw_guard_stop(struct gw_guard *guard);
/* Readable (hung up) once the guard is lost. */
int gw_guard_fd(const struct gw_guard *guard);
pid_t gw_guard_pid(const struct gw_guard *guard);

int gw_guard_stopped(struct gw_guard *guard);
int gw_guard_committing(struct gw_guard *guard);
/* The guest goes on, or this attempt has ended: the undo steps are forgotten. */
int gw_guard_resumed(struct gw_guard *guard);

/* Whether the guest's owner has it paused: then it is never continued. */
int gw_guard_owner(struct gw_guard *guard, bool is_guest_paused);

/* Undo of a step that is about to be taken, one of
 *   {"rename": {"from": NEW, "to": OLD}}       as gw_rename_file, so a step never taken is no
 * failure
 *   {"disks": [QMP...]}                        the undo list of every disk of the VM, as
 *     gw_disk_undo_run runs it: one step for all, announced before the first swap
 * undo is lent. */
int gw_guard_announce(struct gw_guard *guard, const json_t *undo, unsigned *step);
/* The step was taken. For the log only: a step announced is undone in any case. */
int gw_guard_done(struct gw_guard *guard, unsigned step);
/* Undoes now, and ends. The caller has closed its own QMP connection before (QEMU talks to one
 * client at a time). Answers when it is all done: -EREMOTEIO when some undo failed (see the log);
 * free with stop. */
int gw_guard_undo(struct gw_guard *guard);

/* After a restart of the agent: waits until no guard is at work with that log, writes what it did into this
 * process's log and removes its own. A guard that has not succeeded and tries again every second gives way: it
 * ends without another deed once its log is gone. A log that is not there is a success. -ETIMEDOUT. */
int gw_guard_take_over(const char *log_path, int timeout_ms);

/* The move is settled and its guard has ended: what the guard did goes into this process's log, and
 * its own file goes. One that is not there is fine. */
void gw_guard_close_log(const char *log_path);

/* The guard's own main; returns its exit status. */
int gw_guard_main(int fd);

#endif
