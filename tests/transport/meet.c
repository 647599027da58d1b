/* SPDX-License-Identifier: Apache-2.0 */
/* How ends meet: hello, refusal, timeouts, listeners; over every back end, plain and wrapped. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/faulty.h"
#include "tests/transport/rig.h"

#define MEET(name)                                                                                 \
    static void body_##name(struct rig *rig);                                                      \
    ParameterizedTestParameters(meet, name)                                                        \
    {                                                                                              \
        const enum rig_kind *kinds;                                                                \
        int count = rig_kinds(&kinds);                                                             \
        return cr_make_param_array(const enum rig_kind, kinds, (size_t)count);                     \
    }                                                                                              \
    ParameterizedTest(const enum rig_kind *kind, meet, name)                                       \
    {                                                                                              \
        struct rig rig;                                                                            \
        rig_open(&rig, *kind);                                                                     \
        body_##name(&rig);                                                                         \
        rig_close(&rig);                                                                           \
    }                                                                                              \
    static void body_##name(struct rig *rig)

struct dialing {
    struct rig *rig;
    struct gw_connect_options options;
    int error;
    char text[GW_ERROR_TEXT_MAX];
    struct gw_channel *channel;
    pthread_t thread;
};

static void *dial(void *argument)
{
    struct dialing *dialing = argument;

    dialing->error = gw_connect(dialing->rig->transport, &dialing->options, &dialing->channel);
    snprintf(dialing->text, sizeof(dialing->text), "%s", dialing->error ? gw_error_message() : "");
    return NULL;
}

static struct gw_connect_options options_of(struct rig *rig, int timeout_ms)
{
    struct gw_connect_options options = {.channel = {.domain = rig->near_domain,
                                                     .poller = rig->near_poller,
                                                     .context = rig,
                                                     .timeout_ms = timeout_ms},
                                         .peer = rig->address};

    rig_set_secret(&options.channel);
    return options;
}

/* A timeout that will be waited for; a port finds its link and its neighbour first. */
static int patience_of(const struct rig *rig)
{
    return rig->kind == RIG_DPDK ? 3000 : 100;
}

static void start_dialing(struct rig *rig, int timeout_ms, struct dialing *dialing)
{
    memset(dialing, 0, sizeof(*dialing));
    dialing->rig = rig;
    dialing->options = options_of(rig, timeout_ms);
}

static void go(struct dialing *dialing)
{
    cr_assert_eq(pthread_create(&dialing->thread, NULL, dial, dialing), 0);
}

MEET(hello_of_every_length_arrives)
{
    static const uint32_t lengths[] = {0, 1, GW_HELLO_MAX};
    uint8_t hello[GW_HELLO_MAX];

    rig_fill(hello, sizeof(hello), 3);
    for (int i = 0; i < 3; i++) {
        struct dialing dialing;
        struct gw_request *request;

        start_dialing(rig, 5000, &dialing);
        dialing.options.hello = hello;
        dialing.options.hello_length = lengths[i];
        go(&dialing);
        cr_assert_eq(gw_next_request(rig->listener, 5000, &request), 0);
        cr_assert_eq(request->hello_length, lengths[i]);
        cr_assert_eq(memcmp(request->hello, hello, lengths[i]), 0);
        cr_assert(gw_address_same_host(&request->local, &rig->address));
        gw_reject(request, "enough");
        pthread_join(dialing.thread, NULL);
    }
}

MEET(rejection_tells_the_reason)
{
    struct dialing dialing;
    struct gw_request *request;

    start_dialing(rig, 5000, &dialing);
    go(&dialing);
    cr_assert_eq(gw_next_request(rig->listener, 5000, &request), 0);
    gw_reject(request, "no admission for strangers on mondays");
    pthread_join(dialing.thread, NULL);
    cr_assert_eq(dialing.error, -ECONNREFUSED);
    cr_assert(strstr(dialing.text, "no admission for strangers on mondays"), "%s", dialing.text);
}

MEET(overlong_reason_is_cut)
{
    struct dialing dialing;
    struct gw_request *request;
    char reason[1000];

    memset(reason, 'r', sizeof(reason));
    reason[sizeof(reason) - 1] = '\0';
    start_dialing(rig, 5000, &dialing);
    go(&dialing);
    cr_assert_eq(gw_next_request(rig->listener, 5000, &request), 0);
    gw_reject(request, reason);
    pthread_join(dialing.thread, NULL);
    cr_assert_eq(dialing.error, -ECONNREFUSED);
    cr_assert(strstr(dialing.text, "rrrrrrrrrrrrrrrrrrrrrrr"));
}

