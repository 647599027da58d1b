/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a request's JSON and turns it into what the engine takes. It starts nothing and opens
 * nothing. */
#include "agent/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/volume/nbd.h"

#define CHANNELS_MAX     64u
#define MAX_PAUSE_MS_MAX 600000u
#define SYNC_EVERY_MAX   3600u
#define STALL_S_MAX      3600u

static const char *const move_keys[] = {
    "request",       "qmp",         "to",           "storage",
    "disks",         "nets",        "max_pause_ms", "no_throttle",
    "delete_source", "verify",      "tracker",      "channels",
    "congestion",    "transport",   "credentials",  "trusted_networks",
    "pin_limit",     "reconnect_s", "stall_s",      "resume",
    "sync_every_s",  NULL,
};

static const char *const copy_keys[] = {
    "request",     "source",      "source_format", "to",           "target",
    "format",      "preallocate", "dynamic",       "size",         "block_size",
    "sector_size", "new_id",      "flatten",       "parents",      "verify",
    "channels",    "congestion",  "transport",     "credentials",  "trusted_networks",
    "reconnect_s", "stall_s",     "resume",        "sync_every_s", NULL,
};

static const char *const credential_keys[] = {"psk", "cert", "key", "ca", "fingerprints", NULL};

static int refuse_unknown(json_t *object, const char *const *known)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value)
    {
        unsigned i = 0;

        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            return gw_fail(-EINVAL, "request: there is no key '%.64s'", key);
    }
    return 0;
}

/* NULL stays in *out when the key is missing. */
static int get_text(json_t *object, const char *key, const char **out)
{
    json_t *value = json_object_get(object, key);

    if (!value || json_is_null(value))
        return 0;
    if (!json_is_string(value) || !json_string_length(value))
        return gw_fail(-EINVAL, "request: '%s' is not a text", key);
    if (strlen(json_string_value(value)) != json_string_length(value))
        return gw_fail(-EINVAL, "request: '%s' has a zero byte in it", key);
    *out = json_string_value(value);
    return 0;
}

static int need_text(json_t *object, const char *key, const char **out)
{
    int error = get_text(object, key, out);

    if (!error && !*out)
        return gw_fail(-EINVAL, "request: '%s' is missing", key);
    return error;
}

static int get_flag(json_t *object, const char *key, bool *out)
{
    json_t *value = json_object_get(object, key);

    if (!value)
        return 0;
    if (!json_is_boolean(value))
        return gw_fail(-EINVAL, "request: '%s' is neither true nor false", key);
    *out = json_is_true(value);
    return 0;
}

static int get_number(json_t *object, const char *key, unsigned max, unsigned *out)
{
    json_t *value = json_object_get(object, key);

    if (!value)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > (json_int_t)max)
        return gw_fail(-EINVAL, "request: '%s' is not a number from 1 to %u", key, max);
    *out = (unsigned)json_integer_value(value);
    return 0;
}

static int get_size(json_t *object, const char *key, uint64_t max, uint64_t *out)
{
    json_t *value = json_object_get(object, key);

    if (!value)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        (uint64_t)json_integer_value(value) > max)
        return gw_fail(-EINVAL, "request: '%s' is not a number of bytes from 1 to %llu", key,
                       (unsigned long long)max);
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

/* A power of two within bounds. */
static int get_unit(json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *out)
{
    uint64_t size = 0;
    int error = get_size(object, key, max, &size);

    if (!error && size && (size < min || !gw_is_power_of_two(size)))
        error = gw_fail(-EINVAL, "request: '%s' %llu is not a power of two from %u to %u bytes",
                        key, (unsigned long long)size, min, max);
    *out = (uint32_t)size;
    return error;
}

static int get_mappings(json_t *object, const char *key, struct gw_mapping *out, unsigned *count)
{
    json_t *map = json_object_get(object, key), *value;
    const char *from;

    if (!map)
        return 0;
    if (!json_is_object(map))
        return gw_fail(-EINVAL, "request: '%s' is not an object", key);
    json_object_foreach(map, from, value)
    {
        if (*count == GW_DISKS_MAX)
            return gw_fail(-EINVAL, "request: more than %u '%s'", GW_DISKS_MAX, key);
        if (!json_is_string(value) || !json_string_length(value) || !*from)
            return gw_fail(-EINVAL, "request: '%s' of '%.64s' is not a text", key, from);
        out[(*count)++] = (struct gw_mapping){.from = from, .to = json_string_value(value)};
    }
    return 0;
}

