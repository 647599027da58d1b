/* SPDX-License-Identifier: Apache-2.0 */
/* What a world must come to, and the machines that are wrong on purpose. It moves nothing. */
#include <stddef.h>
#include <string.h>

#include "world.h"

static void put_before(struct gw_handover_actions *actions, enum gw_handover_action what,
                       enum gw_handover_action before)
{
    for (unsigned i = 0; i < actions->count; i++)
        if (actions->list[i] == before && actions->count < GW_ACTIONS_MAX) {
            memmove(&actions->list[i + 1], &actions->list[i],
                    (actions->count - i) * sizeof(actions->list[0]));
            actions->list[i] = what;
            actions->count++;
            return;
        }
}

static void leave_out(struct gw_handover_actions *actions, enum gw_handover_action what)
{
    for (unsigned i = 0; i < actions->count; i++)
        if (actions->list[i] == what)
            actions->list[i] = GW_ACT_INTERRUPT; /* a note without effect */
}

void world_mutate(enum mutation mutation, struct gw_handover_actions *actions)
{
    switch (mutation) {
    case GO_BEFORE_COMMITTED:
        put_before(actions, GW_ACT_SEND_GO, GW_ACT_JOURNAL_COMMITTED);
        break;
    case CONT_BEFORE_OWNER:
        put_before(actions, GW_ACT_CONT, GW_ACT_JOURNAL_OWNER);
        break;
    case NO_LAST_LOOK:
        leave_out(actions, GW_ACT_CHECK_VMM);
        break;
    case GUARD_NOT_TOLD:
        leave_out(actions, GW_ACT_TELL_GUARD_COMMITTING);
        break;
    case ABORTED_BEFORE_DURABLE:
        put_before(actions, GW_ACT_SEND_ABORTED, GW_ACT_JOURNAL_ABORTED);
        break;
    case NO_SWAP_BACK:
        leave_out(actions, GW_ACT_SWAP_BACK);
        break;
    case RUNNING_BEFORE_NAMES:
        leave_out(actions, GW_ACT_KEEP_NAMES);
        break;
    case NO_RENAME:
        leave_out(actions, GW_ACT_RENAME_IMAGES);
        break;
    default:
        break;
    }
}

void world_simplify(struct world *world)
{
    const enum gw_handover_state at = (enum gw_handover_state)world->source.state;

    if (world->source.is_fenced) {
        world->guard = GUARD_NONE;
        world->are_disks_null = world->are_names_changed = 0;
        world->to_source = 0;
        world->source.journal = world->source.ghost = world->source.durable = GW_HANDOVER_NONE;
        world->was_committed = world->has_promised = 0;
    }
    if (world->target.is_fenced) {
        world->to_target = 0;
        world->are_names_kept = 0;
        world->target.durable = GW_HANDOVER_NONE;
        world->target.journal = world->target.ghost = GW_HANDOVER_NONE;
        world->is_reinstalled = 0;
    }
    if (world->source.vmm == VMM_ENDED)
        world->are_disks_null = 0;
    if (world->source.is_alive && at != GW_HANDOVER_HANDED_OVER && at != GW_HANDOVER_DONE)
        world->source.target_running = world->source.taken_back = 0;
    if (world->source.is_alive && at == GW_HANDOVER_DONE && !world->source.busy)
        world->source.clean = world->source.taken_back = world->source.target_running = 0;
    if (world->source.is_alive && (gw_handover_is_decided(at) || at == GW_HANDOVER_IN_DOUBT ||
                                   at == GW_HANDOVER_COMMITTED || at == GW_HANDOVER_TARGET_LOST))
        world->guard = GUARD_NONE;
}

const char *world_broken(const struct world *world, bool is_guest_paused)
{
    const struct agent *source = &world->source;
    const int runners =
        (source->vmm == VMM_RUNNING) + world->has_second + (world->target.vmm == VMM_RUNNING);

    if (runners > 1)
        return "two runners";
    if (is_guest_paused && runners > 0)
        return "a VM that its owner had paused runs";
    if (!is_guest_paused && source->is_alive && source->vmm == VMM_PAUSED &&
        (source->state == GW_HANDOVER_RESUMED || source->state == GW_HANDOVER_CLOSED))
        return "the source says that it resumed, and its guest is paused";
    return NULL;
}

