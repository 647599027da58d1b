/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON form of a description, both ways from one table of fields. Every field is there in every
 * description; what is missing, unknown, too long or too many is refused. What the values may be is
 * vm_check.c's business.
 */
#include "engine/vmm/qemu/vm.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "common/json.h"

enum field_kind {
    FIELD_TEXT,
    FIELD_U64,
    FIELD_U32,
    FIELD_BOOL,
    FIELD_KIND,
    FIELD_LIST,
    FIELD_PROPERTIES
};

struct list;

struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
    size_t size;              /* FIELD_TEXT: room */
    const char *const *words; /* FIELD_KIND: names of an enum, NULL at the end */
    const struct list *list;  /* FIELD_LIST */
};

struct list {
    size_t count_offset; /* of an unsigned, in the struct that holds the list */
    size_t item_size;
    unsigned max;
    const struct field *fields;
    size_t field_count;
};

#define TEXT(type, member)                                                                         \
    {                                                                                              \
#member, FIELD_TEXT, offsetof(type, member), sizeof(((type *)0)->member), NULL, NULL       \
    }
#define U64(type, member)                                                                          \
    {                                                                                              \
#member, FIELD_U64, offsetof(type, member), 0, NULL, NULL                                  \
    }
#define U32(type, member)                                                                          \
    {                                                                                              \
#member, FIELD_U32, offsetof(type, member), 0, NULL, NULL                                  \
    }
#define BOOL(type, member)                                                                         \
    {                                                                                              \
#member, FIELD_BOOL, offsetof(type, member), 0, NULL, NULL                                 \
    }
#define KIND(type, member, list)                                                                   \
    {                                                                                              \
#member, FIELD_KIND, offsetof(type, member), 0, list, NULL                                 \
    }
#define PROPERTIES(type, member)                                                                   \
    {                                                                                              \
#member, FIELD_PROPERTIES, offsetof(type, member), 0, NULL, NULL                           \
    }
#define LIST(type, member, list)                                                                   \
    {                                                                                              \
#member, FIELD_LIST, offsetof(type, member), 0, NULL, list                                 \
    }

static const char *const net_kinds[] = {"user", "tap", NULL};
static const char *const chardev_kinds[] = {"null", "file", "socket", NULL};

static const struct field item_fields[] = {
    TEXT(struct gw_vm_item, kind),
    TEXT(struct gw_vm_item, id),
    PROPERTIES(struct gw_vm_item, properties),
};

static const struct field memory_fields[] = {
    TEXT(struct gw_vm_memory, id),
    U64(struct gw_vm_memory, size),
    U64(struct gw_vm_memory, page_size),
    BOOL(struct gw_vm_memory, prealloc),
};

static const struct field disk_fields[] = {
    TEXT(struct gw_vm_disk, name),
    TEXT(struct gw_vm_disk, device),
    BOOL(struct gw_vm_disk, is_machine_ide),
    U32(struct gw_vm_disk, unit),
    U32(struct gw_vm_disk, device_index),
    TEXT(struct gw_vm_disk, format),
    TEXT(struct gw_vm_disk, file_name),
    U64(struct gw_vm_disk, virtual_size),
    BOOL(struct gw_vm_disk, is_read_only),
    BOOL(struct gw_vm_disk, is_direct),
    BOOL(struct gw_vm_disk, is_no_flush),
    BOOL(struct gw_vm_disk, is_discard),
    BOOL(struct gw_vm_disk, is_on_iothread),
    TEXT(struct gw_vm_disk, detect_zeroes),
    TEXT(struct gw_vm_disk, aio),
};

static const struct field net_fields[] = {
    TEXT(struct gw_vm_net, id),
    KIND(struct gw_vm_net, kind, net_kinds),
    TEXT(struct gw_vm_net, bridge),
    BOOL(struct gw_vm_net, is_vhost),
    PROPERTIES(struct gw_vm_net, properties),
    BOOL(struct gw_vm_net, is_nic),
    TEXT(struct gw_vm_net, model),
    TEXT(struct gw_vm_net, mac),
};

static const struct field chardev_fields[] = {
    TEXT(struct gw_vm_chardev, id),
    KIND(struct gw_vm_chardev, kind, chardev_kinds),
};

static const struct field port_fields[] = {TEXT(struct gw_vm_port, chardev)};

#define LIST_OF(list_name, count_member, items, item_fields)                                       \
    static const struct list list_name = {                                                         \
        offsetof(struct gw_vm, count_member), sizeof(((struct gw_vm *)0)->items[0]),               \
        GW_ARRAY_LENGTH(((struct gw_vm *)0)->items), item_fields, GW_ARRAY_LENGTH(item_fields)}

LIST_OF(memory_list, memory_count, memories, memory_fields);
LIST_OF(numa_list, numa_count, numa, item_fields);
LIST_OF(device_list, device_count, devices, item_fields);
LIST_OF(disk_list, disk_count, disks, disk_fields);
LIST_OF(iothread_list, iothread_count, iothreads, item_fields);
LIST_OF(rng_list, rng_count, rngs, item_fields);
LIST_OF(audio_list, audio_count, audios, item_fields);
LIST_OF(net_list, net_count, nets, net_fields);
LIST_OF(chardev_list, chardev_count, chardevs, chardev_fields);
LIST_OF(serial_list, serial_count, serials, port_fields);
LIST_OF(parallel_list, parallel_count, parallels, port_fields);
LIST_OF(smbios_list, smbios_count, smbios, item_fields);

