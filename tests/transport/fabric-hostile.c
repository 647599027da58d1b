/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that break the rules of the fabric back end: programs on libfabric itself, or on plain sockets where
 * the provider is tcp. The other end is godwit's, in the same process. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <stdio.h>
#include <stdlib.h>
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

/* A client on libfabric. */
struct raw {
    struct fi_info *info;
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fid_eq *eq;
    struct fid_cq *cq;
    struct fid_ep *ep;
    uint8_t buffer[8192], received[64][8192];
};

static void raw_open(struct raw *raw, const struct gw_address *address)
{
    struct fi_eq_attr events = {.wait_obj = FI_WAIT_FD};
    struct fi_cq_attr completions = {.size = 256, .format = FI_CQ_FORMAT_MSG};
    struct fi_info *hints = fi_allocinfo();
    char port[16];

    memset(raw, 0, sizeof(*raw));
    snprintf(port, sizeof(port), "%u", gw_address_port(address) + 1u);
    hints->caps = FI_MSG | FI_RMA;
    hints->ep_attr->type = FI_EP_MSG;
    hints->fabric_attr->prov_name = strdup("tcp");
    cr_assert_eq(fi_getinfo(FI_VERSION(1, 17), "127.0.0.1", port, 0, hints, &raw->info), 0);
    fi_freeinfo(hints);
    cr_assert_eq(fi_fabric(raw->info->fabric_attr, &raw->fabric, NULL), 0);
    cr_assert_eq(fi_domain(raw->fabric, raw->info, &raw->domain, NULL), 0);
    cr_assert_eq(fi_eq_open(raw->fabric, &events, &raw->eq, NULL), 0);
    cr_assert_eq(fi_cq_open(raw->domain, &completions, &raw->cq, NULL), 0);
    cr_assert_eq(fi_endpoint(raw->domain, raw->info, &raw->ep, NULL), 0);
    cr_assert_eq(fi_ep_bind(raw->ep, &raw->eq->fid, 0), 0);
    cr_assert_eq(fi_ep_bind(raw->ep, &raw->cq->fid, FI_TRANSMIT | FI_RECV), 0);
    cr_assert_eq(fi_enable(raw->ep), 0);
    for (int i = 0; i < 64; i++)
        cr_assert_eq(fi_recv(raw->ep, raw->received[i], sizeof(raw->received[i]), NULL,
                             FI_ADDR_UNSPEC, NULL),
                     0);
}

static void raw_close(struct raw *raw)
{
    fi_close(&raw->ep->fid);
    fi_close(&raw->cq->fid);
    fi_close(&raw->eq->fid);
    fi_close(&raw->domain->fid);
    fi_close(&raw->fabric->fid);
    fi_freeinfo(raw->info);
}

/* True when the other end accepted; else answer holds what came with the refusal. */
static bool raw_connect(struct raw *raw, const void *data, size_t size,
                        struct gw_connect_answer *answer)
{
    char room[sizeof(struct fi_eq_cm_entry) + 256];
    uint8_t refusal[256];
    struct fi_eq_err_entry error = {.err_data = refusal, .err_data_size = sizeof(refusal)};
    uint32_t event = 0;
    ssize_t got;

    cr_assert_eq(fi_connect(raw->ep, raw->info->dest_addr, data, size), 0);
    got = fi_eq_sread(raw->eq, &event, room, sizeof(room), RIG_WAIT_MS, 0);
    if (got == -FI_EAVAIL) {
        memset(answer, 0, sizeof(*answer));
        fi_eq_readerr(raw->eq, &error, 0);
        if (error.err_data_size)
            gw_connect_answer_decode(&gw_fabric_form, error.err_data, (uint32_t)error.err_data_size,
                                     answer);
        return false;
    }
    return event == FI_CONNECTED;
}