MEET(context_is_the_options)
{
    struct dialing dialing;
    struct gw_request *request;
    struct gw_channel *far;
    struct gw_channel_options options = {.domain = rig->far_domain,
                                         .poller = rig->far_poller,
                                         .context = &dialing,
                                         .timeout_ms = 1000};

    start_dialing(rig, 5000, &dialing);
    go(&dialing);
    cr_assert_eq(gw_next_request(rig->listener, 5000, &request), 0);
    rig_set_secret(&options);
    cr_assert_eq(gw_accept(request, &options, &far), 0);
    pthread_join(dialing.thread, NULL);
    cr_assert_eq(far->context, &dialing);
    cr_assert_eq(dialing.channel->context, rig);
    cr_assert_eq(far->domain, rig->far_domain);
    gw_close(far);
    gw_close(dialing.channel);
}

MEET(no_request_times_out)
{
    struct gw_request *request;
    uint64_t start_ns = gw_clock_ns();

    cr_assert_eq(gw_next_request(rig->listener, 0, &request), -ETIMEDOUT);
    cr_assert_eq(gw_next_request(rig->listener, 60, &request), -ETIMEDOUT);
    cr_assert_geq(gw_clock_ns() - start_ns, 60 * GW_NS_PER_MS);
}

MEET(connect_that_nobody_answers_times_out)
{
    struct gw_connect_options options = options_of(rig, patience_of(rig));
    struct gw_channel *channel;

    cr_assert_eq(gw_connect(rig->transport, &options, &channel), -ETIMEDOUT);
    cr_assert(strlen(gw_error_message()) > 10);
}

MEET(connect_where_nobody_listens_is_refused)
{
    struct gw_connect_options options = options_of(rig, 1000);
    struct gw_listener *other;
    struct gw_channel *channel;
    struct gw_address address;

    rig_free_address(rig->kind, &address);
    cr_assert_eq(gw_listen(rig->far_transport, &address, &other), 0);
    cr_assert_eq(gw_listener_address(other, &options.peer), 0);
    gw_unlisten(other);
    cr_assert_eq(gw_connect(rig->transport, &options, &channel), -ECONNREFUSED);
}

MEET(unlisten_refuses_who_waits)
{
    struct dialing dialing;
    struct gw_listener *other;
    struct gw_address address;
    struct gw_request *request;

    rig_free_address(rig->kind, &address);
    cr_assert_eq(gw_listen(rig->far_transport, &address, &other), 0);
    start_dialing(rig, 5000, &dialing);
    cr_assert_eq(gw_listener_address(other, &dialing.options.peer), 0);
    go(&dialing);
    gw_next_request(rig->listener, 100, &request);
    gw_unlisten(other);
    pthread_join(dialing.thread, NULL);
    cr_assert_eq(dialing.error, -ECONNREFUSED, "%d %s", dialing.error, dialing.text);
}

MEET(address_in_use_is_said)
{
    struct gw_listener *other;

    cr_assert_eq(gw_listen(rig->far_transport, &rig->address, &other), -EADDRINUSE);
}

MEET(options_out_of_bounds_are_refused)
{
    struct gw_connect_options options = options_of(rig, 1000);
    struct gw_channel *channel;
    uint8_t bytes[64] = {0};

    options.hello = bytes;
    options.hello_length = GW_HELLO_MAX + 1;
    cr_assert_eq(gw_connect(rig->transport, &options, &channel), -EINVAL);
    options = options_of(rig, 0);
    cr_assert_eq(gw_connect(rig->transport, &options, &channel), -EINVAL);
    options = options_of(rig, 1000);
    options.channel.secret = bytes;
    options.channel.secret_length = GW_SECRET_MAX + 1;
    cr_assert_eq(gw_connect(rig->transport, &options, &channel), -EINVAL);
}

MEET(peer_that_gave_up_before_accept)
{
    struct dialing dialing;
    struct gw_request *request;
    struct gw_channel *far = NULL;
    struct gw_channel_options options = {
        .domain = rig->far_domain, .poller = rig->far_poller, .timeout_ms = 1000};
    struct gw_message message;
    int error;

    start_dialing(rig, patience_of(rig), &dialing);
    go(&dialing);
    cr_assert_eq(gw_next_request(rig->listener, 5000, &request), 0);
    pthread_join(dialing.thread, NULL);
    cr_assert_eq(dialing.error, -ETIMEDOUT);
    /* Either accepting fails, or what it makes is dead. */
    rig_set_secret(&options);
    error = gw_accept(request, &options, &far);
    if (!error)
        error = rig_receive(rig, far, &message);
    if (rig->kind == RIG_DPDK) /* datagrams: nobody says that the peer has gone */
        cr_assert_eq(error, -ETIMEDOUT);
    else
        cr_assert(error == -ECONNRESET || error == -EPIPE, "%d (%s)", error, gw_error_message());
    gw_close(far);
}