static int get_fingerprints(json_t *object, struct gw_job_request *request)
{
    json_t *list = json_object_get(object, "fingerprints"), *value;
    size_t i;

    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > GW_FINGERPRINTS_MAX)
        return gw_fail(-EINVAL, "request: 'fingerprints' is not a list of at most %u",
                       GW_FINGERPRINTS_MAX);
    json_array_foreach(list, i, value)
    {
        if (!json_is_string(value))
            return gw_fail(-EINVAL, "request: a fingerprint is not a text");
        request->fingerprints[i] = json_string_value(value);
    }
    request->credentials.fingerprints = request->fingerprints;
    request->credentials.fingerprint_count = (unsigned)json_array_size(list);
    return 0;
}

static int get_credentials(struct gw_job_request *request)
{
    json_t *object = json_object_get(request->text, "credentials");
    struct gw_credentials_options *credentials = &request->credentials;
    int error;

    if (!object)
        return 0;
    if (!json_is_object(object))
        return gw_fail(-EINVAL, "request: 'credentials' is not an object");
    request->has_credentials = true;
    error = refuse_unknown(object, credential_keys);
    if (!error)
        error = get_text(object, "psk", &credentials->psk_path);
    if (!error)
        error = get_text(object, "cert", &credentials->certificate_path);
    if (!error)
        error = get_text(object, "key", &credentials->key_path);
    if (!error)
        error = get_text(object, "ca", &credentials->ca_path);
    return error ? error : get_fingerprints(object, request);
}

static int get_trusted(struct gw_job_request *request)
{
    json_t *list = json_object_get(request->text, "trusted_networks"), *value;
    size_t i;

    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > GW_TRUSTED_MAX)
        return gw_fail(-EINVAL, "request: 'trusted_networks' is not a list of at most %u",
                       GW_TRUSTED_MAX);
    json_array_foreach(list, i, value)
    {
        int error;

        if (!json_is_string(value))
            return gw_fail(-EINVAL, "request: a trusted network is not a text");
        error = gw_network_parse(json_string_value(value), &request->trusted[i]);
        if (error)
            return error;
        request->trusted_count++;
    }
    return 0;
}

static int get_peer(struct gw_job_request *request, struct gw_address *out)
{
    const char *to = NULL;
    int error = get_text(request->text, "to", &to);

    if (error || !to)
        return error;
    error = gw_address_parse(to, GW_DEFAULT_PORT, out);
    if (!error)
        gw_address_format(out, request->peer, sizeof(request->peer));
    return error;
}

/* 0 says something: do not dial again. */
static int get_reconnect(json_t *object, int *out)
{
    json_t *value = json_object_get(object, "reconnect_s");

    *out = -1;
    if (!value)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > (json_int_t)GW_RECONNECT_MAX_S)
        return gw_fail(-EINVAL, "request: 'reconnect_s' is not a number from 0 to %u",
                       GW_RECONNECT_MAX_S);
    *out = (int)json_integer_value(value);
    return 0;
}

static int get_link(json_t *text, struct gw_link_request *out)
{
    int error = get_number(text, "channels", CHANNELS_MAX, &out->channels);

    if (!error)
        error = get_text(text, "congestion", &out->congestion);
    if (!error)
        error = get_text(text, "transport", &out->transports);
    if (!error)
        error = get_number(text, "stall_s", STALL_S_MAX, &out->stall_s);
    return error ? error : get_reconnect(text, &out->reconnect_s);
}

static int parse_tracker(const char **tracker)
{
    static const char *const names[] = {"auto", "uffd", "softdirty", "compare"};

    if (!*tracker)
        return 0;
    for (size_t i = 0; i < GW_ARRAY_LENGTH(names); i++)
        if (strcmp(*tracker, names[i]) == 0) {
            if (i == 0)
                *tracker = NULL;
            return 0;
        }
    return gw_fail(-EINVAL, "tracker '%.32s' is none of auto, uffd, softdirty, compare", *tracker);
}

static int parse_move(struct gw_job_request *request)
{
    struct gw_move_request *move = &request->move;
    json_t *text = request->text;
    const char *pin_limit = NULL;
    int error = refuse_unknown(text, move_keys);

    if (!error)
        error = need_text(text, "qmp", &move->qmp_path);
    if (!error)
        error = get_peer(request, &move->peer);
    if (!error && !request->peer[0])
        error = gw_fail(-EINVAL, "request: 'to' is missing");
    if (!error)
        error = get_mappings(text, "disks", move->disks, &move->disk_count);
    if (!error)
        error = get_mappings(text, "nets", move->nets, &move->net_count);
    if (!error)
        error = get_text(text, "storage", &move->target_storage);
    if (!error)
        error = get_number(text, "max_pause_ms", MAX_PAUSE_MS_MAX, &move->max_pause_ms);
    if (!error)
        error = get_text(text, "resume", &move->resume);
    if (!error)
        error = get_number(text, "sync_every_s", SYNC_EVERY_MAX, &move->sync_interval_s);
    move->text = text;
    if (!error)
        error = get_flag(text, "no_throttle", &move->no_throttle);
    if (!error)
        error = get_flag(text, "delete_source", &move->delete_source);
    if (!error)
        error = get_flag(text, "verify", &move->verify);
    if (!error)
        error = get_text(text, "tracker", &move->tracker);
    if (!error)
        error = parse_tracker(&move->tracker);
    if (!error)
        error = get_link(text, &move->link);
    if (!error)
        error = get_text(text, "pin_limit", &pin_limit);
    if (!error && pin_limit)
        error = gw_pins_parse(pin_limit, &move->link.pin_limit);
    request->what = move->qmp_path;
    return error;
}

