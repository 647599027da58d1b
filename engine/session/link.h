/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link: the sending side's way to a target: the control session's dialling, and the data channels
 * over every rail of the best transport that both hosts share. A rail that cannot be used is passed
 * over with its reason and the next one carries its share: first the other rails of that transport,
 * then the next transport. Private to engine/session.
 *
 * Errors: 0 or -errno with a message; when every rail was passed over, that of the last one.
 * Order: init → dial → find_ways → open_channels → open_channel … → drop_ways, and again from dial
 *   → free. drop_ways and free come after the sender's lanes are gone.
 * Threads: the migration's control thread.
 * Units: milliseconds.
 */
#ifndef GODWIT_ENGINE_SESSION_LINK_H
#define GODWIT_ENGINE_SESSION_LINK_H

#include "engine/migration.h"
#include "engine/worker/path.h"
#include "engine/worker/workers.h"
#include "transport/link/rails.h"

#define GW_CONNECT_TIMEOUT_MS 10000
#define GW_REDIAL_TIMEOUT_MS  5000 /* in the place of one that is lost: somebody waits */
#define GW_CHANNELS_DEFAULT   2u
#define GW_CHANNELS_MAX       16u /* per rail */

/* A pair of addresses, as one transport uses it. */
struct gw_way_rail {
    struct gw_rail pair;
    struct gw_domain *domain; /* NULL until the first channel */
    bool is_passed_over;      /* a channel could not be dialled over it */
};

/* A transport that both hosts have. */
struct gw_way {
    struct gw_transport *transport;
    struct gw_way_rail rails[GW_RAILS_MAX];
    unsigned rail_count, next_rail;
};

struct gw_link {
    const struct gw_environment *environment;
    struct gw_progress *progress;
    struct gw_transports transports;       /* this migration's choice, with what was passed over */
    struct gw_way ways[GW_TRANSPORTS_MAX]; /* for data, the best first */
    unsigned way_count;
    struct gw_workers workers;
    unsigned per_rail;
    const char *congestion;
    int timeout_ms; /* for one connection */
    bool is_rejoining;
};

/* names: the transports that were asked for (with commas), or NULL. */
int gw_link_init(struct gw_link *link, const struct gw_environment *environment,
                 struct gw_progress *progress, const char *names);
void gw_link_free(struct gw_link *link); /* takes zeroed memory too */
/* Where peer is not reached, the other addresses are dialled that the ways lead to. */
int gw_link_dial(struct gw_link *link, const struct gw_address *peer, struct gw_control **out);

/* transports: the target's, from its reply to the offer: what it listens with, and where. */
int gw_link_find_ways(struct gw_link *link, const struct gw_control *control,
                      const json_t *transports);
void gw_link_drop_ways(struct gw_link *link);

/* A data channel in the making, and its lane, which lies near the worker that it will be on. */
struct gw_dialled {
    struct gw_control *control; /* the session that it belongs to */
    int (*prepare)(void *context, struct gw_worker *worker, struct gw_domain *domain,
                   struct gw_lane **out);
    void (*cancel)(struct gw_lane *lane); /* there is no channel */
    /* Takes over lane, channel and seal. */
    void (*start)(void *context, struct gw_lane *lane, struct gw_channel *channel,
                  struct gw_seal *seal);
    void *context;
};

/* One channel over this very rail, which is not passed over when it fails. */
int gw_link_dial_rail(struct gw_link *link, struct gw_way *way, struct gw_way_rail *rail,
                      const struct gw_dialled *what);
/* As many channels as the rails of the first way that can be dialled ask for; *opened may be less
 * when some could not be had, but not 0. */
int gw_link_open_channels(struct gw_link *link, struct gw_control *control,
                          struct gw_sender *sender, unsigned *opened);
int gw_link_open_channel(struct gw_link *link, struct gw_control *control,
                         struct gw_sender *sender);
double gw_link_cpu_seconds(const struct gw_link *link); /* of the workers */
/* A list of {"transport", "reason"}; NULL when nothing was passed over. */
json_t *gw_link_passed_over(const struct gw_link *link);

#endif
