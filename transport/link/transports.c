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

bool gw_transports_has_data(const struct gw_transports *transports,
                            const struct gw_transport *transport)
{
    for (unsigned i = 0; i < transports->count; i++)
        if (transports->list[i] == transport)
            return !transports->is_for_control[i];
    return false;
}

bool gw_transports_is_named(const struct gw_transports *transports,
                            const struct gw_transport *transport)
{
    for (unsigned i = 0; i < transports->count; i++)
        if (transports->list[i] == transport)
            return transports->is_named[i];
    return false;
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

/* ---- settings ---- */

/* "BACKEND.NAME=VALUE" in three. */
struct setting {
    char back_end[GW_TRANSPORT_NAME_MAX];
    char name[32];
    const char *value;
};

static int split_setting(const char *text, struct setting *out)
{
    const char *dot = strchr(text, '.'), *equals = dot ? strchr(dot, '=') : NULL;
    size_t back_end, name;

    if (!equals || !equals[1])
        return gw_fail(-EINVAL, "transport option '%.64s' is not TRANSPORT.NAME=VALUE", text);
    back_end = (size_t)(dot - text);
    name = (size_t)(equals - dot - 1);
    if (back_end >= sizeof(out->back_end) || name == 0 || name >= sizeof(out->name))
        return gw_fail(-EINVAL, "transport option '%.64s': there is none of that name", text);
    snprintf(out->back_end, sizeof(out->back_end), "%.*s", (int)back_end, text);
    snprintf(out->name, sizeof(out->name), "%.*s", (int)name, dot + 1);
    out->value = equals + 1;
    return 0;
}

static int check_settings(const struct gw_transports_wanted *options)
{
    for (unsigned i = 0; i < options->setting_count; i++) {
        struct setting setting;
        int error = split_setting(options->settings[i], &setting);

        if (!error && !find_maker(setting.back_end))
            error = refuse_name(setting.back_end);
        if (error)
            return error;
    }
    return 0;
}

/* ---- making ---- */

struct making {
    const struct gw_transports_wanted *options;
    struct gw_transports *out;
    bool is_named; /* the back end that is being made */
};

/* With the settings that name it. */
static int create(const struct making *making, const struct gw_transport_maker *maker,
                  struct gw_transport **out)
{
    struct setting settings[GW_TRANSPORT_SETTINGS_MAX];
    struct gw_transport_option items[GW_TRANSPORT_SETTINGS_MAX];
    struct gw_transport_options options = {.items = items, .is_named = making->is_named};

    for (unsigned i = 0; i < making->options->setting_count; i++) {
        struct setting *setting = &settings[options.count];

        if (split_setting(making->options->settings[i], setting) != 0 ||
            strcmp(setting->back_end, maker->name) != 0)
            continue;
        items[options.count++] =
            (struct gw_transport_option){.name = setting->name, .value = setting->value};
    }
    return gw_transport_make(maker, &options, out);
}

static int make(const struct making *making, const struct gw_transport_maker *maker)
{
    struct gw_transports *out = making->out;
    int error;

    for (unsigned i = 0; i < out->count; i++)
        if (strcmp(out->list[i]->ops->name, maker->name) == 0) {
            out->is_named[i] |= making->is_named;
            return making->is_named ? gw_transport_probe(out->list[i]) : 0;
        }
    if (out->count == GW_TRANSPORTS_MAX)
        return gw_fail(-E2BIG, "more than %u transports", GW_TRANSPORTS_MAX);
    error = create(making, maker, &out->list[out->count]);
    if (error)
        return error;
    out->is_named[out->count] = making->is_named;
    out->is_for_control[out->count++] = false;
    return 0;
}

/* What this host cannot use is passed over; what was configured wrongly is not. */
static int make_usable(const struct making *making)
{
    for (size_t i = 0; gw_transport_makers[i]; i++) {
        const struct gw_transport_maker *maker = gw_transport_makers[i];
        int error = maker->is_only_by_name ? 0 : make(making, maker);

        if (!error)
            continue;
        if (error == -EINVAL)
            return error;
        gw_transports_pass_over(making->out, maker->name);
        gw_log(GW_LOG_INFO, "transport %s is passed over: %s", maker->name, gw_error_message());
    }
    return 0;
}

static int make_named(const char *name, void *context)
{
    const struct gw_transport_maker *maker = find_maker(name);
    struct making making = *(struct making *)context;

    if (is_auto(name))
        return make_usable(&making);
    making.is_named = true;
    return maker ? make(&making, maker) : refuse_name(name);
}

static bool any_carries_control(const struct gw_transports *transports)
{
    for (unsigned i = 0; i < transports->count; i++)
        if (!transports->list[i]->ops->carries_no_control)
            return true;
    return false;
}

/* What was named carries data alone: the rest of what works here has the conversation. */
static int make_for_control(const struct making *making)
{
    struct gw_transports *out = making->out;
    unsigned named = out->count;
    int error = make_usable(making);

    for (unsigned i = named; i < out->count; i++)
        out->is_for_control[i] = true;
    if (!error && !any_carries_control(out))
        error =
            gw_fail(-ENODEV, "transport %s carries no control, and this host has none that does",
                    out->list[0]->ops->name);
    return error;
}

int gw_transports_open(const struct gw_transports_wanted *options, struct gw_transports *out)
{
    struct making making = {.options = options, .out = out};
    int error = check_settings(options);

    memset(out, 0, sizeof(*out));
    if (!error && options->setting_count > GW_TRANSPORT_SETTINGS_MAX)
        error = gw_fail(-E2BIG, "more than %u transport options", GW_TRANSPORT_SETTINGS_MAX);
    if (!error && options->name_count == 0)
        error = make_usable(&making);
    for (unsigned i = 0; !error && i < options->name_count; i++)
        error = each_name(options->names[i], make_named, &making);
    if (!error && out->count == 0)
        error = gw_fail(-ENODEV, "no transport of this build can be used on this host");
    if (!error && !any_carries_control(out))
        error = make_for_control(&making);
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

static void drop(struct gw_transports *transports, unsigned i)
{
    unsigned behind = --transports->count - i;

    memmove(&transports->list[i], &transports->list[i + 1], behind * sizeof(transports->list[0]));
    memmove(&transports->is_for_control[i], &transports->is_for_control[i + 1],
            behind * sizeof(transports->is_for_control[0]));
    memmove(&transports->is_named[i], &transports->is_named[i + 1],
            behind * sizeof(transports->is_named[0]));
}

/* This host cannot use it just now; the calling thread's message says why. Of what was asked for by name the
 * attempt is to be seen to fail. */
static bool is_unusable(const struct gw_transports *transports, unsigned i)
{
    return !transports->is_named[i] && gw_transport_probe(transports->list[i]) != 0;
}

/* What could not be used a while ago may be usable by now. */
static void drop_unusable(struct gw_transports *transports)
{
    for (unsigned i = 0; i < transports->count;) {
        const char *name = transports->list[i]->ops->name;

        if (is_unusable(transports, i)) {
            gw_transports_pass_over(transports, name);
            drop(transports, i);
        } else {
            forget_reason(transports, name);
            i++;
        }
    }
}

static int refuse_unusable(const char *name, const char *reason)
{
    return gw_fail(-ENODEV, "transport %s cannot be used here: %s", name, reason);
}

static int choose_named(const char *name, void *context)
{
    struct choice *choice = context;
    struct gw_transport *found = gw_transports_find(choice->all, name);

    if (is_auto(name)) {
        *choice->out = *choice->all;
        drop_unusable(choice->out);
        return 0;
    }
    if (!found && !find_maker(name))
        return refuse_name(name);
    if (!found && gw_transports_reason(choice->all, name))
        return refuse_unusable(name, gw_transports_reason(choice->all, name));
    if (!found || !gw_transports_has_data(choice->all, found))
        return gw_fail(-ENODEV, "transport %s is not in use here: the agent's --transport names it",
                       name);
    if (gw_transport_probe(found) != 0)
        return refuse_unusable(name, gw_error_message());
    if (!gw_transports_find(choice->out, name))
        choice->out->list[choice->out->count++] = found;
    return 0;
}

/* As make_for_control, of those that are there. */
static void choose_for_control(const struct gw_transports *all, struct gw_transports *out)
{
    if (any_carries_control(out))
        return;
    for (unsigned i = 0; i < all->count && out->count < GW_TRANSPORTS_MAX; i++) {
        if (all->list[i]->ops->carries_no_control || is_unusable(all, i))
            continue;
        out->is_for_control[out->count] = true;
        out->list[out->count++] = all->list[i];
    }
}

int gw_transports_choose(const struct gw_transports *all, const char *names,
                         struct gw_transports *out)
{
    struct choice choice = {.all = all, .out = out};

    int error;

    memset(out, 0, sizeof(*out));
    error = each_name(names ? names : "auto", choose_named, &choice);
    if (!error)
        choose_for_control(all, out);
    return error;
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
    unsigned last = 0;

    for (unsigned i = 0; i < transports->count; i++)
        if (!transports->list[i]->ops->carries_no_control)
            last = i;
    for (unsigned i = 0; i < transports->count; i++) {
        const char *name = transports->list[i]->ops->name;

        if (transports->list[i]->ops->carries_no_control)
            continue;
        error = dial_each(transports->list[i], peers, peer_count, options, out);
        if (!error)
            forget_reason(transports, name);
        if (!error || error == -EACCES || i == last)
            return error;
        gw_transports_pass_over(transports, name);
        gw_log(GW_LOG_WARNING, "transport %s is passed over: %s", name, gw_error_message());
    }
    return error;
}
