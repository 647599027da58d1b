/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptions: what is refused by name on the source, and what a hostile peer cannot get past the
 * target. Command lines are parsed as words here; test-move.c has the real QEMUs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "engine/vmm/qemu/launch.h"
#include "engine/vmm/qemu/line.h"
#include "engine/vmm/qemu/vm.h"

TestSuite(vm, .timeout = 30);

/* Parses a command line of words without blanks and checks the result; the reasons are kept. */
static struct gw_vm *parse(const char *text, struct gw_reasons *refused)
{
    char *copy = strdup(text), *save = NULL, *words[200] = {(char *)"qemu"};
    struct gw_line *line;
    struct gw_vm *vm;
    unsigned count = 1;

    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        words[count++] = word;
    cr_assert_eq(gw_vm_new(&vm), 0);
    cr_assert_eq(gw_line_parse(words, count, vm, refused, &line), 0, "%s", gw_error_message());
    gw_line_free(line);
    free(copy);
    /* What only QMP tells. */
    strcpy(vm->machine, "pc-i440fx-7.2");
    strcpy(vm->architecture, "x86_64");
    strcpy(vm->accelerator, "tcg");
    if (!vm->cpu[0])
        strcpy(vm->cpu, "qemu64");
    vm->cpu_count = 1;
    vm->ram_size = 1 << 20;
    vm->memory_count = 1;
    strcpy(vm->memories[0].id, "ram0");
    vm->memories[0].size = 1 << 20;
    vm->memories[0].page_size = 4096;
    gw_vm_check(vm, refused);
    return vm;
}

static void expect_reasons(const char *text, const char *const *expected)
{
    struct gw_reasons refused = {0};
    struct gw_vm *vm = parse(text, &refused);
    unsigned count = 0;

    for (; expected[count]; count++) {
        bool is_found = false;

        for (unsigned i = 0; i < refused.count; i++)
            is_found |= strstr(refused.lines[i], expected[count]) != NULL;
        cr_expect(is_found, "\"%s\" is not among the reasons", expected[count]);
    }
    cr_expect_eq(refused.count, count);
    for (unsigned i = 0; i < refused.count && refused.count != count; i++)
        cr_log_error("%s", refused.lines[i]);
    gw_reasons_free(&refused);
    gw_vm_free(vm);
}

#define REASONS(...)                                                                               \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

Test(vm, every_unknown_thing_is_named)
{
    expect_reasons("-machine pc,frob=on -device frobnicator,id=f1 -device virtio-blk-pci,frob=1 "
                   "-frobnicate yes -drive file=a,if=none,id=d,frob=1 -chardev frob,id=c "
                   "-netdev frob,id=n -object frob,id=o -m 64,frob=1",
                   REASONS("-machine: the option frob", "device frobnicator f1", "-frobnicate",
                           "virtio-blk-pci: the option frob", "-drive d: the option frob",
                           "chardev c: the kind frob", "netdev n: the kind frob", "-object frob o",
                           "-m: the option frob"));
}

Test(vm, known_obstacles_come_with_the_way_out)
{
    expect_reasons(
        "-device vfio-pci,host=01:00.0,id=gpu -device ivshmem-plain,memdev=x "
        "-device vhost-vdpa-device-pci -device nvme,drive=d,serial=1 -device tpm-tis,tpmdev=t "
        "-tpmdev emulator,id=t,chardev=c -bios /x -kernel /vmlinuz -readconfig /f -cdrom /c.iso "
        "-virtfs local,path=/ -spice port=1 -mem-path /dev/shm/x -net user "
        "-drive if=pflash,file=/x -drive if=floppy,file=/f -snapshot -fw_cfg "
        "name=a,file=/etc/shadow",
        REASONS("device vfio-pci gpu: it is a device of this host", "ivshmem-plain",
                "vhost-vdpa-device-pci", "nvme", "tpm-tis", "-tpmdev", "-bios", "-kernel",
                "-readconfig: put what the file says", "-cdrom", "-virtfs", "-spice", "-mem-path",
                "-net user", "if=pflash", "if=floppy", "-snapshot", "-fw_cfg"));
}

