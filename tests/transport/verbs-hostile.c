/* SPDX-License-Identifier: Apache-2.0 */
/* Peers over RDMA that are no godwit, or a bad one, and devices that go away. The peer is librdmacm
 * itself, spoken to here without godwit. Whatever it does, another channel on the same poller works on.
 * Runs where GODWIT_TEST_VERBS names an RDMA device (rig.h); some tests take the device's network
 * interface, GODWIT_TEST_INTERFACE, down and up. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/transport/rig.h"
#include "transport/rdma/credit.h"
#include "transport/rdma/header.h"
#include "transport/verbs/wire.h"

/* A test with an open rig whose near and far are joined, and stay so. */
#define HOSTILE(name)                                                                              \
    static void body_##name(struct rig *rig);                                                      \
    Test(verbs_hostile, name)                                                                      \
    {                                                                                              \
        struct rig rig;                                                                            \
        if (!getenv("GODWIT_TEST_VERBS"))                                                          \
            cr_skip_test("GODWIT_TEST_VERBS names no RDMA device: run it in the lab");             \
        rig_open(&rig, RIG_VERBS);                                                                 \
        rig_join(&rig);                                                                            \
        body_##name(&rig);                                                                         \
        rig_close(&rig);                                                                           \
    }                                                                                              \
    static void body_##name(struct rig *rig)

static void expect_works(struct rig *rig)
{
    struct rig_send send = rig_send("still here", 10);
    struct gw_message message;

    cr_assert_eq(rig_post_send(rig->near, &send), 0, "%s", gw_error_message());
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0, "%s", gw_error_message());
    cr_assert_eq(message.length, 10);
    cr_assert(rig_until(rig, &send.done_count, 1));
}

/* ---- a peer without godwit ---- */

struct raw {
    struct rdma_cm_id *id;
    struct gw_channel *far; /* godwit's end, when it accepted */
    struct ibv_mr *mr;
    uint8_t bytes[64 << 10];
};

struct accepting {
    struct rig *rig;
    pthread_t thread;
    struct gw_channel *far;
    int error;
};

static void *accept_one(void *argument)
{
    struct accepting *accepting = argument;

    accepting->error = rig_accept(accepting->rig, 9, &accepting->far);
    return NULL;
}

static void begin_accepting(struct rig *rig, struct accepting *accepting)
{
    *accepting = (struct accepting){.rig = rig};
    cr_assert_eq(pthread_create(&accepting->thread, NULL, accept_one, accepting), 0);
}

