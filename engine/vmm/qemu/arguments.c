/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes QEMU's command line from a description. Nothing gets into it that gw_vm_check did not
 * pass; values are joined with commas doubled, and paths are this host's own.
 */
#include "engine/vmm/qemu/launch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/vmm/qemu/allow.h"
#include "engine/vmm/qemu/disks.h"

struct builder {
    struct gw_arguments *out;
    char word[8192]; /* the word under construction */
    size_t length;
    int error;
};

static void push(struct builder *builder, const char *word)
{
    struct gw_arguments *out = builder->out;

    if (builder->error)
        return;
    if (out->count == GW_ARGUMENTS_MAX) {
        builder->error =
            gw_fail(-E2BIG, "the VM needs more than %u words of command line", GW_ARGUMENTS_MAX);
        return;
    }
    out->words[out->count] = strdup(word);
    if (!out->words[out->count])
        builder->error = gw_fail(-ENOMEM, "no memory for a command line");
    else
        out->count++;
}

static void put(struct builder *builder, char byte)
{
    if (builder->length + 1 < sizeof(builder->word))
        builder->word[builder->length++] = byte;
    else if (!builder->error)
        builder->error =
            gw_fail(-E2BIG, "an option is longer than %zu bytes", sizeof(builder->word));
    builder->word[builder->length] = '\0';
}

static void begin(struct builder *builder, const char *option, const char *first)
{
    push(builder, option);
    builder->length = 0;
    builder->word[0] = '\0';
    for (; *first; first++)
        put(builder, *first);
}

/* ",NAME=VALUE" with the value's commas doubled; without the first comma at the word's begin. */
static void member(struct builder *builder, const char *name, const char *value)
{
    if (builder->length)
        put(builder, ',');
    for (; *name; name++)
        put(builder, *name);
    put(builder, '=');
    for (; *value; value++) {
        if (*value == ',')
            put(builder, ',');
        put(builder, *value);
    }
}

static void member_number(struct builder *builder, const char *name, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    member(builder, name, text);
}

static void members(struct builder *builder, const struct gw_vm_properties *properties)
{
    for (unsigned i = 0; i < properties->count; i++)
        member(builder, properties->items[i].name, properties->items[i].value);
}

static void end(struct builder *builder)
{
    push(builder, builder->word);
}

static void pair(struct builder *builder, const char *option, const char *value)
{
    push(builder, option);
    push(builder, value);
}

static void put_identity(struct builder *builder, const struct gw_vm *vm)
{
    pair(builder, "-no-user-config", "-S");
    if (!vm->has_defaults)
        push(builder, "-nodefaults");
    if (vm->name[0]) {
        begin(builder, "-name", "");
        member(builder, "guest", vm->name);
        end(builder);
    }
    if (vm->uuid[0])
        pair(builder, "-uuid", vm->uuid);
    begin(builder, "-machine", vm->machine);
    members(builder, &vm->machine_options);
    if (vm->ram_id[0])
        member(builder, "memory-backend", vm->ram_id);
    end(builder);
    begin(builder, "-accel", vm->accelerator);
    members(builder, &vm->accelerator_options);
    end(builder);
    begin(builder, "-cpu", vm->cpu);
    members(builder, &vm->cpu_features);
    end(builder);
}

static void put_properties(struct builder *builder, const char *option,
                           const struct gw_vm_properties *properties)
{
    if (properties->count == 0)
        return;
    begin(builder, option, "");
    members(builder, properties);
    end(builder);
}

static void put_memory(struct builder *builder, const struct gw_vm *vm,
                       const struct gw_launch_options *options)
{
    char text[32];

    snprintf(text, sizeof(text), "%lluB", (unsigned long long)vm->ram_size);
    begin(builder, "-m", "");
    member(builder, "size", text);
    if (vm->ram_max) {
        snprintf(text, sizeof(text), "%lluB", (unsigned long long)vm->ram_max);
        member_number(builder, "slots", vm->ram_slots);
        member(builder, "maxmem", text);
    }
    end(builder);
    for (unsigned i = 0; i < vm->memory_count; i++) {
        begin(builder, "-object", "memory-backend-file");
        member(builder, "id", vm->memories[i].id);
        member_number(builder, "size", vm->memories[i].size);
        member(builder, "mem-path", options->ram_paths[i]);
        member(builder, "share", "on");
        end(builder);
    }
    for (unsigned i = 0; i < vm->numa_count; i++) {
        begin(builder, "-numa", vm->numa[i].kind);
        members(builder, &vm->numa[i].properties);
        end(builder);
    }
}

