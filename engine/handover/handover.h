/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover: the switchover of one VM between two hosts, as one pure state machine for both sides.
 * Events go in, actions come out; there is no I/O, no clock, no memory but struct gw_handover, so
 * that the same code runs in the agent, in a simulator and in an exhaustive search
 * (tests/engine/handover).
 *
 * docs/handover.md has the picture of the states, and what holds the rules.
 *
 * Errors: -EPROTO (-EBUSY for CANCEL) with a message for an event that the state does not expect;
 *   nothing has changed then.
 * Order: begin or restart first. The actions of one step are executed in order. They are notes
 *   (sends, redial, interrupt, alarm), which have no result, and steps, which have. When
 *   gw_handover.is_busy after a call, the list holds steps: the caller reports exactly one DONE
 *   when all succeeded, or one FAILED at the first that did not (the rest is not executed). While
 *   it is busy other events may be reported; what they return are notes only, executed at once. A
 *   step may run again after a FAILED or a restart: each is idempotent (what is done already is a
 *   success).
 * Threads: one owner per object; no locks.
 */
#ifndef GODWIT_ENGINE_HANDOVER_HANDOVER_H
#define GODWIT_ENGINE_HANDOVER_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/handover/journal.h"

/* The journal and the model use the names without the prefix ("COPYING"); each name is unique. */
enum gw_handover_state {
    GW_HANDOVER_NONE,
    /* source */
    GW_HANDOVER_COPYING,
    GW_HANDOVER_STOPPING,
    GW_HANDOVER_STOPPED,
    GW_HANDOVER_SWAPPING,
    GW_HANDOVER_SWAPPED,
    GW_HANDOVER_WAITING,
    GW_HANDOVER_CHECKING,
    GW_HANDOVER_COMMITTING,
    GW_HANDOVER_COMMITTED,
    GW_HANDOVER_COMMIT_UNSURE,
    GW_HANDOVER_IN_DOUBT,
    GW_HANDOVER_TARGET_LOST,
    GW_HANDOVER_RECLAIMING,
    GW_HANDOVER_HANDED_OVER,
    GW_HANDOVER_DONE,
    GW_HANDOVER_UNDOING,
    GW_HANDOVER_RESUMED,
    GW_HANDOVER_GONE,
    GW_HANDOVER_CLOSED,
    /* target */
    GW_HANDOVER_RECEIVING,
    GW_HANDOVER_LOADING,
    GW_HANDOVER_PLACING,
    GW_HANDOVER_PREPARING,
    GW_HANDOVER_PREPARED,
    GW_HANDOVER_OWNING,
    GW_HANDOVER_OWNER,
    GW_HANDOVER_RUNNING,
    GW_HANDOVER_ABORTING,
    GW_HANDOVER_ABORTED,
    GW_HANDOVER_GIVING_UP,
    GW_HANDOVER_NEVER_RAN,
    GW_HANDOVER_LOST,
    GW_HANDOVER_YIELDING,
    GW_HANDOVER_YIELDED,
    GW_HANDOVER_DISCARDED,
    GW_HANDOVER_STATE_COUNT
};

enum gw_handover_event {
    /* results of the list that is being executed */
    GW_EVENT_DONE,
    GW_EVENT_FAILED, /* of CONT on the target: QEMU itself answered an error on a connection that
                      * has been up since before, and sent no RESUME event. A connection that broke
                      * is VMM_GONE, or is reconnected and `cont` sent again. */
    /* from this host */
    GW_EVENT_CONVERGED, /* source: switch over now */
    GW_EVENT_CANCEL,    /* a person, or an engine that failed */
    GW_EVENT_TIMEOUT,   /* the pause (or the wait for the peer) has lasted too long */
    GW_EVENT_LINK_LOST,
    GW_EVENT_LINK_UP,  /* a new session with the same instance is authenticated */
    GW_EVENT_STRANGER, /* a peer with another instance id answers in the target's place */
    GW_EVENT_VMM_GONE, /* this side's QEMU has ended */
    GW_EVENT_GUARD_LOST,
    GW_EVENT_RETRY,          /* run the failed list again; a timer of the caller */
    GW_EVENT_RESOLVE_SOURCE, /* a person: the source keeps the VM, the target is fenced */
    GW_EVENT_RESOLVE_TARGET, /* a person: the target keeps the VM, the source is fenced */
    /* messages of the peer, checked to come from the recorded instance (gw_handover_hear) */
    GW_EVENT_FINISH,    /* to the target: RAM and disks are all sent, the device state follows */
    GW_EVENT_GO,        /* to the target */
    GW_EVENT_ABORT,     /* to the target */
    GW_EVENT_READY,     /* to the source: PREPARED is durable */
    GW_EVENT_RUNNING,   /* to the source: RUNNING */
    GW_EVENT_ABORTED,   /* to the source: durable, never will run */
    GW_EVENT_NEVER_RAN, /* to the source: durable, never will run */
    GW_EVENT_LOST,      /* to the source: it may have run, and its QEMU is lost */
    GW_EVENT_UNKNOWN,   /* to the source: no record of that epoch */
    GW_EVENT_COUNT
};

