/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of transport/rdma: what is said when connecting, as verbs and as fabric have it, headers
 * of messages, the account of credits, and completion vectors. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/error.h"
#include "transport/fabric/wire.h"
#include "transport/rdma/credit.h"
#include "transport/rdma/header.h"
#include "transport/rdma/vector.h"
#include "transport/verbs/wire.h"

/* ---- requests and answers ---- */

static const struct gw_connect_form *const forms[] = {&gw_verbs_form, &gw_fabric_form, NULL};

/* Where the version lies; what follows it is the length or the verdict. */
static size_t version_at(const struct gw_connect_form *form)
{
    return strlen(form->magic);
}

Test(rdma_connect, hello_of_every_length_is_carried)
{
    uint8_t hello[GW_HELLO_MAX], bytes[200];
    struct gw_connect_request request;

    memset(hello, 7, sizeof(hello));
    for (const struct gw_connect_form *const *next = forms; *next; next++) {
        const struct gw_connect_form *form = *next;
        for (uint32_t length = 0; length <= GW_HELLO_MAX; length++) {
            uint32_t size;

            memset(bytes, 0, sizeof(bytes));
            size = gw_connect_request_encode(form, hello, length, bytes);
            cr_assert_eq(size, version_at(form) + 2 + length);
            cr_assert_leq(size, form->request_max);
            /* Devices fill up with zeroes, or do not. */
            for (; size <= sizeof(bytes); size += 13) {
                cr_assert_eq(gw_connect_request_decode(form, bytes, size, &request), 0);
                cr_assert_eq(request.version, GW_WIRE_VERSION);
                cr_assert_eq(request.hello_length, length);
                cr_assert_eq(memcmp(request.hello, hello, length), 0);
            }
        }
    }
}

Test(rdma_connect, strangers_requests_are_refused)
{
    uint8_t bytes[VERBS_REQUEST_SIZE];
    struct gw_connect_request request;

    for (const struct gw_connect_form *const *next = forms; *next; next++) {
        const struct gw_connect_form *form = *next;
        size_t at_version = version_at(form);
        uint32_t size = gw_connect_request_encode(form, "hello", 5, bytes);

        for (uint32_t less = 0; less < size; less++)
            cr_assert_eq(gw_connect_request_decode(form, bytes, less, &request), -EPROTO,
                         "%u bytes", less);
        size = form->request_max;
        bytes[at_version + 1] = GW_HELLO_MAX + 1;
        cr_assert_eq(gw_connect_request_decode(form, bytes, size, &request), -EPROTO);
        bytes[at_version + 1] = 5;
        cr_assert_eq(gw_connect_request_decode(form, bytes, size, &request), 0);
        bytes[0] = 'G';
        cr_assert_eq(gw_connect_request_decode(form, bytes, size, &request), -EPROTO);
    }
}

Test(rdma_connect, another_version_is_told_whatever_follows)
{
    uint8_t bytes[VERBS_ANSWER_MAX];
    struct gw_connect_request request;
    struct gw_connect_answer answer;

    for (const struct gw_connect_form *const *next = forms; *next; next++) {
        const struct gw_connect_form *form = *next;
        size_t at_version = version_at(form);

        gw_connect_request_encode(form, "hello", 5, bytes);
        bytes[at_version] = 9;
        bytes[at_version + 1] = 255;
        cr_assert_eq(gw_connect_request_decode(form, bytes, form->request_max, &request), 0);
        cr_assert_eq(request.version, 9);
        cr_assert_eq(request.hello_length, 0);
        gw_connect_answer_encode(form, GW_CONNECT_OTHER_VERSION, "no", bytes);
        bytes[at_version] = 9;
        cr_assert_eq(gw_connect_answer_decode(form, bytes, form->answer_max, &answer), 0);
        cr_assert_eq(answer.version, 9);
    }
}