Test(vm, a_plain_line_is_accepted_in_both_notations)
{
    struct gw_reasons refused = {0};
    struct gw_vm *vm = parse(
        "-name guest=web,,1,debug-threads=on -machine pc,memory-backend=ram0,usb=off -S -daemonize "
        "-object "
        "{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/k\"} "
        "-object iothread,id=io1 -cpu host,+vmx,-svm,migratable=on -smp 4,sockets=2 "
        "-device "
        "{\"driver\":\"virtio-blk-pci\",\"id\":\"d1\",\"iothread\":\"io1\",\"bootindex\":1} "
        "-device virtio-blk,id=d2,serial=a,,b -drive if=virtio,file=/x,format=raw "
        "-chardev socket,id=mon,path=/m,server=on -mon chardev=mon,mode=control "
        "-chardev socket,id=ga,path=/m2,server=on -device virtio-serial-pci "
        "-device virtserialport,chardev=ga,name=org.qemu.guest_agent.0 -boot order=c,once=d "
        "-global kvm-pit.lost_tick_policy=delay -msg timestamp=on -sandbox on",
        &refused);

    cr_assert_eq(gw_reasons_fail(&refused, -1), 0, "%s", gw_error_message());
    cr_assert_str_eq(vm->name, "web,1");
    cr_assert_eq(vm->device_count, 5);
    /* Devices in JSON are made after the others, and if=virtio before those. */
    cr_assert_str_eq(vm->devices[0].id, "d2");
    cr_assert_str_eq(vm->devices[4].id, "d1");
    cr_assert_str_eq(gw_vm_property_get(&vm->devices[0].properties, "serial"), "a,b");
    cr_assert_str_eq(gw_vm_property_get(&vm->devices[4].properties, "bootindex"), "1");
    cr_assert_str_eq(gw_vm_property_get(&vm->cpu_features, "svm"), "off");
    cr_assert_eq(vm->chardev_count, 1, "the monitor's stays behind");
    cr_assert_null(gw_vm_property_get(&vm->boot, "once"));
    cr_assert(vm->has_sandbox);
    gw_reasons_free(&refused);
    gw_vm_free(vm);
}

/* A description that is all right, as JSON. */
static json_t *good(void)
{
    struct gw_reasons refused = {0};
    struct gw_vm *vm =
        parse("-device virtio-blk-pci,id=d0 -object iothread,id=io0 -smbios type=1,product=x "
              "-netdev tap,id=n0,br=br0 -device virtio-net-pci,netdev=n0 -numa node,nodeid=0 "
              "-chardev socket,id=c0,path=/x -serial chardev:c0 -object rng-random,id=r0",
              &refused);
    struct gw_vm_disk *disk = &vm->disks[vm->disk_count++];
    json_t *json;

    cr_assert_eq(gw_reasons_fail(&refused, -1), 0, "%s", gw_error_message());
    strcpy(disk->name, "vda");
    strcpy(disk->device, "d0");
    strcpy(disk->format, "vhdx");
    strcpy(disk->file_name, "disk.vhdx");
    strcpy(disk->detect_zeroes, "off");
    strcpy(disk->aio, "threads");
    disk->virtual_size = 1 << 20;
    cr_assert_eq(gw_vm_to_json(vm, &json), 0);
    gw_vm_free(vm);
    return json;
}

static int decode(json_t *json)
{
    struct gw_vm *vm;
    int ret = gw_vm_from_json(json, NULL, &vm);

    if (ret == 0)
        gw_vm_free(vm);
    return ret;
}

/* Puts value (stolen) at a path such as "disks/0/file_name" and expects a refusal that says text.
 */