Test(meet, unknown_back_end_is_named)
{
    struct gw_transport *transport;

    cr_assert_eq(gw_transport_new("carrier-pigeon", NULL, &transport), -ENODEV);
    cr_assert(strstr(gw_error_message(), "carrier-pigeon"));
}

/* A module is found and loads here; without a device it says that, and nothing of the linker's. */
Test(meet, module_without_a_device_says_so)
{
    struct gw_transport *transport;
    int error = gw_transport_new("verbs", NULL, &transport);

    if (!error) {
        gw_transport_free(transport);
        cr_skip_test("this host has an RDMA device");
    }
    if (strstr(gw_error_message(), "not part of this build"))
        cr_skip_test("%s", gw_error_message());
    cr_assert_eq(error, -ENODEV);
    cr_assert(strstr(gw_error_message(), "no RDMA device"), "%s", gw_error_message());
}

/* As an agent has it that was not told to use it: whatever can be used without a device works, whatever
 * cannot says so. */
Test(meet, one_that_is_not_named_waits_for_a_device)
{
    const struct gw_transport_maker *maker = rig_maker("verbs");
    struct gw_connect_options options = {.channel.timeout_ms = 1000};
    struct gw_transport *transport;
    struct gw_listener *listener;
    struct gw_request *request;
    struct gw_channel *channel;

    if (!maker)
        cr_skip_test("verbs is not part of this build");
    cr_assert_eq(gw_transport_make(maker, NULL, &transport), 0, "%s", gw_error_message());
    if (gw_transport_probe(transport) == 0) {
        gw_transport_free(transport);
        cr_skip_test("this host has an RDMA device");
    }
    cr_assert(strstr(gw_error_message(), "no RDMA device"), "%s", gw_error_message());
    gw_address_parse("[::]:4711", 0, &options.peer);
    cr_assert_eq(gw_listen(transport, &options.peer, &listener), 0, "%s", gw_error_message());
    cr_assert_eq(gw_next_request(listener, 20, &request), -ETIMEDOUT);
    cr_assert_eq(gw_listener_address(listener, &options.peer), -ENODEV);
    cr_assert(strstr(gw_error_message(), "no RDMA device"), "%s", gw_error_message());
    gw_unlisten(listener);
    gw_address_set_port(&options.peer, 0);
    cr_assert_eq(gw_listen(transport, &options.peer, &listener), -ENODEV);
    gw_address_parse("127.0.0.1:4711", 0, &options.peer);
    cr_assert_eq(gw_domain_open(transport, NULL, &options.channel.domain), 0);
    cr_assert_eq(gw_poller_open(transport, &options.channel.poller), 0);
    cr_assert_eq(gw_connect(transport, &options, &channel), -ENODEV);
    cr_assert(strstr(gw_error_message(), "no RDMA device"), "%s", gw_error_message());
    gw_poller_close(options.channel.poller);
    gw_domain_close(options.channel.domain);
    gw_transport_free(transport);
}

Test(meet, module_that_is_not_there_is_named)
{
    struct gw_transport *transport;

    if (gw_transport_new("verbs", NULL, &transport) == -ENODEV &&
        strstr(gw_error_message(), "not part of this build"))
        cr_skip_test("%s", gw_error_message());
    setenv("GODWIT_MODULE_DIR", "/nowhere", 1);
    cr_assert_eq(gw_transport_new("verbs", NULL, &transport), -ENODEV);
    cr_assert(strstr(gw_error_message(), "/nowhere/godwit-verbs.so"), "%s", gw_error_message());
}

Test(meet, module_of_another_build_is_refused)
{
    struct gw_transport *transport;

    if (gw_transport_new("verbs", NULL, &transport) == -ENODEV &&
        strstr(gw_error_message(), "not part of this build"))
        cr_skip_test("%s", gw_error_message());
    setenv("GODWIT_MODULE_DIR", STRANGE_MODULE_DIR, 1);
    cr_assert_eq(gw_transport_new("verbs", NULL, &transport), -ENODEV);
    cr_assert(strstr(gw_error_message(), "install both from one build"), "%s", gw_error_message());
}

