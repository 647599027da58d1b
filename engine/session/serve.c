/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving side's conversation and its data channels. */
#include "engine/session/serve.h"
#include "engine/session/windows.h"
#include "transport/link/rails.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"

#define ADMIT_TIMEOUT_MS 5000
#define WAIT_MS          1000
#define ANSWER_LIMIT_NS  (30 * GW_NS_PER_S)

int gw_serve_new(const struct gw_environment *environment, struct gw_control *control,
                 struct gw_serve **out)
{
    struct gw_serve *serve = calloc(1, sizeof(*serve));

    if (!serve)
        return gw_fail(-ENOMEM, "no memory for a session");
    serve->environment = environment;
    serve->control = control;
    memcpy(serve->link_id, gw_control_link_id(control), GW_ID_SIZE);
    serve->has_link = true;
    gw_workers_init(&serve->workers, environment->topology, environment->worker_count);
    serve->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    serve->rejoin_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (serve->request_fd < 0 || serve->rejoin_fd < 0) {
        int error = gw_fail_errno(-errno, "no eventfd for a session");

        if (serve->request_fd >= 0)
            close(serve->request_fd);
        free(serve);
        return error;
    }
    pthread_mutex_init(&serve->lock, NULL);
    *out = serve;
    return 0;
}

bool gw_serve_has_link(struct gw_serve *serve, const uint8_t *link_id)
{
    bool has;

    pthread_mutex_lock(&serve->lock);
    has = serve->has_link && memcmp(serve->link_id, link_id, GW_ID_SIZE) == 0;
    pthread_mutex_unlock(&serve->lock);
    return has;
}

int gw_serve_offer(struct gw_serve *serve, struct gw_request *request)
{
    uint64_t one = 1;
    bool taken = false;

    pthread_mutex_lock(&serve->lock);
    if (!serve->is_closed && serve->request_count < GW_SERVE_REQUESTS_MAX) {
        serve->requests[serve->request_count++] = request;
        taken = true;
    }
    pthread_mutex_unlock(&serve->lock);
    if (!taken) {
        gw_reject(request, "the session takes no more channels");
        return gw_fail(-EBUSY, "a session takes no more channels");
    }
    if (write(serve->request_fd, &one, sizeof(one)) < 0)
        return 0; /* it has been woken already */
    return 0;
}

static struct gw_request *next_request(struct gw_serve *serve)
{
    struct gw_request *request = NULL;
    uint64_t count;

    pthread_mutex_lock(&serve->lock);
    if (serve->request_count > 0) {
        request = serve->requests[0];
        serve->request_count--;
        memmove(serve->requests, serve->requests + 1,
                serve->request_count * sizeof(serve->requests[0]));
    } else if (read(serve->request_fd, &count, sizeof(count)) < 0) {
        request = NULL;
    }
    pthread_mutex_unlock(&serve->lock);
    return request;
}

static void close_requests(struct gw_serve *serve)
{
    struct gw_request *request;

    pthread_mutex_lock(&serve->lock);
    serve->is_closed = true;
    pthread_mutex_unlock(&serve->lock);
    while ((request = next_request(serve)) != NULL)
        gw_reject(request, "the session has ended");
}

/* ---- channels ---- */

/* The domain of the rail that the request came in by. */
static int domain_for(struct gw_serve *serve, const struct gw_request *request,
                      struct gw_domain **out)
{
    const struct gw_address *local = &request->local;
    unsigned count = serve->domain_count;
    int error;

    for (unsigned i = 0; i < count; i++)
        if (serve->domains[i]->transport == request->transport &&
            gw_address_same_host(&serve->domain_addresses[i], local)) {
            *out = serve->domains[i];
            return 0;
        }
    if (count == GW_SERVE_DOMAINS_MAX)
        return gw_fail(-E2BIG, "more than %u rails", GW_SERVE_DOMAINS_MAX);
    error = gw_domain_open(request->transport, local, &serve->domains[count]);
    if (error)
        return error;
    serve->domain_addresses[count] = *local;
    *out = serve->domains[count];
    serve->domain_count++;
    return 0;
}

static bool is_trusted(const struct gw_environment *environment, const struct gw_address *address)
{
    for (unsigned i = 0; i < environment->trusted_count; i++)
        if (gw_network_contains(&environment->trusted[i], address))
            return true;
    return false;
}

static int reject(struct gw_request *request, int error)
{
    gw_reject(request, gw_error_message());
    return error;
}

