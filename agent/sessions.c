/* SPDX-License-Identifier: Apache-2.0 */
/* Listener and session threads. What a peer may do once it is let in is the engine's. */
#include "agent/sessions.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

#define ACCEPT_TICK_MS    250
#define LISTENER_PAUSE_MS 100

static_assert(GW_HANDSHAKES_PER_HOST_MAX < GW_HANDSHAKES_MAX, "one host must not take all");
static_assert(GW_HANDSHAKES_MAX + 2 * GW_LIMIT_MAX <= GW_SESSIONS_MAX, "the limits fit");

struct listener {
    struct gw_sessions *sessions;
    struct gw_listener *listener;
    pthread_t thread;
    bool is_running;
};

struct session {
    struct gw_sessions *sessions;
    struct session *next;
    struct gw_request *request; /* until it is accepted */
    struct gw_address peer;
    enum gw_hello_role role;
    bool is_proven;
    struct gw_serve *serve; /* NULL while data channels cannot be offered */
};

struct gw_sessions {
    const struct gw_environment *environment;
    struct gw_jobs *jobs;
    pthread_mutex_t lock; /* protects first, is_stopping, is_over and each session's serve */
    pthread_cond_t changed;
    struct session *first;
    struct listener listeners[GW_LISTEN_MAX * GW_TRANSPORTS_MAX];
    unsigned listener_count;
    bool is_stopping; /* nobody is let in any more */
    bool is_over;     /* no session is left: nobody listens any more */
};

int gw_sessions_new(const struct gw_environment *environment, struct gw_jobs *jobs,
                    struct gw_sessions **out)
{
    struct gw_sessions *sessions = calloc(1, sizeof(*sessions));

    if (!sessions)
        return gw_fail(-ENOMEM, "out of memory");
    sessions->environment = environment;
    sessions->jobs = jobs;
    pthread_mutex_init(&sessions->lock, NULL);
    pthread_cond_init(&sessions->changed, NULL);
    *out = sessions;
    return 0;
}

void gw_sessions_free(struct gw_sessions *sessions)
{
    if (!sessions)
        return;
    pthread_cond_destroy(&sessions->changed);
    pthread_mutex_destroy(&sessions->lock);
    free(sessions);
}

static const char *text_of(const struct gw_address *address, char *buffer)
{
    return gw_address_format(address, buffer, GW_ADDRESS_TEXT_MAX);
}

static void set_serve(struct session *session, struct gw_serve *serve)
{
    pthread_mutex_lock(&session->sessions->lock);
    session->serve = serve;
    pthread_mutex_unlock(&session->sessions->lock);
}

/* Serves a proven peer until its session ends. Takes over control: the serve closes it, once there
 * is one. */
static void serve(struct session *session, struct gw_control *control)
{
    struct gw_sessions *sessions = session->sessions;
    const struct gw_peer *peer = gw_control_peer(control);
    struct gw_outcome outcome = {.exit_code = GW_EXIT_FAILED};
    char address[GW_ADDRESS_TEXT_MAX];
    struct gw_serve *serve = NULL;
    struct gw_result result;
    struct gw_job *job;
    int error;

    error = gw_jobs_enter(sessions->jobs, peer->name, text_of(&peer->address, address), &job);
    if (error) {
        gw_log(GW_LOG_WARNING, "session of %s: %s", peer->name, gw_error_message());
        gw_control_close(control);
        return;
    }
    gw_log(GW_LOG_INFO, "session of %s at %s: migration %s", peer->name, address, gw_job_id(job));
    error = gw_serve_new(sessions->environment, control, &serve);
    if (!error) {
        set_serve(session, serve);
        outcome.exit_code = GW_EXIT_DONE;
        error = gw_serve_run(serve, gw_job_progress(job), &outcome);
        set_serve(session, NULL);
    }
    gw_result_take(&outcome, error, &result);
    if (!serve)
        gw_control_close(control);
    gw_serve_free(serve);
    gw_jobs_leave(job, &result);
}

/* A source whose link was lost goes on in its old session, which has its place in the limits. */
static void rejoin(const struct session *session, struct gw_control *control)
{
    char address[GW_ADDRESS_TEXT_MAX];

    if (gw_rejoins_take(session->sessions->environment->rejoins, control))
        gw_log(GW_LOG_WARNING, "%s does not rejoin: %s", text_of(&session->peer, address),
               gw_error_message());
}

