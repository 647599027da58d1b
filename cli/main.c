/* SPDX-License-Identifier: Apache-2.0 */
/* The godwit command: finds the subcommand. Each has a file of its own. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

const struct gw_command gw_commands[] = {
    {"agent", gw_command_agent, "one per host: listens, admits peers, runs and queues migrations"},
    {"move", gw_command_move, "moves a running VM to another host: disks, memory, handover"},
    {"resume", gw_command_resume, "goes on with a move or a copy that was lost"},
    {"copy", gw_command_copy, "copies a disk image that no VM uses, to a host or on this one"},
    {"inspect", gw_command_inspect, "what is in a disk image, and what is wrong with it"},
    {"status", gw_command_status, "what runs, what waits, what is in doubt"},
    {"cancel", gw_command_cancel, "ends a migration; its source runs on"},
    {"resolve", gw_command_resolve, "settles a move in doubt by a person's word"},
    {"history", gw_command_history, "what was migrated, newest first"},
    {"bench", gw_command_bench, "throughput, latency and CPU of each transport to a host"},
    {"key", gw_command_key, "makes a pre-shared key"},
    {"version", gw_command_version, NULL},
    {"guard", gw_command_guard, NULL},
    {NULL, NULL, NULL},
};

static void print_help(FILE *out)
{
    fputs("usage: godwit COMMAND [OPTIONS]\n\n"
          "godwit moves virtual machines between hosts that share nothing but a network.\n\n"
          "commands:\n",
          out);
    for (const struct gw_command *command = gw_commands; command->name; command++)
        if (command->summary)
            fprintf(out, "  %-9s %s\n", command->name, command->summary);
    fputs("\ngodwit COMMAND --help says more, with an example.\n"
          "exit codes: 0 done; 1 failed, the source runs on; 2 usage; 3 blocked by a check;\n"
          "4 in doubt; 5 verification failed\n",
          out);
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return GW_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return GW_EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0)
        return gw_command_version(1, argv + 1);
    for (const struct gw_command *command = gw_commands; command->name; command++)
        if (strcmp(command->name, argv[1]) == 0)
            return command->run(argc - 1, argv + 1);
    fprintf(stderr, "godwit: there is no command '%s'; see godwit --help\n", argv[1]);
    return GW_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    int code = run(argc, argv);

    /* A script that reads stdout must not take a cut answer for a whole one. */
    if (fflush(stdout) != 0 && code == GW_EXIT_DONE) {
        fprintf(stderr, "godwit: standard output: %s\n", strerror(errno));
        return GW_EXIT_FAILED;
    }
    return code;
}