static int admit_on(struct gw_serve *serve, struct gw_request *request, struct gw_worker *worker)
{
    struct gw_channel_options options = {.timeout_ms = ADMIT_TIMEOUT_MS};
    bool allow_direct = is_trusted(serve->environment, &request->local) &&
                        is_trusted(serve->environment, &request->peer);
    struct gw_channel *channel;
    struct gw_lane *lane;
    struct gw_hello hello;
    struct gw_seal *seal;
    int error = gw_hello_parse(request, &hello);

    if (!error && !serve->is_bench && (!serve->receiver || serve->is_path_ended))
        error = gw_fail(-EPROTO, "a data channel before any offer, or after the last round");
    if (error)
        return reject(request, error);
    /* Nothing is made for one who does not hold this session's keys. */
    error = gw_seal_examine(serve->control, request);
    if (error)
        return error;
    error = domain_for(serve, request, &options.domain);
    if (!error)
        error = gw_worker_poller(worker, request->transport, &options.poller);
    if (!error && serve->is_bench)
        error = gw_serve_bench_prepare(serve, worker, options.domain, hello.channel_number, &lane);
    else if (!error)
        error = gw_receiver_prepare(serve->receiver, worker, options.domain, hello.channel_number,
                                    allow_direct, &lane);
    if (error)
        return reject(request, error);
    options.number = hello.channel_number;
    options.context = lane;
    error = gw_seal_accept(serve->control, request, &options, &channel, &seal);
    if (error && serve->is_bench)
        gw_bench_free(lane);
    else if (error)
        gw_receiver_cancel(lane);
    else if (serve->is_bench)
        gw_serve_bench_start(serve, lane, channel, seal);
    else
        gw_receiver_start(lane, channel, seal);
    return error;
}

/* What the new channel needs comes from the memory near its worker. */
static int admit(struct gw_serve *serve, struct gw_request *request)
{
    struct gw_memory_policy before;
    struct gw_worker *worker;
    int error = gw_workers_for(&serve->workers, &request->local, &worker);

    if (error)
        return reject(request, error);
    gw_topology_prefer(serve->workers.topology, gw_worker_node(worker), &before);
    error = admit_on(serve, request, worker);
    gw_topology_restore(&before);
    return error;
}

static void take_requests(struct gw_serve *serve)
{
    struct gw_request *request;

    /* A stranger at the door is refused and told so; the session goes on. */
    while ((request = next_request(serve)) != NULL)
        if (admit(serve, request))
            gw_log(GW_LOG_WARNING, "a data channel was refused: %s", gw_error_message());
}

static int bury(struct gw_serve *serve, const json_t *message)
{
    uint64_t number, applied = 0;
    int error = gw_message_number(message, "channel", UINT32_MAX, &number);

    if (!error)
        error = gw_receiver_bury(serve->receiver, (uint32_t)number, &applied);
    /* A channel whose joining failed here was never a lane: nothing of it was applied. */
    if (error && error != -ENOENT)
        return error;
    return gw_message_send(serve->control,
                           json_pack("{s:s,s:I,s:I}", "type", "buried", "channel",
                                     (json_int_t)number, "applied", (json_int_t)applied));
}

/* ---- the conversation ---- */

static void add_address(json_t *list, const struct gw_address *address)
{
    char text[GW_ADDRESS_TEXT_MAX];

    gw_address_format(address, text, sizeof(text));
    json_array_append_new(list, json_string(text));
}

/* What is listened on with one transport: every address of this host for a wildcard. */
static json_t *addresses_of(const struct gw_serve *serve, const struct gw_transport *transport)
{
    const struct gw_environment *environment = serve->environment;
    struct gw_address locals[GW_RAILS_MAX];
    json_t *list = json_array();

    for (unsigned i = 0; i < environment->listen_count; i++) {
        struct gw_address listen;
        int count;

        if (environment->listen[i].transport != transport ||
            gw_listener_address(environment->listen[i].listener, &listen) != 0)
            continue;
        if (!gw_address_is_any(&listen)) {
            add_address(list, &listen);
            continue;
        }
        count = gw_rails_local(gw_control_local(serve->control), locals, GW_RAILS_MAX);
        for (int j = 0; j < count; j++) {
            gw_address_set_port(&locals[j], gw_address_port(&listen));
            add_address(list, &locals[j]);
        }
    }
    return list;
}

