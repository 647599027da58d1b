/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that break the rules of the fabric back end where endpoints do not connect: whoever reaches its port
 * over the tcp back end can say what it likes about its endpoint, and send what it likes after that. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <rdma/fabric.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/rig.h"
#include "transport/fabric/wire.h"
#include "transport/rdma/credit.h"
#include "transport/rdma/header.h"

/* The far end is fabric's; the near end is a channel of tcp that speaks for one. */
struct raw {
    struct rig rig;
    struct gw_transport *tcp;
    struct gw_domain *domain;
    struct gw_poller *poller;
    struct gw_channel *near;
};

static void *accept_far(void *argument)
{
    struct rig *rig = argument;

    cr_assert_eq(rig_accept(rig, 1, &rig->far), 0, "%s", gw_error_message());
    return NULL;
}

static void raw_open(struct raw *raw)
{
    struct gw_connect_options options = {.channel = {.number = 1, .timeout_ms = RIG_WAIT_MS}};
    pthread_t thread;

    memset(raw, 0, sizeof(*raw));
    setenv("GODWIT_TEST_FABRIC", "tcp;ofi_rxm", 1);
    rig_open(&raw->rig, RIG_FABRIC);
    cr_assert_eq(gw_transport_new("tcp", NULL, &raw->tcp), 0);
    cr_assert_eq(gw_domain_open(raw->tcp, NULL, &raw->domain), 0);
    cr_assert_eq(gw_poller_open(raw->tcp, &raw->poller), 0);
    options.channel.domain = raw->domain;
    options.channel.poller = raw->poller;
    options.peer = raw->rig.address;
    gw_address_set_port(&options.peer, gw_address_port(&raw->rig.address) + 1);
    cr_assert_eq(pthread_create(&thread, NULL, accept_far, &raw->rig), 0);
    cr_assert_eq(gw_connect(raw->tcp, &options, &raw->near), 0, "%s", gw_error_message());
    cr_assert_eq(pthread_join(thread, NULL), 0);
}

static void raw_close(struct raw *raw)
{
    gw_close(raw->near);
    rig_close(&raw->rig);
    gw_poller_close(raw->poller);
    gw_domain_close(raw->domain);
    gw_transport_free(raw->tcp);
}

static void turn(struct raw *raw)
{
    struct gw_channel *ready[2];

    gw_poll(raw->poller, ready, 2);
    rig_turn(&raw->rig);
}

static void say(struct raw *raw, const void *bytes, uint32_t length)
{
    struct rig_send send = rig_send(bytes, length);
    uint64_t deadline_ns = gw_clock_ns() + RIG_WAIT_MS * GW_NS_PER_MS;

    cr_assert_eq(gw_send(raw->near, &send.send), 0);
    while (!send.done_count && gw_clock_ns() < deadline_ns)
        turn(raw);
    cr_assert_eq(send.done_count, 1);
}

static void await_death(struct raw *raw, int error, const char *text)
{
    uint64_t deadline_ns = gw_clock_ns() + 3 * RIG_WAIT_MS * GW_NS_PER_MS;
    struct gw_message message;
    int got = -EAGAIN;

    while (got == -EAGAIN && gw_clock_ns() < deadline_ns) {
        turn(raw);
        got = gw_recv(raw->rig.far, &message);
    }
    cr_assert_eq(got, error, "%d: %s", got, gw_error_message());
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
}

static void expect_death(struct raw *raw, int error, const char *text)
{
    await_death(raw, error, text);
    raw_close(raw);
}

static void say_name(struct raw *raw, uint32_t format, const char *host, unsigned port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    uint8_t bytes[FABRIC_NAME_SIZE_MAX];

    cr_assert_eq(inet_pton(AF_INET, host, &name.sin_addr), 1);
    say(raw, bytes,
        gw_fabric_name_encode(format, (const uint8_t *)&name, (uint32_t)sizeof(name), bytes));
}

Test(fabric_rdm, who_says_nothing_of_its_endpoint_is_dropped)
{
    struct raw raw;

    raw_open(&raw);
    say(&raw, "hello", 5);
    expect_death(&raw, -EPROTO, "did not begin with where its endpoint is");
}

