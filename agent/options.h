/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options: how an agent was asked to run, from its command line and its configuration file. Both
 * use the same names (docs/configuration.md), so both go through gw_agent_options_set.
 *
 * Errors: -ENOENT for a name that does not exist, -EINVAL for a value that it cannot have, with a
 *   message that quotes both.
 * Order: init → set or load, any number → merge → free.
 * Threads: one.
 * Units: limits count migrations.
 */
#ifndef GODWIT_AGENT_OPTIONS_H
#define GODWIT_AGENT_OPTIONS_H

#include <stdbool.h>

#include "engine/migration.h"
#include "transport/link/credentials.h"

#define GW_FINGERPRINTS_MAX 32u
#define GW_LIMIT_MAX        64u /* of one kind of migration at once */
#define GW_KEEP_PARTIAL     24u /* hours, when nothing is said */
#define GW_KEEP_PARTIAL_MAX 8760u

/* Owned texts, at most GW_TRUSTED_MAX of them. */
struct gw_texts {
    const char *items[GW_TRUSTED_MAX];
    unsigned count;
};

/* How many migrations of each kind run at once; 0 means not said. */
struct gw_limits {
    unsigned live_out, live_in, storage_out, storage_in;
};

struct gw_agent_options {
    struct gw_texts listen, transports, settings, storage, trusted, fingerprints;
    char *psk, *cert, *key, *ca;
    char *state, *socket, *launch, *to_qmp;
    struct gw_limits limits;
    bool has_keep_partial;
    unsigned keep_partial_hours;
    int reconnect_s;           /* -1: not said */
    uint64_t pin_limit;        /* bytes; 0: gw_pins_default_limit */
    bool allow_bench;          /* peers may measure the network to this host */
    bool allow_volatile_state; /* a journal on tmpfs, for tests */
    bool is_private; /* serves one command: no listeners needed, ends when it has nothing to do */
    int ready_fd;    /* gets one line once the agent is ready or has failed; -1 for none */
};

void gw_agent_options_init(struct gw_agent_options *options);
void gw_agent_options_free(struct gw_agent_options *options);
/* name without dashes, as in "trusted-network". Lists grow, single values are replaced. */
int gw_agent_options_set(struct gw_agent_options *options, const char *name, const char *value);
/* Reads an INI file: the names above in a section [agent], options of a transport in one that has
 * its name. A message names the file and the line. */
int gw_agent_options_load(const char *path, struct gw_agent_options *options);
/* Fills what options does not say from fallback, which is emptied; lists are taken whole. */
void gw_agent_options_merge(struct gw_agent_options *options, struct gw_agent_options *fallback);
/* The limits that were not said get their defaults: two of each. */
void gw_limits_complete(struct gw_limits *limits);
/* False when nothing was said about credentials. out borrows from options. */
bool gw_agent_options_credentials(const struct gw_agent_options *options,
                                  struct gw_credentials_options *out);

#endif
