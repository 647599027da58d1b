/* SPDX-License-Identifier: Apache-2.0 */
/* Undecided moves, taken up again from the journal: after a restart of the agent, or after a link
 * that was lost for longer than the move's own command waited. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "engine/session/attended.h"
#include "engine/session/dial.h"
#include "engine/session/move.h"
#include "engine/session/partial.h"
#include "engine/session/process.h"
#include "engine/session/recover.h"
#include "engine/session/storage.h"
#include "engine/session/target-steps.h"

#define ANSWER_LIMIT_NS  (5 * GW_NS_PER_S)
#define QUIET_MS         400 /* an answer that changes nothing was all that there is to come */
#define GUARD_TIMEOUT_MS 20000

static int act_source(void *context, enum gw_handover_action action)
{
    return gw_source_steps_act(context, action);
}

static bool is_source_gone(void *context)
{
    return gw_source_steps_is_gone(context);
}

static int act_target(void *context, enum gw_handover_action action)
{
    return gw_target_steps_act(context, action);
}

static void prepare(const struct gw_environment *environment, const struct gw_journal_entry *entry,
                    struct gw_switchover *out)
{
    memset(out, 0, sizeof(*out));
    out->side = entry->side;
    out->journal = environment->journal;
    out->detail = entry->detail;
    out->machine.is_guest_paused = json_is_true(json_object_get(entry->detail, "paused"));
    snprintf(out->epoch, sizeof(out->epoch), "%s", entry->epoch);
}

/* What the target says, until it is settled or nothing more comes. */
static void hear(struct gw_switchover *switchover, int timeout_ms)
{
    uint64_t deadline = gw_clock_ns() + ANSWER_LIMIT_NS;

    while (!gw_handover_is_ended(switchover->machine.state) && gw_clock_ns() < deadline) {
        struct gw_control_frame frame;

        if (gw_control_receive(switchover->control, timeout_ms, &frame))
            break;
        if (!frame.message)
            continue;
        if (gw_message_is(frame.message, "handover") &&
            gw_switchover_hear(switchover, gw_control_peer(switchover->control)->instance_id,
                               frame.message))
            gw_log(GW_LOG_WARNING, "move %s: %s", switchover->epoch, gw_error_message());
        json_decref(frame.message);
    }
}

/* A person's word counts only where the other host has not settled it meanwhile. */
static void tell(struct gw_switchover *switchover, enum gw_handover_event person)
{
    if (person != GW_EVENT_COUNT && gw_handover_expects(&switchover->machine, person) &&
        gw_switchover_event(switchover, person))
        gw_log(GW_LOG_WARNING, "move %s: %s", switchover->epoch, gw_error_message());
}

/* Asks the target, for a few seconds; the machine decides what its answers mean. */
static void ask(const struct gw_environment *environment, struct gw_switchover *switchover,
                enum gw_handover_event person)
{
    const char *peer = json_string_value(json_object_get(switchover->detail, "peer"));
    bool has_word = person != GW_EVENT_COUNT;

    if (gw_dial_again(environment, peer, &switchover->control)) {
        gw_log(GW_LOG_INFO, "move %s: the target cannot be asked: %s", switchover->epoch,
               gw_error_message());
        tell(switchover, person);
        return;
    }
    gw_switchover_event(switchover, GW_EVENT_LINK_UP);
    hear(switchover, has_word ? QUIET_MS : 1000);
    tell(switchover, person);
    if (has_word)
        hear(switchover, QUIET_MS);
    gw_message_send_type(switchover->control, "bye");
    gw_control_close(switchover->control);
    switchover->control = NULL;
}

static void report(const struct gw_switchover *switchover, struct gw_recovered *out)
{
    out->state = switchover->machine.state;
    out->is_contradicted = switchover->machine.is_contradicted;
    out->cause = switchover->cause;
}

/* Is something at the target that a later attempt can go on with? */
static bool is_kept(const struct gw_environment *environment, const char *epoch)
{
    /* Or has one gone on with it, which must not be told to give it up? */
    return gw_partial_is_kept(environment, epoch, GW_SIDE_SOURCE) ||
           gw_partial_is_followed(environment, epoch, GW_SIDE_SOURCE);
}

/* The agent that died took its fences along, and the VM may run at the target. */
static void fence_again(const struct gw_source_steps *steps, enum gw_handover_state state)
{
    if ((state == GW_HANDOVER_COMMIT_UNSURE || state == GW_HANDOVER_IN_DOUBT ||
         state == GW_HANDOVER_TARGET_LOST || state == GW_HANDOVER_HANDED_OVER) &&
        gw_source_steps_fence(steps, false))
        gw_log(GW_LOG_WARNING, "move %.12s: %s", steps->epoch, gw_error_message());
}

