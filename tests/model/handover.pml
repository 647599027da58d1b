/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handover as a model for spin: both agents with their journals, the link, the guard, the QEMUs,
 * and what befalls them. It is written from docs/handover.md, not from the table in
 * engine/handover/handover.c: what that table does is searched by tests/engine/handover. The names of
 * states (S_) and messages (M_) are the code's, which check_model.py compares.
 *
 * A link that is up holds each message until it is heard, in any order; a cut loses them all. FAULTS
 * is how many misfortunes a run has; each is drawn at any point. A record may succeed, fail, or fail
 * and be found on the disk by the next life of the agent. Wrong machines (-DWRONG_...) must each be
 * found out.
 */
#ifndef FAULTS
#define FAULTS 2
#endif

mtype = {
    S_NONE,
    S_COPYING, S_STOPPING, S_STOPPED, S_SWAPPING, S_SWAPPED, S_WAITING, S_CHECKING,
    S_COMMITTING, S_COMMITTED, S_COMMIT_UNSURE, S_IN_DOUBT, S_TARGET_LOST, S_RECLAIMING,
    S_HANDED_OVER, S_DONE, S_UNDOING, S_RESUMED, S_GONE, S_CLOSED,
    S_RECEIVING, S_LOADING, S_PLACING, S_PREPARING, S_PREPARED, S_OWNING, S_OWNER, S_RUNNING,
    S_ABORTING, S_ABORTED, S_GIVING_UP, S_NEVER_RAN, S_LOST, S_YIELDING, S_YIELDED, S_DISCARDED
};

/* The messages under way: a bit each. */
bit M_FINISH, M_GO, M_ABORT;
bit M_READY, M_RUNNING, M_ABORTED, M_NEVER_RAN, M_LOST, M_UNKNOWN;

#define PAUSED 0
#define RUNS   1
#define ENDED  2
#define NO_GUARD   0
#define ARMED      1
#define TOLD_STOP  2
#define TOLD_COMMIT 3

mtype source = S_COPYING, target = S_RECEIVING;
mtype source_journal = S_COPYING, target_journal = S_RECEIVING;
mtype source_ghost = S_NONE, target_ghost = S_NONE; /* failed, and perhaps on the disk all the same */
byte source_vmm = RUNS, target_vmm = PAUSED, guard = ARMED, faults = FAULTS;
bit source_alive = 1, target_alive = 1, source_fenced, target_fenced;
bit link_up = 1, is_cut, reinstalled;
bit nulled, renamed, second;
bit kept_names; /* the final names of the target's images are on the disk */
bit source_ended, target_done; /* the side's last step in this state is done */
bit target_clean, target_runs, may_have_run;
/* history */
bit was_committed, promised, has_run, kept_source, kept_target, gave_up;

#define RUNNERS ((source_vmm == RUNS) + second + (target_vmm == RUNS))

inline source_starts() {
    assert(!was_committed || promised || kept_source);
    assert(!has_run || kept_source);
}

inline source_continues() {
    if
    :: source_vmm == PAUSED ->
        assert(!nulled);
        source_starts();
        source_vmm = RUNS;
        assert(RUNNERS <= 1)
    :: else
    fi
}

inline made(side_journal, side_ghost, what) {
    side_journal = what;
    side_ghost = S_NONE;
    was_committed = was_committed || (what == S_COMMITTED);
    promised = promised || what == S_ABORTED || what == S_NEVER_RAN || what == S_YIELDED
}

/* Into next when the record is durable, into other when it failed. */
inline record_source(what, next, other) {
    if
    :: made(source_journal, source_ghost, what); source = next
    :: faults > 0 -> faults--; source = other
    :: faults > 0 -> faults--; source_ghost = what; source = other
    fi
}

inline record_target(what, next, other) {
    if
    :: made(target_journal, target_ghost, what); target = next
    :: faults > 0 -> faults--; target = other
    :: faults > 0 -> faults--; target_ghost = what; target = other
    fi
}

/* A send on a link that is down is dropped. */
inline send(message) {
    message = link_up
}

/* Any step of the pause may fail. */
inline pause_step(next) {
    if
    :: source_vmm == ENDED -> source = S_GONE
    :: source_vmm != ENDED -> source = next
    :: faults > 0 -> faults--; source = S_UNDOING
    fi
}