Test(fabric_rdm, an_endpoint_on_another_host_is_refused)
{
    struct raw raw;

    raw_open(&raw);
    say_name(&raw, FI_SOCKADDR_IN, "127.0.0.2", 4000);
    expect_death(&raw, -EPROTO, "on another host");
}

Test(fabric_rdm, an_address_of_another_form_is_refused)
{
    uint8_t bytes[FABRIC_NAME_SIZE_MAX], name[FABRIC_NAME_MAX] = {AF_INET};
    struct raw raw;

    raw_open(&raw);
    say_name(&raw, FI_SOCKADDR_IN6, "127.0.0.1", 4000);
    expect_death(&raw, -EPROTO, "of another form");
    raw_open(&raw);
    say(&raw, bytes, gw_fabric_name_encode(FI_SOCKADDR_IN, name, sizeof(name), bytes));
    expect_death(&raw, -EPROTO, "of another form");
}

/* The listener of the rig is at ::1 now, its far domain still at 127.0.0.1. */
static void listen_over_ipv6(struct rig *rig)
{
    struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&loopback, sizeof(loopback)) != 0)
        cr_skip_test("no IPv6 on this host: %s", strerror(errno));
    close(fd);
    setenv("GODWIT_TEST_FABRIC", "tcp;ofi_rxm", 1);
    rig_open(rig, RIG_FABRIC);
    gw_unlisten(rig->listener);
    cr_assert_eq(gw_address_parse("::1", 0, &rig->address), 0);
    cr_assert_eq(gw_listen(rig->transport, &rig->address, &rig->listener), 0, "%s",
                 gw_error_message());
    cr_assert_eq(gw_listener_address(rig->listener, &rig->address), 0);
}

static int dial_as(struct rig *rig, struct gw_domain *domain, uint32_t number)
{
    struct gw_connect_options options = {.channel = {.domain = domain,
                                                     .poller = rig->near_poller,
                                                     .context = rig,
                                                     .number = number,
                                                     .timeout_ms = RIG_WAIT_MS},
                                         .peer = rig->address};
    struct gw_channel *channel;

    return gw_connect(rig->transport, &options, &channel);
}

static int dial(struct rig *rig, struct gw_domain *domain)
{
    return dial_as(rig, domain, 1);
}

static void expect_families(int error, int wanted)
{
    cr_assert_eq(error, wanted, "%d: %s", error, gw_error_message());
    cr_assert(strstr(gw_error_message(), "IPv4") && strstr(gw_error_message(), "IPv6") &&
                  strstr(gw_error_message(), "addresses of one family"),
              "%s", gw_error_message());
}

struct answering {
    struct rig *rig;
    atomic_bool is_over;
};

/* No request comes but the question, which the listener answers by itself. */
static void *answer_questions(void *argument)
{
    struct answering *answering = argument;
    struct gw_request *request;

    while (!answering->is_over)
        cr_assert_eq(gw_next_request(answering->rig->listener, 50, &request), -ETIMEDOUT);
    return NULL;
}

Test(fabric_rdm, a_domain_of_another_family_than_the_peers_is_refused)
{
    struct rig rig;
    struct answering answering = {.rig = &rig};
    pthread_t thread;

    listen_over_ipv6(&rig);
    cr_assert_eq(pthread_create(&thread, NULL, answer_questions, &answering), 0);
    expect_families(dial(&rig, rig.near_domain), -EXDEV);
    answering.is_over = true;
    cr_assert_eq(pthread_join(thread, NULL), 0);
    rig_close(&rig);
}

static void *refuse_far(void *argument)
{
    struct rig *rig = argument;

    expect_families(rig_accept(rig, 1, &rig->far), -EXDEV);
    return NULL;
}

/* Both sides say why. */
Test(fabric_rdm, a_request_of_another_family_than_the_domains_is_refused)
{
    struct gw_domain *domain;
    struct gw_address local;
    pthread_t thread;
    struct rig rig;

    listen_over_ipv6(&rig);
    cr_assert_eq(gw_address_parse("::1", 0, &local), 0);
    cr_assert_eq(gw_domain_open(rig.transport, &local, &domain), 0, "%s", gw_error_message());
    cr_assert_eq(pthread_create(&thread, NULL, refuse_far, &rig), 0);
    expect_families(dial(&rig, domain), -ECONNREFUSED);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    gw_domain_close(domain);
    rig_close(&rig);
}

