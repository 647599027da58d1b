/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switchover's rules, as one table in four chapters: in which states an event is expected, where
 * it leads, and what is to be done there. The first row that fits wins; an event without a row is
 * refused. Nothing is executed here and no time is known. The texts of the names are in names.c.
 */
#include "engine/handover/handover.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

/* What must hold for a row, beyond its state and the event. */
enum condition {
    ALWAYS,
    IDLE,
    BUSY,
    GONE,
    ABORT,
    READY,
    CLEAN,
    UNLINKED,
    MAYBE_RAN,
    TARGET_RUNS,
    UNANSWERED,  /* idle, and the target has not said that it runs */
    CONTRADICTED /* idle, and the other host says the opposite of what this one was told */
};

/* The lists of actions. A list with a step in it makes the machine busy. */
enum list {
    NO_ACTION,
    /* notes */
    GO,
    ASK_ABORT,
    REDIAL,
    INTERRUPT,
    ALARM,
    SAY_RUNNING,
    CONTRADICT,
    SAY_ABORTED,
    SAY_NEVER_RAN,
    SAY_LOST,
    /* steps of the source */
    RECORD_COPYING,
    STOP,
    COPY_LAST,
    SWAP,
    SEND_STATE,
    LAST_LOOK,
    COMMIT,
    FORGET_COMMIT,
    RECLAIM,
    UNDO_EARLY,
    UNDO,
    RECORD_RESUMED,
    PUT_BACK,
    CLOSE,
    HAND_OVER,
    FINISH,
    /* steps of the target */
    RECORD_RECEIVING,
    LOAD,
    PLACE,
    PREPARE,
    SAY_READY,
    OWN,
    CONTINUE,
    SETTLE,
    KEEP,
    PROMISE_ABORT,
    CLEAR_ABORTED,
    GIVE_UP,
    CLEAR_NEVER_RAN,
    RECORD_LOST,
    YIELD,
    SET_ASIDE,
    LIST_COUNT
};

#define A(name) GW_ACT_##name

static const struct gw_handover_actions lists[LIST_COUNT] = {
    [GO] = {1, {A(SEND_GO)}},
    [ASK_ABORT] = {1, {A(SEND_ABORT)}},
    [REDIAL] = {1, {A(REDIAL)}},
    [INTERRUPT] = {1, {A(INTERRUPT)}},
    [ALARM] = {1, {A(ALARM)}},
    [SAY_RUNNING] = {1, {A(SEND_RUNNING)}},
    [CONTRADICT] = {2, {A(SEND_RUNNING), A(ALARM)}},
    [SAY_ABORTED] = {1, {A(SEND_ABORTED)}},
    [SAY_NEVER_RAN] = {1, {A(SEND_NEVER_RAN)}},
    [SAY_LOST] = {1, {A(SEND_LOST)}},

    [RECORD_COPYING] = {1, {A(JOURNAL_COPYING)}},
    /* The names go before the guest is stopped: their sync is no part of the pause. */
    [STOP] = {4, {A(JOURNAL_COPYING), A(TELL_GUARD_STOPPED), A(RENAME_IMAGES), A(STOP_GUEST)}},
    [COPY_LAST] = {1, {A(COPY_LAST)}},
    [SWAP] = {1, {A(SWAP_DISKS)}},
    [SEND_STATE] = {2, {A(SEND_FINISH), A(SEND_STATE)}},
    /* Every step since the rename needed the same QEMU, so none was started on the images in place of
     * it. The look shows that nobody has continued the guest. */
    [LAST_LOOK] = {2, {A(CHECK_VMM), A(TELL_GUARD_COMMITTING)}},
    [COMMIT] = {1, {A(JOURNAL_COMMITTED)}},
    /* A record that failed may be on disk all the same. It is overwritten, or the target's promise
     * not to run is fetched, before the guest goes on. */
    [FORGET_COMMIT] = {2, {A(SEND_ABORT), A(JOURNAL_UNDOING)}},
    [RECLAIM] = {1, {A(JOURNAL_UNDOING)}},
    [UNDO_EARLY] = {3, {A(SEND_ABORT), A(CLEAN_SOURCE), A(TELL_GUARD_RESUMED)}},
    [UNDO] = {6,
              {A(SEND_ABORT), A(RENAME_BACK), A(SWAP_BACK), A(CONT), A(CLEAN_SOURCE),
               A(TELL_GUARD_RESUMED)}},
    [RECORD_RESUMED] = {1, {A(JOURNAL_RESUMED)}},
    [PUT_BACK] = {4, {A(SEND_ABORT), A(RENAME_BACK), A(TELL_GUARD_RESUMED), A(JOURNAL_GONE)}},
    [CLOSE] = {1, {A(JOURNAL_CLOSED)}},
    /* The rename is for a source whose images may have their own names (enter): no supervisor is to find the
     * images under their own names once its QEMU is ended. GO once more: a person may have given
     * the VM to a target that never had the first one. It is sent behind the durable record only. */
    [HAND_OVER] = {4, {A(RENAME_IMAGES), A(JOURNAL_HANDED_OVER), A(END_VMM), A(SEND_GO)}},
    [FINISH] = {2, {A(DELETE_IMAGES), A(JOURNAL_DONE)}},

    [RECORD_RECEIVING] = {1, {A(JOURNAL_RECEIVING)}},
    [LOAD] = {3, {A(SYNC_IMAGES), A(RENAME_FINAL), A(LOAD_STATE)}},
    [PLACE] = {2, {A(SWAP_IN), A(CHECK_VMM)}},
    [PREPARE] = {1, {A(JOURNAL_PREPARED)}},
    [SAY_READY] = {1, {A(SEND_READY)}},
    [OWN] = {1, {A(JOURNAL_OWNER)}},
    [CONTINUE] = {1, {A(CONT)}},
    /* Until the final names are on the disk OWNER is what gives them back after a power cut. */
    [SETTLE] = {4, {A(SEND_RUNNING), A(ANNOUNCE), A(KEEP_NAMES), A(JOURNAL_RUNNING)}},
    [KEEP] = {3, {A(KEEP_NAMES), A(JOURNAL_RUNNING), A(SEND_RUNNING)}},
    [PROMISE_ABORT] = {1, {A(JOURNAL_ABORTED)}},
    [CLEAR_ABORTED] = {4, {A(SEND_ABORTED), A(END_VMM), A(DISCARD), A(JOURNAL_DISCARDED)}},
    [GIVE_UP] = {2, {A(END_VMM), A(JOURNAL_NEVER_RAN)}},
    [CLEAR_NEVER_RAN] = {4, {A(SEND_NEVER_RAN), A(END_VMM), A(DISCARD), A(JOURNAL_DISCARDED)}},
    [RECORD_LOST] = {3, {A(KEEP_NAMES), A(JOURNAL_LOST), A(SEND_LOST)}},
    [YIELD] = {2, {A(END_VMM), A(JOURNAL_YIELDED)}},
    [SET_ASIDE] = {3, {A(SEND_ABORTED), A(SET_ASIDE), A(JOURNAL_DISCARDED)}},
};

