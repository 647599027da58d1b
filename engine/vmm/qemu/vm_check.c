/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds a description against the allow-lists: every name known, every value well formed, every
 * reference whole, every id there once. The same check runs on the source, where it tells a person
 * what will not be moved, and on the target, where the description is a stranger's.
 */
#include "engine/vmm/qemu/vm.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/allow.h"
#include "engine/vmm/qemu/options.h"

#define RAM_SIZE_MAX  (1ull << 46)
#define DISK_SIZE_MAX (1ull << 50)
#define CPUS_MAX      4096u

static bool has_item(const struct gw_vm_item *items, unsigned count, const char *id)
{
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(items[i].id, id) == 0)
            return true;
    }
    return false;
}

static bool has_memory(const struct gw_vm *vm, const char *id)
{
    for (unsigned i = 0; i < vm->memory_count; i++) {
        if (strcmp(vm->memories[i].id, id) == 0)
            return true;
    }
    return false;
}

static bool has_net(const struct gw_vm *vm, const char *id)
{
    for (unsigned i = 0; i < vm->net_count; i++) {
        if (!vm->nets[i].is_nic && strcmp(vm->nets[i].id, id) == 0)
            return true;
    }
    return false;
}

static bool has_chardev(const struct gw_vm *vm, const char *id)
{
    for (unsigned i = 0; i < vm->chardev_count; i++) {
        if (strcmp(vm->chardevs[i].id, id) == 0)
            return true;
    }
    return false;
}

/* Is the thing that a value of that kind names part of the description? */
static bool reference_is_whole(const struct gw_vm *vm, enum gw_value_kind kind, const char *id)
{
    switch (kind) {
    case GW_VALUE_IOTHREAD:
        return has_item(vm->iothreads, vm->iothread_count, id);
    case GW_VALUE_NETDEV:
        return has_net(vm, id);
    case GW_VALUE_CHARDEV:
        return has_chardev(vm, id);
    case GW_VALUE_RNG:
        return has_item(vm->rngs, vm->rng_count, id);
    case GW_VALUE_AUDIO:
        return has_item(vm->audios, vm->audio_count, id);
    case GW_VALUE_MEMORY:
        return has_memory(vm, id);
    case GW_VALUE_DRIVE:
        return false; /* disks name their device, not the other way round */
    default:
        return true;
    }
}

static void check_properties(const struct gw_vm *vm, const struct gw_vm_properties *properties,
                             const char *table, const char *owner, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < properties->count; i++) {
        const struct gw_vm_property *property = &properties->items[i];
        enum gw_value_kind kind = gw_allow_kind(table, property->name);
        char what[160];

        snprintf(what, sizeof(what), "%s: the option %s", owner, property->name);
        if (kind == GW_VALUE_NONE)
            gw_reasons_add(faults, "%s is not one that godwit knows", what);
        else if (gw_value_check(kind, property->value, what) < 0)
            gw_reasons_add(faults, "%s", gw_error_message());
        else if (!reference_is_whole(vm, kind, property->value))
            gw_reasons_add(faults, "%s names %s, which is not part of the description", what,
                           property->value);
    }
}

static void check_id(const char *id, const char *what, struct gw_reasons *faults)
{
    if (!gw_id_is_valid(id))
        gw_reasons_add(faults, "%s: \"%.64s\" is not a valid id", what, id);
}

static void check_devices(const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        const struct gw_vm_item *device = &vm->devices[i];
        const struct gw_device_model *model = gw_allow_device(device->kind);
        const char *reason = gw_allow_reason(device->kind);
        char owner[128];

        snprintf(owner, sizeof(owner), "device %s%s%s", device->kind, device->id[0] ? " " : "",
                 device->id);
        if (device->id[0])
            check_id(device->id, owner, faults);
        if (device->id[0] && has_item(vm->devices, i, device->id))
            gw_reasons_add(faults, "%s: its id is there twice", owner);
        if (model)
            check_properties(vm, &device->properties, model->properties, owner, faults);
        else if (reason)
            gw_reasons_add(faults, "%s: %s", owner, reason);
        else
            gw_reasons_add(faults, "%s is not a device that godwit knows how to move", owner);
    }
}