static void recover_source(const struct gw_environment *environment,
                           const struct gw_journal_entry *entry, enum gw_handover_event person,
                           struct gw_recovered *out)
{
    struct gw_source_steps steps = {
        .environment = environment, .epoch = entry->epoch, .detail = entry->detail, .pid_fd = -1};
    const char *qmp = json_string_value(json_object_get(entry->detail, "qmp"));
    const char *log = json_string_value(json_object_get(entry->detail, "log"));
    pid_t pid = (pid_t)json_integer_value(json_object_get(entry->detail, "pid"));
    char sockets[GW_PARTIAL_SOCKETS_MAX];
    struct gw_switchover switchover;
    int error = 0;

    /* The guard of the agent that died may still be undoing. */
    error = log ? gw_guard_take_over(log, GUARD_TIMEOUT_MS) : 0;
    if (error) {
        gw_error_take(error, &out->cause);
        return;
    }
    if (qmp && gw_qmp_open(qmp, &steps.qmp) == 0 &&
        (gw_qmp_pid(steps.qmp) != pid || gw_source_steps_hold(steps.qmp, &steps.pid_fd))) {
        gw_qmp_close(steps.qmp);
        steps.qmp = NULL;
    }
    /* No answer is no proof that it is gone: its monitor serves one client at a time. */
    if (!steps.qmp)
        error = gw_process_find(entry->detail, &steps.pid_fd);
    if (error && error != -ESRCH) {
        gw_error_take(error, &out->cause);
        return;
    }
    /* What is in doubt was made whole at the target: whoever settles it leaves nothing to go on with. */
    if (person != GW_EVENT_COUNT)
        gw_partial_forget(environment, entry->epoch, GW_SIDE_SOURCE);
    steps.keeps = steps.pid_fd >= 0 && is_kept(environment, entry->epoch);
    prepare(environment, entry, &switchover);
    switchover.keeps = steps.keeps;
    switchover.act = act_source;
    switchover.is_vmm_gone = is_source_gone;
    switchover.context = &steps;
    if (gw_switchover_restart(&switchover, entry)) {
        gw_log(GW_LOG_ERROR, "move %s cannot be taken up: %s", entry->epoch, gw_error_message());
    } else {
        fence_again(&steps, switchover.machine.state);
        if (steps.pid_fd < 0)
            gw_switchover_event(&switchover, GW_EVENT_VMM_GONE);
        if (!gw_handover_is_ended(switchover.machine.state))
            ask(environment, &switchover, person);
        report(&switchover, out);
    }
    if (gw_handover_is_ended(switchover.machine.state)) {
        gw_partial_sockets(entry->epoch, sockets);
        gw_folder_remove(sockets);
        if (!switchover.keeps)
            gw_partial_forget(environment, entry->epoch, GW_SIDE_SOURCE);
    }
    gw_qmp_close(steps.qmp);
    if (steps.pid_fd >= 0)
        close(steps.pid_fd);
    json_decref(switchover.peer_times);
}

/* Partial images of an agent that died stay for a later attempt: of one that was not complete yet. Fails where that
 * cannot be told this moment. */
static int keep_parts(const struct gw_environment *environment, const char *epoch,
                      enum gw_handover_state state, bool *out)
{
    struct gw_partial partial;
    int error = gw_partial_read(environment, epoch, GW_SIDE_TARGET, &partial);

    *out = !error && (state == GW_HANDOVER_RECEIVING || state == GW_HANDOVER_ABORTED) &&
           partial.is_kept && gw_partial_check_here(&partial) == 0;
    /* Its age begins anew. It is kept as it was where that cannot be written. */
    if (*out && gw_partial_write(environment, &partial))
        gw_log(GW_LOG_WARNING, "move %.12s: %s", epoch, gw_error_message());
    gw_partial_free(&partial);
    return error == -ENOENT || error == -EUCLEAN ? 0 : error;
}

static void recover_target(const struct gw_environment *environment,
                           const struct gw_journal_entry *entry, enum gw_handover_event person,
                           struct gw_recovered *out)
{
    struct gw_target_steps steps = {.epoch = entry->epoch, .detail = entry->detail};
    struct gw_switchover switchover;
    enum gw_handover_state state;
    int error;