static const struct field vm_fields[] = {
    TEXT(struct gw_vm, name),
    TEXT(struct gw_vm, uuid),
    TEXT(struct gw_vm, architecture),
    U32(struct gw_vm, version_major),
    U32(struct gw_vm, version_minor),
    U32(struct gw_vm, version_micro),
    TEXT(struct gw_vm, machine),
    PROPERTIES(struct gw_vm, machine_options),
    TEXT(struct gw_vm, accelerator),
    PROPERTIES(struct gw_vm, accelerator_options),
    TEXT(struct gw_vm, cpu),
    PROPERTIES(struct gw_vm, cpu_features),
    U32(struct gw_vm, cpu_count),
    PROPERTIES(struct gw_vm, smp),
    U64(struct gw_vm, ram_size),
    U64(struct gw_vm, ram_max),
    U32(struct gw_vm, ram_slots),
    TEXT(struct gw_vm, ram_id),
    LIST(struct gw_vm, memories, &memory_list),
    LIST(struct gw_vm, numa, &numa_list),
    LIST(struct gw_vm, devices, &device_list),
    LIST(struct gw_vm, disks, &disk_list),
    LIST(struct gw_vm, iothreads, &iothread_list),
    LIST(struct gw_vm, rngs, &rng_list),
    LIST(struct gw_vm, audios, &audio_list),
    LIST(struct gw_vm, nets, &net_list),
    LIST(struct gw_vm, chardevs, &chardev_list),
    LIST(struct gw_vm, serials, &serial_list),
    LIST(struct gw_vm, parallels, &parallel_list),
    LIST(struct gw_vm, smbios, &smbios_list),
    PROPERTIES(struct gw_vm, globals),
    PROPERTIES(struct gw_vm, boot),
    PROPERTIES(struct gw_vm, rtc),
    PROPERTIES(struct gw_vm, action),
    PROPERTIES(struct gw_vm, overcommit),
    TEXT(struct gw_vm, vga),
    BOOL(struct gw_vm, has_defaults),
    BOOL(struct gw_vm, has_no_net),
    BOOL(struct gw_vm, has_usb),
    BOOL(struct gw_vm, has_no_shutdown),
    BOOL(struct gw_vm, has_no_reboot),
    BOOL(struct gw_vm, has_no_acpi),
    BOOL(struct gw_vm, has_no_hpet),
    BOOL(struct gw_vm, has_sandbox),
    BOOL(struct gw_vm, is_running),
};

static json_t *encode_struct(const void *from, const struct field *fields, size_t count);

