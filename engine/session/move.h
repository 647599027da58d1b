/* SPDX-License-Identifier: Apache-2.0 */
/*
 * move: the source's end of the move of a running VM, shared by its parts: move.c (the order of
 * things), move-open.c (what the VM is, the offer, its volumes), move-steps.c (the steps of the
 * handover) and recover.c (the same steps, from the journal). Private to engine/session.
 * Errors: as migration.h.
 * Threads: as migration.h.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_SESSION_MOVE_H
#define GODWIT_ENGINE_SESSION_MOVE_H

#include <limits.h>

#include "engine/handover/guard.h"
#include "engine/precopy/precopy.h"
#include "engine/session/partial.h"
#include "engine/session/parting.h"
#include "engine/session/source.h"
#include "engine/session/switchover.h"
#include "engine/vmm/qemu/describe.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/migrate.h"
#include "engine/vmm/qemu/watch.h"
#include "engine/volume/disk.h"
#include "engine/volume/nbd.h"
#include "engine/volume/ram.h"

#define GW_THROTTLE_PERIOD_NS (100 * GW_NS_PER_MS)

/* What can be done from the journal alone. detail:
 *   "peer"    ADDRESS:PORT           "qmp"    path of the QMP socket     "pid"  of QEMU
 *   "vm"      its name               "images" [paths]                    "undo" [QMP commands]
 *   "paused"  by its owner           "delete" the images after the move  "log"  of the guard
 *   "process" that pid is, see process.h
 *   "held"    by godwit: false while it has not stopped the guest and is not about to; then a restart does not
 *             continue it */
struct gw_source_steps {
    const struct gw_environment *environment;
    const char *epoch;
    json_t *detail;
    bool keeps;             /* the bitmaps stay in QEMU: a later attempt goes on from them */
    struct gw_qmp *qmp;     /* NULL when QEMU is gone, or another client has its monitor */
    int pid_fd;             /* of QEMU, -1 when it is gone: its number may be another's later */
    struct gw_guard *guard; /* NULL in a recovery: nobody needs to act when the agent dies again */
};

/* The process behind qmp, held while an answer of it shows that it lives: *pid_fd is closed by the
 * caller. -ESRCH when it has ended. */
int gw_source_steps_hold(struct gw_qmp *qmp, int *pid_fd);
/* Whether an earlier move, to this host, made the file of a VM's memory: it goes when the VM has gone on. */
bool gw_source_steps_own_memory(const struct gw_vm_memory *memory);
bool gw_source_steps_is_gone(const struct gw_source_steps *steps); /* the process has ended */
/* Keeps every other QEMU off the VM's devices (fence.h), where a file has lost its name. is_in_use: the VM's own may
 * still write to them. */
int gw_source_steps_fence(const struct gw_source_steps *steps, bool is_in_use);
int gw_source_steps_rename(struct gw_source_steps *steps);
int gw_source_steps_rename_back(struct gw_source_steps *steps);
int gw_source_steps_act(struct gw_source_steps *steps, enum gw_handover_action action);

