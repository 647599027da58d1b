/* SPDX-License-Identifier: Apache-2.0 */
/* Puts a description together: the command line first, then what QMP tells beyond it. */
#include "engine/vmm/qemu/describe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

int gw_qom_get(struct gw_qmp *qmp, const char *path, const char *property, json_t **out)
{
    return gw_qmp_execute(qmp, "qom-get",
                          json_pack("{s:s, s:s}", "path", path, "property", property), out);
}

void gw_vm_device_path(const struct gw_vm *vm, unsigned index, char *path, size_t size)
{
    unsigned anonymous = 0;

    if (vm->devices[index].id[0]) {
        snprintf(path, size, "/machine/peripheral/%s", vm->devices[index].id);
        return;
    }
    for (unsigned i = 0; i < index; i++)
        anonymous += vm->devices[i].id[0] == '\0';
    snprintf(path, size, "/machine/peripheral-anon/device[%u]", anonymous);
}

/* Copies text without that suffix, when it has it. */
static void copy_without(char *to, size_t size, const char *text, const char *suffix)
{
    size_t length = strlen(text), end = strlen(suffix);

    if (length > end && strcmp(text + length - end, suffix) == 0)
        length -= end;
    snprintf(to, size, "%.*s", (int)length, text);
}

static int read_machine(struct gw_qmp *qmp, struct gw_vm *vm)
{
    json_t *value;
    int ret = gw_qom_get(qmp, "/machine", "type", &value);

    if (ret < 0)
        return ret;
    copy_without(vm->machine, sizeof(vm->machine),
                 json_is_string(value) ? json_string_value(value) : "", "-machine");
    json_decref(value);
    ret = gw_qmp_execute(qmp, "query-kvm", NULL, &value);
    if (ret < 0)
        return ret;
    snprintf(vm->accelerator, sizeof(vm->accelerator), "%s",
             json_is_true(json_object_get(value, "enabled")) ? "kvm" : "tcg");
    json_decref(value);
    ret = gw_qmp_execute(qmp, "query-target", NULL, &value);
    if (ret < 0)
        return ret;
    snprintf(vm->architecture, sizeof(vm->architecture), "%s",
             json_string_value(json_object_get(value, "arch")) ?: "");
    json_decref(value);
    return 0;
}

static int read_cpus(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused)
{
    const char *given = gw_vm_property_get(&vm->smp, "cpus");
    json_t *cpus, *type;
    uint64_t count;
    int ret = gw_qmp_execute(qmp, "query-cpus-fast", NULL, &cpus);

    if (ret < 0)
        return ret;
    vm->cpu_count = (uint32_t)json_array_size(cpus);
    if (given && gw_option_number(given, &count) == 0 && count != vm->cpu_count)
        gw_reasons_add(refused, "%u CPUs run, -smp started %s: hot-plugged CPUs are not moved yet",
                       vm->cpu_count, given);
    if (vm->cpu[0] == '\0' && vm->cpu_count > 0) {
        const char *path = json_string_value(json_object_get(json_array_get(cpus, 0), "qom-path"));

        ret = gw_qom_get(qmp, path ? path : "", "type", &type);
        if (ret == 0) {
            copy_without(vm->cpu, sizeof(vm->cpu), json_string_value(type) ?: "", "-x86_64-cpu");
            json_decref(type);
        }
    }
    json_decref(cpus);
    return ret;
}

static int read_identity(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused)
{
    json_t *value;
    const char *state;
    int ret = gw_qmp_execute(qmp, "query-status", NULL, &value);

    if (ret < 0)
        return ret;
    state = json_string_value(json_object_get(value, "status")) ?: "unknown";
    vm->is_running = strcmp(state, "running") == 0;
    if (!gw_allow_word("running paused prelaunch", state))
        gw_reasons_add(refused,
                       "the VM is in the state \"%s\"; only a running or a paused VM is moved",
                       state);
    json_decref(value);
    ret = gw_qmp_execute(qmp, "query-uuid", NULL, &value);
    if (ret < 0)
        return ret;
    state = json_string_value(json_object_get(value, "UUID")) ?: "";
    if (strcmp(state, "00000000-0000-0000-0000-000000000000") != 0)
        snprintf(vm->uuid, sizeof(vm->uuid), "%s", state);
    json_decref(value);
    vm->version_major = gw_qmp_version(qmp)->major;
    vm->version_minor = gw_qmp_version(qmp)->minor;
    vm->version_micro = gw_qmp_version(qmp)->micro;
    return 0;
}

/* -m is optional, and memory given as a backend is the truth. */
static int read_ram_size(struct gw_qmp *qmp, struct gw_vm *vm)
{
    json_t *value;
    int ret = gw_qmp_execute(qmp, "query-memory-size-summary", NULL, &value);

    if (ret < 0)
        return ret;
    vm->ram_size = (uint64_t)json_integer_value(json_object_get(value, "base-memory"));
    json_decref(value);
    return 0;
}

static int read_objects(struct gw_qmp *qmp, struct gw_vm *vm, struct gw_reasons *refused)
{
    json_t *threads, *thread;
    size_t index;
    int ret = gw_qmp_execute(qmp, "query-iothreads", NULL, &threads);

    if (ret < 0)
        return ret;
    json_array_foreach(threads, index, thread)
    {
        const char *id = json_string_value(json_object_get(thread, "id")) ?: "";
        bool is_known = false;

        for (unsigned i = 0; i < vm->iothread_count; i++)
            is_known |= strcmp(vm->iothreads[i].id, id) == 0;
        if (!is_known)
            gw_reasons_add(refused,
                           "iothread %s is not in QEMU's command line: hot-plugged objects are "
                           "not moved yet",
                           id);
    }
    json_decref(threads);
    return 0;
}

static int describe_over_qmp(struct gw_qmp *qmp, const struct gw_line *line, struct gw_vm *vm,
                             struct gw_reasons *refused)
{
    int ret = read_identity(qmp, vm, refused);

    if (ret == 0)
        ret = read_machine(qmp, vm);
    if (ret == 0)
        ret = read_cpus(qmp, vm, refused);
    if (ret == 0)
        ret = read_ram_size(qmp, vm);
    if (ret == 0)
        ret = read_objects(qmp, vm, refused);
    if (ret == 0)
        ret = gw_describe_memory(qmp, vm, refused);
    if (ret == 0)
        ret = gw_describe_devices(qmp, vm, refused);
    if (ret == 0)
        ret = gw_describe_disks(qmp, line, vm, refused);
    return ret;
}

int gw_vm_describe(struct gw_qmp *qmp, struct gw_reasons *refused, struct gw_vm **out)
{
    struct gw_line *line = NULL;
    struct gw_vm *vm = NULL;
    char **words = NULL;
    unsigned count;
    int ret = gw_line_words(gw_qmp_pid(qmp), &words, &count);

    if (ret == 0)
        ret = gw_vm_new(&vm);
    if (ret == 0)
        ret = gw_line_parse(words, count, vm, refused, &line);
    if (ret == 0) {
        vm->pid = gw_qmp_pid(qmp);
        ret = describe_over_qmp(qmp, line, vm, refused);
    }
    if (ret == 0)
        ret = gw_describe_nets(qmp, words, count, vm, refused);
    if (ret == 0)
        gw_vm_check(vm, refused);
    gw_line_free(line);
    gw_line_words_free(words);
    if (ret < 0) {
        gw_vm_free(vm);
        return ret;
    }
    *out = vm;
    return 0;
}
