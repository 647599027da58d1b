/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks a QEMU command line. One table says of each option what becomes of it: understood, replaced
 * by the target's own (monitors, displays, sockets), or refused with the way out.
 */
#include "engine/vmm/qemu/line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/error.h"
#include "engine/vmm/qemu/allow.h"

#define LINE_MAX_BYTES (1u << 20)

static int read_all(pid_t pid, char **out, size_t *length)
{
    char path[64], *text = calloc(1, LINE_MAX_BYTES + 1);
    size_t used = 0;
    ssize_t got;
    int fd;

    if (!text)
        return gw_fail(-ENOMEM, "no memory for a command line");
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        free(text);
        return gw_fail_errno(-errno, "the command line of QEMU: %s", path);
    }
    while (used < LINE_MAX_BYTES && (got = read(fd, text + used, LINE_MAX_BYTES - used)) > 0)
        used += (size_t)got;
    close(fd);
    if (used == 0 || used == LINE_MAX_BYTES) {
        free(text);
        return gw_fail(-EINVAL, "%s is empty or larger than %u bytes", path, LINE_MAX_BYTES);
    }
    *out = text;
    *length = used;
    return 0;
}

int gw_line_words(pid_t pid, char ***words, unsigned *count)
{
    char *text, **list;
    size_t length, at = 0;
    unsigned found = 0;
    int ret = read_all(pid, &text, &length);

    if (ret < 0)
        return ret;
    list = calloc(GW_LINE_WORDS_MAX + 2, sizeof(*list));
    if (!list) {
        free(text);
        return gw_fail(-ENOMEM, "no memory for a command line");
    }
    list[0] = text; /* kept so that it can be freed */
    for (; at < length && found < GW_LINE_WORDS_MAX; at += strlen(text + at) + 1)
        list[1 + found++] = text + at;
    if (at < length) {
        gw_line_words_free(list + 1);
        return gw_fail(-EINVAL, "QEMU's command line has more than %u words", GW_LINE_WORDS_MAX);
    }
    *words = list + 1;
    *count = found;
    return 0;
}

void gw_line_words_free(char **words)
{
    if (!words)
        return;
    free(words[-1]);
    free(words - 1);
}

void gw_line_copy(struct gw_line *line, char *to, size_t size, const char *text, const char *what)
{
    if (strlen(text) >= size) {
        gw_reasons_add(line->refused, "%s %.60s... is longer than godwit takes (%zu bytes)", what,
                       text, size - 1);
        return;
    }
    memset(to, 0, size);
    memcpy(to, text, strlen(text));
}

int gw_line_keep(struct gw_line *line, struct gw_options *options, const char *owner,
                 struct gw_vm_properties *properties)
{
    for (unsigned i = 0; i < options->count; i++) {
        const struct gw_option *option = &options->items[i];
        int ret;

        if (option->is_used)
            continue;
        ret = gw_vm_property_set(properties, option->name, option->value);
        if (ret == -ENOMEM)
            return ret;
        if (ret < 0)
            gw_reasons_add(line->refused, "%s: %s", owner, gw_error_message());
    }
    return 0;
}

void gw_line_refuse_rest(struct gw_line *line, const struct gw_options *options, const char *owner)
{
    for (unsigned i = 0; i < options->count; i++) {
        if (!options->items[i].is_used)
            gw_reasons_add(line->refused, "%s: the option %s is not one that godwit knows", owner,
                           options->items[i].name);
    }
}

const struct gw_line_drive *gw_line_find_drive(const struct gw_line *line, const char *id)
{
    for (unsigned i = 0; i < line->drive_count; i++) {
        if (*id && strcmp(line->drives[i].id, id) == 0)
            return &line->drives[i];
    }
    return NULL;
}

/* Options whose members go into one property list as they are; vm_check.c holds them to their
 * table. */
static int keep_all(struct gw_line *line, const char *text, const char *implied, const char *owner,
                    struct gw_vm_properties *properties)
{
    struct gw_options options;
    int ret = gw_options_parse(text, implied, &options);

