/* SPDX-License-Identifier: Apache-2.0 */
/* A link that was lost grows again: the source dials until the target answers, rejoins its migration
 * in a new session, and goes on from what the target had applied (docs/protocol.md, Rejoining). */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "engine/session/partial.h"
#include "engine/session/source.h"

#define BACKOFF_MIN_MS 200
#define BACKOFF_MAX_MS 5000
#define NOTE_EVERY_MS  1000
#define IDLE_MAX       16 /* regrowths without a byte between them */

struct regrowth {
    struct gw_source *source;
    uint64_t lost_ns, deadline_ns;
    int backoff_ms;
    struct gw_error cause;         /* of the loss */
    char link[2 * GW_ID_SIZE + 1]; /* the session whose channels the sender still has */
    const json_t *lanes;           /* the target's reports */
};

static void note_down(const struct regrowth *regrowth, const char *why)
{
    struct gw_progress *progress = regrowth->source->progress;
    uint64_t seconds = (gw_clock_ns() - regrowth->lost_ns) / GW_NS_PER_S;

    /* Where progress is lines each new note is one: not every second for minutes. */
    if (seconds >= 10)
        seconds -= seconds % 10;
    pthread_mutex_lock(&progress->lock);
    snprintf(progress->data.note, sizeof(progress->data.note),
             "the link is down since %llu s, trying again: %.160s", (unsigned long long)seconds,
             why);
    progress->data.rate = 0;
    progress->data.channel_count = 0;
    pthread_mutex_unlock(&progress->lock);
}

static void note_up(const struct regrowth *regrowth)
{
    const struct gw_transports *transports = &regrowth->source->link.transports;
    const char *name = gw_control_transport(regrowth->source->control)->ops->name;
    double seconds = (double)(gw_clock_ns() - regrowth->lost_ns) / 1e9;
    const char *reason = NULL, *better = NULL;
    char passed[192] = "";

    for (unsigned i = 0; i < transports->count && !reason; i++) {
        if (transports->list[i]->ops->name == name)
            break;
        better = transports->list[i]->ops->name;
        reason = gw_transports_reason(transports, better);
    }
    if (reason)
        snprintf(passed, sizeof(passed), "; %s is passed over: %.150s", better, reason);
    gw_log(GW_LOG_WARNING, "the link is up again over %s after %.1f s%s", name, seconds, passed);
    gw_progress_note(regrowth->source->progress,
                     "the link was down for %.1f s and is up again over %s%s", seconds, name,
                     passed);
}

/* ---- one attempt ---- */

static uint64_t applied_of(void *context, uint32_t number)
{
    return gw_message_applied(((const struct regrowth *)context)->lanes, number);
}

/* Only the same agent, by its proof and its instance, has what was sent so far. */
static int check_peer(const struct gw_peer *before, const struct gw_peer *now)
{
    if (strcmp(before->name, now->name) != 0)
        return gw_fail(-EACCES, "another host answers where the target was: %s, not %s", now->name,
                       before->name);
    if (memcmp(before->instance_id, now->instance_id, GW_ID_SIZE) != 0)
        return gw_fail(-EACCES, "another agent answers where the target was: it has another state");
    return 0;
}

/* A new session in the place of the old one. */
static int dial(struct regrowth *regrowth)
{
    struct gw_source *source = regrowth->source;
    struct gw_control *control;
    int error;

    source->link.is_rejoining = true;
    error = gw_link_dial(&source->link, &source->peer, &control);
    if (error)
        return error;
    error = check_peer(gw_control_peer(source->control), gw_control_peer(control));
    if (error) {
        struct gw_error refusal;

        gw_error_take(error, &refusal);
        gw_control_close(control);
        return gw_error_raise(&refusal);
    }
    gw_control_close(source->control);
    source->control = control;
    return 0;
}

static int ask(struct regrowth *regrowth, json_t **reply)
{
    struct gw_source *source = regrowth->source;
    /* The target may be in the middle of reading an image back. */
    int timeout_ms = source->is_finishing ? GW_SLOW_REPLY_TIMEOUT_MS : GW_REPLY_TIMEOUT_MS;
    json_t *message;
    int error =
        gw_message_send(source->control, json_pack("{s:s,s:s,s:s}", "type", "rejoin", "epoch",
                                                   source->epoch, "link", regrowth->link));

    if (!error)
        error = gw_source_receive(source, timeout_ms, &message);
    if (error)
        return error;
    if (gw_message_is(message, "rejoined")) {
        *reply = message;
        return 0;
    }
    error = gw_message_is(message, "error")
                ? gw_message_raise(message)
                : gw_fail(-EPROTO, "the target answered '%s' where 'rejoined' was due",
                          gw_message_type(message));
    json_decref(message);
    return error;
}

