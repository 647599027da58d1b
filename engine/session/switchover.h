/* SPDX-License-Identifier: Apache-2.0 */
/*
 * switchover: runs the handover's state machine (engine/handover/handover.h) on one side: journals
 * its states, sends its messages, and has the side's own steps done by a hook.
 *
 * Errors: 0 or -errno with a message. A step that failed is no error of event(): the machine
 *   undoes what it must, and cause keeps the first failure's words.
 * Order: begin or restart → event … → free.
 * Threads: the migration's control thread.
 * Units: nanoseconds.
 */
#ifndef GODWIT_ENGINE_SESSION_SWITCHOVER_H
#define GODWIT_ENGINE_SESSION_SWITCHOVER_H

#include "common/error.h"
#include "engine/handover/handover.h"
#include "engine/migration.h"
#include "engine/session/message.h"

struct gw_switchover {
    struct gw_handover machine;
    enum gw_journal_side side;
    struct gw_journal *journal;
    struct gw_progress *progress;
    struct gw_control *control; /* NULL while the link is down */
    char epoch[2 * GW_ID_SIZE + 1];
    json_t
        *detail; /* what a restart needs; recorded with every state; GW_CONTRADICTED is kept here */
    /* Does one step. Notes and journal records are done here. */
    int (*act)(void *context, enum gw_handover_action action);
    /* Source: has its QEMU ended? Asked when a step failed. May be NULL. */
    bool (*is_vmm_gone)(void *context);
    void *context;
    struct gw_error cause; /* of the first step that failed */
    bool
        wants_redial; /* the machine asked for the link again; recovery dials every few seconds anyway */
    /* Source: the target need not remove what a later attempt can go on from. Target: there is some. */
    bool keeps;
    enum gw_handover_state shown;     /* what the log has said */
    json_t *peer_times;               /* the target's steps, as it told them; the owner decrefs */
    uint64_t heard_ns;                /* when the newest message of the peer came */
    uint64_t action_ns[GW_ACT_COUNT]; /* how long each step took, the last time */
};

/* peer_instance is the other agent's. detail is taken over. */
int gw_switchover_begin(struct gw_switchover *switchover, const uint8_t *peer_instance);
int gw_switchover_restart(struct gw_switchover *switchover, const struct gw_journal_entry *entry);
/* Reports an event and does whatever follows from it, to the end. */
int gw_switchover_event(struct gw_switchover *switchover, enum gw_handover_event event);
/* A message {"type": "handover", "message": NAME} of the peer with that instance id. -EPROTO. */
int gw_switchover_hear(struct gw_switchover *switchover, const uint8_t *instance,
                       const json_t *message);
/* The journal's record once more, with the detail as it is now. */
int gw_switchover_record(struct gw_switchover *switchover, enum gw_handover_state state);
/* "journals", "stop", ... in milliseconds: where the time went. */
json_t *gw_switchover_times(const struct gw_switchover *switchover);

#endif