#define S(name) (UINT64_C(1) << GW_HANDOVER_##name)
#define E(name) (UINT32_C(1) << GW_EVENT_##name)

static_assert(GW_HANDOVER_STATE_COUNT <= 64, "states fit one mask");
static_assert(GW_EVENT_COUNT <= 32, "events fit one mask");

/* Source states in which the guest is stopped or being stopped and a list is in hand. */
#define PAUSING (S(STOPPING) | S(STOPPED) | S(SWAPPING) | S(SWAPPED) | S(CHECKING))
/* What makes a source before COMMITTING give up. */
#define SOURCE_TROUBLE                                                                             \
    (E(CANCEL) | E(TIMEOUT) | E(ABORTED) | E(NEVER_RAN) | E(UNKNOWN) | E(STRANGER))
#define PAUSE_TROUBLE  (SOURCE_TROUBLE | E(LINK_LOST) | E(GUARD_LOST))
#define TARGET_TROUBLE (E(CANCEL) | E(TIMEOUT) | E(VMM_GONE) | E(ABORT) | E(RESOLVE_SOURCE))
#define TARGET_WORK    (S(LOADING) | S(PLACING) | S(PREPARING))
#define RESULTS        (E(DONE) | E(FAILED))
/* The target's promises never to run, and the proofs that it has nothing to run. */
#define PROMISES (E(ABORTED) | E(NEVER_RAN))
#define NO_PEER  (PROMISES | E(UNKNOWN) | E(STRANGER))
#define WEATHER  (E(LINK_LOST) | E(LINK_UP) | E(GUARD_LOST) | E(TIMEOUT) | E(STRANGER))
#define ANSWERS  (PROMISES | E(RUNNING) | E(LOST) | E(UNKNOWN) | E(READY))

#define SAME GW_HANDOVER_NONE

struct rule {
    uint64_t states;
    uint32_t events;
    enum condition when;
    enum gw_handover_state next;
    enum list list;
};

#define NEXT(name) GW_HANDOVER_##name

