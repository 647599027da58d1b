/* SPDX-License-Identifier: Apache-2.0 */
/* The options that make devices and what stands behind them: drives, nets, chardevs, objects. */
#include "engine/vmm/qemu/line.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

static int append_device(struct gw_line *line, struct gw_vm_item **device, char **drive,
                         bool is_late)
{
    struct gw_vm *vm = line->vm;

    if (vm->device_count + line->late_count == GW_VM_DEVICES_MAX)
        return gw_fail(-E2BIG, "more than %u devices", GW_VM_DEVICES_MAX);
    if (is_late) {
        *drive = line->late_drive[line->late_count];
        *device = &line->late[line->late_count++];
    } else {
        *drive = line->device_drive[vm->device_count];
        *device = &vm->devices[vm->device_count++];
    }
    return 0;
}

int gw_line_device(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const struct gw_device_model *model;
    struct gw_vm_item *device;
    const char *value;
    char *drive;
    int ret = append_device(line, &device, &drive, text[0] == '{');

    if (ret < 0)
        return ret;
    ret = gw_options_parse(text, "driver", &options);
    value = gw_options_take(&options, "driver");
    model = gw_allow_device(value ? value : "");
    gw_line_copy(line, device->kind, sizeof(device->kind),
                 model   ? model->name
                 : value ? value
                         : "",
                 "-device");
    value = gw_options_take(&options, "id");
    if (value)
        gw_line_copy(line, device->id, sizeof(device->id), value, "-device id=");
    value = gw_options_take(&options, "drive");
    if (value)
        gw_line_copy(line, drive, GW_VM_ID_SIZE, value, "drive=");
    /* What a device that is refused as a whole was given is of no interest. */
    if (ret == 0 && model)
        ret = gw_line_keep(line, &options, device->kind, &device->properties);
    gw_options_free(&options);
    return ret;
}

static struct gw_line_drive *append_drive(struct gw_line *line)
{
    if (line->drive_count == GW_LINE_NODES_MAX)
        return NULL;
    line->drives[line->drive_count].aio[0] = '\0';
    return &line->drives[line->drive_count++];
}

static int no_room(void)
{
    return gw_fail(-E2BIG, "more than %u drives", GW_LINE_NODES_MAX);
}

int gw_line_ide_file(struct gw_line *line, uint32_t unit)
{
    struct gw_line_drive *drive = append_drive(line);

    if (!drive)
        return no_room();
    drive->is_ide = true;
    drive->unit = unit;
    return 0;
}

/* The options of -drive and -blockdev that say nothing that QMP does not say as well, and that the
 * target chooses anew. */
static const char block_known[] =
    "file file.filename filename file.driver file.node-name format driver node-name if id cache "
    "cache.direct cache.no-flush cache.writeback file.cache.direct file.cache.no-flush "
    "file.cache.writeback detect-zeroes read-only readonly auto-read-only file.auto-read-only "
    "file.read-only file.locking locking file.aio aio file.discard discard media index bus unit "
    "size read-zeroes file.detect-zeroes";

static void take_common(struct gw_line *line, struct gw_options *options,
                        struct gw_line_drive *drive, const char *owner)
{
    const char *aio = gw_options_get(options, "aio");
    const char *discard = gw_options_get(options, "discard");

    if (!aio)
        aio = gw_options_get(options, "file.aio");
    if (aio)
        gw_line_copy(line, drive->aio, sizeof(drive->aio), aio, "aio=");
    drive->is_discard = discard && (strcmp(discard, "unmap") == 0 || strcmp(discard, "on") == 0);
    for (unsigned i = 0; i < options->count; i++) {
        if (gw_allow_word(block_known, options->items[i].name))
            options->items[i].is_used = true;
    }
    gw_line_refuse_rest(line, options, owner);
}

static int number_of(struct gw_options *options, const char *name, uint32_t otherwise,
                     uint32_t *out)
{
    const char *text = gw_options_get(options, name);
    uint64_t value = otherwise;
    int ret = text ? gw_option_number(text, &value) : 0;

    *out = (uint32_t)value;
    return ret;
}

/* -drive if=ide without index, bus or unit takes the first free place. */
static uint32_t free_unit(const struct gw_line *line, const struct gw_line_drive *self)
{
    for (uint32_t unit = 0;; unit++) {
        bool is_taken = false;

        for (unsigned i = 0; i < line->drive_count; i++) {
            const struct gw_line_drive *other = &line->drives[i];

            is_taken |= other != self && other->is_ide && other->unit == unit;
        }
        if (!is_taken)
            return unit;
    }
}