static void put_board(struct builder *builder, const struct gw_vm *vm)
{
    static const struct {
        const char *option;
        size_t offset;
    } flags[] = {
        {"-usb", offsetof(struct gw_vm, has_usb)},
        {"-no-shutdown", offsetof(struct gw_vm, has_no_shutdown)},
        {"-no-reboot", offsetof(struct gw_vm, has_no_reboot)},
        {"-no-acpi", offsetof(struct gw_vm, has_no_acpi)},
        {"-no-hpet", offsetof(struct gw_vm, has_no_hpet)},
    };

    put_properties(builder, "-smp", &vm->smp);
    put_properties(builder, "-boot", &vm->boot);
    put_properties(builder, "-rtc", &vm->rtc);
    put_properties(builder, "-action", &vm->action);
    put_properties(builder, "-overcommit", &vm->overcommit);
    for (unsigned i = 0; i < vm->smbios_count; i++)
        put_properties(builder, "-smbios", &vm->smbios[i].properties);
    for (unsigned i = 0; i < vm->globals.count; i++) {
        begin(builder, "-global", "");
        member(builder, vm->globals.items[i].name, vm->globals.items[i].value);
        end(builder);
    }
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        if (*(const bool *)((const char *)vm + flags[i].offset))
            push(builder, flags[i].option);
    }
    if (vm->has_sandbox)
        pair(builder, "-sandbox",
             "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
             "resourcecontrol=deny");
    if (vm->vga[0])
        pair(builder, "-vga", vm->vga);
    pair(builder, "-display", "none");
    pair(builder, "-monitor", "none");
    if (vm->has_no_net)
        pair(builder, "-nic", "none");
}

static void path_member(struct builder *builder, const struct gw_launch_options *options,
                        const char *name, const char *suffix)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s%s", options->run_dir, name, suffix);
    member(builder, "path", path);
}

static void put_chardev(struct builder *builder, const struct gw_launch_options *options,
                        const struct gw_vm_chardev *chardev)
{
    switch (chardev->kind) {
    case GW_VM_CHARDEV_NULL:
        begin(builder, "-chardev", "null");
        member(builder, "id", chardev->id);
        break;
    case GW_VM_CHARDEV_FILE:
        begin(builder, "-chardev", "file");
        member(builder, "id", chardev->id);
        path_member(builder, options, chardev->id, ".log");
        member(builder, "append", "on");
        break;
    case GW_VM_CHARDEV_SOCKET:
        begin(builder, "-chardev", "socket");
        member(builder, "id", chardev->id);
        path_member(builder, options, chardev->id, ".sock");
        member(builder, "server", "on");
        member(builder, "wait", "off");
        break;
    }
    end(builder);
}

static void put_ports(struct builder *builder, const char *option, const struct gw_vm_port *ports,
                      unsigned count)
{
    char text[GW_VM_ID_SIZE + 16];

    for (unsigned i = 0; i < count; i++) {
        snprintf(text, sizeof(text), "chardev:%s", ports[i].chardev);
        pair(builder, option, ports[i].chardev[0] ? text : "none");
    }
}

static void put_monitors(struct builder *builder, const struct gw_launch_options *options)
{
    static const char *const names[] = {"qmp", "qmp-user"};

    for (size_t i = 0; i < 2; i++) {
        char id[32];

        snprintf(id, sizeof(id), "godwit-%s", names[i]);
        begin(builder, "-chardev", "socket");
        member(builder, "id", id);
        path_member(builder, options, names[i], "");
        member(builder, "server", "on");
        member(builder, "wait", "off");
        end(builder);
        begin(builder, "-mon", "");
        member(builder, "chardev", id);
        member(builder, "mode", "control");
        end(builder);
    }
}