/* The old channels are buried here as the target has buried them there; new ones take their place. */
static int take_reply(struct regrowth *regrowth, const json_t *reply)
{
    struct gw_source *source = regrowth->source;
    json_t *lanes;
    int error = gw_message_lanes(reply, &lanes);

    if (!error)
        error = gw_message_bool(reply, "finished", &source->is_finished_there);
    if (error)
        return error;
    regrowth->lanes = lanes;
    error = gw_sender_bury_all(source->sender, applied_of, regrowth);
    if (source->windows)
        gw_windows_lost(source->windows);
    gw_link_drop_ways(&source->link);
    gw_id_format(gw_control_link_id(source->control), regrowth->link);
    if (error || source->is_finished_there)
        return error;
    error = gw_source_open_channels(source, reply);
    if (!error && source->digests)
        error = gw_control_send(source->control, source->digests);
    return error;
}

static int attempt(struct regrowth *regrowth)
{
    json_t *reply;
    int error = dial(regrowth);

    if (!error)
        error = ask(regrowth, &reply);
    if (error)
        return error;
    error = take_reply(regrowth, reply);
    json_decref(reply);
    return error;
}

/* ---- trying ---- */

/* Would the same attempt end otherwise a while later? */
static bool may_pass(int error)
{
    switch (error) {
    case -EREMOTEIO: /* the target's own words: it has nothing to go on with */
    case -ECANCELED:
    case -EACCES:
    case -EPROTO:
    case -EBADMSG:
    case -ENOSPC:
    case -ENOMEM:
        return false;
    default:
        return true;
    }
}

/* The next attempt comes later each time. */
static int wait_a_while(struct regrowth *regrowth, const char *why)
{
    uint64_t until = gw_clock_ns() + (uint64_t)regrowth->backoff_ms * GW_NS_PER_MS;
    struct pollfd fd = {.fd = regrowth->source->progress->cancel_fd, .events = POLLIN};

    while (gw_clock_ns() < until) {
        int error = gw_source_check_cancel(regrowth->source);

        if (error)
            return error;
        note_down(regrowth, why);
        poll(&fd, 1, (int)gw_min((uint64_t)gw_clock_left_ms(until), NOTE_EVERY_MS));
    }
    regrowth->backoff_ms = (int)gw_min((uint64_t)regrowth->backoff_ms * 2, BACKOFF_MAX_MS);
    return 0;
}

static int try_until_up(struct regrowth *regrowth)
{
    struct gw_source *source = regrowth->source;

    for (;;) {
        struct gw_error newest;
        int error = attempt(regrowth);

        if (!error || !may_pass(error))
            return error;
        gw_error_take(error, &newest);
        gw_log(GW_LOG_INFO, "the link is not up yet: %s", newest.text);
        if (gw_clock_ns() >= regrowth->deadline_ns)
            return gw_fail(-ETIMEDOUT, "the link was lost and did not come back within %u s: %s",
                           source->reconnect_s, newest.text);
        error = wait_a_while(regrowth, newest.text);
        if (error)
            return error;
    }
}

/* A link that comes up and moves nothing, again and again, is none. */
static bool is_hopeless(struct gw_source *source)
{
    struct gw_path_stats stats;
    uint64_t moved;

    gw_sender_stats(source->sender, &stats);
    moved = stats.data_bytes + stats.zero_bytes;
    source->idle_regrowths = moved == source->moved_at_regrowth ? source->idle_regrowths + 1 : 0;
    source->moved_at_regrowth = moved;
    return source->idle_regrowths > IDLE_MAX;
}

int gw_source_heal(struct gw_source *source, int error)
{
    struct regrowth regrowth = {.source = source, .backoff_ms = BACKOFF_MIN_MS};
    int (*tick)(void *context) = source->tick;

    if (!source->may_regrow || !source->reconnect_s || !gw_control_is_lost(source->control))
        return error;
    if (is_hopeless(source))
        return gw_fail(-ETIMEDOUT, "the link comes up and is lost again without any progress");
    gw_error_take(error, &regrowth.cause);
    regrowth.lost_ns = gw_clock_ns();
    regrowth.deadline_ns = regrowth.lost_ns + source->reconnect_s * GW_NS_PER_S;
    gw_id_format(gw_control_link_id(source->control), regrowth.link);
    gw_log(GW_LOG_WARNING, "the link is lost: %s; dialling again for %u s", regrowth.cause.text,
           source->reconnect_s);
    note_down(&regrowth, regrowth.cause.text);
    /* The guest runs meanwhile, also one that was slowed: nobody ticks until the link is up. */
    source->tick = NULL;
    source->may_regrow = false;
    error = source->link_down ? source->link_down(source->tick_context) : 0;
    if (!error)
        error = try_until_up(&regrowth);
    source->tick = tick;
    /* A target that does not know the migration any more was restarted. */
    source->is_given_up = gw_partial_is_loss(error) || error == -EREMOTEIO;
    if (error)
        return error;
    source->may_regrow = true;
    source->mends++;
    note_up(&regrowth);
    return 0;
}