/* Source, before COMMITTING: every trouble leads to a source that runs. */
static const struct rule before_committing[] = {
    {S(COPYING), E(DONE), GONE, NEXT(GONE), PUT_BACK},
    {S(COPYING), E(DONE), ABORT, NEXT(UNDOING), UNDO_EARLY},
    {S(COPYING), E(DONE), BUSY, SAME, NO_ACTION},
    {S(COPYING), E(FAILED), BUSY, NEXT(UNDOING), UNDO_EARLY},
    {S(COPYING), E(CONVERGED), IDLE, NEXT(STOPPING), STOP},
    {S(COPYING), SOURCE_TROUBLE, IDLE, NEXT(UNDOING), UNDO_EARLY},
    {S(COPYING), E(VMM_GONE), IDLE, NEXT(GONE), PUT_BACK},
    {S(COPYING), SOURCE_TROUBLE | E(VMM_GONE), BUSY, SAME, INTERRUPT},
    {S(COPYING), E(LINK_LOST), ALWAYS, SAME, REDIAL},
    {S(COPYING), E(LINK_UP) | E(GUARD_LOST), ALWAYS, SAME, NO_ACTION},

    {PAUSING, PAUSE_TROUBLE | E(VMM_GONE), BUSY, SAME, INTERRUPT},
    {PAUSING, RESULTS, GONE, NEXT(GONE), PUT_BACK},
    {PAUSING, RESULTS, ABORT, NEXT(UNDOING), UNDO},
    {PAUSING, E(FAILED), BUSY, NEXT(UNDOING), UNDO},
    {PAUSING, E(LINK_UP), ALWAYS, SAME, NO_ACTION},
    {S(STOPPING), E(DONE), BUSY, NEXT(STOPPED), COPY_LAST},
    {S(STOPPED), E(DONE), BUSY, NEXT(SWAPPING), SWAP},
    {S(SWAPPING), E(DONE), BUSY, NEXT(SWAPPED), SEND_STATE},
    {S(SWAPPED), E(READY), BUSY, SAME, NO_ACTION},
    {S(SWAPPED), E(DONE), READY, NEXT(CHECKING), LAST_LOOK},
    {S(SWAPPED), E(DONE), BUSY, NEXT(WAITING), NO_ACTION},
    {S(WAITING), E(READY), ALWAYS, NEXT(CHECKING), LAST_LOOK},
    {S(WAITING), PAUSE_TROUBLE, ALWAYS, NEXT(UNDOING), UNDO},
    {S(WAITING), E(VMM_GONE), ALWAYS, NEXT(GONE), PUT_BACK},
    {S(WAITING), E(LINK_UP), ALWAYS, SAME, NO_ACTION},
    {S(CHECKING), E(DONE), BUSY, NEXT(COMMITTING), COMMIT},
};

