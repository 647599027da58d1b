/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sessions: what peers ask of this host. Listens on an agent's addresses, lets authenticated peers
 * in, and hands each data channel to the session that it names.
 *
 * Errors: 0 or -errno with a message.
 * Order: new → listen, any number → start → stop → free.
 * Threads: one per listener, one per session; at most GW_HANDSHAKES_MAX that are not yet proven,
 *   at most GW_HANDSHAKES_PER_HOST_MAX of them from one address. A lock for the table of sessions
 *   (rank: above the jobs' and a serve's own).
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_SESSIONS_H
#define GODWIT_AGENT_SESSIONS_H

#include "agent/jobs.h"

#define GW_HANDSHAKES_MAX          32u
#define GW_HANDSHAKES_PER_HOST_MAX 8u
#define GW_SESSIONS_MAX            160u /* proven and not */
#define GW_HANDSHAKE_TIMEOUT_MS    10000

struct gw_sessions;

/* environment (with its transports and credentials) and jobs are lent until free. */
int gw_sessions_new(const struct gw_environment *environment, struct gw_jobs *jobs,
                    struct gw_sessions **out);
/* Binds, or waits until it can (gw_listen); peers wait until start. out->listener is the sessions'. */
int gw_sessions_listen(struct gw_sessions *sessions, struct gw_transport *transport,
                       const struct gw_address *address, struct gw_listening *out);
int gw_sessions_start(struct gw_sessions *sessions);
/* Adds the addresses that are listened on to the array, each once. */
void gw_sessions_describe(struct gw_sessions *sessions, json_t *list);
/* No new sessions. Those that run are the jobs' to end; waits for them. */
void gw_sessions_stop(struct gw_sessions *sessions);
void gw_sessions_free(struct gw_sessions *sessions); /* takes NULL */

#endif
