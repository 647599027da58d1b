/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch: what the guest and its owner do to a VM while godwit moves it, told from what godwit does
 * itself. Taken from QEMU's events, and from what the VM consists of.
 *
 * What goes on: a reboot or a reset of a guest that runs (its RAM becomes dirty, no more), the power
 *   button, an I/O error that the guest is told of, a panic after which the guest runs on. A VM that
 *   somebody pauses is paused by its owner from then on, and one that somebody continues is not.
 * What ends the move, with the source as the guest left it: power off and every other end of QEMU, a
 *   panic, a watchdog or an I/O error that stopped the guest, suspend, a device or disk that came,
 *   went or changed its size, and whatever is done to a guest that godwit has stopped: somebody
 *   continued it, or reset it in the handover.
 * What cannot be seen: a `stop` while godwit itself has the guest stopped (a barrier, the throttle,
 *   the handover). QEMU does nothing then and says nothing.
 *
 * Errors: 0 or -errno with a message: -EBUSY for what ends the move; it is told again by each later
 *   call. QMP's own errors are passed on.
 * Order: open → look, stop, cont, compare in any order → close.
 * Threads: those of the QMP connection, which it shares: one at a time.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_WATCH_H
#define GODWIT_ENGINE_VMM_QEMU_WATCH_H

#include <jansson.h>
#include <stdbool.h>

#include "common/error.h"
#include "engine/vmm/qemu/qmp.h"

struct gw_vm_watch {
    struct gw_qmp *qmp;  /* lent */
    bool is_running;     /* as the guest's owner has it: false while somebody else paused it */
    bool is_held;        /* stopped by stop, not yet continued */
    bool is_last;        /* held for the handover: nothing may happen to it any more */
    bool is_ending;      /* QEMU said that it ends (it may stay all the same: -no-shutdown) */
    bool was_continued;  /* by somebody, while it was held for the handover */
    unsigned resets;     /* of the running guest, so far */
    bool was_ballooned;  /* the balloon took or gave back memory, some time */
    struct gw_error end; /* what ends the move; code 0: nothing */
    json_t *shape;
};

/* Events from before are forgotten; what the VM consists of now is what compare compares with. */
int gw_vm_watch_open(struct gw_qmp *qmp, bool is_running, struct gw_vm_watch *out);
void gw_vm_watch_close(struct gw_vm_watch *watch); /* takes zeroed memory */
/* Takes in what has happened. Does not wait. */
int gw_vm_watch_look(struct gw_vm_watch *watch);
/* The same devices, disks and sizes as at the start? */
int gw_vm_watch_compare(struct gw_vm_watch *watch);

/* gw_vm_stop and gw_vm_cont, seen to be ours. A VM that its owner has paused is held without a stop,
 * and is_held stays false; cont does nothing for it. is_last: for the handover, and compares too. */
int gw_vm_watch_stop(struct gw_vm_watch *watch, bool is_last);
int gw_vm_watch_cont(struct gw_vm_watch *watch);
/* After stop: does the guest stand still, and has it ever since? */
int gw_vm_watch_still(struct gw_vm_watch *watch);

#endif