    if (ret == 0)
        ret = gw_line_keep(line, &options, owner, properties);
    gw_options_free(&options);
    return ret;
}

static int on_machine(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *value;
    int ret = gw_options_parse(text, "type", &options);

    gw_options_take(&options, "type");  /* QMP tells which version it is */
    gw_options_take(&options, "accel"); /* and which accelerator was taken */
    value = gw_options_take(&options, "memory-backend");
    if (value)
        gw_line_copy(line, line->vm->ram_id, sizeof(line->vm->ram_id), value, "memory-backend");
    if (gw_options_take(&options, "pflash0") || gw_options_take(&options, "pflash1"))
        gw_reasons_add(line->refused, "pflash: UEFI firmware and its variables are not moved yet; "
                                      "run the VM with the machine's own BIOS");
    if (ret == 0)
        ret = gw_line_keep(line, &options, "-machine", &line->vm->machine_options);
    gw_options_free(&options);
    return ret;
}

static int on_accel(struct gw_line *line, const char *text)
{
    struct gw_options options;
    int ret = gw_options_parse(text, "accel", &options);

    gw_options_take(&options, "accel");
    if (ret == 0)
        ret = gw_line_keep(line, &options, "-accel", &line->vm->accelerator_options);
    gw_options_free(&options);
    return ret;
}

static int on_cpu(struct gw_line *line, const char *text)
{
    char *copy = strdup(text), *save = NULL, *word;
    int ret = 0;

    if (!copy)
        return gw_fail(-ENOMEM, "no memory for -cpu");
    word = strtok_r(copy, ",", &save);
    gw_line_copy(line, line->vm->cpu, sizeof(line->vm->cpu), word ? word : "", "-cpu");
    while (ret == 0 && (word = strtok_r(NULL, ",", &save))) {
        const char *value = "on";
        char *equals = strchr(word, '=');

        if (equals) {
            *equals = '\0';
            value = equals + 1;
        } else if (*word == '+' || *word == '-') {
            value = *word == '+' ? "on" : "off";
            word++;
        }
        ret = gw_vm_property_set(&line->vm->cpu_features, word, value);
    }
    free(copy);
    return ret;
}

static int on_memory(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *value;
    uint64_t slots = 0;
    int ret = gw_options_parse(text, "size", &options);

    value = gw_options_take(&options, "size");
    if (ret == 0 && value)
        ret = gw_option_size(value, 1u << 20, &line->vm->ram_size);
    value = gw_options_take(&options, "maxmem");
    if (ret == 0 && value)
        ret = gw_option_size(value, 1, &line->vm->ram_max);
    value = gw_options_take(&options, "slots");
    if (ret == 0 && value)
        ret = gw_option_number(value, &slots);
    line->vm->ram_slots = (uint32_t)gw_min(slots, UINT32_MAX);
    gw_line_refuse_rest(line, &options, "-m");
    gw_options_free(&options);
    return ret;
}

/* Options that QEMU would take as a list, and a property list would cut to its last value. */
static void refuse_doubles(struct gw_line *line, const struct gw_options *options,
                           const char *owner)
{
    for (unsigned i = 1; i < options->count; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(options->items[i].name, options->items[j].name) == 0)
                gw_reasons_add(line->refused, "%s: %s is given twice; use one %s for each", owner,
                               options->items[i].name, owner);
        }
    }
}

static int on_numa(struct gw_line *line, const char *text)
{
    struct gw_vm_item *numa = &line->vm->numa[line->vm->numa_count];
    struct gw_options options;
    const char *value;
    int ret;

    if (line->vm->numa_count == GW_VM_NUMA_MAX)
        return gw_fail(-E2BIG, "more than %u -numa options", GW_VM_NUMA_MAX);
    line->vm->numa_count++;
    ret = gw_options_parse(text, "type", &options);
    refuse_doubles(line, &options, "-numa");
    value = gw_options_take(&options, "type");
    gw_line_copy(line, numa->kind, sizeof(numa->kind), value ? value : "", "-numa");
    if (gw_options_take(&options, "mem"))
        gw_reasons_add(line->refused,
                       "-numa mem=: guest RAM is not a shared file; give each node a "
                       "memory-backend-file,share=on with memdev=");
    if (ret == 0)
        ret = gw_line_keep(line, &options, "-numa", &numa->properties);
    gw_options_free(&options);
    return ret;
}