static int place_ide(struct gw_line *line, struct gw_options *options, struct gw_line_drive *drive)
{
    uint32_t index, bus, unit;
    int ret = number_of(options, "index", UINT32_MAX, &index);

    if (ret == 0)
        ret = number_of(options, "bus", 0, &bus);
    if (ret == 0)
        ret = number_of(options, "unit", 0, &unit);
    if (ret < 0)
        return ret;
    drive->is_ide = true;
    if (gw_options_get(options, "bus") || gw_options_get(options, "unit"))
        gw_reasons_add(line->refused, "-drive if=ide with bus= or unit=: use index=");
    drive->unit = index != UINT32_MAX ? index : free_unit(line, drive);
    return 0;
}

static int add_virtio_disk(struct gw_line *line, struct gw_options *options,
                           struct gw_line_drive *drive)
{
    drive->is_virtio = true;
    if (!drive->id[0]) {
        uint32_t before = 0;

        for (unsigned i = 0; i < line->drive_count; i++)
            before += &line->drives[i] != drive && line->drives[i].is_virtio;
        if (gw_options_get(options, "index"))
            gw_reasons_add(line->refused,
                           "-drive if=virtio with index= and without id=: add an id=");
        snprintf(drive->id, sizeof(drive->id), "virtio%u", before);
    }
    return 0;
}

int gw_line_drive(struct gw_line *line, const char *text)
{
    struct gw_line_drive *drive = append_drive(line);
    struct gw_options options;
    const char *interface, *value;
    char owner[100];
    int ret;

    if (!drive)
        return no_room();
    ret = gw_options_parse(text, NULL, &options);
    value = gw_options_get(&options, "id");
    if (value)
        gw_line_copy(line, drive->id, sizeof(drive->id), value, "-drive id=");
    interface = gw_options_get(&options, "if");
    if (!interface)
        interface = "ide";
    snprintf(owner, sizeof(owner), "-drive %s", drive->id[0] ? drive->id : interface);
    value = gw_options_get(&options, "media");
    drive->is_cdrom = value && strcmp(value, "cdrom") == 0;
    if (drive->is_cdrom && strcmp(interface, "ide") == 0)
        gw_reasons_add(line->refused, "%s: use -device ide-cd for a CD-ROM drive", owner);
    if (gw_options_take(&options, "werror") || gw_options_take(&options, "rerror"))
        gw_reasons_add(line->refused, "%s: give werror= and rerror= to the -device", owner);
    if (ret == 0 && strcmp(interface, "ide") == 0)
        ret = place_ide(line, &options, drive);
    else if (ret == 0 && strcmp(interface, "virtio") == 0)
        ret = add_virtio_disk(line, &options, drive);
    else if (strcmp(interface, "none") != 0)
        gw_reasons_add(line->refused, "%s: if=%.16s is not moved%s", owner, interface,
                       strcmp(interface, "pflash") == 0
                           ? ": UEFI firmware and its variables are not moved yet"
                           : "; use a -device");
    take_common(line, &options, drive, owner);
    gw_options_free(&options);
    return ret;
}

int gw_line_blockdev(struct gw_line *line, const char *text)
{
    struct gw_line_drive *drive = append_drive(line);
    struct gw_options options;
    const char *value;
    char owner[100];
    int ret;

    if (!drive)
        return no_room();
    ret = gw_options_parse(text, "driver", &options);
    drive->is_node = true;
    value = gw_options_get(&options, "node-name");
    if (value)
        gw_line_copy(line, drive->id, sizeof(drive->id), value, "-blockdev node-name=");
    value = gw_options_get(&options, "driver");
    if (value)
        gw_line_copy(line, drive->driver, sizeof(drive->driver), value, "-blockdev driver=");
    value = gw_options_get(&options, "file");
    if (value)
        gw_line_copy(line, drive->child, sizeof(drive->child), value, "-blockdev file=");
    snprintf(owner, sizeof(owner), "-blockdev %s", drive->id);
    if (gw_options_take(&options, "backing") && gw_options_get(&options, "backing")[0])
        gw_reasons_add(line->refused, "%s: a chain of images is not moved; flatten it first",
                       owner);
    take_common(line, &options, drive, owner);
    gw_options_free(&options);
    return ret;
}

int gw_line_finish_devices(struct gw_line *line)
{
    struct gw_vm *vm = line->vm;

    for (unsigned i = 0; i < line->drive_count; i++) {
        struct gw_vm_item *device;
        char *drive;
        int ret;

        if (!line->drives[i].is_virtio)
            continue;
        ret = append_device(line, &device, &drive, false);
        if (ret < 0)
            return ret;
        gw_line_copy(line, device->kind, sizeof(device->kind), "virtio-blk-pci", "device");
        memcpy(drive, line->drives[i].id, GW_VM_ID_SIZE);
    }
    for (unsigned i = 0; i < line->late_count; i++) {
        memcpy(line->device_drive[vm->device_count], line->late_drive[i], GW_VM_ID_SIZE);
        vm->devices[vm->device_count++] = line->late[i];
        line->late[i].properties = (struct gw_vm_properties){0};
    }
    return 0;
}