/* Where data channels may dial. */
json_t *gw_serve_describe_transports(const struct gw_serve *serve)
{
    const struct gw_transports *transports = &serve->environment->transports;
    json_t *list = json_array();

    for (unsigned i = 0; i < transports->count; i++)
        if (!transports->is_for_control[i])
            json_array_append_new(list,
                                  json_pack("{s:s,s:o}", "name", transports->list[i]->ops->name,
                                            "addresses", addresses_of(serve, transports->list[i])));
    return list;
}

/* What the offer brings is put where the receiver finds it. */
static int take_volumes(struct gw_serve *serve, const json_t *offer, json_t *reply)
{
    const char *kind = json_string_value(json_object_get(offer, "kind"));
    int error = gw_receiver_new(serve->migration_id, &serve->receiver);

    if (!error)
        gw_receiver_set_pins(serve->receiver, serve->environment->pins);
    if (!error)
        error = strcmp(kind, "move") == 0
                    ? gw_serve_vm_offer(serve, offer, reply)
                    : gw_serve_make_volumes(serve, offer, json_object_get(reply, "volumes"));
    for (unsigned i = 0; !error && i < serve->volume_count; i++)
        if (serve->volumes[i])
            gw_receiver_add_volume(serve->receiver, (uint16_t)i, serve->volumes[i]);
    return error;
}

/* How long the source will dial when its link is lost, and who it is that may come back. */
static int take_patience(struct gw_serve *serve, const json_t *offer)
{
    const struct gw_peer *peer = gw_control_peer(serve->control);
    uint64_t reconnect_s = 0;
    int error = 0;

    if (json_object_get(offer, "reconnect_s"))
        error = gw_message_number(offer, "reconnect_s", UINT32_MAX, &reconnect_s);
    serve->reconnect_s = (unsigned)gw_min(reconnect_s, GW_RECONNECT_MAX_S);
    snprintf(serve->peer_name, sizeof(serve->peer_name), "%s", peer->name);
    memcpy(serve->peer_instance, peer->instance_id, GW_ID_SIZE);
    return error;
}

static int take_offer(struct gw_serve *serve, const json_t *offer)
{
    json_t *reply = json_pack("{s:s,s:o,s:[]}", "type", "accepted", "transports",
                              gw_serve_describe_transports(serve), "volumes");
    const char *epoch, *kind;
    int error;

    if (serve->is_offered || serve->vm || serve->answer_until_ns) {
        json_decref(reply);
        return gw_fail(-EPROTO, serve->answer_until_ns ? "an offer in a session that only asks"
                                                       : "a second offer in one session");
    }
    serve->is_offered = true;
    error = gw_message_text(offer, "epoch", &epoch);
    if (!error)
        error = gw_message_text(offer, "kind", &kind);
    if (!error)
        error = gw_id_parse(epoch, serve->migration_id);
    if (!error)
        error = take_patience(serve, offer);
    if (!error) {
        gw_id_format(serve->migration_id, serve->epoch);
        error = strcmp(kind, "bench") == 0 ? gw_serve_bench_offer(serve)
                                           : take_volumes(serve, offer, reply);
    }
    if (error) {
        json_decref(reply);
        return error;
    }
    error = gw_serve_end_older(serve);
    if (error) {
        json_decref(reply);
        return error;
    }
    if (serve->is_resumed)
        json_object_set(reply, "kept", serve->kept);
    error = gw_message_send(serve->control, reply);
    serve->is_accepted = !error;
    if (!error && serve->reconnect_s && serve->environment->rejoins)
        gw_rejoins_add(serve->environment->rejoins, serve);
    return error;
}

static int take_events(struct gw_serve *serve)
{
    struct gw_path_event event;

    while (serve->receiver && gw_receiver_next_event(serve->receiver, &event)) {
        int error = 0;

        if (event.kind == GW_PATH_FAILED)
            return gw_error_raise(&event.error);
        if (event.kind == GW_PATH_WINDOW_CLOSED) {
            error = gw_serve_window_closed(serve, event.number);
            if (error)
                return error;
            continue;
        }
        /* The source sees its end die too and asks for the burial. */
        gw_log(GW_LOG_WARNING, "data channel %u: %s", event.number, event.error.text);
    }
    return 0;
}

static void update_progress(struct gw_serve *serve)
{
    struct gw_path_stats stats;

    if (!serve->receiver)
        return;
    gw_receiver_stats(serve->receiver, &stats);
    pthread_mutex_lock(&serve->progress->lock);
    serve->progress->data.bytes_done = stats.data_bytes;
    serve->progress->data.bytes_zero = stats.zero_bytes;
    pthread_mutex_unlock(&serve->progress->lock);
    gw_paths_of_target(serve, &stats);
}

