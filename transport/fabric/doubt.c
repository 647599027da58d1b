/* SPDX-License-Identifier: Apache-2.0 */
/* Remembers hosts that dials waited for in vain: whoever dials again at once is to take another transport, and
 * not to wait again. fabric.h says what the doubts are. */
#include <errno.h>

#include "common/clock.h"
#include "transport/fabric/fabric.h"

/* The host's place, or NULL. Called with the lock held, like the next. */
static struct fabric_doubt *find(struct fabric_transport *transport, const struct gw_address *peer)
{
    for (unsigned i = 0; i < FABRIC_DOUBTS_MAX; i++) {
        struct fabric_doubt *one = &transport->doubts[i];

        if (one->until_ns && gw_address_same_host(&one->host, peer))
            return one;
    }
    return NULL;
}

/* The host's place, or that of another one which has been left in peace for longest. */
static struct fabric_doubt *claim(struct fabric_transport *transport, const struct gw_address *peer)
{
    struct fabric_doubt *place = find(transport, peer), *all = transport->doubts;

    if (place)
        return place;
    place = &all[0];
    for (unsigned i = 1; i < FABRIC_DOUBTS_MAX; i++)
        if (all[i].until_ns < place->until_ns)
            place = &all[i];
    *place = (struct fabric_doubt){.host = *peer};
    return place;
}

void gw_fabric_doubt(struct fabric_transport *transport, const struct gw_address *peer,
                     enum fabric_doubt_kind kind)
{
    struct fabric_doubt *place;

    pthread_mutex_lock(&transport->lock);
    place = claim(transport, peer);
    if (kind != FABRIC_MUTE || !place->has_answered) {
        place->kind = kind;
        place->until_ns = gw_clock_ns() + FABRIC_DOUBT_S * GW_NS_PER_S;
    }
    pthread_mutex_unlock(&transport->lock);
}

void gw_fabric_trust(struct fabric_transport *transport, const struct gw_address *peer,
                     enum fabric_doubt_kind kind)
{
    uint64_t now = gw_clock_ns();
    struct fabric_doubt *place;

    pthread_mutex_lock(&transport->lock);
    place = kind == FABRIC_MUTE ? claim(transport, peer) : find(transport, peer);
    if (place && (place->kind == kind || !place->until_ns))
        place->until_ns = now;
    if (place && kind == FABRIC_MUTE)
        place->has_answered = true;
    pthread_mutex_unlock(&transport->lock);
}

/* The message of a doubt; it names the port that the doubt is about. */
static int refuse(const struct fabric_transport *transport, const struct gw_address *peer,
                  enum fabric_doubt_kind kind)
{
    struct gw_address above = *peer;
    char text[GW_ADDRESS_TEXT_MAX];

    if (kind == FABRIC_TOOK_NO_WRITE)
        return gw_fail(
            -EHOSTUNREACH,
            "fabric %s: the endpoint of %s took no write a moment ago: is its port closed on "
            "the way? It is tried again after %u s",
            transport->provider, gw_address_format(peer, text, sizeof(text)), FABRIC_DOUBT_S);
    gw_address_set_port(&above, (uint16_t)(gw_address_port(peer) + 1));
    return gw_fail(-EHOSTUNREACH,
                   "fabric %s: nobody answered at %s a moment ago: is that port closed on the way? "
                   "It is tried again after %u s",
                   transport->provider, gw_address_format(&above, text, sizeof(text)),
                   FABRIC_DOUBT_S);
}

int gw_fabric_check_doubt(struct fabric_transport *transport, const struct gw_address *peer,
                          bool is_for_data)
{
    enum fabric_doubt_kind kind = FABRIC_MUTE;
    const struct fabric_doubt *place;
    bool is_doubted;

    pthread_mutex_lock(&transport->lock);
    place = find(transport, peer);
    is_doubted = place && place->until_ns > gw_clock_ns();
    if (is_doubted)
        kind = place->kind;
    pthread_mutex_unlock(&transport->lock);
    /* A control session makes no writes. */
    if (!is_doubted || (kind == FABRIC_TOOK_NO_WRITE && !is_for_data))
        return 0;
    return refuse(transport, peer, kind);
}
