/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt; who wants more asks again. */
#include "engine/session/dial.h"

#include <errno.h>
#include <string.h>

#include "common/error.h"

int gw_dial_again(const struct gw_environment *environment, const char *peer,
                  struct gw_control **out)
{
    struct gw_control_options options = {
        .credentials = environment->credentials,
        .trusted = environment->trusted,
        .trusted_count = environment->trusted_count,
        .timeout_ms = GW_DIAL_TIMEOUT_MS,
        .role = GW_HELLO_ASK,
    };
    struct gw_transports transports;
    struct gw_address address;
    int error;

    memcpy(options.instance_id, environment->instance_id, GW_ID_SIZE);
    if (!peer || !environment->credentials)
        return gw_fail(-EACCES, "this agent has no key, or the move no address");
    error = gw_address_parse(peer, GW_DEFAULT_PORT, &address);
    if (!error)
        error = gw_transports_choose(&environment->transports, NULL, &transports);
    return error ? error : gw_transports_dial(&transports, &address, 1, &options, out);
}
