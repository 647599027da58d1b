/* SPDX-License-Identifier: Apache-2.0 */
/* The target's end of a link that was lost: what was applied is kept, and the session goes on in the
 * control session of the source that comes back. Who may come back is decided here. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "engine/session/serve.h"

#define REJOIN_TIMEOUT_MS 10000 /* from the handshake to the message */
#define WAIT_MS           1000

/* ---- the sessions that may be rejoined ---- */

struct gw_rejoins {
    pthread_mutex_t lock; /* protects first; rank: above the lock of each session */
    struct gw_serve *first;
};

int gw_rejoins_new(struct gw_rejoins **out)
{
    struct gw_rejoins *rejoins = calloc(1, sizeof(*rejoins));

    if (!rejoins)
        return gw_fail(-ENOMEM, "no memory for the table of sessions");
    pthread_mutex_init(&rejoins->lock, NULL);
    *out = rejoins;
    return 0;
}

void gw_rejoins_free(struct gw_rejoins *rejoins)
{
    if (!rejoins)
        return;
    pthread_mutex_destroy(&rejoins->lock);
    free(rejoins);
}

void gw_rejoins_add(struct gw_rejoins *rejoins, struct gw_serve *serve)
{
    pthread_mutex_lock(&rejoins->lock);
    serve->next = rejoins->first;
    rejoins->first = serve;
    serve->is_listed = true;
    pthread_mutex_unlock(&rejoins->lock);
}

void gw_rejoins_remove(struct gw_rejoins *rejoins, struct gw_serve *serve)
{
    if (!serve->is_listed)
        return;
    pthread_mutex_lock(&rejoins->lock);
    for (struct gw_serve **link = &rejoins->first; *link; link = &(*link)->next)
        if (*link == serve) {
            *link = serve->next;
            break;
        }
    serve->is_listed = false;
    pthread_mutex_unlock(&rejoins->lock);
    /* Nobody finds the session any more; one that was back in time is too late all the same. */
    if (!serve->next_control)
        return;
    gw_fail(-ENOENT, "migration %s has ended here", serve->epoch);
    gw_message_send_error(serve->next_control, -ENOENT);
    gw_control_close(serve->next_control);
    serve->next_control = NULL;
}

/* Under the lock: the session of that migration, if the peer is its source. */
static int find(struct gw_rejoins *rejoins, const char *epoch, const struct gw_peer *peer,
                struct gw_serve **out)
{
    struct gw_serve *serve = rejoins->first;

    while (serve && strcmp(serve->epoch, epoch) != 0)
        serve = serve->next;
    if (!serve)
        return gw_fail(-ENOENT,
                       "migration %.32s is not waited for here: this agent was restarted since, or "
                       "has given it up",
                       epoch);
    if (strcmp(serve->peer_name, peer->name) != 0 ||
        memcmp(serve->peer_instance, peer->instance_id, GW_ID_SIZE) != 0)
        return gw_fail(-EACCES, "migration %.32s is another agent's", epoch);
    *out = serve;
    return 0;
}

static void wake(struct gw_serve *serve)
{
    uint64_t one = 1;

    if (write(serve->rejoin_fd, &one, sizeof(one)) < 0)
        return; /* it has been woken already */
}

bool gw_rejoins_release(struct gw_rejoins *rejoins, const char *epoch, const struct gw_peer *peer)
{
    struct gw_serve *serve;
    bool is_found;

    pthread_mutex_lock(&rejoins->lock);
    is_found = find(rejoins, epoch, peer, &serve) == 0;
    if (is_found) {
        pthread_mutex_lock(&serve->lock);
        serve->is_released = true;
        pthread_mutex_unlock(&serve->lock);
        wake(serve);
    }
    pthread_mutex_unlock(&rejoins->lock);
    return is_found;
}

/* ---- a source that is back, on the thread of its new session ---- */

static int read_rejoin(struct gw_control *control, char epoch[2 * GW_ID_SIZE + 1],
                       char link[2 * GW_ID_SIZE + 1])
{
    struct gw_control_frame frame;
    int error = gw_control_receive(control, REJOIN_TIMEOUT_MS, &frame);

    if (error)
        return error;
    if (!frame.message || !gw_message_is(frame.message, "rejoin"))
        error = gw_fail(-EPROTO, "a session that rejoins does not begin so");
    else
        error = gw_message_rejoin(frame.message, epoch, link);
    json_decref(frame.message);
    return error;
}

