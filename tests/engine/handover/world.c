/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hosts of a few bytes each, executing the real state machine's actions, with everything that
 * may befall them. It knows no order of search; explore.c has that.
 */
#include "world.h"

#include <string.h>

enum result { OK, FAILED, FAILED_YET_DONE };

/* One transition being worked out. */
struct run {
    struct world world;
    const struct options *options;
    const char *broken;
};

static struct agent *agent_of(struct run *run, enum gw_journal_side side)
{
    return side == GW_SIDE_SOURCE ? &run->world.source : &run->world.target;
}

static void load(const struct run *run, const struct agent *agent, struct gw_handover *out)
{
    memset(out, 0, sizeof(*out));
    out->state = (enum gw_handover_state)agent->state;
    out->is_busy = agent->busy;
    out->is_linked = agent->linked;
    out->is_ready = agent->ready;
    out->is_abort_wanted = agent->abort_wanted;
    out->is_vmm_gone = agent->vmm_gone;
    out->is_target_clean = agent->clean;
    out->is_target_running = agent->target_running;
    out->may_have_run = agent->may_have_run;
    out->is_contradicted = agent->contradicted;
    out->is_taken_back = agent->taken_back;
    out->is_guest_paused = run->options->is_guest_paused;
}

static void store(const struct gw_handover *handover, struct agent *out)
{
    out->state = (uint8_t)handover->state;
    out->busy = handover->is_busy;
    out->linked = handover->is_linked;
    out->ready = handover->is_ready;
    out->abort_wanted = handover->is_abort_wanted;
    out->vmm_gone = handover->is_vmm_gone;
    out->clean = handover->is_target_clean;
    out->target_running = handover->is_target_running;
    out->may_have_run = handover->may_have_run;
    out->contradicted = handover->is_contradicted;
    out->taken_back = handover->is_taken_back;
}

/* A person who keeps a host and fences nothing voids the promises; what is left of them is that it is
 * shown. */
static void breaks(struct run *run, const char *what)
{
    if (run->options->is_person_rash && (run->world.kept_source || run->world.kept_target))
        return;
    if (run->broken == NULL)
        run->broken = what;
}

/* The guest is about to run on the source, through whomever. */
static void source_starts(struct run *run)
{
    const struct world *world = &run->world;

    if (world->was_committed && !world->has_promised && !world->kept_source)
        breaks(run, "after COMMITTED the source resumed without the target's promise");
    if (world->has_run && !world->kept_source)
        breaks(run, "the source goes on with old disks: the guest ran on the target");
}

static void source_continues(struct run *run)
{
    if (run->world.source.vmm == VMM_RUNNING)
        return;
    if (run->world.are_disks_null)
        breaks(run, "a guest was continued on null-co disks");
    source_starts(run);
    run->world.source.vmm = VMM_RUNNING;
}

static void step(struct run *run, enum gw_journal_side side, enum gw_handover_event event);

static void send_note(struct run *run, enum gw_journal_side side, enum gw_handover_action action)
{
    const enum gw_handover_event message = gw_handover_action_message(action);
    const struct agent *agent = agent_of(run, side);

    if (message == GW_EVENT_COUNT || !agent->linked ||
        (!run->world.has_session && !run->options->is_network_evil))
        return;
    if (side == GW_SIDE_SOURCE)
        run->world.to_target |= UINT32_C(1) << message;
    else
        run->world.to_source |= UINT32_C(1) << message;
}

/* Notes cost nothing and cannot fail; behind the last step its list is done. */
static void go_on(struct run *run, enum gw_journal_side side)
{
    struct agent *agent = agent_of(run, side);

    while (agent->position < agent->count &&
           gw_handover_action_is_note((enum gw_handover_action)agent->list[agent->position]))
        send_note(run, side, (enum gw_handover_action)agent->list[agent->position++]);
    if (agent->position < agent->count)
        return;
    memset(agent->list, 0, sizeof(agent->list));
    agent->count = agent->position = 0;
    if (agent->busy)
        step(run, side, GW_EVENT_DONE);
}

