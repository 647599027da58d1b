/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parting: what the source's QEMU does in the pause, in a thread of its own beside the last copy: the
 * disks' dirty maps are read, the disks are put on null-co nodes, the device state is written into a
 * socket. Private to engine/session.
 *
 * Nothing of it needs the copy to have ended, but for disks that are read through QEMU, or digested:
 * those stay until gw_parting_copied. And nothing needs to wait for it: the undo list is right in
 * every state in between, and the guard has it before the thread begins.
 *
 * Errors: 0 or -errno with a message: each step's own, from the call that waits for it.
 * Order: start → await_maps → copied → await_swap → state read from fd → join; join may come at any
 *   time (after close of the reading end, so that QEMU's write ends), and does nothing twice.
 * Threads: the move's control thread. Until join the QMP connection is the parting's.
 * Units: nanoseconds.
 */
#ifndef GODWIT_ENGINE_SESSION_PARTING_H
#define GODWIT_ENGINE_SESSION_PARTING_H

#include <pthread.h>
#include <stdbool.h>

#include "common/error.h"
#include "engine/precopy/precopy.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/migrate.h"

enum gw_parting_step { GW_PARTING_MAPS, GW_PARTING_SWAP, GW_PARTING_STATE, GW_PARTING_STEPS };

struct gw_parting {
    /* set by the caller before start */
    struct gw_qmp *qmp;
    struct gw_precopy *precopy;
    struct gw_disk_swap *swaps;
    struct gw_disk_export *exports;
    unsigned disk_count;
    bool needs_disks; /* the copy reads disks through QEMU, or again: they stay until copied */

    int fd;                        /* the device state is read from here; the caller's to close */
    uint64_t ns[GW_PARTING_STEPS]; /* how long each took; after it was awaited */

    int write_fd;
    bool is_started;
    pthread_t thread;
    pthread_mutex_t lock; /* protects what follows; leaf */
    pthread_cond_t changed;
    unsigned ended; /* steps, in their order */
    bool is_copied, is_given_up;
    struct gw_error error; /* of step ended, which is the last one then */
};

int gw_parting_start(struct gw_parting *parting);
/* Waits until the step has ended; its error, or that of one before it. */
int gw_parting_await(struct gw_parting *parting, enum gw_parting_step step);
void gw_parting_copied(struct gw_parting *parting);
/* Ends the thread: steps not yet begun are left out. Closes nothing of the caller's. Takes one that was
 * never started. */
void gw_parting_join(struct gw_parting *parting, bool give_up);

#endif