/* Gives control to its session. *before is one that came earlier and was not taken up yet. */
static int hand_to(struct gw_rejoins *rejoins, const char *epoch, const char *link,
                   struct gw_control *control, struct gw_control **before)
{
    struct gw_serve *serve;
    int error;

    pthread_mutex_lock(&rejoins->lock);
    error = find(rejoins, epoch, gw_control_peer(control), &serve);
    if (!error) {
        pthread_mutex_lock(&serve->lock);
        *before = serve->next_control;
        serve->next_control = control;
        memcpy(serve->asked_link, link, sizeof(serve->asked_link));
        pthread_mutex_unlock(&serve->lock);
        wake(serve);
    }
    pthread_mutex_unlock(&rejoins->lock);
    return error;
}

int gw_rejoins_take(struct gw_rejoins *rejoins, struct gw_control *control)
{
    char epoch[2 * GW_ID_SIZE + 1], link[2 * GW_ID_SIZE + 1];
    struct gw_control *before = NULL;
    struct gw_error refusal;
    int error = read_rejoin(control, epoch, link);

    if (!error)
        error = rejoins ? hand_to(rejoins, epoch, link, control, &before)
                        : gw_fail(-ENOENT, "no migration is waited for here");
    if (error) {
        gw_error_take(error, &refusal);
        gw_message_send_error(control, error);
        gw_control_close(control);
        return gw_error_raise(&refusal);
    }
    gw_control_close(before);
    return 0;
}

/* ---- the session that waits, on its own thread ---- */

void gw_serve_heed_rejoin(struct gw_serve *serve)
{
    bool is_asked;

    pthread_mutex_lock(&serve->lock);
    is_asked = serve->next_control || serve->is_released;
    pthread_mutex_unlock(&serve->lock);
    if (!is_asked)
        return;
    gw_fail(-ETIMEDOUT, "the source has given this session up");
    gw_control_give_up(serve->control);
}

bool gw_serve_is_released(struct gw_serve *serve)
{
    bool answer;

    pthread_mutex_lock(&serve->lock);
    answer = serve->is_released;
    pthread_mutex_unlock(&serve->lock);
    return answer;
}

bool gw_serve_may_wait(const struct gw_serve *serve)
{
    return serve->is_listed && serve->is_accepted && gw_control_is_lost(serve->control) &&
           (!serve->vm || gw_serve_vm_may_wait(serve));
}

/* Out of the reach of the thread that would replace it. */
static struct gw_control *take_out_next(struct gw_serve *serve)
{
    struct gw_control *control;

    pthread_mutex_lock(&serve->lock);
    control = serve->next_control;
    serve->next_control = NULL;
    pthread_mutex_unlock(&serve->lock);
    return control;
}

/* Takes over control, which goes when a newer one came meanwhile. */
static void put_back_next(struct gw_serve *serve, struct gw_control *control, bool is_given_up)
{
    bool is_first;

    pthread_mutex_lock(&serve->lock);
    serve->is_released |= is_given_up;
    is_first = !serve->next_control;
    if (is_first)
        serve->next_control = control;
    pthread_mutex_unlock(&serve->lock);
    if (!is_first)
        gw_control_close(control);
}

int gw_serve_listen_to_next(struct gw_serve *serve)
{
    struct gw_control *control = take_out_next(serve);
    int error;

    if (!control)
        return 0;
    error = gw_serve_listen(serve, control);
    /* A source that got no answer in time closes one in order, too, and dials the next. */
    if (gw_control_is_lost(control) || error == -ESHUTDOWN) {
        gw_control_close(control);
        return 0;
    }
    /* One that gave up is not waited for any more; it is told the end by who removes the session. */
    put_back_next(serve, control, error != 0);
    return error ? error : 1;
}

static void report(void *context, uint32_t number, uint64_t applied)
{
    struct gw_serve *serve = context;

    json_array_append_new(serve->reports, json_pack("{s:I,s:I}", "channel", (json_int_t)number,
                                                    "applied", (json_int_t)applied));
}

/* Closes everything that belonged to the session. A session without a channel leaves the reports of
 * the one before: its source may never have read them. */
