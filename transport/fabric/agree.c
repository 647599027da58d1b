/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the agent that is dialled has the same provider. Two that differ mostly cannot reach each other,
 * so that is asked over the tcp back end, at the port that fabric has there: whoever connects to it with the
 * question for a hello is refused, and the reason is the provider's name. Where endpoints do not connect the
 * listener at that port is theirs; else it is a signpost, which is there where the provider does not take the
 * port of TCP for itself. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "transport/fabric/fabric.h"

static const char question[] = "fabric provider?";
static const char answer[] = "fabric provider ";

static struct gw_transport *tcp_of(const struct fabric_transport *transport)
{
    return transport->messages ? transport->messages : transport->signposts;
}

bool gw_fabric_is_question(const struct gw_request *request)
{
    return request->hello_length == sizeof(question) &&
           memcmp(request->hello, question, sizeof(question)) == 0;
}

void gw_fabric_answer(const struct fabric_transport *transport, struct gw_request *request)
{
    char text[sizeof(answer) + FABRIC_PROVIDER_MAX];

    snprintf(text, sizeof(text), "%s%s", answer, transport->provider);
    gw_reject(request, text);
}

void gw_fabric_put_signpost(const struct fabric_transport *transport,
                            const struct gw_address *address, struct gw_listener **out)
{
    struct gw_address above = *address;

    gw_address_set_port(&above, (uint16_t)(gw_address_port(address) + 1));
    /* Where the port is taken, it is mostly the provider itself that has it. */
    if (gw_listen(transport->signposts, &above, out) != 0)
        *out = NULL;
}

void gw_fabric_serve_signpost(const struct fabric_transport *transport,
                              struct gw_listener *signpost)
{
    struct gw_request *request;

    if (!signpost)
        return;
    for (unsigned i = 0; i < FABRIC_QUESTIONS_MAX && gw_next_request(signpost, 0, &request) == 0;
         i++)
        gw_fabric_answer(transport, request);
}

static int ask(struct gw_transport *tcp, struct gw_connect_options *options)
{
    struct gw_channel *channel;
    struct gw_error kept = {.code = 0};
    int error = gw_domain_open(tcp, options->local, &options->channel.domain);

    if (error)
        return error;
    error = gw_poller_open(tcp, &options->channel.poller);
    if (!error) {
        error = gw_connect(tcp, options, &channel);
        if (!error)
            gw_close(channel);
        gw_error_take(error, &kept);
        gw_poller_close(options->channel.poller);
    }
    gw_domain_close(options->channel.domain);
    return kept.code ? gw_error_raise(&kept) : error;
}

/* The message says who refused. Of a godwit that does not know the question nothing is known. */
static int judge(const struct fabric_transport *transport, const struct gw_address *peer)
{
    const char *said = strstr(gw_error_message(), answer);
    char theirs[FABRIC_PROVIDER_MAX], text[GW_ADDRESS_TEXT_MAX];

    if (!said)
        return strstr(gw_error_message(), " refused: ") ? 0 : -ECONNREFUSED;
    snprintf(theirs, sizeof(theirs), "%s", said + strlen(answer));
    if (strcmp(theirs, transport->provider) == 0)
        return 0;
    return gw_fail(-EXDEV,
                   "fabric: the provider of %s is %s, this host's is %s: name the same one on both "
                   "(--provider)",
                   gw_address_format(peer, text, sizeof(text)), theirs, transport->provider);
}

int gw_fabric_agree(const struct fabric_transport *transport,
                    const struct gw_connect_options *options, int timeout_ms)
{
    struct gw_connect_options inner = {.channel = {.timeout_ms = timeout_ms},
                                       .peer = options->peer,
                                       .local = options->local,
                                       .hello = question,
                                       .hello_length = sizeof(question)};
    int error;

    if (gw_address_port(&options->peer) == UINT16_MAX)
        return 0;
    gw_address_set_port(&inner.peer, (uint16_t)(gw_address_port(&options->peer) + 1));
    error = ask(tcp_of(transport), &inner);
    return error == -ECONNREFUSED ? judge(transport, &options->peer) : error;
}