/* How a move of an earlier session ended: no migration of its own, so it has no place in the limits, or
 * a guest that is paused on both hosts would wait for room. */
static void answer(const struct session *session, struct gw_control *control)
{
    char address[GW_ADDRESS_TEXT_MAX];

    if (gw_serve_answer(session->sessions->environment, control))
        gw_log(GW_LOG_INFO, "%s asked: %s", text_of(&session->peer, address), gw_error_message());
}

static void remove_session(struct session *session)
{
    struct gw_sessions *sessions = session->sessions;

    pthread_mutex_lock(&sessions->lock);
    for (struct session **link = &sessions->first; *link; link = &(*link)->next)
        if (*link == session) {
            *link = session->next;
            break;
        }
    pthread_cond_broadcast(&sessions->changed);
    pthread_mutex_unlock(&sessions->lock);
    free(session);
}

static void *session_thread(void *argument)
{
    struct session *session = argument;
    struct gw_sessions *sessions = session->sessions;
    const struct gw_environment *environment = sessions->environment;
    struct gw_control_options options = {
        .credentials = environment->credentials,
        .trusted = environment->trusted,
        .trusted_count = environment->trusted_count,
        .timeout_ms = GW_HANDSHAKE_TIMEOUT_MS,
    };
    struct gw_control *control;
    char address[GW_ADDRESS_TEXT_MAX];

    memcpy(options.instance_id, environment->instance_id, GW_ID_SIZE);
    if (gw_control_accept(session->request, &options, &control) != 0) {
        gw_log(GW_LOG_WARNING, "%s was not let in: %s", text_of(&session->peer, address),
               gw_error_message());
        remove_session(session);
        return NULL;
    }
    pthread_mutex_lock(&sessions->lock);
    session->is_proven = true;
    pthread_mutex_unlock(&sessions->lock);
    if (session->role == GW_HELLO_REJOIN)
        rejoin(session, control);
    else if (session->role == GW_HELLO_ASK)
        answer(session, control);
    else
        serve(session, control);
    remove_session(session);
    return NULL;
}

/* Why there is no room for one more handshake with this host, or NULL. Called with the lock held. */
static const char *refusal(struct gw_sessions *sessions, const struct gw_address *peer,
                           enum gw_hello_role role)
{
    unsigned all = 0, unproven = 0, of_host = 0;

    for (struct session *session = sessions->first; session; session = session->next) {
        all++;
        if (session->is_proven)
            continue;
        unproven++;
        of_host += gw_address_same_host(&session->peer, peer);
    }
    if (sessions->is_stopping)
        return "the agent is ending";
    if (role == GW_HELLO_CONTROL && gw_jobs_is_full(sessions->jobs))
        return GW_BUSY_TEXT ": as many migrations arrive as its limits allow";
    if (of_host >= GW_HANDSHAKES_PER_HOST_MAX)
        return "too many unfinished handshakes from your address";
    if (unproven >= GW_HANDSHAKES_MAX || all >= GW_SESSIONS_MAX)
        return "too many unfinished handshakes";
    return NULL;
}

static int add_session(struct gw_sessions *sessions, struct gw_request *request,
                       enum gw_hello_role role, const char **refused, struct session **out)
{
    struct session *session = calloc(1, sizeof(*session));

    if (!session) {
        *refused = "out of memory";
        return -ENOMEM;
    }
    session->sessions = sessions;
    session->request = request;
    session->role = role;
    session->peer = request->peer;
    pthread_mutex_lock(&sessions->lock);
    *refused = refusal(sessions, &request->peer, role);
    if (!*refused) {
        session->next = sessions->first;
        sessions->first = session;
    }
    pthread_mutex_unlock(&sessions->lock);
    if (*refused) {
        free(session);
        return -EBUSY;
    }
    *out = session;
    return 0;
}

static void begin_session(struct gw_sessions *sessions, struct gw_request *request,
                          enum gw_hello_role role)
{
    const char *refused = NULL;
    pthread_attr_t attributes;
    struct session *session;
    pthread_t thread;
    int error;

    if (add_session(sessions, request, role, &refused, &session) != 0) {
        gw_reject(request, refused);
        return;
    }
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attributes, session_thread, session);
    pthread_attr_destroy(&attributes);
    if (error) {
        remove_session(session);
        gw_reject(request, "this host cannot start one more thread");
    }
}