static void bury_session(struct gw_serve *serve)
{
    json_t *before = serve->reports;

    pthread_mutex_lock(&serve->lock);
    serve->has_link = false;
    pthread_mutex_unlock(&serve->lock);
    serve->reports = json_array();
    /* Once the last round was finished there are no channels, and none will come. */
    if (serve->receiver && !serve->is_path_ended) {
        gw_receiver_bury_all(serve->receiver, report, serve);
        for (unsigned i = 0; i < serve->domain_count; i++)
            gw_domain_close(serve->domains[i]);
        serve->domain_count = 0;
    }
    if (json_array_size(serve->reports) > 0 || !before) {
        gw_id_format(serve->link_id, serve->report_link);
        json_decref(before);
    } else {
        json_decref(serve->reports);
        serve->reports = before;
    }
    if (serve->vm)
        gw_serve_vm_set_control(serve, NULL);
    gw_control_close(serve->control);
    serve->control = NULL;
    json_decref(serve->early);
    serve->early = NULL;
    serve->unheard_ns = 0;
}

static void note(struct gw_serve *serve, uint64_t lost_ns)
{
    if (lost_ns)
        gw_progress_note(serve->progress,
                         "the link is down since %llu s; the source is waited for, %u s at most",
                         (unsigned long long)((gw_clock_ns() - lost_ns) / GW_NS_PER_S),
                         serve->reconnect_s);
    else
        gw_progress_note(serve->progress, "");
}

/* The control session of a source that is back, or NULL. */
static struct gw_control *take_next(struct gw_serve *serve, char asked_link[2 * GW_ID_SIZE + 1])
{
    struct gw_control *control;
    uint64_t count;

    if (read(serve->rejoin_fd, &count, sizeof(count)) < 0)
        count = 0; /* not woken */
    pthread_mutex_lock(&serve->lock);
    control = serve->next_control;
    serve->next_control = NULL;
    if (control) {
        memcpy(asked_link, serve->asked_link, sizeof(serve->asked_link));
        memcpy(serve->link_id, gw_control_link_id(control), GW_ID_SIZE);
        serve->has_link = true;
    }
    pthread_mutex_unlock(&serve->lock);
    return control;
}

/* 1: go on in the new session; 0: nothing yet; or why there will be none. */
static int wait_for_source(struct gw_serve *serve, char asked_link[2 * GW_ID_SIZE + 1])
{
    struct pollfd fds[2] = {
        {.fd = serve->rejoin_fd, .events = POLLIN},
        {.fd = serve->progress->cancel_fd, .events = POLLIN},
    };

    poll(fds, GW_ARRAY_LENGTH(fds), WAIT_MS);
    if (fds[1].revents)
        return gw_fail(-ECANCELED, "cancelled at the target");
    serve->control = take_next(serve, asked_link);
    return serve->control != NULL;
}

static int answer(struct gw_serve *serve, const char *asked_link)
{
    bool is_known = serve->reports && strcmp(asked_link, serve->report_link) == 0;

    if (serve->vm)
        gw_serve_vm_set_control(serve, serve->control);
    return gw_message_send(serve->control,
                           json_pack("{s:s,s:b,s:o,s:o}", "type", "rejoined", "finished",
                                     (int)serve->is_finished, "transports",
                                     gw_serve_describe_transports(serve), "lanes",
                                     is_known ? json_incref(serve->reports) : json_array()));
}

int gw_serve_await_source(struct gw_serve *serve, int error)
{
    uint64_t lost_ns = gw_clock_ns();
    char asked_link[2 * GW_ID_SIZE + 1];
    struct gw_error cause;
    int result = 0;

    if (!gw_serve_may_wait(serve))
        return error;
    gw_error_take(error, &cause);
    gw_log(GW_LOG_WARNING, "migration %s: the link is lost: %s; its source is waited for, %u s",
           serve->epoch, cause.text, serve->reconnect_s);
    bury_session(serve);
    while (!result && !gw_serve_is_released(serve) &&
           gw_clock_ns() - lost_ns < serve->reconnect_s * GW_NS_PER_S) {
        note(serve, lost_ns);
        result = wait_for_source(serve, asked_link);
    }
    note(serve, 0);
    if (result < 0)
        return result;
    if (!result)
        return gw_error_raise(&cause);
    gw_log(GW_LOG_WARNING, "migration %s: its source is back after %.1f s", serve->epoch,
           (double)(gw_clock_ns() - lost_ns) / 1e9);
    /* A link that is lost again is found by the next turn. */
    if (answer(serve, asked_link))
        gw_log(GW_LOG_INFO, "migration %s: %s", serve->epoch, gw_error_message());
    return 0;
}