static void expect_refused(const char *path, json_t *value, const char *text)
{
    json_t *json = good(), *at = json;
    char *copy = strdup(path), *save = NULL, *word = strtok_r(copy, "/", &save), *next;

    cr_assert_eq(decode(json), 0, "%s", gw_error_message());
    while ((next = strtok_r(NULL, "/", &save))) {
        at = json_is_array(at) ? json_array_get(at, strtoul(word, NULL, 10))
                               : json_object_get(at, word);
        cr_assert_not_null(at, "%s", path);
        word = next;
    }
    if (json_is_array(at))
        json_array_set_new(at, strtoul(word, NULL, 10), value);
    else
        json_object_set_new(at, word, value);
    cr_expect_eq(decode(json), -EINVAL, "%s", path);
    cr_expect_not_null(strstr(gw_error_message(), text), "%s: %s", path, gw_error_message());
    free(copy);
    json_decref(json);
}

Test(vm, hostile_descriptions_are_refused)
{
    json_t *many = json_array();

    expect_refused("disks/0/file_name", json_string("../../etc/passwd"), "file name");
    expect_refused("disks/0/file_name", json_string(".."), "file name");
    expect_refused("disks/0/file_name", json_string(""), "file name");
    expect_refused("disks/0/virtual_size", json_integer(INT64_MAX), "not possible");
    expect_refused("disks/0/virtual_size", json_integer(-1), "not a number");
    expect_refused("disks/0/virtual_size", json_integer(100), "not possible");
    expect_refused("disks/0/device_index", json_integer(99), "no device");
    expect_refused("disks/0/device_index", json_integer(1), "not a disk");
    expect_refused("disks/0/format", json_string("raw,file=/x"), "not a word");
    expect_refused("disks/0/name", json_string("a/b"), "not a valid id");
    expect_refused("disks/0/aio", json_string("x"), "aio");
    expect_refused("devices/0/id", json_string("d0,drive=/etc/shadow"), "not a valid id");
    expect_refused("devices/0/kind", json_string("virtio-blk-pci,romfile=/x"), "not a device");
    expect_refused("devices/0/kind", json_string("vfio-pci"), "VFIO");
    expect_refused("devices/0/properties/romfile", json_string("/etc/shadow"), "not allowed");
    expect_refused("devices/0/properties/drive", json_string("n0"), "not part of");
    expect_refused("devices/0/properties/iothread", json_string("other"), "not part of");
    expect_refused("devices/0/properties/frob", json_string("1"), "not one that godwit knows");
    expect_refused("devices/0/properties/serial", json_string("a\nb"), "not allowed");
    expect_refused("devices/0/properties/bus", json_string("/machine/x"), "not allowed");
    expect_refused("devices/0/properties/bootindex", json_string("1,x=y"), "not allowed");
    expect_refused("devices/0/properties/bootindex", json_integer(1), "not a string");
    expect_refused("devices/1/properties/netdev", json_string("c0"), "not part of");
    expect_refused("machine", json_string("pc,dumpdtb=/x"), "not a word");
    expect_refused("machine", json_string("none,firmware=/x"), "not a word");
    expect_refused("machine_options/firmware", json_string("/x"), "not one that godwit knows");
    expect_refused("architecture", json_string("../../bin/sh"), "architecture");
    expect_refused("accelerator", json_string("qtest"), "accelerator");
    expect_refused("cpu", json_string("max,x=y"), "not a word");
    expect_refused("cpu_features/a,b", json_string("on"), "not well formed");
    expect_refused("cpu_features/vendor", json_string("a,b=c"), "not well formed");
    expect_refused("nets/0/bridge", json_string("../br"), "bridge name");
    expect_refused("nets/0/bridge", json_string("br0,script=/x"), "bridge name");
    expect_refused("nets/0/kind", json_string("vde"), "not a known kind");
    expect_refused("nets/0/properties/script", json_string("/x"), "not one that godwit knows");
    expect_refused("chardevs/0/id", json_string("../../x"), "not a valid id");
    expect_refused("chardevs/0/kind", json_string("pipe"), "not a known kind");
    expect_refused("serials/0/chardev", json_string("other"), "not there");
    expect_refused("rngs/0/kind", json_string("rng-egd"), "not known");
    expect_refused("globals/virtio-blk-pci.romfile", json_string("/x"),
                   "not one that godwit knows");
    expect_refused("smbios/0/properties/file", json_string("/etc/shadow"),
                   "not one that godwit knows");
    expect_refused("boot/splash", json_string("/etc/shadow"), "not one that godwit knows");
    expect_refused("memories/0/id", json_string("r,mem-path=/x"), "not a valid id");
    expect_refused("memories/0/size", json_integer(INT64_MAX), "not possible");
    expect_refused("memories/0/page_size", json_integer(0), "not possible");
    expect_refused("memories/0/page_size", json_integer(3), "not possible");
    expect_refused("memories", json_array(), "no memory");
    expect_refused("vga", json_string("qxl"), "vga");
    expect_refused("name", json_string("a\x01"), "not allowed");
    expect_refused("uuid", json_string("x"), "not allowed");
    expect_refused("cpu_count", json_integer(0), "CPUs");
    expect_refused("new_member", json_string("x"), "not known");
    expect_refused("is_running", json_string("x"), "true or false");
    for (int i = 0; i < 1000; i++)
        json_array_append_new(many, json_object());
    expect_refused("devices", json_incref(many), "at most 128");
    expect_refused("disks", json_incref(many), "at most 32");
    expect_refused("numa", json_incref(many), "at most 256");
    expect_refused("devices", json_pack("[{}]"), "missing");
    expect_refused("devices", json_pack("[i]", 1), "not an object");
    json_decref(many);
}