/* Source, from COMMITTING on: it never resumes by itself. */
static const struct rule from_committing[] = {
    {S(COMMITTING), WEATHER | PROMISES | E(UNKNOWN) | E(READY) | E(VMM_GONE), BUSY, SAME,
     NO_ACTION},
    {S(COMMITTING), E(DONE), CLEAN, NEXT(RECLAIMING), RECLAIM},
    {S(COMMITTING), E(DONE), UNLINKED, NEXT(IN_DOUBT), REDIAL},
    {S(COMMITTING), E(DONE), BUSY, NEXT(COMMITTED), GO},
    {S(COMMITTING), E(FAILED), CLEAN, NEXT(UNDOING), UNDO},
    {S(COMMITTING), E(FAILED), BUSY, NEXT(COMMIT_UNSURE), FORGET_COMMIT},

    {S(COMMIT_UNSURE), E(DONE), BUSY, NEXT(UNDOING), UNDO},
    {S(COMMIT_UNSURE), E(FAILED), CLEAN, NEXT(UNDOING), UNDO},
    {S(COMMIT_UNSURE), E(FAILED), UNLINKED, SAME, REDIAL},
    {S(COMMIT_UNSURE), E(FAILED), BUSY, SAME, NO_ACTION},
    {S(COMMIT_UNSURE), PROMISES, IDLE, NEXT(UNDOING), UNDO},
    {S(COMMIT_UNSURE), E(RUNNING), IDLE, NEXT(HANDED_OVER), HAND_OVER},
    /* Nothing was given away, and after a restart the VM may run from its images by now: there is
     * nothing for a person to give. */
    {S(COMMIT_UNSURE), E(RETRY) | E(RESOLVE_SOURCE), IDLE, SAME, FORGET_COMMIT},
    {S(COMMIT_UNSURE), E(LINK_UP) | E(READY), ALWAYS, SAME, ASK_ABORT},
    {S(COMMIT_UNSURE), E(LINK_LOST), ALWAYS, SAME, REDIAL},
    {S(COMMIT_UNSURE), E(LOST), ALWAYS, SAME, ALARM},
    {S(COMMIT_UNSURE), WEATHER | ANSWERS | E(VMM_GONE), ALWAYS, SAME, NO_ACTION},

    {S(COMMITTED) | S(IN_DOUBT) | S(TARGET_LOST), E(RUNNING), ALWAYS, NEXT(HANDED_OVER), HAND_OVER},
    {S(COMMITTED) | S(IN_DOUBT) | S(TARGET_LOST), PROMISES, ALWAYS, NEXT(RECLAIMING), RECLAIM},
    {S(COMMITTED) | S(IN_DOUBT) | S(TARGET_LOST), E(LOST), ALWAYS, NEXT(TARGET_LOST), NO_ACTION},
    {S(COMMITTED), E(LINK_LOST), ALWAYS, NEXT(IN_DOUBT), REDIAL},
    {S(COMMITTED), E(TIMEOUT), ALWAYS, NEXT(IN_DOUBT), GO},
    {S(COMMITTED), E(UNKNOWN) | E(STRANGER), ALWAYS, NEXT(IN_DOUBT), NO_ACTION},
    {S(IN_DOUBT) | S(TARGET_LOST), E(RESOLVE_SOURCE), ALWAYS, NEXT(RECLAIMING), RECLAIM},
    {S(IN_DOUBT) | S(TARGET_LOST), E(RESOLVE_TARGET), ALWAYS, NEXT(HANDED_OVER), HAND_OVER},
    {S(IN_DOUBT) | S(TARGET_LOST), E(LINK_LOST), ALWAYS, SAME, REDIAL},
    {S(IN_DOUBT) | S(TARGET_LOST), E(RETRY), ALWAYS, SAME, GO},
    {S(COMMITTED) | S(IN_DOUBT) | S(TARGET_LOST), E(LINK_UP) | E(READY), ALWAYS, SAME, GO},
    {S(COMMITTED) | S(IN_DOUBT) | S(TARGET_LOST), WEATHER | E(UNKNOWN) | E(VMM_GONE), ALWAYS, SAME,
     NO_ACTION},

    {S(RECLAIMING), E(DONE), GONE, NEXT(GONE), PUT_BACK},
    {S(RECLAIMING), E(DONE), BUSY, NEXT(UNDOING), UNDO},
    {S(RECLAIMING), E(FAILED), UNLINKED, NEXT(IN_DOUBT), REDIAL},
    {S(RECLAIMING), E(FAILED), BUSY, NEXT(IN_DOUBT), NO_ACTION},
    {S(RECLAIMING), E(RUNNING), ALWAYS, SAME, ALARM},
    {S(RECLAIMING), WEATHER | ANSWERS | E(VMM_GONE), ALWAYS, SAME, NO_ACTION},

    /* It is over when the target says that it runs; until then GO is the question. A target that
     * says that it will not leaves the VM to nobody, which a person is shown. */
    {S(HANDED_OVER), E(DONE), TARGET_RUNS, NEXT(DONE), FINISH},
    {S(HANDED_OVER), RESULTS, UNLINKED, SAME, REDIAL},
    {S(HANDED_OVER), RESULTS, BUSY, SAME, NO_ACTION},
    /* Never GO before the QEMU of a source that may still run it has ended: the whole list again. */
    {S(HANDED_OVER), E(RETRY) | E(RUNNING) | E(READY) | E(LINK_UP), IDLE, SAME, HAND_OVER},
    {S(HANDED_OVER), E(RESOLVE_SOURCE), UNANSWERED, NEXT(RECLAIMING), RECLAIM},
    {S(HANDED_OVER), E(LINK_LOST), ALWAYS, SAME, REDIAL},
    {S(DONE), RESULTS, BUSY, SAME, NO_ACTION},
    {S(DONE), E(RETRY), IDLE, SAME, FINISH},
    {S(HANDED_OVER) | S(DONE), PROMISES, ALWAYS, SAME, ALARM},
    {S(DONE), E(READY) | E(LINK_UP), ALWAYS, SAME, GO},
    {S(HANDED_OVER) | S(DONE), WEATHER | ANSWERS | E(VMM_GONE), ALWAYS, SAME, NO_ACTION},
};

/* Source, going on. */
static const struct rule going_on[] = {
    {S(UNDOING), RESULTS, GONE, NEXT(GONE), PUT_BACK},
    {S(UNDOING), E(DONE), BUSY, NEXT(RESUMED), RECORD_RESUMED},
    {S(UNDOING), E(FAILED), BUSY, SAME, NO_ACTION},
    {S(UNDOING), E(RETRY), IDLE, SAME, UNDO},
    {S(UNDOING), E(VMM_GONE), IDLE, NEXT(GONE), PUT_BACK},
    {S(RESUMED), E(DONE), CLEAN, NEXT(CLOSED), CLOSE},
    {S(RESUMED), RESULTS, UNLINKED, SAME, REDIAL},
    {S(RESUMED), RESULTS, BUSY, SAME, NO_ACTION},
    {S(RESUMED), E(RETRY), IDLE, SAME, RECORD_RESUMED},
    {S(GONE), E(DONE), CLEAN, NEXT(CLOSED), CLOSE},
    {S(GONE), RESULTS, UNLINKED, SAME, REDIAL},
    {S(GONE), RESULTS, BUSY, SAME, NO_ACTION},
    {S(GONE), E(RETRY), IDLE, SAME, PUT_BACK},
    {S(RESUMED), NO_PEER, IDLE, NEXT(CLOSED), CLOSE},
    {S(GONE), NO_PEER, IDLE, SAME, PUT_BACK}, /* the last attempt may have failed */
    {S(RESUMED) | S(GONE), E(LINK_LOST), IDLE, SAME, REDIAL},
    {S(RESUMED) | S(GONE), E(RESOLVE_TARGET), CONTRADICTED, NEXT(HANDED_OVER), HAND_OVER},
    {S(CLOSED), RESULTS, BUSY, SAME, NO_ACTION},
    {S(CLOSED), E(RETRY), IDLE, SAME, CLOSE},
    {S(UNDOING) | S(RESUMED) | S(GONE), E(LINK_UP), ALWAYS, SAME, ASK_ABORT},
    {S(UNDOING) | S(RESUMED) | S(GONE) | S(CLOSED), E(READY), ALWAYS, SAME, ASK_ABORT},
    {S(UNDOING) | S(RESUMED) | S(GONE) | S(CLOSED), E(RUNNING) | E(LOST), ALWAYS, SAME, ALARM},
    {S(UNDOING) | S(RESUMED) | S(GONE) | S(CLOSED), WEATHER | ANSWERS | E(VMM_GONE), ALWAYS, SAME,
     NO_ACTION},
};

