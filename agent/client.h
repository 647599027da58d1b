/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client: a command's end of the admin socket, and where to find agents.
 *
 * Errors: 0 or -errno with a message. -ENOENT and -ECONNREFUSED: no agent there. -EACCES: an agent
 *   of another user. What the agent itself refused is an answer with "ok": false, and no error.
 * Threads: one per client.
 * Units: milliseconds.
 */
#ifndef GODWIT_AGENT_CLIENT_H
#define GODWIT_AGENT_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

struct gw_client;

int gw_client_open(const char *socket_path, struct gw_client **out);
void gw_client_close(struct gw_client *client); /* takes NULL */
/* The agent of this host: chosen_path, else $GODWIT_SOCKET, else the usual places. -ENOENT when
 * none answers. An agent of another network namespace counts as none in the usual places; where a
 * path was chosen and needs_network, it is -EXDEV. */
int gw_client_find(const char *chosen_path, bool needs_network, struct gw_client **out);
/* Is the agent that answers on the path in another network namespace (or unknown)? */
bool gw_client_is_foreign(const char *socket_path);

const char *gw_client_path(const struct gw_client *client);
int gw_client_fd(const struct gw_client *client); /* for poll(2), with gw_client_has_line */
bool gw_client_has_line(const struct gw_client *client);
/* request is lent. */
int gw_client_send(struct gw_client *client, const json_t *request);
int gw_client_receive(struct gw_client *client, int timeout_ms, json_t **out);
/* One request and its one answer. */
int gw_client_ask(struct gw_client *client, const json_t *request, json_t **out);

/* Calls each for every private agent of this user and this network. Stops when it returns not 0. */
int gw_client_each_private(int (*each)(struct gw_client *client, void *context), void *context);

#endif
