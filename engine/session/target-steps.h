/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target-steps: the target's VM and what can be done with it, from a live session or from the
 * journal. Private to engine/session.
 *
 * detail, as the journal keeps it:
 *   "qmp" path   "pid"   "run_dir"   "ram_dir"   "ram" [files]   "images" [final paths]
 *   "files" [what the images are, see identity]   "parts" [their paths before they are finished]
 *   "paused" by its owner   "owned": QEMU was started here
 * Errors: 0 or -errno with a message.
 * Threads: one per object.
 */
#ifndef GODWIT_ENGINE_SESSION_TARGET_STEPS_H
#define GODWIT_ENGINE_SESSION_TARGET_STEPS_H

#include "engine/handover/handover.h"
#include "engine/vmm/qemu/launch.h"

struct gw_target_steps {
    const char *epoch;
    json_t *detail;
    bool keeps_parts; /* DISCARD leaves the unfinished images: a later attempt goes on from them */
    struct gw_launched launched; /* qmp NULL: gone, or not connected */
};

/* What tells the file at path from every other, or JSON null when it is no regular file. The caller
 * decrefs. */
json_t *gw_target_steps_identity(const char *path);
/* CONT, ANNOUNCE, KEEP_NAMES, CHECK_VMM, END_VMM, DISCARD, SET_ASIDE. Idempotent. */
int gw_target_steps_act(struct gw_target_steps *steps, enum gw_handover_action action);
/* From the journal: finds the QEMU again. qmp stays NULL when it is gone. */
void gw_target_steps_reconnect(struct gw_target_steps *steps);

#endif
