/* SPDX-License-Identifier: Apache-2.0 */
/* What a device gets to do: how many doorbells, which requests are signalled, what is inline, how many
 * completions come back. The device's own two functions for it are counted: librdmacm has one context of a device
 * in a process, which is the back end's and this test's.
 * Runs where GODWIT_TEST_VERBS names an RDMA device (rig.h). */
#include <criterion/criterion.h>
#include <errno.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>

#include "common/error.h"
#include "tests/transport/rig.h"

/* Counted while requests are posted and completions polled. */
static struct {
    struct ibv_context_ops plain;
    unsigned doorbells, writes, sends;
    unsigned signalled, inline_sends, longest_chain;
    unsigned completions; /* of what was sent */
    bool has_fence;
} seen;

static int count_post_send(struct ibv_qp *qp, struct ibv_send_wr *request, struct ibv_send_wr **bad)
{
    unsigned count = 0;

    for (const struct ibv_send_wr *one = request; one; one = one->next, count++) {
        seen.writes += one->opcode == IBV_WR_RDMA_WRITE;
        seen.sends += one->opcode == IBV_WR_SEND;
        seen.signalled += (one->send_flags & IBV_SEND_SIGNALED) != 0;
        seen.inline_sends += (one->send_flags & IBV_SEND_INLINE) != 0;
        seen.has_fence |= (one->send_flags & IBV_SEND_FENCE) != 0;
    }
    seen.doorbells++;
    if (count > seen.longest_chain)
        seen.longest_chain = count;
    return seen.plain.post_send(qp, request, bad);
}

static int count_poll_cq(struct ibv_cq *cq, int max, struct ibv_wc *completions)
{
    int count = seen.plain.poll_cq(cq, max, completions);

    for (int i = 0; i < count; i++)
        seen.completions +=
            completions[i].opcode == IBV_WC_RDMA_WRITE || completions[i].opcode == IBV_WC_SEND;
    return count;
}

/* From now on; who: an identifier on the device, for the test's whole life. */
static struct rdma_cm_id *watch(void)
{
    struct rdma_cm_id *who;
    struct gw_address address;

    rig_free_address(RIG_VERBS, &address);
    cr_assert_eq(rdma_create_id(NULL, &who, NULL, RDMA_PS_TCP), 0);
    cr_assert_eq(rdma_bind_addr(who, (struct sockaddr *)&address.storage), 0);
    cr_assert(who->verbs);
    seen.plain = who->verbs->ops;
    who->verbs->ops.post_send = count_post_send;
    who->verbs->ops.poll_cq = count_poll_cq;
    return who;
}

/* A test with an open rig whose near and far are joined. */
#define REQUESTS(name)                                                                             \
    static void body_##name(struct rig *rig);                                                      \
    Test(verbs_requests, name)                                                                     \
    {                                                                                              \
        struct rdma_cm_id *who;                                                                    \
        struct rig rig;                                                                            \
        if (!getenv("GODWIT_TEST_VERBS"))                                                          \
            cr_skip_test("GODWIT_TEST_VERBS names no RDMA device: run it in the lab");             \
        rig_open(&rig, RIG_VERBS);                                                                 \
        rig_join(&rig);                                                                            \
        who = watch();                                                                             \
        body_##name(&rig);                                                                         \
        who->verbs->ops = seen.plain;                                                              \
        rdma_destroy_id(who);                                                                      \
        rig_close(&rig);                                                                           \
    }                                                                                              \
    static void body_##name(struct rig *rig)

enum { COUNT = 1024, SIZE = 4096 };

/* Posts COUNT writes one behind the other and one message, and waits until it is there and all is done. */
static void write_all(struct rig *rig)
{
    static struct rig_write writes[COUNT];
    static uint8_t target[COUNT * SIZE];
    uint8_t *source = rig_source_new(rig, sizeof(target), 5);
    struct rig_send send = rig_send("end", 3);
    struct gw_message message;
    struct gw_region *region;

    cr_assert_eq(
        gw_reg(rig->far_domain, target, sizeof(target), GW_ACCESS_REMOTE_WRITE, 0, &region), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        writes[i] = rig_write(source + (size_t)i * SIZE, SIZE, region, (uint64_t)i * SIZE);
        writes[i].write.flags = GW_POST_MORE;
        while (rig_post_write(rig->near, &writes[i]) == -EAGAIN)
            rig_turn(rig);
    }
    while (rig_post_send(rig->near, &send) == -EAGAIN)
        rig_turn(rig);
    cr_assert_eq(rig_receive(rig, rig->far, &message), 0, "%s", gw_error_message());
    cr_assert(rig_until(rig, &send.done_count, 1));
    for (unsigned i = 0; i < COUNT; i++)
        cr_assert(writes[i].done_count == 1 && writes[i].status == 0);
    cr_assert_arr_eq(target, source, sizeof(target));
    gw_unreg(region);
    rig_source_free(rig, source);
}

REQUESTS(writes_go_out_in_chains_and_few_are_signalled)
{
    write_all(rig);
    /* Credits and keepalives are not of this test's making. */
    cr_assert(seen.writes >= COUNT && seen.writes <= COUNT + 2, "%u writes", seen.writes);
    cr_assert_leq(seen.doorbells, COUNT / 8, "%u doorbells for %u requests", seen.doorbells, COUNT);
    cr_assert_geq(seen.longest_chain, 32);
    cr_assert_leq(seen.signalled, COUNT / 8, "%u of %u requests are signalled", seen.signalled,
                  COUNT);
    cr_assert_gt(seen.signalled, 0);
    /* The device's own count: an unsignalled request has no completion. */
    cr_assert_eq(seen.completions, seen.signalled);
    cr_assert(!seen.has_fence);
}

REQUESTS(short_messages_are_inline_and_long_ones_are_not)
{
    static const char text[GW_MESSAGE_MAX];
    unsigned lengths[] = {0, 1, 64, GW_MESSAGE_MAX};

    for (unsigned i = 0; i < 4; i++) {
        struct rig_send send = rig_send(text, lengths[i]);
        struct gw_message message;

        cr_assert_eq(rig_post_send(rig->near, &send), 0, "%s", gw_error_message());
        cr_assert_eq(rig_receive(rig, rig->far, &message), 0, "%s", gw_error_message());
        cr_assert(rig_until(rig, &send.done_count, 1));
        cr_assert_eq(message.length, lengths[i]);
    }
    cr_assert_geq(seen.sends, 4);
    cr_assert_eq(seen.inline_sends, seen.sends - 1, "%u of %u messages are inline",
                 seen.inline_sends, seen.sends);
}
