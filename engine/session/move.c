/* SPDX-License-Identifier: Apache-2.0 */
/* Moves a running VM: the order of things on the source. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "engine/session/attended.h"
#include "engine/session/move.h"

#define LOOK_LONG_NS        (100 * GW_NS_PER_MS) /* a look at the link in which much may become dirty */
#define LOOKS_MOST          3u
#define FIXED_PAUSE_NS      (50 * GW_NS_PER_MS) /* stop, swap, device state, journals: usual */
#define DEFAULT_PAUSE_MS    300u
#define READY_TIMEOUT_MS    20000   /* of a VM that its owner paused */
#define VERIFY_BYTES_PER_MS 100000u /* a slow target, which reads back all that it has */
#define ANSWER_TIMEOUT_MS   3000    /* then GO is said again */
#define ANSWERS_MAX         10 /* before the command ends in doubt and the agent goes on asking */
#define CLOSE_TIMEOUT_MS    5000
#define ENDING_LIMIT_NS     (2 * GW_NS_PER_S)
/* No wait for the target, or for the guard, is longer than this many allowed pauses while the guest is stopped. */
#define PAUSE_LIMIT_FACTOR 5
#define PAUSE_LIMIT_MIN_MS 5000

/* ---- hooks of the pre-copy ---- */

static int hook_run_round(void *context, struct gw_round *round)
{
    return gw_source_run_round(((struct gw_move *)context)->source, round);
}

static int hook_sync(void *context)
{
    struct gw_move *move = context;
    json_t *reply;
    int error = gw_source_exchange(move->source, gw_move_sync_request(move), "synced", &reply);

    if (error)
        return error;
    error = gw_move_take_synced(move, reply);
    json_decref(reply);
    return error;
}

static int hook_stop(void *context)
{
    return gw_move_stop(context);
}

static int hook_cont(void *context)
{
    return gw_move_cont(context);
}

static int hook_throttle(void *context, unsigned percent)
{
    struct gw_move *move = context;

    move->throttle_percent = percent;
    move->throttle_since_ns = gw_clock_ns();
    pthread_mutex_lock(&move->progress->lock);
    move->progress->data.throttle_percent = percent;
    snprintf(move->progress->data.note, sizeof(move->progress->data.note),
             percent ? "it does not converge: the guest is slowed to %u %%" : "", 100 - percent);
    pthread_mutex_unlock(&move->progress->lock);
    return percent ? 0 : gw_move_cont(move);
}

static void hook_report(void *context, const struct gw_precopy_report *report)
{
    struct gw_move *move = context;
    struct gw_progress_data *data = &move->progress->data;

    pthread_mutex_lock(&move->progress->lock);
    data->round = report->round;
    data->dirty_rate = report->dirty_rate;
    data->predicted_pause_ns = report->predicted_pause_ns;
    /* In a first pass dirty_bytes is what is allocated. */
    data->bytes_total = data->bytes_done + report->dirty_bytes;
    if (report->is_stuck)
        snprintf(
            data->note, sizeof(data->note),
            "it does not converge: %.0f MB/s become dirty and %.0f MB/s are sent; allow a longer "
            "--max-pause, or throttling",
            (double)report->dirty_rate / 1e6, (double)report->rate / 1e6);
    pthread_mutex_unlock(&move->progress->lock);
}

/* Only where a device reads the guest's memory by itself, or did so, does it matter. What QEMU said of its
 * balloon was heard by the last tick, or when the guest was stopped: in the pause QMP is another thread's. */
static bool hook_is_punched(void *context)
{
    struct gw_move *move = context;

    return move->watch.was_ballooned && gw_sender_device_reads(move->source->sender);
}

static const struct gw_precopy_hooks hooks = {
    .run_round = hook_run_round,
    .sync = hook_sync,
    .stop = hook_stop,
    .cont = hook_cont,
    .throttle = hook_throttle,
    .report = hook_report,
    .is_punched = hook_is_punched,
};

/* What the guest does by itself, and the throttle: stopped for percent of each period. Called about
 * every 10 ms while a round runs or an answer is awaited. */