static const struct rule at_target[] = {
    /* ---- before OWNING: it may abort, and says so only once that is durable ---- */
    {S(RECEIVING), E(DONE), ABORT, NEXT(ABORTING), PROMISE_ABORT},
    {S(RECEIVING), E(DONE), BUSY, SAME, NO_ACTION},
    {S(RECEIVING), E(FAILED), BUSY, NEXT(ABORTING), PROMISE_ABORT},
    {S(RECEIVING), E(FINISH), IDLE, NEXT(LOADING), LOAD},
    {S(RECEIVING), TARGET_TROUBLE, IDLE, NEXT(ABORTING), PROMISE_ABORT},
    {S(RECEIVING) | TARGET_WORK, TARGET_TROUBLE, BUSY, SAME, INTERRUPT},
    {TARGET_WORK, RESULTS, ABORT, NEXT(ABORTING), PROMISE_ABORT},
    {TARGET_WORK, E(FAILED), BUSY, NEXT(ABORTING), PROMISE_ABORT},
    {S(LOADING), E(DONE), BUSY, NEXT(PLACING), PLACE},
    {S(PLACING), E(DONE), BUSY, NEXT(PREPARING), PREPARE},
    {S(PREPARING), E(DONE), BUSY, NEXT(PREPARED), SAY_READY},
    /* The source may be committed by now: a wait that is too long ends nothing here. */
    {S(PREPARED), E(TIMEOUT), ALWAYS, SAME, NO_ACTION},
    {S(PREPARED), E(GO) | E(RESOLVE_TARGET), ALWAYS, NEXT(OWNING), OWN},
    {S(PREPARED), TARGET_TROUBLE, ALWAYS, NEXT(ABORTING), PROMISE_ABORT},

    /* ---- the owner ---- */
    {S(OWNING), E(DONE), GONE, NEXT(GIVING_UP), GIVE_UP},
    {S(OWNING), E(DONE), BUSY, NEXT(OWNER), CONTINUE},
    {S(OWNING), E(FAILED), BUSY, NEXT(GIVING_UP), GIVE_UP},
    {S(OWNER), RESULTS, GONE, NEXT(LOST), RECORD_LOST},
    {S(OWNER), E(DONE), BUSY, NEXT(RUNNING), SETTLE},
    {S(OWNER), E(FAILED), MAYBE_RAN, NEXT(LOST), RECORD_LOST},
    {S(OWNER), E(FAILED), BUSY, NEXT(GIVING_UP), GIVE_UP},
    {S(RUNNING), RESULTS, BUSY, SAME, NO_ACTION},
    {S(RUNNING), E(RETRY), IDLE, SAME, KEEP},
    {S(RUNNING), E(GO), ALWAYS, SAME, SAY_RUNNING},
    {S(RUNNING), E(ABORT), ALWAYS, SAME, CONTRADICT},
    {S(RUNNING), E(RESOLVE_SOURCE), CONTRADICTED, NEXT(YIELDING), YIELD},
    {S(LOST), RESULTS, BUSY, SAME, NO_ACTION},
    {S(LOST), E(RETRY), IDLE, SAME, RECORD_LOST},
    {S(LOST), E(GO) | E(ABORT), ALWAYS, SAME, SAY_LOST},
    {S(LOST), E(RESOLVE_SOURCE), IDLE, NEXT(YIELDING), YIELD},
    {S(LOST), E(RESOLVE_TARGET), IDLE, NEXT(RUNNING), KEEP},

    /* ---- giving the VM back ---- */
    {S(ABORTING), E(DONE), BUSY, NEXT(ABORTED), CLEAR_ABORTED},
    {S(ABORTING), E(RETRY), IDLE, SAME, PROMISE_ABORT},
    {S(GIVING_UP), E(DONE), BUSY, NEXT(NEVER_RAN), CLEAR_NEVER_RAN},
    {S(GIVING_UP), E(RETRY), IDLE, SAME, GIVE_UP},
    {S(YIELDING), E(DONE), BUSY, NEXT(YIELDED), SET_ASIDE},
    {S(YIELDING), E(FAILED), BUSY, NEXT(LOST), NO_ACTION},
    {S(ABORTED), E(RETRY), IDLE, SAME, CLEAR_ABORTED},
    {S(NEVER_RAN), E(RETRY), IDLE, SAME, CLEAR_NEVER_RAN},
    {S(YIELDED), E(RETRY), IDLE, SAME, SET_ASIDE},
    {S(ABORTED) | S(NEVER_RAN) | S(YIELDED), E(DONE), BUSY, NEXT(DISCARDED), NO_ACTION},
    {S(ABORTING) | S(GIVING_UP) | S(ABORTED) | S(NEVER_RAN) | S(YIELDED), E(FAILED), BUSY, SAME,
     NO_ACTION},
    {S(NEVER_RAN), E(GO) | E(ABORT), ALWAYS, SAME, SAY_NEVER_RAN},
    {S(ABORTED) | S(YIELDED) | S(DISCARDED), E(GO) | E(ABORT), ALWAYS, SAME, SAY_ABORTED},

    /* ---- anywhere: weather; questions that will be answered when the record in hand is made ---- */
    {S(OWNING) | S(OWNER) | S(ABORTING) | S(GIVING_UP) | S(YIELDING), E(GO) | E(ABORT), ALWAYS,
     SAME, NO_ACTION},
    {S(OWNING) | S(OWNER) | S(RUNNING) | S(LOST) | S(ABORTING) | S(GIVING_UP) | S(YIELDING) |
         S(ABORTED) | S(NEVER_RAN) | S(YIELDED) | S(DISCARDED),
     E(VMM_GONE) | E(TIMEOUT), ALWAYS, SAME, NO_ACTION},
    {S(RECEIVING) | TARGET_WORK | S(PREPARED) | S(OWNING) | S(OWNER) | S(RUNNING) | S(LOST) |
         S(ABORTING) | S(GIVING_UP) | S(YIELDING) | S(ABORTED) | S(NEVER_RAN) | S(YIELDED) |
         S(DISCARDED),
     E(LINK_LOST) | E(LINK_UP) | E(STRANGER), ALWAYS, SAME, NO_ACTION},
};

