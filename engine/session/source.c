/* SPDX-License-Identifier: Apache-2.0 */
/* The sending side's session. What is sent, and in which order, is decided by copy.c and move.c. */
#include "engine/session/source.h"
#include "engine/session/verify.h"
#include "engine/session/windows.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"

#define TICK_MS          10
#define WAIT_MS          1000 /* where nobody ticks */
#define LAST_WORD_MS     200  /* for what is said to a target that did not answer */
#define REDIALS_MAX      64   /* replacements of dead channels in one round, so that a loop ends */
#define RATE_INTERVAL_NS (250 * GW_NS_PER_MS)

int gw_source_connect(const struct gw_environment *environment, const struct gw_address *peer,
                      const struct gw_link_request *request, struct gw_progress *progress,
                      struct gw_source **out)
{
    struct gw_source *source;
    int error;

    if (!environment->credentials)
        return gw_fail(-EACCES, "no key to prove who this host is: give --psk FILE (made by "
                                "'godwit key') or --cert and --key");
    source = calloc(1, sizeof(*source));
    if (!source)
        return gw_fail(-ENOMEM, "no memory for a session");
    source->environment = environment;
    source->progress = progress;
    source->peer = *peer;
    source->reconnect_s =
        request->reconnect_s < 0 ? environment->reconnect_s : (unsigned)request->reconnect_s;
    source->stall_s = request->stall_s ? request->stall_s : GW_STALL_DEFAULT_S;
    error = gw_link_init(&source->link, environment, progress, request->transports);
    source->link.per_rail = request->channels;
    source->link.congestion = request->congestion;
    if (!error)
        error = gw_id_random(source->migration_id);
    gw_id_format(source->migration_id, source->epoch);
    if (!error)
        error = gw_link_dial(&source->link, peer, &source->control);
    if (!error)
        error = gw_sender_new(source->migration_id, &source->sender);
    if (!error && request->pin_limit)
        gw_pins_init(&source->pins, request->pin_limit);
    if (!error)
        gw_sender_set_pins(source->sender, request->pin_limit ? &source->pins : environment->pins);
    if (error) {
        gw_source_close(source);
        return error;
    }
    *out = source;
    return 0;
}

void gw_source_close(struct gw_source *source)
{
    if (!source)
        return;
    gw_windows_free(source->windows);
    gw_sender_free(source->sender);
    gw_link_free(&source->link);
    gw_control_close(source->control);
    json_decref(source->blocked);
    json_decref(source->digests);
    free(source);
}

int gw_source_check_cancel(struct gw_source *source)
{
    struct pollfd fd = {.fd = source->progress->cancel_fd, .events = POLLIN};

    if (source->is_cancel_ignored || poll(&fd, 1, 0) <= 0)
        return 0;
    return gw_fail(-ECANCELED, "cancelled");
}

void gw_source_set_limit(struct gw_source *source, int limit_ms)
{
    source->limit_ns = (uint64_t)limit_ms * GW_NS_PER_MS;
    source->may_regrow = false;
    source->link.timeout_ms =
        limit_ms ? (int)gw_min((uint64_t)limit_ms, GW_CONNECT_TIMEOUT_MS) : GW_CONNECT_TIMEOUT_MS;
    gw_control_set_patience(source->control, source->link.timeout_ms);
}

/* A wait was too long. What is said to the target after that must not be one, too. */
static int give_up_waiting(struct gw_source *source, uint64_t waited_ns)
{
    if (source->limit_ns)
        gw_control_set_patience(source->control, LAST_WORD_MS);
    return gw_fail(-ETIMEDOUT, "the target did not answer for %.1f s", (double)waited_ns / 1e9);
}

/* The next message, if there is one; -ETIMEDOUT. */
static int take_message(struct gw_source *source, json_t **out)
{
    struct gw_control_frame frame;
    int error = gw_control_receive(source->control, 0, &frame);

    if (error)
        return error;
    if (!frame.message)
        return gw_fail(-EPROTO, "the target sent raw bytes out of turn");
    *out = frame.message;
    return 0;
}