static void put_objects(struct builder *builder, const struct gw_vm *vm)
{
    for (unsigned i = 0; i < vm->iothread_count; i++) {
        begin(builder, "-object", "iothread");
        member(builder, "id", vm->iothreads[i].id);
        members(builder, &vm->iothreads[i].properties);
        end(builder);
    }
    for (unsigned i = 0; i < vm->rng_count; i++) {
        begin(builder, "-object", vm->rngs[i].kind);
        member(builder, "id", vm->rngs[i].id);
        if (strcmp(vm->rngs[i].kind, "rng-random") == 0)
            member(builder, "filename", "/dev/urandom");
        end(builder);
    }
    for (unsigned i = 0; i < vm->audio_count; i++) {
        begin(builder, "-audiodev", "none");
        member(builder, "id", vm->audios[i].id);
        end(builder);
    }
}

static void put_net(struct builder *builder, const struct gw_vm_net *net, int tap_fd)
{
    begin(builder, net->is_nic ? "-nic" : "-netdev", net->kind == GW_VM_NET_TAP ? "tap" : "user");
    if (net->id[0])
        member(builder, "id", net->id);
    if (net->kind == GW_VM_NET_TAP) {
        member_number(builder, "fd", (uint64_t)tap_fd);
        if (net->is_vhost)
            member(builder, "vhost", "on");
    } else {
        members(builder, &net->properties);
    }
    if (net->is_nic && net->model[0])
        member(builder, "model", net->model);
    if (net->is_nic && net->mac[0])
        member(builder, "mac", net->mac);
    end(builder);
}

/* A disk that the machine makes keeps that form, so that it lands in the same place. */
static void put_disk_node(struct builder *builder, const struct gw_vm_disk *disk, unsigned index)
{
    char hold[GW_VM_NODE_SIZE];

    gw_disk_hold_name(index, hold);
    if (disk->is_machine_ide) {
        begin(builder, "-drive", "");
        member(builder, "if", "ide");
        member_number(builder, "index", disk->unit);
        member(builder, "id", disk->name);
    } else {
        begin(builder, "-blockdev", "");
    }
    member(builder, "driver", "null-co");
    member(builder, "node-name", hold);
    member_number(builder, "size", disk->virtual_size);
    member(builder, "read-zeroes", "on");
    if (disk->is_read_only)
        member(builder, "read-only", "on");
    end(builder);
}

static void put_device(struct builder *builder, const struct gw_vm *vm, unsigned index)
{
    const struct gw_vm_item *device = &vm->devices[index];

    begin(builder, "-device", device->kind);
    if (device->id[0])
        member(builder, "id", device->id);
    for (unsigned i = 0; i < vm->disk_count; i++) {
        char hold[GW_VM_NODE_SIZE];

        if (vm->disks[i].is_machine_ide || vm->disks[i].device_index != index)
            continue;
        gw_disk_hold_name(i, hold);
        member(builder, "drive", hold);
    }
    members(builder, &device->properties);
    end(builder);
}

int gw_vm_arguments(const struct gw_vm *vm, const struct gw_launch_options *options,
                    const int *tap_fds, struct gw_arguments *out)
{
    struct builder builder = {.out = out};
    char program[48];

    memset(out, 0, sizeof(*out));
    snprintf(program, sizeof(program), "qemu-system-%s", vm->architecture);
    push(&builder, options->binary ? options->binary : program);
    put_identity(&builder, vm);
    put_memory(&builder, vm, options);
    put_board(&builder, vm);
    put_monitors(&builder, options);
    put_objects(&builder, vm);
    for (unsigned i = 0; i < vm->chardev_count; i++)
        put_chardev(&builder, options, &vm->chardevs[i]);
    put_ports(&builder, "-serial", vm->serials, vm->serial_count);
    put_ports(&builder, "-parallel", vm->parallels, vm->parallel_count);
    for (unsigned i = 0; i < vm->net_count; i++)
        put_net(&builder, &vm->nets[i], tap_fds[i]);
    for (unsigned i = 0; i < vm->disk_count; i++)
        put_disk_node(&builder, &vm->disks[i], i);
    for (unsigned i = 0; i < vm->device_count; i++)
        put_device(&builder, vm, i);
    pair(&builder, "-incoming", "defer");
    if (builder.error)
        gw_arguments_free(out);
    return builder.error;
}

void gw_arguments_free(struct gw_arguments *arguments)
{
    for (unsigned i = 0; i < arguments->count; i++)
        free(arguments->words[i]);
    arguments->count = 0;
}