static void take(struct run *run, enum gw_journal_side side, bool was_busy,
                 struct gw_handover_actions *actions)
{
    struct agent *agent = agent_of(run, side);

    if (was_busy) {
        for (unsigned i = 0; i < actions->count; i++) {
            if (!gw_handover_action_is_note(actions->list[i]))
                breaks(run, "a busy machine was given another step");
            send_note(run, side, actions->list[i]);
        }
        return;
    }
    world_mutate(run->options->mutation, actions);
    agent->position = 0;
    agent->count = (uint8_t)actions->count;
    memset(agent->list, 0, sizeof(agent->list));
    for (unsigned i = 0; i < actions->count; i++)
        agent->list[i] = (uint8_t)actions->list[i];
    go_on(run, side);
}

static enum gw_handover_event mutate_event(const struct run *run, struct gw_handover *handover,
                                           enum gw_handover_event event)
{
    const enum mutation mutation = run->options->mutation;

    if (mutation == STRANGER_BELIEVED && event == GW_EVENT_STRANGER)
        return GW_EVENT_ABORTED;
    if (mutation == DOUBT_RESUMES && event == GW_EVENT_TIMEOUT &&
        handover->state == GW_HANDOVER_IN_DOUBT)
        return GW_EVENT_RESOLVE_SOURCE;
    if (mutation == FAILED_COMMIT_TRUSTED && event == GW_EVENT_FAILED &&
        handover->state == GW_HANDOVER_COMMITTING)
        handover->state = GW_HANDOVER_CHECKING;
    return event;
}

/* An event for a machine. One that is refused is dropped, as a caller would. */
static void step(struct run *run, enum gw_journal_side side, enum gw_handover_event event)
{
    struct agent *agent = agent_of(run, side);
    struct gw_handover_actions actions;
    struct gw_handover handover;
    bool was_busy;

    load(run, agent, &handover);
    event = mutate_event(run, &handover, event);
    was_busy = handover.is_busy && event != GW_EVENT_DONE && event != GW_EVENT_FAILED;
    if (!gw_handover_expects(&handover, event) || gw_handover_step(&handover, event, &actions) != 0)
        return;
    store(&handover, agent);
    take(run, side, was_busy, &actions);
}

/* What a record that is on the disk for good means. */
static void record_is_made(struct run *run, struct agent *agent, enum gw_handover_state state)
{
    agent->journal = (uint8_t)state;
    if (gw_handover_needs_sync(state) &&
        !(run->options->mutation == OWNER_NOT_SYNCED && state == GW_HANDOVER_OWNER))
        agent->durable = (uint8_t)state;
    agent->ghost = GW_HANDOVER_NONE;
    agent->has_record = 1;
    if (state == GW_HANDOVER_COMMITTED)
        run->world.was_committed = 1;
    if (state == GW_HANDOVER_OWNER)
        run->world.has_owned = 1;
    if ((state == GW_HANDOVER_RUNNING || state == GW_HANDOVER_LOST) && !run->world.are_names_kept)
        breaks(run, "a power cut may take the names of images that nobody looks after any more");
    if (state == GW_HANDOVER_ABORTED || state == GW_HANDOVER_NEVER_RAN ||
        state == GW_HANDOVER_YIELDED)
        run->world.has_promised = 1;
}

/* A record that failed and was made all the same is not seen by this life of the agent, but perhaps
 * by the next one. Without ghosts there is none such. */
static bool journal(struct run *run, enum gw_journal_side side, enum gw_handover_state state,
                    enum result result)
{
    struct agent *agent = agent_of(run, side);

    if (result == OK)
        record_is_made(run, agent, state);
    else if (result == FAILED_YET_DONE)
        agent->ghost = (uint8_t)state;
    return result != FAILED_YET_DONE || run->options->has_ghosts;
}