enum gw_handover_action {
    /* Notes: no result. A send on a link that is down is dropped. */
    GW_ACT_SEND_FINISH,
    GW_ACT_SEND_GO,
    GW_ACT_SEND_ABORT,
    GW_ACT_SEND_READY,
    GW_ACT_SEND_RUNNING,
    GW_ACT_SEND_ABORTED,
    GW_ACT_SEND_NEVER_RAN,
    GW_ACT_SEND_LOST,
    GW_ACT_REDIAL,    /* dial the peer, for ever, with growing intervals */
    GW_ACT_INTERRUPT, /* cut the step in hand short if that can be done; it still reports its result
                       */
    GW_ACT_ALARM,     /* the peer says the opposite of what this side was told (both run the VM, or
                   * nobody does): a person erred, and must be shown it */
    /* Steps of the source. */
    GW_ACT_TELL_GUARD_STOPPED, /* acknowledged by the guard, or it failed */
    GW_ACT_RENAME_IMAGES, /* to NAME.godwit-EPOCH, folders synced; undo told to the guard before. The
                           * guest still runs: QEMU has the files open and does not mind */
    GW_ACT_STOP_GUEST,    /* QMP stop */
    GW_ACT_COPY_LAST,     /* last dirty pages and extents, barrier over all channels */
    GW_ACT_SWAP_DISKS,    /* every disk onto its null-co node; each undo told to the guard before */
    GW_ACT_SEND_STATE,    /* the device state stream, to its end */
    GW_ACT_CHECK_VMM,     /* the same QEMU still answers, is paused */
    GW_ACT_TELL_GUARD_COMMITTING, /* acknowledged by the guard, or it failed */
    GW_ACT_RENAME_BACK,
    GW_ACT_SWAP_BACK,
    GW_ACT_CLEAN_SOURCE, /* bitmaps, nodes, throttles, capabilities; what QEMU refuses is logged only, what it
                          * does not answer fails */
    GW_ACT_TELL_GUARD_RESUMED, /* never fails a list */
    GW_ACT_DELETE_IMAGES, /* the renamed images, if the move asked for it; only ever after RUNNING
                           * was heard; what fails is logged only */
    /* Steps of the target. */
    GW_ACT_SYNC_IMAGES,
    GW_ACT_RENAME_FINAL, /* never over an existing name; lasts from KEEP_NAMES on */
    GW_ACT_LOAD_STATE,
    GW_ACT_SWAP_IN,
    GW_ACT_ANNOUNCE,   /* announce-self; what fails is logged only */
    GW_ACT_KEEP_NAMES, /* a final name that a power cut took back is given again; folders synced */
    GW_ACT_DISCARD,    /* removes every file of this epoch */
    GW_ACT_SET_ASIDE, /* renames the images to NAME.godwit-EPOCH: the guest may have written to them
                       */
    /* Steps of both. */
    GW_ACT_CONT, /* CHECK_VMM in its place when the VM was paused by its owner; at the source a guest that
                     * this move never stopped, or that does not run by its own doing, is left as it is */
    GW_ACT_END_VMM, /* done when the process is gone */
    /* gw_handover_action_state() says which state is recorded. Durable, or it failed. */
    GW_ACT_JOURNAL_COPYING, /* with the detail that an undo needs */
    GW_ACT_JOURNAL_COMMITTED,
    GW_ACT_JOURNAL_UNDOING,
    GW_ACT_JOURNAL_RESUMED,
    GW_ACT_JOURNAL_GONE,
    GW_ACT_JOURNAL_CLOSED,
    GW_ACT_JOURNAL_HANDED_OVER,
    GW_ACT_JOURNAL_DONE,
    GW_ACT_JOURNAL_RECEIVING,
    GW_ACT_JOURNAL_PREPARED,
    GW_ACT_JOURNAL_OWNER,
    GW_ACT_JOURNAL_RUNNING,
    GW_ACT_JOURNAL_ABORTED,
    GW_ACT_JOURNAL_NEVER_RAN,
    GW_ACT_JOURNAL_LOST,
    GW_ACT_JOURNAL_YIELDED,
    GW_ACT_JOURNAL_DISCARDED,
    GW_ACT_COUNT
};

