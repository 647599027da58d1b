/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes the members of control messages, trusting none. */
#include "engine/session/message.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "common/error.h"

#define LANES_MAX 64u /* reports: as many lanes as a migration may have */

int gw_message_send(struct gw_control *control, json_t *message)
{
    int error;

    if (!message)
        return gw_fail(-ENOMEM, "no memory for a message");
    error = gw_control_send(control, message);
    json_decref(message);
    return error;
}

int gw_message_send_type(struct gw_control *control, const char *type)
{
    return gw_message_send(control, json_pack("{s:s}", "type", type));
}

/* JSON is UTF-8: the name of a file need not be, and a long text may be cut within a character. */
static json_t *text_of(const struct gw_error *error)
{
    json_t *text = json_string(error->text);
    char plain[GW_ERROR_TEXT_MAX];

    if (text)
        return text;
    for (unsigned i = 0; i < sizeof(plain); i++)
        plain[i] = (char)((unsigned char)error->text[i] < 0x80 ? error->text[i] : '?');
    return json_string(plain);
}

int gw_message_send_error(struct gw_control *control, int code)
{
    struct gw_error error;

    gw_error_take(code, &error);
    /* The peer may be gone already; the error itself is what counts. */
    gw_message_send(control, json_pack("{s:s,s:i,s:o}", "type", "error", "code", -code, "message",
                                       text_of(&error)));
    return gw_error_raise(&error);
}

int gw_message_send_blocked(struct gw_control *control, int code, json_t *reasons,
                            bool is_older_gone)
{
    struct gw_error error;

    gw_error_take(code, &error);
    gw_message_send(control, json_pack("{s:s,s:i,s:o,s:O,s:s*}", "type", "error", "code", -code,
                                       "message", text_of(&error), "blocked", reasons, "older",
                                       is_older_gone ? "gone" : NULL));
    return gw_error_raise(&error);
}

const char *gw_message_type(const json_t *message)
{
    const char *type = json_string_value(json_object_get(message, "type"));

    return type ? type : "";
}

bool gw_message_is(const json_t *message, const char *type)
{
    return strcmp(gw_message_type(message), type) == 0;
}

int gw_message_raise(const json_t *message)
{
    const char *text = json_string_value(json_object_get(message, "message"));
    json_int_t code = json_integer_value(json_object_get(message, "code"));

    /* Codes that callers act upon keep their meaning; the words are the peer's. */
    if (code != ENOSPC && code != EBADMSG && code != ECANCELED && code != EEXIST)
        code = EREMOTEIO;
    return gw_fail((int)-code, "the other host: %s", text ? text : "failed without a word");
}

int gw_message_raise_cause(const json_t *message)
{
    const char *cause = json_string_value(json_object_get(message, "cause"));

    return cause ? gw_fail(-ECANCELED, "the other host: %.400s", cause) : 0;
}

int gw_message_text(const json_t *message, const char *member, const char **out)
{
    const char *text = json_string_value(json_object_get(message, member));

    if (!text)
        return gw_fail(-EPROTO, "message '%s' has no text '%s'", gw_message_type(message), member);
    *out = text;
    return 0;
}

int gw_message_optional_text(const json_t *message, const char *member, const char **out)
{
    const json_t *value = json_object_get(message, member);

    *out = NULL;
    return !value || json_is_null(value) ? 0 : gw_message_text(message, member, out);
}

int gw_message_number(const json_t *message, const char *member, uint64_t max, uint64_t *out)
{
    const json_t *value = json_object_get(message, member);

    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > max)
        return gw_fail(-EPROTO, "message '%s': '%s' is not a number up to %llu",
                       gw_message_type(message), member, (unsigned long long)max);
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

int gw_message_bool(const json_t *message, const char *member, bool *out)
{
    const json_t *value = json_object_get(message, member);

    if (value && !json_is_boolean(value))
        return gw_fail(-EPROTO, "message '%s': '%s' is not true or false", gw_message_type(message),
                       member);
    *out = json_is_true(value);
    return 0;
}

int gw_message_array(const json_t *message, const char *member, size_t max, json_t **out)
{
    json_t *value = json_object_get(message, member);

    if (!json_is_array(value) || json_array_size(value) > max)
        return gw_fail(-EPROTO, "message '%s': '%s' is not a list of up to %zu items",
                       gw_message_type(message), member, max);
    *out = value;
    return 0;
}

static int member_id(const json_t *message, const char *member, char out[2 * GW_ID_SIZE + 1])
{
    uint8_t id[GW_ID_SIZE];
    const char *text;
    int error = gw_message_text(message, member, &text);

    if (!error)
        error = gw_id_parse(text, id);
    if (!error)
        gw_id_format(id, out);
    return error;
}

int gw_message_rejoin(const json_t *message, char epoch[2 * GW_ID_SIZE + 1],
                      char link[2 * GW_ID_SIZE + 1])
{
    int error = member_id(message, "epoch", epoch);

    return error ? error : member_id(message, "link", link);
}

int gw_message_lanes(const json_t *message, json_t **out)
{
    return gw_message_array(message, "lanes", LANES_MAX, out);
}

uint64_t gw_message_applied(const json_t *lanes, uint32_t number)
{
    const json_t *item;
    size_t index;

    json_array_foreach((json_t *)lanes, index, item)
    {
        uint64_t channel, applied;

        if (gw_message_number(item, "channel", UINT32_MAX, &channel) == 0 && channel == number &&
            gw_message_number(item, "applied", INT64_MAX, &applied) == 0)
            return applied;
    }
    return 0;
}

void gw_id_format(const uint8_t *id, char *out)
{
    for (unsigned i = 0; i < GW_ID_SIZE; i++)
        snprintf(out + (size_t)i * 2, 3, "%02x", id[i]);
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

int gw_id_parse(const char *text, uint8_t *out)
{
    if (strlen(text) != 2u * GW_ID_SIZE)
        return gw_fail(-EPROTO, "'%.40s' is not an id of 32 hex digits", text);
    for (unsigned i = 0; i < GW_ID_SIZE; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return gw_fail(-EPROTO, "'%.40s' is not an id of 32 hex digits", text);
        out[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

int gw_id_random(uint8_t *out)
{
    if (getrandom(out, GW_ID_SIZE, 0) != (ssize_t)GW_ID_SIZE)
        return gw_fail_errno(-errno, "no random bytes");
    return 0;
}
