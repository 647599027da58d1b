/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admin: the socket on which commands talk to an agent. JSON lines (docs/admin-protocol.md); only
 * root and the agent's own user are answered.
 *
 * Errors: 0 or -errno with a message that names the socket; -EADDRINUSE when another agent answers
 *   on it.
 * Threads: one that accepts, one for each connection, at most GW_ADMIN_CONNECTIONS_MAX.
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_ADMIN_H
#define GODWIT_AGENT_ADMIN_H

#include "agent/jobs.h"

#define GW_ADMIN_CONNECTIONS_MAX 64u
#define GW_ADMIN_IDLE_MS         60000 /* a connection that asks nothing for so long is closed */
#define GW_ADMIN_WRITE_MS        5000  /* and one that reads nothing */
#define GW_ADMIN_WATCH_MS        200   /* between two snapshots of a watched migration */

struct gw_admin;

struct gw_admin_options {
    const char *socket_path; /* NULL: the usual place, see agent/paths.h */
    struct gw_jobs *jobs;
    struct gw_history *history;
    const struct gw_environment *environment;
    /* Describes the agent: an object with "agent" and "in_doubt"; the caller decrefs. Any thread.
     */
    json_t *(*describe)(void *context);
    void *context;
};

/* A socket that a dead agent left behind is replaced. */
int gw_admin_start(const struct gw_admin_options *options, struct gw_admin **out);
const char *gw_admin_path(const struct gw_admin *admin);
/* How many commands are connected. */
unsigned gw_admin_connections(struct gw_admin *admin);
/* Removes the socket and ends every connection. Takes NULL. */
void gw_admin_stop(struct gw_admin *admin);

#endif
