/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices as QEMU made them: is each one of the command line there, is there one that is not in it,
 * and at which address did it land. Addresses that QEMU chose itself are pinned, so that the target
 * does not depend on the order of its own choices.
 */
#include "engine/vmm/qemu/describe.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

static const struct gw_vm_item *find_device(const struct gw_vm *vm, const char *id)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        if (*id && strcmp(vm->devices[i].id, id) == 0)
            return &vm->devices[i];
    }
    return NULL;
}

static void refuse_child(const char *name, const char *type, struct gw_reasons *refused)
{
    char model[64];
    const char *reason;

    /* "child<virtio-blk-pci>" */
    snprintf(model, sizeof(model), "%s", strncmp(type, "child<", 6) == 0 ? type + 6 : type);
    model[strcspn(model, ">")] = '\0';
    reason = gw_allow_reason(model);
    gw_reasons_add(refused, "device %s %s is not in QEMU's command line: %s", model, name,
                   reason ? reason : "hot-plugged devices are not moved yet; unplug it");
}

/* Everything beneath a container, held against the command line. *count is what was there. */
static int walk_container(struct gw_qmp *qmp, const char *path, const struct gw_vm *vm,
                          struct gw_reasons *refused)
{
    json_t *children, *child;
    unsigned anonymous = 0, expected = 0;
    size_t index;
    int ret = gw_qmp_execute(qmp, "qom-list", json_pack("{s:s}", "path", path), &children);

    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < vm->device_count; i++)
        expected += vm->devices[i].id[0] == '\0';
    json_array_foreach(children, index, child)
    {
        const char *name = json_string_value(json_object_get(child, "name")) ?: "";
        const char *type = json_string_value(json_object_get(child, "type")) ?: "";

        if (strncmp(type, "child<", 6) != 0)
            continue;
        if (strncmp(name, "device[", 7) == 0) {
            anonymous++;
            if (strtoul(name + 7, NULL, 10) >= expected)
                refuse_child(name, type, refused);
        } else if (!find_device(vm, name)) {
            refuse_child(name, type, refused);
        }
    }
    if (strstr(path, "anon") && anonymous < expected)
        gw_reasons_add(refused,
                       "%u devices of QEMU's command line were unplugged since; restart the VM "
                       "without them",
                       expected - anonymous);
    json_decref(children);
    return 0;
}

/* Sets the property to what the device says when the command line does not say it. */
static int pin_number(struct gw_qmp *qmp, const char *path, struct gw_vm_item *device,
                      const char *name, const char *format)
{
    json_t *value;
    char text[32];
    int ret;

    if (gw_vm_property_get(&device->properties, name))
        return 0;
    ret = gw_qom_get(qmp, path, name, &value);
    if (ret < 0)
        return ret == -EREMOTEIO ? 0 : ret;
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        unsigned long long number = (unsigned long long)json_integer_value(value);

        if (format)
            snprintf(text, sizeof(text), "%02llx.%llx", number >> 3, number & 7);
        else
            snprintf(text, sizeof(text), "%llu", number);
        ret = gw_vm_property_set(&device->properties, name, text);
    }
    json_decref(value);
    return ret < 0 ? ret : 0;
}

static int pin_text(struct gw_qmp *qmp, const char *path, struct gw_vm_item *device,
                    const char *name)
{
    json_t *value;
    const char *text;
    int ret = 0;

    if (gw_vm_property_get(&device->properties, name))
        return 0;
    ret = gw_qom_get(qmp, path, strcmp(name, "bus") == 0 ? "parent_bus" : name, &value);
    if (ret < 0)
        return ret == -EREMOTEIO ? 0 : ret;
    text = json_string_value(value) ?: "";
    if (strcmp(name, "bus") == 0 && strrchr(text, '/'))
        text = strrchr(text, '/') + 1;
    if (*text)
        ret = gw_vm_property_set(&device->properties, name, text);
    json_decref(value);
    return ret;
}

static int pin_device(struct gw_qmp *qmp, struct gw_vm *vm, unsigned index)
{
    struct gw_vm_item *device = &vm->devices[index];
    const struct gw_device_model *model = gw_allow_device(device->kind);
    char path[160];
    int ret = 0;

    if (!model)
        return 0;
    gw_vm_device_path(vm, index, path, sizeof(path));
    if (gw_allow_kind(model->properties, "bus"))
        ret = pin_text(qmp, path, device, "bus");
    if (ret == 0 && (model->classes & GW_DEVICE_PCI))
        ret = pin_number(qmp, path, device, "addr", "pci");
    if (ret == 0 && (model->classes & GW_DEVICE_SCSI)) {
        ret = pin_number(qmp, path, device, "scsi-id", NULL);
        if (ret == 0)
            ret = pin_number(qmp, path, device, "lun", NULL);
    }
    if (ret == 0 && (model->classes & GW_DEVICE_IDE))
        ret = pin_number(qmp, path, device, "unit", NULL);
    /* QEMU's own choices depend on the host's huge pages. */
    if (ret == 0 && (model->classes & GW_DEVICE_MEMORY)) {
        ret = pin_number(qmp, path, device, "block-size", NULL);
        if (ret == 0)
            ret = pin_number(qmp, path, device, "memaddr", NULL);
    }
    if (ret == 0 && gw_allow_kind(model->properties, "nr"))
        ret = pin_number(qmp, path, device, "nr", NULL);
    if (ret == 0 && (model->classes & GW_DEVICE_NET))
        ret = pin_text(qmp, path, device, "mac");
    return ret;
}