    /* These wait for their source, or for a person. */
    if (gw_handover_state_parse(entry->state, &state) ||
        (person == GW_EVENT_COUNT && (state == GW_HANDOVER_PREPARED || state == GW_HANDOVER_LOST)))
        return;
    error = gw_target_steps_reconnect(&steps, entry->state);
    if (!error) {
        error = keep_parts(environment, entry->epoch, state, &steps.keeps_parts);
        if (error)
            gw_vm_leave(&steps.launched);
    }
    if (error) {
        gw_error_take(error, &out->cause);
        gw_log(GW_LOG_INFO, "move %s waits: %s", entry->epoch, out->cause.text);
        return;
    }
    prepare(environment, entry, &switchover);
    switchover.act = act_target;
    switchover.context = &steps;
    if (gw_switchover_restart(&switchover, entry))
        gw_log(GW_LOG_ERROR, "move %s cannot be taken up: %s", entry->epoch, gw_error_message());
    else if (!steps.launched.qmp)
        gw_switchover_event(&switchover, GW_EVENT_VMM_GONE);
    tell(&switchover, person);
    report(&switchover, out);
    gw_vm_leave(&steps.launched);
    if (!steps.keeps_parts && gw_handover_is_ended(switchover.machine.state))
        gw_partial_forget(environment, entry->epoch, GW_SIDE_TARGET);
}

/* What was done and could not be recorded is not done again, every few seconds, before it can be: the guest's
 * owner may have paused it meanwhile. */
static bool takes_records(const struct gw_environment *environment,
                          const struct gw_journal_entry *entry)
{
    struct gw_error failure;

    return !gw_journal_is_failing(environment->journal, &failure) ||
           gw_journal_record(environment->journal, entry) == 0;
}

int gw_recover_entry(const struct gw_environment *environment, const char *epoch,
                     enum gw_journal_side side, enum gw_handover_event person,
                     struct gw_recovered *out)
{
    struct gw_journal_entry entry;
    int error;

    memset(out, 0, sizeof(*out));
    error = gw_journal_find(environment->journal, epoch, side, &entry);
    if (error)
        return error;
    if (person == GW_EVENT_COUNT &&
        (!gw_journal_entry_is_open(&entry) || !takes_records(environment, &entry)))
        gw_handover_state_parse(entry.state, &out->state);
    else if (side == GW_SIDE_SOURCE)
        recover_source(environment, &entry, person, out);
    else
        recover_target(environment, &entry, person, out);
    gw_journal_entry_free(&entry);
    return 0;
}

static bool waits_to_discard(const struct gw_journal_entry *entry)
{
    enum gw_handover_state state;

    return entry->side == GW_SIDE_TARGET && gw_handover_state_parse(entry->state, &state) == 0 &&
           (state == GW_HANDOVER_ABORTED || state == GW_HANDOVER_NEVER_RAN);
}

int gw_recover_check_here(const struct gw_journal_entry *entry)
{
    struct gw_target_steps steps = {.epoch = entry->epoch, .detail = entry->detail};

    return waits_to_discard(entry) ? gw_target_steps_check_here(&steps) : 0;
}

int gw_recover_give_up(const struct gw_environment *environment, const char *epoch)
{
    struct gw_journal_entry entry;
    struct gw_recovered recovered;
    int error = environment->journal
                    ? gw_journal_find(environment->journal, epoch, GW_SIDE_TARGET, &entry)
                    : -ENOENT;

    if (error)
        return error;
    error = waits_to_discard(&entry) ? 0 : -ENOENT;
    if (!error && json_object_set_new(entry.detail, GW_GIVEN_UP, json_true()))
        error = gw_fail(-ENOMEM, "no memory for a record");
    if (!error)
        error = gw_journal_record(environment->journal, &entry);
    gw_journal_entry_free(&entry);
    return error ? error
                 : gw_recover_entry(environment, epoch, GW_SIDE_TARGET, GW_EVENT_COUNT, &recovered);
}

/* The guest runs here, or has ended by itself: only the target's part is to be tidied up, which is in no hurry
 * where nobody answers. */
static bool may_wait(const struct gw_journal_entry *entry)
{
    enum gw_handover_state state;

    return gw_handover_state_parse(entry->state, &state) == 0 &&
           (state == GW_HANDOVER_RESUMED || state == GW_HANDOVER_GONE) &&
           !json_is_true(json_object_get(entry->detail, GW_CONTRADICTED));
}

static int recover_one(const struct gw_journal_entry *entry, void *context)
{
    const struct gw_environment *environment = context;
    struct gw_recovered recovered;
    int error;

    if (may_wait(entry) && !gw_attended_is_due(environment->attended, entry->epoch, entry->side))
        return 0;
    if (gw_attend(environment->attended, entry->epoch, entry->side))
        return 0;
    error = gw_recover_entry(environment, entry->epoch, entry->side, GW_EVENT_COUNT, &recovered);
    gw_unattend(environment->attended, entry->epoch, entry->side);
    /* The others are not to wait for it. */
    if (error)
        gw_log(GW_LOG_WARNING, "move %s: %s", entry->epoch, gw_error_message());
    return 0;
}

int gw_recover(const struct gw_environment *environment)
{
    if (!environment->journal || !environment->attended)
        return 0;
    gw_attended_begin_round(environment->attended);
    return gw_journal_each_open(environment->journal, recover_one, (void *)environment);
}