static int append_net(struct gw_line *line, struct gw_vm_net **net)
{
    if (line->vm->net_count == GW_VM_NETS_MAX)
        return gw_fail(-E2BIG, "more than %u nets", GW_VM_NETS_MAX);
    *net = &line->vm->nets[line->vm->net_count++];
    return 0;
}

/* The back end's own options; what is left afterwards belongs to the caller. */
static int read_net(struct gw_line *line, struct gw_options *options, struct gw_vm_net *net,
                    const char *kind)
{
    const char *value;
    bool vhost = false;

    if (strcmp(kind, "user") == 0) {
        net->kind = GW_VM_NET_USER;
        for (unsigned i = 0; i < options->count; i++) {
            struct gw_option *option = &options->items[i];

            if (gw_allow_kind(gw_allow_user_net, option->name) == GW_VALUE_NONE)
                continue;
            option->is_used = true;
            if (gw_vm_property_set(&net->properties, option->name, option->value) < 0)
                gw_reasons_add(line->refused, "netdev %s: %s", net->id, gw_error_message());
        }
        return 0;
    }
    if (strcmp(kind, "tap") != 0 && strcmp(kind, "bridge") != 0) {
        gw_reasons_add(line->refused,
                       "netdev %s: the kind %.24s is not moved; use tap, bridge or user", net->id,
                       kind);
        for (unsigned i = 0; i < options->count; i++)
            options->items[i].is_used = true;
        return 0;
    }
    net->kind = GW_VM_NET_TAP;
    value = gw_options_take(options, "br");
    if (value || gw_options_take(options, "helper") || strcmp(kind, "bridge") == 0)
        gw_line_copy(line, net->bridge, sizeof(net->bridge), value ? value : "br0", "br=");
    value = gw_options_take(options, "vhost");
    if (value && gw_option_bool(value, &vhost) == 0)
        net->is_vhost = vhost;
    value = gw_options_take(options, "queues");
    if ((value && strcmp(value, "1") != 0) || gw_options_take(options, "fds"))
        gw_reasons_add(line->refused, "netdev %s: more than one queue is not moved yet", net->id);
    /* ifname, script and descriptors say how this host made the tap; QMP finds its bridge. */
    gw_options_take(options, "helper");
    gw_options_take(options, "ifname");
    gw_options_take(options, "script");
    gw_options_take(options, "downscript");
    gw_options_take(options, "fd");
    gw_options_take(options, "vhostfd");
    gw_options_take(options, "vnet_hdr");
    gw_options_take(options, "sndbuf");
    return 0;
}

int gw_line_netdev(struct gw_line *line, const char *text)
{
    struct gw_options options;
    struct gw_vm_net *net;
    const char *kind, *id;
    char owner[80];
    int ret = append_net(line, &net);

    if (ret < 0)
        return ret;
    ret = gw_options_parse(text, "type", &options);
    kind = gw_options_take(&options, "type");
    id = gw_options_take(&options, "id");
    if (id)
        gw_line_copy(line, net->id, sizeof(net->id), id, "-netdev id=");
    snprintf(owner, sizeof(owner), "netdev %s", net->id);
    if (ret == 0)
        ret = read_net(line, &options, net, kind ? kind : "");
    gw_line_refuse_rest(line, &options, owner);
    gw_options_free(&options);
    return ret;
}

int gw_line_nic(struct gw_line *line, const char *text)
{
    struct gw_options options;
    struct gw_vm_net *net;
    const char *kind, *value;
    int ret;

    if (strcmp(text, "none") == 0) {
        line->vm->has_no_net = true;
        return 0;
    }
    ret = append_net(line, &net);
    if (ret < 0)
        return ret;
    net->is_nic = true;
    ret = gw_options_parse(text, "type", &options);
    kind = gw_options_take(&options, "type");
    value = gw_options_take(&options, "id");
    if (value)
        gw_line_copy(line, net->id, sizeof(net->id), value, "-nic id=");
    value = gw_options_take(&options, "model");
    if (value)
        gw_line_copy(line, net->model, sizeof(net->model), value, "-nic model=");
    value = gw_options_take(&options, "mac");
    if (value)
        gw_line_copy(line, net->mac, sizeof(net->mac), value, "-nic mac=");
    if (ret == 0)
        ret = read_net(line, &options, net, kind ? kind : "user");
    gw_line_refuse_rest(line, &options, "-nic");
    gw_options_free(&options);
    return ret;
}