static void raw_open(struct rig *rig, struct raw *raw)
{
    struct ibv_qp_init_attr attr = {
        .cap = {.max_send_wr = 64, .max_recv_wr = 64, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC};
    struct gw_address peer = rig->address;

    memset(raw, 0, sizeof(*raw));
    cr_assert_eq(rdma_create_id(NULL, &raw->id, NULL, RDMA_PS_TCP), 0);
    cr_assert_eq(rdma_resolve_addr(raw->id, NULL, (struct sockaddr *)&peer.storage, 2000), 0);
    cr_assert_eq(rdma_resolve_route(raw->id, 2000), 0);
    cr_assert_eq(rdma_create_qp(raw->id, NULL, &attr), 0);
    raw->mr = ibv_reg_mr(raw->id->pd, raw->bytes, sizeof(raw->bytes), IBV_ACCESS_LOCAL_WRITE);
    cr_assert(raw->mr);
}

/* 0 or errno. */
static int raw_connect(struct raw *raw, const uint8_t *private_data, uint8_t length)
{
    struct rdma_conn_param connection = {.private_data = private_data,
                                         .private_data_len = length,
                                         .retry_count = 6,
                                         .rnr_retry_count = 7};

    return rdma_connect(raw->id, &connection) ? errno : 0;
}

/* As somebody who is let in. */
static void raw_enter(struct raw *raw, struct accepting *accepting)
{
    uint8_t request[VERBS_REQUEST_SIZE];

    raw_open(accepting->rig, raw);
    gw_connect_request_encode(&gw_verbs_form, "", 0, request);
    cr_assert_eq(raw_connect(raw, request, sizeof(request)), 0, "%s", strerror(errno));
    cr_assert_eq(pthread_join(accepting->thread, NULL), 0);
    cr_assert_eq(accepting->error, 0);
    raw->far = accepting->far;
}

static void raw_join(struct rig *rig, struct raw *raw)
{
    struct accepting accepting;

    begin_accepting(rig, &accepting);
    raw_enter(raw, &accepting);
}

static void raw_close(struct raw *raw)
{
    gw_close(raw->far);
    ibv_dereg_mr(raw->mr);
    if (raw->id->qp)
        rdma_destroy_qp(raw->id);
    rdma_destroy_id(raw->id);
}

static void raw_send(struct raw *raw, uint32_t length)
{
    cr_assert_eq(rdma_post_send(raw->id, NULL, raw->bytes, length, raw->mr, IBV_SEND_SIGNALED), 0);
}

/* Sends what is in raw->bytes and expects that godwit's end dies of it with this text. */
static void expect_death(struct rig *rig, struct raw *raw, uint32_t length, const char *text)
{
    struct gw_message message;
    int error;

    raw_send(raw, length);
    while ((error = rig_receive(rig, raw->far, &message)) == 0)
        ;
    cr_assert_eq(error, -EPROTO, "%d: %s", error, gw_error_message());
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
    expect_works(rig);
    raw_close(raw);
}

HOSTILE(strangers_and_other_versions_are_refused_by_name)
{
    static const char *const words[] = {"this is godwit", "another wire version"};
    uint8_t request[VERBS_REQUEST_SIZE];
    struct accepting accepting;
    struct raw raw;

    begin_accepting(rig, &accepting);
    for (int i = 0; i < 2; i++) {
        struct gw_connect_answer answer;

        gw_connect_request_encode(&gw_verbs_form, "", 0, request);
        request[i ? 2 : 0] = 77;
        raw_open(rig, &raw);
        cr_assert_eq(raw_connect(&raw, request, sizeof(request)), ECONNREFUSED);
        cr_assert_eq(gw_connect_answer_decode(&gw_verbs_form,
                                              raw.id->event->param.conn.private_data,
                                              raw.id->event->param.conn.private_data_len, &answer),
                     0);
        cr_assert_eq(answer.verdict, i ? GW_CONNECT_OTHER_VERSION : GW_CONNECT_REFUSED);
        cr_assert_str_eq(answer.reason, words[i]);
        raw_close(&raw);
    }
    /* Who comes next is served. */
    raw_enter(&raw, &accepting);
    raw_close(&raw);
    expect_works(rig);
}

struct impostor {
    struct rdma_cm_id *listening;
    const uint8_t *answer;
    uint8_t length;
};

/* Listens where godwit should, and accepts with other words. */
static void *pose(void *argument)
{
    struct impostor *impostor = argument;
    struct rdma_conn_param connection = {.private_data = impostor->answer,
                                         .private_data_len = impostor->length,
                                         .rnr_retry_count = 7};
    struct ibv_qp_init_attr attr = {
        .cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC};
    struct rdma_cm_id *id;

    if (rdma_get_request(impostor->listening, &id) != 0)
        return NULL;
    if (rdma_create_qp(id, NULL, &attr) == 0)
        rdma_accept(id, &connection);
    rdma_destroy_qp(id);
    rdma_destroy_id(id);
    return NULL;
}

HOSTILE(other_listeners_are_found_out)
{
    static const uint8_t other_version[] = {'g', 'w', 77, 0}, nonsense[] = "hello";
    const struct {
        const uint8_t *answer;
        uint8_t length;
        const char *text;
    } cases[] = {{other_version, 4, "speaks wire version 77"},
                 {nonsense, 5, "something other than godwit"},
                 {NULL, 0, "something other than godwit"}};

    for (unsigned i = 0; i < 3; i++) {
        struct impostor impostor = {.answer = cases[i].answer, .length = cases[i].length};
        struct gw_connect_options options = {.channel = {.domain = rig->near_domain,
                                                         .poller = rig->near_poller,
                                                         .timeout_ms = 5000}};
        struct gw_address address;
        struct gw_channel *channel;
        pthread_t thread;

        rig_free_address(RIG_VERBS, &address);
        cr_assert_eq(rdma_create_id(NULL, &impostor.listening, NULL, RDMA_PS_TCP), 0);
        cr_assert_eq(rdma_bind_addr(impostor.listening, (struct sockaddr *)&address.storage), 0);
        cr_assert_eq(rdma_listen(impostor.listening, 1), 0);
        gw_address_set_port(&address, ntohs(rdma_get_src_port(impostor.listening)));
        options.peer = address;
        cr_assert_eq(pthread_create(&thread, NULL, pose, &impostor), 0);
        cr_assert_eq(gw_connect(rig->transport, &options, &channel), -EPROTO, "%s",
                     gw_error_message());
        cr_assert(strstr(gw_error_message(), cases[i].text), "%s", gw_error_message());
        pthread_join(thread, NULL);
        rdma_destroy_id(impostor.listening);
    }
    expect_works(rig);
}

HOSTILE(garbage_for_a_message_ends_its_channel_alone)
{
    struct raw raw;

    raw_join(rig, &raw);
    memset(raw.bytes, 0xff, 100);
    expect_death(rig, &raw, 100, "type 255");
}

HOSTILE(message_that_is_too_long_ends_its_channel_alone)
{
    struct raw raw;

    raw_join(rig, &raw);
    expect_death(rig, &raw, GW_SEND_HEADER_SIZE + GW_MESSAGE_MAX + 1, "more than 4096 bytes");
}

HOSTILE(credits_out_of_nothing_end_their_channel_alone)
{
    struct gw_send_header header = {.type = GW_SEND_CREDIT, .credits = 1};
    struct raw raw;

    raw_join(rig, &raw);
    gw_send_header_encode(&header, raw.bytes);
    expect_death(rig, &raw, GW_SEND_HEADER_SIZE, "more than were in use");
}

HOSTILE(messages_beyond_the_credits_end_their_channel_alone)
{
    struct gw_send_header header = {.type = GW_SEND_MESSAGE};
    struct raw raw;

    raw_join(rig, &raw);
    gw_send_header_encode(&header, raw.bytes);
    for (unsigned i = 0; i < GW_RECEIVES; i++)
        raw_send(&raw, GW_SEND_HEADER_SIZE);
    expect_death(rig, &raw, GW_SEND_HEADER_SIZE, "more messages than it had been allowed");
}

HOSTILE(device_error_is_laid_to_the_peer_that_caused_it)
{
    struct ibv_sge piece;
    struct ibv_send_wr *bad, write = {.sg_list = &piece,
                                      .num_sge = 1,
                                      .opcode = IBV_WR_RDMA_READ,
                                      .send_flags = IBV_SEND_SIGNALED,
                                      .wr.rdma = {.remote_addr = 0, .rkey = 0x1234}};
    struct gw_message message;
    struct raw raw;
    int error;

    raw_join(rig, &raw);
    piece = (struct ibv_sge){(uintptr_t)raw.bytes, 100, raw.mr->lkey};
    write.opcode = IBV_WR_RDMA_WRITE;
    cr_assert_eq(ibv_post_send(raw.id->qp, &write, &bad), 0);
    error = rig_receive(rig, raw.far, &message);
    cr_assert_eq(error, -EPROTO, "%d: %s", error, gw_error_message());
    expect_works(rig);
    raw_close(&raw);
}

/* Not a word to anybody: its queue pair is gone, and the channel has nothing on its way to it. */
static void expect_noticed(struct rig *rig, struct raw *raw)
{
    uint64_t start_ns = gw_clock_ns(), took_ns;
    struct gw_message message;
    int error;

    rdma_destroy_qp(raw->id);
    error = rig_receive(rig, raw->far, &message);
    took_ns = gw_clock_ns() - start_ns;
    cr_assert_eq(error, -ETIMEDOUT, "%d: %s", error, gw_error_message());
    cr_assert(strstr(gw_error_message(), "has not answered"), "%s", gw_error_message());
    cr_assert(took_ns > 5 * GW_NS_PER_S && took_ns < 15 * GW_NS_PER_S, "after %.1f s",
              (double)took_ns / 1e9);
    expect_works(rig);
    raw_close(raw);
}

HOSTILE(peer_that_vanishes_is_noticed_while_idle)
{
    struct raw raw;

    raw_join(rig, &raw);
    expect_noticed(rig, &raw);
}

/* It takes all that it allowed, and allows no more: one message waits for that. */
HOSTILE(peer_that_vanishes_is_noticed_while_it_owes_credits)
{
    static struct rig_send sends[GW_RECEIVES + 1];
    struct raw raw;

    raw_join(rig, &raw);
    for (unsigned i = 0; i <= GW_RECEIVES; i++) {
        cr_assert_eq(rdma_post_recv(raw.id, NULL, raw.bytes, sizeof(raw.bytes), raw.mr), 0);
        sends[i] = rig_send("word", 4);
        cr_assert_eq(rig_post_send(raw.far, &sends[i]), 0, "%s", gw_error_message());
    }
    cr_assert(rig_until(rig, &sends[GW_RECEIVES - 1].done_count, 1));
    cr_assert_eq(sends[GW_RECEIVES].done_count, 0);
    expect_noticed(rig, &raw);
    cr_assert_eq(sends[GW_RECEIVES].done_count, 1);
}

/* ---- memory ---- */

static void drop_ipc_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    cr_assert_eq(syscall(SYS_capget, &header, data), 0);
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    cr_assert_eq(syscall(SYS_capset, &header, data), 0);
}