static int parse_format(const char *format, bool is_source)
{
    if (format && is_source && strcmp(format, "vhd") == 0)
        return 0;
    if (format && strcmp(format, "vhd") == 0)
        return gw_fail(-EINVAL, "godwit reads VHD images and does not write them: use vhdx");
    if (format && strcmp(format, "raw") != 0 && strcmp(format, "vhdx") != 0 &&
        !gw_nbd_format_is_known(format))
        return gw_fail(-EINVAL, "format '%.32s' is none of raw, vhdx, qcow2, vdi and vmdk", format);
    return 0;
}

/* What the new disk is to be other than the old one. */
static int parse_shape(json_t *text, struct gw_copy_request *copy)
{
    int error = get_flag(text, "dynamic", &copy->is_dynamic);

    if (!error && copy->is_dynamic && copy->is_fixed)
        error = gw_fail(-EINVAL, "fixed and dynamic exclude one another");
    if (!error)
        error = get_flag(text, "new_id", &copy->new_id);
    if (!error)
        error = get_flag(text, "flatten", &copy->flatten);
    if (!error)
        error = get_size(text, "size", INT64_MAX, &copy->size);
    if (!error)
        error = get_unit(text, "block_size", 1u << 20, 256u << 20, &copy->block_size);
    if (!error)
        error = get_unit(text, "sector_size", 512, 4096, &copy->sector_size);
    if (!error && copy->sector_size && copy->sector_size != 512 && copy->sector_size != 4096)
        error = gw_fail(-EINVAL, "a sector has 512 or 4096 bytes, not %u", copy->sector_size);
    return error ? error : get_mappings(text, "parents", copy->parents, &copy->parent_count);
}

static int parse_copy(struct gw_job_request *request)
{
    struct gw_copy_request *copy = &request->copy;
    json_t *text = request->text;
    int error = refuse_unknown(text, copy_keys);

    copy->target_path = "";
    if (!error)
        error = need_text(text, "source", &copy->source_path);
    if (!error)
        error = get_text(text, "source_format", &copy->source_format);
    if (!error)
        error = parse_format(copy->source_format, true);
    if (!error)
        error = get_peer(request, &copy->peer);
    if (!error)
        error = get_text(text, "resume", &copy->resume);
    if (!error)
        error = get_number(text, "sync_every_s", SYNC_EVERY_MAX, &copy->sync_interval_s);
    copy->text = text;
    copy->is_remote = request->peer[0] != '\0';
    if (!error && (!copy->is_remote || json_string_length(json_object_get(text, "target"))))
        error = need_text(text, "target", &copy->target_path);
    if (!error)
        error = get_text(text, "format", &copy->target_format);
    if (!error)
        error = parse_format(copy->target_format, false);
    if (!error)
        error = get_flag(text, "preallocate", &copy->is_fixed);
    if (!error)
        error = parse_shape(text, copy);
    if (!error)
        error = get_flag(text, "verify", &copy->verify);
    if (!error)
        error = get_link(text, &copy->link);
    request->what = copy->source_path;
    return error;
}

int gw_job_request_parse(json_t *text, struct gw_job_request **out)
{
    struct gw_job_request *request = calloc(1, sizeof(*request));
    const char *kind = NULL;
    int error;

    if (!request)
        return gw_fail(-ENOMEM, "out of memory");
    request->text = json_incref(text);
    error = need_text(text, "request", &kind);
    if (!error && strcmp(kind, "move") == 0) {
        request->kind = GW_JOB_MOVE;
        error = parse_move(request);
    } else if (!error && strcmp(kind, "copy") == 0) {
        request->kind = GW_JOB_COPY;
        error = parse_copy(request);
    } else if (!error) {
        error = gw_fail(-EINVAL, "request '%.32s' is neither move nor copy", kind);
    }
    if (!error)
        error = get_credentials(request);
    if (!error)
        error = get_trusted(request);
    if (error) {
        gw_job_request_free(request);
        return error;
    }
    *out = request;
    return 0;
}

void gw_job_request_free(struct gw_job_request *request)
{
    if (!request)
        return;
    json_decref(request->text);
    free(request);
}

const char *gw_job_kind_name(enum gw_job_kind kind)
{
    static const char *const names[] = {"move", "copy", "serve"};

    return names[kind];
}