static bool is_one_of(const char *text, const char *words)
{
    return gw_allow_word(words, text);
}

static void check_disk_place(const struct gw_vm *vm, const struct gw_vm_disk *disk,
                             struct gw_reasons *faults)
{
    const struct gw_device_model *model;

    for (const struct gw_vm_disk *other = vm->disks; other < disk; other++) {
        if (strcmp(other->name, disk->name) == 0)
            gw_reasons_add(faults, "disk %s: its name is there twice", disk->name);
        if (other->is_machine_ide == disk->is_machine_ide &&
            (disk->is_machine_ide ? other->unit == disk->unit
                                  : other->device_index == disk->device_index))
            gw_reasons_add(faults, "disk %s: another disk is in its place", disk->name);
    }
    if (disk->is_machine_ide) {
        if (disk->unit > 5)
            gw_reasons_add(faults, "disk %s: the IDE unit %u does not exist", disk->name,
                           disk->unit);
        return;
    }
    if (disk->device_index >= vm->device_count) {
        gw_reasons_add(faults, "disk %s: it has no device", disk->name);
        return;
    }
    model = gw_allow_device(vm->devices[disk->device_index].kind);
    if (model && !(model->classes & GW_DEVICE_DISK))
        gw_reasons_add(faults, "disk %s: its device %s is not a disk", disk->name, model->name);
    if (strcmp(vm->devices[disk->device_index].id, disk->device) != 0)
        gw_reasons_add(faults, "disk %s: its device is called otherwise", disk->name);
}

static void check_disks(const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->disk_count; i++) {
        const struct gw_vm_disk *disk = &vm->disks[i];

        check_id(disk->name, "disk", faults);
        check_disk_place(vm, disk, faults);
        if (disk->virtual_size == 0 || disk->virtual_size > DISK_SIZE_MAX ||
            disk->virtual_size % 512 != 0)
            gw_reasons_add(faults, "disk %s: its size of %llu bytes is not possible", disk->name,
                           (unsigned long long)disk->virtual_size);
        if (disk->file_name[0] == '\0' || strchr(disk->file_name, '/') ||
            strcmp(disk->file_name, ".") == 0 || strcmp(disk->file_name, "..") == 0 ||
            gw_value_check(GW_VALUE_TEXT, disk->file_name, "disk") < 0)
            gw_reasons_add(faults, "disk %s: \"%.64s\" is not a file name", disk->name,
                           disk->file_name);
        if (!gw_word_is_valid(disk->format))
            gw_reasons_add(faults, "disk %s: the format \"%s\" is not a word", disk->name,
                           disk->format);
        if (!is_one_of(disk->detect_zeroes, "off on unmap"))
            gw_reasons_add(faults, "disk %s: detect-zeroes=%s is not known", disk->name,
                           disk->detect_zeroes);
        if (!is_one_of(disk->aio, "threads native io_uring"))
            gw_reasons_add(faults, "disk %s: aio=%s is not known", disk->name, disk->aio);
    }
}

static void check_items(const struct gw_vm *vm, const struct gw_vm_item *items, unsigned count,
                        const char *table, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < count; i++) {
        char owner[80];

        snprintf(owner, sizeof(owner), "object %s", items[i].id);
        check_id(items[i].id, "object", faults);
        if (has_item(items, i, items[i].id))
            gw_reasons_add(faults, "%s: its id is there twice", owner);
        check_properties(vm, &items[i].properties, table, owner, faults);
    }
}

