/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command: the table of subcommands, and how each describes its command line. One description
 * makes the parser, the --help text and, checked by a test, the man page's list.
 *
 * Errors: exit codes of the design (enum gw_exit). Messages go to stderr as "godwit COMMAND:
 *   text".
 * Threads: main.
 * Units: none.
 */
#ifndef GODWIT_CLI_COMMAND_H
#define GODWIT_CLI_COMMAND_H

#include <stdbool.h>

#include "engine/migration.h"

struct gw_command {
    const char *name;
    int (*run)(int argc,
               char **argv); /* argv[0] is the command's name; the result is the exit code */
    const char *summary;     /* one line; NULL for a command that help does not list */
};

extern const struct gw_command gw_commands[]; /* ends with a NULL name */

#define GW_USAGE_OPTIONS_MAX 40u

struct gw_usage_option {
    const char *name;  /* without dashes */
    const char *value; /* what stands for the value in the help, or NULL for a flag */
    const char *help;  /* NULL: not shown */
};

struct gw_usage {
    const char *name;      /* "move" */
    const char *arguments; /* "--qmp PATH --to HOST" */
    const char *about;     /* some lines of text */
    const char *example;
    const struct gw_usage_option *options; /* ends with a NULL name; --help is added */
    /* Takes one option; value is NULL for a flag. 0, or -errno with a message. */
    int (*take)(void *context, const char *name, const char *value);
};

/* Parses the options. True: go on, *first is the index of the first operand. False: stop with
 * *exit_code (help was printed, or the command line was wrong). */
bool gw_usage_parse(const struct gw_usage *usage, int argc, char **argv, void *context, int *first,
                    int *exit_code);
/* "godwit NAME: text; see godwit NAME --help"; returns GW_EXIT_USAGE. */
int gw_usage_fail(const struct gw_usage *usage, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

int gw_command_agent(int argc, char **argv);
int gw_command_key(int argc, char **argv);
int gw_command_move(int argc, char **argv);
int gw_command_resume(int argc, char **argv);
int gw_command_copy(int argc, char **argv);
int gw_command_inspect(int argc, char **argv);
int gw_command_status(int argc, char **argv);
int gw_command_cancel(int argc, char **argv);
int gw_command_resolve(int argc, char **argv);
int gw_command_history(int argc, char **argv);
int gw_command_bench(int argc, char **argv);
int gw_command_version(int argc, char **argv);
int gw_command_guard(int argc, char **argv);

#endif
