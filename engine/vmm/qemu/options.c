/* SPDX-License-Identifier: Apache-2.0 */
/* Splits QEMU option arguments. It knows the two notations and no option's meaning. */
#include "engine/vmm/qemu/options.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/json.h"

#define DEPTH_MAX 6

static int append(struct gw_options *options, const char *name, const char *value)
{
    struct gw_option *item;

    if (options->count == GW_OPTIONS_MAX)
        return gw_fail(-EINVAL, "an option with more than %u members, at %.64s", GW_OPTIONS_MAX,
                       name);
    item = &options->items[options->count];
    item->is_used = false;
    item->name = strdup(name);
    item->value = strdup(value);
    if (!item->name || !item->value) {
        free(item->name);
        free(item->value);
        return gw_fail(-ENOMEM, "no memory for the option %.64s", name);
    }
    options->count++;
    return 0;
}

static int flatten(struct gw_options *out, const char *prefix, const json_t *value, int depth)
{
    char name[256], text[64];
    const char *key;
    json_t *member;
    size_t index;
    int ret = 0;

    if (depth > DEPTH_MAX)
        return gw_fail(-EINVAL, "an option nested too deep, at %.64s", prefix);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        json_object_foreach((json_t *)value, key, member)
        {
            snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
            ret = flatten(out, name, member, depth + 1);
            if (ret < 0)
                return ret;
        }
        return 0;
    case JSON_ARRAY:
        json_array_foreach(value, index, member)
        {
            snprintf(name, sizeof(name), "%s.%zu", prefix, index);
            ret = flatten(out, name, member, depth + 1);
            if (ret < 0)
                return ret;
        }
        return 0;
    case JSON_STRING:
        return append(out, prefix, json_string_value(value));
    case JSON_INTEGER:
        snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return append(out, prefix, text);
    case JSON_REAL:
        snprintf(text, sizeof(text), "%.17g", json_real_value(value));
        return append(out, prefix, text);
    case JSON_TRUE:
        return append(out, prefix, "on");
    case JSON_FALSE:
        return append(out, prefix, "off");
    case JSON_NULL:
        return append(out, prefix, "");
    }
    return gw_fail(-EINVAL, "an option of an unknown JSON type");
}

static int parse_json(const char *text, struct gw_options *out)
{
    unsigned failures = gw_json_failures();
    json_t *object = json_loads(text, 0, NULL);
    int ret;

    if (gw_json_failures() != failures) {
        json_decref(object);
        return gw_fail(-ENOMEM, "no memory for an option");
    }
    if (!json_is_object(object)) {
        json_decref(object);
        return gw_fail(-EINVAL, "an option is not valid JSON: %.200s", text);
    }
    ret = flatten(out, "", object, 0);
    json_decref(object);
    return ret;
}

/* Copies up to the next single comma, undoubling pairs; returns what follows it, NULL at the end.
 */
static const char *next_piece(const char *text, char *piece)
{
    while (*text) {
        if (*text == ',') {
            text++;
            if (*text != ',') {
                *piece = '\0';
                return text;
            }
        }
        *piece++ = *text++;
    }
    *piece = '\0';
    return NULL;
}

int gw_options_parse(const char *text, const char *implied, struct gw_options *out)
{
    const char *rest = text;
    char *piece;
    int ret = 0;

    out->count = 0;
    if (text[0] == '{')
        return parse_json(text, out);
    piece = malloc(strlen(text) + 1);
    if (!piece)
        return gw_fail(-ENOMEM, "no memory for an option");
    while (rest && *rest && ret == 0) {
        char *equals;

        rest = next_piece(rest, piece);
        equals = strchr(piece, '=');
        if (equals)
            *equals = '\0';
        if (!equals && implied)
            ret = append(out, implied, piece);
        else
            ret = append(out, piece, equals ? equals + 1 : "on");
        implied = NULL;
    }
    free(piece);
    return ret;
}

void gw_options_free(struct gw_options *options)
{
    for (unsigned i = 0; i < options->count; i++) {
        free(options->items[i].name);
        free(options->items[i].value);
    }
    options->count = 0;
}

const char *gw_options_take(struct gw_options *options, const char *name)
{
    const char *value = NULL;

    for (unsigned i = 0; i < options->count; i++) {
        if (strcmp(options->items[i].name, name) == 0) {
            options->items[i].is_used = true;
            value = options->items[i].value;
        }
    }
    return value;
}

const char *gw_options_get(const struct gw_options *options, const char *name)
{
    const char *value = NULL;

    for (unsigned i = 0; i < options->count; i++) {
        if (strcmp(options->items[i].name, name) == 0)
            value = options->items[i].value;
    }
    return value;
}

static bool is_one_of(const char *text, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0)
            return true;
    }
    return false;
}

int gw_option_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"on", "yes", "true", "y"};
    static const char *const no[] = {"off", "no", "false", "n"};

    if (!is_one_of(text, yes, GW_ARRAY_LENGTH(yes)) && !is_one_of(text, no, GW_ARRAY_LENGTH(no)))
        return gw_fail(-EINVAL, "\"%.64s\" is neither on nor off", text);
    *out = is_one_of(text, yes, GW_ARRAY_LENGTH(yes));
    return 0;
}

int gw_option_number(const char *text, uint64_t *out)
{
    int base = strncmp(text, "0x", 2) == 0 ? 16 : 10;
    unsigned long long value;
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return gw_fail(-EINVAL, "\"%.64s\" is not a number", text);
    errno = 0;
    value = strtoull(text, &end, base);
    if (errno || *end)
        return gw_fail(-EINVAL, "\"%.64s\" is not a number", text);
    *out = value;
    return 0;
}

int gw_option_size(const char *text, uint64_t default_unit, uint64_t *out)
{
    static const char suffixes[] = "BKMGTPE";
    uint64_t unit = default_unit, value;
    unsigned long long number;
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return gw_fail(-EINVAL, "\"%.64s\" is not a size", text);
    errno = 0;
    number = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
    if (errno == 0 && *end) {
        const char *suffix = strchr(suffixes, toupper((unsigned char)*end));

        if (!suffix || end[1])
            return gw_fail(-EINVAL, "\"%.64s\" is not a size", text);
        unit = 1ull << (10 * (suffix - suffixes));
    }
    if (errno || !gw_mul_fits(number, unit, &value))
        return gw_fail(-EINVAL, "\"%.64s\" is not a size", text);
    *out = value;
    return 0;
}