static int on_smbios(struct gw_line *line, const char *text)
{
    struct gw_vm_item *smbios = &line->vm->smbios[line->vm->smbios_count];
    struct gw_options options;
    int ret;

    if (line->vm->smbios_count == GW_ARRAY_LENGTH(line->vm->smbios))
        return gw_fail(-E2BIG, "more than %u -smbios options", line->vm->smbios_count);
    line->vm->smbios_count++;
    ret = gw_options_parse(text, NULL, &options);
    refuse_doubles(line, &options, "-smbios");
    if (ret == 0)
        ret = gw_line_keep(line, &options, "-smbios", &smbios->properties);
    gw_options_free(&options);
    return ret;
}

static int on_global(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *driver, *property, *value;
    const char *equals = strchr(text, '=');
    char name[128];
    int ret = 0;

    if (equals && strncmp(text, "driver=", 7) != 0) {
        snprintf(name, sizeof(name), "%.*s", (int)(equals - text), text);
        ret = gw_vm_property_set(&line->vm->globals, name, equals + 1);
    } else {
        ret = gw_options_parse(text, NULL, &options);
        driver = gw_options_take(&options, "driver");
        property = gw_options_take(&options, "property");
        value = gw_options_take(&options, "value");
        snprintf(name, sizeof(name), "%.60s.%.60s", driver ? driver : "", property ? property : "");
        if (ret == 0)
            ret = gw_vm_property_set(&line->vm->globals, name, value ? value : "");
        gw_options_free(&options);
    }
    return ret;
}

static int on_name(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *guest;
    int ret = gw_options_parse(text, "guest", &options);

    guest = gw_options_take(&options, "guest");
    gw_options_take(&options, "debug-threads");
    gw_options_take(&options, "process");
    if (guest)
        gw_line_copy(line, line->vm->name, sizeof(line->vm->name), guest, "-name");
    gw_line_refuse_rest(line, &options, "-name");
    gw_options_free(&options);
    return ret;
}

static int on_boot(struct gw_line *line, const char *text)
{
    int ret = keep_all(line, text, "order", "-boot", &line->vm->boot);

    gw_vm_property_drop(&line->vm->boot, "once"); /* has happened */
    return ret;
}

static int on_mon(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *chardev;
    int ret = gw_options_parse(text, "chardev", &options);

    chardev = gw_options_get(&options, "chardev");
    if (ret == 0 && chardev && line->monitor_count < GW_ARRAY_LENGTH(line->monitors))
        gw_line_copy(line, line->monitors[line->monitor_count++], GW_VM_ID_SIZE, chardev, "-mon");
    gw_options_free(&options);
    return ret;
}

static int add_port(struct gw_line *line, struct gw_vm_port *port, const char *name,
                    const char *text)
{
    struct gw_vm_chardev *chardev;

    if (strcmp(text, "none") == 0)
        return 0;
    if (strncmp(text, "chardev:", 8) == 0) {
        gw_line_copy(line, port->chardev, sizeof(port->chardev), text + 8, name);
        return 0;
    }
    if (line->vm->chardev_count == GW_VM_CHARDEVS_MAX)
        return gw_fail(-E2BIG, "more than %u character devices", GW_VM_CHARDEVS_MAX);
    chardev = &line->vm->chardevs[line->vm->chardev_count++];
    chardev->kind = GW_VM_CHARDEV_SOCKET;
    if (strcmp(text, "null") == 0)
        chardev->kind = GW_VM_CHARDEV_NULL;
    else if (strncmp(text, "file:", 5) == 0)
        chardev->kind = GW_VM_CHARDEV_FILE;
    else if (strcmp(text, "stdio") != 0 && strcmp(text, "pty") != 0 &&
             strncmp(text, "vc", 2) != 0 && strncmp(text, "mon:", 4) != 0 &&
             strncmp(text, "unix:", 5) != 0 && strncmp(text, "tcp:", 4) != 0 &&
             strncmp(text, "telnet:", 7) != 0)
        gw_reasons_add(line->refused,
                       "-%.8s %.60s is not a kind that godwit moves; use unix: or file:", name,
                       text);
    gw_line_copy(line, chardev->id, sizeof(chardev->id), name, "chardev");
    memcpy(port->chardev, chardev->id, sizeof(port->chardev));
    return 0;
}

