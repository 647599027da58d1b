/* SPDX-License-Identifier: Apache-2.0 */
/* Parses a command's options and prints its help, both from one description. */
#include "cli/command.h"

#include <assert.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"

static void print_help(const struct gw_usage *usage)
{
    printf("usage: godwit %s %s\n\n%s\n\noptions:\n", usage->name, usage->arguments, usage->about);
    for (const struct gw_usage_option *option = usage->options; option->name; option++) {
        char left[64];

        if (!option->help)
            continue;
        snprintf(left, sizeof(left), "--%s%s%s", option->name, option->value ? " " : "",
                 option->value ? option->value : "");
        printf(strlen(left) <= 26 ? "  %-26s %s\n" : "  %s\n                             %s\n",
               left, option->help);
    }
    printf("  %-26s %s\n\nexample:\n%s\n", "--help", "this text", usage->example);
}

int gw_usage_fail(const struct gw_usage *usage, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "godwit %s: ", usage->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see godwit %s --help\n", usage->name);
    return GW_EXIT_USAGE;
}

static unsigned fill_table(const struct gw_usage *usage, struct option *table)
{
    unsigned count = 0;

    for (; usage->options[count].name; count++) {
        assert(count < GW_USAGE_OPTIONS_MAX);
        table[count] = (struct option){
            .name = usage->options[count].name,
            .has_arg = usage->options[count].value ? required_argument : no_argument,
        };
    }
    table[count] = (struct option){.name = "help"};
    table[count + 1] = (struct option){.name = NULL};
    return count;
}

bool gw_usage_parse(const struct gw_usage *usage, int argc, char **argv, void *context, int *first,
                    int *exit_code)
{
    struct option table[GW_USAGE_OPTIONS_MAX + 2];
    unsigned count = fill_table(usage, table);
    int index, answer;

    opterr = 0;
    optind = 1;
    while ((answer = getopt_long(argc, argv, ":", table, &index)) != -1) {
        *exit_code = GW_EXIT_USAGE;
        if (answer == ':') {
            gw_usage_fail(usage, "option '%s' needs a value", argv[optind - 1]);
            return false;
        }
        if (answer == '?') {
            if (optopt)
                gw_usage_fail(usage, "unknown option '-%c'", optopt);
            else
                gw_usage_fail(usage, "unknown option '%s'", argv[optind - 1]);
            return false;
        }
        if ((unsigned)index == count) {
            print_help(usage);
            *exit_code = GW_EXIT_DONE;
            return false;
        }
        if (usage->take(context, table[index].name, optarg) != 0) {
            gw_usage_fail(usage, "%s", gw_error_message());
            return false;
        }
    }
    *first = optind;
    return true;
}