static int tick(void *context)
{
    struct gw_move *move = context;
    bool is_copying = move->switchover.machine.state == GW_HANDOVER_COPYING;
    bool may_look =
        gw_handover_may_cancel(move->switchover.machine.state) && !move->parting.is_started;
    uint64_t phase;
    int error = is_copying ? gw_move_look(move) : may_look ? gw_vm_watch_look(&move->watch) : 0;

    move->guest_error = error;
    if (error || !move->throttle_percent)
        return error;
    phase = (gw_clock_ns() - move->throttle_since_ns) % GW_THROTTLE_PERIOD_NS;
    if (phase < GW_THROTTLE_PERIOD_NS / 100 * move->throttle_percent)
        return gw_move_stop(move);
    return gw_move_cont(move);
}

/* Nobody ticks while the link is down: the guest runs as fast as it can. */
static int link_down(void *context)
{
    struct gw_move *move = context;

    move->throttle_since_ns = gw_clock_ns();
    return gw_move_cont(move);
}

/* ---- copying ---- */

static uint32_t max_pause_ms(const struct gw_move *move)
{
    return move->request->max_pause_ms ? move->request->max_pause_ms : DEFAULT_PAUSE_MS;
}

static int make_precopy(struct gw_move *move)
{
    const struct gw_move_request *request = move->request;
    struct gw_precopy_options options = {
        .hooks = &hooks,
        .context = move,
        .max_pause_ns = max_pause_ms(move) * GW_NS_PER_MS,
        .fixed_pause_ns = FIXED_PAUSE_NS,
        .no_throttle = request->no_throttle,
        .sync_interval_ns = gw_move_sync_interval_ns(move),
    };
    int error = 0;

    /* The pause holds the fixed part however little is left. */
    if (options.max_pause_ns < 2 * options.fixed_pause_ns)
        options.fixed_pause_ns = options.max_pause_ns / 2;
    for (unsigned i = 0; i < move->vm->disk_count; i++)
        options.needs_barriers |= move->vm->disks[i].is_direct;
    for (unsigned i = 0; i < move->volume_count; i++)
        if (move->volumes[i]->kind == GW_VOLUME_RAM)
            options.needs_stop |= gw_tracker_needs_stop(gw_ram_source_tracker(move->volumes[i]));
    error = gw_precopy_new(&options, &move->precopy);
    for (unsigned i = 0; !error && i < move->volume_count; i++)
        error = gw_precopy_add(move->precopy, (uint16_t)i, move->volumes[i]);
    for (unsigned i = 0; !error && i < move->vm->disk_count; i++)
        gw_precopy_resume(move->precopy, (uint16_t)i, move->kept[i]);
    return error;
}

static void set_phase(struct gw_move *move, enum gw_phase phase)
{
    gw_log(GW_LOG_DEBUG, "move of %s: phase %s", move->request->qmp_path, gw_phase_name(phase));
    pthread_mutex_lock(&move->progress->lock);
    move->progress->data.phase = phase;
    pthread_mutex_unlock(&move->progress->lock);
}

/* Which way the bytes take, once the channels know. */
static void note_path(struct gw_move *move)
{
    struct gw_progress_data *data = &move->progress->data;
    unsigned ram = move->volume_count - 1;
    char transport[sizeof(data->transport)];

    gw_sender_describe(move->source->sender, transport, sizeof(transport));
    pthread_mutex_lock(&move->progress->lock);
    snprintf(data->path, sizeof(data->path), "%s",
             gw_sender_path(move->source->sender, (uint16_t)ram));
    memcpy(data->transport, transport, sizeof(transport));
    pthread_mutex_unlock(&move->progress->lock);
}

/* The last look at the link while the guest runs. What has been lost is made anew here, and what
 * became dirty meanwhile goes before the pause, also of a look that took long (an answer that had to be sent
 * again; a few times at the most); what is lost in the pause ends the move. */