/* Data channels say which session they belong to; they prove it to that session. */
static void offer_channel(struct gw_sessions *sessions, struct gw_request *request,
                          const uint8_t *link_id)
{
    bool is_taken = false;
    int error = 0;

    pthread_mutex_lock(&sessions->lock);
    for (struct session *session = sessions->first; session && !is_taken; session = session->next) {
        if (!session->serve || !gw_serve_has_link(session->serve, link_id))
            continue;
        error = gw_serve_offer(session->serve, request);
        is_taken = true;
    }
    pthread_mutex_unlock(&sessions->lock);
    if (!is_taken)
        gw_reject(request, "no session on this host has that link");
    else if (error)
        gw_log(GW_LOG_WARNING, "data channel: %s", gw_error_message());
}

static void take_request(struct gw_sessions *sessions, struct gw_request *request)
{
    struct gw_hello hello;

    if (gw_hello_parse(request, &hello) != 0)
        gw_reject(request, gw_error_message());
    else if (hello.role != GW_HELLO_DATA)
        begin_session(sessions, request, hello.role);
    else
        offer_channel(sessions, request, hello.link_id);
}

static bool is_over(struct gw_sessions *sessions)
{
    bool answer;

    pthread_mutex_lock(&sessions->lock);
    answer = sessions->is_over;
    pthread_mutex_unlock(&sessions->lock);
    return answer;
}

static void *listener_thread(void *argument)
{
    struct listener *listener = argument;

    while (!is_over(listener->sessions)) {
        struct gw_request *request;
        int error = gw_next_request(listener->listener, ACCEPT_TICK_MS, &request);

        if (error == -ETIMEDOUT)
            continue;
        if (error) {
            gw_log(GW_LOG_WARNING, "listener: %s", gw_error_message());
            nanosleep(&(struct timespec){.tv_nsec = LISTENER_PAUSE_MS * 1000000l}, NULL);
            continue;
        }
        take_request(listener->sessions, request);
    }
    return NULL;
}

int gw_sessions_listen(struct gw_sessions *sessions, struct gw_transport *transport,
                       const struct gw_address *address, struct gw_listening *out)
{
    struct listener *listener;
    int error;

    if (sessions->listener_count == GW_LISTEN_MAX * GW_TRANSPORTS_MAX)
        return gw_fail(-EINVAL, "more than %u addresses to listen on", GW_LISTEN_MAX);
    listener = &sessions->listeners[sessions->listener_count];
    listener->sessions = sessions;
    error = gw_listen(transport, address, &listener->listener);
    if (error)
        return error;
    sessions->listener_count++;
    *out = (struct gw_listening){.transport = transport, .listener = listener->listener};
    return 0;
}

int gw_sessions_start(struct gw_sessions *sessions)
{
    for (unsigned i = 0; i < sessions->listener_count; i++) {
        struct listener *listener = &sessions->listeners[i];
        int error = pthread_create(&listener->thread, NULL, listener_thread, listener);

        if (error)
            return gw_fail_errno(-error, "thread for a listener");
        listener->is_running = true;
    }
    return 0;
}

static bool holds_text(const json_t *list, const char *text)
{
    const json_t *item;
    size_t index;

    json_array_foreach((json_t *)list, index, item)
    {
        if (strcmp(json_string_value(item), text) == 0)
            return true;
    }
    return false;
}

void gw_sessions_describe(struct gw_sessions *sessions, json_t *list)
{
    for (unsigned i = 0; i < sessions->listener_count; i++) {
        char text[GW_ADDRESS_TEXT_MAX];
        struct gw_address address;

        if (gw_listener_address(sessions->listeners[i].listener, &address) == 0 &&
            !holds_text(list, text_of(&address, text)))
            json_array_append_new(list, json_string(text));
    }
}

void gw_sessions_stop(struct gw_sessions *sessions)
{
    pthread_mutex_lock(&sessions->lock);
    sessions->is_stopping = true;
    /* Sessions tell their peers what is listened on; who dials meanwhile is told that the agent is ending. */
    while (sessions->first)
        pthread_cond_wait(&sessions->changed, &sessions->lock);
    sessions->is_over = true;
    pthread_mutex_unlock(&sessions->lock);
    for (unsigned i = 0; i < sessions->listener_count; i++) {
        if (sessions->listeners[i].is_running)
            pthread_join(sessions->listeners[i].thread, NULL);
        gw_unlisten(sessions->listeners[i].listener);
    }
    sessions->listener_count = 0;
}