static void check_memories(const struct gw_vm *vm, struct gw_reasons *faults)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < vm->memory_count; i++) {
        const struct gw_vm_memory *memory = &vm->memories[i];

        check_id(memory->id, "memory", faults);
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(vm->memories[j].id, memory->id) == 0)
                gw_reasons_add(faults, "memory %s: its id is there twice", memory->id);
        }
        if (memory->page_size < 4096 || memory->page_size > (1ull << 30) ||
            !gw_is_power_of_two(memory->page_size) || memory->size == 0 ||
            memory->size > RAM_SIZE_MAX || memory->size % memory->page_size != 0)
            gw_reasons_add(faults, "memory %s: %llu bytes in pages of %llu are not possible",
                           memory->id, (unsigned long long)memory->size,
                           (unsigned long long)memory->page_size);
        if (!gw_add_fits(total, memory->size, &total) || total > RAM_SIZE_MAX)
            gw_reasons_add(faults, "the memory is larger than %llu bytes", RAM_SIZE_MAX);
    }
    if (vm->memory_count == 0)
        gw_reasons_add(faults, "the description has no memory");
    if (vm->ram_id[0] && !has_memory(vm, vm->ram_id))
        gw_reasons_add(faults, "memory %s is not part of the description", vm->ram_id);
    if (vm->ram_size == 0 || vm->ram_size > RAM_SIZE_MAX || vm->ram_max > RAM_SIZE_MAX ||
        vm->ram_slots > 256)
        gw_reasons_add(faults, "the RAM size is not possible");
}

static void check_numa(const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->numa_count; i++) {
        const struct gw_vm_item *numa = &vm->numa[i];

        if (!is_one_of(numa->kind, "node dist cpu"))
            gw_reasons_add(faults, "-numa %s is not one that godwit knows", numa->kind);
        check_properties(vm, &numa->properties, gw_allow_numa, "-numa", faults);
    }
}

static bool is_bridge_name(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length > 15 || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    }
    return true;
}

static void check_nets(const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->net_count; i++) {
        const struct gw_vm_net *net = &vm->nets[i];

        if (net->id[0] || !net->is_nic)
            check_id(net->id, "netdev", faults);
        for (unsigned j = 0; j < i; j++) {
            if (net->id[0] && strcmp(vm->nets[j].id, net->id) == 0)
                gw_reasons_add(faults, "netdev %s: its id is there twice", net->id);
        }
        check_properties(vm, &net->properties, gw_allow_user_net, "netdev", faults);
        if (net->kind == GW_VM_NET_TAP && !is_bridge_name(net->bridge))
            gw_reasons_add(faults, "netdev %s: \"%s\" is not a bridge name", net->id, net->bridge);
        if (net->kind == GW_VM_NET_TAP && net->properties.count > 0)
            gw_reasons_add(faults, "netdev %s: a tap takes no options", net->id);
        if (net->is_nic && net->model[0] && !gw_allow_word(gw_allow_nic_models, net->model))
            gw_reasons_add(faults, "-nic model=%s is not one that godwit knows", net->model);
        if (net->is_nic && net->mac[0] && gw_value_check(GW_VALUE_MAC, net->mac, "-nic mac") < 0)
            gw_reasons_add(faults, "%s", gw_error_message());
    }
}

static void check_chardevs(const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->chardev_count; i++) {
        check_id(vm->chardevs[i].id, "chardev", faults);
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(vm->chardevs[j].id, vm->chardevs[i].id) == 0)
                gw_reasons_add(faults, "chardev %s: its id is there twice", vm->chardevs[i].id);
        }
    }
    for (unsigned i = 0; i < vm->serial_count; i++) {
        if (vm->serials[i].chardev[0] && !has_chardev(vm, vm->serials[i].chardev))
            gw_reasons_add(faults, "-serial names a chardev that is not there");
    }
    for (unsigned i = 0; i < vm->parallel_count; i++) {
        if (vm->parallels[i].chardev[0] && !has_chardev(vm, vm->parallels[i].chardev))
            gw_reasons_add(faults, "-parallel names a chardev that is not there");
    }
}