/* ---- which provider the peer has ---- */

struct refuser {
    struct gw_transport *tcp;
    struct gw_listener *listener;
    const char *const *answers; /* one for each request, in order; NULL ends it */
    unsigned count;
};

static void *refuse_each(void *argument)
{
    struct refuser *refuser = argument;

    for (; refuser->answers[refuser->count]; refuser->count++) {
        struct gw_request *request;

        cr_assert_eq(gw_next_request(refuser->listener, RIG_WAIT_MS, &request), 0, "%s",
                     gw_error_message());
        gw_reject(request, refuser->answers[refuser->count]);
    }
    return NULL;
}

/* Dials somebody at fabric's port who refuses each request with one of answers. */
static void expect_dial(const char *const *answers, int error, const char *text)
{
    struct refuser refuser = {.answers = answers};
    struct gw_address any;
    pthread_t thread;
    struct rig rig;

    setenv("GODWIT_TEST_FABRIC", "tcp;ofi_rxm", 1);
    rig_open(&rig, RIG_FABRIC);
    gw_unlisten(rig.listener);
    rig.listener = NULL;
    cr_assert_eq(gw_address_parse("127.0.0.1", 0, &any), 0);
    cr_assert_eq(gw_transport_new("tcp", NULL, &refuser.tcp), 0);
    cr_assert_eq(gw_listen(refuser.tcp, &any, &refuser.listener), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listener_address(refuser.listener, &rig.address), 0);
    gw_address_set_port(&rig.address, (uint16_t)(gw_address_port(&rig.address) - 1));
    cr_assert_eq(pthread_create(&thread, NULL, refuse_each, &refuser), 0);
    cr_assert_eq(dial(&rig, rig.near_domain), error, "%s", gw_error_message());
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
    cr_assert_eq(pthread_join(thread, NULL), 0);
    gw_unlisten(refuser.listener);
    gw_transport_free(refuser.tcp);
    cr_assert_eq(gw_address_parse("127.0.0.1", 0, &rig.address), 0);
    cr_assert_eq(gw_listen(rig.transport, &rig.address, &rig.listener), 0); /* rig_close ends it */
    rig_close(&rig);
}

Test(fabric_rdm, another_provider_is_refused_naming_both)
{
    static const char *const answers[] = {"fabric provider efa", NULL};

    expect_dial(answers, -EXDEV, "is efa, this host's is tcp;ofi_rxm: name the same one on both");
}

Test(fabric_rdm, a_provider_of_any_length_is_cut)
{
    static const char *const answers[] = {
        "fabric provider tcp;ofi_rxm;and_so_on_for_more_than_there_is_room_for_in_a_name", NULL};

    expect_dial(answers, -EXDEV, "is tcp;ofi_rxm;and_so_on_for_more_, this");
}

Test(fabric_rdm, the_same_provider_is_dialled)
{
    static const char *const answers[] = {"fabric provider tcp;ofi_rxm", "no room", NULL};

    expect_dial(answers, -ECONNREFUSED, "no room");
}

/* One of an earlier version takes the question for a wrong hello. */
Test(fabric_rdm, who_does_not_know_the_question_is_dialled)
{
    static const char *const answers[] = {"the hello has 17 bytes", "no room", NULL};

    expect_dial(answers, -ECONNREFUSED, "no room");
}

