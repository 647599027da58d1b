/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world: two hosts, a network and what may befall them, around two real state machines
 * (handover.h), as one small value, so that every schedule can be tried. It plays the caller: it
 * executes the actions on hosts that consist of a few bytes, and reports the results. It holds the
 * promises as invariants.
 */
#ifndef GODWIT_TESTS_ENGINE_HANDOVER_WORLD_H
#define GODWIT_TESTS_ENGINE_HANDOVER_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/handover/handover.h"

enum power { VMM_PAUSED, VMM_RUNNING, VMM_ENDED };
enum guard {
    GUARD_NONE,
    GUARD_ARMED,
    GUARD_STOPPED,
    GUARD_COMMITTING,
    GUARD_UNNAMED,
    GUARD_UNSWAPPED
};

/* One host's agent: what it knows, what it has promised, what it is doing. */
struct agent {
    uint8_t state, busy, linked, ready, abort_wanted, vmm_gone, clean, target_running, may_have_run;
    uint8_t is_alive, is_fenced, has_record;
    uint8_t contradicted, taken_back;
    uint8_t journal; /* enum gw_handover_state; NONE without a record */
    uint8_t durable; /* what it may be after a power cut */
    uint8_t ghost;   /* a record that failed and may yet be found after a restart; NONE: none is */
    uint8_t vmm;     /* enum power */
    uint8_t count, position, list[GW_ACTIONS_MAX];
};

struct world {
    struct agent source, target;
    uint8_t guard;
    uint8_t are_disks_null, are_names_changed;
    uint8_t are_names_kept; /* the target's images' final ones are on the disk */
    uint8_t has_second;     /* a supervisor started the source's VM again from its images */
    uint8_t is_cut, has_session;
    uint8_t is_reinstalled;
    uint32_t to_source, to_target; /* sets of messages, 1 << event */
    /* history, for the invariants */
    uint8_t was_committed, has_run, has_owned, has_promised, kept_source, kept_target;
};

/* A wrong machine, to see that the search finds it. */
enum mutation {
    MUTATE_NOTHING,
    GO_BEFORE_COMMITTED,
    CONT_BEFORE_OWNER,
    NO_LAST_LOOK,
    GUARD_NOT_TOLD,
    ABORTED_BEFORE_DURABLE,
    STRANGER_BELIEVED,
    RESTART_FORGETS,
    NO_SWAP_BACK,
    FAILED_COMMIT_TRUSTED,
    NO_RENAME,
    RUNNING_BEFORE_NAMES,
    OWNER_NOT_SYNCED,
    DOUBT_RESUMES,
    MUTATION_COUNT
};

struct options {
    bool is_guest_paused; /* the VM was paused by its owner */
    bool is_network_evil; /* what was sent once may arrive at any later time, any number of times */
    bool has_ghosts; /* a record that failed may be made all the same: it shows at the next restart,
                           * or never */
    bool is_person_rash; /* keeps a host without fencing the other */
    enum mutation mutation;
};

/* Who or what moves. */
enum part {
    PART_SOURCE_STEP,
    PART_TARGET_STEP,
    PART_TO_SOURCE,
    PART_TO_TARGET,
    PART_LOCAL,
    PART_NETWORK,
    PART_CRASHES,
    PART_PEOPLE,
    PART_COUNT
};

enum kind {
    BAD,         /* the environment's malice: failures, crashes, cuts, people */
    GOOD,        /* what happens by itself in a world where everything works again */
    GOOD_SOURCE, /* the same, with nothing but the source's own host */
};

/* Called for each world that may follow. broken: the invariant that does not hold there, or NULL.
 */
typedef void visit(void *context, const struct world *next, enum kind kind, const char *label,
                   const char *broken);

const char *world_mutation_name(enum mutation mutation);
/* Spoils a list of actions as the mutation says; one that is about events changes none. */
void world_mutate(enum mutation mutation, struct gw_handover_actions *actions);
void world_begin(struct world *world, const struct options *options);
void world_successors(const struct world *world, const struct options *options, visit *each,
                      void *context);
/* The same for one part only. */
void world_part(const struct world *world, const struct options *options, enum part part,
                visit *each, void *context);
/* Both sides know how it ended, or show that a person must decide. */
bool world_is_settled(const struct world *world);
/* What must never be, in any world; NULL when it holds. */
const char *world_broken(const struct world *world, bool is_guest_paused);
/* Forgets what can make no difference any more, so that worlds that differ in it only are one. */
void world_simplify(struct world *world);
/* Where two run and the agents have reached each other, both show it. */
bool world_is_shown(const struct world *world);
bool world_source_runs(const struct world *world);
/* The source has given up before COMMITTED, or will, and its QEMU is there. */
bool world_must_run_again(const struct world *world);

#endif