/* Limits and capabilities change before the device is opened: later the kernel refuses to go on. */
Test(verbs_hostile, limit_on_pinned_memory_is_named_with_its_mend)
{
    const struct rlimit limit = {4 << 20, 4 << 20};
    struct gw_region *region;
    size_t size = 16 << 20;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct rig rig;

    if (!getenv("GODWIT_TEST_VERBS"))
        cr_skip_test("GODWIT_TEST_VERBS names no RDMA device: run it in the lab");
    drop_ipc_lock();
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    rig_open(&rig, RIG_VERBS);
    rig_join(&rig);
    cr_assert_eq(gw_reg(rig.far_domain, memory, size, GW_ACCESS_REMOTE_WRITE, 0, &region), -ENOMEM,
                 "%s", gw_error_message());
    cr_assert(strstr(gw_error_message(), "16.0 MiB") && strstr(gw_error_message(), "4.0 MiB") &&
                  strstr(gw_error_message(), "LimitMEMLOCK="),
              "%s", gw_error_message());
    munmap(memory, size);
    expect_works(&rig);
    rig_close(&rig);
}

/* A guest's RAM as the source has it: a shared file that may only be read. */
HOSTILE(memory_that_may_only_be_read_is_sent)
{
    enum { SIZE = 1 << 20, AT = 300 * 1024 };
    static uint8_t target[SIZE];
    char path[] = "/dev/shm/godwit-verbs-XXXXXX";
    struct gw_region *source, *region;
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    struct rig_write write;
    int fd = mkstemp(path);
    uint8_t *bytes = malloc(SIZE), *memory;

    rig_fill(bytes, SIZE, 11);
    cr_assert_eq(ftruncate(fd, SIZE), 0);
    cr_assert_eq(pwrite(fd, bytes, SIZE, 0), SIZE);
    close(fd);
    fd = open(path, O_RDONLY);
    memory = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert_neq(memory, MAP_FAILED);
    cr_assert_eq(gw_reg(rig->near_domain, memory + AT, SIZE - AT, GW_ACCESS_LOCAL_READ, 0, &source),
                 0, "%s", gw_error_message());
    cr_assert_eq(gw_reg(rig->far_domain, target, SIZE, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    write = rig_write(memory + AT + 5, SIZE - AT - 5, region, 7);
    write.write.region = source;
    cr_assert_eq(rig_post_write(rig->near, &write), 0);
    cr_assert_eq(rig_post_send(rig->near, &send), 0);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0, "%s", gw_error_message());
    cr_assert_eq(memcmp(target + 7, bytes + AT + 5, SIZE - AT - 5), 0);
    gw_unreg(source);
    gw_unreg(region);
    munmap(memory, SIZE);
    close(fd);
    unlink(path);
    free(bytes);
}

/* ---- devices ---- */

/* Sets the interface; false where there is none to play with. */
static bool set_interface(const char *state)
{
    const char *name = getenv("GODWIT_TEST_INTERFACE");
    char command[200];

    snprintf(command, sizeof(command), "ip link set %s %s", name ? name : "", state);
    return name && system(command) == 0;
}

HOSTILE(port_that_goes_down_ends_its_channels_by_name)
{
    struct gw_message message;
    int error;

    if (!set_interface("down")) {
        rig_close(rig);
        cr_skip_test("no GODWIT_TEST_INTERFACE to take down");
    }
    error = rig_receive(rig, rig->far, &message);
    cr_assert_eq(error, -ENETDOWN, "%d: %s", error, gw_error_message());
    cr_assert(strstr(gw_error_message(), "went down"), "%s", gw_error_message());
    error = rig_receive(rig, rig->near, &message);
    cr_assert_eq(error, -ENETDOWN, "%d: %s", error, gw_error_message());
    cr_assert(set_interface("up"));
    for (int i = 0; i < 50 && system("rdma link show | grep -q 'state ACTIVE'") != 0; i++)
        usleep(100000);
    gw_close(rig->near);
    gw_close(rig->far);
    rig->near = rig->far = NULL;
    rig_join(rig);
    expect_works(rig);
}

#define REMOVE "(rdma link delete rxe0; echo $? >/tmp/removed) &"

/* What that command says; -1 while it waits, since the kernel does until everything of the device was given back. */
static int removed(void)
{
    FILE *file = fopen("/tmp/removed", "r");
    int status = -1;

    if (!file)
        return -1;
    if (fscanf(file, "%d", &status) != 1)
        status = -1;
    fclose(file);
    return status;
}

static void expect_removed(void)
{
    for (int i = 0; i < 400 && removed() < 0; i++)
        usleep(100000);
    cr_assert_eq(removed(), 0, "the device is held");
}

/* Serves the listener until the device is removed (or the command fails), or until it is listened on. */
static void serve_until(struct gw_listener *listener, bool is_removal)
{
    struct gw_request *request;
    struct gw_address address;

    for (int i = 0; i < 400; i++) {
        if (is_removal ? removed() >= 0 : gw_listener_address(listener, &address) == 0)
            return;
        gw_next_request(listener, 100, &request);
    }
    cr_assert_fail("%s", is_removal ? "the device is held" : gw_error_message());
}

static bool refuses_to_listen;

/* librdmacm's own, but it may fail. */
int rdma_listen(struct rdma_cm_id *id, int backlog);
__attribute__((visibility("default"))) int rdma_listen(struct rdma_cm_id *id, int backlog)
{
    int (*begin)(struct rdma_cm_id *, int) =
        (int (*)(struct rdma_cm_id *, int))dlsym(RTLD_NEXT, "rdma_listen");

    if (!refuses_to_listen)
        return begin(id, backlog);
    errno = EADDRINUSE;
    return -1;
}

/* It was bound by then, which opens the device. */
Test(verbs_hostile, zw_listener_that_fails_holds_no_device, .timeout = 60)
{
    struct gw_transport *transport;
    struct gw_listener *listener;
    struct gw_address address;

    if (!getenv("GODWIT_TEST_INTERFACE"))
        cr_skip_test("no device to remove");
    unlink("/tmp/removed");
    rig_free_address(RIG_VERBS, &address);
    rig_transport_new(RIG_VERBS, &transport);
    refuses_to_listen = true;
    cr_assert_eq(gw_listen(transport, &address, &listener), -EADDRINUSE);
    cr_assert_eq(system(REMOVE), 0);
    expect_removed();
    gw_transport_free(transport);
    cr_assert_eq(system("rdma link add rxe0 type rxe netdev $GODWIT_TEST_INTERFACE"), 0);
}

/* The only device goes and comes back: an idle listener does not hold it, and has the next one; so has a transport
 * that was made in between. */
Test(verbs_hostile, zx_listener_lets_its_device_go_and_has_the_next, .timeout = 120)
{
    struct gw_transport *transport, *late;
    struct gw_listener *listener, *waiting;
    struct gw_address address;

    if (!getenv("GODWIT_TEST_INTERFACE"))
        cr_skip_test("no device to remove");
    unlink("/tmp/removed");
    rig_free_address(RIG_VERBS, &address);
    rig_transport_new(RIG_VERBS, &transport);
    cr_assert_eq(gw_listen(transport, &address, &listener), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listener_address(listener, &address), 0, "%s", gw_error_message());
    cr_assert_eq(system(REMOVE), 0);
    serve_until(listener, true);
    cr_assert_eq(removed(), 0);
    cr_assert_eq(gw_listener_address(listener, &address), -ENODEV);
    cr_assert_eq(gw_transport_new("verbs", NULL, &late), -ENODEV);
    cr_assert_eq(gw_transport_make(rig_maker("verbs"), NULL, &late), 0, "%s", gw_error_message());
    gw_address_set_port(&address, (uint16_t)(gw_address_port(&address) ^ 1));
    cr_assert_eq(gw_listen(late, &address, &waiting), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listener_address(waiting, &address), -ENODEV);
    cr_assert_eq(gw_transport_probe(late), -ENODEV);
    cr_assert_eq(system("rdma link add rxe0 type rxe netdev $GODWIT_TEST_INTERFACE"), 0);
    serve_until(listener, false);
    serve_until(waiting, false);
    cr_assert_eq(gw_transport_probe(late), 0);
    gw_unlisten(waiting);
    gw_unlisten(listener);
    gw_transport_free(late);
    gw_transport_free(transport);
}

static bool goes_when_asked;

/* libibverbs' own, but the device may go just before, and is then no use any more, as with hardware (soft-RoCE would
 * still answer). Its keeper is bound by then, and hears of it. */
int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *out);
__attribute__((visibility("default"))) int ibv_query_device(struct ibv_context *context,
                                                            struct ibv_device_attr *out)
{
    int (*query)(struct ibv_context *, struct ibv_device_attr *) =
        (int (*)(struct ibv_context *, struct ibv_device_attr *))dlsym(RTLD_NEXT,
                                                                       "ibv_query_device");