Test(rdma_connect, reason_is_cut_and_made_printable)
{
    uint8_t bytes[VERBS_ANSWER_MAX + 50];
    struct gw_connect_answer answer;
    char reason[1000];

    memset(reason, 'r', sizeof(reason));
    reason[999] = '\0';
    for (const struct gw_connect_form *const *next = forms; *next; next++) {
        const struct gw_connect_form *form = *next;
        uint32_t prefix = (uint32_t)version_at(form) + 2, length;

        memset(bytes, 'x', sizeof(bytes));
        length = gw_connect_answer_encode(form, GW_CONNECT_REFUSED, reason, bytes);
        cr_assert_eq(length, form->answer_max);
        cr_assert_eq(bytes[length], 'x');
        cr_assert_eq(gw_connect_answer_decode(form, bytes, sizeof(bytes), &answer), 0);
        cr_assert_eq(strlen(answer.reason), form->answer_max - prefix);
        length = gw_connect_answer_encode(form, GW_CONNECT_REFUSED, "a\033[2Jb", bytes);
        cr_assert_eq(gw_connect_answer_decode(form, bytes, length, &answer), 0);
        cr_assert_str_eq(answer.reason, "a?[2Jb");
        bytes[prefix - 1] = 3;
        cr_assert_eq(gw_connect_answer_decode(form, bytes, length, &answer), -EPROTO);
        bytes[prefix - 1] = GW_CONNECT_REFUSED;
        cr_assert_eq(gw_connect_answer_decode(form, bytes, prefix - 1, &answer), -EPROTO);
    }
}

/* ---- headers ---- */

Test(rdma_header, header_is_carried)
{
    struct gw_send_header in = {GW_SEND_MESSAGE, 31, GW_MESSAGE_MAX, 1ull << 60}, out;
    uint8_t bytes[GW_SEND_HEADER_SIZE];

    gw_send_header_encode(&in, bytes);
    cr_assert_eq(gw_send_header_decode(bytes, GW_SEND_HEADER_SIZE + GW_MESSAGE_MAX, &out), 0);
    cr_assert_eq(out.type, in.type);
    cr_assert_eq(out.credits, in.credits);
    cr_assert_eq(out.length, in.length);
    cr_assert_eq(out.written, in.written);
}

Test(rdma_header, headers_that_mean_nothing_are_refused)
{
    struct gw_send_header good = {GW_SEND_MESSAGE, 0, 10, 0}, out;
    uint8_t bytes[GW_SEND_HEADER_SIZE];

    gw_send_header_encode(&good, bytes);
    cr_assert_eq(gw_send_header_decode(bytes, 26, &out), 0);
    for (uint32_t length = 0; length < 60; length++)
        cr_assert(length == 26 || gw_send_header_decode(bytes, length, &out) == -EPROTO);
    bytes[1] = 1;
    cr_assert_eq(gw_send_header_decode(bytes, 26, &out), -EPROTO);
    bytes[1] = 0;
    bytes[0] = GW_SEND_CREDIT; /* with a body */
    cr_assert_eq(gw_send_header_decode(bytes, 26, &out), -EPROTO);
    bytes[0] = 3;
    cr_assert_eq(gw_send_header_decode(bytes, 26, &out), -EPROTO);
    bytes[0] = GW_SEND_MESSAGE;
    gw_put_le32(bytes + 4, GW_MESSAGE_MAX + 1);
    cr_assert_eq(gw_send_header_decode(bytes, GW_MESSAGE_MAX + 17, &out), -EPROTO);
}

/* ---- credits ---- */

/* One end of a simulated channel. What is on its way is a queue towards it; each entry has taken one
 * of its receives, as a device would do on arrival, and the receives must never run out. */
struct end {
    struct gw_credit credit;
    struct {
        unsigned credits;
        bool is_message;
    } queue[64];
    unsigned first, count;  /* of queue: sent to it, not yet looked at */
    unsigned arrived, held; /* looked at and not taken by the owner; taken and not posted again */
    unsigned receives, wanted, got;
};

static void deliver(struct end *to, unsigned credits, bool is_message)
{
    cr_assert_gt(to->receives, 0, "a message meets no receive");
    to->receives--;
    to->queue[(to->first + to->count) % 64].credits = credits;
    to->queue[(to->first + to->count) % 64].is_message = is_message;
    to->count++;
}

