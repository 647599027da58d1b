/* SPDX-License-Identifier: Apache-2.0 */
/* How two ends of loop channels find each other: listeners under made-up addresses, requests that
 * wait in the connecting thread until they are answered. Everything here is under the transport's
 * lock. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"
#include "transport/loop/loop.h"

enum meeting { WAITING, ACCEPTED, REJECTED, GIVEN_UP };

/* Lives until both sides have let go of it: the connecting thread, and whoever answers. */
struct loop_request {
    struct gw_request base;
    struct loop_request *next; /* at its listener */
    enum meeting state;
    unsigned references;
    struct loop_channel *connecting; /* the connecting side's end, joined by accept */
    char reason[GW_REASON_MAX];
};

struct loop_listener {
    struct gw_listener base;
    struct loop_listener *next;
    struct gw_address address;
    struct loop_request *first, **last;
    unsigned waiting;
};

static struct loop_transport *transport_of(struct gw_transport *base)
{
    return gw_container_of(base, struct loop_transport, base);
}

static struct loop_listener *find(struct loop_transport *transport,
                                  const struct gw_address *address)
{
    for (struct loop_listener *at = transport->listeners; at; at = at->next)
        if (gw_address_same_host(&at->address, address) &&
            gw_address_port(&at->address) == gw_address_port(address))
            return at;
    return NULL;
}

/* False when the deadline passed. */
static bool wait_until(struct loop_transport *transport, uint64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / GW_NS_PER_S),
                             .tv_nsec = (long)(deadline_ns % GW_NS_PER_S)};

    return pthread_cond_timedwait(&transport->changed, &transport->lock, &until) == 0;
}

static uint64_t deadline_in(int timeout_ms)
{
    return gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;
}

int gw_loop_listen(struct gw_transport *base, const struct gw_address *local,
                   struct gw_listener **out)
{
    struct loop_transport *transport = transport_of(base);
    struct loop_listener *listener = calloc(1, sizeof(*listener));
    int error = 0;

    if (!listener)
        return gw_fail(-ENOMEM, "loop: no memory for a listener");
    listener->base.transport = base;
    listener->address = *local;
    listener->last = &listener->first;
    pthread_mutex_lock(&transport->lock);
    if (gw_address_port(local) == 0)
        do
            gw_address_set_port(&listener->address, transport->next_port++);
        while (find(transport, &listener->address) && transport->next_port < 65536);
    if (find(transport, &listener->address) || transport->next_port > 65536) {
        char text[GW_ADDRESS_TEXT_MAX];

        error = gw_fail(-EADDRINUSE, "loop: %s has a listener already",
                        gw_address_format(&listener->address, text, sizeof(text)));
        free(listener);
    } else {
        listener->next = transport->listeners;
        transport->listeners = listener;
        *out = &listener->base;
    }
    pthread_mutex_unlock(&transport->lock);
    return error;
}

/* Lets go of the request; the last one frees it. Called with the lock held. */
static void drop(struct loop_request *request)
{
    if (--request->references == 0)
        free(request);
}

static void answer(struct loop_transport *transport, struct loop_request *request,
                   enum meeting state)
{
    if (request->state == WAITING)
        request->state = state;
    pthread_cond_broadcast(&transport->changed);
    drop(request);
}

void gw_loop_unlisten(struct gw_listener *base)
{
    struct loop_listener *listener = gw_container_of(base, struct loop_listener, base);
    struct loop_transport *transport = transport_of(base->transport);
    struct loop_listener **at = &transport->listeners;

    pthread_mutex_lock(&transport->lock);
    while (*at != listener)
        at = &(*at)->next;
    *at = listener->next;
    while (listener->first) {
        struct loop_request *request = listener->first;

        listener->first = request->next;
        snprintf(request->reason, sizeof(request->reason), "the listener was closed");
        answer(transport, request, REJECTED);
    }
    pthread_mutex_unlock(&transport->lock);
    free(listener);
}

int gw_loop_listener_address(struct gw_listener *base, struct gw_address *out)
{
    *out = gw_container_of(base, struct loop_listener, base)->address;
    return 0;
}

int gw_loop_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    struct loop_listener *listener = gw_container_of(base, struct loop_listener, base);
    struct loop_transport *transport = transport_of(base->transport);
    uint64_t deadline_ns = deadline_in(timeout_ms);
    struct loop_request *request;

    pthread_mutex_lock(&transport->lock);
    while (!listener->first && wait_until(transport, deadline_ns))
        ;
    request = listener->first;
    if (request) {
        listener->first = request->next;
        if (!listener->first)
            listener->last = &listener->first;
        listener->waiting--;
    }
    pthread_mutex_unlock(&transport->lock);
    if (!request)
        return gw_fail(-ETIMEDOUT, "loop: no request came within %d ms", timeout_ms);
    *out = &request->base;
    return 0;
}

