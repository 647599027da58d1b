/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target-steps: the target's VM and what can be done with it, from a live session or from the
 * journal. Private to engine/session.
 *
 * detail, as the journal keeps it:
 *   "qmp" path   "pid" and "process" of QEMU (process.h)   "run_dir"   "ram_dir"   "ram" [files]   "images" [final paths]
 *   "files" [what the images are, see identity]   "parts" [their paths before they are finished]
 *   "folders" [which these are in, see gw_part_folder]   "paused" by its owner   "owned": QEMU was started here
 *   GW_GIVEN_UP by a person: DISCARD does not wait for what is away (parts.h)
 * Errors: 0 or -errno with a message.
 * Threads: one per object.
 */
#ifndef GODWIT_ENGINE_SESSION_TARGET_STEPS_H
#define GODWIT_ENGINE_SESSION_TARGET_STEPS_H

#include "engine/handover/handover.h"
#include "engine/vmm/qemu/launch.h"

#define GW_GIVEN_UP "given-up"
/* "run_dir" is STATE/vm/ and so many digits of the epoch: sockets have short names. */
#define GW_VM_FOLDER_DIGITS 12

struct gw_target_steps {
    const char *epoch;
    json_t *detail;
    bool keeps_parts; /* DISCARD leaves the unfinished images: a later attempt goes on from them */
    struct gw_launched
        launched; /* qmp NULL: gone, or its monitor does not answer; pid_fd -1: gone */
};

/* CONT, ANNOUNCE, KEEP_NAMES, CHECK_VMM, END_VMM, DISCARD, SET_ASIDE. Idempotent. */
int gw_target_steps_act(struct gw_target_steps *steps, enum gw_handover_action action);
/* -ENOMEDIUM with a message: DISCARD waits for files that are away, or cannot be removed. */
int gw_target_steps_check_here(const struct gw_target_steps *steps);
void gw_target_steps_remove_memory(const struct gw_target_steps *steps);
/* From the journal: finds the QEMU again, and holds one whose monitor does not answer so that it can be ended. As
 * gw_process_find, but 0 when it has ended. state: as recorded. -EBUSY: an OWNER's lives and its monitor does not
 * answer, so that nobody can say whether it runs. */
int gw_target_steps_reconnect(struct gw_target_steps *steps, const char *state);

#endif
