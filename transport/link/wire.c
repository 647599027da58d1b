/* SPDX-License-Identifier: Apache-2.0 */
/* Moves bytes between a TLS session and a channel. It knows neither frames nor who the peer is. */
#include "transport/link/wire.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/clock.h"

#define PUMP_MAX (256u << 10)

static_assert(GW_WIRE_SENDS <= GW_CHANNEL_OPS_MAX, "the channel takes every message at once");

static void send_done(struct gw_op *op, int status)
{
    struct gw_wire_send *slot = gw_container_of(op, struct gw_wire_send, send.op);
    struct gw_wire *wire = slot->wire;

    /* A failed message needs no word here: the channel is dead and says so itself. */
    slot->next_free = wire->free_sends;
    wire->free_sends = slot;
    wire->busy--;
    wire->done_count++;
}

static int die(struct gw_wire *wire, int error)
{
    gw_error_take(error, &wire->death);
    return error;
}

int gw_wire_open(struct gw_wire *wire, struct gw_transport *transport,
                 const struct gw_address *local)
{
    int rc;

    memset(wire, 0, sizeof(*wire));
    wire->sends = calloc(GW_WIRE_SENDS, sizeof(*wire->sends));
    if (!wire->sends)
        return gw_fail(-ENOMEM, "no memory for messages");
    for (unsigned i = 0; i < GW_WIRE_SENDS; i++) {
        struct gw_wire_send *slot = &wire->sends[i];

        slot->wire = wire;
        slot->send.op.done = send_done;
        slot->send.message = slot->bytes;
        slot->next_free = wire->free_sends;
        wire->free_sends = slot;
    }
    rc = gw_domain_open(transport, local, &wire->domain);
    if (!rc)
        rc = gw_poller_open(transport, &wire->poller);
    if (rc)
        gw_wire_close(wire);
    return rc;
}

void gw_wire_close(struct gw_wire *wire)
{
    if (wire->channel)
        gw_close(wire->channel);
    if (wire->poller)
        gw_poller_close(wire->poller);
    if (wire->domain)
        gw_domain_close(wire->domain);
    free(wire->sends);
    memset(wire, 0, sizeof(*wire));
}

static int post_one(struct gw_wire *wire, struct gw_wire_send *slot, bool has_more)
{
    int rc;

    slot->send.flags = has_more ? GW_POST_MORE : 0;
    rc = gw_send(wire->channel, &slot->send);
    if (rc == -EAGAIN) {
        wire->stalled = slot;
        return rc;
    }
    if (rc) {
        slot->next_free = wire->free_sends;
        wire->free_sends = slot;
        return die(wire, rc);
    }
    wire->busy++;
    return 0;
}

int gw_wire_post(struct gw_wire *wire, struct gw_tls *tls, bool is_last)
{
    struct gw_wire_send *slot = wire->stalled;
    size_t pending = gw_tls_pending(tls);
    int rc = 0;

    if (wire->death.code)
        return gw_error_raise(&wire->death);
    if (slot) {
        wire->stalled = NULL;
        rc = post_one(wire, slot, pending > 0);
    }
    while (!rc && (pending >= GW_MESSAGE_MAX || (is_last && pending > 0))) {
        slot = wire->free_sends;
        if (!slot)
            return -EAGAIN;
        wire->free_sends = slot->next_free;
        slot->send.length = (uint32_t)gw_tls_take(tls, slot->bytes, GW_MESSAGE_MAX);
        pending = gw_tls_pending(tls);
        rc = post_one(wire, slot, pending > 0 && wire->free_sends);
    }
    return rc;
}

int gw_wire_pump(struct gw_wire *wire, struct gw_tls *tls)
{
    struct gw_channel *ready;
    struct gw_message message;
    size_t bytes = 0;
    bool came = false;
    int rc = 0;

    gw_poll(wire->poller, &ready, 1);
    while (bytes < PUMP_MAX) {
        rc = gw_recv(wire->channel, &message);
        if (rc)
            break;
        came = true;
        bytes += message.length;
        rc = gw_tls_feed(tls, message.data, message.length);
        if (rc)
            return die(wire, rc);
    }
    /* What came before the channel died is worth reading: often it says why. */
    if (came)
        return 1;
    if (rc == -EAGAIN)
        return 0;
    return wire->death.code ? gw_error_raise(&wire->death) : die(wire, rc);
}

int gw_wire_wait(struct gw_wire *wire, uint64_t deadline)
{
    struct gw_channel *ready;
    struct pollfd item = {.events = POLLIN};
    uint64_t done_before = wire->done_count;
    int timeout_ms = deadline == GW_WIRE_FOREVER ? -1 : gw_clock_left_ms(deadline);

    if (timeout_ms == 0)
        return -ETIMEDOUT;
    item.fd = gw_poller_arm(wire->poller);
    if (item.fd < 0)
        return die(wire, item.fd);
    if (gw_poll(wire->poller, &ready, 1) > 0 || wire->done_count != done_before)
        return 0;
    if (poll(&item, 1, timeout_ms) < 0 && errno != EINTR)
        return die(wire, gw_fail_errno(-errno, "poll"));
    return 0;
}
