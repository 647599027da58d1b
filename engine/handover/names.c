/* SPDX-License-Identifier: Apache-2.0 */
/* The texts of the handover's states, events and actions. The rules are in handover.c. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/error.h"
#include "engine/handover/handover.h"

static const struct {
    const char *name, *meaning;
} states[GW_HANDOVER_STATE_COUNT] = {
    [GW_HANDOVER_NONE] = {"NONE", "no handover"},
    [GW_HANDOVER_COPYING] = {"COPYING",
                             "the guest runs on the source; its disks and memory are being copied"},
    [GW_HANDOVER_STOPPING] = {"STOPPING", "the guest runs on the source and is being paused"},
    [GW_HANDOVER_STOPPED] = {"STOPPED",
                             "paused on the source; the last pages and extents are being copied"},
    [GW_HANDOVER_SWAPPING] = {"SWAPPING", "paused on the source; its disks are being closed"},
    [GW_HANDOVER_SWAPPED] = {"SWAPPED", "paused on the source; the device state is being sent"},
    [GW_HANDOVER_WAITING] = {"WAITING", "paused on the source; waiting for the target to be ready"},
    [GW_HANDOVER_CHECKING] = {"CHECKING",
                              "paused on the source; the last look before the commitment"},
    [GW_HANDOVER_COMMITTING] = {"COMMITTING",
                                "paused; the source is committing itself to the handover"},
    [GW_HANDOVER_COMMITTED] =
        {"COMMITTED",
         "paused on the source, which will not resume by itself; waiting for the target to run"},
    [GW_HANDOVER_COMMIT_UNSURE] =
        {"COMMIT_UNSURE",
         "paused; the journal failed at the commitment, the target is being asked to abort"},
    [GW_HANDOVER_IN_DOUBT] = {"IN_DOUBT", "in doubt: paused on the source; the target may run it; "
                                          "waiting for its answer"},
    [GW_HANDOVER_TARGET_LOST] =
        {"TARGET_LOST",
         "in doubt: the target took the VM over and lost it; nobody resumes by itself"},
    [GW_HANDOVER_RECLAIMING] =
        {"RECLAIMING", "paused; the target will never run it, the source is taking it back"},
    [GW_HANDOVER_HANDED_OVER] = {"HANDED_OVER",
                                 "the target has the VM; the source is ending its QEMU"},
    [GW_HANDOVER_DONE] = {"DONE", "the target has the VM"},
    [GW_HANDOVER_UNDOING] =
        {"UNDOING", "the move was given up; the source is putting disks and names back to go on"},
    [GW_HANDOVER_RESUMED] =
        {"RESUMED",
         "the move was given up, the source runs the VM; the target is still to be told"},
    [GW_HANDOVER_GONE] =
        {"GONE",
         "the QEMU of the source ended during the move; its images have their own names again"},
    [GW_HANDOVER_CLOSED] = {"CLOSED", "the move was given up; nothing of it is left on the target"},
    [GW_HANDOVER_RECEIVING] = {"RECEIVING", "the source has the VM; disks and memory are arriving"},
    [GW_HANDOVER_LOADING] = {"LOADING", "the source has the VM; the device state is being loaded"},
    [GW_HANDOVER_PLACING] = {"PLACING", "the source has the VM; the disks are being put in place"},
    [GW_HANDOVER_PREPARING] = {"PREPARING",
                               "the source has the VM; the target is about to be ready"},
    [GW_HANDOVER_PREPARED] = {"PREPARED",
                              "ready and paused on the target; waiting for the word of the source"},
    [GW_HANDOVER_OWNING] = {"OWNING", "paused; the target is taking the VM over"},
    [GW_HANDOVER_OWNER] = {"OWNER", "the target owns the VM and is starting it"},
    [GW_HANDOVER_RUNNING] = {"RUNNING", "the target has the VM"},
    [GW_HANDOVER_ABORTING] = {"ABORTING", "the target is about to promise never to run the VM"},
    [GW_HANDOVER_ABORTED] = {"ABORTED",
                             "the target never will run the VM; it is removing what had arrived"},
    [GW_HANDOVER_GIVING_UP] =
        {"GIVING_UP", "the VM could not be started on the target; its QEMU is being ended"},
    [GW_HANDOVER_NEVER_RAN] =
        {"NEVER_RAN", "the VM could not be started on the target and never will run there"},
    [GW_HANDOVER_LOST] =
        {"LOST", "the target took the VM over and lost its QEMU; nobody resumes by itself"},
    [GW_HANDOVER_YIELDING] =
        {"YIELDING",
         "a person gave the VM back to the source; the target is about to promise never to run it"},
    [GW_HANDOVER_YIELDED] =
        {"YIELDED",
         "a person gave the VM back to the source; the target is setting its images aside"},
    [GW_HANDOVER_DISCARDED] = {"DISCARDED",
                               "the target never will run the VM; nothing of it is left here"},
};

static const char *const events[GW_EVENT_COUNT] = {
    [GW_EVENT_DONE] = "DONE",
    [GW_EVENT_FAILED] = "FAILED",
    [GW_EVENT_CONVERGED] = "CONVERGED",
    [GW_EVENT_CANCEL] = "CANCEL",
    [GW_EVENT_TIMEOUT] = "TIMEOUT",
    [GW_EVENT_LINK_LOST] = "LINK_LOST",
    [GW_EVENT_LINK_UP] = "LINK_UP",
    [GW_EVENT_STRANGER] = "STRANGER",
    [GW_EVENT_VMM_GONE] = "VMM_GONE",
    [GW_EVENT_GUARD_LOST] = "GUARD_LOST",
    [GW_EVENT_RETRY] = "RETRY",
    [GW_EVENT_RESOLVE_SOURCE] = "RESOLVE_SOURCE",
    [GW_EVENT_RESOLVE_TARGET] = "RESOLVE_TARGET",
    [GW_EVENT_FINISH] = "FINISH",
    [GW_EVENT_GO] = "GO",
    [GW_EVENT_ABORT] = "ABORT",
    [GW_EVENT_READY] = "READY",
    [GW_EVENT_RUNNING] = "RUNNING",
    [GW_EVENT_ABORTED] = "ABORTED",
    [GW_EVENT_NEVER_RAN] = "NEVER_RAN",
    [GW_EVENT_LOST] = "LOST",
    [GW_EVENT_UNKNOWN] = "UNKNOWN",
};

/* record: the state that a journal action makes durable. message: what a send says. */
static const struct {
    const char *name;
    enum gw_handover_state record;
    enum gw_handover_event message;
} actions[GW_ACT_COUNT] = {
    [GW_ACT_SEND_FINISH] = {"SEND_FINISH", GW_HANDOVER_NONE, GW_EVENT_FINISH},
    [GW_ACT_SEND_GO] = {"SEND_GO", GW_HANDOVER_NONE, GW_EVENT_GO},
    [GW_ACT_SEND_ABORT] = {"SEND_ABORT", GW_HANDOVER_NONE, GW_EVENT_ABORT},
    [GW_ACT_SEND_READY] = {"SEND_READY", GW_HANDOVER_NONE, GW_EVENT_READY},
    [GW_ACT_SEND_RUNNING] = {"SEND_RUNNING", GW_HANDOVER_NONE, GW_EVENT_RUNNING},
    [GW_ACT_SEND_ABORTED] = {"SEND_ABORTED", GW_HANDOVER_NONE, GW_EVENT_ABORTED},
    [GW_ACT_SEND_NEVER_RAN] = {"SEND_NEVER_RAN", GW_HANDOVER_NONE, GW_EVENT_NEVER_RAN},
    [GW_ACT_SEND_LOST] = {"SEND_LOST", GW_HANDOVER_NONE, GW_EVENT_LOST},
    [GW_ACT_REDIAL] = {"REDIAL", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_INTERRUPT] = {"INTERRUPT", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_ALARM] = {"ALARM", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_TELL_GUARD_STOPPED] = {"TELL_GUARD_STOPPED", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_STOP_GUEST] = {"STOP_GUEST", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_COPY_LAST] = {"COPY_LAST", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_SWAP_DISKS] = {"SWAP_DISKS", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_SEND_STATE] = {"SEND_STATE", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_RENAME_IMAGES] = {"RENAME_IMAGES", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_CHECK_VMM] = {"CHECK_VMM", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_TELL_GUARD_COMMITTING] = {"TELL_GUARD_COMMITTING", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_RENAME_BACK] = {"RENAME_BACK", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_SWAP_BACK] = {"SWAP_BACK", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_CLEAN_SOURCE] = {"CLEAN_SOURCE", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_TELL_GUARD_RESUMED] = {"TELL_GUARD_RESUMED", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_DELETE_IMAGES] = {"DELETE_IMAGES", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_SYNC_IMAGES] = {"SYNC_IMAGES", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_RENAME_FINAL] = {"RENAME_FINAL", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_LOAD_STATE] = {"LOAD_STATE", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_SWAP_IN] = {"SWAP_IN", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_ANNOUNCE] = {"ANNOUNCE", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_KEEP_NAMES] = {"KEEP_NAMES", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_DISCARD] = {"DISCARD", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_SET_ASIDE] = {"SET_ASIDE", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_CONT] = {"CONT", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_END_VMM] = {"END_VMM", GW_HANDOVER_NONE, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_COPYING] = {"JOURNAL_COPYING", GW_HANDOVER_COPYING, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_COMMITTED] = {"JOURNAL_COMMITTED", GW_HANDOVER_COMMITTED, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_UNDOING] = {"JOURNAL_UNDOING", GW_HANDOVER_UNDOING, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_RESUMED] = {"JOURNAL_RESUMED", GW_HANDOVER_RESUMED, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_GONE] = {"JOURNAL_GONE", GW_HANDOVER_GONE, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_CLOSED] = {"JOURNAL_CLOSED", GW_HANDOVER_CLOSED, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_HANDED_OVER] = {"JOURNAL_HANDED_OVER", GW_HANDOVER_HANDED_OVER, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_DONE] = {"JOURNAL_DONE", GW_HANDOVER_DONE, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_RECEIVING] = {"JOURNAL_RECEIVING", GW_HANDOVER_RECEIVING, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_PREPARED] = {"JOURNAL_PREPARED", GW_HANDOVER_PREPARED, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_OWNER] = {"JOURNAL_OWNER", GW_HANDOVER_OWNER, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_RUNNING] = {"JOURNAL_RUNNING", GW_HANDOVER_RUNNING, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_ABORTED] = {"JOURNAL_ABORTED", GW_HANDOVER_ABORTED, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_NEVER_RAN] = {"JOURNAL_NEVER_RAN", GW_HANDOVER_NEVER_RAN, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_LOST] = {"JOURNAL_LOST", GW_HANDOVER_LOST, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_YIELDED] = {"JOURNAL_YIELDED", GW_HANDOVER_YIELDED, GW_EVENT_COUNT},
    [GW_ACT_JOURNAL_DISCARDED] = {"JOURNAL_DISCARDED", GW_HANDOVER_DISCARDED, GW_EVENT_COUNT},
};

