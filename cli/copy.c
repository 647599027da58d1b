/* SPDX-License-Identifier: Apache-2.0 */
/* godwit copy: the command line of a copy. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/paths.h"
#include "cli/task.h"
#include "common/address.h"
#include "common/error.h"
#include "engine/volume/nbd.h"

struct copy {
    struct gw_task task;
    const char *port;
};

/* NEW is a path of this host; OLD is what the image says. */
static int set_parent(struct gw_task *task, const char *value)
{
    const char *equals = strrchr(value, '=');
    char path[PATH_MAX], *whole;
    int error;

    if (!equals || equals == value || !equals[1])
        return gw_fail(-EINVAL, "'%s' is not OLD=NEW", value);
    error = gw_path_absolute(equals + 1, path, sizeof(path));
    if (error)
        return error;
    if (asprintf(&whole, "%.*s=%s", (int)(equals - value), value, path) < 0)
        return gw_fail(-ENOMEM, "out of memory");
    error = gw_task_set_mapping(task, "parents", whole);
    free(whole);
    return error;
}

static int take(void *context, const char *name, const char *value)
{
    struct copy *copy = context;

    if (strcmp(name, "format") == 0)
        return gw_task_set_text(&copy->task, "format", value);
    if (strcmp(name, "source-format") == 0)
        return gw_task_set_text(&copy->task, "source_format", value);
    if (strcmp(name, "preallocate") == 0)
        return gw_task_set_flag(&copy->task, "preallocate");
    if (strcmp(name, "dynamic") == 0 || strcmp(name, "flatten") == 0)
        return gw_task_set_flag(&copy->task, name);
    if (strcmp(name, "new-id") == 0)
        return gw_task_set_flag(&copy->task, "new_id");
    if (strcmp(name, "size") == 0)
        return gw_task_set_size(&copy->task, "size", value);
    if (strcmp(name, "block-size") == 0)
        return gw_task_set_size(&copy->task, "block_size", value);
    if (strcmp(name, "sector-size") == 0)
        return gw_task_set_size(&copy->task, "sector_size", value);
    if (strcmp(name, "parent") == 0)
        return set_parent(&copy->task, value);
    if (strcmp(name, "sync-every") == 0)
        return gw_task_set_number(&copy->task, "sync_every_s", value);
    if (strcmp(name, "port") == 0) {
        copy->port = value;
        return 0;
    }
    return gw_task_take(&copy->task, name, value);
}

static const struct gw_usage_option options[] = {
    {"format", "FORMAT", "what to write: raw, vhdx, qcow2, vdi or vmdk; as the source"},
    {"source-format", "FORMAT",
     "what the source is: raw, vhdx, vhd, qcow2, vdi or vmdk; found out from its content"},
    {"preallocate", NULL, "take all of the target's space beforehand; a VHDX becomes a fixed one"},
    {"dynamic", NULL, "do not, although the source is fixed"},
    {"size", "SIZE", "make the disk larger: bytes, or 512K, 20G, 4T"},
    {"block-size", "SIZE", "of a VHDX: 1M to 256M; as the source's"},
    {"sector-size", "N", "of a VHDX: 512 or 4096, where the content allows it; as the source's"},
    {"new-id", NULL, "a VHDX gets new identifiers; else it keeps the source's"},
    {"flatten", NULL, "make one image of a differencing disk, not a copy of each file"},
    {"parent", "OLD=NEW", "a parent of the source that lies elsewhere on this host (repeatable)"},
    {"sync-every", "SECONDS",
     "what a loss can cost, at most: how often the target makes all of it durable; 10"},
    {"port", "N", "the agent's port on HOST; 13560"},
    GW_TASK_OPTIONS,
};

static const struct gw_usage usage = {
    .name = "copy",
    .arguments = "SOURCE [HOST:]PATH [OPTIONS]",
    .about =
        "Copies a disk image that no VM uses: to another host, beneath its agent's storage "
        "folder,\n"
        "or to another path on this one. What is before a ':' is a host when no '/' comes before\n"
        "it; IPv6 addresses stand in brackets. SOURCE and PATH may be block devices, and NBD\n"
        "exports: nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH. In this host's agent where one\n"
        "runs (Ctrl-C detaches), else in the command itself (Ctrl-C cancels).",
    .example = "  godwit copy --psk lab.psk disk.vhdx 10.77.0.2:disk.vhdx\n"
               "  godwit copy --format raw disk.vhdx disk.raw\n"
               "  godwit copy 'nbd+unix:///?socket=/run/vm.nbd' 10.77.0.2:vm.raw",
    .options = options,
    .take = take,
};

/* The ':' between host and path, or NULL for a path on this host. */
static const char *find_colon(const char *text)
{
    const char *colon = strchr(text, ':'), *slash = strchr(text, '/');

    if (gw_nbd_is_uri(text))
        return NULL;
    if (text[0] == '[') {
        const char *close = strchr(text, ']');

        return close && close[1] == ':' ? close + 1 : NULL;
    }
    return colon && (!slash || colon < slash) ? colon : NULL;
}

static int set_place(struct copy *copy, const char *key, const char *text)
{
    return gw_nbd_is_uri(text) ? gw_task_set_text(&copy->task, key, text)
                               : gw_task_set_path(&copy->task, key, text);
}

static int set_target(struct copy *copy, const char *text)
{
    const char *colon = find_colon(text);
    char host[320];
    int error;

    if (!colon)
        return set_place(copy, "target", text);
    if (colon == text)
        return gw_fail(-EINVAL, "'%s' has no host before the ':'", text);
    error = snprintf(host, sizeof(host), "%.*s%s%s", (int)(colon - text), text,
                     copy->port ? ":" : "", copy->port ? copy->port : "");
    if (error >= (int)sizeof(host))
        return gw_fail(-EINVAL, "the host of '%s' is too long", text);
    error = gw_task_set_text(&copy->task, "to", host);
    if (!error && colon[1])
        error = gw_task_set_text(&copy->task, "target", colon + 1);
    return error;
}

static int check(struct copy *copy, int argc, char **argv, int first)
{
    int error;

    if (argc - first != 2)
        return gw_usage_fail(&usage, "expected SOURCE and [HOST:]PATH");
    if (find_colon(argv[first]))
        return gw_usage_fail(&usage,
                             "the source '%s' looks like another host's: run the copy there, or "
                             "write ./%s for a file of that name",
                             argv[first], argv[first]);
    error = set_place(copy, "source", argv[first]);
    if (!error)
        error = set_target(copy, argv[first + 1]);
    if (error)
        return gw_usage_fail(&usage, "%s", gw_error_message());
    if (copy->port && !json_object_get(copy->task.request, "to"))
        return gw_usage_fail(&usage, "--port, but '%s' names no host", argv[first + 1]);
    return 0;
}

int gw_command_copy(int argc, char **argv)
{
    struct copy copy = {.port = NULL};
    int first, code = GW_EXIT_FAILED;

    if (gw_task_init(&copy.task, "copy") != 0)
        return code;
    copy.task.may_run_here = true;
    if (gw_usage_parse(&usage, argc, argv, &copy, &first, &code)) {
        code = check(&copy, argc, argv, first);
        if (!code)
            code = gw_task_run(&usage, &copy.task);
    }
    gw_task_free(&copy.task);
    return code;
}