static bool try_source(struct run *run, enum gw_handover_action action, enum result result)
{
    struct world *world = &run->world;
    struct agent *source = &world->source;
    const bool is_alive = source->vmm != VMM_ENDED;
    const bool is_linked = world->has_session || run->options->is_network_evil;
    const bool has_effect = result != FAILED;

    switch (action) {
    case GW_ACT_TELL_GUARD_STOPPED:
        if (has_effect && world->guard != GUARD_NONE)
            world->guard = GUARD_STOPPED;
        return result == FAILED || world->guard == GUARD_STOPPED;
    case GW_ACT_TELL_GUARD_COMMITTING:
        if (has_effect && world->guard != GUARD_NONE)
            world->guard = GUARD_COMMITTING;
        return result == FAILED || world->guard == GUARD_COMMITTING;
    case GW_ACT_TELL_GUARD_RESUMED:
        if (world->guard != GUARD_NONE)
            world->guard = GUARD_ARMED;
        return result == OK;
    case GW_ACT_STOP_GUEST:
        if (has_effect && is_alive)
            source->vmm = VMM_PAUSED;
        return result == FAILED || is_alive;
    case GW_ACT_COPY_LAST:
    case GW_ACT_SEND_STATE:
        return result == FAILED || (result == OK && is_linked && is_alive);
    case GW_ACT_SWAP_DISKS:
        if (has_effect && is_alive)
            world->are_disks_null = 1;
        return result == FAILED || is_alive;
    case GW_ACT_SWAP_BACK:
        if (has_effect && is_alive && world->are_names_changed)
            breaks(run, "disks are brought back from images that have other names");
        if (has_effect && is_alive)
            world->are_disks_null = 0;
        return result == FAILED || is_alive;
    case GW_ACT_RENAME_IMAGES:
    case GW_ACT_RENAME_BACK:
        if (has_effect)
            world->are_names_changed = action == GW_ACT_RENAME_IMAGES;
        return true;
    case GW_ACT_CHECK_VMM:
        return result == FAILED || (result == OK && source->vmm == VMM_PAUSED);
    case GW_ACT_CONT:
        if (has_effect && is_alive)
            source_continues(run);
        return result == FAILED || is_alive;
    case GW_ACT_END_VMM:
        if (!world->kept_target && !world->has_owned)
            breaks(run, "the source ended its QEMU and nobody owns the VM");
        if (has_effect)
            source->vmm = VMM_ENDED;
        return result != FAILED_YET_DONE;
    case GW_ACT_CLEAN_SOURCE:
        return result != FAILED_YET_DONE;
    default:
        return result == OK; /* DELETE_IMAGES: never fails a list */
    }
}

static bool try_target(struct run *run, enum gw_handover_action action, enum result result)
{
    struct agent *target = &run->world.target;
    const bool is_alive = target->vmm != VMM_ENDED;

    switch (action) {
    case GW_ACT_LOAD_STATE:
    case GW_ACT_SWAP_IN:
        return result == FAILED || (result == OK && is_alive);
    case GW_ACT_CHECK_VMM:
        return result == FAILED || (result == OK && target->vmm == VMM_PAUSED);
    case GW_ACT_CONT:
        /* A QEMU that is gone does not answer an error: the caller knows, and says so first. */
        if (!is_alive)
            step(run, GW_SIDE_TARGET, GW_EVENT_VMM_GONE);
        else if (result == OK) {
            target->vmm = VMM_RUNNING;
            run->world.has_run = 1;
        }
        return result == FAILED || (result == OK && is_alive);
    case GW_ACT_END_VMM:
        if (result == OK)
            target->vmm = VMM_ENDED;
        return result != FAILED_YET_DONE;
    case GW_ACT_DISCARD:
        if (run->world.has_run)
            breaks(run, "images that the guest wrote to are deleted");
        return result != FAILED_YET_DONE;
    case GW_ACT_KEEP_NAMES:
        if (result == OK)
            run->world.are_names_kept = 1;
        return result != FAILED_YET_DONE;
    case GW_ACT_ANNOUNCE:
        return result == OK;
    default:
        return result != FAILED_YET_DONE; /* SYNC_IMAGES, RENAME_FINAL, SET_ASIDE */
    }
}