/* Each state has its rows in one chapter: the first whose last state is not before it. */
static const struct {
    enum gw_handover_state last;
    unsigned count;
    const struct rule *rules;
} chapters[] = {
    {NEXT(CHECKING), GW_ARRAY_LENGTH(before_committing), before_committing},
    {NEXT(DONE), GW_ARRAY_LENGTH(from_committing), from_committing},
    {NEXT(CLOSED), GW_ARRAY_LENGTH(going_on), going_on},
    {NEXT(DISCARDED), GW_ARRAY_LENGTH(at_target), at_target},
};

static_assert(GW_HANDOVER_DISCARDED == GW_HANDOVER_STATE_COUNT - 1, "each state has a chapter");

/* What a restart from a journalled state leads to. */
struct restart {
    enum gw_handover_state recorded, next;
    enum list list;
};

static const struct restart restarts[] = {
    /* A COMMITTED that failed may lie behind it: it is overwritten before the guest goes on. */
    {NEXT(COPYING), NEXT(COMMIT_UNSURE), FORGET_COMMIT},
    {NEXT(COMMITTED), NEXT(IN_DOUBT), REDIAL},
    {NEXT(UNDOING), NEXT(UNDOING), UNDO},
    {NEXT(RESUMED), NEXT(RESUMED), REDIAL},
    {NEXT(GONE), NEXT(GONE), PUT_BACK},
    {NEXT(CLOSED), NEXT(CLOSED), NO_ACTION},
    {NEXT(HANDED_OVER), NEXT(HANDED_OVER), HAND_OVER},
    {NEXT(DONE), NEXT(DONE), NO_ACTION},
    {NEXT(RECEIVING), NEXT(ABORTING), PROMISE_ABORT},
    {NEXT(PREPARED), NEXT(PREPARED), NO_ACTION},
    {NEXT(OWNER), NEXT(OWNER), CONTINUE},
    {NEXT(RUNNING), NEXT(RUNNING), NO_ACTION},
    {NEXT(ABORTED), NEXT(ABORTED), CLEAR_ABORTED},
    {NEXT(NEVER_RAN), NEXT(NEVER_RAN), CLEAR_NEVER_RAN},
    {NEXT(LOST), NEXT(LOST), NO_ACTION},
    {NEXT(YIELDED), NEXT(YIELDED), SET_ASIDE},
    {NEXT(DISCARDED), NEXT(DISCARDED), NO_ACTION},
};