static void raw_send(struct raw *raw, size_t size)
{
    ssize_t answer;

    do {
        struct fi_cq_msg_entry entry;

        answer = fi_send(raw->ep, raw->buffer, size, NULL, FI_ADDR_UNSPEC, NULL);
        fi_cq_read(raw->cq, &entry, 1);
    } while (answer == -FI_EAGAIN);
    cr_assert_eq(answer, 0);
}

/* Sends a message of the back end's: header and body. */
static void raw_send_typed(struct raw *raw, struct gw_send_header header, const uint64_t *numbers)
{
    gw_send_header_encode(&header, raw->buffer);
    for (uint32_t i = 0; numbers && i < header.length / 8; i++)
        gw_put_le64(raw->buffer + GW_SEND_HEADER_SIZE + i * 8, numbers[i]);
    raw_send(raw, GW_SEND_HEADER_SIZE + header.length);
}

struct accepting {
    struct rig *rig;
    int error;
};

static void *accept_raw(void *argument)
{
    struct accepting *accepting = argument;

    accepting->error = rig_accept(accepting->rig, 1, &accepting->rig->far);
    return NULL;
}

static void join_raw(struct rig *rig, struct raw *raw)
{
    struct accepting accepting = {.rig = rig};
    uint8_t request[FABRIC_CONNECT_DATA_MAX];
    struct gw_connect_answer answer;
    pthread_t thread;

    rig_open(rig, RIG_FABRIC);
    raw_open(raw, &rig->address);
    cr_assert_eq(pthread_create(&thread, NULL, accept_raw, &accepting), 0);
    cr_assert(raw_connect(raw, request, gw_connect_request_encode(&gw_fabric_form, "", 0, request),
                          &answer));
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(accepting.error, 0);
}

/* The far end ends with this error and a text of it. */
static void expect_end(struct rig *rig, const char *text)
{
    struct gw_message message;
    int error;

    while ((error = rig_receive(rig, rig->far, &message)) == 0)
        ;
    cr_assert_eq(error, -EPROTO, "%d (%s)", error, gw_error_message());
    cr_assert(strstr(gw_error_message(), text), "%s", gw_error_message());
}

#define HOSTILE(name)                                                                              \
    static void body_##name(struct rig *rig, struct raw *raw);                                     \
    Test(fabric_hostile, name)                                                                     \
    {                                                                                              \
        static struct raw raw;                                                                     \
        struct rig rig;                                                                            \
        join_raw(&rig, &raw);                                                                      \
        body_##name(&rig, &raw);                                                                   \
        raw_close(&raw);                                                                           \
        rig_close(&rig);                                                                           \
    }                                                                                              \
    static void body_##name(struct rig *rig, struct raw *raw)

HOSTILE(message_by_the_rules_is_taken) /* or the rest would prove nothing */
{
    struct gw_message message;

    raw_send_typed(raw, (struct gw_send_header){GW_SEND_MESSAGE, 0, 8, 0}, (uint64_t[]){7});
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0);
    cr_assert_eq(message.length, 8);
    cr_assert_eq(gw_get_le64(message.data), 7);
}

HOSTILE(message_without_a_header)
{
    raw_send(raw, 3);
    expect_end(rig, "without a header");
}

HOSTILE(message_of_a_type_that_is_none)
{
    raw->buffer[0] = 9;
    raw_send(raw, GW_SEND_HEADER_SIZE);
    expect_end(rig, "type 9");
}

HOSTILE(message_that_is_too_long)
{
    gw_send_header_encode(&(struct gw_send_header){GW_SEND_MESSAGE, 0, GW_MESSAGE_MAX, 0},
                          raw->buffer);
    raw_send(raw, GW_SEND_HEADER_SIZE + GW_MESSAGE_MAX + 1);
    expect_end(rig, "more than");
}

HOSTILE(more_messages_than_allowed)
{
    for (unsigned i = 0; i <= GW_RECEIVES; i++)
        raw_send_typed(raw, (struct gw_send_header){GW_SEND_MESSAGE, 0, 0, 0}, NULL);
    expect_end(rig, "more messages than it had been allowed");
}

