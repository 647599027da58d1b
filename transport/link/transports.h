/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transports: the back ends that a process uses beside each other, best first, and the dialling of
 * a peer over the first of them that reaches it. One may be there before the device that it needs: it
 * is chosen once that has come.
 *
 * Errors: 0 or -errno with a message. What is passed over is no error: its reason is kept.
 * Order: open → choose, dial, any number → close, after everything that was made of them.
 * Threads: open and close belong to one; the rest may be called by any.
 * Units: counts.
 */
#ifndef GODWIT_TRANSPORT_LINK_TRANSPORTS_H
#define GODWIT_TRANSPORT_LINK_TRANSPORTS_H

#include "transport/link/control.h"

#define GW_TRANSPORT_NAME_MAX     16u
#define GW_TRANSPORT_SETTINGS_MAX 32u /* options of all back ends together */

/* A back end that was not used, and why. */
struct gw_passed_over {
    char name[GW_TRANSPORT_NAME_MAX];
    char reason[GW_REASON_MAX];
};

struct gw_transports {
    struct gw_transport *list[GW_TRANSPORTS_MAX]; /* best first */
    bool is_for_control[GW_TRANSPORTS_MAX];       /* it was not asked for: control alone, no data */
    bool is_named[GW_TRANSPORTS_MAX];             /* it was asked for by its name, not by "auto" */
    unsigned count;
    struct gw_passed_over passed[GW_TRANSPORTS_MAX]; /* the newest reason of each name */
    unsigned passed_count;
};

/* What gw_transports_open is asked for. */
struct gw_transports_wanted {
    const char *const *names; /* each one name or several with commas */
    unsigned name_count;
    const char *const *settings; /* options of back ends: "dpdk.devargs=net_memif0" */
    unsigned setting_count;
};

/* Makes every back end of this build that this host can use, or could when a device comes, and that need
 * not be named. With names those alone, each of which must work now: -ENODEV. When none of them carries
 * control, those that do are made too, and are there for control alone. -EINVAL for a setting that no
 * back end takes. */
int gw_transports_open(const struct gw_transports_wanted *options, struct gw_transports *out);
void gw_transports_close(struct gw_transports *transports);

/* Those of all that names (with commas) lists, and for control alone those that carry it when none
 * of them does; the back ends are lent. NULL or "auto": all of them but those that gw_transport_probe
 * says cannot be used now, with its reason, and that were not asked for by name in gw_transports_open.
 * -EINVAL for a name that no back end has, -ENODEV with the reason for one that is not in use or cannot
 * be used now. */
int gw_transports_choose(const struct gw_transports *all, const char *names,
                         struct gw_transports *out);
struct gw_transport *gw_transports_find(const struct gw_transports *transports, const char *name);
/* False for one that is there for control alone, and for one that is not there. */
bool gw_transports_has_data(const struct gw_transports *transports,
                            const struct gw_transport *transport);
/* False for one that is there since it works on this host, and for one that is not there. */
bool gw_transports_is_named(const struct gw_transports *transports,
                            const struct gw_transport *transport);
/* Keeps the calling thread's message as the reason of that back end. */
void gw_transports_pass_over(struct gw_transports *transports, const char *name);
/* NULL when that back end is not passed over. */
const char *gw_transports_reason(const struct gw_transports *transports, const char *name);

/* Dials the peer over the first back end that reaches it and carries control, as gw_control_connect;
 * each tries all of the peer's addresses (at least one). Reasons go into transports->passed and the
 * log; the back end that is used in the end has none. A peer that refuses who we are is not dialled
 * again. The error is that of the last attempt. */
int gw_transports_dial(struct gw_transports *transports, const struct gw_address *peers,
                       unsigned peer_count, const struct gw_control_options *options,
                       struct gw_control **out);

#endif