static bool holds(const struct gw_handover *handover, enum condition when)
{
    switch (when) {
    case ALWAYS:
        return true;
    case IDLE:
        return !handover->is_busy;
    case BUSY:
        return handover->is_busy;
    case GONE:
        return handover->is_vmm_gone;
    case ABORT:
        return handover->is_abort_wanted;
    case READY:
        return handover->is_ready;
    case CLEAN:
        return handover->is_target_clean;
    case UNLINKED:
        return !handover->is_linked;
    case MAYBE_RAN:
        return handover->may_have_run;
    case TARGET_RUNS:
        return handover->is_target_running;
    case UNANSWERED:
        return !handover->is_busy && !handover->is_target_running;
    case CONTRADICTED:
        return !handover->is_busy && handover->is_contradicted;
    }
    return false;
}

/* What an event says for good, whatever the state. */
static void remember(struct gw_handover *handover, enum gw_handover_event event)
{
    const uint64_t uncommitted =
        S(COPYING) | PAUSING | S(WAITING) | S(UNDOING) | S(RESUMED) | S(GONE);
    const bool has_given =
        handover->state == GW_HANDOVER_HANDED_OVER || handover->state == GW_HANDOVER_DONE;

    switch (event) {
    case GW_EVENT_DONE:
    case GW_EVENT_FAILED:
        handover->is_busy = false;
        break;
    case GW_EVENT_LINK_LOST:
        handover->is_linked = false;
        break;
    case GW_EVENT_LINK_UP:
        handover->is_linked = true;
        break;
    case GW_EVENT_VMM_GONE:
        handover->is_vmm_gone = true;
        break;
    case GW_EVENT_READY:
        handover->is_ready = true;
        break;
    case GW_EVENT_RUNNING:
        handover->is_target_running = true;
        handover->is_contradicted = handover->is_contradicted && !has_given;
        break;
    case GW_EVENT_ABORTED:
    case GW_EVENT_NEVER_RAN:
        handover->is_target_clean = true;
        handover->is_contradicted = handover->is_contradicted && has_given;
        break;
    case GW_EVENT_GO:
        handover->is_contradicted = false;
        break;
    case GW_EVENT_RESOLVE_TARGET:
        /* What the target said before counts no more: it is asked again. */
        handover->is_target_running = handover->is_target_clean = false;
        handover->is_contradicted = false;
        break;
    case GW_EVENT_RESOLVE_SOURCE:
        handover->is_contradicted = false;
        break;
    case GW_EVENT_UNKNOWN:
    case GW_EVENT_STRANGER:
        /* Before COMMITTED these prove that nothing is left there; afterwards they prove nothing.
         */
        if ((uncommitted >> handover->state & 1) != 0)
            handover->is_target_clean = true;
        break;
    default:
        break;
    }
}

static bool is_abort_asked(enum gw_handover_state state, enum gw_handover_event event)
{
    const uint64_t state_bit = UINT64_C(1) << state;
    const uint32_t event_bit = UINT32_C(1) << event;

    if (state_bit & S(COPYING))
        return (event_bit & SOURCE_TROUBLE) != 0;
    if (state_bit & PAUSING)
        return (event_bit & PAUSE_TROUBLE) != 0;
    return (state_bit & (S(RECEIVING) | TARGET_WORK)) != 0 && (event_bit & TARGET_TROUBLE) != 0;
}

static void enter(struct gw_handover *handover, enum gw_handover_state next, enum list list,
                  struct gw_handover_actions *out)
{
    out->count = 0;
    if (next != SAME) {
        handover->state = next;
        handover->is_abort_wanted = false;
        handover->is_ready = false;
    }
    for (unsigned i = 0; i < lists[list].count; i++) {
        enum gw_handover_action action = lists[list].list[i];

        if (action == GW_ACT_CONT && handover->is_guest_paused)
            action = GW_ACT_CHECK_VMM;
        if ((action == GW_ACT_ANNOUNCE && handover->is_guest_paused) ||
            (action == GW_ACT_DELETE_IMAGES && !handover->is_target_running) ||
            (action == GW_ACT_RENAME_IMAGES && list == HAND_OVER && !handover->is_taken_back))
            continue;
        handover->is_contradicted = handover->is_contradicted || action == GW_ACT_ALARM;
        handover->is_busy = handover->is_busy || !gw_handover_action_is_note(action);
        out->list[out->count++] = action;
    }
}

static const struct rule *find(const struct gw_handover *handover, enum gw_handover_event event)
{
    const uint64_t state = UINT64_C(1) << handover->state;
    const uint32_t what = UINT32_C(1) << event;
    const bool is_result = event == GW_EVENT_DONE || event == GW_EVENT_FAILED;
    const struct rule *rule;
    unsigned chapter = 0;

    if (is_result && !handover->is_busy)
        return NULL;
    while (chapters[chapter].last < handover->state)
        chapter++;
    rule = chapters[chapter].rules;
    for (unsigned i = 0; i < chapters[chapter].count; i++, rule++)
        if ((rule->states & state) != 0 && (rule->events & what) != 0 &&
            holds(handover, rule->when))
            return rule;
    return NULL;
}