int gw_serve_end_path(struct gw_serve *serve)
{
    int error = take_events(serve);

    update_progress(serve);
    /* The channels end here; what is registered ends when nobody waits for it. */
    gw_receiver_close(serve->receiver);
    serve->is_path_ended = true;
    return error;
}

static int take_finish(struct gw_serve *serve)
{
    int error = gw_serve_end_path(serve);

    if (!error)
        error = gw_serve_finish(serve);
    if (error)
        return error;
    serve->is_finished = true;
    return gw_message_send_type(serve->control, "finished");
}

static int take_sync(struct gw_serve *serve, const json_t *message)
{
    bool is_kept = false;
    int error = gw_serve_sync(serve);

    if (!error)
        error = gw_serve_take_copied(serve, message, &is_kept);
    return error ? error
                 : gw_message_send(serve->control,
                                   json_pack("{s:s,s:b}", "type", "synced", "kept", (int)is_kept));
}

/* 1: the session is over. */
static int take_message(struct gw_serve *serve, const json_t *message)
{
    if (gw_message_is(message, "bye"))
        return 1;
    if (gw_message_is(message, "error"))
        return gw_message_raise(message);
    if (gw_message_is(message, "offer"))
        return take_offer(serve, message);
    if (gw_message_is(message, "handover"))
        return gw_serve_vm_message(serve, message);
    if (!serve->receiver || serve->is_path_ended)
        return gw_fail(-EPROTO, "message '%.32s' before any offer, or after its end",
                       gw_message_type(message));
    if (gw_message_is(message, "bury"))
        return bury(serve, message);
    if (gw_message_is(message, "stopping") && serve->vm)
        return gw_serve_vm_stopping(serve);
    if (gw_message_is(message, "owner") && serve->vm)
        return gw_serve_vm_owner(serve, message);
    if (gw_message_is(message, "window"))
        return gw_serve_window(serve, message);
    if (gw_message_is(message, "digests"))
        return gw_serve_take_digests(serve, message);
    if (gw_message_is(message, "compare"))
        return gw_serve_compare(serve, message);
    if (gw_message_is(message, "sync"))
        return take_sync(serve, message);
    if (gw_message_is(message, "finish") && !serve->vm)
        return take_finish(serve);
    return gw_fail(-EPROTO, "unknown message '%.32s'", gw_message_type(message));
}

static int wait_for_something(struct gw_serve *serve)
{
    struct pollfd fds[] = {
        {.fd = gw_control_arm(serve->control), .events = POLLIN},
        {.fd = serve->request_fd, .events = POLLIN},
        {.fd = serve->progress->cancel_fd, .events = POLLIN},
        {.fd = serve->receiver ? gw_receiver_event_fd(serve->receiver) : -1, .events = POLLIN},
        {.fd = serve->rejoin_fd, .events = POLLIN},
    };

    poll(fds, GW_ARRAY_LENGTH(fds), WAIT_MS);
    if (fds[2].revents)
        return gw_fail(-ECANCELED, "cancelled at the target");
    return 0;
}

/* Nothing was said: everything else that waits. */
static int look_around(struct gw_serve *serve)
{
    int result = gw_control_keep_alive(serve->control);

    if (!result)
        result = take_events(serve);
    if (!result)
        result = gw_serve_bench_check(serve);
    if (!result)
        result = wait_for_something(serve);
    update_progress(serve);
    return result;
}

/* One turn: everything that waits. 1: over. */
static int turn(struct gw_serve *serve)
{
    struct gw_control_frame frame;
    int result;

    if (serve->answer_until_ns && gw_clock_ns() >= serve->answer_until_ns)
        return gw_fail(-ETIMEDOUT, "a session that only asks has lasted too long");
    gw_serve_heed_rejoin(serve);
    result = gw_serve_next_frame(serve, &frame);
    take_requests(serve);
    if (result == -ETIMEDOUT)
        return look_around(serve);
    if (result)
        return result;
    gw_control_leave(serve->control);
    if (!frame.message)
        return serve->vm ? gw_serve_vm_bytes(serve, frame.bytes, frame.length)
                         : gw_fail(-EPROTO, "raw bytes out of turn");
    result = take_message(serve, frame.message);
    json_decref(frame.message);
    return result;
}

bool gw_serve_is_heard(const struct gw_serve *serve)
{
    return serve->control && !gw_control_is_lost(serve->control);
}