/* Who takes the connection and says nothing is as a firewall that drops the port. */
Test(fabric_rdm, who_does_not_answer_is_passed_over_at_once_next_time)
{
    struct gw_transport *tcp;
    struct gw_listener *silent;
    struct gw_address any;
    struct rig rig;

    setenv("GODWIT_TEST_FABRIC", "tcp;ofi_rxm", 1);
    rig_open(&rig, RIG_FABRIC);
    cr_assert_eq(gw_address_parse("127.0.0.1", 0, &any), 0);
    cr_assert_eq(gw_transport_new("tcp", NULL, &tcp), 0);
    cr_assert_eq(gw_listen(tcp, &any, &silent), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listener_address(silent, &rig.address), 0);
    gw_address_set_port(&rig.address, (uint16_t)(gw_address_port(&rig.address) - 1));
    cr_assert_eq(dial(&rig, rig.near_domain), -ETIMEDOUT, "%s", gw_error_message());
    cr_assert(strstr(gw_error_message(), "did not answer in time"), "%s", gw_error_message());
    /* Control sessions, too. */
    for (uint32_t number = 0; number < 2; number++) {
        cr_assert_eq(dial_as(&rig, rig.near_domain, number), -EHOSTUNREACH);
        cr_assert(strstr(gw_error_message(), "nobody answered at 127.0.0.1:"), "%s",
                  gw_error_message());
    }
    gw_unlisten(silent);
    gw_transport_free(tcp);
    rig_close(&rig);
}

/* A link that is lost for a moment does not keep fabric away for longer. */
Test(fabric_rdm, who_answered_before_is_dialled_again_after_a_silence)
{
    static const char *const answers[] = {"fabric provider tcp;ofi_rxm", "no room", NULL};
    struct refuser refuser = {.answers = answers};
    struct gw_address any;
    pthread_t thread;
    struct rig rig;

    setenv("GODWIT_TEST_FABRIC", "tcp;ofi_rxm", 1);
    rig_open(&rig, RIG_FABRIC);
    cr_assert_eq(gw_address_parse("127.0.0.1", 0, &any), 0);
    cr_assert_eq(gw_transport_new("tcp", NULL, &refuser.tcp), 0);
    cr_assert_eq(gw_listen(refuser.tcp, &any, &refuser.listener), 0, "%s", gw_error_message());
    gw_unlisten(rig.listener);
    rig.listener = NULL;
    cr_assert_eq(gw_listener_address(refuser.listener, &rig.address), 0);
    gw_address_set_port(&rig.address, (uint16_t)(gw_address_port(&rig.address) - 1));
    cr_assert_eq(pthread_create(&thread, NULL, refuse_each, &refuser), 0);
    cr_assert_eq(dial(&rig, rig.near_domain), -ECONNREFUSED);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(dial(&rig, rig.near_domain), -ETIMEDOUT, "%s", gw_error_message());
    gw_unlisten(refuser.listener);
    gw_transport_free(refuser.tcp);
    cr_assert_eq(gw_listen(rig.transport, &any, &rig.listener), 0); /* rig_close ends it */
    rig_close(&rig);
}

Test(fabric_rdm, messages_without_a_header_are_refused)
{
    struct raw raw;

    raw_open(&raw);
    say_name(&raw, FI_SOCKADDR_IN, "127.0.0.1", 4000);
    say(&raw, "no header", 9);
    expect_death(&raw, -EPROTO, "without a header");
}

Test(fabric_rdm, a_body_that_is_not_as_long_as_said_is_refused)
{
    struct gw_send_header header = {.type = GW_SEND_MESSAGE, .length = 7};
    uint8_t bytes[GW_SEND_HEADER_SIZE];
    struct raw raw;

    raw_open(&raw);
    say_name(&raw, FI_SOCKADDR_IN, "127.0.0.1", 4000);
    gw_send_header_encode(&header, bytes);
    say(&raw, bytes, sizeof(bytes));
    say(&raw, "eight by", 8);
    expect_death(&raw, -EPROTO, "whose header says 7");
}

Test(fabric_rdm, more_messages_than_credits_are_refused)
{
    struct gw_send_header header = {.type = GW_SEND_MESSAGE};
    uint8_t bytes[GW_SEND_HEADER_SIZE];
    struct gw_message message;
    struct raw raw;

    raw_open(&raw);
    say_name(&raw, FI_SOCKADDR_IN, "127.0.0.1", 4000);
    gw_send_header_encode(&header, bytes);
    for (unsigned i = 0; i <= GW_RECEIVES; i++)
        say(&raw, bytes, sizeof(bytes));
    /* Those that it was allowed to send are still there. */
    for (unsigned i = 0; i < GW_RECEIVES; i++)
        cr_assert_eq(rig_receive(&raw.rig, raw.rig.far, &message), 0);
    expect_death(&raw, -EPROTO, "more messages than it had been allowed");
}

