/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task: what move and copy share: the options that both have, the request made of them, and the
 * way it is run: in this host's agent, in a private one, or in this process; watched to its end
 * and summed up.
 *
 * Errors: -EINVAL with a message from gw_task_take; exit codes of the design from gw_task_run, and
 *   GW_TASK_DETACHED. Threads: main. Units: none.
 */
#ifndef GODWIT_CLI_TASK_H
#define GODWIT_CLI_TASK_H

#include <jansson.h>
#include <stdbool.h>

#include "agent/options.h"
#include "cli/command.h"

#define GW_TASK_DETACHED 130 /* Ctrl-C: the command ended, the migration did not */

struct gw_task {
    const char *command;                 /* "move" */
    json_t *request;                     /* docs/admin-protocol.md */
    struct gw_agent_options credentials; /* for a private agent: its credentials and networks */
    const char *socket;
    bool is_json, wants_progress, is_detached;
    bool may_run_here; /* copy: without an agent it runs in this process */
};

/* Options that both commands have; for the tables of options. */
#define GW_TASK_OPTIONS                                                                            \
    {"psk", "FILE", "pre-shared key, see godwit key"},                                             \
        {"cert", "FILE", "this host's certificate (PEM), with --key"},                             \
        {"key", "FILE", "the private key of --cert (PEM)"},                                        \
        {"ca", "FILE", "believe a peer whose certificate this CA signed"},                         \
        {"fingerprint", "SHA256", "believe this one certificate, in place of --ca (repeatable)"},  \
        {"trusted-network", "NET",                                                                 \
         "bulk data may travel clear between hosts of NET (repeatable)"},                          \
        {"channels", "N", "connections on each pair of addresses; 2"},                             \
        {"transport", "NAME", "tcp, ...: this one only (several with commas); auto"},              \
        {"transport-option", "TRANSPORT.NAME=VALUE",                                               \
         "for a command that runs without an agent; an agent has its own (repeatable)"},           \
        {"provider", "NAME",                                                                       \
         "for transport fabric, in a command without an agent: verbs, tcp, ..."},                  \
        {"reconnect-timeout", "SECONDS",                                                           \
         "how long a lost link is dialled again; the agent's, 300; 0 gives up at once"},           \
        {"stall-timeout", "SECONDS",                                                               \
         "say so when nothing moves for that long, redial after twice that; 30"},                  \
        {"congestion", "NAME", "TCP congestion control of the data channels"},                     \
        {"verify", NULL,                                                                           \
         "compare digests of everything at the end, before images get their names"},               \
        {"socket", "PATH", "admin socket of the agent to use; also GODWIT_SOCKET"},                \
        {"detach", NULL, "start it in an agent and come back at once"},                            \
        {"progress", NULL, "with --json: progress, too, one object a line"},                       \
        {"json", NULL, "the result as one JSON object on standard output"},                        \
    {                                                                                              \
        NULL, NULL, NULL                                                                           \
    }

int gw_task_init(struct gw_task *task, const char *command);
void gw_task_free(struct gw_task *task);
/* One of GW_TASK_OPTIONS. -ENOENT when it is not. */
int gw_task_take(struct gw_task *task, const char *name, const char *value);
/* Sets a text, an absolute path, a flag or a number of the request. */
int gw_task_set_text(struct gw_task *task, const char *key, const char *value);
int gw_task_set_path(struct gw_task *task, const char *key, const char *value);
int gw_task_set_flag(struct gw_task *task, const char *key);
int gw_task_set_number(struct gw_task *task, const char *key, const char *value);
struct gw_client;
/* Has the agent run the request, and follows it; the exit code. */
int gw_task_submit(struct gw_task *task, struct gw_client *client);
/* Bytes, with K, M, G or T behind for powers of 1024; 1 to INT64_MAX, else -EINVAL and a message that begins
 * with name. */
int gw_size_parse(const char *name, const char *value, uint64_t *out);
int gw_task_set_size(struct gw_task *task, const char *key, const char *value);
/* OLD=NEW into the object of that key; the last '=' counts. */
int gw_task_set_mapping(struct gw_task *task, const char *key, const char *value);
/* Checks the whole request as the agent will, runs it and returns the exit code. */
int gw_task_run(const struct gw_usage *usage, struct gw_task *task);

#endif