Test(meet, frees_take_null)
{
    gw_transport_free(NULL);
    gw_domain_close(NULL);
    gw_poller_close(NULL);
    gw_unlisten(NULL);
    gw_close(NULL);
    gw_unreg(NULL);
    gw_reject(NULL, "");
}

/* ---- what faulty does on command ---- */

static void open_faulty(struct rig *rig)
{
    rig_open(rig, RIG_FAULTY_TCP);
}

Test(faulty, refuses_connects)
{
    struct rig rig;
    struct gw_connect_options options;
    struct gw_channel *channel;

    open_faulty(&rig);
    options = options_of(&rig, 1000);
    gw_faulty_refuse(rig.transport, true);
    cr_assert_eq(gw_connect(rig.transport, &options, &channel), -ECONNREFUSED);
    gw_faulty_refuse(rig.transport, false);
    rig_join(&rig);
    rig_close(&rig);
}

Test(faulty, delays_in_order)
{
    struct rig rig;
    struct rig_send sends[2] = {rig_send("1", 1), rig_send("2", 1)};
    struct gw_message message;
    uint64_t start_ns;

    open_faulty(&rig);
    rig_join(&rig);
    gw_faulty_delay(rig.transport, 150);
    start_ns = gw_clock_ns();
    cr_assert_eq(rig_post_send(rig.near, &sends[0]), 0);
    gw_faulty_delay(rig.transport, 0);
    cr_assert_eq(rig_post_send(rig.near, &sends[1]), 0);
    cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
    cr_assert_eq(*(const char *)message.data, '1');
    cr_assert_geq(gw_clock_ns() - start_ns, 150 * GW_NS_PER_MS);
    cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
    cr_assert_eq(*(const char *)message.data, '2');
    rig_close(&rig);
}

Test(faulty, corrupts_one_bit_of_one_write)
{
    static uint8_t source[10000], memory[10000];
    struct rig rig;
    struct gw_region *region;
    struct rig_write write;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    unsigned bits = 0;

    open_faulty(&rig);
    rig_join(&rig);
    cr_assert_eq(gw_reg(rig.far_domain, memory, sizeof(memory), GW_ACCESS_REMOTE_WRITE, 0, &region),
                 0);
    gw_faulty_corrupt_writes(rig.transport, 1);
    write = rig_write(source, sizeof(source), region, 0);
    cr_assert_eq(rig_post_write(rig.near, &write), 0);
    cr_assert_eq(rig_post_send(rig.near, &send), 0);
    cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
    cr_assert_eq(memcmp(message.data, "end", 3), 0);
    for (size_t i = 0; i < sizeof(memory); i++)
        bits += (unsigned)__builtin_popcount(memory[i]);
    cr_assert_eq(bits, 1);
    gw_unreg(region);
    rig_close(&rig);
}

Test(faulty, drops_after_so_many_ops)
{
    struct rig rig;
    static struct rig_send sends[10];
    struct gw_message message;
    int arrived = 0, error;

    open_faulty(&rig);
    rig_join(&rig);
    gw_faulty_drop_after(rig.transport, 4);
    for (int i = 0; i < 10; i++) {
        sends[i] = rig_send("x", 1);
        cr_assert_eq(rig_post_send(rig.near, &sends[i]), 0);
    }
    while ((error = rig_receive(&rig, rig.far, &message)) == 0)
        arrived++;
    cr_assert_eq(arrived, 4);
    cr_assert_eq(error, -ECONNRESET);
    for (int i = 0; i < 10; i++) {
        cr_assert(rig_until(&rig, &sends[i].done_count, 1));
        cr_assert_eq(sends[i].done_count, 1);
    }
    cr_assert_eq(sends[9].status, -ECONNRESET);
    rig_close(&rig);
}

Test(faulty, drops_all_and_joins_again)
{
    struct rig rig;
    struct gw_message message;
    struct rig_send send = rig_send("x", 1);

    open_faulty(&rig);
    rig_join(&rig);
    gw_faulty_drop_all(rig.transport);
    cr_assert_eq(rig_receive(&rig, rig.near, &message), -ECONNRESET);
    cr_assert_eq(rig_receive(&rig, rig.far, &message), -ECONNRESET);
    cr_assert_eq(rig_post_send(rig.near, &send), -ECONNRESET);
    gw_close(rig.near);
    gw_close(rig.far);
    rig_join(&rig);
    cr_assert_eq(rig_post_send(rig.near, &send), 0);
    cr_assert_eq(rig_receive(&rig, rig.far, &message), 0);
    rig_close(&rig);
}