/* Executes the next step with that result. False when it cannot end so. */
static bool execute(struct run *run, enum gw_journal_side side, enum result result)
{
    struct agent *agent = agent_of(run, side);
    const enum gw_handover_action action = (enum gw_handover_action)agent->list[agent->position];
    const enum gw_handover_state record = gw_handover_action_state(action);
    bool is_possible;

    if (record != GW_HANDOVER_NONE)
        is_possible = journal(run, side, record, result);
    else if (side == GW_SIDE_SOURCE)
        is_possible = try_source(run, action, result);
    else
        is_possible = try_target(run, action, result);
    if (!is_possible)
        return false;
    if (result == OK) {
        agent->position++;
        go_on(run, side);
    } else {
        memset(agent->list, 0, sizeof(agent->list));
        agent->count = agent->position = 0;
        step(run, side, GW_EVENT_FAILED);
    }
    return true;
}

static void drop_session(struct run *run)
{
    run->world.has_session = 0;
    if (!run->options->is_network_evil)
        run->world.to_source = run->world.to_target = 0;
}

static void crash(struct run *run, enum gw_journal_side side)
{
    struct agent *agent = agent_of(run, side);
    const struct agent kept = *agent;

    memset(agent, 0, sizeof(*agent));
    agent->journal = kept.journal;
    agent->durable = kept.durable;
    agent->ghost = kept.ghost;
    agent->vmm = kept.vmm;
    /* The agent keeps it with the record's detail. */
    agent->contradicted = kept.contradicted;
    agent->is_fenced = kept.is_fenced;
    drop_session(run);
}

static void restart(struct run *run, enum gw_journal_side side)
{
    struct agent *agent = agent_of(run, side);
    struct gw_journal_entry entry = {.side = side};
    struct gw_handover_actions actions;
    struct gw_handover handover;

    agent->is_alive = 1;
    if (agent->journal == GW_HANDOVER_NONE)
        return;
    agent->has_record = 1;
    strcpy(entry.state, gw_handover_state_name((enum gw_handover_state)agent->journal));
    memset(&handover, 0, sizeof(handover));
    handover.is_guest_paused = run->options->is_guest_paused;
    handover.is_contradicted = agent->contradicted;
    if (gw_handover_restart(&handover, &entry, &actions) != 0) {
        breaks(run, "a journalled state cannot be restarted");
        return;
    }
    if (run->options->mutation == RESTART_FORGETS)
        handover.may_have_run = false;
    store(&handover, agent);
    take(run, side, false, &actions);
    if (agent->vmm == VMM_ENDED)
        step(run, side, GW_EVENT_VMM_GONE);
}

/* An agent's thread has given up waiting, and its recovery takes the move up from the journal, as
 * this life of the agent sees it. */
static void take_up(struct run *run, enum gw_journal_side side)
{
    if (side == GW_SIDE_SOURCE)
        run->world.guard = GUARD_NONE;
    crash(run, side);
    restart(run, side);
}

/* Whether a restarted agent finds the record that failed. */
static void find_ghost(struct run *run, enum gw_journal_side side)
{
    struct agent *agent = agent_of(run, side);

    record_is_made(run, agent, (enum gw_handover_state)agent->ghost);
}

