/* SPDX-License-Identifier: Apache-2.0 */
/*
 * request: a move or a copy as it is asked for over the admin socket, and by a command of itself.
 * The text is JSON (docs/admin-protocol.md); parsing it is where every value is checked.
 *
 * Errors: -EINVAL with a message that names the key and its value, or the unknown key; -ENOENT for
 *   a host that does not resolve.
 * Order: parse → used by one job → free.
 * Threads: read-only once parsed.
 * Units: bytes, milliseconds.
 */
#ifndef GODWIT_AGENT_REQUEST_H
#define GODWIT_AGENT_REQUEST_H

#include <stdbool.h>

#include "agent/options.h"
#include "engine/migration.h"

enum gw_job_kind { GW_JOB_MOVE, GW_JOB_COPY, GW_JOB_SERVE };

struct gw_job_request {
    enum gw_job_kind kind;
    json_t *text; /* owns every text below */
    struct gw_move_request move;
    struct gw_copy_request copy;
    bool has_credentials; /* its own, in place of the agent's */
    struct gw_credentials_options credentials;
    const char *fingerprints[GW_FINGERPRINTS_MAX];
    struct gw_network trusted[GW_TRUSTED_MAX]; /* besides the agent's */
    unsigned trusted_count;
    const char *what;               /* for people: the VM's monitor or the image */
    char peer[GW_ADDRESS_TEXT_MAX]; /* "" for a copy on this host */
};

/* text is lent (a reference is taken). "request" in it is "move" or "copy". */
int gw_job_request_parse(json_t *text, struct gw_job_request **out);
void gw_job_request_free(struct gw_job_request *request);
const char *gw_job_kind_name(enum gw_job_kind kind);

#endif
