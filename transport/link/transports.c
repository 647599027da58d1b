/* SPDX-License-Identifier: Apache-2.0 */
/* Which back ends there are, and which of them a peer is reached by. It knows none by name. */
#include "transport/link/transports.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/log.h"

static const struct gw_transport_maker *find_maker(const char *name)
{
    for (size_t i = 0; gw_transport_makers[i]; i++)
        if (strcmp(gw_transport_makers[i]->name, name) == 0)
            return gw_transport_makers[i];
    return NULL;
}

static int refuse_name(const char *name)
{
    char known[128] = "";

    for (size_t i = 0; gw_transport_makers[i]; i++)
        snprintf(known + strlen(known), sizeof(known) - strlen(known), ", %s",
                 gw_transport_makers[i]->name);
    return gw_fail(-EINVAL, "transport '%.32s' is not part of this build: auto%s", name, known);
}

struct gw_transport *gw_transports_find(const struct gw_transports *transports, const char *name)
{
    for (unsigned i = 0; i < transports->count; i++)
        if (strcmp(transports->list[i]->ops->name, name) == 0)
            return transports->list[i];
    return NULL;
}

/* The place of that back end's reason, or passed_count. */
static unsigned find_reason(const struct gw_transports *transports, const char *name)
{
    unsigned i = 0;

    while (i < transports->passed_count &&
           strncmp(transports->passed[i].name, name, GW_TRANSPORT_NAME_MAX - 1) != 0)
        i++;
    return i;
}

const char *gw_transports_reason(const struct gw_transports *transports, const char *name)
{
    unsigned found = find_reason(transports, name);

    return found < transports->passed_count ? transports->passed[found].reason : NULL;
}

static void forget_reason(struct gw_transports *transports, const char *name)
{
    unsigned found = find_reason(transports, name);

    if (found == transports->passed_count)
        return;
    transports->passed_count--;
    memmove(&transports->passed[found], &transports->passed[found + 1],
            (transports->passed_count - found) * sizeof(transports->passed[0]));
}

void gw_transports_pass_over(struct gw_transports *transports, const char *name)
{
    unsigned found = find_reason(transports, name);
    struct gw_passed_over *entry = &transports->passed[found];

    if (found == GW_TRANSPORTS_MAX)
        return;
    transports->passed_count = (unsigned)gw_max(transports->passed_count, found + 1);
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    snprintf(entry->reason, sizeof(entry->reason), "%s", gw_error_message());
}

/* Calls take for each name of a list with commas. */
static int each_name(const char *names, int (*take)(const char *name, void *context), void *context)
{
    char *copy = strdup(names), *rest = copy, *word;
    int error = copy ? 0 : gw_fail(-ENOMEM, "out of memory");

    while (!error && (word = strsep(&rest, ", ")))
        if (*word)
            error = take(word, context);
    free(copy);
    return error;
}

static bool is_auto(const char *name)
{
    return strcmp(name, "auto") == 0;
}

static int make(const struct gw_transport_maker *maker, struct gw_transports *out)
{
    int error;

    if (gw_transports_find(out, maker->name))
        return 0;
    if (out->count == GW_TRANSPORTS_MAX)
        return gw_fail(-E2BIG, "more than %u transports", GW_TRANSPORTS_MAX);
    error = maker->create(&out->list[out->count]);
    if (!error)
        out->count++;
    return error;
}

static void make_usable(struct gw_transports *out)
{
    for (size_t i = 0; gw_transport_makers[i]; i++) {
        const struct gw_transport_maker *maker = gw_transport_makers[i];

        if (maker->is_only_by_name || make(maker, out) == 0)
            continue;
        gw_transports_pass_over(out, maker->name);
        gw_log(GW_LOG_INFO, "transport %s is passed over: %s", maker->name, gw_error_message());
    }
}

static int make_named(const char *name, void *context)
{
    const struct gw_transport_maker *maker = find_maker(name);

    if (is_auto(name)) {
        make_usable(context);
        return 0;
    }
    return maker ? make(maker, context) : refuse_name(name);
}

int gw_transports_open(const char *const *names, unsigned count, struct gw_transports *out)
{
    int error = 0;

    memset(out, 0, sizeof(*out));
    if (count == 0)
        make_usable(out);
    for (unsigned i = 0; !error && i < count; i++)
        error = each_name(names[i], make_named, out);
    if (!error && out->count == 0)
        error = gw_fail(-ENODEV, "no transport of this build can be used on this host");
    if (error)
        gw_transports_close(out);
    return error;
}

void gw_transports_close(struct gw_transports *transports)
{
    for (unsigned i = 0; i < transports->count; i++)
        gw_transport_free(transports->list[i]);
    memset(transports, 0, sizeof(*transports));
}

struct choice {
    const struct gw_transports *all;
    struct gw_transports *out;
};

static int choose_named(const char *name, void *context)
{
    struct choice *choice = context;
    struct gw_transport *found = gw_transports_find(choice->all, name);

    if (is_auto(name)) {
        *choice->out = *choice->all;
        return 0;
    }
    if (!found && !find_maker(name))
        return refuse_name(name);
    if (!found && gw_transports_reason(choice->all, name))
        return gw_fail(-ENODEV, "transport %s cannot be used here: %s", name,
                       gw_transports_reason(choice->all, name));
    if (!found)
        return gw_fail(-ENODEV, "transport %s is not in use here: the agent's --transport names it",
                       name);
    if (!gw_transports_find(choice->out, name))
        choice->out->list[choice->out->count++] = found;
    return 0;
}

int gw_transports_choose(const struct gw_transports *all, const char *names,
                         struct gw_transports *out)
{
    struct choice choice = {.all = all, .out = out};

    memset(out, 0, sizeof(*out));
    return each_name(names ? names : "auto", choose_named, &choice);
}

static int dial_each(struct gw_transport *transport, const struct gw_address *peers,
                     unsigned peer_count, const struct gw_control_options *options,
                     struct gw_control **out)
{
    int error = gw_fail(-EINVAL, "no address to dial");

    for (unsigned i = 0; i < peer_count; i++) {
        if (i > 0)
            gw_log(GW_LOG_INFO, "another address is dialled: %s", gw_error_message());
        error = gw_control_connect(transport, &peers[i], options, out);
        /* Who was refused for what it is would be refused at the other address, too. */
        if (!error || error == -EACCES)
            break;
    }
    return error;
}

int gw_transports_dial(struct gw_transports *transports, const struct gw_address *peers,
                       unsigned peer_count, const struct gw_control_options *options,
                       struct gw_control **out)
{
    int error = gw_fail(-ENODEV, "no transport to dial with");

    for (unsigned i = 0; i < transports->count; i++) {
        const char *name = transports->list[i]->ops->name;

        error = dial_each(transports->list[i], peers, peer_count, options, out);
        if (!error)
            forget_reason(transports, name);
        if (!error || error == -EACCES || i + 1 == transports->count)
            return error;
        gw_transports_pass_over(transports, name);
        gw_log(GW_LOG_WARNING, "transport %s is passed over: %s", name, gw_error_message());
    }
    return error;
}