/* The guard of an agent that died. */
static bool guard_acts(struct run *run)
{
    struct world *world = &run->world;

    if (world->source.is_alive || world->guard == GUARD_NONE)
        return false;
    switch (world->guard) {
    case GUARD_STOPPED:
        world->are_names_changed = 0;
        world->guard = GUARD_UNNAMED;
        break;
    case GUARD_UNNAMED:
        if (world->source.vmm != VMM_ENDED)
            world->are_disks_null = 0;
        world->guard = GUARD_UNSWAPPED;
        break;
    case GUARD_UNSWAPPED:
        if (world->source.vmm != VMM_ENDED && !run->options->is_guest_paused)
            source_continues(run);
        world->guard = GUARD_NONE;
        break;
    default:
        world->guard = GUARD_NONE;
        break;
    }
    return true;
}

static void start(struct run *run, const struct world *world, const struct options *options)
{
    run->world = *world;
    run->options = options;
    run->broken = NULL;
}

static void check(struct run *run)
{
    const char *broken = world_broken(&run->world, run->options->is_guest_paused);

    if (broken != NULL)
        breaks(run, broken);
    world_simplify(&run->world);
}

struct emit {
    struct run run;
    const struct world *from;
    const struct options *options;
    visit *each;
    void *context;
};

static struct run *begin(struct emit *emit)
{
    start(&emit->run, emit->from, emit->options);
    return &emit->run;
}

static void end(struct emit *emit, enum kind kind, const char *label)
{
    check(&emit->run);
    if (emit->run.broken != NULL || memcmp(&emit->run.world, emit->from, sizeof(*emit->from)) != 0)
        emit->each(emit->context, &emit->run.world, kind, label, emit->run.broken);
}

static void event(struct emit *emit, enum gw_journal_side side, enum gw_handover_event what,
                  enum kind kind)
{
    step(begin(emit), side, what);
    end(emit, kind, gw_handover_event_name(what));
}

static void lists(struct emit *emit, enum gw_journal_side side, const struct agent *agent)
{
    const enum kind good = side == GW_SIDE_SOURCE ? GOOD_SOURCE : GOOD;
    const char *label;
    bool can_succeed;

    if (!agent->is_alive || agent->count == 0)
        return;
    label = gw_handover_action_name((enum gw_handover_action)agent->list[agent->position]);
    can_succeed = execute(begin(emit), side, OK);
    if (can_succeed)
        end(emit, good, label);
    if (execute(begin(emit), side, FAILED))
        end(emit, can_succeed ? BAD : good, label);
    if (execute(begin(emit), side, FAILED_YET_DONE))
        end(emit, BAD, label);
}

static void deliver(struct emit *emit, enum gw_journal_side side)
{
    const uint32_t messages =
        side == GW_SIDE_SOURCE ? emit->from->to_source : emit->from->to_target;
    const bool is_evil = emit->options->is_network_evil;
    struct run *run;

    for (unsigned i = 0; i < GW_EVENT_COUNT; i++) {
        if ((messages >> i & 1) == 0)
            continue;
        run = begin(emit);
        if (!agent_of(run, side)->is_alive)
            continue;
        if (!is_evil && side == GW_SIDE_SOURCE)
            run->world.to_source &= ~(UINT32_C(1) << i);
        else if (!is_evil)
            run->world.to_target &= ~(UINT32_C(1) << i);
        if (agent_of(run, side)->state != GW_HANDOVER_NONE)
            step(run, side, (enum gw_handover_event)i);
        else if (side == GW_SIDE_TARGET && !run->world.is_reinstalled)
            run->world.to_source |= UINT32_C(1) << GW_EVENT_UNKNOWN;
        end(emit, GOOD, gw_handover_event_name((enum gw_handover_event)i));
    }
}