/* Sleeps until there may be a message, and ticks. */
static int wait_for_message(struct gw_source *source, int left_ms)
{
    struct pollfd fds[2] = {
        {.fd = gw_control_arm(source->control), .events = POLLIN},
        {.fd = source->progress->cancel_fd, .events = POLLIN},
    };

    /* A throttled guest must not stay stopped while a target takes its time. */
    left_ms = (int)gw_min((uint64_t)left_ms, source->tick ? TICK_MS : WAIT_MS);
    poll(fds, source->is_cancel_ignored ? 1 : 2, left_ms);
    return source->tick ? source->tick(source->tick_context) : 0;
}

static int receive(struct gw_source *source, int timeout_ms, json_t **out)
{
    uint64_t started = gw_clock_ns(), limit = (uint64_t)timeout_ms * GW_NS_PER_MS;

    if (source->limit_ns)
        limit = gw_min(limit, source->limit_ns);
    for (;;) {
        int error = take_message(source, out), left;

        if (error != -ETIMEDOUT)
            return error;
        error = gw_control_keep_alive(source->control);
        if (!error)
            error = gw_source_check_cancel(source);
        if (error)
            return error;
        left = gw_clock_left_ms(started + limit);
        if (left == 0)
            return give_up_waiting(source, limit);
        /* Armed, then looked at once more, then slept on. */
        gw_control_arm(source->control);
        error = take_message(source, out);
        if (error != -ETIMEDOUT)
            return error;
        error = wait_for_message(source, left);
        if (error)
            return error;
    }
}

int gw_source_receive(struct gw_source *source, int timeout_ms, json_t **out)
{
    int result;

    do {
        result = receive(source, timeout_ms, out);
        gw_control_leave(source->control);
        if (result)
            return result;
        result = gw_source_windows_hear(source, *out);
        if (result)
            json_decref(*out);
    } while (result > 0);
    return result;
}

static int exchange_once(struct gw_source *source, const json_t *request, const char *type,
                         json_t **reply)
{
    bool is_slow = strcmp(type, "accepted") == 0 || strcmp(type, "synced") == 0 ||
                   strcmp(type, "finished") == 0;
    int timeout_ms = is_slow ? GW_SLOW_REPLY_TIMEOUT_MS : GW_REPLY_TIMEOUT_MS;
    json_t *message;
    int error = gw_control_send(source->control, request);

    if (!error)
        error = gw_source_receive(source, timeout_ms, &message);
    if (error)
        return error;
    if (gw_message_is(message, type)) {
        *reply = message;
        return 0;
    }
    error = gw_message_is(message, "error")
                ? gw_message_raise(message)
                : gw_fail(-EPROTO, "the target answered '%s' where '%s' was due",
                          gw_message_type(message), type);
    if (gw_message_is(message, "error") &&
        strcmp(json_string_value(json_object_get(message, "older")) ?: "", "gone") == 0)
        source->is_older_gone = true;
    if (json_is_array(json_object_get(message, "blocked")) && !source->blocked)
        source->blocked = json_incref(json_object_get(message, "blocked"));
    json_decref(message);
    return error;
}

int gw_source_tell(struct gw_source *source, json_t *message)
{
    int error = message ? gw_control_send(source->control, message)
                        : gw_fail(-ENOMEM, "no memory for a message");

    /* Said again to a session that has not heard it. */
    while (error) {
        error = gw_source_heal(source, error);
        if (error)
            break;
        error = gw_control_send(source->control, message);
    }
    json_decref(message);
    return error;
}

int gw_source_exchange(struct gw_source *source, json_t *request, const char *type, json_t **reply)
{
    int error = request ? 0 : gw_fail(-ENOMEM, "no memory for a message");

    source->is_finishing = strcmp(type, "finished") == 0;
    while (!error) {
        error = exchange_once(source, request, type, reply);
        if (!error)
            break;
        /* Whatever is asked for while the link may grow again may be asked for twice. */
        error = gw_source_heal(source, error);
        if (!error && source->is_finishing && source->is_finished_there) {
            *reply = json_pack("{s:s}", "type", type);
            break;
        }
    }
    json_decref(request);
    return error;
}