static void check_cpu(const struct gw_vm *vm, struct gw_reasons *faults)
{
    if (!gw_word_is_valid(vm->cpu) || strchr(vm->cpu, '/'))
        gw_reasons_add(faults, "the CPU model \"%s\" is not a word", vm->cpu);
    if (vm->cpu_count == 0 || vm->cpu_count > CPUS_MAX)
        gw_reasons_add(faults, "%u CPUs are not possible", vm->cpu_count);
    for (unsigned i = 0; i < vm->cpu_features.count; i++) {
        const struct gw_vm_property *feature = &vm->cpu_features.items[i];

        /* -cpu knows no escape for a comma. */
        if (!gw_word_is_valid(feature->name) || strchr(feature->name, '/') ||
            strchr(feature->value, ',') ||
            gw_value_check(GW_VALUE_TEXT, feature->value, "CPU feature") < 0)
            gw_reasons_add(faults, "the CPU feature %s=%.32s is not well formed", feature->name,
                           feature->value);
    }
    check_properties(vm, &vm->smp, gw_allow_smp, "-smp", faults);
}

static void check_smbios(const struct gw_vm *vm, struct gw_reasons *faults)
{
    for (unsigned i = 0; i < vm->smbios_count; i++)
        check_properties(vm, &vm->smbios[i].properties, gw_allow_smbios, "-smbios", faults);
}

static void check_machine(const struct gw_vm *vm, struct gw_reasons *faults)
{
    if (gw_value_check(GW_VALUE_TEXT, vm->name, "the VM's name") < 0)
        gw_reasons_add(faults, "%s", gw_error_message());
    if (vm->uuid[0] && gw_value_check(GW_VALUE_UUID, vm->uuid, "the VM's uuid") < 0)
        gw_reasons_add(faults, "%s", gw_error_message());
    if (!gw_word_is_valid(vm->machine) || strchr(vm->machine, '/'))
        gw_reasons_add(faults, "the machine type \"%s\" is not a word", vm->machine);
    if (!is_one_of(vm->architecture, "x86_64"))
        gw_reasons_add(faults, "the architecture %s is not one that godwit moves",
                       vm->architecture);
    if (!is_one_of(vm->accelerator, "tcg kvm"))
        gw_reasons_add(faults, "the accelerator %s is not one that godwit knows", vm->accelerator);
    if (vm->vga[0] && !gw_allow_word(gw_allow_vga, vm->vga))
        gw_reasons_add(faults, "-vga %s is not moved; use -vga std", vm->vga);
    check_properties(vm, &vm->machine_options, gw_allow_machine, "-machine", faults);
    check_properties(vm, &vm->accelerator_options, gw_allow_accel, "-accel", faults);
    check_properties(vm, &vm->globals, gw_allow_global, "-global", faults);
    check_properties(vm, &vm->boot, gw_allow_boot, "-boot", faults);
    check_properties(vm, &vm->rtc, gw_allow_rtc, "-rtc", faults);
    check_properties(vm, &vm->action, gw_allow_action, "-action", faults);
    check_properties(vm, &vm->overcommit, gw_allow_overcommit, "-overcommit", faults);
}

void gw_vm_check(const struct gw_vm *vm, struct gw_reasons *faults)
{
    check_machine(vm, faults);
    check_cpu(vm, faults);
    check_memories(vm, faults);
    check_numa(vm, faults);
    check_devices(vm, faults);
    check_disks(vm, faults);
    check_items(vm, vm->iothreads, vm->iothread_count, gw_allow_iothread, faults);
    check_items(vm, vm->rngs, vm->rng_count, "", faults);
    for (unsigned i = 0; i < vm->rng_count; i++) {
        if (!is_one_of(vm->rngs[i].kind, "rng-random rng-builtin"))
            gw_reasons_add(faults, "object %s: the kind %s is not known", vm->rngs[i].id,
                           vm->rngs[i].kind);
    }
    check_items(vm, vm->audios, vm->audio_count, "", faults);
    check_nets(vm, faults);
    check_chardevs(vm, faults);
    check_smbios(vm, faults);
}
