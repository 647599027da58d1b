/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of a plan that concern QEMU. The target asks a QEMU without a machine what it can do.
 */
#include "engine/vmm/qemu/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/vmm/qemu/allow.h"
#include "engine/vmm/qemu/disks.h"
#include "engine/vmm/qemu/launch.h"
#include "engine/vmm/qemu/migrate.h"
#include "engine/vmm/qemu/options.h"

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name)) ?: "";
}

/* "The vhdx format used by node '#block123' does not support live migration": disks are swapped for
 * null-co nodes before QEMU migrates, so that this does not hold. */
static bool is_about_a_format(const char *reason)
{
    return strstr(reason, " format used by node ") &&
           strstr(reason, "does not support live migration");
}

static int add_blocked_reasons(struct gw_qmp *qmp, struct gw_reasons *blocked)
{
    json_t *reasons, *reason;
    size_t index;
    int ret = gw_vm_blocked_reasons(qmp, &reasons);

    if (ret < 0)
        return ret;
    json_array_foreach(reasons, index, reason)
    {
        const char *text = json_string_value(reason) ?: "";

        if (!is_about_a_format(text))
            gw_reasons_add(blocked, "QEMU itself refuses to migrate: %s", text);
    }
    json_decref(reasons);
    return 0;
}

static int check_capability(struct gw_qmp *qmp, struct gw_reasons *blocked)
{
    json_t *list, *item;
    bool is_known = false;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-migrate-capabilities", NULL, &list);

    if (ret < 0)
        return ret;
    json_array_foreach(list, index, item) is_known |=
        strcmp(text_of(item, "capability"), "x-ignore-shared") == 0;
    json_decref(list);
    if (!is_known)
        gw_reasons_add(blocked,
                       "this QEMU cannot leave shared RAM out of its stream (x-ignore-shared); "
                       "QEMU 4.0 or newer is needed");
    return 0;
}

static int check_no_jobs(struct gw_qmp *qmp, struct gw_reasons *blocked)
{
    json_t *jobs, *job, *info;
    const char *status;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-block-jobs", NULL, &jobs);

    if (ret < 0)
        return ret;
    json_array_foreach(jobs, index, job) gw_reasons_add(
        blocked, "the block job %s (%s) runs on a disk; wait for its end or cancel it",
        text_of(job, "device"), text_of(job, "type"));
    json_decref(jobs);
    ret = gw_qmp_execute(qmp, "query-migrate", NULL, &info);
    if (ret < 0)
        return ret;
    status = text_of(info, "status");
    if (gw_allow_word("setup active device pre-switchover postcopy-active postcopy-paused "
                      "wait-unplug cancelling",
                      status))
        gw_reasons_add(blocked, "QEMU is already migrating (%s); end that first", status);
    json_decref(info);
    return 0;
}

int gw_plan_source(struct gw_qmp *qmp, const struct gw_vm *vm, struct gw_reasons *blocked)
{
    int ret = add_blocked_reasons(qmp, blocked);

    if (ret == 0)
        ret = check_capability(qmp, blocked);
    if (ret == 0)
        ret = check_no_jobs(qmp, blocked);
    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < vm->disk_count; i++) {
        struct gw_disk_swap swap;

        if (gw_disk_swap_prepare(&vm->disks[i], i, &swap) < 0)
            gw_reasons_add(blocked, "%s", gw_error_message());
        else
            gw_disk_swap_free(&swap);
    }
    for (unsigned i = 0; i < vm->memory_count; i++) {
        if (vm->version_major >= 8 && strncmp(vm->memories[i].path, "/proc/", 6) == 0)
            gw_reasons_add(blocked,
                           "memory %s: QEMU %u leaves only RAM in named files out of its stream; "
                           "give the backend a mem-path= that names a file",
                           vm->memories[i].id, vm->version_major);
    }
    return 0;
}

bool gw_plan_punches_memory(const struct gw_vm *vm, const struct gw_vm_memory *memory)
{
    if (gw_vm_memory_is_plugged(vm, memory))
        return true;
    for (unsigned i = 0; i < vm->device_count; i++) {
        const struct gw_vm_properties *properties = &vm->devices[i].properties;

        for (unsigned j = 0; j < properties->count; j++) {
            bool is_on;

            if (strcmp(properties->items[j].name, "free-page-reporting") == 0 &&
                gw_option_bool(properties->items[j].value, &is_on) == 0 && is_on)
                return true;
        }
    }
    return false;
}