static void restarts(struct emit *emit, enum gw_journal_side side, enum kind kind)
{
    const struct agent *agent = side == GW_SIDE_SOURCE ? &emit->from->source : &emit->from->target;
    const char *name = side == GW_SIDE_SOURCE ? "source agent restarts" : "target agent restarts";
    struct run *run = begin(emit);

    agent_of(run, side)->ghost = GW_HANDOVER_NONE;
    restart(run, side);
    end(emit, kind, name);
    if (agent->ghost == GW_HANDOVER_NONE)
        return;
    find_ghost(begin(emit), side);
    restart(&emit->run, side);
    end(emit, kind, name);
}

static void take_ups(struct emit *emit)
{
    const struct agent *source = &emit->from->source, *target = &emit->from->target;

    if (source->is_alive && source->journal != GW_HANDOVER_NONE && !source->busy &&
        source->state >= GW_HANDOVER_COMMITTED) {
        take_up(begin(emit), GW_SIDE_SOURCE);
        end(emit, GOOD_SOURCE, "source recovers");
    }
    if (target->is_alive && target->journal != GW_HANDOVER_NONE && !target->busy &&
        target->state > GW_HANDOVER_PREPARED) {
        take_up(begin(emit), GW_SIDE_TARGET);
        end(emit, GOOD, "target recovers");
    }
}

/* The target's host: what was written and not synced may be there afterwards, or not. */
static void cut_power(struct run *run, bool is_written)
{
    struct agent *target = &run->world.target;

    crash(run, GW_SIDE_TARGET);
    target->vmm = VMM_ENDED;
    if (!is_written)
        target->journal = target->durable;
}

static void crashes(struct emit *emit)
{
    const struct world *from = emit->from;
    struct run *run;

    if (from->source.is_alive) {
        crash(begin(emit), GW_SIDE_SOURCE);
        end(emit, BAD, "source agent dies");
    } else if (!from->source.is_fenced && (from->guard < GUARD_STOPPED)) {
        restarts(emit, GW_SIDE_SOURCE, GOOD_SOURCE);
    }
    if (from->target.is_alive) {
        crash(begin(emit), GW_SIDE_TARGET);
        end(emit, BAD, "target agent dies");
    } else if (!from->target.is_fenced) {
        restarts(emit, GW_SIDE_TARGET, GOOD);
        run = begin(emit);
        run->world.is_reinstalled = 1;
        run->world.target.journal = run->world.target.ghost = GW_HANDOVER_NONE;
        run->world.target.durable = GW_HANDOVER_NONE;
        run->world.target.vmm = VMM_ENDED;
        end(emit, BAD, "target is installed anew");
    }
    if (!from->target.is_fenced) {
        cut_power(begin(emit), true);
        end(emit, BAD, "target loses power");
        cut_power(begin(emit), false);
        end(emit, BAD, "target loses power, and what was not synced");
    }
    take_ups(emit);
    if (from->source.vmm != VMM_ENDED) {
        begin(emit)->world.source.vmm = VMM_ENDED;
        end(emit, BAD, "source QEMU dies");
    }
    if (from->target.vmm != VMM_ENDED) {
        begin(emit)->world.target.vmm = VMM_ENDED;
        end(emit, BAD, "target QEMU dies");
    }
    if (from->guard != GUARD_NONE) {
        begin(emit)->world.guard = GUARD_NONE;
        end(emit, BAD, "guard dies");
    }
    if (guard_acts(begin(emit)))
        end(emit, GOOD_SOURCE, "guard acts");
    if (from->source.vmm == VMM_ENDED && !from->source.is_fenced && !from->are_names_changed &&
        !from->has_second && !emit->options->is_guest_paused) {
        run = begin(emit);
        source_starts(run);
        run->world.has_second = 1;
        end(emit, BAD, "supervisor starts the VM again");
    }
}