Test(vm, a_missing_member_is_refused)
{
    json_t *whole = good(), *value;
    const char *name;
    void *next;

    json_object_foreach_safe(whole, next, name, value)
    {
        json_t *copy = json_deep_copy(whole);

        json_object_del(copy, name);
        cr_expect_eq(decode(copy), -EINVAL);
        cr_expect_not_null(strstr(gw_error_message(), name));
        json_decref(copy);
    }
    json_decref(whole);
}

static bool has_word(const struct gw_arguments *arguments, const char *word)
{
    for (unsigned i = 0; i < arguments->count; i++) {
        if (strcmp(arguments->words[i], word) == 0)
            return true;
    }
    return false;
}

Test(vm, values_with_commas_stay_one_value)
{
    struct gw_reasons refused = {0};
    struct gw_vm *vm = parse("-name a,,b -device virtio-blk-pci,serial=x,,y", &refused);
    const char *paths[] = {"/ram,1"};
    struct gw_launch_options options = {.run_dir = "/run,2", .ram_paths = paths};
    struct gw_arguments arguments;

    cr_assert_eq(gw_reasons_fail(&refused, -1), 0, "%s", gw_error_message());
    cr_assert_eq(gw_vm_arguments(vm, &options, NULL, &arguments), 0);
    cr_expect(has_word(&arguments, "guest=a,,b"));
    cr_expect(has_word(&arguments, "virtio-blk-pci,serial=x,,y"));
    cr_expect(
        has_word(&arguments, "memory-backend-file,id=ram0,size=1048576,mem-path=/ram,,1,share=on"));
    cr_expect(has_word(&arguments, "socket,id=godwit-qmp,path=/run,,2/qmp,server=on,wait=off"));
    gw_arguments_free(&arguments);
    gw_vm_free(vm);
}

Test(vm, bridges_are_mapped)
{
    json_t *json = good();
    struct gw_vm *vm;

    cr_assert_eq(gw_vm_from_json(json, NULL, &vm), 0);
    cr_assert_eq(gw_vm_map_bridge(vm, "br9", "br1"), 0);
    cr_assert_eq(gw_vm_map_bridge(vm, "br0", "br1"), 1);
    cr_assert_str_eq(vm->nets[0].bridge, "br1");
    cr_assert_eq(gw_vm_map_bridge(vm, "br1", "a-name-that-is-too-long"), 0);
    gw_vm_free(vm);
    json_decref(json);
}
