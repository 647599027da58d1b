/* SPDX-License-Identifier: Apache-2.0 */
/* The listening side: strangers who have connected and not yet spoken their whole preamble wait
 * together in one epoll set, each for at most five seconds, so that none of them delays another.
 * All the work is done by the thread that asks for the next request. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/checked.h"
#include "common/clock.h"
#include "common/log.h"
#include "transport/tcp/tcp.h"

#define STRANGERS_MAX      256u
#define STRANGER_TIMEOUT   (5 * GW_NS_PER_S)
#define ACCEPTS_AT_ONCE    64
#define OUT_OF_FILES_NS    (10 * GW_NS_PER_MS) /* pause when no descriptor is left */
#define ANSWER_DEADLINE_NS (1 * GW_NS_PER_S)

/* In the order of arrival, which is the order of their deadlines. */
struct stranger {
    struct stranger *previous, *next;
    int fd;
    bool was_answered; /* told that its version is another one; its end of stream is awaited */
    uint64_t deadline_ns;
    size_t have;
    uint8_t preamble[TCP_PREAMBLE_SIZE];
};

struct tcp_listener {
    struct gw_listener base;
    int fd, epoll_fd;
    struct stranger *oldest, *newest;
    unsigned stranger_count;
    uint64_t accept_again_ns; /* 0, or when to look at fd again after it ran out of descriptors */
};

struct tcp_request {
    struct gw_request base;
    int fd;
};

static struct tcp_listener *listener_of(struct gw_listener *base)
{
    return gw_container_of(base, struct tcp_listener, base);
}

/* ---- strangers ---- */

/* Takes the stranger off the list and answers its descriptor. */
static int forget(struct tcp_listener *listener, struct stranger *stranger)
{
    int fd = stranger->fd;

    epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    *(stranger->previous ? &stranger->previous->next : &listener->oldest) = stranger->next;
    *(stranger->next ? &stranger->next->previous : &listener->newest) = stranger->previous;
    listener->stranger_count--;
    free(stranger);
    return fd;
}

static void drop(struct tcp_listener *listener, struct stranger *stranger)
{
    close(forget(listener, stranger));
}

static void admit(struct tcp_listener *listener, int fd)
{
    struct stranger *stranger;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP};

    if (listener->stranger_count == STRANGERS_MAX)
        drop(listener, listener->oldest);
    stranger = calloc(1, sizeof(*stranger));
    event.data.ptr = stranger;
    if (!stranger || epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(stranger);
        close(fd);
        return;
    }
    stranger->fd = fd;
    stranger->deadline_ns = gw_clock_ns() + STRANGER_TIMEOUT;
    stranger->previous = listener->newest;
    *(listener->newest ? &listener->newest->next : &listener->oldest) = stranger;
    listener->newest = stranger;
    listener->stranger_count++;
}

static void watch_listening(struct tcp_listener *listener, bool on)
{
    struct epoll_event event = {.events = on ? EPOLLIN : 0};

    epoll_ctl(listener->epoll_fd, EPOLL_CTL_MOD, listener->fd, &event);
    listener->accept_again_ns = on ? 0 : gw_clock_ns() + OUT_OF_FILES_NS;
}

static void admit_all(struct tcp_listener *listener)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            admit(listener, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            if (listener->oldest)
                drop(listener, listener->oldest);
            else
                watch_listening(listener, false);
            return;
        } else if (errno == EAGAIN) {
            return;
        }
    }
}

