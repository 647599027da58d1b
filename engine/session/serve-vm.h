/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve-vm: the target's VM in a session, shared by serve-vm-make.c (from the offer to the first record)
 * and serve-vm.c (its side of the handover). Private to those two.
 * Errors: as migration.h.
 * Threads: the session's; populate and finish are on threads of their own, which touch only what is theirs
 *   until they are joined.
 */
#ifndef GODWIT_ENGINE_SESSION_SERVE_VM_H
#define GODWIT_ENGINE_SESSION_SERVE_VM_H

#include <limits.h>
#include <pthread.h>

#include "engine/session/serve.h"
#include "engine/session/switchover.h"
#include "engine/session/target-steps.h"
#include "engine/vmm/qemu/disks.h"

#define GW_SERVE_PATH_SIZE 512u

struct gw_serve_vm {
    struct gw_serve *serve;
    struct gw_vm *vm; /* NULL for a move of an earlier session */
    struct gw_switchover switchover;
    struct gw_target_steps steps;
    bool is_begun, is_attended;
    bool was_prepared; /* the source may have been told READY */
    bool has_run_dir, has_ram_dir;
    char run_dir[GW_SERVE_PATH_SIZE], ram_dir[GW_SERVE_PATH_SIZE];
    char ram_paths[GW_VM_MEMORIES_MAX][GW_SERVE_PATH_SIZE];
    char images[GW_VM_DISKS_MAX][PATH_MAX];
    struct gw_disk_place places[GW_VM_DISKS_MAX];
    int state_fds[2]; /* QEMU's end of the device state and ours; -1: not begun */
    pthread_t finisher, populator;
    bool is_finishing, is_populating;
    struct gw_error finish_error, populate_error; /* of the threads, once joined */
    uint64_t finish_ns, populate_ns;
    json_t *offered; /* the volumes of the offer, while memory is made ready */
};

/* The steps of the switchover; context is the gw_serve_vm. */
int gw_serve_vm_act(void *context, enum gw_handover_action action);

/* The memory is ready, and nobody but the peer is in it any more. Again and again gives the same. */
int gw_serve_vm_join_memories(struct gw_serve_vm *vm);

#endif
