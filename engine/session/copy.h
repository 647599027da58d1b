/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy: one copy on the side that reads, shared by its parts: copy.c (the order of things),
 * copy-plan.c (what it reads and makes), copy-partial.c (what it notes of itself, so that a later
 * one goes on), copy-local.c (to a path of this host). Private to engine/session.
 *
 * Errors: 0 or -errno with a message.
 * Order: begin → take_older → … checkpoint … → end.
 * Threads: the copy's own.
 * Units: bytes, nanoseconds.
 */
#ifndef GODWIT_ENGINE_SESSION_COPY_H
#define GODWIT_ENGINE_SESSION_COPY_H

#include "engine/session/copy-plan.h"
#include "engine/session/partial.h"
#include "engine/session/parts.h"

struct gw_copy {
    const struct gw_environment *environment;
    const struct gw_copy_request *request;
    struct gw_progress *progress;
    struct gw_outcome *out;
    struct gw_copy_plan plan;
    char epoch[GW_EPOCH_TEXT_MAX];

    bool can_keep; /* there is a state folder, and the user wants it */
    bool is_attended;
    bool is_blocked;     /* by an unfinished copy of the same */
    bool is_older_taken; /* the target has what older left, under the new epoch */
    struct gw_partial partial, older;
    uint64_t copied[GW_VOLUMES_MAX];   /* of each volume, from its start: acknowledged */
    uint64_t kept_bytes, resent_bytes; /* what an earlier attempt left, and what of it differed */
};

/* -EEXIST: the very same copy was begun before and can be gone on with, which was not asked for. */
int gw_copy_refuse_same(struct gw_copy *copy);
/* -ESTALE: it is asked to go on with a copy of which nothing is noted here. */
int gw_copy_begin_partial(struct gw_copy *copy, const char *epoch);
/* The target has taken up what older left, or starts over: nothing of older is needed any more. */
int gw_copy_take_older(struct gw_copy *copy);
uint64_t gw_copy_sync_interval_ns(const struct gw_copy *copy); /* 0: no checkpoints */
/* Everything in copied is durable at the target and noted there. */
int gw_copy_checkpoint(struct gw_copy *copy);
/* Keeps what a later attempt can go on with, or removes all. is_given_up: the link was lost and did not
 * come back. Returns the error, with the way on if anything is kept. */
int gw_copy_end_partial(struct gw_copy *copy, int error, bool is_given_up);
/* Says why it does not go on; an empty reason is none. */
void gw_copy_note_restart(struct gw_copy *copy, const char *reason);
/* Into out->detail: what was resumed. */
void gw_copy_report_resumed(const struct gw_copy *copy);

void gw_copy_begin_phase(struct gw_progress *progress, uint64_t total);
/* copy-local.c: to paths of this host. */
int gw_copy_local(struct gw_copy *copy);

#endif