bool world_is_settled(const struct world *world)
{
    const struct agent *source = &world->source, *target = &world->target;
    const bool is_target_mute = target->is_fenced || world->is_reinstalled;
    const enum gw_handover_state at = (enum gw_handover_state)source->state;
    const enum gw_handover_state there = (enum gw_handover_state)target->state;
    const bool is_source_settled =
        source->is_fenced ||
        (source->is_alive &&
         (at == GW_HANDOVER_NONE || gw_handover_is_ended(at) || at == GW_HANDOVER_TARGET_LOST ||
          /* both show that they contradict each other, or one that nobody has the VM */
          (source->contradicted && (target->contradicted || there != GW_HANDOVER_RUNNING)) ||
          (at == GW_HANDOVER_HANDED_OVER && there == GW_HANDOVER_LOST) ||
          (is_target_mute && (at == GW_HANDOVER_IN_DOUBT || at == GW_HANDOVER_COMMIT_UNSURE ||
                              at == GW_HANDOVER_HANDED_OVER)) ||
          (target->is_fenced && (at == GW_HANDOVER_RESUMED || at == GW_HANDOVER_GONE)) ||
          /* The record was never made: nobody can say what became of it. */
          ((at == GW_HANDOVER_IN_DOUBT || at == GW_HANDOVER_HANDED_OVER) && target->is_alive &&
           there == GW_HANDOVER_NONE)));
    const bool is_target_settled =
        target->is_fenced ||
        (target->is_alive &&
         (there == GW_HANDOVER_NONE || gw_handover_is_ended(there) || there == GW_HANDOVER_LOST ||
          ((source->is_fenced || at == GW_HANDOVER_NONE || at == GW_HANDOVER_CLOSED ||
            at == GW_HANDOVER_DONE) &&
           there == GW_HANDOVER_PREPARED)));

    return is_source_settled && is_target_settled;
}

bool world_source_runs(const struct world *world)
{
    return world->source.vmm != VMM_PAUSED;
}

bool world_must_run_again(const struct world *world)
{
    const struct agent *source = &world->source;

    if (source->is_fenced || source->vmm == VMM_ENDED || world->kept_target)
        return false;
    if (!source->is_alive)
        return source->journal == GW_HANDOVER_COPYING || source->journal == GW_HANDOVER_UNDOING ||
               source->journal == GW_HANDOVER_RESUMED || source->journal == GW_HANDOVER_NONE;
    return (source->state >= GW_HANDOVER_COPYING && source->state <= GW_HANDOVER_CHECKING) ||
           source->state == GW_HANDOVER_UNDOING;
}

static bool shows(const struct agent *agent)
{
    return agent->contradicted || !gw_handover_is_decided((enum gw_handover_state)agent->state);
}

bool world_is_shown(const struct world *world)
{
    const int runners =
        (world->source.vmm == VMM_RUNNING) + world->has_second + (world->target.vmm == VMM_RUNNING);

    return runners < 2 || !world->source.is_alive || !world->target.is_alive ||
           !world->source.has_record || !world->target.has_record ||
           (shows(&world->source) && shows(&world->target));
}

const char *world_mutation_name(enum mutation mutation)
{
    static const char *const names[MUTATION_COUNT] = {
        [MUTATE_NOTHING] = "the machine as it is",
        [GO_BEFORE_COMMITTED] = "GO is sent before COMMITTED is journalled",
        [CONT_BEFORE_OWNER] = "cont comes before OWNER is journalled",
        [NO_LAST_LOOK] = "the source does not look at its QEMU after the rename",
        [GUARD_NOT_TOLD] = "the guard is not told of the commitment",
        [ABORTED_BEFORE_DURABLE] = "ABORTED is said before it is journalled",
        [STRANGER_BELIEVED] = "another instance's word is taken for the target's",
        [RESTART_FORGETS] = "a restarted owner forgets that the guest may have run",
        [NO_SWAP_BACK] = "the undo leaves the disks out",
        [FAILED_COMMIT_TRUSTED] = "a failed COMMITTED record is taken for none",
        [NO_RENAME] = "the images keep their names",
        [RUNNING_BEFORE_NAMES] = "the final names are not on the disk when the move ends",
        [OWNER_NOT_SYNCED] = "OWNER does not outlive its host",
        [DOUBT_RESUMES] = "the source resumes when it has waited long enough",
    };

    return names[mutation];
}