/* Nobody would ever say that a write to such a peer cannot be made. */
Test(fabric_rdm, a_write_to_an_endpoint_that_is_not_there_ends)
{
    const struct gw_region region = {.key = 5};
    static const uint8_t source[4096];
    struct rig_write write;
    struct raw raw;

    raw_open(&raw);
    say_name(&raw, FI_SOCKADDR_IN, "127.0.0.1", 1);
    write = rig_write(source, sizeof(source), &region, 0);
    cr_assert_eq(rig_post_write(raw.rig.far, &write), 0);
    await_death(&raw, -ETIMEDOUT, "took no write");
    cr_assert_eq(write.done_count, 1);
    cr_assert_eq(write.status, -ETIMEDOUT);
    /* Who dials again does not wait again: another transport may reach it. */
    cr_assert_eq(dial(&raw.rig, raw.rig.near_domain), -EHOSTUNREACH);
    cr_assert(strstr(gw_error_message(), "took no write a moment ago"), "%s", gw_error_message());
    /* A control session makes no writes: it gets as far as the question. */
    cr_assert_eq(dial_as(&raw.rig, raw.rig.near_domain, 0), -ETIMEDOUT, "%s", gw_error_message());
    raw_close(&raw);
}

/* The two connections beneath a channel say in any order that the peer is gone. */
Test(fabric_rdm, last_words_are_heard_where_writes_fail)
{
    enum { WRITES = 4, WORDS = GW_RECEIVES };
    static const char text[GW_MESSAGE_MAX];
    struct rig_write writes[WRITES], first;
    struct rig_send words[WORDS];
    struct gw_message message;
    struct gw_region *region;
    struct rig rig;
    uint8_t *target = calloc(1, GW_WRITE_MAX), *source;
    uint64_t deadline_ns = gw_clock_ns() + RIG_WAIT_MS * GW_NS_PER_MS;
    int error;

    setenv("GODWIT_TEST_FABRIC", "tcp;ofi_rxm", 1);
    rig_open(&rig, RIG_FABRIC);
    rig_join(&rig);
    cr_assert(target);
    cr_assert_eq(gw_reg(rig.far_domain, target, GW_WRITE_MAX, GW_ACCESS_REMOTE_WRITE, 1, &region),
                 0);
    source = rig_source_new(&rig, GW_WRITE_MAX, 3);
    first = rig_write(source, 1, region, 0);
    cr_assert_eq(rig_post_write(rig.near, &first), 0);
    cr_assert(rig_until(&rig, &first.done_count, 1));
    for (unsigned i = 0; i < WRITES; i++) {
        writes[i] = rig_write(source, GW_WRITE_MAX, region, 0);
        cr_assert_eq(rig_post_write(rig.near, &writes[i]), 0);
    }
    /* The near end looks at nothing until the far one is gone. */
    for (unsigned i = 0; i < WORDS; i++) {
        words[i] = rig_send(text, i);
        cr_assert_eq(rig_post_send(rig.far, &words[i]), 0);
    }
    while (!words[WORDS - 1].done_count && gw_clock_ns() < deadline_ns)
        gw_poll(rig.far_poller, NULL, 0);
    cr_assert_eq(words[WORDS - 1].done_count, 1);
    gw_close(rig.far);
    rig.far = NULL;
    for (unsigned i = 0; i < WORDS; i++) {
        cr_assert_eq(rig_receive(&rig, rig.near, &message), 0, "%u: %s", i, gw_error_message());
        cr_assert_eq(message.length, i);
    }
    error = rig_receive(&rig, rig.near, &message);
    cr_assert_eq(error, -ECONNRESET, "%d: %s", error, gw_error_message());
    cr_assert(rig_until(&rig, &writes[WRITES - 1].done_count, 1));
    cr_assert_eq(writes[WRITES - 1].status, -ECONNRESET);
    rig_source_free(&rig, source);
    gw_unreg(region);
    rig_close(&rig);
    free(target);
}