int gw_line_chardev(struct gw_line *line, const char *text)
{
    struct gw_vm *vm = line->vm;
    struct gw_vm_chardev *chardev;
    struct gw_options options;
    const char *backend, *id;
    int ret;

    if (vm->chardev_count == GW_VM_CHARDEVS_MAX)
        return gw_fail(-E2BIG, "more than %u character devices", GW_VM_CHARDEVS_MAX);
    chardev = &vm->chardevs[vm->chardev_count++];
    ret = gw_options_parse(text, "backend", &options);
    backend = gw_options_get(&options, "backend");
    id = gw_options_get(&options, "id");
    gw_line_copy(line, chardev->id, sizeof(chardev->id), id ? id : "", "-chardev id=");
    if (backend && strcmp(backend, "null") == 0)
        chardev->kind = GW_VM_CHARDEV_NULL;
    else if (backend && strcmp(backend, "file") == 0)
        chardev->kind = GW_VM_CHARDEV_FILE;
    else if (backend && gw_allow_word("socket stdio pty vc ringbuf", backend))
        chardev->kind = GW_VM_CHARDEV_SOCKET;
    else
        gw_reasons_add(line->refused, "chardev %s: the kind %.24s is not moved; use socket or file",
                       chardev->id, backend ? backend : "");
    /* A path, an address or a descriptor is this host's; the target has its own. */
    gw_options_free(&options);
    return ret;
}

static const char memory_known[] =
    "qom-type id size mem-path share prealloc prealloc-threads dump merge host-nodes "
    "policy align discard-data readonly hugetlb hugetlbsize seal reserve prealloc-context "
    "x-use-canonical-path-for-ramblock-id pmem rom";

static void check_memory_object(struct gw_line *line, struct gw_options *options, const char *id)
{
    const char *value;
    bool flag;

    static const char *const must_be_off[] = {"pmem", "readonly", "discard-data",
                                              "x-use-canonical-path-for-ramblock-id"};

    for (size_t i = 0; i < GW_ARRAY_LENGTH(must_be_off); i++) {
        value = gw_options_get(options, must_be_off[i]);
        if (value && gw_option_bool(value, &flag) == 0 && flag)
            gw_reasons_add(line->refused, "memory %s: %s=on is not moved", id, must_be_off[i]);
    }
    for (unsigned i = 0; i < options->count; i++) {
        if (gw_allow_word(memory_known, options->items[i].name) ||
            strncmp(options->items[i].name, "host-nodes.", 11) == 0)
            options->items[i].is_used = true;
    }
}

static int keep_object(struct gw_line *line, struct gw_options *options, struct gw_vm_item *items,
                       unsigned *count)
{
    const char *kind = gw_options_take(options, "qom-type");
    const char *id = gw_options_take(options, "id");
    struct gw_vm_item *item = &items[*count];

    if (*count == GW_VM_IOTHREADS_MAX)
        return gw_fail(-E2BIG, "more than %u objects of the kind %s", GW_VM_IOTHREADS_MAX, kind);
    (*count)++;
    gw_line_copy(line, item->kind, sizeof(item->kind), kind, "-object");
    gw_line_copy(line, item->id, sizeof(item->id), id ? id : "", "-object id=");
    return gw_line_keep(line, options, kind, &item->properties);
}

int gw_line_object(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *kind, *id;
    char owner[128];
    int ret = gw_options_parse(text, "qom-type", &options);

    kind = gw_options_get(&options, "qom-type");
    id = gw_options_get(&options, "id");
    if (!kind || !id) {
        ret = ret < 0 ? ret : gw_fail(-EINVAL, "-object without a type or an id: %.100s", text);
    } else if (gw_allow_word("memory-backend-file memory-backend-memfd memory-backend-ram", kind)) {
        snprintf(owner, sizeof(owner), "memory %.63s", id);
        check_memory_object(line, &options, id);
        gw_line_refuse_rest(line, &options, owner);
    } else if (strcmp(kind, "iothread") == 0) {
        ret = keep_object(line, &options, line->vm->iothreads, &line->vm->iothread_count);
    } else if (gw_allow_word("rng-random rng-builtin", kind)) {
        gw_options_take(&options, "filename"); /* the target reads /dev/urandom */
        ret = keep_object(line, &options, line->vm->rngs, &line->vm->rng_count);
    } else if (strcmp(kind, "secret") != 0 || strcmp(id, "masterKey0") != 0) {
        /* masterKey0 is libvirt's, and protects other secrets, which are refused. */
        gw_reasons_add(line->refused,
                       "-object %.40s %.40s is not one that godwit knows how to move", kind, id);
    }
    gw_options_free(&options);
    return ret;
}