static void network(struct emit *emit)
{
    const struct world *from = emit->from;
    struct run *run;

    if (!from->is_cut) {
        run = begin(emit);
        run->world.is_cut = 1;
        drop_session(run);
        end(emit, BAD, "link is cut");
    } else {
        begin(emit)->world.is_cut = 0;
        end(emit, GOOD, "link is mended");
    }
    if (from->source.is_alive && from->source.linked && !from->has_session)
        event(emit, GW_SIDE_SOURCE, GW_EVENT_LINK_LOST, GOOD_SOURCE);
    if (from->target.is_alive && from->target.linked && !from->has_session)
        event(emit, GW_SIDE_TARGET, GW_EVENT_LINK_LOST, GOOD);
    if (!from->has_session && !from->is_cut && from->source.is_alive && from->target.is_alive &&
        !from->source.linked && !from->target.linked && from->source.state != GW_HANDOVER_NONE) {
        run = begin(emit);
        if (from->is_reinstalled) {
            step(run, GW_SIDE_SOURCE, GW_EVENT_STRANGER);
        } else {
            run->world.has_session = 1;
            if (from->target.state != GW_HANDOVER_NONE)
                step(run, GW_SIDE_TARGET, GW_EVENT_LINK_UP);
            step(run, GW_SIDE_SOURCE, GW_EVENT_LINK_UP);
            /* A target without a record answers, although it has nothing to keep a link for. */
        }
        end(emit, GOOD, "session");
    }
    if (from->has_session && from->source.is_alive && !from->source.linked) {
        begin(emit)->world.has_session = 0;
        end(emit, GOOD, "session of nobody ends");
    }
}

static void local_events(struct emit *emit)
{
    const struct agent *source = &emit->from->source, *target = &emit->from->target;

    if (source->vmm == VMM_PAUSED && source->state >= GW_HANDOVER_STOPPED &&
        source->state <= GW_HANDOVER_WAITING && !emit->options->is_guest_paused) {
        begin(emit)->world.source.vmm = VMM_RUNNING;
        end(emit, BAD, "somebody continues the guest");
    }
    if (source->is_alive && source->state != GW_HANDOVER_NONE) {
        if (emit->from->has_session)
            event(emit, GW_SIDE_SOURCE, GW_EVENT_CONVERGED, GOOD);
        event(emit, GW_SIDE_SOURCE, GW_EVENT_CANCEL, BAD);
        event(emit, GW_SIDE_SOURCE, GW_EVENT_TIMEOUT,
              source->state != GW_HANDOVER_COPYING || target->is_fenced ? GOOD_SOURCE : BAD);
        event(emit, GW_SIDE_SOURCE, GW_EVENT_RETRY, GOOD_SOURCE);
        if (emit->from->guard == GUARD_NONE)
            event(emit, GW_SIDE_SOURCE, GW_EVENT_GUARD_LOST, GOOD_SOURCE);
        if (source->vmm == VMM_ENDED)
            event(emit, GW_SIDE_SOURCE, GW_EVENT_VMM_GONE, GOOD_SOURCE);
    }
    if (target->is_alive && target->state != GW_HANDOVER_NONE) {
        event(emit, GW_SIDE_TARGET, GW_EVENT_CANCEL, BAD);
        event(emit, GW_SIDE_TARGET, GW_EVENT_TIMEOUT, GOOD);
        event(emit, GW_SIDE_TARGET, GW_EVENT_RETRY, GOOD);
        if (target->vmm == VMM_ENDED)
            event(emit, GW_SIDE_TARGET, GW_EVENT_VMM_GONE, GOOD);
    }
}

static void fence(struct run *run, enum gw_journal_side side)
{
    crash(run, side);
    agent_of(run, side)->vmm = VMM_ENDED;
    agent_of(run, side)->is_fenced = 1;
    if (side == GW_SIDE_SOURCE) {
        run->world.guard = GUARD_NONE;
        run->world.has_second = 0;
    }
}

/* A person, who does as the manual says: giving the VM up needs nothing, keeping it needs the other
 * host switched off for good. */