static int on_serial(struct gw_line *line, const char *text)
{
    struct gw_vm *vm = line->vm;
    char name[24];

    line->has_serial = true;
    if (vm->serial_count == GW_ARRAY_LENGTH(vm->serials))
        return gw_fail(-E2BIG, "more than %u serial ports", vm->serial_count);
    snprintf(name, sizeof(name), "serial%u", vm->serial_count);
    return add_port(line, &vm->serials[vm->serial_count++], name, text);
}

static int on_parallel(struct gw_line *line, const char *text)
{
    struct gw_vm *vm = line->vm;
    char name[24];

    if (vm->parallel_count == GW_ARRAY_LENGTH(vm->parallels))
        return gw_fail(-E2BIG, "more than %u parallel ports", vm->parallel_count);
    snprintf(name, sizeof(name), "parallel%u", vm->parallel_count);
    return add_port(line, &vm->parallels[vm->parallel_count++], name, text);
}

static int on_audiodev(struct gw_line *line, const char *text)
{
    struct gw_options options;
    const char *driver, *id;
    int ret = gw_options_parse(text, "driver", &options);

    driver = gw_options_take(&options, "driver");
    id = gw_options_take(&options, "id");
    if (!driver || strcmp(driver, "none") != 0) {
        gw_reasons_add(line->refused,
                       "-audiodev %.32s: sound of this host is not moved; use -audiodev "
                       "none",
                       driver ? driver : "");
    } else if (id && line->vm->audio_count < GW_VM_IOTHREADS_MAX) {
        struct gw_vm_item *audio = &line->vm->audios[line->vm->audio_count++];

        gw_line_copy(line, audio->kind, sizeof(audio->kind), "none", "-audiodev");
        gw_line_copy(line, audio->id, sizeof(audio->id), id, "-audiodev");
    }
    gw_options_free(&options);
    return ret;
}

static int on_net(struct gw_line *line, const char *text)
{
    if (strcmp(text, "none") == 0)
        line->vm->has_no_net = true;
    else
        gw_reasons_add(line->refused,
                       "-net %.40s: the old form is not moved; use -netdev with -device, "
                       "or -nic",
                       text);
    return 0;
}

static int on_smp(struct gw_line *line, const char *text)
{
    return keep_all(line, text, "cpus", "-smp", &line->vm->smp);
}

static int on_rtc(struct gw_line *line, const char *text)
{
    return keep_all(line, text, NULL, "-rtc", &line->vm->rtc);
}

static int on_action(struct gw_line *line, const char *text)
{
    return keep_all(line, text, NULL, "-action", &line->vm->action);
}

static int on_watchdog_action(struct gw_line *line, const char *text)
{
    return gw_vm_property_set(&line->vm->action, "watchdog", text);
}

static int on_overcommit(struct gw_line *line, const char *text)
{
    return keep_all(line, text, NULL, "-overcommit", &line->vm->overcommit);
}

static int on_uuid(struct gw_line *line, const char *text)
{
    gw_line_copy(line, line->vm->uuid, sizeof(line->vm->uuid), text, "-uuid");
    return 0;
}