HOSTILE(credits_that_were_never_used)
{
    raw_send_typed(raw, (struct gw_send_header){GW_SEND_CREDIT, 1, 0, 0}, NULL);
    expect_end(rig, "more than were in use");
}

HOSTILE(written_less_than_before)
{
    raw_send_typed(raw, (struct gw_send_header){GW_SEND_MESSAGE, 0, 0, 100}, NULL);
    raw_send_typed(raw, (struct gw_send_header){GW_SEND_MESSAGE, 0, 0, 99}, NULL);
    expect_end(rig, "less than before");
}

HOSTILE(ask_for_a_region_that_is_none)
{
    raw_send_typed(raw, (struct gw_send_header){GW_SEND_ASK, 0, 8, 0}, (uint64_t[]){12345});
    expect_end(rig, "no region has its key");
}

HOSTILE(tell_that_nobody_asked_for)
{
    raw_send_typed(raw, (struct gw_send_header){GW_SEND_TELL, 0, 24, 0}, (uint64_t[]){1, 2, 3});
    expect_end(rig, "not asked for");
}

/* ---- at the listener ---- */

static void expect_refusal(const uint8_t *data, size_t size, enum gw_connect_verdict verdict)
{
    static struct raw raw;
    uint8_t good[FABRIC_CONNECT_DATA_MAX];
    struct accepting accepting;
    struct gw_connect_answer answer;
    struct rig rig;
    pthread_t thread;

    rig_open(&rig, RIG_FABRIC);
    accepting.rig = &rig;
    raw_open(&raw, &rig.address);
    cr_assert_eq(pthread_create(&thread, NULL, accept_raw, &accepting), 0);
    cr_assert(!raw_connect(&raw, data, size, &answer));
    cr_assert_eq(answer.verdict, verdict);
    raw_close(&raw);
    /* Who comes next is served. */
    rig.near = NULL;
    raw_open(&raw, &rig.address);
    cr_assert(
        raw_connect(&raw, good, gw_connect_request_encode(&gw_fabric_form, "", 0, good), &answer));
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_eq(accepting.error, 0);
    raw_close(&raw);
    rig_close(&rig);
}

Test(fabric_hostile, requests_that_are_not_godwits_are_refused)
{
    expect_refusal((const uint8_t *)"hello", 5, GW_CONNECT_REFUSED);
}

Test(fabric_hostile, requests_without_data_are_refused)
{
    expect_refusal((const uint8_t *)"", 0, GW_CONNECT_REFUSED);
}

Test(fabric_hostile, requests_of_another_version_are_told)
{
    expect_refusal((const uint8_t *)"g\77\0", 3, GW_CONNECT_OTHER_VERSION);
}

Test(fabric_hostile, hellos_that_end_early_are_refused)
{
    uint8_t request[FABRIC_CONNECT_DATA_MAX];
    uint32_t size = gw_connect_request_encode(&gw_fabric_form, "a hello", 7, request);

    expect_refusal(request, size - 1, GW_CONNECT_REFUSED);
}

static int stranger(const struct gw_address *address, const void *bytes, size_t size)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)(gw_address_port(address) + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    cr_assert_eq(write(fd, bytes, size), (ssize_t)size);
    return fd;
}

Test(fabric_hostile, strangers_at_the_port_do_not_delay_others)
{
    uint8_t noise[600];
    int fds[12];
    struct rig rig;

    rig_open(&rig, RIG_FABRIC);
    for (unsigned i = 0; i < 12; i++) {
        rig_fill(noise, sizeof(noise), i);
        fds[i] = stranger(&rig.address, noise, i * 50);
    }
    rig_join(&rig);
    for (unsigned i = 0; i < 12; i++)
        close(fds[i]);
    rig_close(&rig);
}