static int look_at_link(struct gw_move *move)
{
    uint64_t started;
    unsigned before, looks = 0;
    bool is_stale;
    int error;

    do {
        before = move->source->mends;
        started = gw_clock_ns();
        gw_log(GW_LOG_DEBUG, "move of %s: what is left fits the pause", move->request->qmp_path);
        error = gw_source_mend_channels(move->source);
        if (!error)
            error = hook_sync(move);
        is_stale = before != move->source->mends ||
                   (gw_clock_ns() - started > LOOK_LONG_NS && ++looks <= LOOKS_MOST);
        if (!error && is_stale)
            error = gw_precopy_converge(move->precopy);
    } while (!error && is_stale);
    return error;
}

static int copy_all(struct gw_move *move)
{
    int error = 0;

    if (move->vm->disk_count > 0) {
        set_phase(move, GW_PHASE_DISKS);
        error = gw_move_compare_kept(move);
    }
    if (!error && move->vm->disk_count > 0) {
        error = gw_precopy_first_pass(move->precopy, GW_VOLUME_DISK);
    }
    if (error)
        return error;
    set_phase(move, GW_PHASE_MEMORY);
    note_path(move);
    for (unsigned i = 0; !error && i < move->volume_count; i++)
        if (move->volumes[i]->kind == GW_VOLUME_RAM)
            error = gw_tracker_arm(gw_ram_source_tracker(move->volumes[i]));
    if (!error)
        error = gw_precopy_first_pass(move->precopy, GW_VOLUME_RAM);
    note_path(move);
    if (!error)
        error = gw_precopy_converge(move->precopy);
    return error ? error : look_at_link(move);
}

/* ---- the handover ---- */

static void keep_cause(struct gw_move *move, int error)
{
    if (error && !move->switchover.cause.code)
        gw_error_take(error, &move->switchover.cause);
}

static void event(struct gw_move *move, enum gw_handover_event what)
{
    /* An event that comes too late is refused without a change; the state says what counts. */
    if (gw_switchover_event(&move->switchover, what))
        gw_log(GW_LOG_DEBUG, "move %s: %s", move->source->epoch, gw_error_message());
}

/* Its process counts: a connection that broke, or was given up since nothing came, proves nothing. A QEMU that
 * closed it, or said that it ends, gets a moment for its end. */
static bool is_vmm_gone(struct gw_move *move)
{
    uint64_t deadline = gw_clock_ns() + ENDING_LIMIT_NS;
    char state[32];

    while (!gw_source_steps_is_gone(&move->steps)) {
        bool is_ending = move->watch.is_ending && !move->vm->has_no_shutdown;

        if ((gw_vm_status(move->qmp, state, sizeof(state)) != -EPIPE && !is_ending) ||
            gw_clock_ns() >= deadline)
            return false;
        poll(NULL, 0, 10);
    }
    return true;
}

/* One message of the target, or what its absence means. */
static void listen_once(struct gw_move *move, int timeout_ms)
{
    const struct gw_peer *peer = gw_control_peer(move->source->control);
    json_t *message;
    int error = gw_source_receive(move->source, timeout_ms, &message);

    if (error && move->guest_error) {
        keep_cause(move, error);
        event(move, is_vmm_gone(move) ? GW_EVENT_VMM_GONE : GW_EVENT_CANCEL);
        return;
    }
    if (error == -ECANCELED || error == -ETIMEDOUT) {
        keep_cause(move, error);
        event(move, error == -ECANCELED ? GW_EVENT_CANCEL : GW_EVENT_TIMEOUT);
        return;
    }
    if (error) {
        keep_cause(move, error);
        move->switchover.control = NULL;
        event(move, GW_EVENT_LINK_LOST);
        return;
    }
    if (gw_message_is(message, "handover"))
        error = gw_switchover_hear(&move->switchover, peer->instance_id, message);
    else if (gw_message_is(message, "error")) {
        keep_cause(move, gw_message_raise(message));
        /* A step of its failed: it will never be ready, and may not be able to promise anything. */
        if (move->switchover.machine.state == GW_HANDOVER_WAITING)
            event(move, GW_EVENT_CANCEL);
    }
    json_decref(message);
    if (error)
        gw_log(GW_LOG_WARNING, "move %s: %s", move->source->epoch, gw_error_message());
}

