/* SPDX-License-Identifier: Apache-2.0 */
/* Takes an agent's options by name, from a command line or an INI file. It opens nothing that they
 * name. */
#include "agent/options.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"

#define DEFAULT_LIMIT 2u

static_assert(GW_LISTEN_MAX <= GW_TRUSTED_MAX, "lists share one type");
static_assert(GW_TRANSPORTS_MAX <= GW_TRUSTED_MAX, "lists share one type");
static_assert(GW_TRANSPORT_SETTINGS_MAX <= GW_TRUSTED_MAX, "lists share one type");
static_assert(GW_STORAGE_MAX <= GW_TRUSTED_MAX, "lists share one type");
static_assert(GW_FINGERPRINTS_MAX <= GW_TRUSTED_MAX, "lists share one type");

struct text_option {
    const char *name;
    size_t offset;
};

struct list_option {
    const char *name;
    size_t offset;
    unsigned max;
};

static const struct text_option text_options[] = {
    {"psk", offsetof(struct gw_agent_options, psk)},
    {"cert", offsetof(struct gw_agent_options, cert)},
    {"key", offsetof(struct gw_agent_options, key)},
    {"ca", offsetof(struct gw_agent_options, ca)},
    {"state", offsetof(struct gw_agent_options, state)},
    {"socket", offsetof(struct gw_agent_options, socket)},
    {"launch", offsetof(struct gw_agent_options, launch)},
    {"to-qmp", offsetof(struct gw_agent_options, to_qmp)},
};

static const struct list_option list_options[] = {
    {"listen", offsetof(struct gw_agent_options, listen), GW_LISTEN_MAX},
    {"transport", offsetof(struct gw_agent_options, transports), GW_TRANSPORTS_MAX},
    {"transport-option", offsetof(struct gw_agent_options, settings), GW_TRANSPORT_SETTINGS_MAX},
    {"storage", offsetof(struct gw_agent_options, storage), GW_STORAGE_MAX},
    {"trusted-network", offsetof(struct gw_agent_options, trusted), GW_TRUSTED_MAX},
    {"fingerprint", offsetof(struct gw_agent_options, fingerprints), GW_FINGERPRINTS_MAX},
};

static char **text_at(struct gw_agent_options *options, size_t offset)
{
    return (char **)(void *)((char *)options + offset);
}

static struct gw_texts *list_at(struct gw_agent_options *options, size_t offset)
{
    return (struct gw_texts *)(void *)((char *)options + offset);
}

void gw_agent_options_init(struct gw_agent_options *options)
{
    memset(options, 0, sizeof(*options));
    options->ready_fd = -1;
    options->reconnect_s = -1;
}

static void empty_list(struct gw_texts *list)
{
    for (unsigned i = 0; i < list->count; i++)
        free((char *)list->items[i]);
    list->count = 0;
}

void gw_agent_options_free(struct gw_agent_options *options)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(text_options); i++) {
        free(*text_at(options, text_options[i].offset));
        *text_at(options, text_options[i].offset) = NULL;
    }
    for (size_t i = 0; i < GW_ARRAY_LENGTH(list_options); i++)
        empty_list(list_at(options, list_options[i].offset));
}

static int set_limit(struct gw_limits *limits, const char *word)
{
    static const struct {
        const char *name;
        size_t offset;
    } names[] = {
        {"live-out=", offsetof(struct gw_limits, live_out)},
        {"live-in=", offsetof(struct gw_limits, live_in)},
        {"storage-out=", offsetof(struct gw_limits, storage_out)},
        {"storage-in=", offsetof(struct gw_limits, storage_in)},
    };

    for (size_t i = 0; i < GW_ARRAY_LENGTH(names); i++) {
        size_t length = strlen(names[i].name);
        unsigned long value;
        char *rest;

        if (strncmp(word, names[i].name, length) != 0)
            continue;
        value = strtoul(word + length, &rest, 10);
        if (*rest || rest == word + length || value < 1 || value > GW_LIMIT_MAX)
            return gw_fail(-EINVAL, "limits: '%s' is not a number from 1 to %u", word,
                           GW_LIMIT_MAX);
        *(unsigned *)(void *)((char *)limits + names[i].offset) = (unsigned)value;
        return 0;
    }
    return gw_fail(-EINVAL,
                   "limits: '%s' is none of live-out=N, live-in=N, storage-out=N, storage-in=N",
                   word);
}