static void act(struct end *end, struct end *other, unsigned what)
{
    if (what == 0 && end->wanted && end->credit.may_send) {
        end->credit.may_send--;
        end->wanted--;
        deliver(other, gw_credit_give(&end->credit), true);
    } else if (what == 1 && end->count) {
        bool is_message = end->queue[end->first].is_message;

        cr_assert_eq(gw_credit_take(&end->credit, end->queue[end->first].credits, is_message), 0,
                     "%s", gw_error_message());
        end->first = (end->first + 1) % 64;
        end->count--;
        end->arrived += is_message;
        end->receives += !is_message;
    } else if (what == 2 && end->arrived) {
        end->arrived--;
        end->got++;
        end->held++;
    } else if (what == 3 && end->held) {
        end->held--;
        end->receives++;
        gw_credit_freed(&end->credit);
    } else if (what == 4 && gw_credit_is_due(&end->credit)) {
        deliver(other, gw_credit_give(&end->credit), false);
    }
}

Test(rdma_credit, receives_never_run_out_and_all_arrives)
{
    for (unsigned seed = 1; seed <= 200; seed++) {
        struct end ends[2] = {{.receives = GW_RECEIVES + GW_SPARE_RECEIVES, .wanted = 500},
                              {.receives = GW_RECEIVES + GW_SPARE_RECEIVES, .wanted = 500}};
        unsigned state = seed, steps = 0;

        if (seed % 3 == 0)
            ends[1].wanted = 0; /* nothing to carry credits on */
        gw_credit_init(&ends[0].credit);
        gw_credit_init(&ends[1].credit);
        while (ends[0].got < (seed % 3 ? 500u : 0u) || ends[1].got < 500) {
            unsigned who, what;

            state = state * 1103515245u + 12345;
            who = state >> 16 & 1;
            /* Each seed has its own favourite: greedy senders, lazy readers, late reposts. */
            what = (state >> 20) % 8 < seed % 8 ? seed % 5 : (state >> 24) % 5;
            act(&ends[who], &ends[1 - who], what);
            cr_assert_lt(++steps, 10000000, "seed %u: nothing moves any more", seed);
        }
    }
}

Test(rdma_credit, accounts_that_cannot_be_right_are_refused)
{
    struct gw_credit credit;

    gw_credit_init(&credit);
    cr_assert_eq(gw_credit_take(&credit, 1, true), -EPROTO);
    for (unsigned i = 0; i < GW_RECEIVES; i++)
        cr_assert_eq(gw_credit_take(&credit, 0, true), 0);
    cr_assert_eq(gw_credit_take(&credit, 0, true), -EPROTO);
    credit.may_send = 0;
    cr_assert_eq(gw_credit_take(&credit, GW_RECEIVES + 1, false), -EPROTO);
    cr_assert_eq(gw_credit_take(&credit, GW_RECEIVES, false), 0);
}

/* ---- completion vectors ---- */

Test(rdma_vector, queues_have_a_vector_each_while_there_are_any)
{
    struct gw_vectors vectors = {0};

    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 8; i++)
            cr_assert_eq(gw_vectors_take(&vectors, 8), i);
}

Test(rdma_vector, a_vector_that_was_given_back_is_the_next)
{
    struct gw_vectors vectors = {0};

    for (int i = 0; i < 6; i++)
        gw_vectors_take(&vectors, 8);
    gw_vectors_give_back(&vectors, 4);
    gw_vectors_give_back(&vectors, 1);
    cr_assert_eq(gw_vectors_take(&vectors, 8), 1);
    cr_assert_eq(gw_vectors_take(&vectors, 8), 4);
    cr_assert_eq(gw_vectors_take(&vectors, 8), 6);
}

Test(rdma_vector, a_device_with_one_vector_or_none_takes_0)
{
    struct gw_vectors vectors = {0};

    for (int count = -1; count <= 1; count++)
        cr_assert_eq(gw_vectors_take(&vectors, count), 0);
}

Test(rdma_vector, vectors_beyond_those_that_are_counted_are_not_used)
{
    struct gw_vectors vectors = {0};

    for (int i = 0; i < GW_VECTORS_MAX; i++)
        cr_assert_eq(gw_vectors_take(&vectors, GW_VECTORS_MAX + 1), i);
    cr_assert_eq(gw_vectors_take(&vectors, GW_VECTORS_MAX + 1), 0);
}