    if (!goes_when_asked)
        return query(context, out);
    goes_when_asked = false;
    cr_assert_eq(system(REMOVE " sleep 3"), 0);
    return EIO;
}

/* The back end is none the worse for it. */
Test(verbs_hostile, zy_device_that_goes_while_it_is_opened, .timeout = 80)
{
    struct gw_transport *transport;
    struct gw_address address;
    struct gw_domain *domain;

    if (!getenv("GODWIT_TEST_INTERFACE"))
        cr_skip_test("no device to remove");
    unlink("/tmp/removed");
    rig_free_address(RIG_VERBS, &address);
    /* librdmacm has it open from the first time on, and does not ask again. */
    rig_transport_new(RIG_VERBS, &transport);
    cr_assert_eq(gw_domain_open(transport, &address, &domain), 0, "%s", gw_error_message());
    gw_domain_close(domain);
    gw_transport_free(transport);
    rig_transport_new(RIG_VERBS, &transport);
    goes_when_asked = true;
    cr_assert_lt(gw_domain_open(transport, &address, &domain), 0);
    expect_removed();
    cr_assert_eq(system("rdma link add rxe0 type rxe netdev $GODWIT_TEST_INTERFACE"), 0);
    cr_assert_eq(gw_domain_open(transport, &address, &domain), 0, "%s", gw_error_message());
    gw_domain_close(domain);
    gw_transport_free(transport);
}