static void answer_version(struct stranger *stranger, uint32_t version)
{
    uint8_t answer[TCP_ANSWER_SIZE];
    struct gw_address local, peer;
    char text[GW_ADDRESS_TEXT_MAX];

    gw_tcp_socket_names(stranger->fd, &local, &peer);
    gw_log(GW_LOG_WARNING,
           "tcp: %s speaks wire version %u, this side %u: install the same godwit on both",
           gw_address_format(&peer, text, sizeof(text)), version, GW_WIRE_VERSION);
    gw_tcp_answer_encode(TCP_OTHER_VERSION, "another wire version", answer);
    /* The buffer of a new connection has room for it; a peer that is gone needs no answer. */
    if (send(stranger->fd, answer, sizeof(answer), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return;
    /* Closing now, with bytes unread, would reset the connection and lose the answer. */
    shutdown(stranger->fd, SHUT_WR);
    stranger->was_answered = true;
}

/* True when the preamble is whole and good; *gone when the stranger is not worth keeping. */
static bool judge(struct stranger *stranger, bool *gone)
{
    uint32_t version;

    if (memcmp(stranger->preamble, TCP_MAGIC, gw_min(stranger->have, TCP_MAGIC_SIZE)) != 0) {
        *gone = true;
        return false;
    }
    if (stranger->have < TCP_MAGIC_SIZE + 4)
        return false;
    version = gw_get_le32(stranger->preamble + 8);
    if (version != GW_WIRE_VERSION) {
        answer_version(stranger, version);
        *gone = !stranger->was_answered;
        return false;
    }
    if (stranger->have < TCP_PREAMBLE_SIZE)
        return false;
    *gone = gw_get_le32(stranger->preamble + 12) > GW_HELLO_MAX;
    return !*gone;
}

/* Reads what the stranger has said. True when it has said all and is welcome. */
static bool hear(struct tcp_listener *listener, struct stranger *stranger)
{
    uint8_t rest[256];
    bool gone = false, whole = false;
    ssize_t size;

    if (stranger->was_answered) {
        size = recv(stranger->fd, rest, sizeof(rest), MSG_DONTWAIT);
        gone = size == 0;
    } else {
        size = recv(stranger->fd, stranger->preamble + stranger->have,
                    TCP_PREAMBLE_SIZE - stranger->have, MSG_DONTWAIT);
        gone = size == 0;
        if (size > 0) {
            stranger->have += (size_t)size;
            whole = judge(stranger, &gone);
        }
    }
    if (gone || (size < 0 && errno != EAGAIN && errno != EINTR))
        drop(listener, stranger);
    return whole;
}

/* ---- requests ---- */

static int make_request(struct tcp_listener *listener, struct stranger *stranger,
                        struct gw_request **out)
{
    struct tcp_request *request = calloc(1, sizeof(*request));

    if (!request) {
        drop(listener, stranger);
        return gw_fail(-ENOMEM, "tcp: no memory for a request");
    }
    request->base.transport = listener->base.transport;
    request->base.hello_length = gw_get_le32(stranger->preamble + 12);
    memcpy(request->base.hello, stranger->preamble + 16, request->base.hello_length);
    request->fd = forget(listener, stranger);
    gw_tcp_socket_names(request->fd, &request->base.local, &request->base.peer);
    *out = &request->base;
    return 0;
}

static int wait_ms(struct tcp_listener *listener, uint64_t deadline_ns)
{
    if (listener->oldest)
        deadline_ns = gw_min(deadline_ns, listener->oldest->deadline_ns);
    if (listener->accept_again_ns)
        deadline_ns = gw_min(deadline_ns, listener->accept_again_ns);
    return gw_clock_left_ms(deadline_ns);
}

int gw_tcp_next_request(struct gw_listener *base, int timeout_ms, struct gw_request **out)
{
    struct tcp_listener *listener = listener_of(base);
    uint64_t deadline_ns = gw_clock_ns() + (uint64_t)timeout_ms * GW_NS_PER_MS;

    for (;;) {
        struct epoll_event events[TCP_EVENTS_MAX];
        int count =
            epoll_wait(listener->epoll_fd, events, TCP_EVENTS_MAX, wait_ms(listener, deadline_ns));
        bool has_new = false;

        if (count < 0 && errno != EINTR)
            return gw_fail_errno(-errno, "tcp: waiting for requests");
        for (int i = 0; i < count; i++) {
            struct stranger *stranger = events[i].data.ptr;

            /* New ones come last: they may push out a stranger that another event is about. */
            if (!stranger)
                has_new = true;
            else if (hear(listener, stranger))
                return make_request(listener, stranger, out);
        }
        if (has_new)
            admit_all(listener);
        while (listener->oldest && gw_clock_left_ms(listener->oldest->deadline_ns) == 0)
            drop(listener, listener->oldest);
        if (listener->accept_again_ns && gw_clock_left_ms(listener->accept_again_ns) == 0)
            watch_listening(listener, true);
        if (count <= 0 && gw_clock_left_ms(deadline_ns) == 0)
            return gw_fail(-ETIMEDOUT, "tcp: no request came within %d ms", timeout_ms);
    }
}

static int send_answer(int fd, enum tcp_verdict verdict, const char *reason)
{
    uint8_t answer[TCP_ANSWER_SIZE];

    gw_tcp_answer_encode(verdict, reason, answer);
    return gw_tcp_send_all(fd, answer, sizeof(answer), gw_clock_ns() + ANSWER_DEADLINE_NS);
}

void gw_tcp_reject(struct gw_request *base, const char *reason)
{
    struct tcp_request *request = gw_container_of(base, struct tcp_request, base);

    /* A peer that is gone cannot be told. */
    (void)send_answer(request->fd, TCP_REFUSED, reason);
    close(request->fd);
    free(request);
}

int gw_tcp_accept(struct gw_request *base, const struct gw_channel_options *options,
                  struct gw_channel **out)
{
    struct tcp_request *request = gw_container_of(base, struct tcp_request, base);
    char congestion[TCP_CONGESTION_MAX];
    struct tcp_channel *channel;
    int error = gw_tcp_socket_prepare(request->fd, options->congestion, congestion);

    if (!error)
        error = gw_tcp_channel_new(options, request->fd, &channel);
    if (error) {
        gw_tcp_reject(base, "the peer could not open its end");
        return error;
    }
    free(request);
    error = send_answer(channel->fd, TCP_ACCEPTED, "");
    if (error) {
        gw_tcp_channel_free(channel);
        return error;
    }
    error = gw_tcp_channel_start(channel);
    if (error)
        return error;
    *out = &channel->base;
    return 0;
}

/* ---- the listener itself ---- */

int gw_tcp_listen(struct gw_transport *transport, const struct gw_address *local,
                  struct gw_listener **out)
{
    struct tcp_listener *listener = calloc(1, sizeof(*listener));
    struct epoll_event event = {.events = EPOLLIN};
    int error;

    if (!listener)
        return gw_fail(-ENOMEM, "tcp: no memory for a listener");
    listener->base.transport = transport;
    error = gw_tcp_socket_listen(local, &listener->fd);
    if (error) {
        free(listener);
        return error;
    }
    listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (listener->epoll_fd < 0 ||
        epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, listener->fd, &event) != 0) {
        error = gw_fail_errno(-errno, "tcp: no epoll set");
        gw_tcp_unlisten(&listener->base);
        return error;
    }
    *out = &listener->base;
    return 0;
}

void gw_tcp_unlisten(struct gw_listener *base)
{
    struct tcp_listener *listener = listener_of(base);

    while (listener->oldest)
        drop(listener, listener->oldest);
    if (listener->epoll_fd >= 0)
        close(listener->epoll_fd);
    close(listener->fd);
    free(listener);
}

int gw_tcp_listener_address(struct gw_listener *base, struct gw_address *out)
{
    struct gw_address peer;

    gw_tcp_socket_names(listener_of(base)->fd, out, &peer);
    return 0;
}