static bool is_settled(enum gw_handover_state state)
{
    return gw_handover_is_ended(state) || state == GW_HANDOVER_HANDED_OVER;
}

uint64_t gw_move_patience_ms(const struct gw_move *move)
{
    return gw_max((uint64_t)max_pause_ms(move) * PAUSE_LIMIT_FACTOR, PAUSE_LIMIT_MIN_MS);
}

/* Of the target. A VM that its owner paused is in no hurry; with --verify the target reads back all that it
 * has. */
static int pause_limit_ms(const struct gw_move *move)
{
    uint64_t limit = gw_move_patience_ms(move);

    if (!move->watch.is_running)
        limit = gw_max(limit, READY_TIMEOUT_MS);
    for (unsigned i = 0; move->request->verify && i < move->volume_count; i++)
        limit += move->volumes[i]->size / VERIFY_BYTES_PER_MS;
    return (int)gw_min(limit, GW_SLOW_REPLY_TIMEOUT_MS);
}

static void hand_over(struct gw_move *move)
{
    const enum gw_handover_state *state = &move->switchover.machine.state;
    int answers = 0;

    set_phase(move, GW_PHASE_HANDOVER);
    json_object_set_new(move->steps.detail, "held",
                        json_true()); /* for the record before the stop */
    gw_source_set_limit(move->source, pause_limit_ms(move));
    event(move, GW_EVENT_CONVERGED);
    while (*state == GW_HANDOVER_WAITING)
        listen_once(move, GW_SLOW_REPLY_TIMEOUT_MS);
    while ((*state == GW_HANDOVER_COMMITTED || *state == GW_HANDOVER_IN_DOUBT ||
            *state == GW_HANDOVER_TARGET_LOST || *state == GW_HANDOVER_COMMIT_UNSURE) &&
           move->switchover.control && answers++ < ANSWERS_MAX)
        listen_once(move, ANSWER_TIMEOUT_MS);
    if (*state == GW_HANDOVER_DONE || *state == GW_HANDOVER_HANDED_OVER)
        move->pause_ns = move->switchover.heard_ns - move->stopped_ns;
}

/* After an abort: the target says that nothing is left of it there. */
static void close_attempt(struct gw_move *move)
{
    const enum gw_handover_state *state = &move->switchover.machine.state;
    uint64_t deadline = gw_clock_ns() + CLOSE_TIMEOUT_MS * GW_NS_PER_MS;

    move->source->is_cancel_ignored = true;
    /* An undo that QEMU did not answer: its connection closes before its process has ended. */
    if (*state == GW_HANDOVER_UNDOING && is_vmm_gone(move))
        event(move, GW_EVENT_VMM_GONE);
    while (!is_settled(*state) && move->switchover.control && gw_clock_ns() < deadline &&
           (*state == GW_HANDOVER_RESUMED || *state == GW_HANDOVER_GONE))
        listen_once(move, 1000);
}

static bool has_vmm_ended(void *context)
{
    return gw_source_steps_is_gone(&((struct gw_move *)context)->steps);
}

static int begin(struct gw_move *move)
{
    struct gw_switchover *switchover = &move->switchover;
    int error;

    switchover->side = GW_SIDE_SOURCE;
    switchover->journal = move->environment->journal;
    switchover->progress = move->progress;
    switchover->control = move->source->control;
    switchover->detail = move->steps.detail;
    switchover->act = gw_move_act;
    switchover->is_vmm_gone = has_vmm_ended;
    switchover->context = move;
    switchover->machine.is_guest_paused = !move->vm->is_running;
    memcpy(switchover->epoch, move->source->epoch, sizeof(switchover->epoch));
    move->source->tick = tick;
    move->source->tick_context = move;
    move->source->link_down = link_down;
    move->source->may_regrow = true;
    move->source->is_stopped = &move->watch.is_held;
    error = gw_attend(move->environment->attended, move->source->epoch, GW_SIDE_SOURCE);
    if (error)
        return error;
    move->is_begun = true;
    return gw_switchover_begin(switchover, gw_control_peer(move->source->control)->instance_id);
}