static void people(struct emit *emit)
{
    const struct world *from = emit->from;
    struct run *run;

    if (!from->source.is_fenced && !from->target.is_fenced) {
        fence(begin(emit), GW_SIDE_SOURCE);
        end(emit, BAD, "source host is lost for good");
        fence(begin(emit), GW_SIDE_TARGET);
        end(emit, BAD, "target host is lost for good");
    }
    if (from->source.is_alive && from->source.state != GW_HANDOVER_NONE) {
        run = begin(emit);
        run->world.kept_target = 1;
        step(run, GW_SIDE_SOURCE, GW_EVENT_RESOLVE_TARGET);
        if (run->world.source.state == GW_HANDOVER_HANDED_OVER &&
            from->source.state != GW_HANDOVER_HANDED_OVER)
            end(emit, BAD, "source: resolve --keep target");
        run = begin(emit);
        run->world.kept_source = 1;
        step(run, GW_SIDE_SOURCE, GW_EVENT_RESOLVE_SOURCE);
        if ((from->target.is_fenced || emit->options->is_person_rash) && run->world.source.busy &&
            !from->source.busy)
            end(emit, BAD, "source: resolve --keep source");
    }
    if (from->target.is_alive && from->target.state != GW_HANDOVER_NONE) {
        run = begin(emit);
        run->world.kept_source = 1;
        step(run, GW_SIDE_TARGET, GW_EVENT_RESOLVE_SOURCE);
        if (run->world.target.state != from->target.state)
            end(emit, BAD, "target: resolve --keep source");
        run = begin(emit);
        run->world.kept_target = 1;
        step(run, GW_SIDE_TARGET, GW_EVENT_RESOLVE_TARGET);
        if ((from->source.is_fenced || emit->options->is_person_rash) &&
            run->world.target.state != from->target.state)
            end(emit, BAD, "target: resolve --keep target");
    }
}

void world_begin(struct world *world, const struct options *options)
{
    static const uint8_t instance[16] = {0};
    const struct options plain = {.is_guest_paused = options->is_guest_paused};
    struct gw_handover_actions actions;
    struct gw_handover handover;
    struct run run;

    memset(world, 0, sizeof(*world));
    world->guard = GUARD_ARMED;
    world->has_session = 1;
    world->source.vmm = options->is_guest_paused ? VMM_PAUSED : VMM_RUNNING;
    world->target.vmm = VMM_PAUSED;
    world->source.is_alive = world->target.is_alive = 1;
    start(&run, world, &plain);
    for (int side = GW_SIDE_SOURCE; side <= GW_SIDE_TARGET; side++) {
        gw_handover_begin(&handover, (enum gw_journal_side)side, instance, &actions);
        handover.is_guest_paused = options->is_guest_paused;
        store(&handover, agent_of(&run, (enum gw_journal_side)side));
        take(&run, (enum gw_journal_side)side, false, &actions);
    }
    *world = run.world;
}

void world_part(const struct world *world, const struct options *options, enum part part,
                visit *each, void *context)
{
    struct emit emit = {.from = world, .options = options, .each = each, .context = context};

    switch (part) {
    case PART_SOURCE_STEP:
        lists(&emit, GW_SIDE_SOURCE, &world->source);
        break;
    case PART_TARGET_STEP:
        lists(&emit, GW_SIDE_TARGET, &world->target);
        break;
    case PART_TO_SOURCE:
        deliver(&emit, GW_SIDE_SOURCE);
        break;
    case PART_TO_TARGET:
        deliver(&emit, GW_SIDE_TARGET);
        break;
    case PART_LOCAL:
        local_events(&emit);
        break;
    case PART_NETWORK:
        network(&emit);
        break;
    case PART_CRASHES:
        crashes(&emit);
        break;
    default:
        people(&emit);
        break;
    }
}

void world_successors(const struct world *world, const struct options *options, visit *each,
                      void *context)
{
    for (int part = 0; part < PART_COUNT; part++)
        world_part(world, options, (enum part)part, each, context);
}