int gw_describe_devices(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused)
{
    char path[160];
    json_t *value;
    int ret = walk_container(qmp, "/machine/peripheral", vm, refused);

    if (ret == 0)
        ret = walk_container(qmp, "/machine/peripheral-anon", vm, refused);
    for (unsigned i = 0; ret == 0 && i < vm->device_count; i++) {
        gw_vm_device_path(vm, i, path, sizeof(path));
        ret = gw_qom_get(qmp, path, "type", &value);
        if (ret == -ENODEV) {
            gw_reasons_add(refused,
                           "device %s %s was unplugged since QEMU started; restart the VM "
                           "without it",
                           vm->devices[i].kind, vm->devices[i].id);
            ret = 0;
            continue;
        }
        if (ret < 0)
            break;
        json_decref(value);
        ret = pin_device(qmp, vm, i);
    }
    return ret;
}

/* The interface of a tap descriptor, from /proc/PID/fdinfo. */
static bool interface_of_fd(pid_t pid, unsigned fd, char *name, size_t size)
{
    char path[64], text[256], found[64];
    bool is_tap = false;
    FILE *info;

    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%u", (int)pid, fd);
    info = fopen(path, "re");
    if (!info)
        return false;
    while (!is_tap && fgets(text, sizeof(text), info)) {
        if (sscanf(text, "iff: %63s", found) == 1) {
            snprintf(name, size, "%.15s", found);
            is_tap = true;
        }
    }
    fclose(info);
    return is_tap;
}

static bool bridge_of(const char *interface, char *bridge, size_t size)
{
    char path[96], link[256];
    ssize_t length;

    snprintf(path, sizeof(path), "/sys/class/net/%.15s/master", interface);
    length = readlink(path, link, sizeof(link) - 1);
    if (length <= 0)
        return false;
    link[length] = '\0';
    snprintf(bridge, size, "%.15s", strrchr(link, '/') ? strrchr(link, '/') + 1 : link);
    return true;
}

/* What -netdev id=ID says of that member, from the command line. */
static bool option_of_netdev(char *const *words, unsigned count, const char *id, const char *member,
                             char *value, size_t size)
{
    bool is_found = false;

    for (unsigned i = 1; i + 1 < count && !is_found; i++) {
        struct gw_options options;
        const char *text;

        if (strcmp(words[i] + strspn(words[i], "-"), "netdev") != 0)
            continue;
        if (gw_options_parse(words[i + 1], "type", &options) == 0) {
            text = gw_options_get(&options, "id");
            if (text && strcmp(text, id) == 0) {
                text = gw_options_get(&options, member);
                is_found = text != NULL;
                if (text)
                    snprintf(value, size, "%s", text);
            }
        }
        gw_options_free(&options);
    }
    return is_found;
}

/* "n0: index=0,type=tap,ifname=tap0,script=..." in the answer of HMP's info network. */
static int interface_from_monitor(struct gw_qmp *qmp, const char *id, char *name, size_t size)
{
    char *text, *line, *save = NULL;
    int ret = gw_qmp_human(qmp, "info network", &text);

    if (ret < 0)
        return ret;
    for (line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        char *at = strstr(line, id), *interface = strstr(line, "ifname=");

        if (at && at[strlen(id)] == ':' && interface && strstr(line, "type=tap"))
            snprintf(name, size, "%.*s", (int)gw_min(strcspn(interface + 7, ","), size - 1),
                     interface + 7);
    }
    free(text);
    return 0;
}

static int find_bridge(struct gw_qmp *qmp, char *const *words, unsigned count,
                       struct gw_vm_net *net, struct gw_reasons *refused)
{
    char interface[32] = "", text[32];
    uint64_t fd;
    int ret = 0;

    if (option_of_netdev(words, count, net->id, "fd", text, sizeof(text)) &&
        gw_option_number(text, &fd) == 0)
        interface_of_fd(gw_qmp_pid(qmp), (unsigned)fd, interface, sizeof(interface));
    else if (!option_of_netdev(words, count, net->id, "ifname", interface, sizeof(interface)))
        ret = interface_from_monitor(qmp, net->id, interface, sizeof(interface));
    if (ret < 0)
        return ret;
    if (interface[0] == '\0' || !bridge_of(interface, net->bridge, sizeof(net->bridge)))
        gw_reasons_add(refused,
                       "netdev %s: its tap %s is not in a bridge; attach it to one, so that the "
                       "target knows where to attach its own",
                       net->id, interface);
    return 0;
}

int gw_describe_nets(struct gw_qmp *qmp, char *const *words, unsigned count, struct gw_vm *vm,
                     struct gw_reasons *refused)
{
    for (unsigned i = 0; i < vm->net_count; i++) {
        struct gw_vm_net *net = &vm->nets[i];
        int ret;

        if (net->kind != GW_VM_NET_TAP || net->bridge[0])
            continue;
        ret = find_bridge(qmp, words, count, net, refused);
        if (ret < 0)
            return ret;
    }
    return 0;
}
