/* SPDX-License-Identifier: Apache-2.0 */
/* Does the source still want what this side waits for? While the session's thread is in a long wait, of a tool or of a
 * server, nobody else hears the source. What it says meanwhile is kept for the next turn. */
#include <errno.h>
#include <poll.h>

#include "common/clock.h"
#include "common/error.h"
#include "engine/session/serve.h"

#define EARLY_MAX 64u /* messages that come during one wait */

static int check_cancel(const struct gw_serve *serve)
{
    struct pollfd fd = {.fd = serve->progress->cancel_fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0 ? gw_fail(-ECANCELED, "cancelled at the target") : 0;
}

static int keep(struct gw_serve *serve, json_t *message)
{
    if (json_array_size(serve->early) == EARLY_MAX)
        return gw_fail(-EPROTO, "more than %u messages in place of a wait", EARLY_MAX);
    if (!serve->early)
        serve->early = json_array();
    return json_array_append(serve->early, message) ? gw_fail(-ENOMEM, "no memory for a message")
                                                    : 0;
}

/* A source that waits as well says nothing of the handover but that it gives up. */
static int take_early(struct gw_serve *serve, json_t *message)
{
    if (gw_message_is(message, "error"))
        return gw_message_raise(message);
    if (gw_message_is(message, "bye") || gw_message_is(message, "handover"))
        return gw_message_raise_cause(message) ?: gw_fail(-ECANCELED, "the source gave up");
    return keep(serve, message);
}

int gw_serve_listen(struct gw_serve *serve, struct gw_control *control)
{
    struct gw_control_frame frame;
    int error;

    while ((error = gw_control_receive(control, 0, &frame)) == 0) {
        if (!frame.message)
            return gw_fail(-EPROTO, "raw bytes out of turn");
        error = take_early(serve, frame.message);
        json_decref(frame.message);
        if (error)
            return error;
    }
    if (error == -ETIMEDOUT)
        error = gw_control_keep_alive(control);
    gw_control_leave(control);
    return error;
}

int gw_serve_next_frame(struct gw_serve *serve, struct gw_control_frame *out)
{
    if (json_array_size(serve->early) == 0)
        return gw_control_receive(serve->control, 0, out);
    *out = (struct gw_control_frame){.message = json_incref(json_array_get(serve->early, 0))};
    json_array_remove(serve->early, 0);
    return 0;
}

/* The link is lost, of which error tells: is its source back, or may it still come? */
static int await_return(struct gw_serve *serve, int error)
{
    struct gw_error cause;
    int result;

    gw_error_take(error, &cause);
    result = gw_serve_listen_to_next(serve);
    if (result < 0)
        return result;
    if (result || !serve->unheard_ns)
        serve->unheard_ns = gw_clock_ns();
    return gw_clock_ns() - serve->unheard_ns < serve->reconnect_s * GW_NS_PER_S
               ? 0
               : gw_error_raise(&cause);
}

int gw_serve_check_wanted(void *context)
{
    struct gw_serve *serve = context;
    int error = check_cancel(serve);

    /* Other threads of the session have waits too, and the control is not theirs. */
    if (error || !pthread_equal(serve->thread, pthread_self()))
        return error;
    if (gw_serve_is_released(serve))
        return gw_fail(-ECANCELED, "the source has given this session up");
    if (!serve->control)
        return 0;
    gw_serve_heed_rejoin(serve);
    error = gw_serve_listen(serve, serve->control);
    if (error)
        return gw_serve_may_wait(serve) ? await_return(serve, error) : error;
    serve->unheard_ns = 0;
    return 0;
}