int gw_loop_accept(struct gw_request *base, const struct gw_channel_options *options,
                   struct gw_channel **out)
{
    struct loop_request *request = gw_container_of(base, struct loop_request, base);
    struct loop_transport *transport = transport_of(base->transport);
    struct loop_channel *channel;
    int error = gw_loop_channel_new(options, &channel);

    pthread_mutex_lock(&transport->lock);
    if (!error && request->state != WAITING)
        error = gw_fail(-ECONNRESET, "loop: the peer gave up before it was accepted");
    if (!error) {
        channel->info.local = base->local;
        channel->info.peer = base->peer;
        error = gw_loop_pair_new(channel, request->connecting);
        if (error)
            gw_loop_channel_free(channel);
    } else if (error == -ECONNRESET) {
        gw_loop_channel_free(channel);
    }
    snprintf(request->reason, sizeof(request->reason), "the peer could not open its end");
    answer(transport, request, error ? REJECTED : ACCEPTED);
    pthread_mutex_unlock(&transport->lock);
    if (error)
        return error;
    gw_loop_channel_start(channel);
    *out = &channel->base;
    return 0;
}

void gw_loop_reject(struct gw_request *base, const char *reason)
{
    struct loop_request *request = gw_container_of(base, struct loop_request, base);
    struct loop_transport *transport = transport_of(base->transport);

    pthread_mutex_lock(&transport->lock);
    snprintf(request->reason, sizeof(request->reason), "%s", reason);
    answer(transport, request, REJECTED);
    pthread_mutex_unlock(&transport->lock);
}

/* Takes a request that nobody has picked up off its listener. Called with the lock held. */
static void withdraw(struct loop_transport *transport, struct loop_request *request)
{
    for (struct loop_listener *at = transport->listeners; at; at = at->next)
        for (struct loop_request **link = &at->first; *link; link = &(*link)->next)
            if (*link == request) {
                *link = request->next;
                if (!*link)
                    at->last = link;
                at->waiting--;
                drop(request);
                return;
            }
}

static struct loop_request *new_request(struct loop_transport *transport,
                                        const struct gw_connect_options *options,
                                        struct loop_channel *channel)
{
    struct loop_request *request = calloc(1, sizeof(*request));

    if (!request)
        return NULL;
    request->base.transport = &transport->base;
    request->base.local = options->peer;
    if (options->local) {
        request->base.peer = *options->local;
    } else {
        struct sockaddr_in *made_up = (struct sockaddr_in *)&request->base.peer.storage;

        made_up->sin_family = AF_INET;
        made_up->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        request->base.peer.length = sizeof(*made_up);
    }
    request->base.hello_length = options->hello_length;
    if (options->hello_length)
        memcpy(request->base.hello, options->hello, options->hello_length);
    request->references = 2;
    request->connecting = channel;
    channel->info.local = request->base.peer;
    channel->info.peer = request->base.local;
    return request;
}

/* Called with the lock held: queues the request and waits for the answer. */
static int ask(struct loop_transport *transport, struct loop_request *request, int timeout_ms)
{
    struct loop_listener *listener = find(transport, &request->base.local);
    uint64_t deadline_ns = deadline_in(timeout_ms);
    char text[GW_ADDRESS_TEXT_MAX];

    gw_address_format(&request->base.local, text, sizeof(text));
    if (!listener || listener->waiting == LOOP_BACKLOG_MAX) {
        drop(request);
        return gw_fail(-ECONNREFUSED, "loop %s: %s", text,
                       listener ? "too many requests wait there" : "nothing listens there");
    }
    *listener->last = request;
    listener->last = &request->next;
    listener->waiting++;
    pthread_cond_broadcast(&transport->changed);
    while (request->state == WAITING && wait_until(transport, deadline_ns))
        ;
    if (request->state == ACCEPTED)
        return 0;
    if (request->state == REJECTED)
        return gw_fail(-ECONNREFUSED, "loop %s refused: %s", text, request->reason);
    request->state = GIVEN_UP;
    withdraw(transport, request);
    return gw_fail(-ETIMEDOUT, "loop %s did not answer within %d ms", text, timeout_ms);
}

int gw_loop_connect(struct gw_transport *base, const struct gw_connect_options *options,
                    struct gw_channel **out)
{
    struct loop_transport *transport = transport_of(base);
    struct loop_channel *channel;
    struct loop_request *request;
    int error = gw_loop_channel_new(&options->channel, &channel);

    if (error)
        return error;
    request = new_request(transport, options, channel);
    if (!request) {
        gw_loop_channel_free(channel);
        return gw_fail(-ENOMEM, "loop: no memory for a request");
    }
    pthread_mutex_lock(&transport->lock);
    error = ask(transport, request, options->channel.timeout_ms);
    drop(request);
    pthread_mutex_unlock(&transport->lock);
    if (error) {
        gw_loop_channel_free(channel);
        return error;
    }
    gw_loop_channel_start(channel);
    *out = &channel->base;
    return 0;
}