void gw_serve_free_path(struct gw_serve *serve)
{
    struct gw_path_stats stats;
    double cpu;

    if (serve->is_bench)
        gw_serve_bench_end(serve);
    if (!serve->receiver)
        return;
    gw_receiver_stats(serve->receiver, &stats);
    gw_receiver_free(serve->receiver);
    serve->receiver = NULL;
    cpu = gw_workers_cpu_seconds(&serve->workers);
    gw_workers_free(&serve->workers);
    for (unsigned i = 0; i < serve->domain_count; i++)
        gw_domain_close(serve->domains[i]);
    serve->domain_count = 0;
    json_object_set_new(serve->outcome->detail, "stats",
                        json_pack("{s:I,s:I,s:f,s:f,s:f}", "data_bytes",
                                  (json_int_t)stats.data_bytes, "zero_bytes",
                                  (json_int_t)stats.zero_bytes, "worker_cpu_s", cpu, "digest_s",
                                  (double)stats.stage_ns[GW_STAGE_DIGEST] / 1e9, "write_s",
                                  (double)stats.stage_ns[GW_STAGE_WRITE] / 1e9));
}

/* A move that waits for its source, or for a person, has not ended well. */
static void note_doubt(struct gw_serve *serve, struct gw_error *why)
{
    if (serve->ended_in == GW_HANDOVER_NONE || gw_handover_is_decided(serve->ended_in))
        return;
    serve->outcome->exit_code = GW_EXIT_IN_DOUBT;
    gw_error_take(gw_fail(-EINPROGRESS, "%s", gw_handover_state_meaning(serve->ended_in)), why);
}

int gw_serve_run(struct gw_serve *serve, struct gw_progress *progress, struct gw_outcome *out)
{
    const struct gw_environment *environment = serve->environment;
    struct gw_error why = {.code = 0};
    int result = 0;

    out->detail = json_object();
    out->exit_code = GW_EXIT_DONE;
    serve->progress = progress;
    serve->outcome = out;
    serve->thread = pthread_self();
    while (result == 0) {
        result = turn(serve);
        if (result < 0)
            result = gw_serve_await_source(serve, result);
    }
    if (result < 0)
        gw_error_take(result, &why);
    gw_rejoins_remove(environment->rejoins, serve);
    close_requests(serve);
    if (result < 0)
        gw_error_raise(&why); /* the words that the source is told */
    if (result < 0 && gw_serve_is_heard(serve) && !serve->is_told)
        gw_message_send_error(serve->control, result);
    gw_serve_free_path(serve);
    if (serve->vm)
        gw_serve_vm_end(serve, &why);
    else
        serve->keeps_parts = !serve->is_finished && gw_serve_keeps(serve, why.code);
    gw_serve_drop_volumes(serve,
                          serve->is_finished || serve->keeps_parts || gw_serve_gives_back(serve));
    gw_serve_close_partial(serve);
    note_doubt(serve, &why);
    result = serve->is_finished && out->exit_code == GW_EXIT_DONE ? 0 : gw_error_raise(&why);
    if (result && out->exit_code == GW_EXIT_DONE)
        out->exit_code = result == -EBADMSG ? GW_EXIT_VERIFY : GW_EXIT_FAILED;
    pthread_mutex_lock(&progress->lock);
    progress->data.phase = GW_PHASE_ENDED;
    progress->data.ended_ns = gw_clock_ns();
    pthread_mutex_unlock(&progress->lock);
    return result;
}

int gw_serve_answer(const struct gw_environment *environment, struct gw_control *control)
{
    struct gw_outcome outcome = {.exit_code = GW_EXIT_DONE};
    struct gw_progress progress;
    struct gw_serve *serve;
    int error = gw_progress_init(&progress);

    if (!error) {
        error = gw_serve_new(environment, control, &serve);
        if (!error) {
            serve->answer_until_ns = gw_clock_ns() + ANSWER_LIMIT_NS;
            error = gw_serve_run(serve, &progress, &outcome);
            gw_serve_free(serve);
            control = NULL;
        }
        gw_progress_free(&progress);
    }
    gw_control_close(control);
    gw_outcome_free(&outcome);
    return error;
}

void gw_serve_free(struct gw_serve *serve)
{
    if (!serve)
        return;
    close_requests(serve);
    gw_serve_free_path(serve);
    gw_control_close(serve->control);
    json_decref(serve->reports);
    json_decref(serve->early);
    close(serve->request_fd);
    close(serve->rejoin_fd);
    pthread_mutex_destroy(&serve->lock);
    free(serve);
}
