/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a description, its property lists and look-ups. */
#include "engine/vmm/qemu/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

int gw_vm_new(struct gw_vm **out)
{
    *out = calloc(1, sizeof(**out));
    return *out ? 0 : gw_fail(-ENOMEM, "no memory for a VM description");
}

static void free_items(struct gw_vm_item *items, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(items[i].properties.items);
}

void gw_vm_free(struct gw_vm *vm)
{
    if (!vm)
        return;
    free_items(vm->numa, vm->numa_count);
    free_items(vm->devices, vm->device_count);
    free_items(vm->iothreads, vm->iothread_count);
    free_items(vm->rngs, vm->rng_count);
    free_items(vm->audios, vm->audio_count);
    free_items(vm->smbios, vm->smbios_count);
    for (unsigned i = 0; i < vm->net_count; i++)
        free(vm->nets[i].properties.items);
    free(vm->machine_options.items);
    free(vm->accelerator_options.items);
    free(vm->cpu_features.items);
    free(vm->smp.items);
    free(vm->globals.items);
    free(vm->boot.items);
    free(vm->rtc.items);
    free(vm->action.items);
    free(vm->overcommit.items);
    free(vm);
}

static struct gw_vm_property *find(const struct gw_vm_properties *properties, const char *name)
{
    for (unsigned i = 0; i < properties->count; i++) {
        if (strcmp(properties->items[i].name, name) == 0)
            return &properties->items[i];
    }
    return NULL;
}

const char *gw_vm_property_get(const struct gw_vm_properties *properties, const char *name)
{
    const struct gw_vm_property *property = find(properties, name);

    return property ? property->value : NULL;
}

int gw_vm_property_set(struct gw_vm_properties *properties, const char *name, const char *value)
{
    struct gw_vm_property *property = find(properties, name);

    if (strlen(name) >= sizeof(property->name) || strlen(value) >= sizeof(property->value))
        return gw_fail(-ENAMETOOLONG, "the option %.47s or its value is too long", name);
    if (!property) {
        struct gw_vm_property *bigger;

        if (properties->count == GW_VM_PROPERTIES_MAX)
            return gw_fail(-E2BIG, "more than %u options, at %s", GW_VM_PROPERTIES_MAX, name);
        bigger = realloc(properties->items, (properties->count + 1) * sizeof(*bigger));
        if (!bigger)
            return gw_fail(-ENOMEM, "no memory for the option %s", name);
        properties->items = bigger;
        property = &bigger[properties->count++];
        memset(property, 0, sizeof(*property));
        memcpy(property->name, name, strlen(name));
    }
    memset(property->value, 0, sizeof(property->value));
    memcpy(property->value, value, strlen(value));
    return 0;
}

void gw_vm_property_drop(struct gw_vm_properties *properties, const char *name)
{
    struct gw_vm_property *property = find(properties, name);
    size_t index;

    if (!property)
        return;
    index = (size_t)(property - properties->items);
    properties->count--;
    memmove(property, property + 1, (properties->count - index) * sizeof(*property));
}

unsigned gw_vm_map_bridge(struct gw_vm *vm, const char *from, const char *to)
{
    unsigned count = 0;

    if (strlen(to) >= sizeof(vm->nets[0].bridge))
        return 0;
    for (unsigned i = 0; i < vm->net_count; i++) {
        struct gw_vm_net *net = &vm->nets[i];

        if (net->kind != GW_VM_NET_TAP || strcmp(net->bridge, from) != 0)
            continue;
        memset(net->bridge, 0, sizeof(net->bridge));
        memcpy(net->bridge, to, strlen(to));
        count++;
    }
    return count;
}

struct gw_vm_disk *gw_vm_find_disk(struct gw_vm *vm, const char *name)
{
    for (unsigned i = 0; i < vm->disk_count; i++) {
        struct gw_vm_disk *disk = &vm->disks[i];

        if (*name && (strcmp(disk->name, name) == 0 || strcmp(disk->device, name) == 0 ||
                      strcmp(disk->node, name) == 0))
            return disk;
    }
    return NULL;
}

bool gw_vm_memory_is_plugged(const struct gw_vm *vm, const struct gw_vm_memory *memory)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        const struct gw_device_model *model = gw_allow_device(vm->devices[i].kind);
        const char *id = gw_vm_property_get(&vm->devices[i].properties, "memdev");

        if (model && (model->classes & GW_DEVICE_MEMORY) && id && strcmp(id, memory->id) == 0)
            return true;
    }
    return false;
}

int gw_vm_memory_open(const struct gw_vm_memory *memory, int flags, int *fd)
{
    struct stat status;
    int opened = open(memory->path, flags | O_CLOEXEC);

    if (opened < 0)
        return gw_fail_errno(-errno, "RAM %s: open %s", memory->id, memory->path);
    if (fstat(opened, &status) < 0 || status.st_dev != memory->device ||
        status.st_ino != memory->inode) {
        close(opened);
        return gw_fail(-ESTALE, "RAM %s: %s is no longer the file that QEMU has mapped", memory->id,
                       memory->path);
    }
    *fd = opened;
    return 0;
}