/* ---- channels ---- */

/* Which way the bytes take, in words, and how many channels there are. */
static void note_channels(struct gw_source *source)
{
    struct gw_progress_data *data = &source->progress->data;
    char transport[sizeof(data->transport)];

    gw_sender_describe(source->sender, transport, sizeof(transport));
    pthread_mutex_lock(&source->progress->lock);
    data->channel_count = gw_sender_lane_count(source->sender);
    memcpy(data->transport, transport, sizeof(transport));
    pthread_mutex_unlock(&source->progress->lock);
}

int gw_source_open_channels(struct gw_source *source, const json_t *accepted)
{
    int error =
        gw_link_find_ways(&source->link, source->control, json_object_get(accepted, "transports"));
    unsigned opened;

    if (!error)
        error = gw_link_open_channels(&source->link, source->control, source->sender, &opened);
    source->link.timeout_ms = GW_REDIAL_TIMEOUT_MS;
    if (!error)
        note_channels(source);
    return error;
}

/* A channel died, or does not get on: the target closes its end and says what it applied, the rest is
 * sent again, and a new channel takes its place. -ENOTCONN when there is none left. */
static int replace_channel(struct gw_source *source, uint32_t number, const char *why)
{
    json_t *reply, *request = json_pack("{s:s,s:I}", "type", "bury", "channel", (json_int_t)number);
    uint64_t applied;
    int error;

    gw_log(GW_LOG_WARNING, "data channel %u: %s; it is replaced", number, why);
    error = request ? exchange_once(source, request, "buried", &reply)
                    : gw_fail(-ENOMEM, "no memory for a message");
    json_decref(request);
    if (error)
        return error;
    source->mends++;
    error = gw_message_number(reply, "applied", INT64_MAX, &applied);
    json_decref(reply);
    if (!error)
        error = gw_sender_bury(source->sender, number, applied);
    /* A guest that stands still waits for nobody who is dialled, as long as there is another way. */
    if (error || (source->limit_ns && gw_sender_lane_count(source->sender) > 0))
        return error;
    error = gw_link_open_channel(&source->link, source->control, source->sender);
    if (!error) {
        note_channels(source);
    } else if (gw_sender_lane_count(source->sender) > 0) {
        gw_log(GW_LOG_WARNING, "no new data channel, the others go on: %s", gw_error_message());
        error = 0;
    } else if (source->may_regrow) {
        /* No way is left though the control session says nothing: it is made anew with them. */
        gw_control_give_up(source->control);
    }
    return error;
}

/* ---- rounds ---- */

void gw_source_update_progress(struct gw_source *source)
{
    struct gw_progress_data *data = &source->progress->data;
    uint64_t now = gw_clock_ns();
    struct gw_path_stats stats;

    gw_sender_stats(source->sender, &stats);
    pthread_mutex_lock(&source->progress->lock);
    data->bytes_done = stats.data_bytes;
    data->bytes_sent = stats.wire_bytes;
    data->bytes_zero = stats.zero_bytes;
    data->channel_count = gw_sender_lane_count(source->sender);
    if (now - source->sent_before_ns >= RATE_INTERVAL_NS) {
        if (source->sent_before_ns)
            data->rate = (uint64_t)((double)(stats.wire_bytes - source->sent_before) *
                                    (double)GW_NS_PER_S / (double)(now - source->sent_before_ns));
        source->sent_before = stats.wire_bytes;
        source->sent_before_ns = now;
    }
    pthread_mutex_unlock(&source->progress->lock);
    gw_paths_of_source(source, &stats);
}

/* One wait, for the end of a round or for answers: what happened in it so far. */
struct watch {
    unsigned redials;
    uint64_t updated_ns, started_ns;
    uint64_t moved, moved_ns; /* the account when it last changed, and when that was */
    bool is_told;             /* that nothing moves */
    bool is_done;             /* the round; windows may still be in the making */
    bool is_asking;           /* no round: channels are to answer */
};