/* The model with its features, as query-cpu-model-expansion takes it. */
static json_t *cpu_model(const struct gw_vm *vm)
{
    json_t *properties = json_object();

    for (unsigned i = 0; properties && i < vm->cpu_features.count; i++) {
        const struct gw_vm_property *feature = &vm->cpu_features.items[i];
        bool flag;

        /* Numbers and words (level=, vendor=) stand for themselves on both sides. */
        if (gw_option_bool(feature->value, &flag) == 0)
            json_object_set_new(properties, feature->name, json_boolean(flag));
    }
    return json_pack("{s:s, s:{s:s, s:o}}", "type", "full", "model", "name", vm->cpu, "props",
                     properties);
}

int gw_plan_cpu(struct gw_qmp *qmp, const struct gw_vm *vm, json_t **features)
{
    json_t *expansion, *properties, *value, *names = json_array();
    const char *name;
    int ret = gw_qmp_execute(qmp, "query-cpu-model-expansion", cpu_model(vm), &expansion);

    if (ret == -ENOTSUP || ret == -EREMOTEIO) {
        json_decref(names);
        *features = json_null();
        return 0;
    }
    if (ret < 0 || !names) {
        json_decref(names);
        return ret < 0 ? ret : gw_fail(-ENOMEM, "no memory for CPU features");
    }
    properties = json_object_get(json_object_get(expansion, "model"), "props");
    json_object_foreach(properties, name, value)
    {
        if (json_is_true(value))
            json_array_append_new(names, json_string(name));
    }
    json_decref(expansion);
    *features = names;
    return 0;
}

/* Properties of the expansion that describe QEMU's behaviour, not what the guest sees. */
static bool is_host_matter(const char *feature)
{
    return gw_allow_word("migratable hotplugged host-phys-bits start-powered-off realized "
                         "host-cache-info legacy-cache check enforce kvm",
                         feature);
}

static int check_features(struct gw_qmp *qmp, const struct gw_vm *vm, const json_t *features,
                          struct gw_reasons *blocked)
{
    json_t *own, *name, *seen;
    char missing[300] = "";
    size_t index;
    int ret;

    if (!json_is_array(features) || json_array_size(features) > GW_PLAN_FEATURES_MAX)
        return 0;
    ret = gw_plan_cpu(qmp, vm, &own);
    if (ret < 0 || !json_is_array(own))
        return ret;
    seen = json_object();
    json_array_foreach(own, index, name)
        json_object_set_new(seen, json_string_value(name), json_true());
    json_array_foreach(features, index, name)
    {
        const char *feature = json_string_value(name);

        if (!feature || !gw_word_is_valid(feature) || is_host_matter(feature) ||
            json_object_get(seen, feature))
            continue;
        snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing), " %s", feature);
    }
    if (missing[0])
        gw_reasons_add(blocked,
                       "the guest's CPU has features that this host does not offer:%s; start the "
                       "VM with a -cpu model that both hosts have",
                       missing);
    json_decref(seen);
    json_decref(own);
    return 0;
}

static int check_cpu_model(struct gw_qmp *qmp, const struct gw_vm *vm, struct gw_reasons *blocked)
{
    json_t *models, *model, *missing = NULL;
    bool is_known = false;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-cpu-definitions", NULL, &models);

    if (ret < 0)
        return ret;
    json_array_foreach(models, index, model)
    {
        if (strcmp(text_of(model, "name"), vm->cpu) != 0)
            continue;
        is_known = true;
        missing = json_object_get(model, "unavailable-features");
    }
    if (!is_known)
        gw_reasons_add(blocked, "this host's QEMU does not know the CPU model %s", vm->cpu);
    /* tcg starts models that it cannot emulate in full, and the source did the same. */
    if (json_array_size(missing) > 0 && strcmp(vm->accelerator, "kvm") == 0)
        gw_reasons_add(blocked, "this host's CPU cannot be a %s: it lacks %s%s", vm->cpu,
                       json_string_value(json_array_get(missing, 0)),
                       json_array_size(missing) > 1 ? " and more" : "");
    json_decref(models);
    return 0;
}

