/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admin-requests: the answers to commands. Every request gets one line; watch gets a line for each
 * snapshot and a last one.
 * Errors: what gw_lines_write answers (the connection is of no more use); a request that is wrong
 *   is answered, and no error.
 * Threads: any.
 */
#ifndef GODWIT_AGENT_ADMIN_REQUESTS_H
#define GODWIT_AGENT_ADMIN_REQUESTS_H

#include "agent/admin.h"

int gw_admin_answer(const struct gw_admin_options *options, int fd, json_t *request);

#endif