/* Events of the data path. 1: the round is done. */
static int take_events(struct gw_source *source, struct watch *watch)
{
    struct gw_path_event event;

    while (gw_sender_next_event(source->sender, &event)) {
        int error = 0;

        if (event.kind == GW_PATH_ROUND_DONE)
            return 1;
        if (event.kind == GW_PATH_FAILED)
            return gw_error_raise(&event.error);
        /* One that got stuck was replaced before it died of that. */
        if (!gw_sender_has_lane(source->sender, event.number))
            continue;
        if (++watch->redials > REDIALS_MAX)
            return gw_error_raise(&event.error);
        error = replace_channel(source, event.number, event.error.text);
        if (error)
            return error;
    }
    return 0;
}

/* What the target says by itself during a round is that it failed, or about windows. */
static int take_control(struct gw_source *source)
{
    json_t *message;
    int error = take_message(source, &message);

    if (error)
        return error == -ETIMEDOUT ? gw_control_keep_alive(source->control) : error;
    error = gw_source_windows_hear(source, message);
    if (error == 0)
        error =
            gw_message_is(message, "error")
                ? gw_message_raise(message)
                : gw_fail(-EPROTO, "the target sent '%s' during a round", gw_message_type(message));
    json_decref(message);
    return error < 0 ? error : 0;
}

/* Nothing moves at all: it is said, and after twice the time the link is made anew. */
static int check_progress(struct gw_source *source, struct watch *watch, uint64_t now)
{
    uint64_t stall_ns = source->stall_s * GW_NS_PER_S, moved;
    struct gw_path_stats stats;
    char text[96];

    gw_sender_stats(source->sender, &stats);
    moved = stats.data_bytes + stats.zero_bytes + stats.wire_bytes;
    if (moved != watch->moved || !watch->moved_ns) {
        if (watch->is_told)
            gw_progress_note(source->progress, "");
        watch->moved = moved;
        watch->moved_ns = now;
        watch->is_told = false;
        return 0;
    }
    if (now - watch->moved_ns < stall_ns)
        return 0;
    snprintf(text, sizeof(text), "no progress for %llu s",
             (unsigned long long)((now - watch->moved_ns) / GW_NS_PER_S));
    gw_progress_note(source->progress, "%s", text);
    if (!watch->is_told)
        gw_log(GW_LOG_WARNING, "%s", text);
    watch->is_told = true;
    if (now - watch->moved_ns < 2 * stall_ns)
        return 0;
    watch->moved_ns = 0;
    gw_fail(-ETIMEDOUT, "%s", text);
    gw_control_give_up(source->control);
    return -ETIMEDOUT;
}

/* One channel is not acknowledged while the others get on. */
static int check_channels(struct gw_source *source, struct watch *watch, uint64_t now)
{
    uint64_t patience_ns = 2 * source->stall_s * GW_NS_PER_S;
    uint32_t number;

    if (now < patience_ns || gw_sender_lane_count(source->sender) < 2 ||
        !gw_sender_find_stalled(source->sender, now - patience_ns, &number))
        return 0;
    if (++watch->redials > REDIALS_MAX)
        return gw_fail(-ETIMEDOUT, "data channels get stuck again and again");
    return replace_channel(source, number, "it does not get on");
}

static int look_around(struct gw_source *source, struct watch *watch)
{
    uint64_t now = gw_clock_ns();
    int error;

    if (source->limit_ns && now - watch->started_ns > source->limit_ns)
        return give_up_waiting(source, source->limit_ns);
    if (now - watch->updated_ns < 100 * GW_NS_PER_MS)
        return 0;
    gw_source_update_progress(source);
    watch->updated_ns = now;
    /* Empty records are no progress to count: of several channels those that do not answer are replaced. */
    error = watch->is_asking && gw_sender_lane_count(source->sender) > 1
                ? 0
                : check_progress(source, watch, now);
    return error ? error : check_channels(source, watch, now);
}

static bool is_over(const struct gw_source *source, const struct watch *watch)
{
    return watch->is_asking ? gw_sender_is_answered(source->sender)
                            : watch->is_done && gw_source_windows_are_settled(source);
}

