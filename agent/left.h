/* SPDX-License-Identifier: Apache-2.0 */
/*
 * left: the state folders of this user that no agent has: the state home's own, and those of private agents that were
 * killed. What they hold is settled by an agent that takes the folder up, or by a person's word (settle.h).
 *
 * Errors: 0 or -errno with a message.
 * Threads: any. A folder is locked for the moment that it is read.
 * Units: none.
 */
#ifndef GODWIT_AGENT_LEFT_H
#define GODWIT_AGENT_LEFT_H

#include <jansson.h>
#include <stddef.h>

/* Calls each for the state home and for each folder of a private agent in it, whoever has it. Stops when it returns
 * not 0, and returns that. */
int gw_left_each(int (*each)(const char *folder, void *context), void *context);
/* As an agent's answer to "status", with "left" true in "agent". NULL when an agent has the folder, when nothing in it
 * waits for one, and when it cannot be read. The caller decrefs. */
json_t *gw_left_describe(const char *folder);
/* The folder of a private agent that was killed in the middle of something, the latest of them. -ENOENT without a
 * message: there is none. */
int gw_left_find_private(char *folder, size_t size);

#endif