/* The last test: the device does not come back. */
HOSTILE(zz_device_that_is_removed_ends_its_channels)
{
    static struct rig_write writes[64];
    uint8_t *source = rig_source_new(rig, 1 << 20, 3);
    struct gw_region *region;
    struct gw_message message;
    uint8_t *memory = calloc(1, 1 << 20);
    int error;

    if (!getenv("GODWIT_TEST_INTERFACE")) {
        rig_close(rig);
        cr_skip_test("no device to remove");
    }
    cr_assert_eq(gw_reg(rig->far_domain, memory, 1 << 20, GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    for (int i = 0; i < 64; i++) {
        writes[i] = rig_write(source, 1 << 20, region, 0);
        cr_assert_eq(rig_post_write(rig->near, &writes[i]), 0);
    }
    cr_assert_eq(system(REMOVE " sleep 0.2"), 0);
    error = rig_receive(rig, rig->near, &message);
    cr_assert(error == -ENODEV || error == -ENETDOWN, "%d: %s", error, gw_error_message());
    error = rig_receive(rig, rig->far, &message);
    cr_assert(error == -ENODEV || error == -ENETDOWN, "%d: %s", error, gw_error_message());
    for (int i = 0; i < 64; i++) {
        cr_assert(rig_until(rig, &writes[i].done_count, 1));
        cr_assert(writes[i].status == 0 || writes[i].status == -ENODEV ||
                  writes[i].status == -ENETDOWN);
    }
    gw_unreg(region);
    rig_source_free(rig, source);
    free(memory);
}