static int on_vga(struct gw_line *line, const char *text)
{
    gw_line_copy(line, line->vm->vga, sizeof(line->vm->vga), text, "-vga");
    return 0;
}

static int on_sandbox(struct gw_line *line, const char *text)
{
    line->vm->has_sandbox = strncmp(text, "on", 2) == 0 || strncmp(text, "enable=on", 9) == 0;
    return 0;
}

static int on_flag(struct gw_line *line, const char *name)
{
    struct gw_vm *vm = line->vm;

    if (strcmp(name, "nodefaults") == 0)
        vm->has_defaults = false;
    else if (strcmp(name, "nographic") == 0)
        line->is_nographic = true;
    else if (strcmp(name, "usb") == 0)
        vm->has_usb = true;
    else if (strcmp(name, "no-shutdown") == 0)
        vm->has_no_shutdown = true;
    else if (strcmp(name, "no-reboot") == 0)
        vm->has_no_reboot = true;
    else if (strcmp(name, "no-acpi") == 0)
        vm->has_no_acpi = true;
    else if (strcmp(name, "no-hpet") == 0)
        vm->has_no_hpet = true;
    return 0;
}

static int on_ide_disk(struct gw_line *line, const char *name)
{
    return gw_line_ide_file(line, (uint32_t)(name[2] - 'a'));
}

enum option_fate {
    KEPT,    /* handler with the argument */
    FLAG,    /* handler with the option's own name; takes no argument */
    NAMED,   /* handler with the option's own name; takes an argument */
    DROPPED, /* takes an argument; the target has its own */
    DROPPED_FLAG,
    REFUSED, /* takes an argument */
    REFUSED_FLAG,
};

struct option {
    const char *name;
    enum option_fate fate;
    int (*handler)(struct gw_line *line, const char *text);
    const char *reason; /* REFUSED */
};

#define FIRMWARE                                                                                   \
    "firmware and kernels on this host's disk are not moved yet; boot from the VM's disk"
#define MEDIA  "removable media are not moved yet; attach the image as a disk, or eject it"
#define SHARED "it gives the guest files of this host; take it out before the move"

