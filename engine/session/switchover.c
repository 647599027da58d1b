/* SPDX-License-Identifier: Apache-2.0 */
/* The executor of the state machine: no decision is made here. */
#include "engine/session/switchover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

int gw_switchover_record(struct gw_switchover *switchover, enum gw_handover_state state)
{
    struct gw_journal_entry entry = {.side = switchover->side, .detail = switchover->detail};

    snprintf(entry.epoch, sizeof(entry.epoch), "%s", switchover->epoch);
    snprintf(entry.state, sizeof(entry.state), "%s", gw_handover_state_name(state));
    memcpy(entry.peer_instance, switchover->machine.peer_instance, sizeof(entry.peer_instance));
    return gw_journal_record(switchover->journal, &entry);
}

static const char *alarm_text(enum gw_handover_state state)
{
    if (state == GW_HANDOVER_HANDED_OVER || state == GW_HANDOVER_DONE)
        return "nobody runs the VM: this host was told to give it away, and the target says that "
               "it "
               "never will run it; decide with godwit resolve";
    if (gw_handover_side(state) == GW_SIDE_TARGET)
        return "the VM runs here, and the source was told to take it back: stop one of them at "
               "once "
               "with godwit resolve";
    return "the target has the VM although this host was told to take it back: stop one of them at "
           "once with godwit resolve";
}

/* What the other host contradicts is kept with the record, so that it is shown after a restart too. */
static void keep_contradiction(struct gw_switchover *switchover)
{
    bool was = json_is_true(json_object_get(switchover->detail, GW_CONTRADICTED));

    if (was == switchover->machine.is_contradicted || !switchover->detail)
        return;
    if (was)
        json_object_del(switchover->detail, GW_CONTRADICTED);
    else
        json_object_set_new(switchover->detail, GW_CONTRADICTED, json_true());
    /* In a state that has no record it goes with the next one. */
    if (gw_handover_is_journalled(switchover->machine.state) &&
        gw_switchover_record(switchover, switchover->machine.state))
        gw_log(GW_LOG_WARNING, "move %s: %s", switchover->epoch, gw_error_message());
}

/* Messages that end the move: the other side's person is to be told why. */
static bool is_refusal(enum gw_handover_event message)
{
    return message == GW_EVENT_ABORT || message == GW_EVENT_ABORTED ||
           message == GW_EVENT_NEVER_RAN;
}

static void note(struct gw_switchover *switchover, enum gw_handover_action action)
{
    enum gw_handover_event message = gw_handover_action_message(action);

    if (action == GW_ACT_REDIAL)
        switchover->wants_redial = true;
    if (action == GW_ACT_ALARM)
        gw_log(GW_LOG_ERROR, "move %s: %s", switchover->epoch,
               alarm_text(switchover->machine.state));
    /* A link that is down is found by whoever receives from it. */
    if (message != GW_EVENT_COUNT && switchover->control)
        gw_message_send(
            switchover->control,
            json_pack(
                "{s:s,s:s,s:s,s:b,s:o*,s:o*,s:o*}", "type", "handover", "message",
                gw_handover_event_name(message), "epoch", switchover->epoch, "keep",
                (int)(switchover->keeps && action == GW_ACT_SEND_ABORT), "kept",
                message == GW_EVENT_ABORTED ? json_boolean(switchover->keeps) : NULL, "steps_ms",
                message == GW_EVENT_RUNNING ? gw_switchover_times(switchover) : NULL, "cause",
                is_refusal(message) && switchover->cause.code ? json_string(switchover->cause.text)
                                                              : NULL));
}

static void note_vmm_gone(struct gw_switchover *switchover)
{
    struct gw_handover_actions actions; /* notes at most: the list in hand still ends first */

    if (gw_handover_step(&switchover->machine, GW_EVENT_VMM_GONE, &actions))
        gw_log(GW_LOG_ERROR, "move %s: %s", switchover->epoch, gw_error_message());
}

/* QEMU refused `cont`, or was gone before it was said: the guest has not run for one instant. After
 * any other failure, a broken connection say, it may have, and what it wrote is on the target. */
static void note_unanswered_cont(struct gw_switchover *switchover, int error)
{
    if (error != -EREMOTEIO && error != -EIO && error != -ESRCH)
        note_vmm_gone(switchover);
}

static int step(struct gw_switchover *switchover, enum gw_handover_action action)
{
    uint64_t started = gw_clock_ns();
    const enum gw_handover_state state = gw_handover_action_state(action);
    int error = state != GW_HANDOVER_NONE ? gw_switchover_record(switchover, state)
                                          : switchover->act(switchover->context, action);

    switchover->action_ns[action] = gw_clock_ns() - started;
    gw_log(GW_LOG_DEBUG, "move %s: %s: %s, %.1f ms", switchover->epoch,
           gw_handover_action_name(action), error ? gw_error_message() : "done",
           (double)switchover->action_ns[action] / 1e6);
    if (error && !switchover->cause.code) {
        gw_error_take(error, &switchover->cause);
        /* The words go to the source before the machine says what follows; what a source gives up for it
         * says in its ABORT. */
        if (switchover->side == GW_SIDE_TARGET && switchover->control)
            gw_message_send_error(switchover->control, error);
    }
    if (error && switchover->is_vmm_gone && switchover->is_vmm_gone(switchover->context))
        note_vmm_gone(switchover);
    if (error && action == GW_ACT_CONT && switchover->side == GW_SIDE_TARGET)
        note_unanswered_cont(switchover, error);
    return error;
}