static int run_move(struct gw_move *move)
{
    int error;

    set_phase(move, GW_PHASE_PLAN);
    error = gw_move_describe(move);
    move->is_blocked = error && error != -EPIPE;
    if (error)
        return error;
    error = gw_source_connect(move->environment, &move->request->peer, &move->request->link,
                              move->progress, &move->source);
    if (!error)
        error = gw_move_open_volumes(move);
    if (!error)
        error = gw_move_offer(move);
    /* Its own answer alone: a disk or a memory of this host's may be stale, too. */
    move->is_older_gone = error && move->source && move->source->is_older_gone;
    move->is_blocked = error && ((move->source && move->source->blocked) ||
                                 (move->request->resume && error == -ENOENT));
    if (!error)
        error = make_precopy(move);
    if (!error)
        error = begin(move);
    if (error)
        return error;
    if (move->switchover.machine.state == GW_HANDOVER_COPYING)
        error = copy_all(move);
    if (!error)
        error = gw_move_settle_owner(move);
    keep_cause(move, error);
    gw_move_decide_keep(move, error);
    move->switchover.control = move->source->control; /* a link that has regrown has another */
    if (move->throttle_percent || error)
        keep_cause(move, hook_throttle(move, 0));
    if (!error)
        hand_over(move);
    else if (is_vmm_gone(move))
        event(move, GW_EVENT_VMM_GONE);
    else
        event(move, GW_EVENT_CANCEL);
    close_attempt(move);
    move->steps.keeps &= move->switchover.keeps;
    return 0;
}

/* ---- the account ---- */

static double step_ms(const json_t *steps, const char *name)
{
    return json_number_value(json_object_get(steps, name));
}

/* Where the pause went, in words for people. Dirty maps, swap and state run beside the copy at the
 * source, images beside the state at the target, so that the sum may be more than the pause. */
static json_t *pause_parts(const struct gw_move *move, const json_t *steps)
{
    const json_t *target = move->switchover.peer_times;
    const uint64_t *parting_ns = move->parting.ns;

    return json_pack(
        "{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "stop", step_ms(steps, "STOP_GUEST"), "last pages",
        (double)move->pages_ns / 1e6, "last extents", (double)move->extents_ns / 1e6, "dirty maps",
        (double)parting_ns[GW_PARTING_MAPS] / 1e6, "swap",
        (double)parting_ns[GW_PARTING_SWAP] / 1e6 + step_ms(target, "SWAP_IN"), "images",
        step_ms(target, "RENAME_FINAL"), "state",
        (double)parting_ns[GW_PARTING_STATE] / 1e6 + step_ms(target, "LOAD_STATE"), "journals",
        step_ms(steps, "JOURNAL_COMMITTED") + step_ms(target, "JOURNAL_PREPARED") +
            step_ms(target, "JOURNAL_OWNER"),
        "resume", step_ms(target, "CONT"));
}

static void report_pause(struct gw_move *move)
{
    json_t *steps = gw_switchover_times(&move->switchover);

    pthread_mutex_lock(&move->progress->lock);
    move->progress->data.pause_ns = move->pause_ns;
    pthread_mutex_unlock(&move->progress->lock);
    json_object_set_new(move->out->detail, "pause_ms", json_real((double)move->pause_ns / 1e6));
    if (move->pause_ns)
        json_object_set_new(move->out->detail, "pause", pause_parts(move, steps));
    json_object_set_new(move->out->detail, "steps_ms", steps);
}