static int set_limits(struct gw_limits *limits, const char *value)
{
    char *copy = strdup(value), *rest = copy, *word;
    int error = 0;

    if (!copy)
        return gw_fail(-ENOMEM, "out of memory");
    while (!error && (word = strsep(&rest, ", ")))
        if (*word)
            error = set_limit(limits, word);
    free(copy);
    return error;
}

static int set_keep_partial(struct gw_agent_options *options, const char *value)
{
    char *rest;
    unsigned long hours = strtoul(value, &rest, 10);

    if (*rest || *value < '0' || *value > '9' || hours > GW_KEEP_PARTIAL_MAX)
        return gw_fail(-EINVAL, "keep-partial: '%s' is not a number of hours from 0 to %u", value,
                       GW_KEEP_PARTIAL_MAX);
    options->keep_partial_hours = (unsigned)hours;
    options->has_keep_partial = true;
    return 0;
}

static int set_seconds(int *seconds, const char *name, const char *value, unsigned max)
{
    unsigned long number;
    char *rest;

    errno = 0;
    number = strtoul(value, &rest, 10);
    if (errno || *rest || rest == value || *value == '-' || number > max)
        return gw_fail(-EINVAL, "%s: '%s' is not a number of seconds from 0 to %u", name, value,
                       max);
    *seconds = (int)number;
    return 0;
}

static int set_flag(bool *flag, const char *name, const char *value)
{
    if (!value || strcmp(value, "true") == 0 || strcmp(value, "yes") == 0)
        *flag = true;
    else if (strcmp(value, "false") == 0 || strcmp(value, "no") == 0)
        *flag = false;
    else
        return gw_fail(-EINVAL, "%s: '%s' is neither true nor false", name, value);
    return 0;
}

static int add_text(struct gw_texts *list, const struct list_option *option, const char *value)
{
    char *copy;

    if (list->count == option->max)
        return gw_fail(-EINVAL, "%s: more than %u", option->name, option->max);
    copy = strdup(value);
    if (!copy)
        return gw_fail(-ENOMEM, "out of memory");
    list->items[list->count++] = copy;
    return 0;
}

/* The one transport option that has a name of its own. */
static int set_provider(struct gw_agent_options *options, const char *value)
{
    char text[80];

    if (snprintf(text, sizeof(text), "fabric.provider=%s", value) >= (int)sizeof(text))
        return gw_fail(-EINVAL, "provider: '%.32s...' is too long", value);
    return gw_agent_options_set(options, "transport-option", text);
}

int gw_agent_options_set(struct gw_agent_options *options, const char *name, const char *value)
{
    if (strcmp(name, "allow-bench") == 0)
        return set_flag(&options->allow_bench, name, value);
    if (strcmp(name, "allow-volatile-state") == 0)
        return set_flag(&options->allow_volatile_state, name, value);
    if (!value || !*value)
        return gw_fail(-EINVAL, "%s has no value", name);
    if (strcmp(name, "provider") == 0)
        return set_provider(options, value);
    if (strcmp(name, "reconnect-timeout") == 0)
        return set_seconds(&options->reconnect_s, name, value, GW_RECONNECT_MAX_S);
    if (strcmp(name, "limits") == 0)
        return set_limits(&options->limits, value);
    if (strcmp(name, "keep-partial") == 0)
        return set_keep_partial(options, value);
    if (strcmp(name, "pin-limit") == 0)
        return gw_pins_parse(value, &options->pin_limit);
    for (size_t i = 0; i < GW_ARRAY_LENGTH(text_options); i++) {
        char **text, *copy;

        if (strcmp(name, text_options[i].name) != 0)
            continue;
        copy = strdup(value);
        if (!copy)
            return gw_fail(-ENOMEM, "out of memory");
        text = text_at(options, text_options[i].offset);
        free(*text);
        *text = copy;
        return 0;
    }
    for (size_t i = 0; i < GW_ARRAY_LENGTH(list_options); i++)
        if (strcmp(name, list_options[i].name) == 0)
            return add_text(list_at(options, list_options[i].offset), &list_options[i], value);
    return gw_fail(-ENOENT, "there is no option '%s'", name);
}

struct load {
    struct gw_agent_options *options;
    int error;
    char text[GW_ERROR_TEXT_MAX / 2];
};

/* A section named for a back end holds its options: "[dpdk] devargs = X" is the transport option
 * dpdk.devargs=X. Whether there is such an option is the back end's to say. */