const char *gw_handover_state_name(enum gw_handover_state state)
{
    assert(state < GW_HANDOVER_STATE_COUNT);
    return states[state].name;
}

const char *gw_handover_state_meaning(enum gw_handover_state state)
{
    assert(state < GW_HANDOVER_STATE_COUNT);
    return states[state].meaning;
}

const char *gw_handover_event_name(enum gw_handover_event event)
{
    assert(event < GW_EVENT_COUNT);
    return events[event];
}

const char *gw_handover_action_name(enum gw_handover_action action)
{
    assert(action < GW_ACT_COUNT);
    return actions[action].name;
}

enum gw_handover_state gw_handover_action_state(enum gw_handover_action action)
{
    assert(action < GW_ACT_COUNT);
    return actions[action].record;
}

enum gw_handover_event gw_handover_action_message(enum gw_handover_action action)
{
    assert(action < GW_ACT_COUNT);
    return actions[action].message;
}

int gw_handover_state_parse(const char *name, enum gw_handover_state *out)
{
    for (unsigned i = GW_HANDOVER_NONE + 1; i < GW_HANDOVER_STATE_COUNT; i++)
        if (strcmp(states[i].name, name) == 0) {
            *out = (enum gw_handover_state)i;
            return 0;
        }
    return gw_fail(-EINVAL, "handover: %s is not a state", name);
}

int gw_handover_message_parse(const char *name, enum gw_handover_event *out)
{
    for (unsigned i = GW_EVENT_FINISH; i < GW_EVENT_COUNT; i++)
        if (strcmp(events[i], name) == 0) {
            *out = (enum gw_handover_event)i;
            return 0;
        }
    return gw_fail(-EINVAL, "handover: %s is not a message", name);
}