#define UNCOMMITTED \
    (source == S_STOPPED || source == S_SWAPPED || source == S_WAITING)

#ifdef WRONG_NO_RENAME
#define RENAMES 0
#else
#define RENAMES 1
#endif

active proctype Source() {
    do
    /* ---- before COMMITTED ---- */
    :: atomic { source_alive && source == S_COPYING && link_up ->
        if
        :: source_vmm == ENDED -> source = S_GONE
        :: source_vmm != ENDED -> guard = (guard == ARMED -> TOLD_STOP : guard);
            source = (guard == TOLD_STOP -> S_STOPPING : S_UNDOING)
        :: faults > 0 -> faults--; source = S_UNDOING /* cancelled */
        fi }
    :: atomic { source_alive && source == S_COPYING && !link_up -> source = S_UNDOING }
    /* The names first, while the guest runs; then it is stopped. */
    :: atomic { source_alive && source == S_STOPPING && !renamed && RENAMES ->
        if
        :: renamed = 1
        :: faults > 0 -> faults--; source = S_UNDOING
        fi }
    :: atomic { source_alive && source == S_STOPPING && (renamed || !RENAMES) ->
        if
        :: source_vmm != ENDED -> source_vmm = PAUSED
        :: else
        fi;
        pause_step(S_STOPPED) }
    :: atomic { source_alive && source == S_STOPPED && link_up -> pause_step(S_SWAPPING) }
    :: atomic { source_alive && source == S_SWAPPING ->
        nulled = (source_vmm != ENDED);
        pause_step(S_SWAPPED) }
    :: atomic { source_alive && source == S_SWAPPED && link_up ->
        send(M_FINISH);
        pause_step(S_WAITING) }
    :: atomic { source_alive && UNCOMMITTED && !link_up -> source = S_UNDOING }
    :: atomic { source_alive && source == S_WAITING && M_READY -> M_READY = 0; source = S_CHECKING }
    :: atomic { source_alive && source == S_WAITING && (M_ABORTED || M_NEVER_RAN || M_UNKNOWN) ->
        M_ABORTED = 0; M_NEVER_RAN = 0; M_UNKNOWN = 0; target_clean = 1; source = S_UNDOING }
    :: atomic { source_alive && source == S_CHECKING ->
#ifndef WRONG_GUARD_NOT_TOLD
        guard = (guard == TOLD_STOP -> TOLD_COMMIT : guard);
#endif
        if
#ifdef WRONG_NO_LAST_LOOK
        :: source = S_COMMITTING
#else
        :: source_vmm == PAUSED && guard != NO_GUARD -> source = S_COMMITTING
        :: source_vmm != PAUSED || guard == NO_GUARD -> source = S_UNDOING
#endif
        :: faults > 0 -> faults--; source = S_UNDOING
        fi;
#ifdef WRONG_GO_BEFORE_COMMITTED
        if
        :: source == S_COMMITTING -> send(M_GO)
        :: else
        fi
#endif
        }
    :: atomic { source_alive && source == S_COMMITTING ->
#ifdef WRONG_FAILED_COMMIT_TRUSTED
        record_source(S_COMMITTED, S_COMMITTED, S_UNDOING);
#else
        record_source(S_COMMITTED, S_COMMITTED, S_COMMIT_UNSURE);
#endif
        if
        :: source == S_COMMITTED -> guard = NO_GUARD; send(M_GO)
        :: else -> send(M_ABORT)
        fi }

    /* ---- from COMMITTED on ---- */
    :: atomic { source_alive && source == S_COMMIT_UNSURE ->
        record_source(S_UNDOING, S_UNDOING, S_COMMIT_UNSURE);
        send(M_ABORT) }
    :: atomic { source_alive && source == S_COMMITTED && (!link_up || M_UNKNOWN) ->
        M_UNKNOWN = 0; source = S_IN_DOUBT }
#ifdef WRONG_DOUBT_RESUMES
    :: atomic { source_alive && source == S_IN_DOUBT -> source = S_RECLAIMING }
#endif
    :: atomic { source_alive && (source == S_COMMITTED || source == S_IN_DOUBT ||
                                 source == S_TARGET_LOST || source == S_COMMIT_UNSURE) &&
                M_RUNNING -> M_RUNNING = 0; target_runs = 1; source_ended = 0; source = S_HANDED_OVER }
    :: atomic { source_alive && (source == S_COMMITTED || source == S_IN_DOUBT ||
                                 source == S_TARGET_LOST) && (M_ABORTED || M_NEVER_RAN) ->
        M_ABORTED = 0; M_NEVER_RAN = 0; target_clean = 1; source = S_RECLAIMING }
    :: atomic { source_alive && (source == S_COMMITTED || source == S_IN_DOUBT) && M_LOST ->
        M_LOST = 0; source = S_TARGET_LOST }
    :: atomic { source_alive && source == S_RECLAIMING ->
        record_source(S_UNDOING, S_UNDOING, S_IN_DOUBT) }
    :: atomic { source_alive && source == S_HANDED_OVER && !source_ended ->
        made(source_journal, source_ghost, S_HANDED_OVER);
        assert(kept_target || has_run || target == S_LOST || may_have_run);
        renamed = 1; source_vmm = ENDED; nulled = 0; source_ended = 1; send(M_GO) }
    :: atomic { source_alive && source == S_HANDED_OVER && source_ended && M_RUNNING ->
        M_RUNNING = 0; target_runs = 1 }
    :: atomic { source_alive && source == S_HANDED_OVER && source_ended && target_runs ->
        made(source_journal, source_ghost, S_DONE); source = S_DONE }

    /* ---- going on: each step of the undo by itself ---- */
    :: atomic { source_alive && source == S_UNDOING && source_vmm == ENDED -> source = S_GONE }
    :: atomic { source_alive && source == S_UNDOING && source_vmm != ENDED ->
        gave_up = !was_committed;
        if
        :: renamed -> renamed = 0; send(M_ABORT)
        /* The disks come back from images by the names that they had. */
        :: !renamed && nulled -> nulled = 0
        :: !renamed && !nulled ->
#ifndef WRONG_UNDO_FORGETS_CONT
            source_continues();
#endif
            guard = (guard == TOLD_STOP -> ARMED : guard);
            source_journal = S_RESUMED; source_ghost = S_NONE; source = S_RESUMED; send(M_ABORT)
        fi }
    :: atomic { source_alive && source == S_GONE && source_journal != S_GONE ->
        renamed = 0; nulled = 0; guard = NO_GUARD;
        source_journal = S_GONE; source_ghost = S_NONE; send(M_ABORT) }
    :: atomic { source_alive && (source == S_RESUMED || source == S_GONE) &&
                source_journal == source &&
                (target_clean || M_ABORTED || M_NEVER_RAN || M_UNKNOWN) ->
        M_ABORTED = 0; M_NEVER_RAN = 0; M_UNKNOWN = 0;
        source_journal = S_CLOSED; source = S_CLOSED }
    /* Answers that are late. */
    :: atomic { source_alive && M_READY && (source == S_UNDOING || source == S_RESUMED ||
                source == S_GONE || source == S_CLOSED) -> M_READY = 0; send(M_ABORT) }
    :: atomic { source_alive && M_READY && (source == S_COMMITTED || source == S_IN_DOUBT) ->
        M_READY = 0; send(M_GO) }
    od
}