bool gw_handover_expects(const struct gw_handover *handover, enum gw_handover_event event)
{
    return find(handover, event) != NULL;
}

int gw_handover_step(struct gw_handover *handover, enum gw_handover_event event,
                     struct gw_handover_actions *out)
{
    const struct rule *rule;

    out->count = 0;
    assert(handover->state > GW_HANDOVER_NONE && handover->state < GW_HANDOVER_STATE_COUNT);
    assert(event < GW_EVENT_COUNT);
    rule = find(handover, event);
    if (rule == NULL)
        return gw_fail(event == GW_EVENT_CANCEL ? -EBUSY : -EPROTO,
                       "handover: %s is not expected in state %s", gw_handover_event_name(event),
                       gw_handover_state_name(handover->state));
    remember(handover, event);
    if (handover->is_busy && is_abort_asked(handover->state, event))
        handover->is_abort_wanted = true;
    if (rule->next == GW_HANDOVER_HANDED_OVER)
        handover->is_taken_back =
            ((S(RESUMED) | S(GONE) | S(COMMIT_UNSURE)) >> handover->state & 1);
    enter(handover, rule->next, rule->list, out);
    return 0;
}

int gw_handover_hear(struct gw_handover *handover, const uint8_t instance[16],
                     enum gw_handover_event message, struct gw_handover_actions *out)
{
    if (memcmp(instance, handover->peer_instance, sizeof(handover->peer_instance)) != 0)
        return gw_handover_step(handover, GW_EVENT_STRANGER, out);
    return gw_handover_step(handover, message, out);
}

void gw_handover_begin(struct gw_handover *handover, enum gw_journal_side side,
                       const uint8_t peer_instance[16], struct gw_handover_actions *out)
{
    memset(handover, 0, sizeof(*handover));
    memcpy(handover->peer_instance, peer_instance, sizeof(handover->peer_instance));
    handover->is_linked = true;
    if (side == GW_SIDE_SOURCE)
        enter(handover, GW_HANDOVER_COPYING, RECORD_COPYING, out);
    else
        enter(handover, GW_HANDOVER_RECEIVING, RECORD_RECEIVING, out);
}

int gw_handover_restart(struct gw_handover *handover, const struct gw_journal_entry *entry,
                        struct gw_handover_actions *out)
{
    const bool is_guest_paused = handover->is_guest_paused;
    const bool is_contradicted = handover->is_contradicted;
    enum gw_handover_state recorded;

    out->count = 0;
    if (gw_handover_state_parse(entry->state, &recorded) != 0)
        return -EINVAL;
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(restarts); i++) {
        if (restarts[i].recorded != recorded || gw_handover_side(recorded) != entry->side)
            continue;
        memset(handover, 0, sizeof(*handover));
        memcpy(handover->peer_instance, entry->peer_instance, sizeof(handover->peer_instance));
        handover->is_guest_paused = is_guest_paused;
        handover->is_contradicted = is_contradicted;
        handover->may_have_run = recorded == GW_HANDOVER_OWNER;
        enter(handover, restarts[i].next, restarts[i].list, out);
        return 0;
    }
    return gw_fail(-EINVAL,
                   "handover: the journal of the %s holds state %s, which is never recorded",
                   entry->side == GW_SIDE_SOURCE ? "source" : "target", entry->state);
}

bool gw_handover_is_ended(enum gw_handover_state state)
{
    return ((S(DONE) | S(CLOSED) | S(RUNNING) | S(DISCARDED)) >> state & 1) != 0;
}

bool gw_handover_is_decided(enum gw_handover_state state)
{
    return gw_handover_is_ended(state) ||
           ((S(HANDED_OVER) | S(RESUMED) | S(GONE) | S(ABORTED) | S(NEVER_RAN) | S(YIELDED)) >>
                state &
            1) != 0;
}

bool gw_handover_may_cancel(enum gw_handover_state state)
{
    return ((S(COPYING) | PAUSING | S(WAITING) | S(RECEIVING) | TARGET_WORK | S(PREPARED)) >>
                state &
            1) != 0;
}

bool gw_handover_is_journalled(enum gw_handover_state state)
{
    for (unsigned i = 0; i < GW_ARRAY_LENGTH(restarts); i++)
        if (restarts[i].recorded == state)
            return true;
    return false;
}

bool gw_handover_needs_sync(enum gw_handover_state state)
{
    return state != GW_HANDOVER_PREPARED;
}

enum gw_journal_side gw_handover_side(enum gw_handover_state state)
{
    return state < GW_HANDOVER_RECEIVING ? GW_SIDE_SOURCE : GW_SIDE_TARGET;
}

bool gw_handover_action_is_note(enum gw_handover_action action)
{
    return action <= GW_ACT_ALARM;
}
