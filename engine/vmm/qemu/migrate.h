/* SPDX-License-Identifier: Apache-2.0 */
/*
 * migrate: the state of a VM's devices, through QEMU's own stream. Guest RAM is left out of it
 * (x-ignore-shared): godwit has moved it by then.
 *
 * Errors: 0 or -errno with a message; QEMU's own words where it has any.
 * Order: source: gw_vm_stop → RAM complete on the target → gw_vm_save_state; target:
 *   gw_vm_prepare_target (gw_vm_launch does it) → gw_vm_load_state → disks swapped in → gw_vm_cont
 *   → gw_vm_announce. The target's RAM is complete before the first byte of the stream reaches it:
 *   loading reads RAM.
 * Threads: one at a time per QMP connection; save and load run on different hosts, or threads.
 * Units: nanoseconds and milliseconds as the names say; bytes.
 */
#ifndef GODWIT_ENGINE_VMM_QEMU_MIGRATE_H
#define GODWIT_ENGINE_VMM_QEMU_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/vmm/qemu/qmp.h"

/* A stream larger than this is not device state alone: some RAM was not ignored. Video RAM of 16
 * MiB and other small blocks travel in it. */
#define GW_STATE_MAX (96ull << 20)

struct gw_state_result {
    uint64_t bytes; /* through the stream, as QEMU counts */
    uint64_t ns;    /* from the command to "completed" */
};

/* "running", "paused", "inmigrate", ... */
int gw_vm_status(struct gw_qmp *qmp, char *state, size_t size);
/* Stops the guest and waits until its I/O has drained. *was_running false: it was paused already,
 * and nothing was done. An I/O error that stopped it meanwhile is -EIO. */
int gw_vm_stop(struct gw_qmp *qmp, bool *was_running);
/* The same, and asks in the same round trip (gw_qmp_execute_batch; at most GW_QMP_BATCH_MAX - 3): the
 * answers are of the stopped guest. The caller frees them in any case. */
int gw_vm_stop_and_ask(struct gw_qmp *qmp, bool *was_running, struct gw_qmp_call *questions,
                       unsigned count);
/* Resumes and waits for the RESUME event; -EIO when QEMU says yes but does not run. */
int gw_vm_cont(struct gw_qmp *qmp);
/* Continues a guest that stands still as a stop leaves it. One that runs, or does not run by its own doing (powered
 * off, suspended, panicked, an I/O error), is left as it is: a success. */
int gw_vm_let_go(struct gw_qmp *qmp);
/* Tells the network where the guest is now (RARP; the guest itself, with virtio-net). */
int gw_vm_announce(struct gw_qmp *qmp);

/* Source, before the pause: capability x-ignore-shared, no bandwidth limit. -EBUSY when a migration
 * of somebody else's is under way. */
int gw_vm_prepare_source(struct gw_qmp *qmp);
/* What gw_vm_prepare_source will change, as it is now: JSON for the journal; the caller drops it.
 */
int gw_vm_read_settings(struct gw_qmp *qmp, json_t **out);
/* Sets it back, after a move that was given up, once no migration winds down, and closes what a state was to be
 * written into. settings as read, or NULL: nothing to set. */
int gw_vm_restore_settings(struct gw_qmp *qmp, const json_t *settings);
/* Target: also late-block-activate, and no announcement while the guest is paused. */
int gw_vm_prepare_target(struct gw_qmp *qmp);

/* Writes the state of the stopped guest into fd (a socket or pipe; lent) and returns when QEMU says
 * "completed" or "failed", within timeout_ms (then it is cancelled). The guest stays stopped either
 * way. -EFBIG when RAM got into the stream. */
int gw_vm_save_state(struct gw_qmp *qmp, int fd, uint32_t timeout_ms, struct gw_state_result *out);
/* Reads the state from fd until the guest is loaded and paused. A stream that ends early, or that
 * does not fit, is an error; QEMU may be gone then (end it with gw_vm_end). */
int gw_vm_load_state(struct gw_qmp *qmp, int fd, uint32_t timeout_ms);
/* The same in two steps: begin may come long before the pause; QEMU waits for the first byte. The
 * far end of fd is kept open until end. */
int gw_vm_load_begin(struct gw_qmp *qmp, int fd);
int gw_vm_load_end(struct gw_qmp *qmp, int fd, uint32_t timeout_ms);
/* Cancels a migration that is under way and waits for its end; none under way is no error. */
int gw_vm_cancel_state(struct gw_qmp *qmp);

/* Why QEMU itself refuses to migrate, now (blocked-reasons): an array of strings, a new reference.
 */
int gw_vm_blocked_reasons(struct gw_qmp *qmp, json_t **reasons);

#endif