#define TARGET_WORKS \
    (target == S_RECEIVING || target == S_LOADING || target == S_PLACING || target == S_PREPARING)

active proctype Target() {
    do
    :: atomic { target_alive && target == S_RECEIVING && M_FINISH -> M_FINISH = 0; target = S_LOADING }
    :: atomic { target_alive && target == S_LOADING && target_vmm != ENDED -> target = S_PLACING }
    :: atomic { target_alive && target == S_PLACING && target_vmm != ENDED -> target = S_PREPARING }
    :: atomic { target_alive && target == S_PREPARING && target_vmm != ENDED ->
        record_target(S_PREPARED, S_PREPARED, S_ABORTING);
        if
        :: target == S_PREPARED -> send(M_READY)
        :: else
        fi }
    :: atomic { target_alive && TARGET_WORKS && (!link_up || M_ABORT || target_vmm == ENDED) ->
        M_ABORT = 0; target = S_ABORTING }
    :: atomic { target_alive && target == S_PREPARED && (M_ABORT || target_vmm == ENDED) ->
        M_ABORT = 0; target = S_ABORTING }
    :: atomic { target_alive && target == S_PREPARED && M_GO -> M_GO = 0;
#ifdef WRONG_CONT_BEFORE_OWNER
        if
        :: target_vmm == PAUSED -> target_vmm = RUNS; has_run = 1; assert(RUNNERS <= 1)
        :: else
        fi;
#endif
        target = S_OWNING }
    :: atomic { target_alive && target == S_OWNING ->
        record_target(S_OWNER, S_OWNER, S_GIVING_UP);
        if
        :: target == S_OWNER && target_vmm == ENDED -> target = S_GIVING_UP
        :: else
        fi }
    :: atomic { target_alive && target == S_OWNER ->
        if
        :: target_vmm != ENDED ->
            target_vmm = RUNS; has_run = 1; assert(RUNNERS <= 1);
            target = S_RUNNING; send(M_RUNNING)
        :: target_vmm == ENDED ->
            kept_names = 1;
            target = S_LOST; target_journal = S_LOST; target_ghost = S_NONE; send(M_LOST)
        /* QEMU refuses; an earlier life may have continued it all the same */
        :: faults > 0 && (target_vmm == PAUSED || may_have_run) -> faults--;
            if
#ifndef WRONG_RESTART_FORGETS
            :: may_have_run -> kept_names = 1; target_journal = S_LOST; target = S_LOST
            :: !may_have_run -> target = S_GIVING_UP
#else
            :: target = S_GIVING_UP
#endif
            fi
        fi }
#ifndef WRONG_RUNNING_BEFORE_NAMES
    :: atomic { target_alive && target == S_RUNNING && !kept_names -> kept_names = 1 }
    :: atomic { target_alive && target == S_RUNNING && kept_names && target_journal != S_RUNNING ->
#else
    :: atomic { target_alive && target == S_RUNNING && target_journal != S_RUNNING ->
#endif
        made(target_journal, target_ghost, S_RUNNING) }
    :: atomic { target_alive && target == S_RUNNING && (M_GO || M_ABORT) ->
        M_GO = 0; M_ABORT = 0; send(M_RUNNING) }
    :: atomic { target_alive && target == S_LOST && (M_GO || M_ABORT) ->
        M_GO = 0; M_ABORT = 0; send(M_LOST) }
    :: atomic { target_alive && target == S_ABORTING ->
#ifdef WRONG_ABORTED_BEFORE_DURABLE
        send(M_ABORTED);
#endif
        record_target(S_ABORTED, S_ABORTED, S_ABORTING);
        if
        :: target == S_ABORTED -> target_done = 0; send(M_ABORTED)
        :: else
        fi }
    :: atomic { target_alive && target == S_GIVING_UP ->
        target_vmm = ENDED;
        record_target(S_NEVER_RAN, S_NEVER_RAN, S_GIVING_UP);
        if
        :: target == S_NEVER_RAN -> target_done = 0; send(M_NEVER_RAN)
        :: else
        fi }
    :: atomic { target_alive && target == S_YIELDING ->
        target_vmm = ENDED;
        record_target(S_YIELDED, S_YIELDED, S_LOST);
        if
        :: target == S_YIELDED -> target_done = 0; send(M_ABORTED)
        :: else
        fi }
    :: atomic { target_alive && !target_done &&
                (target == S_ABORTED || target == S_NEVER_RAN || target == S_YIELDED) ->
        assert(!has_run || target == S_YIELDED); /* else images that were written to are removed */
        target_vmm = ENDED; target_done = 1;
        made(target_journal, target_ghost, S_DISCARDED); target = S_DISCARDED }
    :: atomic { target_alive && (M_GO || M_ABORT) &&
                (target == S_ABORTED || target == S_YIELDED || target == S_DISCARDED) ->
        M_GO = 0; M_ABORT = 0; send(M_ABORTED) }
    :: atomic { target_alive && (M_GO || M_ABORT) && target == S_NEVER_RAN ->
        M_GO = 0; M_ABORT = 0; send(M_NEVER_RAN) }
    :: atomic { target_alive && (M_GO || M_ABORT) && target == S_NONE ->
        M_GO = 0; M_ABORT = 0; send(M_UNKNOWN) }
    :: atomic { target_alive && M_FINISH && target != S_RECEIVING -> M_FINISH = 0 }
    od
}

/* The source's host does what an agent that died cannot do: its guard, and the service manager. */
active proctype Host() {
    mtype found = S_NONE;

    do
    :: atomic { !source_alive && guard == TOLD_STOP ->
        if
        :: renamed -> renamed = 0
        :: !renamed && nulled && source_vmm != ENDED -> nulled = 0
        :: !renamed && (!nulled || source_vmm == ENDED) -> source_continues(); guard = NO_GUARD
        fi }
    :: atomic { !source_alive && guard == TOLD_COMMIT -> guard = NO_GUARD }
    :: atomic { !source_alive && !source_fenced && guard < TOLD_STOP ->
        guard = NO_GUARD;
        if
        :: source_ghost != S_NONE -> found = source_ghost; made(source_journal, source_ghost, found)
        :: source_ghost = S_NONE
        fi;
        found = S_NONE;
        source_alive = 1; target_clean = 0; target_runs = 0; source_ended = 0;
        if
        :: source_journal == S_COPYING -> source = S_COMMIT_UNSURE
        :: source_journal == S_COMMITTED -> source = S_IN_DOUBT
        :: else -> source = source_journal
        fi }
    :: atomic { !target_alive && !target_fenced ->
        if
        :: target_ghost != S_NONE -> found = target_ghost; made(target_journal, target_ghost, found)
        :: target_ghost = S_NONE
        fi;
        found = S_NONE;
        target_alive = 1; target_done = 0;
        if
        :: target_journal == S_RECEIVING -> target = S_ABORTING
        :: target_journal == S_OWNER -> target = S_OWNER; may_have_run = 1
        :: else -> target = target_journal
        fi }
    od
}

/* The network, and the question that the source asks when it is back. */
active proctype Link() {
    do
    :: atomic { is_cut -> is_cut = 0 }
    :: atomic { !is_cut && !link_up && source_alive && target_alive && !reinstalled &&
                (source == S_COMMIT_UNSURE || source == S_COMMITTED || source == S_IN_DOUBT ||
                 source == S_TARGET_LOST || (source == S_HANDED_OVER && source_ended) ||
                 source == S_RESUMED || source == S_GONE) ->
        link_up = 1;
        if
        :: source == S_COMMITTED || source == S_IN_DOUBT || source == S_TARGET_LOST ||
           source == S_HANDED_OVER ->
#ifndef WRONG_NEVER_ASKS
            send(M_GO)
#else
            skip
#endif
        :: else -> send(M_ABORT)
        fi }
    /* Another instance answers in the target's place: it proves something before COMMITTED only. */
    :: atomic { !is_cut && source_alive && reinstalled && !target_clean &&
                (source == S_RESUMED || source == S_GONE) -> target_clean = 1 }
#ifdef WRONG_STRANGER_BELIEVED
    :: atomic { !is_cut && source_alive && reinstalled && source == S_IN_DOUBT ->
        source = S_RECLAIMING }
#endif
    od
}

inline drop_link() {
    link_up = 0;
    M_FINISH = 0; M_GO = 0; M_ABORT = 0;
    M_READY = 0; M_RUNNING = 0; M_ABORTED = 0; M_NEVER_RAN = 0; M_LOST = 0; M_UNKNOWN = 0
}

/* Somebody starts what has ended, from images that have their own names. It is no misfortune: it may
 * happen at any time. */
active proctype Supervisor() {
    do
    :: atomic { source_vmm == ENDED && !renamed && !second && !source_fenced ->
        source_starts(); second = 1; assert(RUNNERS <= 1) }
    od
}

active proctype Misfortune() {
    do
    :: faults == 0 -> break
    :: atomic { faults > 0 && link_up -> faults--; is_cut = 1; drop_link() }
    :: atomic { faults > 0 && source_alive -> faults--;
        source_alive = 0; drop_link() }
    :: atomic { faults > 0 && target_alive -> faults--;
        target_alive = 0; drop_link() }
    /* Somebody continues the paused guest. */
    :: atomic { faults > 0 && source_alive && source_vmm == PAUSED &&
                (UNCOMMITTED || source == S_SWAPPING) -> faults--; source_vmm = RUNS }
    /* The target's host loses power, and what was written and not synced: PREPARED, which what was
     * recorded before it stands for as well, and names that no record has ended with. */
    :: atomic { faults > 0 && target_alive && !target_fenced -> faults--;
        target_alive = 0; target_vmm = ENDED; drop_link();
        if
        :: target_journal == S_PREPARED -> target_journal = S_RECEIVING
#ifdef WRONG_OWNER_NOT_SYNCED
        :: target_journal == S_OWNER -> target_journal = S_RECEIVING
#endif
        :: true
        fi;
        assert(kept_names || (target_journal != S_RUNNING && target_journal != S_LOST)) }
    :: atomic { faults > 0 && source_vmm != ENDED -> faults--; source_vmm = ENDED; nulled = 0 }
    :: atomic { faults > 0 && target_vmm != ENDED -> faults--; target_vmm = ENDED }
    :: atomic { faults > 0 && guard != NO_GUARD -> faults--; guard = NO_GUARD }
    :: atomic { faults > 0 && !target_alive && !reinstalled && !target_fenced -> faults--;
        reinstalled = 1; target_journal = S_NONE; target_ghost = S_NONE; target_vmm = ENDED }
#ifdef OPERATOR
    /* A person as the manual says: what is given up is powered off for good before. */
    :: atomic { faults > 0 && source_alive && !target_fenced && !source_fenced &&
                (source == S_IN_DOUBT || source == S_TARGET_LOST || source == S_COMMIT_UNSURE ||
                 (source == S_HANDED_OVER && source_ended && !target_runs)) -> faults--;
        target_alive = 0; target_fenced = 1; target_vmm = ENDED; target_journal = S_NONE;
        target_ghost = S_NONE; target = S_NONE; kept_source = 1; drop_link();
        source = (source == S_COMMIT_UNSURE -> S_COMMIT_UNSURE : S_RECLAIMING) }
    :: atomic { faults > 0 && target_alive && !target_fenced && !source_fenced &&
                (target == S_PREPARED || target == S_LOST) -> faults--;
        source_alive = 0; source_fenced = 1; source_vmm = ENDED; second = 0; guard = NO_GUARD;
        nulled = 0; source = S_NONE; kept_target = 1; drop_link();
        if
        :: target == S_PREPARED -> target = S_OWNING
        :: target == S_LOST -> made(target_journal, target_ghost, S_RUNNING); target = S_RUNNING
        fi }
    :: atomic { faults > 0 && source_alive && (source == S_IN_DOUBT || source == S_TARGET_LOST) ->
        faults--; kept_target = 1; target_runs = 0; target_clean = 0; source_ended = 0;
        source = S_HANDED_OVER }
    :: atomic { faults > 0 && target_alive && (target == S_PREPARED || target == S_LOST) ->
        faults--; kept_source = 1;
        target = (target == S_PREPARED -> S_ABORTING : S_YIELDING) }
#endif
    od
}

#define SOURCE_KNOWS \
    (source == S_DONE || source == S_CLOSED || source == S_NONE || \
     ((source == S_IN_DOUBT || source == S_COMMIT_UNSURE || source == S_HANDED_OVER) && \
      (reinstalled || target_fenced)) || \
     (source == S_TARGET_LOST && target == S_LOST) || \
     (source == S_HANDED_OVER && \
      (target == S_LOST || target == S_DISCARDED || target == S_NONE)) || \
     (source == S_IN_DOUBT && target == S_NONE) || \
     ((source == S_RESUMED || source == S_GONE) && (target_fenced || target == S_LOST || \
      target == S_RUNNING)))
#define TARGET_KNOWS \
    (target == S_RUNNING || target == S_DISCARDED || target == S_LOST || target == S_NONE || \
     (target == S_PREPARED && (source_fenced || source == S_CLOSED || source == S_DONE)))

/* With a link that comes back, and agents that are started again, it always ends decided, or shows
 * that a person must decide. */
ltl decided { <> [] ((SOURCE_KNOWS || source_fenced) && (TARGET_KNOWS || target_fenced)) }
/* Who gives up before COMMITTED ends with the source's guest running (or its QEMU has ended by
 * itself). */
ltl resumes { [] (gave_up -> <> (source_vmm == RUNS || source_vmm == ENDED)) }
