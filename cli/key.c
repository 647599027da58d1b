/* SPDX-License-Identifier: Apache-2.0 */
/* godwit key: writes a new pre-shared key to standard output. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "common/error.h"
#include "transport/link/credentials.h"

#define NAME_MAX_LENGTH 64u

static int take(void *context, const char *name, const char *value)
{
    if (strcmp(name, "json") == 0)
        *(bool *)context = true;
    return 0;
}

static const struct gw_usage_option options[] = {
    {"json", NULL, "an object with the name and the key file's text"},
    {NULL, NULL, NULL},
};

static const struct gw_usage usage = {
    .name = "key",
    .arguments = "NAME > FILE",
    .about =
        "Makes a pre-shared key. Whoever has the same file is the same peer: give it to both\n"
        "hosts over a channel you trust. A file on standard output gets mode 0600, since a key\n"
        "that others may read is refused.",
    .example = "  godwit key lab > lab.psk\n  scp -p lab.psk hostb:",
    .options = options,
    .take = take,
};

static bool is_name(const char *text)
{
    size_t length = strlen(text);

    return length > 0 && length <= NAME_MAX_LENGTH &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               length;
}

static int write_json(const char *name)
{
    char text[512] = "";
    FILE *memory = fmemopen(text, sizeof(text), "w");
    json_t *object;
    int error;

    if (!memory)
        return gw_fail_errno(-errno, "memory");
    error = gw_psk_write(name, memory);
    fclose(memory);
    if (error)
        return error;
    object = json_pack("{s:s, s:s}", "name", name, "file", text);
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
    explicit_bzero(text, sizeof(text));
    return 0;
}

int gw_command_key(int argc, char **argv)
{
    bool is_json = false;
    int first, code, error;

    if (!gw_usage_parse(&usage, argc, argv, &is_json, &first, &code))
        return code;
    if (argc - first != 1)
        return gw_usage_fail(&usage, "expected one NAME");
    if (!is_name(argv[first]))
        return gw_usage_fail(&usage, "name '%s': letters, digits, '.', '_' and '-', at most %u",
                             argv[first], NAME_MAX_LENGTH);
    error = is_json ? write_json(argv[first]) : gw_psk_write(argv[first], stdout);
    if (error) {
        fprintf(stderr, "godwit key: %s\n", gw_error_message());
        return GW_EXIT_FAILED;
    }
    return GW_EXIT_DONE;
}