/* The line comes before anything is done in the new state: tests hold it to stop a move there. */
static void log_state(struct gw_switchover *switchover)
{
    if (switchover->shown == switchover->machine.state)
        return;
    switchover->shown = switchover->machine.state;
    gw_log(GW_LOG_DEBUG, "move %s: %s is %s", switchover->epoch,
           switchover->side == GW_SIDE_SOURCE ? "source" : "target",
           gw_handover_state_name(switchover->shown));
}

static void show_state(struct gw_switchover *switchover)
{
    log_state(switchover);
    if (!switchover->progress)
        return;
    pthread_mutex_lock(&switchover->progress->lock);
    memcpy(switchover->progress->data.epoch, switchover->epoch,
           sizeof(switchover->progress->data.epoch));
    snprintf(switchover->progress->data.state, sizeof(switchover->progress->data.state), "%s",
             gw_handover_state_name(switchover->machine.state));
    pthread_mutex_unlock(&switchover->progress->lock);
}

/* A list that is repeated does not continue the guest once more: its owner may have paused it since. */
static void note_let_go(struct gw_switchover *switchover)
{
    json_object_set_new(switchover->detail, "held", json_false());
    if (gw_switchover_record(switchover, switchover->machine.state))
        gw_log(GW_LOG_WARNING, "move %s: %s", switchover->epoch, gw_error_message());
}

/* Does one list. Returns the event to report, or GW_EVENT_COUNT when the list was notes alone. */
static enum gw_handover_event execute(struct gw_switchover *switchover,
                                      const struct gw_handover_actions *actions, bool is_busy)
{
    bool is_let_go = false;

    show_state(switchover);
    for (unsigned i = 0; i < actions->count; i++) {
        enum gw_handover_action action = actions->list[i];

        if (gw_handover_action_is_note(action)) {
            note(switchover, action);
        } else if (step(switchover, action)) {
            if (is_let_go)
                note_let_go(switchover);
            return GW_EVENT_FAILED;
        }
        is_let_go |= action == GW_ACT_CONT && switchover->machine.state == GW_HANDOVER_UNDOING;
    }
    return is_busy ? GW_EVENT_DONE : GW_EVENT_COUNT;
}

static int run(struct gw_switchover *switchover, struct gw_handover_actions *actions)
{
    enum gw_handover_event event = execute(switchover, actions, switchover->machine.is_busy);

    /* Every list of the machine leads on or ends: it holds no cycle without an event from outside.
     */
    while (event != GW_EVENT_COUNT) {
        int error = gw_handover_step(&switchover->machine, event, actions);

        if (error)
            return error;
        event = execute(switchover, actions, switchover->machine.is_busy);
    }
    keep_contradiction(switchover);
    return 0;
}

int gw_switchover_begin(struct gw_switchover *switchover, const uint8_t *peer_instance)
{
    struct gw_handover_actions actions;
    bool is_paused = switchover->machine.is_guest_paused;

    gw_handover_begin(&switchover->machine, switchover->side, peer_instance, &actions);
    switchover->machine.is_guest_paused = is_paused;
    return run(switchover, &actions);
}

int gw_switchover_restart(struct gw_switchover *switchover, const struct gw_journal_entry *entry)
{
    struct gw_handover_actions actions;
    int error;

    switchover->machine.is_contradicted =
        json_is_true(json_object_get(entry->detail, GW_CONTRADICTED));
    error = gw_handover_restart(&switchover->machine, entry, &actions);
    return error ? error : run(switchover, &actions);
}

int gw_switchover_event(struct gw_switchover *switchover, enum gw_handover_event event)
{
    struct gw_handover_actions actions;
    int error = gw_handover_step(&switchover->machine, event, &actions);

    return error ? error : run(switchover, &actions);
}

/* Why the other side gives up, for people. */
static void take_cause(struct gw_switchover *switchover, const json_t *message)
{
    int error = switchover->cause.code ? 0 : gw_message_raise_cause(message);

    if (error)
        gw_error_take(error, &switchover->cause);
}

int gw_switchover_hear(struct gw_switchover *switchover, const uint8_t *instance,
                       const json_t *message)
{
    struct gw_handover_actions actions;
    enum gw_handover_event event;
    const char *name, *epoch;
    int error = gw_message_text(message, "message", &name);

    switchover->heard_ns = gw_clock_ns();
    if (json_is_object(json_object_get(message, "steps_ms")) && !switchover->peer_times)
        switchover->peer_times = json_incref(json_object_get(message, "steps_ms"));
    take_cause(switchover, message);
    if (!error)
        error = gw_message_text(message, "epoch", &epoch);
    if (!error && strcmp(epoch, switchover->epoch) != 0)
        error = gw_fail(-EPROTO, "a message of migration %.40s in the session of %s", epoch,
                        switchover->epoch);
    if (!error && gw_handover_message_parse(name, &event))
        error = gw_fail(-EPROTO, "handover: '%.40s' is not a message", name);
    /* The target promises, and has nothing that a later attempt could go on from. */
    if (!error && event == GW_EVENT_ABORTED &&
        memcmp(instance, switchover->machine.peer_instance, GW_ID_SIZE) == 0 &&
        json_is_false(json_object_get(message, "kept")))
        switchover->keeps = false;
    if (!error)
        error = gw_handover_hear(&switchover->machine, instance, event, &actions);
    return error ? error : run(switchover, &actions);
}

json_t *gw_switchover_times(const struct gw_switchover *switchover)
{
    json_t *times = json_object();

    for (unsigned action = 0; action < GW_ACT_COUNT; action++)
        if (switchover->action_ns[action])
            json_object_set_new(times, gw_handover_action_name((enum gw_handover_action)action),
                                json_real((double)switchover->action_ns[action] / 1e6));
    return times;
}