static int check_machine(struct gw_qmp *qmp, const struct gw_vm *vm, struct gw_reasons *blocked)
{
    const struct gw_qmp_version *version = gw_qmp_version(qmp);
    json_t *machines, *machine;
    bool is_known = false;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-machines", NULL, &machines);

    if (ret < 0)
        return ret;
    json_array_foreach(machines, index, machine)
    {
        if (strcmp(text_of(machine, "name"), vm->machine) != 0)
            continue;
        is_known = true;
        if (json_integer_value(json_object_get(machine, "cpu-max")) < vm->cpu_count)
            gw_reasons_add(blocked, "this host's %s takes at most %lld CPUs, the VM has %u",
                           vm->machine, json_integer_value(json_object_get(machine, "cpu-max")),
                           vm->cpu_count);
    }
    json_decref(machines);
    if (!is_known)
        gw_reasons_add(blocked, "this host's QEMU %u.%u does not have the machine type %s",
                       version->major, version->minor, vm->machine);
    if (version->major < vm->version_major ||
        (version->major == vm->version_major && version->minor < vm->version_minor))
        gw_reasons_add(
            blocked,
            "the source runs QEMU %u.%u, this host has the older %u.%u; device state moves to "
            "the same or a newer version only: upgrade QEMU here",
            vm->version_major, vm->version_minor, version->major, version->minor);
    return 0;
}

static int check_models(struct gw_qmp *qmp, const struct gw_vm *vm, struct gw_reasons *blocked)
{
    json_t *types, *type, *known = json_object();
    size_t index;
    int ret =
        gw_qmp_execute(qmp, "qom-list-types",
                       json_pack("{s:s, s:b}", "implements", "device", "abstract", 0), &types);

    if (ret < 0) {
        json_decref(known);
        return ret;
    }
    json_array_foreach(types, index, type)
        json_object_set_new(known, text_of(type, "name"), json_true());
    json_decref(types);
    for (unsigned i = 0; i < vm->device_count; i++) {
        if (!json_object_get(known, vm->devices[i].kind))
            gw_reasons_add(blocked,
                           "this host's QEMU does not have the device %s (a package may be "
                           "missing)",
                           vm->devices[i].kind);
    }
    json_decref(known);
    return 0;
}

static void check_nets(const struct gw_vm *vm, struct gw_reasons *blocked)
{
    for (unsigned i = 0; i < vm->net_count; i++) {
        const struct gw_vm_net *net = &vm->nets[i];
        char path[64];

        if (net->kind != GW_VM_NET_TAP)
            continue;
        snprintf(path, sizeof(path), "/sys/class/net/%s/bridge", net->bridge);
        if (access(path, F_OK) < 0)
            gw_reasons_add(blocked,
                           "this host has no bridge %s; make it, or name another with --net "
                           "%s=BRIDGE",
                           net->bridge, net->bridge);
        if (access("/dev/net/tun", R_OK | W_OK) < 0)
            gw_reasons_add(blocked, "this host cannot make tap interfaces (/dev/net/tun: %s)",
                           strerror(errno));
        if (net->is_vhost && access("/dev/vhost-net", R_OK | W_OK) < 0)
            gw_reasons_add(blocked, "this host has no vhost for netdev %s (/dev/vhost-net: %s)",
                           net->id, strerror(errno));
    }
}

static int ask_probe(struct gw_qmp *qmp, const struct gw_vm *vm, const json_t *features,
                     struct gw_reasons *blocked)
{
    int ret = check_machine(qmp, vm, blocked);

    if (ret == 0)
        ret = check_cpu_model(qmp, vm, blocked);
    if (ret == 0)
        ret = check_features(qmp, vm, features, blocked);
    if (ret == 0)
        ret = check_models(qmp, vm, blocked);
    if (ret == 0)
        ret = check_capability(qmp, blocked);
    return ret;
}

int gw_plan_target(const struct gw_vm *vm, const char *binary, const json_t *features,
                   struct gw_reasons *blocked)
{
    struct gw_launched probe;
    struct gw_error error;
    char program[48];
    int ret;

    check_nets(vm, blocked);
    if (strcmp(vm->accelerator, "kvm") == 0 && access("/dev/kvm", R_OK | W_OK) < 0) {
        gw_reasons_add(blocked, "the VM runs under KVM, and this host has none (/dev/kvm: %s)",
                       strerror(errno));
        return 0;
    }
    snprintf(program, sizeof(program), "qemu-system-%s", vm->architecture);
    ret = gw_vm_probe(binary ? binary : program, vm->accelerator, &probe);
    if (ret == -ECHILD) {
        gw_reasons_add(blocked, "%s", gw_error_message());
        return 0;
    }
    if (ret < 0)
        return ret;
    ret = ask_probe(probe.qmp, vm, features, blocked);
    gw_error_take(ret, &error);
    gw_vm_end(&probe);
    return ret < 0 ? gw_error_raise(&error) : 0;
}
