/* SPDX-License-Identifier: Apache-2.0 */
/* godwit agent: reads the options and the configuration, then runs the agent in this process. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "cli/command.h"
#include "common/error.h"
#include "common/log.h"

struct context {
    struct gw_agent_options options;
    const char *config;
    unsigned verbosity;
    bool is_json;
};

static int take(void *context, const char *name, const char *value)
{
    struct context *agent = context;

    if (strcmp(name, "config") == 0) {
        agent->config = value;
        return 0;
    }
    if (strcmp(name, "verbose") == 0) {
        agent->verbosity++;
        return 0;
    }
    if (strcmp(name, "json") == 0) {
        agent->is_json = true;
        return 0;
    }
    if (strcmp(name, "private") == 0) {
        agent->options.is_private = true;
        return 0;
    }
    if (strcmp(name, "ready-fd") == 0) {
        agent->options.ready_fd = atoi(value);
        return agent->options.ready_fd > 2 ? 0 : gw_fail(-EINVAL, "ready-fd '%s'", value);
    }
    return gw_agent_options_set(&agent->options, name, value);
}

static const struct gw_usage_option options[] = {
    {"listen", "ADDRESS[:PORT]",
     "where peers reach this host (repeatable); all addresses, port 13560"},
    {"transport", "NAME", "use this transport (repeatable, best first); auto: all that work here"},
    {"transport-option", "TRANSPORT.NAME=VALUE",
     "an option of a transport, such as dpdk.devargs=0000:3b:00.0 (repeatable)"},
    {"provider", "NAME", "the libfabric provider of transport fabric: verbs, tcp, ..."},
    {"psk", "FILE", "pre-shared key, see godwit key"},
    {"cert", "FILE", "this host's certificate (PEM), with --key"},
    {"key", "FILE", "the private key of --cert (PEM)"},
    {"ca", "FILE", "believe peers whose certificate this CA signed"},
    {"fingerprint", "SHA256", "believe this one certificate, in place of --ca (repeatable)"},
    {"storage", "DIR", "peers may write beneath DIR (repeatable); the first is the default"},
    {"state", "DIR", "journal, history, identity; /var/lib/godwit for root"},
    {"trusted-network", "NET", "bulk data may travel clear between hosts of NET (repeatable)"},
    {"launch", "HOOK", "program that starts the QEMU of a VM that arrives"},
    {"to-qmp", "PATH", "a QEMU that already waits with -incoming defer -S"},
    {"socket", "PATH", "admin socket; /run/godwit/agent.sock for root"},
    {"config", "FILE", "INI file with these names in [agent]"},
    {"reconnect-timeout", "SECONDS",
     "how long a lost link is dialled again; 300, 0 gives up at once"},
    {"limits", "LIST", "most at once: live-out=N,live-in=N,storage-out=N,storage-in=N; 2 each"},
    {"keep-partial", "HOURS",
     "how long a lost move or copy can be resumed; 24, 0: nothing is kept"},
    {"pin-limit", "SIZE",
     "most memory registered for RDMA at once (8G, ...); half of what is free"},
    {"allow-bench", NULL, "peers may measure the network to this host: godwit bench"},
    {"allow-volatile-state", NULL,
     "accept a state folder on tmpfs (tests: a reboot loses the journal)"},
    {"verbose", NULL, "log what goes well, too; twice: each step of a handover"},
    {"json", NULL, "one JSON object on standard output when the agent ends"},
    {"private", NULL, NULL},
    {"ready-fd", "FD", NULL},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "agent",
    .arguments = "[OPTIONS]",
    .about = "Runs godwit on this host until SIGTERM: lets authenticated peers in, and runs the "
             "moves and\n"
             "copies that commands ask for on its admin socket.",
    .example =
        "  godwit agent --listen 10.77.0.2 --psk lab.psk --storage /srv/vm --state /var/lib/godwit",
    .options = options,
    .take = take,
};

static int load(struct context *context)
{
    struct gw_agent_options file;
    int error;

    if (!context->config)
        return 0;
    gw_agent_options_init(&file);
    error = gw_agent_options_load(context->config, &file);
    if (!error)
        gw_agent_options_merge(&context->options, &file);
    gw_agent_options_free(&file);
    return error;
}

int gw_command_agent(int argc, char **argv)
{
    const char *allow_volatile = getenv("GODWIT_ALLOW_VOLATILE_STATE");
    struct context context = {.config = NULL};
    int first, code;

    gw_agent_options_init(&context.options);
    if (!gw_usage_parse(&usage, argc, argv, &context, &first, &code)) {
        gw_agent_options_free(&context.options);
        return code;
    }
    if (first < argc) {
        code = gw_usage_fail(&usage, "'%s' is not expected here", argv[first]);
    } else if (load(&context) != 0) {
        code = gw_usage_fail(&usage, "%s", gw_error_message());
    } else {
        if (allow_volatile && strcmp(allow_volatile, "1") == 0)
            context.options.allow_volatile_state = true;
        gw_log_set_level(context.verbosity > 1 ? GW_LOG_DEBUG
                         : context.verbosity   ? GW_LOG_INFO
                                               : GW_LOG_WARNING);
        code = (int)gw_agent_run(&context.options);
        if (context.is_json)
            printf("{\"exit_code\":%d}\n", code);
    }
    gw_agent_options_free(&context.options);
    return code;
}
