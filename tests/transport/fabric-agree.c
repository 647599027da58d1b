/* SPDX-License-Identifier: Apache-2.0 */
/* The question for the peer's provider, over the tcp back end as it is: what comes of it hangs on the words in
 * which tcp tells a refusal. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "common/error.h"
#include "transport/fabric/fabric.h"

#define PATIENCE_MS 90000

static struct gw_transport *tcp;
static struct gw_listener *listener;
static struct gw_address asked; /* one below where listener is */

/* One host, whose listener is a signpost. */
static void begin(void)
{
    struct gw_address address;

    cr_assert_eq(gw_transport_new("tcp", NULL, &tcp), 0, "%s", gw_error_message());
    cr_assert_eq(gw_address_parse("127.0.0.1", 13560, &address), 0);
    gw_address_set_port(&address, 0);
    cr_assert_eq(gw_listen(tcp, &address, &listener), 0, "%s", gw_error_message());
    cr_assert_eq(gw_listener_address(listener, &asked), 0);
    gw_address_set_port(&asked, (uint16_t)(gw_address_port(&asked) - 1));
}

static void end(void)
{
    gw_unlisten(listener);
    gw_transport_free(tcp);
}

/* The other side: with the provider of that name, or, for NULL, a godwit that does not know the question. */
static void *answer(void *provider)
{
    struct fabric_transport transport = {.signposts = tcp};
    struct gw_request *request;

    if (gw_next_request(listener, PATIENCE_MS, &request) != 0)
        return "nobody asked";
    if (!gw_fabric_is_question(request)) {
        gw_reject(request, "no question");
        return "what was asked is no question";
    }
    if (provider) {
        strcpy(transport.provider, provider);
        gw_fabric_answer(&transport, request);
    } else {
        gw_reject(request, "the hello has another length");
    }
    return NULL;
}

static int ask(const char *ours, const char *theirs)
{
    struct fabric_transport transport = {.signposts = tcp};
    struct gw_connect_options options = {.peer = asked};
    pthread_t thread;
    void *fault;
    int error;

    strcpy(transport.provider, ours);
    cr_assert_eq(pthread_create(&thread, NULL, answer, (void *)theirs), 0);
    error = gw_fabric_agree(&transport, &options, PATIENCE_MS);
    pthread_join(thread, &fault);
    cr_assert_null(fault, "%s", (char *)fault);
    return error;
}

Test(fabric_agree, the_same_provider_is_no_fault, .init = begin, .fini = end)
{
    cr_assert_eq(ask("tcp;ofi_rxm", "tcp;ofi_rxm"), 0, "%s", gw_error_message());
}

Test(fabric_agree, of_two_that_differ_both_are_named, .init = begin, .fini = end)
{
    cr_assert_eq(ask("tcp", "tcp;ofi_rxm"), -EXDEV);
    cr_assert(strstr(gw_error_message(), "127.0.0.1:"), "%s", gw_error_message());
    cr_assert(strstr(gw_error_message(), " is tcp;ofi_rxm, this host's is tcp: "), "%s",
              gw_error_message());
}

/* The longest name that there can be comes whole. */
Test(fabric_agree, a_long_name_is_not_cut, .init = begin, .fini = end)
{
    static const char name[] = "a_provider_whose_name_is_as_long";
    char longest[FABRIC_PROVIDER_MAX] = "", other[FABRIC_PROVIDER_MAX] = "";

    memcpy(longest, name, sizeof(longest) - 1);
    memcpy(other, longest, sizeof(other) - 1);
    other[sizeof(other) - 2] = '!';
    cr_assert_eq(ask(longest, longest), 0, "%s", gw_error_message());
    cr_assert_eq(ask(longest, other), -EXDEV);
}

Test(fabric_agree, of_one_that_does_not_say_nothing_is_known, .init = begin, .fini = end)
{
    cr_assert_eq(ask("tcp", NULL), 0, "%s", gw_error_message());
}

Test(fabric_agree, nobody_there_is_no_agreement, .init = begin, .fini = end)
{
    struct fabric_transport transport = {.signposts = tcp, .provider = "tcp"};
    struct gw_connect_options options = {.peer = asked};

    gw_unlisten(listener);
    cr_assert_eq(gw_fabric_agree(&transport, &options, PATIENCE_MS), -ECONNREFUSED);
    cr_assert_not(strstr(gw_error_message(), " refused: "), "%s", gw_error_message());
    gw_address_set_port(&asked, 0);
    cr_assert_eq(gw_listen(tcp, &asked, &listener), 0, "%s", gw_error_message());
}
