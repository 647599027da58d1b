/* SPDX-License-Identifier: Apache-2.0 */
/* Connects: a way to the peer, an endpoint, the request and its answer, all within one deadline. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "transport/fabric/channel.h"

struct attempt {
    const struct gw_connect_options *options;
    struct fabric_transport *transport;
    uint64_t deadline_ns;
    char peer[GW_ADDRESS_TEXT_MAX];
    struct fi_info *info;
    struct fabric_channel *channel;
    bool is_answered; /* by a godwit */
};

static int explain_version(const struct attempt *attempt, unsigned version)
{
    return gw_fail(-EPROTO,
                   "fabric: %s speaks wire version %u, this side %u: install the same godwit on "
                   "both",
                   attempt->peer, version, GW_WIRE_VERSION);
}

static int explain_stranger(const struct attempt *attempt)
{
    return gw_fail(-EPROTO, "fabric %s: something other than godwit listens at %s",
                   attempt->transport->provider, attempt->peer);
}

static int explain_refusal(struct attempt *attempt, const uint8_t *data, uint32_t length)
{
    struct gw_connect_answer answer;

    if (length == 0)
        return gw_fail(-ECONNREFUSED, "fabric %s: nothing listens at %s",
                       attempt->transport->provider, attempt->peer);
    if (gw_connect_answer_decode(&gw_fabric_form, data, length, &answer) != 0)
        return explain_stranger(attempt);
    attempt->is_answered = true;
    if (answer.version != GW_WIRE_VERSION || answer.verdict == GW_CONNECT_OTHER_VERSION)
        return explain_version(attempt, answer.version);
    return gw_fail(-ECONNREFUSED, "fabric %s: %s refused: %s", attempt->transport->provider,
                   attempt->peer, answer.reason);
}

static int explain(struct attempt *attempt, int cause, const uint8_t *data, uint32_t length)
{
    switch (cause) {
    case FI_ECONNREFUSED:
        return explain_refusal(attempt, data, length);
    case FI_EHOSTUNREACH:
    case FI_ENETUNREACH:
        return gw_fail(-EHOSTUNREACH, "fabric %s: no way to %s", attempt->transport->provider,
                       attempt->peer);
    case FI_ETIMEDOUT:
        return gw_fail(-ETIMEDOUT, "fabric %s: %s does not answer", attempt->transport->provider,
                       attempt->peer);
    case FI_ECONNRESET:
        return gw_fail(-ECONNREFUSED, "fabric %s: %s ended the connection without an answer",
                       attempt->transport->provider, attempt->peer);
    case FI_ENOPROTOOPT:
    case FI_EIO:
        return explain_stranger(attempt);
    default:
        return gw_fabric_fail(attempt->transport, -cause, "connecting to %s", attempt->peer);
    }
}

static int check_answer(const struct attempt *attempt, const uint8_t *data, uint32_t length)
{
    struct gw_connect_answer answer;

    if (gw_connect_answer_decode(&gw_fabric_form, data, length, &answer) != 0 ||
        answer.verdict != GW_CONNECT_ACCEPTED)
        return explain_stranger(attempt);
    return answer.version == GW_WIRE_VERSION ? 0 : explain_version(attempt, answer.version);
}

static int ask(struct attempt *attempt)
{
    const struct gw_connect_options *options = attempt->options;
    uint8_t data[FABRIC_CONNECT_DATA_MAX];
    uint32_t length =
        gw_connect_request_encode(&gw_fabric_form, options->hello, options->hello_length, data);
    int answer = fi_connect(attempt->channel->ep, attempt->info->dest_addr, data, length);

    if (answer)
        return explain(attempt, -answer, NULL, 0);
    answer = gw_fabric_channel_await(attempt->channel, attempt->deadline_ns, data, &length);
    if (answer == -ETIMEDOUT)
        return gw_fail(-ETIMEDOUT, "fabric %s: %s did not answer in time",
                       attempt->transport->provider, attempt->peer);
    if (answer)
        return explain(attempt, answer, data, length);
    return check_answer(attempt, data, length);
}

/* The peer was asked and did not take the connection. It may have another provider; then that is the
 * reason. Where the dial took all of its time this takes a little more. */
static int look_for_another(const struct attempt *attempt, int error)
{
    int left_ms = (int)gw_max(gw_clock_left_ms(attempt->deadline_ns), FABRIC_AGREE_LEAST_MS);
    int timeout_ms = (int)gw_min(left_ms, FABRIC_AGREE_MS);
    struct gw_error kept;

    gw_error_take(error, &kept);
    if (attempt->is_answered || error == -ENOMEM)
        return error;
    if (gw_fabric_agree(attempt->transport, attempt->options, timeout_ms) == -EXDEV)
        return -EXDEV;
    return gw_error_raise(&kept);
}

/* The provider's own word for this end; without one, what it was asked for. */
static void find_local(const struct attempt *attempt, struct gw_address *out)
{
    size_t size = sizeof(out->storage);

    memset(out, 0, sizeof(*out));
    if (fi_getname(&attempt->channel->ep->fid, &out->storage, &size) == 0)
        out->length = (socklen_t)size;
    else if (attempt->options->local)
        *out = *attempt->options->local;
}

int gw_fabric_connect(struct gw_transport *transport, const struct gw_connect_options *options,
                      struct gw_channel **out)
{
    struct attempt attempt = {.options = options,
                              .transport = gw_fabric_transport_of(transport),
                              .deadline_ns = gw_clock_ns() +
                                             (uint64_t)options->channel.timeout_ms * GW_NS_PER_MS};
    struct gw_address local;
    struct gw_error kept;
    int error;

    gw_address_format(&options->peer, attempt.peer, sizeof(attempt.peer));
    error = gw_fabric_find(attempt.transport, options->local, &options->peer, &attempt.info);
    if (!error)
        error = gw_fabric_channel_new(&options->channel, attempt.info, &attempt.channel);
    if (!error) {
        error = ask(&attempt);
        if (error)
            error = look_for_another(&attempt, error);
    }
    if (!error) {
        find_local(&attempt, &local);
        /* The peer as it was named: the port above it is the provider's. */
        error = gw_fabric_channel_start(attempt.channel, &local, &options->peer);
    }
    if (attempt.info)
        attempt.transport->library.freeinfo(attempt.info);
    if (error) {
        gw_error_take(error, &kept);
        if (attempt.channel)
            gw_fabric_channel_free(attempt.channel);
        return gw_error_raise(&kept);
    }
    *out = &attempt.channel->base;
    return 0;
}
