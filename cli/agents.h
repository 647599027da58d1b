/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agents: what the agents of this host and user say of themselves, and their moves in doubt.
 * Errors: 0 or -errno with a message.
 * Threads: main.
 * Units: none.
 */
#ifndef GODWIT_CLI_AGENTS_H
#define GODWIT_CLI_AGENTS_H

#include <jansson.h>

/* Appends each agent's answer to "status", private ones included, or that of the one on socket_path.
 * No agent is no error, unless a path was given. */
int gw_agents_ask(const char *socket_path, json_t *agents);
/* Appends what agents that do not run have left (left.h), as theirs. */
void gw_agents_add_left(json_t *agents);
/* How many moves are in doubt in all these answers. */
unsigned gw_agents_doubts(const json_t *agents);
/* One element of an answer's "partials". */
void gw_agents_print_kept(const json_t *item);
/* One element of an answer's "in_doubt". */
void gw_agents_print_doubt(const json_t *item);

#endif