static const struct option table[] = {
    {"machine", KEPT, on_machine, NULL},
    {"M", KEPT, on_machine, NULL},
    {"accel", KEPT, on_accel, NULL},
    {"cpu", KEPT, on_cpu, NULL},
    {"smp", KEPT, on_smp, NULL},
    {"m", KEPT, on_memory, NULL},
    {"numa", KEPT, on_numa, NULL},
    {"name", KEPT, on_name, NULL},
    {"uuid", KEPT, on_uuid, NULL},
    {"device", KEPT, gw_line_device, NULL},
    {"drive", KEPT, gw_line_drive, NULL},
    {"blockdev", KEPT, gw_line_blockdev, NULL},
    {"netdev", KEPT, gw_line_netdev, NULL},
    {"nic", KEPT, gw_line_nic, NULL},
    {"net", KEPT, on_net, NULL},
    {"chardev", KEPT, gw_line_chardev, NULL},
    {"object", KEPT, gw_line_object, NULL},
    {"serial", KEPT, on_serial, NULL},
    {"parallel", KEPT, on_parallel, NULL},
    {"audiodev", KEPT, on_audiodev, NULL},
    {"mon", KEPT, on_mon, NULL},
    {"boot", KEPT, on_boot, NULL},
    {"rtc", KEPT, on_rtc, NULL},
    {"smbios", KEPT, on_smbios, NULL},
    {"global", KEPT, on_global, NULL},
    {"vga", KEPT, on_vga, NULL},
    {"action", KEPT, on_action, NULL},
    {"watchdog-action", KEPT, on_watchdog_action, NULL},
    {"overcommit", KEPT, on_overcommit, NULL},
    {"sandbox", KEPT, on_sandbox, NULL},
    {"nodefaults", FLAG, on_flag, NULL},
    {"nographic", FLAG, on_flag, NULL},
    {"usb", FLAG, on_flag, NULL},
    {"no-shutdown", FLAG, on_flag, NULL},
    {"no-reboot", FLAG, on_flag, NULL},
    {"no-acpi", FLAG, on_flag, NULL},
    {"no-hpet", FLAG, on_flag, NULL},
    {"hda", NAMED, on_ide_disk, NULL},
    {"hdb", NAMED, on_ide_disk, NULL},
    {"hdc", NAMED, on_ide_disk, NULL},
    {"hdd", NAMED, on_ide_disk, NULL},
    {"qmp", DROPPED, NULL, NULL},
    {"qmp-pretty", DROPPED, NULL, NULL},
    {"monitor", DROPPED, NULL, NULL},
    {"pidfile", DROPPED, NULL, NULL},
    {"D", DROPPED, NULL, NULL},
    {"d", DROPPED, NULL, NULL},
    {"trace", DROPPED, NULL, NULL},
    {"msg", DROPPED, NULL, NULL},
    {"display", DROPPED, NULL, NULL},
    {"vnc", DROPPED, NULL, NULL},
    {"k", DROPPED, NULL, NULL},
    {"incoming", DROPPED, NULL, NULL},
    {"runas", DROPPED, NULL, NULL},
    {"run-with", DROPPED, NULL, NULL},
    {"chroot", DROPPED, NULL, NULL},
    {"gdb", DROPPED, NULL, NULL},
    {"S", DROPPED_FLAG, NULL, NULL},
    {"s", DROPPED_FLAG, NULL, NULL},
    {"daemonize", DROPPED_FLAG, NULL, NULL},
    {"no-user-config", DROPPED_FLAG, NULL, NULL},
    {"enable-kvm", DROPPED_FLAG, NULL, NULL},
    {"full-screen", DROPPED_FLAG, NULL, NULL},
    {"mem-prealloc", DROPPED_FLAG, NULL, NULL},
    {"mem-path", REFUSED, NULL,
     "RAM from -mem-path is private to QEMU; use -object memory-backend-file,share=on with "
     "-machine "
     "memory-backend="},
    {"bios", REFUSED, NULL, FIRMWARE},
    {"pflash", REFUSED, NULL, FIRMWARE},
    {"kernel", REFUSED, NULL, FIRMWARE},
    {"initrd", REFUSED, NULL, FIRMWARE},
    {"append", REFUSED, NULL, FIRMWARE},
    {"dtb", REFUSED, NULL, FIRMWARE},
    {"option-rom", REFUSED, NULL, FIRMWARE},
    {"L", REFUSED, NULL, FIRMWARE},
    {"fw_cfg", REFUSED, NULL, "firmware configuration items are not moved yet"},
    {"acpitable", REFUSED, NULL, "ACPI tables from files are not moved yet"},
    {"readconfig", REFUSED, NULL, "put what the file says on the command line"},
    {"cdrom", REFUSED, NULL, MEDIA},
    {"fda", REFUSED, NULL, MEDIA},
    {"fdb", REFUSED, NULL, MEDIA},
    {"sd", REFUSED, NULL, MEDIA},
    {"mtdblock", REFUSED, NULL, MEDIA},
    {"fsdev", REFUSED, NULL, SHARED},
    {"virtfs", REFUSED, NULL, SHARED},
    {"usbdevice", REFUSED, NULL, "use -device usb-tablet, usb-mouse or usb-kbd"},
    {"tpmdev", REFUSED, NULL, "the state of a virtual TPM is not moved yet; run the VM without it"},
    {"spice", REFUSED, NULL, "SPICE is not moved; use -vnc or -display none"},
    {"add-fd", REFUSED, NULL, "disks behind passed descriptors are not moved yet"},
    {"loadvm", REFUSED, NULL, "start the VM without it"},
    {"icount", REFUSED, NULL, "QEMU's record and replay do not move"},
    {"plugin", REFUSED, NULL, "plugins are not moved"},
    {"snapshot", REFUSED_FLAG, NULL,
     "writes of -snapshot go to a temporary file that is not moved"},
};