static int take_setting(struct gw_agent_options *options, const char *section, const char *name,
                        const char *value)
{
    char known[128] = "", text[1024];

    for (size_t i = 0; gw_transport_makers[i]; i++) {
        if (strcmp(section, gw_transport_makers[i]->name) != 0) {
            snprintf(known + strlen(known), sizeof(known) - strlen(known), ", [%s]",
                     gw_transport_makers[i]->name);
            continue;
        }
        if (snprintf(text, sizeof(text), "%s.%s=%s", section, name, value) >= (int)sizeof(text))
            return gw_fail(-EINVAL, "%s: '%.32s...' is too long", name, value);
        return gw_agent_options_set(options, "transport-option", text);
    }
    return gw_fail(-EINVAL, "section [%s]: only [agent] and those of transports exist%s", section,
                   known);
}

/* inih's callback answers 0 for an error and then goes on; only the first error is kept. */
static int take_line(void *context, const char *section, const char *name, const char *value)
{
    struct load *load = context;

    if (load->error)
        return 1;
    if (strcmp(section, "agent") != 0)
        load->error = take_setting(load->options, section, name, value);
    else
        load->error = gw_agent_options_set(load->options, name, value);
    if (load->error)
        snprintf(load->text, sizeof(load->text), "%s", gw_error_message());
    return load->error ? 0 : 1;
}

int gw_agent_options_load(const char *path, struct gw_agent_options *options)
{
    struct load load = {.options = options};
    int line = ini_parse(path, take_line, &load);

    if (line == -1)
        return gw_fail_errno(-errno, "configuration %s", path);
    if (line < 0)
        return gw_fail(-ENOMEM, "configuration %s: out of memory", path);
    if (load.error)
        return gw_fail(-EINVAL, "configuration %s, line %d: %s", path, line, load.text);
    if (line > 0)
        return gw_fail(-EINVAL, "configuration %s, line %d: expected NAME = VALUE", path, line);
    return 0;
}

static void merge_limit(unsigned *limit, unsigned fallback)
{
    if (!*limit)
        *limit = fallback;
}

void gw_agent_options_merge(struct gw_agent_options *options, struct gw_agent_options *fallback)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(text_options); i++) {
        char **text = text_at(options, text_options[i].offset);
        char **other = text_at(fallback, text_options[i].offset);

        if (*text)
            continue;
        *text = *other;
        *other = NULL;
    }
    for (size_t i = 0; i < GW_ARRAY_LENGTH(list_options); i++) {
        struct gw_texts *list = list_at(options, list_options[i].offset);
        struct gw_texts *other = list_at(fallback, list_options[i].offset);

        if (list->count)
            continue;
        *list = *other;
        other->count = 0;
    }
    merge_limit(&options->limits.live_out, fallback->limits.live_out);
    merge_limit(&options->limits.live_in, fallback->limits.live_in);
    merge_limit(&options->limits.storage_out, fallback->limits.storage_out);
    merge_limit(&options->limits.storage_in, fallback->limits.storage_in);
    if (!options->has_keep_partial && fallback->has_keep_partial) {
        options->keep_partial_hours = fallback->keep_partial_hours;
        options->has_keep_partial = true;
    }
    if (options->reconnect_s < 0)
        options->reconnect_s = fallback->reconnect_s;
    if (!options->pin_limit)
        options->pin_limit = fallback->pin_limit;
    options->allow_bench |= fallback->allow_bench;
    options->allow_volatile_state |= fallback->allow_volatile_state;
    gw_agent_options_free(fallback);
}

void gw_limits_complete(struct gw_limits *limits)
{
    merge_limit(&limits->live_out, DEFAULT_LIMIT);
    merge_limit(&limits->live_in, DEFAULT_LIMIT);
    merge_limit(&limits->storage_out, DEFAULT_LIMIT);
    merge_limit(&limits->storage_in, DEFAULT_LIMIT);
}

bool gw_agent_options_credentials(const struct gw_agent_options *options,
                                  struct gw_credentials_options *out)
{
    *out = (struct gw_credentials_options){
        .psk_path = options->psk,
        .certificate_path = options->cert,
        .key_path = options->key,
        .ca_path = options->ca,
        .fingerprints = options->fingerprints.items,
        .fingerprint_count = options->fingerprints.count,
    };
    return options->psk || options->cert || options->key || options->ca ||
           options->fingerprints.count;
}