struct gw_move {
    const struct gw_environment *environment;
    const struct gw_move_request *request;
    struct gw_progress *progress;
    struct gw_outcome *out;
    struct gw_qmp *qmp;
    struct gw_vm *vm;
    struct gw_reasons reasons;
    struct gw_source *source;
    char socket_dir[64]; /* for QEMU's NBD server; private */
    struct gw_source_volume *volumes[GW_VOLUMES_MAX];
    unsigned volume_count; /* disks first, in the order of vm->disks, then memories */
    struct gw_disk_tracker *trackers[GW_VM_DISKS_MAX];
    struct gw_disk_dirty dirty[GW_VM_DISKS_MAX];
    struct gw_disk_export exports[GW_VM_DISKS_MAX]; /* of disks that are read through QEMU */
    struct gw_disk_swap swaps[GW_VM_DISKS_MAX];
    unsigned swap_count;
    struct gw_precopy *precopy;
    struct gw_guard *guard;
    struct gw_switchover switchover;
    struct gw_source_steps steps;
    bool is_begun;            /* the switchover's machine is */
    bool is_blocked;          /* a check said no, here or at the target */
    struct gw_vm_watch watch; /* what the guest and its owner do meanwhile */
    uint64_t compared_ns;     /* when the watch last looked at what the VM consists of */
    bool is_swapped;          /* disks may be on null-co nodes */
    bool is_renamed;          /* the images have been set aside */
    /* Where the images of disks that are read beside QEMU by name are: they are renamed meanwhile. */
    char read_paths[GW_VM_DISKS_MAX][PATH_MAX];
    struct gw_parting parting; /* QEMU's part of the pause, beside the last copy */
    unsigned swap_step;        /* of the guard */
    uint64_t pages_ns, extents_ns;
    int guest_error;     /* of the last look at the guest */
    bool is_told_paused; /* what the target knows of the guest's owner */
    unsigned throttle_percent;
    uint64_t throttle_since_ns;
    uint64_t let_go_ns; /* when the guest, stopped while it is copied, was continued last */
    uint64_t stopped_ns, pause_ns, last_bytes, state_bytes;
    json_t *settings; /* of QEMU, to be set back */
    /* For an attempt that goes on where this one stopped, and of the one that this one goes on
     * with (move-partial.c). */
    bool can_keep;
    struct gw_partial partial, older;
    bool is_older_attended;          /* until this attempt has its place */
    bool is_older_gone;              /* the target has nothing of it any more */
    char instead[GW_EPOCH_TEXT_MAX]; /* an older attempt that this one takes the place of, or "" */
    uint64_t kept[GW_VM_DISKS_MAX];  /* bytes of each disk that the target has of older */
    uint64_t kept_bytes;             /* of all */
};

/* Connects to QEMU, describes the VM, checks it. -EPERM with move->reasons when something blocks.
 */
int gw_move_describe(struct gw_move *move);
/* Connects to the target and makes it ready for what is to come. */
int gw_move_offer(struct gw_move *move);
/* Opens disks and memories, their trackers, the pre-copy and the guard. */
int gw_move_open_volumes(struct gw_move *move);
void gw_move_close(struct gw_move *move);

/* move-partial.c, in the order of their use. load_older: -ESTALE when nothing can be gone on with. */
int gw_move_load_older(struct gw_move *move);
int gw_move_begin_partial(struct gw_move *move);
int gw_move_open_tracker(struct gw_move *move, unsigned index);
void gw_move_offer_partial(const struct gw_move *move, json_t *offer);
int gw_move_take_kept(struct gw_move *move, const json_t *accepted);
/* Between the opening of the trackers and the first pass: what the target has of older is compared with
 * the disks, and what differs is dirty. Whatever the guest writes from now on is, too, so a granule
 * that it writes meanwhile may well differ for no reason, and never is equal for none. */
int gw_move_compare_kept(struct gw_move *move);
uint64_t gw_move_sync_interval_ns(const struct gw_move *move);
json_t *gw_move_sync_request(const struct gw_move *move);
int gw_move_take_synced(struct gw_move *move, const json_t *synced);
/* The copying ended with this error: what stays? */
void gw_move_decide_keep(struct gw_move *move, int error);
void gw_move_close_partial(struct gw_move *move); /* after QEMU's connection was closed */

/* How long the guest may stand still for somebody who does not answer. */
uint64_t gw_move_patience_ms(const struct gw_move *move);
/* The guest, stopped and continued by us; told to the guard. Idempotent. */
int gw_move_stop(struct gw_move *move);
int gw_move_cont(struct gw_move *move);
/* Has the guest, or its owner, done something that ends the move? -EBUSY then. */
int gw_move_look(struct gw_move *move);
/* Tells the guard, the target and what will be journalled whether the guest's owner has it paused.
 */
int gw_move_settle_owner(struct gw_move *move);
/* The switchover's hook; context is the move. */
int gw_move_act(void *context, enum gw_handover_action action);

#endif