static const struct option *find_option(const char *name)
{
    for (size_t i = 0; i < GW_ARRAY_LENGTH(table); i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

/* Handles the option at words[*at] and moves *at past it. */
static int walk(struct gw_line *line, char *const *words, unsigned count, unsigned *at)
{
    const char *word = words[(*at)++], *name, *argument;
    const struct option *option;

    if (word[0] != '-')
        return gw_line_ide_file(line, 0); /* a bare word is -hda */
    name = word + (word[1] == '-' ? 2 : 1);
    option = find_option(name);
    if (!option) {
        gw_reasons_add(line->refused, "the QEMU option -%.40s is not one that godwit knows", name);
        if (*at < count && words[*at][0] != '-')
            (*at)++;
        return 0;
    }
    if (option->fate == FLAG)
        return option->handler(line, name);
    if (option->fate == REFUSED_FLAG)
        gw_reasons_add(line->refused, "-%s: %s", name, option->reason);
    if (option->fate == REFUSED_FLAG || option->fate == DROPPED_FLAG)
        return 0;
    if (*at == count)
        return gw_fail(-EINVAL, "QEMU's command line ends in the middle of -%s", name);
    argument = words[(*at)++];
    if (option->fate == REFUSED)
        gw_reasons_add(line->refused, "-%s: %s", name, option->reason);
    if (option->fate == NAMED)
        return option->handler(line, name);
    return option->fate == KEPT ? option->handler(line, argument) : 0;
}

static bool is_used_elsewhere(const struct gw_vm *vm, const char *chardev)
{
    for (unsigned i = 0; i < vm->serial_count; i++) {
        if (strcmp(vm->serials[i].chardev, chardev) == 0)
            return true;
    }
    for (unsigned i = 0; i < vm->device_count; i++) {
        const char *value = gw_vm_property_get(&vm->devices[i].properties, "chardev");

        if (value && strcmp(value, chardev) == 0)
            return true;
    }
    return false;
}

/* Character devices that only monitors use stay behind with them. */
static void drop_monitors(struct gw_line *line)
{
    struct gw_vm *vm = line->vm;

    for (unsigned i = 0; i < line->monitor_count; i++) {
        for (unsigned j = 0; j < vm->chardev_count; j++) {
            if (strcmp(vm->chardevs[j].id, line->monitors[i]) != 0 ||
                is_used_elsewhere(vm, line->monitors[i]))
                continue;
            vm->chardev_count--;
            memmove(&vm->chardevs[j], &vm->chardevs[j + 1],
                    (vm->chardev_count - j) * sizeof(vm->chardevs[0]));
            break;
        }
    }
}

static int finish(struct gw_line *line)
{
    struct gw_vm *vm = line->vm;
    int ret = gw_line_finish_devices(line);

    if (ret < 0)
        return ret;
    if (line->is_nographic) {
        ret = gw_vm_property_set(&vm->machine_options, "graphics", "off");
        if (ret == 0 && !line->has_serial && vm->has_defaults)
            ret = on_serial(line, "stdio");
    }
    drop_monitors(line);
    return ret;
}

int gw_line_parse(char *const *words, unsigned count, struct gw_vm *vm, struct gw_reasons *refused,
                  struct gw_line **out)
{
    struct gw_line *line = calloc(1, sizeof(*line));
    unsigned at = 1;
    int ret = 0;

    if (!line)
        return gw_fail(-ENOMEM, "no memory for a command line");
    line->vm = vm;
    line->refused = refused;
    vm->has_defaults = true;
    while (at < count && ret == 0)
        ret = walk(line, words, count, &at);
    if (ret == 0)
        ret = finish(line);
    if (ret < 0) {
        gw_line_free(line);
        return ret;
    }
    *out = line;
    return 0;
}

void gw_line_free(struct gw_line *line)
{
    if (!line)
        return;
    for (unsigned i = 0; i < line->late_count; i++)
        free(line->late[i].properties.items);
    free(line);
}