static void report(struct gw_move *move)
{
    struct gw_precopy_report rounds = {0};
    json_t *detail = move->out->detail;

    if (move->precopy)
        gw_precopy_get(move->precopy, &rounds);
    if (move->source && move->is_begun)
        gw_source_report(move->source, detail);
    json_object_set_new(detail, "state",
                        json_string(gw_handover_state_name(move->switchover.machine.state)));
    json_object_set_new(detail, "rounds", json_integer(rounds.round));
    if (rounds.ram_pass_ns)
        json_object_set_new(detail, "first_ram_pass",
                            json_pack("{s:I,s:f}", "bytes", (json_int_t)rounds.ram_pass_bytes,
                                      "seconds", (double)rounds.ram_pass_ns / 1e9));
    report_pause(move);
    json_object_set_new(detail, "resets", json_integer(move->watch.resets));
    json_object_set_new(detail, "last_round_bytes", json_integer((json_int_t)move->last_bytes));
    json_object_set_new(detail, "state_bytes", json_integer((json_int_t)move->state_bytes));
    if (move->switchover.peer_times)
        json_object_set_new(detail, "target_steps_ms", move->switchover.peer_times);
    json_object_set_new(detail, "path", json_string(move->progress->data.path));
    if (move->vm)
        json_object_set_new(detail, "vm", json_string(move->vm->name));
    if (move->reasons.count > 0)
        json_object_set_new(detail, "blocked", gw_reasons_json(&move->reasons));
    else if (move->source && move->source->blocked)
        json_object_set(detail, "blocked", move->source->blocked);
}

/* Exit code and message from how it ended. */
static int judge(struct gw_move *move, int error)
{
    const struct gw_switchover *switchover = &move->switchover;
    enum gw_handover_state state = switchover->machine.state;
    struct gw_error cause;

    if (!move->is_begun) {
        move->out->exit_code = move->is_blocked ? GW_EXIT_BLOCKED : GW_EXIT_FAILED;
        if (!error || !move->older.is_kept || move->is_older_gone || error == -EEXIST)
            return error;
        gw_error_take(error, &cause);
        return gw_partial_say_kept(&cause, move->older.epoch);
    }
    if (state == GW_HANDOVER_DONE || state == GW_HANDOVER_HANDED_OVER) {
        move->out->exit_code = GW_EXIT_DONE;
        return 0;
    }
    if (!gw_handover_is_decided(state)) {
        move->out->exit_code = GW_EXIT_IN_DOUBT;
        return gw_fail(-EINPROGRESS, "%s", gw_handover_state_meaning(state));
    }
    move->out->exit_code = switchover->cause.code == -EBADMSG ? GW_EXIT_VERIFY : GW_EXIT_FAILED;
    if (state == GW_HANDOVER_GONE && !move->watch.end.code)
        return gw_fail(-ESRCH, "the VM's QEMU ended by itself during the move");
    /* What the guest did says more than what failed for it. */
    if (move->watch.end.code)
        return gw_error_raise(&move->watch.end);
    if (move->steps.keeps)
        return gw_partial_say_kept(&switchover->cause, move->partial.epoch);
    return switchover->cause.code ? gw_error_raise(&switchover->cause)
                                  : gw_fail(-EIO, "the move was given up; the source runs");
}

int gw_move_run(const struct gw_environment *environment, const struct gw_move_request *request,
                struct gw_progress *progress, struct gw_outcome *out)
{
    struct gw_move *move = calloc(1, sizeof(*move));
    struct gw_error kept;
    int error;

    out->detail = json_object();
    out->exit_code = GW_EXIT_FAILED;
    if (!move)
        return gw_fail(-ENOMEM, "no memory for a move");
    move->parting.fd = -1;
    move->steps.pid_fd = -1;
    move->steps.environment = environment;
    move->environment = environment;
    move->request = request;
    move->progress = progress;
    move->out = out;
    error = environment->journal && environment->state_dir && environment->attended
                ? run_move(move)
                : gw_fail(-EINVAL, "a move needs a state folder for its journal");
    report(move);
    error = judge(move, error);
    gw_error_take(error, &kept);
    if (move->is_begun)
        gw_unattend(environment->attended, move->source->epoch, GW_SIDE_SOURCE);
    gw_move_close(move);
    free(move);
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_ENDED;
    progress->data.ended_ns = gw_clock_ns();
    pthread_mutex_unlock(&progress->lock);
    return error ? gw_error_raise(&kept) : 0;
}