#define GW_ACTIONS_MAX 8u

struct gw_handover_actions {
    unsigned count;
    enum gw_handover_action list[GW_ACTIONS_MAX];
};

/* Everything that the machine knows. Callers read it; only the functions below write it, except
 * is_guest_paused, which the caller keeps right until CONVERGED (a restart: from the journal's
 * detail), and is_contradicted, which the caller may set before a restart as it was. */
struct gw_handover {
    enum gw_handover_state state;
    uint8_t peer_instance[16];
    bool is_busy; /* DONE or FAILED is expected */
    bool is_linked;
    bool is_ready;        /* source: READY came before the device state's own end */
    bool is_abort_wanted; /* undo as soon as the list in hand has ended */
    bool is_vmm_gone;
    bool is_target_clean;   /* source: the target has promised never to run, or knows nothing */
    bool is_target_running; /* source: it said so itself */
    bool may_have_run;      /* target: an earlier life of the agent may have sent `cont` */
    bool is_guest_paused;   /* the VM was paused by its owner: it is never continued by godwit */
    bool is_contradicted;   /* the other host said the opposite (GW_ACT_ALARM), and nobody has
                             * settled it since */
    bool is_taken_back;     /* source: the images may have had their own names again when it was to
                             * give the VM away */
};

/* A new migration: the link is up. Leaves the machine busy with the first record. */
void gw_handover_begin(struct gw_handover *handover, enum gw_journal_side side,
                       const uint8_t peer_instance[16], struct gw_handover_actions *out);
/* After a start of the agent: entry as the journal has it, the link down. -EINVAL for a state that
 * is never journalled. Afterwards the caller reports VMM_GONE if the QEMU is not there (any more).
 * The restart of a source waits for its guard's end first (gw_guard_take_over). */
int gw_handover_restart(struct gw_handover *handover, const struct gw_journal_entry *entry,
                        struct gw_handover_actions *out);
int gw_handover_step(struct gw_handover *handover, enum gw_handover_event event,
                     struct gw_handover_actions *out);
/* Whether gw_handover_step would accept the event now. */
bool gw_handover_expects(const struct gw_handover *handover, enum gw_handover_event event);
/* A message of the peer with that instance id: gw_handover_step, or STRANGER when it is another
 * one. */
int gw_handover_hear(struct gw_handover *handover, const uint8_t instance[16],
                     enum gw_handover_event message, struct gw_handover_actions *out);

bool gw_handover_is_ended(
    enum gw_handover_state state); /* nothing is left to do; may still be asked */
/* A new move of the same VM may begin: this host knows who runs. */
bool gw_handover_is_decided(enum gw_handover_state state);
bool gw_handover_may_cancel(enum gw_handover_state state);
bool gw_handover_is_journalled(enum gw_handover_state state);
/* Must the record be on the disk before anything follows from it? One that need not outlives the
 * agent all the same. PREPARED: what ends the host ends its QEMU too, and then PREPARED and the
 * RECEIVING before it both lead to ABORTED. The next record takes it to the disk. */
bool gw_handover_needs_sync(enum gw_handover_state state);
enum gw_journal_side gw_handover_side(enum gw_handover_state state);
bool gw_handover_action_is_note(enum gw_handover_action action);
/* The state that a GW_ACT_JOURNAL_ action records; GW_HANDOVER_NONE for the others. */
enum gw_handover_state gw_handover_action_state(enum gw_handover_action action);

const char *gw_handover_state_name(enum gw_handover_state state); /* "COPYING" */
const char *gw_handover_event_name(enum gw_handover_event event); /* "CONVERGED" */
const char *gw_handover_action_name(enum gw_handover_action action);
/* One line for a person: who runs the VM, and what is awaited. */
const char *gw_handover_state_meaning(enum gw_handover_state state);
int gw_handover_state_parse(const char *name, enum gw_handover_state *out); /* -EINVAL */
/* Messages travel by their event's name. -EINVAL for one that is not a message. */
int gw_handover_message_parse(const char *name, enum gw_handover_event *out);
/* The message that a SEND_ note sends; GW_EVENT_COUNT for the others. */
enum gw_handover_event gw_handover_action_message(enum gw_handover_action action);

#endif