/* One turn. 1: it is over. */
static int turn(struct gw_source *source, struct watch *watch)
{
    struct pollfd fds[] = {
        {.fd = gw_sender_event_fd(source->sender), .events = POLLIN},
        {.fd = gw_control_arm(source->control), .events = POLLIN},
    };
    int result = take_control(source);

    if (!result)
        result = take_events(source, watch);
    if (result > 0) {
        watch->is_done = true;
        result = 0;
    }
    if (!result && !watch->is_asking)
        result = gw_source_windows_step(source);
    if (!result)
        result = gw_source_check_cancel(source);
    if (!result && source->tick)
        result = source->tick(source->tick_context);
    if (!result)
        result = look_around(source, watch);
    if (!result && is_over(source, watch))
        return 1;
    if (!result)
        poll(fds, GW_ARRAY_LENGTH(fds), TICK_MS);
    return result;
}

static int keep_watch(struct gw_source *source, bool is_asking)
{
    struct watch watch = {.started_ns = gw_clock_ns(), .is_asking = is_asking};
    int result = 0;

    while (result == 0) {
        result = turn(source, &watch);
        if (result < 0)
            result = gw_source_heal(source, result);
    }
    gw_control_leave(source->control);
    return result > 0 ? 0 : result;
}

int gw_source_run_round(struct gw_source *source, struct gw_round *round)
{
    uint64_t started = gw_clock_ns();
    int error = gw_source_windows_begin(source, round);

    if (error)
        return error;
    gw_sender_begin(source->sender, round);
    error = keep_watch(source, false);
    gw_source_windows_end(source);
    gw_sender_end(source->sender);
    source->rounds_ns += gw_clock_ns() - started;
    gw_source_update_progress(source);
    return error;
}

int gw_source_mend_channels(struct gw_source *source)
{
    gw_sender_ask(source->sender);
    return keep_watch(source, true);
}

int gw_source_send_digests(struct gw_source *source, struct gw_source_volume *const *volumes,
                           unsigned count)
{
    json_t *list = json_array();
    int error = 0;

    for (unsigned i = 0; !error && i < count; i++) {
        char text[2 * GW_ID_SIZE + 1];
        uint8_t digest[GW_VERIFY_SIZE];

        _Static_assert(GW_VERIFY_SIZE == GW_ID_SIZE, "digests are written as ids are");
        error = gw_verify_source(volumes[i], digest);
        gw_id_format(digest, text);
        json_array_append_new(list, json_string(text));
    }
    if (error) {
        json_decref(list);
        return error;
    }
    json_decref(source->digests);
    source->digests = json_pack("{s:s,s:o}", "type", "digests", "digests", list);
    if (!source->digests)
        return gw_fail(-ENOMEM, "no memory for digests");
    error = gw_control_send(source->control, source->digests);
    return error ? gw_source_heal(source, error) : 0;
}

void gw_source_report(struct gw_source *source, json_t *detail)
{
    struct gw_path_stats stats;
    json_t *passed_over = gw_link_passed_over(&source->link);
    char transport[160];

    gw_sender_stats(source->sender, &stats);
    gw_sender_describe(source->sender, transport, sizeof(transport));
    /* The target closes the channels before it finishes its images. */
    if (!transport[0])
        snprintf(transport, sizeof(transport), "%s", source->progress->data.transport);
    json_object_set_new(
        detail, "stats",
        json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:s}", "wire_bytes",
                  (json_int_t)stats.wire_bytes, "data_bytes", (json_int_t)stats.data_bytes,
                  "zero_bytes", (json_int_t)stats.zero_bytes, "records", (json_int_t)stats.records,
                  "worker_cpu_s", gw_link_cpu_seconds(&source->link), "read_s",
                  (double)stats.stage_ns[GW_STAGE_READ] / 1e9, "digest_s",
                  (double)stats.stage_ns[GW_STAGE_DIGEST] / 1e9, "rounds_s",
                  (double)source->rounds_ns / 1e9, "transport", transport));
    if (passed_over)
        json_object_set_new(detail, "passed_over", passed_over);
}