static json_t *encode_properties(const struct gw_vm_properties *properties)
{
    json_t *object = json_object();

    for (unsigned i = 0; object && i < properties->count; i++) {
        const struct gw_vm_property *property = &properties->items[i];

        if (json_object_set_new(object, property->name, json_string(property->value)) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *encode_list(const void *holder, const struct field *field)
{
    const struct list *list = field->list;
    const char *items = (const char *)holder + field->offset;
    json_t *array = json_array();
    unsigned count;

    memcpy(&count, (const char *)holder + list->count_offset, sizeof(count));
    for (unsigned i = 0; array && i < count; i++) {
        json_t *item = encode_struct(items + i * list->item_size, list->fields, list->field_count);

        if (json_array_append_new(array, item) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *encode_field(const void *holder, const struct field *field)
{
    const void *at = (const char *)holder + field->offset;

    switch (field->kind) {
    case FIELD_TEXT:
        return json_string(at);
    case FIELD_U64:
        return json_integer((json_int_t) * (const uint64_t *)at);
    case FIELD_U32:
        return json_integer(*(const uint32_t *)at);
    case FIELD_BOOL:
        return json_boolean(*(const bool *)at);
    case FIELD_KIND:
        return json_string(field->words[*(const unsigned *)at]);
    case FIELD_LIST:
        return encode_list(holder, field);
    case FIELD_PROPERTIES:
        return encode_properties(at);
    }
    return NULL;
}

static json_t *encode_struct(const void *from, const struct field *fields, size_t count)
{
    json_t *object = json_object();

    for (size_t i = 0; object && i < count; i++) {
        if (json_object_set_new(object, fields[i].name, encode_field(from, &fields[i])) < 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

int gw_vm_to_json(const struct gw_vm *vm, json_t **out)
{
    unsigned failures = gw_json_failures();

    *out = encode_struct(vm, vm_fields, GW_ARRAY_LENGTH(vm_fields));
    return *out ? 0
                : gw_fail(gw_json_failures() != failures ? -ENOMEM : -EINVAL,
                          "the VM description cannot be written as JSON (no memory, or a "
                          "name that is not UTF-8)");
}

static int decode_struct(const json_t *object, const struct field *fields, size_t count,
                         void *into);

static int decode_properties(const json_t *value, const char *name,
                             struct gw_vm_properties *properties)
{
    const char *key;
    json_t *member;
    int ret;

    if (!json_is_object(value) || json_object_size(value) > GW_VM_PROPERTIES_MAX)
        return gw_fail(-EINVAL, "description: %s is not an object of at most %u members", name,
                       GW_VM_PROPERTIES_MAX);
    json_object_foreach((json_t *)value, key, member)
    {
        const char *text = json_string_value(member);

        if (!text || strlen(text) != json_string_length(member))
            return gw_fail(-EINVAL, "description: %s.%.47s is not a string", name, key);
        ret = gw_vm_property_set(properties, key, text);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int decode_list(const json_t *value, const struct field *field, void *holder)
{
    const struct list *list = field->list;
    char *items = (char *)holder + field->offset;
    unsigned count = 0;

    if (!json_is_array(value) || json_array_size(value) > list->max)
        return gw_fail(-EINVAL, "description: %s is not a list of at most %u", field->name,
                       list->max);
    while (count < json_array_size(value)) {
        int ret = decode_struct(json_array_get(value, count), list->fields, list->field_count,
                                items + count * list->item_size);

        /* The item counts before its error is passed on, so that what it holds is freed. */
        count++;
        memcpy((char *)holder + list->count_offset, &count, sizeof(count));
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int decode_number(const json_t *value, const struct field *field, uint64_t max,
                         uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > max)
        return gw_fail(-EINVAL, "description: %s is not a number from 0 to %llu", field->name,
                       (unsigned long long)max);
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

static int decode_text(const json_t *value, const struct field *field, char *into)
{
    const char *text = json_string_value(value);

    if (!text || strlen(text) != json_string_length(value) || strlen(text) >= field->size)
        return gw_fail(-EINVAL, "description: %s is not a string of at most %zu bytes", field->name,
                       field->size - 1);
    memset(into, 0, field->size);
    memcpy(into, text, strlen(text));
    return 0;
}

static int decode_kind(const json_t *value, const struct field *field, unsigned *into)
{
    const char *text = json_string_value(value);

    for (unsigned i = 0; text && field->words[i]; i++) {
        if (strcmp(field->words[i], text) == 0) {
            *into = i;
            return 0;
        }
    }
    return gw_fail(-EINVAL, "description: %s is not a known kind: %.32s", field->name,
                   text ? text : "not a string");
}

static int decode_field(const json_t *value, const struct field *field, void *holder)
{
    void *at = (char *)holder + field->offset;
    uint64_t number = 0;
    int ret;

    switch (field->kind) {
    case FIELD_TEXT:
        return decode_text(value, field, at);
    case FIELD_U64:
        return decode_number(value, field, INT64_MAX, at);
    case FIELD_U32:
        ret = decode_number(value, field, UINT32_MAX, &number);
        *(uint32_t *)at = (uint32_t)number;
        return ret;
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return gw_fail(-EINVAL, "description: %s is not true or false", field->name);
        *(bool *)at = json_is_true(value);
        return 0;
    case FIELD_KIND:
        return decode_kind(value, field, at);
    case FIELD_LIST:
        return decode_list(value, field, holder);
    case FIELD_PROPERTIES:
        return decode_properties(value, field->name, at);
    }
    return -EINVAL;
}

static int decode_struct(const json_t *object, const struct field *fields, size_t count, void *into)
{
    const char *key;
    json_t *value;

    if (!json_is_object(object))
        return gw_fail(-EINVAL, "description: the thing that begins with %s is not an object",
                       fields[0].name);
    for (size_t i = 0; i < count; i++) {
        int ret;

        value = json_object_get(object, fields[i].name);
        if (!value)
            return gw_fail(-EINVAL, "description: %s is missing", fields[i].name);
        ret = decode_field(value, &fields[i], into);
        if (ret < 0)
            return ret;
    }
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;

        while (i < count && strcmp(fields[i].name, key) != 0)
            i++;
        if (i == count)
            return gw_fail(-EINVAL, "description: the member %.64s is not known", key);
    }
    return 0;
}

int gw_vm_from_json(const json_t *json, struct gw_reasons *faults, struct gw_vm **out)
{
    struct gw_reasons own = {0};
    struct gw_vm *vm;
    int ret = gw_vm_new(&vm);

    if (ret < 0)
        return ret;
    ret = decode_struct(json, vm_fields, GW_ARRAY_LENGTH(vm_fields), vm);
    if (ret < 0) {
        if (faults)
            gw_reasons_add(faults, "%s", gw_error_message());
        gw_vm_free(vm);
        return ret;
    }
    gw_vm_check(vm, &own);
    ret = gw_reasons_fail(&own, -EINVAL);
    for (unsigned i = 0; faults && i < own.count; i++)
        gw_reasons_add(faults, "%s", own.lines[i]);
    gw_reasons_free(&own);
    if (ret < 0) {
        gw_vm_free(vm);
        return ret;
    }
    *out = vm;
    return 0;
}
